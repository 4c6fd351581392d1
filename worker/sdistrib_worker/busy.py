"""Whether another process uses the device that this worker draws on.

Only what can be measured is answered; where it cannot, `probe_for` refuses with the reason. A CPU's
use by others is the machine's time less this worker's own, from Linux' /proc. A CUDA card's
is what the driver's NVML says of each process, in `nvml`. Other backends have no counter that tells
the engine's own use from another's.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sdistrib.errors import ConfigError
from sdistrib.protocol.messages import EngineFacts
from sdistrib_worker.nvml import NvmlProbe
from sdistrib_worker.processes import own_processes

#: Others use the CPU when they take more than this part of all cores.
CPU_SHARE = 0.25
#: Looks in a row that must find the device in use before it counts...
BUSY_LOOKS = 3
#: ...and free before it counts as free: a pause in a game is not its end.
FREE_LOOKS = 15
#: Places of user, nice, system, irq, softirq in the first line of /proc/stat; of all but guest,
#: which user has in it. Source: proc(5).
_WORKING, _ALL = (0, 1, 2, 5, 6), slice(0, 8)


class Probe(Protocol):
    """Looks at a device."""

    def look(self) -> str:
        """Who uses the device beside this worker, for people; empty when nobody does.

        Raises:
            OSError: it cannot be measured now.
        """


class Steady:
    """What several looks in a row agree on. Pure."""

    def __init__(self) -> None:
        #: Why the device is in use; empty when it is free.
        self.reason = ""
        self._against = 0

    def take(self, found: str) -> str:
        """One more look; the reason from now on."""
        if bool(found) == bool(self.reason):
            self._against = 0
            return self.reason
        self._against += 1
        if self._against >= (BUSY_LOOKS if found else FREE_LOOKS):
            self.reason, self._against = found, 0
        return self.reason


class CpuProbe:
    """How much of all cores others use between two looks.

    Args:
        proc: where the kernel tells it.
        pid: whose time, with that of its children, is the worker's own.

    Raises:
        ConfigError: there is no such place.
    """

    def __init__(self, proc: Path = Path("/proc"), pid: int | None = None) -> None:
        self._proc = proc
        self._pid = os.getpid() if pid is None else pid
        try:
            self._last = self._read()
        except OSError as error:
            raise ConfigError(
                f"--yield-when-busy: the use of the CPU is read from {proc}/stat, as Linux has it,"
                f" and that cannot be read: {error.strerror}. Leave the option out."
            ) from None

    def look(self) -> str:
        """See `Probe`."""
        before, self._last = self._last, self._read()
        everything = self._last[0] - before[0]
        others = (self._last[1] - before[1]) - (self._last[2] - before[2])
        return "other processes use the CPU" if others > CPU_SHARE * everything else ""

    def _read(self) -> tuple[int, int, int]:
        """Ticks since boot: in all, worked, worked by this worker."""
        first = (self._proc / "stat").read_text().partition("\n")[0]
        ticks = [int(word) for word in first.split()[1:]]
        own = sum(process.ticks for process in own_processes(self._proc, self._pid))
        return sum(ticks[_ALL]), sum(ticks[place] for place in _WORKING), own


def probe_for(facts: EngineFacts, environment: Mapping[str, str]) -> Probe:
    """What looks at the device of this engine.

    Args:
        facts: what the engine is and runs on.
        environment: the engine's own, which may choose the card.

    Raises:
        ConfigError: its use by others cannot be measured.
    """
    if facts.backend == "cpu":
        return CpuProbe()
    if facts.backend == "cuda":
        return NvmlProbe(environment)
    raise ConfigError(
        f"--yield-when-busy: on {facts.backend} other processes' use of {facts.device} cannot be"
        " told from the engine's own. Leave the option out, or use --hours."
    )
