"""Several workers in one box, one for each device: which runs, which is started again. Pure.

Theory of operation. Each device has a worker process of its own, with its own name, connection and
engine. One that leaves on its own (drained), or was started wrongly, is not started again; one that
dies is, after a pause that grows while it keeps dying. A stop is passed on to all, the second one
too, and those that wait for their next start stay away. The guardian ends when all have ended, with
the worst of their statuses.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sdistrib import limits
from sdistrib.errors import ERROR_TABLE, EXIT_FAILED, EXIT_OK, EXIT_USAGE
from sdistrib_worker.effects import Level, Log
from sdistrib_worker.engine.death import signal_name

#: With these a worker has said what it had to say: another start would end the same way.
_FINAL = (EXIT_OK, EXIT_USAGE, ERROR_TABLE["protocol_error"].exit_status)
#: A worker that ran for so long before it died is started again at once.
STEADY_S = 60.0


class Ended(NamedTuple):
    """The worker of this device ended."""

    #: Its device.
    device: str
    #: Exit status; a signal's number below 0.
    status: int


class StopAsked(NamedTuple):
    """The guardian was told to stop."""


class Ticked(NamedTuple):
    """Time has passed; also the first event."""


class StartWorker(NamedTuple):
    """Start the worker of this device."""

    #: Its device.
    device: str


class StopWorker(NamedTuple):
    """Tell the worker of this device to stop, once more where it was told before."""

    #: Its device.
    device: str


class Leave(NamedTuple):
    """All have ended."""

    #: The guardian's exit status.
    status: int


Event = Ended | StopAsked | Ticked
Effect = StartWorker | StopWorker | Leave | Log


@dataclass(slots=True)
class _Charge:
    """One device and its worker."""

    device: str
    #: When it is to be started; infinity while it runs or when it has ended for good.
    start_at: float = -math.inf
    started_at: float = 0.0
    is_running: bool = False
    #: Deaths in a row.
    deaths: int = 0
    #: How it ended last.
    status: int = EXIT_OK


class Guardian:
    """The decisions of the process that keeps one worker for each device."""

    def __init__(self, devices: Iterable[str]) -> None:
        self._charges = {device: _Charge(device) for device in devices}
        self._stopping = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in one event at monotonic time `now`; gives what is to be done, in order."""
        effects: list[Effect] = []
        match event:
            case Ended(device, status):
                effects += self._ended(self._charges[device], status, now)
            case StopAsked():
                self._stopping = True
                for charge in self._charges.values():
                    charge.start_at = math.inf
                    effects += [StopWorker(charge.device)] if charge.is_running else []
            case Ticked():
                for charge in self._charges.values():
                    if charge.start_at <= now:
                        charge.start_at, charge.started_at = math.inf, now
                        charge.is_running = True
                        effects.append(StartWorker(charge.device))
        if not any(one.is_running or one.start_at < math.inf for one in self._charges.values()):
            effects.append(Leave(max(_shown(one.status) for one in self._charges.values())))
        return effects

    def next_deadline(self) -> float:
        """Monotonic time at which a `Ticked` has something to do; infinity for never."""
        return min(charge.start_at for charge in self._charges.values())

    def _ended(self, charge: _Charge, status: int, now: float) -> list[Effect]:
        charge.is_running, charge.status = False, status
        how = signal_name(status) or f"exit status {status}"
        level: Level = "error" if status else "info"
        if self._stopping:
            if signal_name(status) in ("SIGTERM", "SIGINT"):
                # Told to stop before it could listen: it did, and had nothing in hand.
                charge.status, level = EXIT_OK, "info"
            return [Log(level, f"The worker on {charge.device} has ended: {how}.")]
        if status in _FINAL:
            return [Log(level, f"The worker on {charge.device} has ended: {how}.")]
        if now - charge.started_at >= STEADY_S:
            charge.deaths = 0
        last = len(limits.RESTART_BACKOFF_S) - 1
        delay_s = limits.RESTART_BACKOFF_S[min(charge.deaths, last)]
        charge.deaths += 1
        charge.start_at = now + delay_s
        when = f" in {delay_s:g} s" if delay_s else ""
        text = f"The worker on {charge.device} died ({how}); it is started again{when}."
        return [Log("error", text)]


def _shown(status: int) -> int:
    return status if status >= 0 else EXIT_FAILED
