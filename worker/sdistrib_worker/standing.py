"""Whether this worker takes grants, and why not. Pure.

Several may shut it, each for itself: a client's pause, the owner's hours, another process on the
device. It is open when nobody shuts it. A drain shuts it too, and ends with the worker's goodbye;
a client's drain can be taken back while images are under way, the owner's SIGTERM cannot.
"""

from sdistrib.protocol.messages import Standing, WorkerWish


class Gate:
    """What stands between the manager's grants and the queue."""

    def __init__(self) -> None:
        self._paused_by: str | None = None
        self._drained_by: str | None = None
        self._stopped = False
        #: Reason by what shuts it: "hours", "device".
        self._shut: dict[str, str] = {}

    @property
    def is_open(self) -> bool:
        """Grants are taken."""
        return self.standing().state == "open"

    @property
    def is_draining(self) -> bool:
        """The worker leaves as soon as nothing is under way."""
        return self._stopped or self._drained_by is not None

    def standing(self) -> Standing:
        """What the manager is told."""
        if self._stopped:
            return Standing(state="draining", reason="stopped by its owner")
        if self._drained_by is not None:
            return Standing(state="draining", reason=f"drained by {self._drained_by}")
        reasons = [] if self._paused_by is None else [f"paused by {self._paused_by}"]
        reasons += self._shut.values()
        return Standing(state="paused" if reasons else "open", reason="; ".join(reasons))

    def stop(self) -> None:
        """The owner ends the worker."""
        self._stopped = True

    def available(self, source: str, reason: str) -> None:
        """What `source` says of the worker; an empty reason is that it may work."""
        if reason:
            self._shut[source] = reason
        else:
            self._shut.pop(source, None)

    def steer(self, wish: WorkerWish, by: str, *, busy: bool) -> str:
        """Do what a client wishes of the gate: pause, resume or drain; gives what was done.

        Args:
            wish: what is to be done.
            by: user whose wish it is.
            busy: images are under way here.
        """
        if self._stopped:
            return "nothing: its owner has stopped it, and it leaves"
        if wish == "pause":
            return self._pause(by, busy)
        return self._resume() if wish == "resume" else self._drain(by, busy)

    def _pause(self, by: str, busy: bool) -> str:
        if self._drained_by is not None:
            return f"nothing: it drains already, by {self._drained_by}"
        if self._paused_by is not None:
            return f"nothing: it was paused before, by {self._paused_by}"
        self._paused_by = by
        return "paused" + ("; it finishes the image under way" if busy else "")

    def _resume(self) -> str:
        was_shut = self._paused_by is not None or self._drained_by is not None
        self._paused_by = self._drained_by = None
        did = "resumed" if was_shut else "nothing: it was not paused"
        reason = self.standing().reason
        return did + (f"; it still takes no grants: {reason}" if reason else "")

    def _drain(self, by: str, busy: bool) -> str:
        if self._drained_by is not None:
            return f"nothing: it drains already, by {self._drained_by}"
        self._drained_by = by
        if busy:
            return "drains: it finishes the image under way, hands in what it holds, and leaves"
        return "drains: it hands in what it holds, and leaves"
