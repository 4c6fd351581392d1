"""This worker's own processes, from Linux' /proc: itself, and its children."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Places of ppid and of utime, stime, cutime, cstime behind the name in /proc/PID/stat.
#: Source: proc(5).
_PARENT, _TIMES = 1, slice(11, 15)


class Own(NamedTuple):
    """One of them."""

    pid: int
    #: Time that it, and the children that it has seen die, have worked.
    ticks: int


def own_processes(proc: Path, pid: int) -> Iterator[Own]:
    """`pid` and its children, those that have died and are not yet forgotten too."""
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The name before these fields is in brackets and may hold anything.
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        one = int(path.parent.name)
        if pid in (one, int(fields[_PARENT])):
            yield Own(one, sum(map(int, fields[_TIMES])))
