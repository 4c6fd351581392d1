"""Words that are overtaken: by a cancel, by a purge, or by the manager's patience.

What a peer says about a petition is most telling when the petition has moved on before it arrives.
Chance alone brings that about for the seldom words so rarely that nobody would notice a fault.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, Codec
from tests.simulation.faults import Faults
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.network import Line

#: How often each word is one to meddle with: all of the seldom ones, few of the frequent.
_CHANCES: dict[type[wire.Message], float] = {
    wire.TooLate: 0.8,
    wire.Failed: 0.5,
    wire.Revoked: 0.6,
    wire.Started: 0.12,
    wire.Result: 0.15,
    wire.Step: 0.006,
    wire.ProgressSeen: 0.02,
    wire.ResultSeen: 0.03,
}
_WORDS = {b"\1" + wire.verb(kind).encode(): chance for kind, chance in _CHANCES.items()}
_REVOKE = b"\1" + wire.verb(wire.Revoke).encode()
#: What a client says of a picture: where its send fails, its session goes on anew with a hello on
#: the same connection, and nobody knows what of the pictures under way it has.
_RECEIPTS = {b"\1" + wire.verb(kind).encode() for kind in (wire.ResultSeen, wire.ChunkSeen)}
_FROM_WORKER = {kind for kind in _CHANCES if kind in wire.WORKER_TO_MANAGER}
_CODEC = Codec(tuple(_CHANCES))
#: A visitor's greeting and words are there before a word that is this late, seconds.
_OVERTAKEN_S = 0.4


class Meddler:
    """Makes words late, and lets others overtake them.

    Args:
        visit: has somebody else say these words to the manager, at once.
    """

    def __init__(self, world: World, faults: Faults, visit: Callable[..., None]) -> None:
        self._world, self._faults, self._visit = world, faults, visit

    def late_s(self, _: "Line", frames: list[Buffer]) -> float:
        """Seconds that a message is late."""
        head = bytes(frames[0])
        if head == _REVOKE:
            late = self._faults.roll("a revoke is late")
            return self._world.between(0.0, 4.0) if late else 0.0
        chance = _WORDS.get(head)
        return 0.0 if chance is None else self._meddle(frames, chance)

    def refuses(self, frames: list[Buffer]) -> bool:
        """A send finds the manager not reading."""
        return bytes(frames[0]) in _RECEIPTS and self._faults.roll("a receipt is not taken")

    def _meddle(self, frames: list[Buffer], chance: float) -> float:
        roll = self._faults.roll
        if type(_decoded(frames)) in _FROM_WORKER and roll("a worker's word is late", chance):
            return self._world.between(3.5, 7.0)
        if roll("a cancel overtakes a word", chance):
            self._visit(wire.Cancel(id=_petition(_decoded(frames))))
            return _OVERTAKEN_S
        if roll("a purge overtakes a word", chance):
            petition_id = _petition(_decoded(frames))
            self._visit(wire.Cancel(id=petition_id), wire.Purge(id=petition_id))
            return _OVERTAKEN_S
        return 0.0


def _decoded(frames: list[Buffer]) -> Any:
    return _CODEC.decode(frames).message


def _petition(message: Any) -> str:
    return str(message.attempt.id if hasattr(message, "attempt") else message.id)
