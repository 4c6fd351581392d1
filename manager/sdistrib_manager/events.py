"""What can happen to a manager."""

from typing import Literal, NamedTuple

from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Message

Port = Literal["client", "worker"]


class MessageArrived(NamedTuple):
    """A peer said something that was understood."""

    port: Port
    #: The peer's connection, as ZeroMQ numbers it.
    route: bytes
    message: Message
    #: The body frame; empty where the message has none.
    body: Buffer = b""


class Malformed(NamedTuple):
    """A peer said something that cannot be understood."""

    port: Port
    route: bytes
    #: One sentence that may be sent back.
    reason: str


class PeerGone(NamedTuple):
    """A send failed since the connection does not exist any more."""

    port: Port
    route: bytes


class PeerFull(NamedTuple):
    """A send failed since the peer does not read. What was to be sent is lost."""

    port: Port
    route: bytes


class BlobStored(NamedTuple):
    """The picture or input file of this digest is kept."""

    digest: str


class BlobFailed(NamedTuple):
    """The picture or input file of this digest could not be kept."""

    digest: str
    reason: str


class BlobMissing(NamedTuple):
    """The picture or input file of this digest was to be sent, and is not there or damaged."""

    digest: str
    reason: str


class StoreRecovered(NamedTuple):
    """Writing works again."""


class StopRequested(NamedTuple):
    """The process was asked to end."""


class TurnEnded(NamedTuple):
    """Everything that was readable is handled; timers, scheduling and progress are due now."""


Event = (
    MessageArrived
    | Malformed
    | PeerGone
    | PeerFull
    | BlobStored
    | BlobFailed
    | BlobMissing
    | StoreRecovered
    | StopRequested
    | TurnEnded
)
