"""What is to be done about an event. Imperative; carried out in order by `session`."""

from typing import Literal

import msgspec

from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer

#: `detached`: it goes on without us; `unfinished`: what is there is here, and more will come.
Outcome = Literal[
    "done", "failed", "cancelled", "expired", "refused", "unreachable", "detached", "unfinished"
]


class Send(msgspec.Struct, frozen=True):
    """Send a message to the manager."""

    #: What to say.
    message: wire.Message
    #: Its body frame, where it has one.
    body: bytes | None = None


class SendPiece(msgspec.Struct, frozen=True):
    """Send a piece of an input file; the machine never holds its bytes."""

    #: The petition it is sent for.
    id: str
    #: Digest of the whole file.
    digest: str
    #: First byte and end of the piece.
    start: int
    end: int


class ShowSending(msgspec.Struct, frozen=True):
    """Show how far the input files of a petition are."""

    #: Which petition.
    id: str
    #: Bytes that the manager has, of all those that it asked for.
    sent_bytes: int
    total_bytes: int


class Deliver(msgspec.Struct, frozen=True):
    """Hand a whole, verified picture to whoever made the petition."""

    #: Petition it belongs to.
    id: str
    #: All that the manager says of it.
    result: wire.Result
    #: Its bytes, in order.
    parts: tuple[Buffer, ...]


class ShowAccepted(msgspec.Struct, frozen=True):
    """Show that the manager keeps the petition."""

    #: What the manager said.
    message: wire.Accepted


class ShowProgress(msgspec.Struct, frozen=True):
    """Show where the petition is."""

    #: What the manager said.
    message: wire.Progress


class ShowPreview(msgspec.Struct, frozen=True):
    """Show what an image looks like now; answered by `PreviewTaken`."""

    #: What the manager said.
    message: wire.Preview
    #: The preview's bytes.
    data: bytes


class Notify(msgspec.Struct, frozen=True):
    """Tell the user about the connection."""

    #: One or two sentences.
    text: str


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a petition ended."""

    #: The end.
    outcome: Outcome
    #: Why; None when nothing went wrong with it or the manager cannot be reached.
    error: ErrorInfo | None = None
    #: Why the manager counts as unreachable, or what is still to come.
    reason: str = ""
    #: Indices whose pictures are recorded, as far as is known here.
    done: tuple[int, ...] = ()
    #: Images that failed for good.
    failures: tuple[wire.ImageFailure, ...] = ()
    #: The manager itself said so; False when only we gave up waiting.
    confirmed: bool = True


class End(msgspec.Struct, frozen=True):
    """The petition is over; nothing more comes for it."""

    #: Which one.
    id: str
    #: How.
    ending: Ending


class Reply(msgspec.Struct, frozen=True):
    """Answer a question of the user."""

    #: Which one.
    number: int
    #: What the manager says; None when it said nothing.
    answer: wire.Answer | None = None
    #: Why there is no answer: as `Ending` has it.
    ending: Ending | None = None
    #: The petition's bytes, where they were asked for.
    body: bytes = b""
    #: What the manager has forgotten, where that was wished.
    purged: wire.Purged | None = None
    #: What workers did, where that was wished.
    controlled: wire.Controlled | None = None
    #: What would become of a petition, where that was asked.
    planned: wire.Planned | None = None


Effect = (
    Send
    | SendPiece
    | ShowSending
    | Deliver
    | ShowAccepted
    | ShowProgress
    | ShowPreview
    | Notify
    | End
    | Reply
)
