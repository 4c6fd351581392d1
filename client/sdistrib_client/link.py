"""The connection as the client sees it: is somebody there, and does he know us? Pure.

A connection has no event of its own: that a send went through, and what comes back, is all there
is. So a hello goes out until it is welcomed, and again whenever a send fails or the manager says
`Identify`. Patience runs from the last sign of a manager that knows us, or from the moment there
was something to wait for, whichever is later.
"""

from sdistrib import limits
from sdistrib.liveness import Liveness

#: A connection that never came about is given up after this.
CONNECT_TIMEOUT_S = 10.0
#: One that was there and is gone, after this: a restart of the manager's machine takes less.
LOST_S = 60.0
#: Waits between hellos that cannot be sent; loopback connects within the first of them.
_RETRY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25)


class Link:
    """Greeting, pulse and patience of one connection. All times are the owner's."""

    def __init__(self, address: str, now: float, connect_timeout_s: float) -> None:
        self.address = address
        self.welcomed = False
        self.pulse = Liveness(now)
        self.hello_at = now
        self._connect_timeout_s = connect_timeout_s
        self._retries = 0
        self._good_at = now
        self._reached = False
        self._noticed = False

    def begin_waiting(self, now: float) -> None:
        """From now on somebody waits for the manager."""
        self._good_at = now
        self._reached = False
        self._noticed = False

    def heard(self, now: float) -> None:
        """Something readable arrived."""
        self.pulse.heard(now)
        if self.welcomed:
            self._good_at = now
            self._reached = True

    def greeted(self, now: float) -> None:
        """A hello was handed to the socket; unless it is welcomed, another one follows."""
        self.hello_at = now + limits.BEAT_S

    def unsent(self, now: float) -> None:
        """A message did not leave: whatever session there was is over."""
        self.welcomed = False
        self.hello_at = now + _RETRY_S[min(self._retries, len(_RETRY_S) - 1)]
        self._retries += 1

    def forgotten(self, now: float) -> None:
        """The manager has no session with us: greet at once, unless a hello is under way."""
        if self.welcomed:
            self.welcomed = False
            self.hello_at = now

    def left(self, now: float) -> None:
        """The manager leaves on purpose: it needs a moment before a hello makes sense."""
        self.welcomed = False
        self.hello_at = now + limits.BEAT_S

    def welcome(self, now: float) -> str:
        """The manager knows us; returns a notice if an earlier one spoke of silence."""
        self.welcomed = True
        self._retries = 0
        self.heard(now)
        noticed, self._noticed = self._noticed, False
        return f"The manager at {self.address} answers again." if noticed else ""

    def silence_notice(self, now: float) -> str:
        """What to tell the user about a silence that has just become long; "" otherwise."""
        if self._noticed or now - self._good_at < limits.SILENCE_NOTICE_S:
            return ""
        self._noticed = True
        return (
            f"No answer from {self.address} for {limits.SILENCE_NOTICE_S:.0f} s; still trying for"
            f" {self._patience_s - limits.SILENCE_NOTICE_S:.0f} s. Is sdistrib-manager running"
            " there, and is the port right?"
        )

    def unreachable(self, now: float) -> str:
        """Why the manager counts as unreachable; "" while there is hope."""
        if now - self._good_at < self._patience_s:
            return ""
        what = "The connection is lost" if self._reached else "No manager answers"
        return (
            f"{what}: nothing from {self.address} for {self._patience_s:.0f} s. Start"
            " sdistrib-manager there, or check the address, the port and the network."
        )

    def deadline(self) -> float:
        """When the silence, as it is now, next means something."""
        wait_s = self._patience_s if self._noticed else limits.SILENCE_NOTICE_S
        return self._good_at + min(wait_s, self._patience_s)

    @property
    def _patience_s(self) -> float:
        return LOST_S if self._reached else self._connect_timeout_s
