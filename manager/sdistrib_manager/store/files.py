"""Pictures as files named by their digest: write, fsync, rename, fsync of the folder.

A picture is durable when `put` returns; only then may a row name it. `obstore`'s local store does
not fsync, hence our own.
"""

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdistrib.errors import StoreError
from sdistrib.protocol.codec import Buffer

_READ_BYTES = 1 << 20
#: Released when the disk is full, so that finishing, cancelling and purging can still commit.
BALLAST_BYTES = 8 << 20


class FileBlobs:
    """Pictures in a folder, two levels deep. Thread-safe: each name is written once."""

    slow = True

    def __init__(self, folder: Path) -> None:
        """Use a folder, made if need be.

        Raises:
            StoreError: it cannot be made.
        """
        self._folder = folder
        self._scratch = folder / "tmp"
        #: An old picture is either trusted anew or collected, never both at once.
        self._renewing = threading.Lock()
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            # All of them now and synced once: made on demand, another thread could see a folder
            # whose own name is not on the disk yet, and promise what a power cut takes away.
            for number in range(256):
                (folder / f"{number:02x}").mkdir(exist_ok=True)
            _sync_folder(folder)
            _sync_folder(folder.parent)
            for leftover in self._scratch.iterdir():
                leftover.unlink()
        except OSError as error:
            raise _failure("use", folder, error) from None

    def put(self, digest: str, parts: Sequence[Buffer]) -> None:
        """Keep the bytes durably. One of the same digest is trusted only if its bytes agree.

        Raises:
            StoreError: nothing is kept.
        """
        path = self._path(digest)
        size_bytes = sum(len(part) for part in parts)
        scratch = self._scratch / f"{digest}.{os.getpid()}.{time.monotonic_ns()}"
        try:
            if self._renewed(path, digest, size_bytes):
                return
            with scratch.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise _failure("write", path, error) from None

    def view(self, digest: str) -> Buffer:
        """The bytes.

        Raises:
            StoreError: there are none, or not those of the digest.
        """
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _failure("read", path, error) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"the picture {path} is damaged")
        return data

    def drop(self, digest: str) -> None:
        """Forget the bytes; unknown ones are fine."""
        with contextlib.suppress(OSError):
            self._path(digest).unlink()

    def every(self) -> Iterator[tuple[str, int, float]]:
        """All pictures: digest, bytes, seconds since it was written."""
        now = time.time()
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                yield path.name, status.st_size, now - status.st_mtime

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def collect(self, digest: str, age_s: float) -> bool:
        """Forget the bytes if they are at least this old still; False when they are not."""
        path = self._path(digest)
        with self._renewing, contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= age_s:
                path.unlink()
                return True
        return False

    def _renewed(self, path: Path, digest: str, size_bytes: int) -> bool:
        """The picture is there already, and durable and new from now on.

        Whoever wrote it may have died before it was synced, and nobody may have wanted it since.
        """
        if not self._is_good(path, digest, size_bytes):
            return False
        try:
            with self._renewing:
                os.utime(path)
        except FileNotFoundError:  # collected a moment ago
            return False
        with path.open("rb") as file:
            os.fsync(file.fileno())
        _sync_folder(path.parent)
        return True

    def _is_good(self, path: Path, digest: str, size_bytes: int) -> bool:
        try:
            if path.stat().st_size != size_bytes:
                return False
            found = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(_READ_BYTES):
                    found.update(piece)
        except OSError:
            return False
        return found.hexdigest() == digest


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failure(what: str, path: Path, error: OSError) -> StoreError:
    full = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return StoreError(f"cannot {what} {path}: {error.strerror}{full}")
