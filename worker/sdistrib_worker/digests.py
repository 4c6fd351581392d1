"""SHA-256 of model files, remembered between runs.

A digest is remembered for (path, size, time of change) in one JSON file of the user's cache folder,
shared by all workers of that user: each write takes in what the others have written since. Workers
of one tree take turns, so that a box with several devices reads each file once.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from sdistrib import limits
from sdistrib_worker.shelf import StoredFile

_LOG = logging.getLogger(__name__)
_FORMAT = 1
_READ_BYTES = 4 * limits.MIB
#: Entries kept; those of files that nobody scanned now go first.
_ENTRIES_MAX = 4 * limits.INVENTORY_FILES_MAX

#: Path, size in bytes, time of change in nanoseconds.
Key = tuple[str, int, int]


def default_cache_file() -> Path:
    """Where digests are remembered."""
    return Path(user_cache_dir("sdistrib")) / "digests.json"


def key_of(entry: StoredFile) -> Key:
    """What must be unchanged for a digest to hold."""
    return (entry.path, entry.file.size_bytes, entry.mtime_ns)


def digest_of(entry: StoredFile, stopped: Callable[[], bool]) -> str:
    """SHA-256 in hex; "" when the file changed meanwhile, cannot be read, or `stopped()`.

    `stopped` is asked before each piece of 4 MiB, so that its owner can look after other things.
    """
    sha = hashlib.sha256()
    try:
        with Path(entry.path).open("rb", buffering=0) as file:
            while part := file.read(_READ_BYTES):
                if stopped():
                    return ""
                sha.update(part)
            status = os.fstat(file.fileno())
    except OSError as error:
        _LOG.warning("cannot read %s: %s", entry.path, error.strerror)
        return ""
    unchanged = (status.st_size, status.st_mtime_ns) == key_of(entry)[1:]
    return sha.hexdigest() if unchanged else ""


class DigestCache:
    """Digests by (path, size, time of change)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at = self._stamp()
        self._known: dict[Key, str] = self._read()
        self._warned = False
        #: There is something that the file has not.
        self._is_new = False
        #: Descriptor of the lock that is held; None without one.
        self._lock: int | None = None

    def get(self, entry: StoredFile) -> str:
        """The digest, "" when it is not known."""
        return self._known.get(key_of(entry), "")

    def put(self, entry: StoredFile, digest: str) -> None:
        """Remember a digest; written by `save`."""
        self._known[key_of(entry)] = digest
        self._is_new = True

    def save(self, present: Iterable[StoredFile]) -> None:
        """Write what is new, atomically; `present` are the files that are kept in any case."""
        if not self._is_new:
            return  # nothing of ours: an older state must not go over what others wrote just now
        self._known = {**self._read(), **self._known}
        if len(self._known) > _ENTRIES_MAX:
            kept = {key_of(entry) for entry in present}
            self._known = {key: value for key, value in self._known.items() if key in kept}
        rows = [[*key, digest] for key, digest in self._known.items()]
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps({"format": _FORMAT, "digests": rows}), encoding="utf-8")
            draft.replace(self._file)
            self._read_at, self._is_new = self._stamp(), False
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            if not self._warned:
                self._warned = True
                _LOG.warning("cannot write %s: %s", self._file, error.strerror)

    def take_turn(self, root: Path) -> bool:
        """True when it is ours to compute digests of this tree, until `end_turn`."""
        if self._lock is not None:
            return True
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._file.with_name(f".{name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return True  # nothing is shared here, as `save` will say
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        except OSError:  # a file system without locks
            os.close(lock)
            return True
        self._lock = lock
        return True

    def end_turn(self) -> None:
        """Let others compute; the kernel does it for a worker that dies."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def refresh(self) -> bool:
        """Read what others have written meanwhile; True when there is something new."""
        stamp = self._stamp()
        if stamp == self._read_at:
            return False
        self._read_at = stamp
        before = len(self._known)
        self._known = {**self._read(), **self._known}
        return len(self._known) > before

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._file.stat()
        except OSError:
            return (0, 0)
        return status.st_ino, status.st_mtime_ns

    def _read(self) -> dict[Key, str]:
        try:
            return _parse(json.loads(self._file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            # Digests can be computed again; a damaged file is replaced by the next `save`.
            _LOG.warning("ignoring %s: %s", self._file, error)
            return {}


def _parse(content: Any) -> dict[Key, str]:
    if content["format"] != _FORMAT:
        raise ValueError(f"its format is {content['format']!r}, not {_FORMAT}")
    return {
        (str(path), int(size), int(mtime)): str(digest)
        for path, size, mtime, digest in content["digests"]
    }
