"""What a manager wants done. The loop commits all `Keep`s of a turn before it sends anything."""

from typing import Literal, NamedTuple

from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Message
from sdistrib_manager.events import Port
from sdistrib_manager.rows import Row


class Send(NamedTuple):
    """Send a message to one peer."""

    port: Port
    route: bytes
    message: Message
    body: Buffer | None = None


class SendPicture(NamedTuple):
    """Send a message whose body is a piece of a kept picture or input file.

    The machine never holds its bytes.
    """

    route: bytes
    message: Message
    digest: str
    #: First byte and end of the piece.
    start: int
    end: int
    port: Port = "client"


class PutBlob(NamedTuple):
    """Keep a picture or an input file; answered by `BlobStored` or `BlobFailed`."""

    digest: str
    parts: list[Buffer]


class DropBlob(NamedTuple):
    """The picture or input file is not needed any more."""

    digest: str


class Keep(NamedTuple):
    """Keep this in the store."""

    row: Row
    #: Nothing is promised on its strength: it is left out while the store is in trouble.
    soft: bool = False


class Checkpoint(NamedTuple):
    """What was forgotten must be gone from the store's files too."""


class Log(NamedTuple):
    """Tell the operator. Never holds a prompt."""

    level: Literal["debug", "info", "warning", "error"]
    text: str


class Stop(NamedTuple):
    """End the loop after this turn's sends."""


Effect = Send | SendPicture | PutBlob | DropBlob | Keep | Checkpoint | Log | Stop
