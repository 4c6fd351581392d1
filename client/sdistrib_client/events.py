"""What can happen to a client's requests. Past tense; `now` comes beside each."""

from typing import Literal

import msgspec

from sdistrib.protocol.codec import Buffer

Question = Literal["models", "workers", "queue", "status"]


class FramesReceived(msgspec.Struct, frozen=True):
    """A message arrived from the manager."""

    #: Its frames, not yet understood.
    frames: list[Buffer]


class SendFailed(msgspec.Struct, frozen=True):
    """The last `Send` did not leave: there is no connection now."""


class Tick(msgspec.Struct, frozen=True):
    """Everything readable was read; timers may fire."""


class PetitionMade(msgspec.Struct, frozen=True):
    """The user wants pictures."""

    #: Id drawn for it, 32 hex digits.
    id: str
    #: Its encoded bytes; every resend is these.
    body: bytes
    #: Number of pictures.
    images: int
    #: Seconds after which it ends as expired; 0 is never.
    timeout_s: float = 0.0


class PictureTaken(msgspec.Struct, frozen=True):
    """The caller is done with a picture that was delivered: it is safe."""

    #: Petition it belongs to.
    id: str
    #: Index of the picture.
    index: int


class CancelWished(msgspec.Struct, frozen=True):
    """The user does not want the petition any more."""

    #: A petition of this process, or of another one.
    id: str


class QuestionAsked(msgspec.Struct, frozen=True):
    """The user wants to know something about the farm."""

    #: Number of the question; its answer carries it.
    number: int
    #: The list that is wanted.
    what: Question


class UserLeft(msgspec.Struct, frozen=True):
    """The program closes the connection on purpose."""


Event = (
    FramesReceived
    | SendFailed
    | Tick
    | PetitionMade
    | PictureTaken
    | CancelWished
    | QuestionAsked
    | UserLeft
)
