"""The input files that this worker keeps on disk, and the thread that reads and writes them.

Each file is named by the SHA-256 of its bytes; it is written under another name and gets its own
only when it is whole. Several workers of one machine may share the folder: who uses a file holds a
shared lock on it, and only with an exclusive lock is a file removed. A file that an earlier run
left is hashed before its first use: a crash may have left the name with other bytes.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import queue
import re
import secrets
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from sdistrib import limits
from sdistrib.protocol.codec import Buffer
from sdistrib_worker.effects import CloseInput, ForgetInputs, InputEffect, OpenInput, WriteInput
from sdistrib_worker.events import (
    InputBroken,
    InputEvent,
    InputFailed,
    InputHeld,
    InputOpened,
    InputReady,
)

_LOG = logging.getLogger("sdistrib.worker")

_WHOLE = re.compile(r"[0-9a-f]{64}\Z")
_PART = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{16}\.part\Z")
_READ_BYTES = 4 * limits.MIB
#: Unfinished files that are kept for when their transfer goes on; the oldest goes first.
_PARTS_MAX = 8
_FULL = (errno.ENOSPC, errno.EDQUOT)


def default_cache_dir() -> Path:
    """Where input files are kept."""
    return Path(user_cache_dir("sdistrib")) / "inputs"


@dataclass(slots=True)
class _Part:
    """A file on its way."""

    path: Path
    descriptor: int
    offset: int = 0
    hash: Any = field(default_factory=hashlib.sha256)


class InputCache:
    """Files by digest below `root`; at most `bytes_max` of them, the least recently used go first.

    One thread uses it.
    """

    def __init__(self, root: Path, bytes_max: int = limits.INPUT_CACHE_BYTES) -> None:
        self._root = root
        self._bytes_max = bytes_max
        #: Sizes of the files that are open.
        self._sizes: dict[str, int] = {}
        #: Descriptors of whole files in use; each holds a shared lock.
        self._used: dict[str, int] = {}
        self._parts: dict[str, _Part] = {}
        #: Inode numbers of files whose bytes are known to be right.
        self._verified: dict[str, int] = {}
        #: To be removed when they are closed.
        self._doomed: set[str] = set()
        self._swept = False

    def carry_out(self, effect: InputEffect) -> InputEvent | None:
        """Do it; gives what came of it, None when there is nothing to say."""
        match effect:
            case OpenInput(digest, size_bytes):
                return self._guarded(digest, lambda: self._open(digest, size_bytes))
            case WriteInput(digest, offset, data):
                return self._guarded(digest, lambda: self._write(digest, offset, data))
            case CloseInput(digest):
                self._close(digest)
            case ForgetInputs(digests):
                for digest in digests:
                    self._forget(digest)
        return None

    def stop(self) -> None:
        """Let go of everything; unfinished files are dropped."""
        for digest in list(self._used):
            self._close(digest)
        for digest in list(self._parts):
            self._drop(digest)

    def _guarded(self, digest: str, work: Callable[[], InputEvent]) -> InputEvent:
        try:
            return work()
        except OSError as error:
            self._drop(digest)
            return InputFailed(digest, f"it cannot be kept in {self._root}: {error.strerror}")

    # --- opening ----------------------------------------------------------------------------

    def _open(self, digest: str, size_bytes: int) -> InputEvent:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            self._sweep()
        self._doomed.discard(digest)
        self._sizes[digest] = size_bytes
        if self._take(digest):
            self._drop(digest)
            return InputReady(digest, str(self._root / digest))
        part = self._parts.get(digest)
        return InputOpened(digest, part.offset if part else 0)

    def _take(self, digest: str) -> bool:
        """Hold the file, if it is here and right; one that is wrong is removed."""
        path = self._root / digest
        descriptor = _locked(path, fcntl.LOCK_SH)
        if descriptor is None:
            return False
        if not self._is_right(digest, descriptor):
            os.close(descriptor)
            _LOG.warning("dropping %s: its bytes are not those of its name", path)
            self._remove(digest)
            return False
        self._used[digest] = descriptor
        with contextlib.suppress(PermissionError):  # another user's, in a shared folder
            os.utime(path)
        return True

    def _is_right(self, digest: str, descriptor: int) -> bool:
        status = os.fstat(descriptor)
        if status.st_size != self._sizes[digest]:
            return False
        if self._verified.get(digest) == status.st_ino:
            return True
        sha = hashlib.sha256()
        while part := os.read(descriptor, _READ_BYTES):
            sha.update(part)
        if sha.hexdigest() != digest:
            return False
        self._verified[digest] = status.st_ino
        return True

    # --- writing ----------------------------------------------------------------------------

    def _write(self, digest: str, offset: int, data: Buffer) -> InputEvent:
        part = self._parts.get(digest) or self._begin(digest)
        if offset != part.offset:
            self._drop(digest)
            return InputFailed(digest, "its pieces came in the wrong order")
        self._put(part, data)
        part.hash.update(data)
        part.offset += len(data)
        if part.offset < self._sizes[digest]:
            return InputHeld(digest, part.offset)
        if part.hash.hexdigest() != digest:
            self._drop(digest)
            return InputBroken(digest)
        return self._finish(digest, part)

    def _begin(self, digest: str) -> _Part:
        while len(self._parts) >= _PARTS_MAX:
            self._drop(next(iter(self._parts)))
        path = self._root / f".{digest}.{secrets.token_hex(8)}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        part = self._parts[digest] = _Part(path, os.open(path, flags, mode=0o600))
        fcntl.flock(part.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return part

    def _put(self, part: _Part, data: Buffer) -> None:
        left, offset, emptied = memoryview(data), part.offset, False
        while left:
            try:
                count = os.pwrite(part.descriptor, left, offset)
            except OSError as error:
                if emptied or error.errno not in _FULL:
                    raise
                # What may be wanted again counts for less than what is wanted now.
                emptied = True
                self._make_room(self._bytes_max)
            else:
                left, offset = left[count:], offset + count

    def _finish(self, digest: str, part: _Part) -> InputEvent:
        self._make_room(part.offset)
        path = self._root / digest
        # A link and no `rename`: what bears the name already may be in another worker's hands.
        try:
            os.link(part.path, path)
        except FileExistsError:
            if not self._take(digest):
                part.path.replace(path)
                self._keep(digest, part)
        else:
            part.path.unlink()
            self._keep(digest, part)
        self._drop(digest)
        return InputReady(digest, str(path))

    def _keep(self, digest: str, part: _Part) -> None:
        fcntl.flock(part.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._verified[digest] = os.fstat(part.descriptor).st_ino
        self._used[digest] = self._parts.pop(digest).descriptor

    # --- closing and removing ---------------------------------------------------------------

    def _close(self, digest: str) -> None:
        self._sizes.pop(digest, None)
        descriptor = self._used.pop(digest, None)
        if descriptor is not None:
            os.close(descriptor)
        if digest in self._doomed:
            self._doomed.discard(digest)
            self._remove(digest)

    def _forget(self, digest: str) -> None:
        if digest in self._used:
            self._doomed.add(digest)
        else:
            self._drop(digest)
            self._remove(digest)

    def _drop(self, digest: str) -> None:
        """Drop what has come of a file."""
        part = self._parts.pop(digest, None)
        if part is not None:
            os.close(part.descriptor)
            with contextlib.suppress(OSError):
                part.path.unlink()

    def _remove(self, digest: str) -> bool:
        """Remove a file unless somebody uses it; True when it is gone."""
        path = self._root / digest
        with contextlib.suppress(OSError):  # the folder is not there, or allows no removal
            descriptor = _locked(path, fcntl.LOCK_EX)
            if descriptor is not None:
                try:
                    path.unlink()
                finally:
                    os.close(descriptor)
                return True
        return False

    def _make_room(self, size_bytes: int) -> None:
        """Remove the least recently used files until this much more is within the bound."""
        files = []
        for path in self._root.iterdir():
            if _WHOLE.match(path.name):
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    files.append((status.st_mtime_ns, path.name, status.st_size))
        total = sum(size for _, _, size in files)
        for _, name, size in sorted(files):
            if total + size_bytes <= self._bytes_max:
                return
            if self._remove(name):
                total -= size

    def _sweep(self) -> None:
        """Remove what earlier runs left unfinished: nobody holds its lock any more."""
        for path in self._root.iterdir():
            if _PART.match(path.name):
                descriptor = _locked(path, fcntl.LOCK_EX)
                if descriptor is not None:
                    path.unlink(missing_ok=True)
                    os.close(descriptor)


def _locked(path: Path, kind: int) -> int | None:
    """A descriptor that holds a lock on what bears this name now; None when that cannot be had."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        # Between the two calls another worker may have removed or replaced it.
        here, named = os.fstat(descriptor), path.lstat()
        if stat.S_ISREG(here.st_mode) and here.st_ino == named.st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


class InputKeeper:
    """The thread of an `InputCache`: takes effects in order, gives what came of each to `done`."""

    def __init__(self, cache: InputCache, done: Callable[[InputEvent], None]) -> None:
        self._cache = cache
        self._done = done
        self._orders: queue.SimpleQueue[InputEffect | None] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="inputs", daemon=True)
        self._thread.start()

    def order(self, effect: InputEffect) -> None:
        """Do it when everything ordered before is done."""
        self._orders.put(effect)

    def stop(self) -> None:
        """End after what is under way; what waits is dropped."""
        self._stopping = True
        self._orders.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (effect := self._orders.get()) is not None:
            if not self._stopping and (event := self._done_with(effect)) is not None:
                self._done(event)
        self._cache.stop()

    def _done_with(self, effect: InputEffect) -> InputEvent | None:
        try:
            return self._cache.carry_out(effect)
        except Exception:  # noqa: BLE001 - the job needs an answer, and the next its turn
            _LOG.exception("the cache of input files failed")
            if isinstance(effect, OpenInput | WriteInput):
                return InputFailed(effect.digest, "the cache failed; the worker's log has why")
            return None
