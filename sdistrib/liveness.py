"""Who is alive: beats out, beats in, seen from one side of a connection (Paranoid Pirate).

Pure: the owner says when something was received or sent, and asks what is due.
"""

from typing import Literal

from sdistrib import limits

PeerState = Literal["alive", "suspect", "gone"]


class Liveness:
    """One peer's pulse. All times are monotonic seconds.

    A peer is *suspect* after `suspect_s` of silence and *gone* after `gone_s`. Any message is a
    beat, in both directions.
    """

    __slots__ = ("gone_s", "heard_at", "sent_at", "suspect_s")

    def __init__(
        self, now: float, suspect_s: float = limits.SUSPECT_S, gone_s: float = limits.GONE_S
    ) -> None:
        self.heard_at = now
        self.sent_at = now
        self.suspect_s = suspect_s
        self.gone_s = gone_s

    def heard(self, now: float) -> None:
        """Something readable arrived from the peer."""
        self.heard_at = now

    def sent(self, now: float) -> None:
        """Something was sent to the peer."""
        self.sent_at = now

    def forgive(self, delay_s: float) -> None:
        """Move the deadlines by a delay that was this machine's own fault."""
        self.heard_at += delay_s

    def state(self, now: float) -> PeerState:
        """What the silence so far means."""
        silence_s = now - self.heard_at
        if silence_s >= self.gone_s:
            return "gone"
        return "suspect" if silence_s >= self.suspect_s else "alive"

    def beat_due(self, now: float) -> bool:
        """Nothing was sent for a whole beat."""
        return now - self.sent_at >= limits.BEAT_S
