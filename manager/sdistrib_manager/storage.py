"""What a manager keeps and where, put together: store, pictures, folder, trouble and recovery."""

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from sdistrib import limits
from sdistrib.errors import StoreError
from sdistrib.protocol.codec import Buffer
from sdistrib_manager.effects import Keep
from sdistrib_manager.folder import Garbage, StateFolder
from sdistrib_manager.machine import Manager
from sdistrib_manager.state import Settings
from sdistrib_manager.store.base import Blobs, Store
from sdistrib_manager.store.files import FileBlobs
from sdistrib_manager.store.memory import MemoryBlobs, MemoryStore
from sdistrib_manager.store.sqlite import SqliteStore
from sdistrib_manager.views import Views

_log = logging.getLogger("sdistrib.manager")

#: A store in trouble is tried this often.
_PROBE_S = 1.0
#: Garbage is looked for this often.
_GARBAGE_S = 3600.0
#: Pictures and input files just written or read, so that they, or their pieces, are not read again
#: and again: several of the largest input files may go out at a time, each in many pieces.
_VIEWS_BYTES_MAX = 4 * limits.INPUT_BYTES_MAX


class Storage:
    """Everything a manager keeps. Use from the loop's thread only, but for `blobs.put`."""

    def __init__(
        self, settings: Settings, store: Store, blobs: Blobs, folder: StateFolder | None = None
    ) -> None:
        self._settings = settings
        self.store = store
        self.blobs = blobs
        self._folder = folder
        self._trouble = ""
        self._probe_at = 0.0
        self._garbage_at = 0.0
        self._garbage = Garbage(store, blobs) if isinstance(blobs, FileBlobs) else None
        #: Forgotten bytes are still on the disk; when to try (again). A manager that was killed may
        #: have left some.
        self._checkpoint_at = 0.0
        self._views = Views(_VIEWS_BYTES_MAX)

    def manager(self, now: float, wall: float, trouble: str = "") -> Manager:
        """A manager of what is kept.

        Args:
            now: monotonic seconds.
            wall: seconds since 1970.
            trouble: why nothing new can be kept for now.

        Raises:
            StoreError: it cannot be read.
        """
        if trouble and self._folder is not None:
            self._folder.drop_ballast()
        manager = Manager(self._settings, now, wall, self.store.load())
        manager.state.store_trouble = trouble
        if trouble:
            # What a review keeps would fail again, and everything be read again, turn after turn.
            manager.state.next_review_at = now + limits.BEAT_S
        self._trouble, self._probe_at = trouble, now + _PROBE_S
        return manager

    def recovered(self, now: float, is_held: Callable[[str], bool] = lambda _: False) -> bool:
        """The store was in trouble and works again; asked once a turn. `is_held` as `Garbage`."""
        if self._garbage is not None and now >= self._garbage_at and not self._trouble:
            with contextlib.suppress(StoreError):
                if self._garbage.step(is_held):
                    self._garbage_at = now + _GARBAGE_S
        if now >= self._checkpoint_at:
            self.checkpoint(now)
        if not self._trouble or now < self._probe_at:
            return False
        self._probe_at = now + _PROBE_S
        try:
            self.store.probe()
            if self._folder is not None:
                self._folder.take_ballast()
        except StoreError:
            return False
        _log.warning("writing works again")
        self._trouble = ""
        return True

    def commit(self, keeps: Sequence[Keep]) -> None:
        """Keep all of it, or none. What nothing depends on is left out while there is trouble.

        Raises:
            StoreError: none of it is kept.
        """
        changes = [keep.row for keep in keeps if not (keep.soft and self._trouble)]
        if changes:
            self.store.commit(changes)

    def view(self, digest: str, now: float) -> Buffer:
        """A picture's bytes.

        Raises:
            StoreError: it is not there, or damaged.
        """
        if not self.blobs.slow:
            return self.blobs.view(digest)
        data = self._views.get(digest)
        if data is None:
            data = self.blobs.view(digest)
            if len(data) > limits.CHUNK_BYTES:  # else it is sent in one piece
                self._views.put(digest, data, now, force=True)
        return data

    def remember(self, digest: str, parts: Sequence[Buffer], now: float) -> None:
        """A picture is on its way to the disk: whoever waits for it need not read it back."""
        if self.blobs.slow:
            self._views.put(digest, parts[0] if len(parts) == 1 else b"".join(parts), now)

    def sent(self, digest: str) -> None:
        """The last piece of a picture is on its way to a client."""
        self._views.sent(digest)

    def checkpoint(self, now: float) -> None:
        """Have what was forgotten gone from the disk: now, or as soon as it can be."""
        self._views.clear()
        try:
            self.store.checkpoint()
        except StoreError as error:
            if self._checkpoint_at == math.inf:
                _log.warning("%s; forgotten bytes leave the disk later", error)
            self._checkpoint_at = now + _PROBE_S
        else:
            self._checkpoint_at = math.inf

    def close(self) -> None:
        """Close everything."""
        self.store.close()
        if self._folder is not None:
            self._folder.close()


def open_memory(settings: Settings) -> Storage:
    """Nothing outlives the process."""
    return Storage(settings, MemoryStore(), MemoryBlobs())


def open_folder(settings: Settings, path: Path) -> Storage:
    """Everything is in a folder, made if need be.

    Raises:
        ConfigError: the folder cannot be used, or another manager uses it.
        StoreError: what is in it cannot be read.
    """
    folder = StateFolder(path)
    try:
        return Storage(
            settings, SqliteStore(path / "state.db"), FileBlobs(path / "pictures"), folder
        )
    except BaseException:
        folder.close()
        raise
