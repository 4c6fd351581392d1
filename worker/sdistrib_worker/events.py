"""What can happen to a worker."""

from typing import Any, Literal, NamedTuple

from sdistrib.errors import ErrorInfo
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.engine import Drawn, EngineFrame, Previewed
from sdistrib.protocol.messages import Attempt, Message
from sdistrib_worker.shelf import StoredFile


class MessageArrived(NamedTuple):
    """The manager said something that was understood."""

    #: What it said.
    message: Message
    #: The body frame; empty where the message has none.
    body: Buffer = b""


class Malformed(NamedTuple):
    """The manager said something that cannot be understood."""

    #: One sentence that may be sent back.
    reason: str


class SendFailed(NamedTuple):
    """A message could not be handed to the socket: nobody is connected, or the manager is stuck."""

    #: The message, which is lost.
    message: Message


class EngineSpoke(NamedTuple):
    """The engine child sent a frame other than `Drawn` and `Previewed`."""

    #: What it sent.
    frame: EngineFrame


class PictureDrawn(NamedTuple):
    """The engine child finished a picture; its pixels are ours whatever becomes of the child."""

    #: Its frame.
    drawn: Drawn
    #: The pixels, opaque here; goes on to `EncodePicture` or `DropPicture`, once.
    picture: Any


class PreviewDrawn(NamedTuple):
    """The engine child showed what its picture looks like now; it sends no other until asked."""

    #: Its frame.
    previewed: Previewed
    #: The pixels, opaque here; goes on to `EncodePreview` or `DropPicture`, once.
    pixels: Any


class PreviewEncoded(NamedTuple):
    """A preview is a small file now, or could not be made into one."""

    #: Whose preview it is.
    attempt: Attempt
    #: The file's bytes; empty when it could not be made.
    data: bytes
    #: Its media format.
    format: Literal["png", "jpeg"] = "png"
    #: Its size in pixels.
    width: int = 0
    height: int = 0


class EngineDied(NamedTuple):
    """The engine child is gone."""

    #: Why, with its signal and last log lines.
    info: ErrorInfo
    #: We ended it (`KillEngine`).
    ours: bool = False
    #: It had said `Ready`.
    was_ready: bool = True
    #: It refused the device it was asked for.
    refused: bool = False


class FileVanished(NamedTuple):
    """A file of this request is not where the inventory saw it; the child was not asked."""

    #: The request.
    ticket: int
    #: Where the file should have been.
    path: str


class PictureEncoded(NamedTuple):
    """The picture file of this attempt is ready."""

    #: Whose picture it is.
    attempt: Attempt
    #: The file's bytes.
    data: bytes
    #: SHA-256 of `data` in hex.
    digest: str
    #: Seconds that encoding took.
    encode_s: float
    #: What the file had no room for, as sentences.
    notes: tuple[str, ...] = ()


class EncodingFailed(NamedTuple):
    """The pixels of this attempt could not be made into a file."""

    #: Whose picture it was.
    attempt: Attempt
    #: Why.
    error: ErrorInfo


class InputReady(NamedTuple):
    """An opened input file is whole, its bytes are those of its digest, and it stays."""

    #: Which.
    digest: str
    #: Absolute path.
    path: str


class InputOpened(NamedTuple):
    """An input file is not here as a whole; the first piece that is missing begins at `offset`."""

    #: Which.
    digest: str
    #: Bytes from its start, of an earlier transfer.
    offset: int


class InputHeld(NamedTuple):
    """A piece of an opened input file is written: it is here up to `offset`."""

    #: Which.
    digest: str
    #: Bytes from its start.
    offset: int


class InputBroken(NamedTuple):
    """The bytes that came were not those of the digest; nothing of them is kept."""

    #: Which.
    digest: str


class InputFailed(NamedTuple):
    """An input file cannot be kept here."""

    #: Which.
    digest: str
    #: Why, for people.
    reason: str


class InventoryChanged(NamedTuple):
    """Files came, went or changed, or their digests became known."""

    #: Everything there is now.
    files: tuple[StoredFile, ...]


class AvailabilityChanged(NamedTuple):
    """Something that is not the manager allows or forbids work."""

    #: What says so: "hours" or "device".
    source: str
    #: Why no grants are to be taken; empty when they may be.
    reason: str


class StopRequested(NamedTuple):
    """The process was asked to end; asked twice, to end at once."""


class TurnLate(NamedTuple):
    """This process was held up (a paused machine, SIGSTOP); nobody else is to blame for it."""

    #: Seconds by which the turn began too late.
    delay_s: float


class TurnEnded(NamedTuple):
    """Everything that was readable is handled; whatever is due by the clock is due now."""


PreviewEvent = PreviewDrawn | PreviewEncoded
EngineEvent = (
    EngineSpoke
    | PictureDrawn
    | PreviewEvent
    | EngineDied
    | FileVanished
    | PictureEncoded
    | EncodingFailed
)
InputEvent = InputReady | InputOpened | InputHeld | InputBroken | InputFailed
Event = (
    MessageArrived
    | Malformed
    | SendFailed
    | EngineEvent
    | InputEvent
    | InventoryChanged
    | AvailabilityChanged
    | StopRequested
    | TurnLate
    | TurnEnded
)
