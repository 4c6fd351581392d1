"""Every message of the wire, frozen and typed. `docs/protocol.md` is the normative text.

A message is the frames `[version and verb][header][body]`: the verb is the class name in upper
snake case, the header the class as a MessagePack map, the body frame is there where `BODY` says
so. Unknown header fields are ignored, so that versions can mix; unknown verbs are refused by name.
"""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.petitions import PetitionId, PetitionState

#: Protocol version that this package speaks. It changes when an old peer could misunderstand.
VERSION = 1

Name = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
#: The first digits of an id, or all, or none.
IdStart = Annotated[str, Meta(pattern=r"^[0-9a-f]{0,32}\Z")]
#: A whole id; empty is all petitions.
IdOrAll = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Index = Annotated[int, Meta(ge=0, lt=limits.IMAGES_PER_PETITION_MAX)]
AttemptNumber = Annotated[int, Meta(ge=1, le=10_000)]
Size = Annotated[int, Meta(ge=0, le=limits.PICTURE_BYTES_MAX)]
Seconds = Annotated[float, Meta(ge=0.0, le=limits.SECONDS_MAX)]
Count = Annotated[int, Meta(ge=0)]
Phase = Literal["loading", "encoding", "sampling", "decoding", "upscaling", "finishing"]
#: What a client may wish of a worker.
WorkerWish = Literal["pause", "resume", "drain", "unload"]
#: Whether a worker takes grants; `draining` ends with its goodbye.
StandingState = Literal["open", "paused", "draining"]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages."""

    #: What the body frame is: "" when there is none.
    BODY: ClassVar[Literal["", "petition", "inventory", "picture"]] = ""


class Attempt(msgspec.Struct, frozen=True):
    """The manager's claim that one worker is making one image, numbered from 1 per image."""

    id: PetitionId
    index: Index
    number: AttemptNumber


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker's engine is; announced, never guessed."""

    #: Version of the binding, for example "0.4.7".
    version: Name
    #: "cpu", "cuda", "vulkan", "sycl", "hip", "metal".
    backend: Name
    #: The device as the engine names it.
    device: Name
    #: What decides the bits of a picture: 16 hex digits over version, build, backend and device.
    fingerprint: Name
    #: The engine's own line on the CPU features it uses.
    system_info: Text = ""


class Declared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker's owner allows it; 0 is no limit of his."""

    #: Pixels of one picture, after highres fix.
    max_pixels: Count = 0
    #: Images in one call of the engine.
    max_batch: Count = 0


# --- Both directions ------------------------------------------------------------------------


class Beat(Message, frozen=True, kw_only=True):
    """I am alive. Sent when nothing else was for a second."""


class Goodbye(Message, frozen=True, kw_only=True):
    """I leave on purpose; nothing of mine is under way any more."""

    reason: Text = ""


class Fault(Message, frozen=True, kw_only=True):
    """Your last message could not be understood; the session may end."""

    error: ErrorInfo


class Identify(Message, frozen=True, kw_only=True):
    """Send your hello again: I restarted, or gave you up, or could not take what you offered."""


class Chunk(Message, frozen=True, kw_only=True):
    """A piece of a picture of more than `limits.CHUNK_BYTES`."""

    BODY = "picture"
    #: Digest of the whole picture.
    digest: Digest
    offset: Size


class ChunkSeen(Message, frozen=True, kw_only=True):
    """The picture of this digest is here up to `offset`; send on. Also the way to resume."""

    digest: Digest
    offset: Size


class Result(Message, frozen=True, kw_only=True):
    """A finished picture. Its bytes are the body, or follow as `Chunk`s when there is none."""

    BODY = "picture"
    attempt: Attempt
    seed: Annotated[int, Meta(ge=0)]
    digest: Digest
    size_bytes: Size
    #: Media format of the bytes: "png".
    format: Name
    width: Count
    height: Count
    worker: Name
    fingerprint: Name
    #: Digest over load-time parameters and model files.
    context: Name
    #: Wall time spent on: loading (0 when the context was there), drawing, encoding the file.
    load_s: Seconds = 0.0
    draw_s: Seconds = 0.0
    encode_s: Seconds = 0.0
    #: What the user should know, for example a size that the model rounded up.
    notes: tuple[Text, ...] = ()


# --- Client to manager ----------------------------------------------------------------------


class ClientHello(Message, frozen=True, kw_only=True):
    """First message of a client's connection, and again after each reconnect."""

    protocols: tuple[int, ...]
    software: Name


class Submit(Message, frozen=True, kw_only=True):
    """Draw this. The body's SHA-256 tells a resend from a conflict."""

    BODY = "petition"
    id: PetitionId
    #: This connection wants to know that it is kept, and nothing more of it.
    detach: bool = False


class Cancel(Message, frozen=True, kw_only=True):
    """End this petition; what is recorded stays."""

    id: PetitionId


class Attach(Message, frozen=True, kw_only=True):
    """Send this connection what the petition yields from now on, and what nobody has seen."""

    id: PetitionId
    #: Pictures that were seen before are wanted again.
    again: bool = False
    #: False: only what is recorded now is wanted; `Finished` then says how far the petition is.
    wait: bool = True


class Detach(Message, frozen=True, kw_only=True):
    """Send this connection nothing more of the petition, which goes on."""

    id: PetitionId


class Retry(Message, frozen=True, kw_only=True):
    """Draw the images of an ended petition that have no picture. A body replaces its parameters."""

    BODY = "petition"
    id: PetitionId
    #: As in `Submit`.
    detach: bool = False


class Purge(Message, frozen=True, kw_only=True):
    """Forget an ended petition, prompt and pictures, for good; without an id, all of them."""

    id: IdOrAll = ""


class ResultSeen(Message, frozen=True, kw_only=True):
    """The picture is safe with the client; its credit is free again."""

    id: PetitionId
    index: Index


class ProgressSeen(Message, frozen=True, kw_only=True):
    """The client has shown the last progress of this petition and can take another."""

    id: PetitionId


class Ask(Message, frozen=True, kw_only=True):
    """A question about the farm; answered by `Answer` of the same number."""

    number: Count
    what: Literal["models", "workers", "queue", "status", "petition"]
    #: `queue`: ended petitions too. `petition` always finds them.
    all: bool = False
    #: `queue`, `petition`: only petitions whose ids begin so.
    id: IdStart = ""


class Control(Message, frozen=True, kw_only=True):
    """A wish about workers; answered by `Controlled` of the same number."""

    number: Count
    wish: WorkerWish
    #: Stable names; none is all workers that are here.
    workers: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()


# --- Manager to client ----------------------------------------------------------------------


class Welcome(Message, frozen=True, kw_only=True):
    """The manager's answer to a hello."""

    protocol: int
    software: Name


class Accepted(Message, frozen=True, kw_only=True):
    """The petition is kept; from now on it ends with `Finished`, whatever happens."""

    id: PetitionId
    state: PetitionState
    #: Images that the petition asks for.
    images: Count = 0
    #: Images of other petitions that stand before this one.
    ahead: Count = 0
    #: Why nothing runs yet, for example "no worker is connected".
    reason: Text = ""


class Refused(Message, frozen=True, kw_only=True):
    """The petition is not kept."""

    id: PetitionId
    error: ErrorInfo


class ImageProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where one running image is."""

    index: Index
    worker: Name
    phase: Phase
    step: Count = 0
    steps: Count = 0
    #: Seconds that one step takes now; 0 when not known.
    step_s: Seconds = 0.0


class Progress(Message, frozen=True, kw_only=True):
    """The newest state of a petition; older ones are never sent."""

    id: PetitionId
    state: PetitionState
    ahead: Count = 0
    done: Count = 0
    images: Count = 0
    running: tuple[ImageProgress, ...] = ()
    #: Expected seconds to the end; 0 when not known.
    eta_s: Seconds = 0.0
    #: Why nothing of it runs.
    reason: Text = ""


class ImageFailure(msgspec.Struct, frozen=True):
    """An image that failed for good."""

    index: Index
    error: ErrorInfo


class Finished(Message, frozen=True, kw_only=True):
    """The end of a petition, or of an `Attach` that does not wait for it; after all pictures."""

    id: PetitionId
    state: PetitionState
    #: Indices whose pictures are recorded.
    done: tuple[Index, ...] = ()
    failures: tuple[ImageFailure, ...] = ()


class Cancelled(Message, frozen=True, kw_only=True):
    """The cancel is decided: the pictures listed were recorded before and stay, no other comes."""

    id: PetitionId
    done: tuple[Index, ...] = ()
    #: How the petition ended; one that had ended before stays as it was.
    state: PetitionState = "cancelled"


class FoundModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model file of the farm."""

    file: ModelFile
    #: Stable names of the workers that have it.
    workers: tuple[Name, ...]
    #: The same name stands for other content on another worker.
    conflict: bool = False


class WorkerFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One worker as the manager sees it."""

    name: Name
    state: Literal["loading", "idle", "busy", "paused", "draining", "suspect", "away"]
    engine: EngineFacts
    files: Count = 0
    #: Images made and attempts failed since it connected.
    done: Count = 0
    failed: Count = 0
    #: What it is drawing.
    running: tuple[Attempt, ...] = ()
    #: Name of the model that is loaded.
    loaded: Name = ""
    last_seen_s: Seconds = 0.0
    #: Why it takes no grants, for people.
    reason: Text = ""
    declared: Declared = Declared()


class QueuedPetition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One petition in the manager's queue. Prompts are private and not listed."""

    id: PetitionId
    state: PetitionState
    model: Name
    images: Count
    done: Count = 0
    failed: Count = 0
    running: Count = 0
    age_s: Seconds = 0.0
    #: Images of other petitions that wait before it.
    ahead: Count = 0
    #: Why nothing of it runs.
    reason: Text = ""


class Purged(Message, frozen=True, kw_only=True):
    """The answer to `Purge`."""

    id: IdOrAll = ""
    #: How many petitions were forgotten.
    petitions: Count = 0


class Answer(Message, frozen=True, kw_only=True):
    """The answer to `Ask`: the list that was asked for; `status` fills the counts."""

    #: `petition`: the body of the one petition that was found.
    BODY = "petition"
    number: Count
    models: tuple[FoundModel, ...] = ()
    workers: tuple[WorkerFacts, ...] = ()
    queue: tuple[QueuedPetition, ...] = ()
    #: More rows exist than fit one message.
    cut: bool = False
    software: Name = ""
    uptime_s: Seconds = 0.0
    waiting_images: Count = 0
    running_images: Count = 0
    done_images: Count = 0


class ControlAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a wish on one worker."""

    worker: Name
    #: What it did, for people: "paused; it finishes the image under way".
    did: Text
    #: The worker itself has answered.
    obeyed: bool = True


class Controlled(Message, frozen=True, kw_only=True):
    """The answer to `Control`, when each worker has answered or will not."""

    number: Count
    #: One for each worker, by name.
    answers: tuple[ControlAnswer, ...] = ()
    #: Why nothing was done at all.
    error: ErrorInfo | None = None
    #: More answers exist than fit one message.
    cut: bool = False


# --- Worker to manager ----------------------------------------------------------------------


class WorkerHello(Message, frozen=True, kw_only=True):
    """First message of a worker's connection, and again after each reconnect. Body: inventory."""

    BODY = "inventory"
    protocols: tuple[int, ...]
    software: Name
    #: Stable name, by default the host's.
    name: Name
    #: Drawn at start; tells a reconnect from a second worker of the same name.
    instance: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    engine: EngineFacts
    #: Attempts under way in the engine.
    running: tuple[Attempt, ...] = ()
    #: Attempts whose results wait here to be recorded.
    holding: tuple[Attempt, ...] = ()
    #: As in `Standing`.
    standing: StandingState = "open"
    reason: Text = ""
    declared: Declared = Declared()


class Inventory(Message, frozen=True, kw_only=True):
    """The files changed, or their digests became known. Body: the whole inventory."""

    BODY = "inventory"


class Started(Message, frozen=True, kw_only=True):
    """The engine has begun this attempt; from now on its loss counts against the image."""

    attempt: Attempt


class Step(Message, frozen=True, kw_only=True):
    """Where the running attempt is; conflated by the worker, the newest wins."""

    attempt: Attempt
    phase: Phase
    step: Count = 0
    steps: Count = 0
    step_s: Seconds = 0.0


class Failed(Message, frozen=True, kw_only=True):
    """The attempt ended without a picture."""

    attempt: Attempt
    error: ErrorInfo
    #: The engine had begun it.
    started: bool = True


class Revoked(Message, frozen=True, kw_only=True):
    """The attempt was given back before it began."""

    attempt: Attempt


class TooLate(Message, frozen=True, kw_only=True):
    """The attempt to be revoked has begun, or is over."""

    attempt: Attempt


class EngineState(Message, frozen=True, kw_only=True):
    """What the engine holds now."""

    state: Literal["starting", "idle", "loading", "drawing"]
    #: Name of the loaded model, and digest of the whole context.
    loaded: Name = ""
    context: Name = ""


class Standing(Message, frozen=True, kw_only=True):
    """Whether the worker takes grants from now on; the worker alone decides."""

    state: StandingState
    #: Why it takes none, for people: "paused by ana".
    reason: Text = ""


class Steered(Message, frozen=True, kw_only=True):
    """The answer to `Steer`: the wish is carried out, or will be."""

    number: Count
    #: What it did, for people.
    did: Text


# --- Manager to worker ----------------------------------------------------------------------


class Grant(Message, frozen=True, kw_only=True):
    """Draw these images of one petition. Body: the petition's own bytes."""

    BODY = "petition"
    attempts: Annotated[tuple[Attempt, ...], Meta(min_length=1, max_length=256)]


class Revoke(Message, frozen=True, kw_only=True):
    """Give this attempt back if it has not begun."""

    attempt: Attempt


class Abandon(Message, frozen=True, kw_only=True):
    """Nobody wants this attempt any more, begun or not; its result will be refused."""

    attempt: Attempt


class Steer(Message, frozen=True, kw_only=True):
    """A client's wish about this worker; answered by `Steered` of the same number."""

    number: Count
    wish: WorkerWish
    #: User whose wish it is.
    by: Name = ""


class ResultRecorded(Message, frozen=True, kw_only=True):
    """The result is kept; the worker may forget it."""

    attempt: Attempt


class ResultRefused(Message, frozen=True, kw_only=True):
    """The result is not wanted; the worker may forget it."""

    attempt: Attempt
    reason: Text


def verb(kind: type[Message]) -> str:
    """`WorkerHello` -> "WORKER_HELLO"."""
    name = kind.__name__
    return "".join(("_" if c.isupper() and i else "") + c for i, c in enumerate(name)).upper()


BOTH: tuple[type[Message], ...] = (Beat, Goodbye, Fault, Chunk, ChunkSeen)
CLIENT_TO_MANAGER: tuple[type[Message], ...] = (
    *BOTH,
    ClientHello,
    Submit,
    Attach,
    Detach,
    Cancel,
    Retry,
    Purge,
    ResultSeen,
    ProgressSeen,
    Ask,
    Control,
)
MANAGER_TO_CLIENT: tuple[type[Message], ...] = (
    *BOTH, Identify, Welcome, Accepted, Refused, Progress, Result, Finished, Cancelled, Purged,
    Answer, Controlled,
)  # fmt: skip
WORKER_TO_MANAGER: tuple[type[Message], ...] = (
    *BOTH, WorkerHello, Inventory, Started, Step, Result, Failed, Revoked, TooLate, EngineState,
    Standing, Steered,
)  # fmt: skip
MANAGER_TO_WORKER: tuple[type[Message], ...] = (
    *BOTH, Identify, Welcome, Grant, Revoke, Abandon, ResultRecorded, ResultRefused, Steer,
)  # fmt: skip
