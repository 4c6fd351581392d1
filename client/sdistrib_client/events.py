"""What can happen to a client's requests. Past tense; `now` comes beside each."""

from typing import Literal

import msgspec

from sdistrib.errors import ErrorInfo
from sdistrib.petitions import InputFile
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Attempt, WorkerWish

Question = Literal["models", "workers", "queue", "status", "petition"]


class FramesReceived(msgspec.Struct, frozen=True):
    """A message arrived from the manager."""

    #: Its frames, not yet understood.
    frames: list[Buffer]


class SendFailed(msgspec.Struct, frozen=True):
    """The last `Send` did not leave: there is no connection now."""


class InputLost(msgspec.Struct, frozen=True):
    """An input file that was to be sent cannot be read any more, or was changed."""

    #: The petition it was to be sent for.
    id: str
    #: What is wrong with it.
    error: ErrorInfo


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
    #: The user only wants to know that it is kept.
    detach: bool = False
    #: He wants to see its images while they are drawn.
    previews: bool = False
    #: Input files that can be sent.
    inputs: tuple[InputFile, ...] = ()


class PetitionSought(msgspec.Struct, frozen=True):
    """The user wants pictures of a petition that was made before, here or elsewhere."""

    #: Its id.
    id: str
    #: Number of its pictures.
    images: int
    #: Pictures that somebody has seen are wanted too.
    again: bool = False
    #: Those to come are wanted too; else only what is there now.
    wait: bool = True
    #: As in `PetitionMade`.
    previews: bool = False


class RetryWished(msgspec.Struct, frozen=True):
    """The user wants the pictures of an ended petition that failed drawn again, and all of them."""

    #: Its id.
    id: str
    #: Number of its pictures.
    images: int
    #: Its encoded bytes with other parameters; empty leaves them as they are.
    body: bytes = b""
    #: The user only wants to know that it waits again.
    detach: bool = False
    #: As in `PetitionMade`.
    previews: bool = False
    #: Input files that can be sent.
    inputs: tuple[InputFile, ...] = ()


class PetitionLeft(msgspec.Struct, frozen=True):
    """The user wants nothing more of a petition here; it goes on without him."""

    #: Its id.
    id: str


class PictureTaken(msgspec.Struct, frozen=True):
    """The caller is done with a picture that was delivered: it is safe."""

    #: Petition it belongs to.
    id: str
    #: Index of the picture.
    index: int


class PreviewTaken(msgspec.Struct, frozen=True):
    """The caller is done with a preview and can take another."""

    #: What it showed.
    attempt: Attempt


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
    #: `queue`: ended petitions too.
    all: bool = False
    #: `queue`, `petition`: how the ids wanted begin.
    id: str = ""
    #: `models`: only this kind, and only names that fit this.
    kind: str = ""
    name: str = ""


class PurgeWished(msgspec.Struct, frozen=True):
    """The user wants ended petitions forgotten."""

    #: Number of the wish; its answer carries it.
    number: int
    #: Which one; empty for all.
    id: str


class ControlWished(msgspec.Struct, frozen=True):
    """The user wants something of workers."""

    #: Number of the wish; its answer carries it.
    number: int
    #: What is wanted.
    wish: WorkerWish
    #: Stable names; none is all that are there.
    workers: tuple[str, ...]


class PlanWished(msgspec.Struct, frozen=True):
    """The user wants to know what would become of a petition."""

    #: Number of the question; its answer carries it.
    number: int
    #: The petition's encoded bytes.
    body: bytes


class UserLeft(msgspec.Struct, frozen=True):
    """The program closes the connection on purpose."""


#: What the user, or his program, wants.
Wish = (
    PetitionMade
    | PetitionSought
    | RetryWished
    | PetitionLeft
    | PictureTaken
    | PreviewTaken
    | CancelWished
    | QuestionAsked
    | PurgeWished
    | ControlWished
    | PlanWished
    | UserLeft
)
Event = FramesReceived | SendFailed | InputLost | Tick | Wish
