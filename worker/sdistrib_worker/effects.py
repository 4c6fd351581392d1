"""What a worker wants done. The loop carries effects out in the order in which they stand."""

from typing import Any, Literal, NamedTuple

from sdistrib.errors import ErrorCode
from sdistrib.infotext import PictureFacts
from sdistrib.params import QUALITY, Params, PictureFormat
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.engine import Draw
from sdistrib.protocol.messages import Attempt, EngineFacts, Message
from sdistrib_worker.naming import SavedFacts

Level = Literal["debug", "info", "warning", "error"]


class Send(NamedTuple):
    """Send a message to the manager; answered by `SendFailed` when that cannot be done now."""

    #: What to say.
    message: Message
    #: The body frame, None where the message has none.
    body: Buffer | None = None


class StartEngine(NamedTuple):
    """Start a fresh engine child."""


class AskEngine(NamedTuple):
    """Hand a request to the engine child; answered by `FileVanished` when a file is not there."""

    #: The request.
    draw: Draw


class CancelDrawing(NamedTuple):
    """Ask the engine child to end its request early; it answers, and stays."""

    #: The request.
    ticket: int


class KillEngine(NamedTuple):
    """End the engine child; answered by `EngineDied` with `ours`."""

    #: One sentence for the error.
    reason: str
    #: `engine_hung` or `cancelled`.
    code: ErrorCode


class WatchDevice(NamedTuple):
    """Say by `AvailabilityChanged`, from now on, whether another process uses the device."""

    #: What the engine is, and runs on.
    facts: EngineFacts


class FileForm(NamedTuple):
    """What a picture file is to be."""

    format: PictureFormat = "png"
    #: 1 to 100, of a lossy file.
    quality: int = QUALITY
    #: WebP only.
    lossless: bool = False
    #: Frames per second of a video; 0 for a picture.
    fps: int = 0


def form_of(params: Params) -> FileForm:
    """What file the parameters ask for."""
    fps = params.fps if params.mode == "vid_gen" else 0
    return FileForm(params.format, params.quality or QUALITY, params.lossless, fps)


class EncodePicture(NamedTuple):
    """Make a picture file, beside the loop; answered by `PictureEncoded` or `EncodingFailed`."""

    #: Whose picture it is.
    attempt: Attempt
    #: The pixels, as `PictureDrawn` brought them.
    picture: Any
    #: What is written into the file about its making; None writes nothing.
    facts: PictureFacts | None
    #: What file it becomes.
    form: FileForm = FileForm()


class SavePicture(NamedTuple):
    """Keep a copy of a picture that was handed over, if that can be done."""

    #: What its name is made of.
    facts: SavedFacts
    #: The file's bytes.
    data: bytes


class EncodePreview(NamedTuple):
    """Make a small file of a preview when no picture waits; answered by `PreviewEncoded`."""

    #: Whose preview it is.
    attempt: Attempt
    #: The pixels, as `PreviewDrawn` brought them.
    pixels: Any


class WantPreview(NamedTuple):
    """Let the engine child send another preview."""


class DropPicture(NamedTuple):
    """Nobody wants these pixels."""

    #: The pixels, as `PictureDrawn` or `PreviewDrawn` brought them.
    picture: Any


class OpenInput(NamedTuple):
    """Find an input file in the cache and hold it; answered by one of the `events.Input…`."""

    #: SHA-256 in hex.
    digest: str
    #: Its whole size.
    size_bytes: int


class WriteInput(NamedTuple):
    """Add a piece to an open input file; answered by one of the `events.Input…`."""

    #: Whose piece it is.
    digest: str
    #: Where it begins.
    offset: int
    #: The piece.
    data: Buffer


class CloseInput(NamedTuple):
    """An opened input file is not needed any more; the cache may keep it, whole or in part."""

    #: Which.
    digest: str


class ForgetInputs(NamedTuple):
    """Drop these input files from the cache, as soon as nobody uses them."""

    #: Which.
    digests: tuple[str, ...]


class Log(NamedTuple):
    """Tell the operator. Never holds a prompt."""

    #: How much it matters.
    level: Level
    #: One line.
    text: str


class Stop(NamedTuple):
    """End the process when this turn's effects are carried out."""

    #: Its exit status.
    exit_status: int
    #: Why, when that is a fault.
    reason: str = ""


InputEffect = OpenInput | WriteInput | CloseInput | ForgetInputs
Effect = (
    Send
    | StartEngine
    | AskEngine
    | CancelDrawing
    | KillEngine
    | WatchDevice
    | EncodePicture
    | SavePicture
    | EncodePreview
    | WantPreview
    | DropPicture
    | InputEffect
    | Log
    | Stop
)
