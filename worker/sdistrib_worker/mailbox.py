"""Events from signal handlers and other threads, and the pipe that wakes the loop for them."""

import contextlib
import os
import signal
from collections import deque
from types import FrameType

from sdistrib_worker.events import Event, StopRequested


class Mailbox:
    """A queue whose `fileno` is readable when something was put into it.

    `close` it last, and from the thread that reads it.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def __bool__(self) -> bool:
        return bool(self._events)

    def fileno(self) -> int:
        """To be polled for reading."""
        return self._read

    def put(self, event: Event) -> None:
        """Add an event; from any thread."""
        self._events.append(event)
        # A full pipe wakes the loop as well; a closed one has no loop to wake.
        with contextlib.suppress(OSError):
            os.write(self._write, b"\0")

    def take(self) -> Event | None:
        """The oldest event, None when there is none."""
        return self._events.popleft() if self._events else None

    def settle(self) -> None:
        """What was put until now counts as seen: `fileno` is not readable for it."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def stop_on(self, *signals: signal.Signals) -> None:
        """Put a `StopRequested` whenever one of these signals comes; from the main thread."""
        for number in signals:
            signal.signal(number, self._on_signal)
        # The handler runs when Python gets round to it; this wakes the poll that would delay it.
        signal.set_wakeup_fd(self._write)

    def close(self) -> None:
        """Close the pipe; later events are taken by nobody."""
        signal.set_wakeup_fd(-1)
        # Other threads may still speak: not into a number that is somebody else's by then.
        write, self._write = self._write, -1
        os.close(write)
        os.close(self._read)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._events.append(StopRequested())
