"""Bytes in use on a process's heap: exact where resident memory is coarse. glibc only.

Python's own small objects count where `PYTHONMALLOC=malloc` is set; else they lie in arenas that
the heap's books do not know.
"""

import ctypes
import gc
import itertools
from pathlib import Path

#: Every so many calls of `Notes.note` one is noted: collecting garbage takes as long as a picture.
EVERY = 5


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


#: Made once: each `CDLL` has a class of its own, which would be measured too.
_LIBC = ctypes.CDLL(None)
_LIBC.mallinfo2.restype = _Mallinfo


def heap_bytes() -> int:
    """What is in use now, garbage that Python had not yet collected apart."""
    gc.collect()
    info = _LIBC.mallinfo2()
    return int(info.uordblks + info.hblkhd)


class Notes:
    """Lines in a file, which stays open: a descriptor that comes and goes would be counted."""

    def __init__(self, who: str, path: str) -> None:
        self._who = who
        self._file = Path(path).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._calls = itertools.count(1)

    def note(self) -> None:
        """Append a line for this moment, or let it pass."""
        if next(self._calls) % EVERY == 0:
            self._file.write(f"{self._who} {heap_bytes()}\n")


def noted(who: str, path: Path) -> list[int]:
    """What was noted, oldest first."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return [int(count) for name, count in lines if name == who]
