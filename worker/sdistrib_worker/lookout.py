"""Looks every few seconds at what allows or forbids work: the clock, and who uses the device."""

import os
import threading
import time
from collections.abc import Callable, Mapping

from sdistrib.protocol.messages import EngineFacts
from sdistrib_worker.busy import Probe, Steady, probe_for
from sdistrib_worker.events import AvailabilityChanged
from sdistrib_worker.hours import Hours

#: Seconds between two looks.
LOOK_S = 2.0


class Lookout:
    """A thread that publishes what changed; none while there is nothing to look at.

    Args:
        publish: takes each change, from this thread or that of the caller.
        environment: variables for the engine beside this process's own; they may choose its card.
        hours: when the worker may work; None is always.
        clock: gives the local hour and minute.
    """

    def __init__(
        self,
        publish: Callable[[AvailabilityChanged], None],
        environment: Mapping[str, str],
        hours: Hours | None = None,
        clock: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        self._publish = publish
        self._environment = environment
        self._hours = hours
        self._clock = clock
        self._probe: Probe | None = None
        self._steady = Steady()
        self._told = {"hours": "", "device": ""}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if hours is not None:
            self.look()
            self._begin()

    def watch(self, facts: EngineFacts) -> None:
        """Look at the device of this engine as well.

        Raises:
            ConfigError: who uses it cannot be measured.
        """
        self._probe = probe_for(facts, {**os.environ, **self._environment})
        self._begin()

    def look(self) -> None:
        """Look once, and publish what changed."""
        if self._hours is not None:
            now = self._clock()
            self._tell("hours", self._hours.shut(now.tm_hour * 60 + now.tm_min))
        if self._probe is not None:
            self._tell("device", self._device(self._probe))

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.look()

    def _device(self, probe: Probe) -> str:
        try:
            found = probe.look()
        except OSError as error:
            # To yield is what the owner asked for; work may be in somebody's way.
            return f"who uses the device cannot be told: {error}"
        return self._steady.take(found)

    def _tell(self, source: str, reason: str) -> None:
        if self._told[source] != reason:
            self._told[source] = reason
            self._publish(AvailabilityChanged(source, reason))
