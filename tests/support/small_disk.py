"""Disks in trouble: a full one, and one that takes no write.

`python -m tests.support.small_disk FOLDER SIZE MODULE …` is the program with FOLDER as a file
system of SIZE that only it sees, in a user and mount namespace; the process stays the same one, so
that its number is the program's.
"""

import os
import resource
import sys
from pathlib import Path
from typing import Protocol

from tests.support.cluster import Process

_SCRIPT = 'mount -t tmpfs -o "size=$1" none "$0" && shift && exec "$@"'


#: Ends with 0 where such a disk may be made.
PROBE = ("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt")


class Trouble(Protocol):
    """What can befall a disk, and pass."""

    def begin(self) -> None:
        """From now on nothing can be written."""

    def end(self) -> None:
        """All is well again."""


class WritesFail:
    """Every write to a file fails for a program (EFBIG); its user may do that to it anywhere."""

    def __init__(self, program: Process) -> None:
        self._pid = program.pid
        self._before = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)

    def begin(self) -> None:
        """No file may grow beyond, nor be written at, byte 0."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (0, self._before[1]))

    def end(self) -> None:
        """As before."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._before)


class Full:
    """The small disk of a program has no room left."""

    def __init__(self, program: Process, folder: Path) -> None:
        self._path = Path(f"/proc/{program.pid}/root{folder}/filler")

    def begin(self) -> None:
        """Take all room there is."""
        with self._path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:  # full
                    continue

    def end(self) -> None:
        """Give it back."""
        self._path.unlink()


def main() -> None:
    """Become the program."""
    folder, size, *module = sys.argv[1:]
    python = [sys.executable, "-m", *module]
    os.execvp("unshare", ["unshare", "-rm", "sh", "-c", _SCRIPT, folder, size, *python])  # noqa: S606


if __name__ == "__main__":
    main()
