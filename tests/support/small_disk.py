"""A program on a small disk of its own: `python -m tests.support.small_disk FOLDER SIZE MODULE …`.

FOLDER becomes a file system of SIZE that only the program sees, in a user and mount namespace; the
process stays the same one, so that its number is the program's.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.cluster import Process

_SCRIPT = 'mount -t tmpfs -o "size=$1" none "$0" && shift && exec "$@"'


def may_mount() -> bool:
    """This user may make such a disk."""
    try:
        tried = subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return tried.returncode == 0


class Filler:
    """Fills the small disk of a program, and empties it again."""

    def __init__(self, program: Process, folder: Path) -> None:
        self._path = Path(f"/proc/{program.pid}/root{folder}/filler")

    def fill(self) -> None:
        """Take all room there is."""
        with self._path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:  # full
                    continue

    def empty(self) -> None:
        """Give it back."""
        self._path.unlink()


def main() -> None:
    """Become the program."""
    folder, size, *module = sys.argv[1:]
    python = [sys.executable, "-m", *module]
    os.execvp("unshare", ["unshare", "-rm", "sh", "-c", _SCRIPT, folder, size, *python])  # noqa: S606


if __name__ == "__main__":
    main()
