"""The clients' connections: what each may still be sent, and what it was sent last."""

from collections import deque
from dataclasses import dataclass, field

from sdistrib import limits
from sdistrib.liveness import Liveness
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Preview
from sdistrib.transfer import Outgoing
from sdistrib_manager.queue import Entry


@dataclass(slots=True)
class Slot:
    """A petition that a client listens to, and its one progress that may be under way."""

    #: Something changed since the last one.
    dirty: bool = True
    #: The client has not yet said that it saw the last one.
    unseen: bool = False
    #: Only what was recorded when it attached is wanted, and no progress.
    brief: bool = False
    #: It takes previews.
    previews: bool = False


@dataclass(slots=True)
class Delivery:
    """A picture that was sent and not yet acknowledged."""

    entry: Entry
    index: int
    size_bytes: int
    #: Pieces still to go; None when the picture went as a whole.
    pieces: Outgoing | None = None


@dataclass(slots=True, eq=False)
class Client:
    """One connection of a client."""

    route: bytes
    liveness: Liveness
    #: Petitions that this connection listens to.
    slots: dict[str, Slot] = field(default_factory=dict)
    #: Pictures that wait for credit.
    ready: deque[tuple[Entry, int]] = field(default_factory=deque)
    #: Pictures under way, by (petition, index).
    flying: dict[tuple[str, int], Delivery] = field(default_factory=dict)
    bytes_flying: int = 0
    #: When it was last asked for an input file, or sent a piece of one.
    pieces_at: float = 0.0
    #: Petitions of which a preview is under way.
    previews_flying: set[str] = field(default_factory=set)
    #: The newest preview of others, and of these too: they wait for credit.
    previews_waiting: dict[str, tuple[Preview, Buffer]] = field(default_factory=dict)

    def may_send(self, size_bytes: int) -> bool:
        """The credit allows one more picture of this size; the first is always allowed."""
        if not self.flying:
            return True
        if len(self.flying) >= limits.CLIENT_RESULTS_IN_FLIGHT_MAX:
            return False
        return self.bytes_flying + size_bytes <= limits.CLIENT_BYTES_IN_FLIGHT_MAX

    def launch(self, delivery: Delivery) -> None:
        """A picture is on its way."""
        self.flying[delivery.entry.id, delivery.index] = delivery
        self.bytes_flying += delivery.size_bytes

    def land(self, petition_id: str, index: int) -> Delivery | None:
        """The client has a picture; None when it was not under way."""
        delivery = self.flying.pop((petition_id, index), None)
        if delivery is not None:
            self.bytes_flying -= delivery.size_bytes
        return delivery

    def unsend(self) -> None:
        """What is under way may be lost with the peer's session: it waits for credit again."""
        self.ready.extendleft(reversed([(d.entry, d.index) for d in self.flying.values()]))
        self.flying.clear()
        self.bytes_flying = 0
        for slot in self.slots.values():
            slot.dirty, slot.unseen = True, False
        # These are old by the time that it says what it wants: the next ones do.
        self.previews_flying.clear()

    def is_due(self, petition_id: str, index: int) -> bool:
        """The picture is on its way or waits for credit."""
        return (petition_id, index) in self.flying or any(
            (entry.id, ready) == (petition_id, index) for entry, ready in self.ready
        )

    def drop(self, petition_id: str) -> None:
        """The client does not listen to this petition any more."""
        self.slots.pop(petition_id, None)
        self.previews_flying.discard(petition_id)
        self.ready = deque(due for due in self.ready if due[0].id != petition_id)
        for key in [key for key in self.flying if key[0] == petition_id]:
            self.land(*key)

    def transfer_of(self, digest: str) -> Delivery | None:
        """The picture of this digest that is going out in pieces."""
        for delivery in self.flying.values():
            result = delivery.entry.image(delivery.index).result
            if delivery.pieces is not None and result is not None and result.digest == digest:
                return delivery
        return None
