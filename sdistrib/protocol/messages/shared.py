"""What all messages are made of, and those that more than one pair of programs exchanges."""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.petitions import PetitionId

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
PreviewSide = Annotated[int, Meta(ge=1, le=limits.PREVIEW_SIDE_MAX)]
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
    BODY: ClassVar[Literal["", "petition", "inventory", "picture", "preview"]] = ""


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
    #: Placement that he decides whatever petitions wish: "clip_on_cpu=false", "threads=4".
    placement: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    #: Contexts that its engine keeps loaded.
    keep: Annotated[int, Meta(ge=1, le=limits.CONTEXTS_KEPT_MAX)] = 1


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
    #: Media format of the bytes: "png", "jpeg" or "webp", as the petition's `format` asks for.
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
    #: All sampling steps together; the rest of `draw_s` is encoding the prompt and decoding.
    sampling_s: Seconds = 0.0
    #: What the user should know, for example a size that the model rounded up.
    notes: tuple[Text, ...] = ()


class Preview(Message, frozen=True, kw_only=True):
    """What an image looks like while it is drawn; the newest counts, and none is ever kept."""

    BODY = "preview"
    attempt: Attempt
    #: The sampling step that it shows, and how many there are.
    step: Count
    steps: Count
    #: Of the preview itself.
    width: PreviewSide
    height: PreviewSide
    #: Media format of the body.
    format: Literal["png", "jpeg"]
    worker: Name
    #: It shows what the model was given, and not what it made of that.
    noisy: bool = False


class PreviewSeen(Message, frozen=True, kw_only=True):
    """The last preview of this attempt is done with; there is room for another."""

    attempt: Attempt


class Welcome(Message, frozen=True, kw_only=True):
    """The manager's answer to a hello."""

    protocol: int
    software: Name


def verb(kind: type[Message]) -> str:
    """`WorkerHello` -> "WORKER_HELLO"."""
    name = kind.__name__
    return "".join(("_" if c.isupper() and i else "") + c for i, c in enumerate(name)).upper()


BOTH: tuple[type[Message], ...] = (Beat, Goodbye, Fault, Chunk, ChunkSeen)
