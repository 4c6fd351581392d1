"""Who is alive: beats out, beats in, seen from one side of a connection (Paranoid Pirate).

Pure: the owner says when something was received or sent, and asks what is due.
"""

from typing import Literal

from sdistrib import limits

PeerState = Literal["alive", "suspect", "gone"]


class Liveness:
    """One peer's pulse. All times are monotonic seconds.

    A peer is *suspect* after `limits.SUSPECT_S` of silence and *gone* after `limits.GONE_S`. Any
    message is a beat, in both directions.
    """

    __slots__ = ("heard_at", "sent_at")

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.sent_at = now

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
        if silence_s >= limits.GONE_S:
            return "gone"
        return "suspect" if silence_s >= limits.SUSPECT_S else "alive"

    def beat_due(self, now: float) -> bool:
        """Nothing was sent for a whole beat."""
        return now - self.sent_at >= limits.BEAT_S
