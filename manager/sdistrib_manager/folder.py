"""The state folder: one manager at a time, a ballast to keep a full disk workable, the garbage."""

import contextlib
import fcntl
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sdistrib.errors import ConfigError, StoreError
from sdistrib_manager.store.base import Store
from sdistrib_manager.store.files import BALLAST_BYTES, FileBlobs

#: A picture that no row names is garbage, once it is certain that none is about to.
GARBAGE_GRACE_S = 3600.0
#: Files looked at in one turn of the loop: some milliseconds.
_FILES_PER_STEP = 200


class StateFolder:
    """A folder that holds everything a manager keeps."""

    def __init__(self, path: Path) -> None:
        """Take the folder, made if need be.

        Raises:
            ConfigError: it cannot be used, or another manager uses it.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"--state {path} cannot be used: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError(
                f"Another manager uses {path}; stop it, or choose another --state folder."
            ) from None
        self._ballast = path / "ballast"
        with contextlib.suppress(StoreError):
            self.take_ballast()

    def take_ballast(self) -> None:
        """Reserve some space.

        Raises:
            StoreError: there is not enough.
        """
        try:
            # One that was cut short by a crash is no reserve.
            if not self._ballast.exists() or self._ballast.stat().st_size < BALLAST_BYTES:
                with self._ballast.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._ballast.unlink()
            raise StoreError(f"no space is left in {self.path}: {error.strerror}") from None

    def drop_ballast(self) -> None:
        """Give the reserved space free, so that what must be written can be."""
        with contextlib.suppress(OSError):
            self._ballast.unlink()

    def close(self) -> None:
        """Leave the folder to others."""
        os.close(self._lock)


class Garbage:
    """Finds and drops pictures that no row names, a few files at a time.

    Only those go that nobody named in the pass before either: a file's age alone would believe a
    clock that has jumped.
    """

    def __init__(self, store: Store, blobs: FileBlobs) -> None:
        self._store, self._blobs = store, blobs
        self._suspects: set[str] = set()
        self._unused: set[str] = set()
        self._used: set[str] = set()
        self._files: Iterator[tuple[str, int, float]] | None = None

    def step(self, is_held: Callable[[str], bool] = lambda _: False) -> bool:
        """Look at some files; True when a pass has ended with them.

        Args:
            is_held: somebody needs it though no row names it: the file of a petition whose others
                are still to come.

        Raises:
            StoreError: the rows cannot be read; nothing is dropped.
        """
        if self._files is None:
            self._used, self._unused = self._store.used_blobs(), set()
            self._files = self._blobs.every()
        seen = 0
        for digest, _, _ in itertools.islice(self._files, _FILES_PER_STEP):
            seen += 1
            if digest in self._used or is_held(digest):
                continue
            # One that was wanted again since `_used` was read is young, and is spared.
            suspect = digest in self._suspects
            if not suspect or not self._blobs.collect(digest, GARBAGE_GRACE_S):
                self._unused.add(digest)
        if seen == _FILES_PER_STEP:
            return False
        self._suspects, self._files, self._used = self._unused, None, set()
        return True
