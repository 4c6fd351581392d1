"""What a manager wants done. The loop commits all `Keep…` of a turn before it sends anything."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from sdistrib.petitions import ImageState, PetitionState
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Message, Result
from sdistrib_manager.events import Port


class Send(NamedTuple):
    """Send a message to one peer."""

    port: Port
    route: bytes
    message: Message
    body: Buffer | None = None


class SendPicture(NamedTuple):
    """Send a message whose body is a piece of a kept picture; the machine never holds its bytes."""

    route: bytes
    message: Message
    digest: str
    #: First byte and end of the piece.
    start: int
    end: int


class PutBlob(NamedTuple):
    """Keep a picture; answered by `BlobStored` or `BlobFailed`."""

    digest: str
    parts: list[Buffer]


class DropBlob(NamedTuple):
    """The picture is not needed any more."""

    digest: str


class KeepPetition(NamedTuple):
    """Keep a new petition, as its client sent it."""

    id: str
    body: Buffer


class KeepPetitionState(NamedTuple):
    """Keep how far a petition is."""

    id: str
    state: PetitionState


@dataclass(frozen=True, slots=True)
class KeepImage:
    """Keep how far an image is, and the attempts issued for it."""

    id: str
    index: int
    state: ImageState
    attempts: int
    result: Result | None = None


class ForgetPetition(NamedTuple):
    """Forget a petition and its images."""

    id: str


class Log(NamedTuple):
    """Tell the operator. Never holds a prompt."""

    level: Literal["debug", "info", "warning", "error"]
    text: str


class Stop(NamedTuple):
    """End the loop after this turn's sends."""


Keep = KeepPetition | KeepPetitionState | KeepImage | ForgetPetition
Effect = Send | SendPicture | PutBlob | DropBlob | Keep | Log | Stop
