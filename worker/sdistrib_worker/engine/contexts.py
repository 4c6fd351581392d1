"""Which contexts stay loaded: the last used ones, as many as are allowed. Pure.

What goes is freed before its successor is loaded, so that memory peaks no higher than the budget.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

H = TypeVar("H")


class _Entry(NamedTuple, Generic[H]):
    size_bytes: int
    handle: H


class Contexts(Generic[H]):
    """Handles of loaded contexts by their keys, each freed exactly once.

    Args:
        free: gives the memory of a handle back.
        changed: hears the keys that are left, the last used first, after each change.
    """

    def __init__(
        self, free: Callable[[H], None], changed: Callable[[tuple[str, ...]], None]
    ) -> None:
        self._free = free
        self._changed = changed
        #: The last used is the last.
        self._entries: OrderedDict[str, _Entry[H]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def keys(self) -> tuple[str, ...]:
        """What is loaded, the last used first."""
        return tuple(reversed(self._entries))

    def use(self, key: str) -> H | None:
        """What is loaded under this key, from now on the last used; None where nothing is."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if next(reversed(self._entries)) != key:
            self._entries.move_to_end(key)
            self._changed(self.keys)
        return entry.handle

    def make_room(self, key: str, size_bytes: int, most: int, bytes_max: int) -> None:
        """Free what must go before so much is loaded under this key, what is there under it too.

        Args:
            key: what will be loaded.
            size_bytes: its size.
            most: how many may be loaded then, it included.
            bytes_max: how large all may be then; 0 is no bound. It alone may be larger.
        """
        before = len(self._entries)
        if key in self._entries:
            self._drop(key)
        while self._entries and (
            len(self._entries) >= most or 0 < bytes_max < size_bytes + self._size()
        ):
            self._drop(next(iter(self._entries)))
        if len(self._entries) < before:
            self._changed(self.keys)

    def add(self, key: str, size_bytes: int, handle: H) -> None:
        """This was loaded; there must be room for it."""
        assert key not in self._entries  # noqa: S101
        self._entries[key] = _Entry(size_bytes, handle)
        self._changed(self.keys)

    def free(self, key: str) -> None:
        """Free what is loaded under this key; nothing where nothing is."""
        if key in self._entries:
            self._drop(key)
            self._changed(self.keys)

    def free_all(self, but: str = "") -> bool:
        """Free everything, or everything else; False where there was nothing to free."""
        gone = [key for key in self._entries if key != but]
        for key in gone:
            self._drop(key)
        if gone:
            self._changed(self.keys)
        return bool(gone)

    def _size(self) -> int:
        return sum(entry.size_bytes for entry in self._entries.values())

    def _drop(self, key: str) -> None:
        self._free(self._entries.pop(key).handle)
