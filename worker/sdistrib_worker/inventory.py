"""The models folder: what is in it, and what changes.

Kinds are told by the names of the folders right below MODELS_DIR, as A1111 and ComfyUI name them,
in any case. `scan` walks once; `Librarian` is the thread that scans again every few seconds and
computes digests in between, at low priority, and publishes whole lists of files.
"""

import logging
import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from sdistrib import limits
from sdistrib.errors import ConfigError
from sdistrib.models import EXTENSIONS, FOLDERS, ModelFile
from sdistrib.params import ModelKind
from sdistrib_worker.allowed import allowed_files
from sdistrib_worker.digests import DigestCache, digest_of
from sdistrib_worker.settling import Look, Settling
from sdistrib_worker.shelf import StoredFile

_LOG = logging.getLogger(__name__)
#: Folders, and files that are being written, are looked at this often...
RESCAN_S = 3.0
#: ...and each file this often: one may be written anew without its folder changing.
FULL_RESCAN_S = 30.0
#: Where looking takes long, as on a network drive, it is done less often: one part of so many.
_LOOK_PARTS = 20
#: At the start, a file that changed so lately is looked at twice...
_YOUNG_NS = 10 * 10**9
#: ...with this between the looks; nobody should wait longer for a worker.
_START_LOOK_S = 0.25
#: Digests become known in batches: a list of 20,000 files is not sent for each of them.
BATCH_S = 2.0
#: Niceness of the digest thread: the engine comes first.
_NICENESS = 15
#: What one file takes of an inventory's bytes apart from its name: size, digest, keys.
_ENTRY_BYTES = 140

#: Time of change of each folder walked, by path.
FolderTimes = dict[str, int]


class Scan(NamedTuple):
    """What a walk found."""

    #: In the order of kinds' folders and names; without digests.
    files: tuple[StoredFile, ...]
    #: What the operator should know.
    warnings: tuple[str, ...]
    #: For noticing changes cheaply.
    folders: FolderTimes


def check_root(root: Path) -> None:
    """Raise `ConfigError` unless `root` is a folder that can be read."""
    if not root.exists():
        raise ConfigError(f"MODELS_DIR {root} does not exist. Name the folder with your models.")
    if not root.is_dir():
        raise ConfigError(f"MODELS_DIR {root} is not a folder. Name the folder with your models.")
    try:
        next(iter(os.scandir(root)), None)
    except OSError as error:
        raise ConfigError(f"MODELS_DIR {root} cannot be read: {error.strerror}.") from None


def empty_warning(root: Path) -> str:
    """What to say when no model file was found."""
    hint = ""
    if (root / "models").is_dir():
        hint = f" Did you mean {root / 'models'}?"
    return (
        f"No model files in {root}. Folders looked for there (in any case):"
        f" {', '.join(FOLDERS)}; files: {' '.join(EXTENSIONS)}.{hint}"
    )


def scan(root: Path) -> Scan:
    """Walk the whole tree. Symbolic links are followed, once per place.

    What cannot be read is left out with a warning; an unreadable root gives no files.
    """
    walk = _Walk()
    for folder, kinds in _kind_folders(root, walk):
        for name, path, status in walk.files_below(folder):
            for kind in kinds:
                walk.add(kind, name, path, status)
    return Scan(tuple(walk.found.values()), tuple(walk.warnings), walk.folders)


def folders_changed(folders: FolderTimes) -> bool:
    """A folder of an earlier walk has another time of change, or is gone."""
    return any(_mtime(path) != mtime_ns for path, mtime_ns in folders.items())


def _look_at(path: str) -> Look:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - thousands of these every few seconds
    except OSError:
        return -1


def _kind_folders(root: Path, walk: "_Walk") -> Iterator[tuple[str, tuple[ModelKind, ...]]]:
    """Folders right below the root that have a known name, in the order of `FOLDERS`."""
    top = walk.list_folder(str(root.absolute()))
    names = {entry.name: entry.path for entry in top if _is_folder(entry)}
    for known, kinds in FOLDERS.items():
        for name in sorted(names):
            if name.lower() == known:
                yield names[name], kinds


class _Walk:
    """One walk under way."""

    def __init__(self) -> None:
        self.found: dict[tuple[ModelKind, str], StoredFile] = {}
        self.warnings: list[str] = []
        self.folders: FolderTimes = {}
        self._bytes = 0
        self._cut = False

    def list_folder(self, path: str) -> list["os.DirEntry[str]"]:
        """Entries in order of their names; none, with a warning, when it cannot be read."""
        try:
            # Its time first: what changes during the listing is then seen by the next look.
            self.folders[path] = _mtime(path)
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.warnings.append(f"Cannot read the folder {path}: {error.strerror}.")
            return []

    def files_below(self, folder: str) -> Iterator[tuple[str, str, os.stat_result]]:
        """Model files below a folder: name relative to it, path, status."""
        seen: set[tuple[int, int]] = set()
        waiting = [(folder, "")]
        while waiting and not self._cut:
            path, prefix = waiting.pop()
            if not self._enter(path, seen):
                continue
            below = []
            for entry in self.list_folder(path):
                name = prefix + entry.name
                if _is_folder(entry):
                    below.append((entry.path, name + "/"))
                elif entry.name.lower().endswith(EXTENSIONS):
                    status = _regular_file(entry)
                    if status is not None:
                        yield name, entry.path, status
            waiting += reversed(below)

    def add(self, kind: ModelKind, name: str, path: str, status: os.stat_result) -> None:
        """Take a file in, unless a limit says no."""
        size = len(os.fsencode(name))
        if not _is_sendable(name):
            self.warnings.append(
                f"Left out, its name is too long or not valid UTF-8: {os.fsencode(path)!r}."
            )
        elif (kind, name) in self.found:
            first = self.found[kind, name].path
            self.warnings.append(f"{path} is hidden by {first}, which has the same name and kind.")
        elif (
            len(self.found) >= limits.INVENTORY_FILES_MAX
            or self._bytes + size + _ENTRY_BYTES > limits.INVENTORY_BYTES_MAX
        ):
            if not self._cut:
                self._cut = True
                most = limits.INVENTORY_FILES_MAX
                self.warnings.append(f"More than {most} model files; the rest is left out.")
        else:
            self._bytes += size + _ENTRY_BYTES
            file = ModelFile(kind, name, status.st_size)
            self.found[kind, name] = StoredFile(file, path, status.st_mtime_ns)

    def _enter(self, path: str, seen: set[tuple[int, int]]) -> bool:
        """False for a folder that was walked before by another way: a loop of links."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            self.warnings.append(f"Cannot read the folder {path}: {error.strerror}.")
            return False
        place = (status.st_dev, status.st_ino)
        if place in seen:
            return False
        seen.add(place)
        return True


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _regular_file(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """Status of a regular file; None for broken links, pipes and what vanished meanwhile."""
    try:
        status = entry.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_sendable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return len(name) <= limits.NAME_CHARS_MAX


#: Takes a new list of all files; called from the librarian's thread.
Publish = Callable[[tuple[StoredFile, ...]], None]


class Librarian:
    """Watches the tree and computes digests beside the loop; publishes each new whole list.

    The first walk is made at construction: `first_files` has the digests that the cache knows, and
    the others follow through `publish` as they become known. `models` are the patterns that allow
    models, see `allowed`; none allows all.
    """

    def __init__(self, root: Path, cache: DigestCache, models: Sequence[str] = ()) -> None:
        self._root = root
        self._cache = cache
        self._models = tuple(models)
        self._publish: Publish | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="librarian", daemon=True)
        self._settling = Settling()
        #: Seconds that the last look and the last walk took.
        self._look_s = self._walk_s = 0.0
        self._scan = self._first_walk()
        #: What the walk at construction found.
        self.first_files: tuple[StoredFile, ...] = self._with_digests()
        self._published = self.first_files
        self._looked_at = self._walked_at = self._published_at = time.monotonic()
        #: The list may differ from what was published.
        self._stale = False
        self._unknown = deque(self._scan.files)
        self._warned: set[str] = set()
        self._warn()

    def begin(self, publish: Publish) -> None:
        """Start the thread."""
        self._publish = publish
        self._thread.start()

    def stop(self) -> None:
        """End the thread, within one piece of a file, and wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._cache.end_turn()

    def _run(self) -> None:
        """Hash what is not hashed, look for changes, publish."""
        if sys.platform == "linux":  # where niceness is counted per thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._stop.is_set():
            self._look()
            may_hash = self._may_hash()
            if may_hash and self._unknown:
                self._hash(self._unknown.popleft())
            self._publish_if_due()
            if not self._unknown:
                self._cache.end_turn()
            if not self._unknown or not may_hash:
                self._stop.wait(RESCAN_S)

    def _look(self) -> None:
        """Walk again when something may have changed."""
        now = time.monotonic()
        if now - self._looked_at < max(RESCAN_S, _LOOK_PARTS * self._look_s):
            return
        self._looked_at = now
        full_s = max(FULL_RESCAN_S, _LOOK_PARTS * self._walk_s)
        looks = {path: _look_at(path) for path in self._settling.moving}
        changed = folders_changed(self._scan.folders)
        self._look_s = time.monotonic() - now
        if self._settling.looked(looks) or changed or now - self._walked_at >= full_s:
            self._walked_at = now
            before, self._scan = self._scan.files, self._walk()
            if self._scan.files != before:
                self._stale = True
                self._unknown = deque(self._scan.files)
            self._warn()

    def _first_walk(self) -> Scan:
        """All that is whole; only what changed just now needs a second look for that."""
        began_at, found = time.time_ns(), self._scanned()
        self._settling.whole(found.files)
        looks: dict[str, Look] = {e.path: (e.file.size_bytes, e.mtime_ns) for e in found.files}
        young = [e.path for e in found.files if began_at - e.mtime_ns < _YOUNG_NS]
        if young:
            time.sleep(_START_LOOK_S)
            looks.update({path: _look_at(path) for path in young})
        self._settling.looked(looks)
        return found._replace(files=self._settling.whole(found.files))

    def _walk(self) -> Scan:
        found = self._scanned()
        return found._replace(files=self._settling.whole(found.files))

    def _scanned(self) -> Scan:
        began_at = time.monotonic()
        found = scan(self._root)
        self._walk_s = time.monotonic() - began_at
        return found._replace(files=allowed_files(found.files, self._models))

    def _may_hash(self) -> bool:
        """True unless another worker computes the digests of this tree, which are read instead."""
        while self._unknown and self._cache.get(self._unknown[0]):
            self._unknown.popleft()
        if not self._unknown:
            return True
        is_our_turn = self._cache.take_turn(self._root)
        if self._cache.refresh():
            self._stale = True
        return is_our_turn

    def _hash(self, entry: StoredFile) -> None:
        if not self._cache.get(entry):
            digest = digest_of(entry, self._between_pieces)
            if digest:
                self._cache.put(entry, digest)
                self._stale = True

    def _between_pieces(self) -> bool:
        """Look after changes while a large file is read; True to end."""
        self._look()
        self._publish_if_due()
        return self._stop.is_set()

    def _publish_if_due(self) -> None:
        now = time.monotonic()
        if (
            self._publish is None
            or not self._stale
            or (self._unknown and now - self._published_at < BATCH_S)
        ):
            return
        self._stale, self._published_at = False, now
        files = self._with_digests()
        if files != self._published:
            self._published = files
            self._cache.save(files)
            self._publish(files)

    def _with_digests(self) -> tuple[StoredFile, ...]:
        return tuple(
            msgspec.structs.replace(
                entry, file=msgspec.structs.replace(entry.file, digest=self._cache.get(entry))
            )
            for entry in self._scan.files
        )

    def _warn(self) -> None:
        """Say each warning once."""
        for text in self._scan.warnings:
            if text not in self._warned:
                self._warned.add(text)
                _LOG.warning("%s", text)
