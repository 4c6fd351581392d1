"""What is said between clients and the manager."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.petitions import PetitionId, PetitionState, Priority
from sdistrib.protocol.messages.shared import (
    BOTH,
    Attempt,
    Count,
    Declared,
    Digest,
    EngineFacts,
    Identify,
    IdOrAll,
    IdStart,
    Index,
    Message,
    Name,
    Phase,
    Preview,
    PreviewSeen,
    Result,
    Seconds,
    Text,
    Welcome,
    WorkerWish,
)

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
    #: This connection takes previews of it.
    previews: bool = False


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
    #: As in `Submit`.
    previews: bool = False


class Detach(Message, frozen=True, kw_only=True):
    """Send this connection nothing more of the petition, which goes on."""

    id: PetitionId


class Retry(Message, frozen=True, kw_only=True):
    """Draw the images of an ended petition that have no picture. A body replaces its parameters."""

    BODY = "petition"
    id: PetitionId
    #: As in `Submit`.
    detach: bool = False
    #: As in `Submit`.
    previews: bool = False


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
    #: `models`: only this kind, and only names that fit this, see `models.name_fits`.
    kind: Name = ""
    name: Name = ""


class Plan(Message, frozen=True, kw_only=True):
    """What would become of this petition now? Nothing is kept; answered by `Planned`."""

    BODY = "petition"
    number: Count


class Control(Message, frozen=True, kw_only=True):
    """A wish about workers; answered by `Controlled` of the same number."""

    number: Count
    wish: WorkerWish
    #: Stable names; none is all workers that are here.
    workers: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()


# --- Manager to client ----------------------------------------------------------------------


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


class Need(Message, frozen=True, kw_only=True):
    """The petition is kept once these input files are here: send each as `Chunk`s from its start.

    Answers `Submit` and `Retry`. Files that this owner has sent or received before are not named.
    """

    id: PetitionId
    digests: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=limits.INPUTS_MAX)]


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
    """One model file of the farm; a name that means several contents has a row for each."""

    file: ModelFile
    #: Stable names of the workers that have this content under this name.
    workers: tuple[Name, ...]
    #: The same name stands for other content on another worker.
    conflict: bool = False


class SpeedFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How fast a worker is with one model at one size, as learned from its work."""

    model: Name
    #: Pixels of one picture.
    pixels: Count
    #: Seconds for one sampling step, for a whole image as last asked, and for loading the model.
    step_s: Seconds = 0.0
    image_s: Seconds = 0.0
    load_s: Seconds = 0.0


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
    #: Name of the model that is loaded, and used last.
    loaded: Name = ""
    #: Models that are loaded beside it, the last used first.
    kept: Annotated[tuple[Name, ...], Meta(max_length=limits.CONTEXTS_KEPT_MAX)] = ()
    last_seen_s: Seconds = 0.0
    #: Why it takes no grants, for people.
    reason: Text = ""
    declared: Declared = Declared()
    #: What it has drawn, and how fast.
    speeds: tuple[SpeedFacts, ...] = ()
    #: Larger pictures made it run out of memory; 0 where none did.
    max_pixels_learned: Count = 0


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
    #: Expected seconds to its end; 0 when not known.
    eta_s: Seconds = 0.0
    priority: Priority = "normal"


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
    #: Median relative error of the first ETA that rested on finished images, of petitions that are
    #: done; 0 when not known.
    eta_error: Annotated[float, Meta(ge=0.0)] = 0.0


class PlannedWorker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker would do for a petition."""

    worker: Name
    #: How many of its images it would draw.
    images: Count = 0
    #: Expected seconds for one of them, and for loading its models before; 0 when these are loaded.
    image_s: Seconds = 0.0
    load_s: Seconds = 0.0
    #: The times were learned from its own work, and are not a guess from others'.
    known: bool = False
    #: Files that it has not, for people: "vae 'x.safetensors'".
    lacks: tuple[Name, ...] = ()
    #: Why it would draw none, for people: "paused by ana".
    reason: Text = ""


class Planned(Message, frozen=True, kw_only=True):
    """The answer to `Plan`: the placement if the petition were submitted now."""

    number: Count
    #: Why it would be refused; None when it could run.
    error: ErrorInfo | None = None
    #: Expected seconds to its end; 0 when not known.
    eta_s: Seconds = 0.0
    #: Images of other petitions that would stand before it.
    ahead: Count = 0
    #: Why nothing of it would run yet.
    reason: Text = ""
    #: One for each worker, by name.
    workers: tuple[PlannedWorker, ...] = ()
    #: More workers exist than fit one message.
    cut: bool = False


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
    PreviewSeen,
    Ask,
    Plan,
    Control,
)
MANAGER_TO_CLIENT: tuple[type[Message], ...] = (
    *BOTH, Identify, Welcome, Accepted, Need, Refused, Progress, Preview, Result, Finished,
    Cancelled, Purged, Answer, Planned, Controlled,
)  # fmt: skip
