"""Which files of the models folder are whole, as far as looking can tell. Pure.

A file that is being copied grows from look to look. It is announced when its size and its time of
change have stood still from one look to the next; one that was announced stays so while its size
does, since a touched file is no other file.
"""

from collections.abc import Iterable, Mapping

from sdistrib_worker.shelf import StoredFile

#: Size in bytes and time of change in nanoseconds; None where there is no file now.
Look = tuple[int, int] | None


class Settling:
    """What was seen of each file when it was looked at last."""

    def __init__(self) -> None:
        self._seen: dict[str, Look] = {}
        #: Those that stood still from the look before to the last one.
        self._still: set[str] = set()
        #: Announced files with their sizes.
        self._whole: dict[str, int] = {}
        #: Paths that have not stood still yet, to be looked at again.
        self.moving: frozenset[str] = frozenset()

    def whole(self, files: Iterable[StoredFile]) -> tuple[StoredFile, ...]:
        """A walk found these files; gives those that are whole."""
        entries = tuple(files)
        now: dict[str, Look] = {e.path: (e.file.size_bytes, e.mtime_ns) for e in entries}
        kept = tuple(
            entry
            for entry in entries
            if self._whole.get(entry.path) == entry.file.size_bytes
            or (entry.path in self._still and self._seen[entry.path] == now[entry.path])
        )
        self._whole = {entry.path: entry.file.size_bytes for entry in kept}
        self._seen, self._still = now, set()
        self.moving = frozenset(now.keys() - self._whole.keys())
        return kept

    def looked(self, looks: Mapping[str, Look]) -> bool:
        """Moving files were looked at again; True when one stands still, or is gone."""
        self._still = {path for path, look in looks.items() if look and self._seen[path] == look}
        self._seen.update(looks)
        return bool(self._still) or None in looks.values()
