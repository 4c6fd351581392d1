"""Pictures in memory between the disk's having them and their being sent."""

from collections import OrderedDict
from dataclasses import dataclass

from sdistrib.protocol.codec import Buffer

#: A picture that nobody was sent keeps its place for so long; perhaps nobody listens to it.
_UNSENT_S = 5.0


@dataclass(slots=True)
class _View:
    data: Buffer
    #: From this time on another may have its place.
    free_at: float


class Views:
    """A bounded number of bytes, in the order in which they are likely to be sent.

    A client that is slower than the workers gets pictures in the order in which they were made. To
    make room for the newest by dropping the oldest would drop each one just before its turn, so the
    newest stay out, until what was sent gives its place.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        #: Those that were sent stand first, then by age.
        self._views: OrderedDict[str, _View] = OrderedDict()

    def put(self, digest: str, data: Buffer, now: float, *, force: bool = False) -> None:
        """Have these bytes at hand if there is room for them, with `force` in any case."""
        self._drop(digest)
        if len(data) > self._bytes_max and not force:
            return
        while self._views and self._bytes + len(data) > self._bytes_max:
            oldest = next(iter(self._views))
            if self._views[oldest].free_at > now and not force:
                return
            self._drop(oldest)
        self._views[digest] = _View(data, now + _UNSENT_S)
        self._bytes += len(data)

    def get(self, digest: str) -> Buffer | None:
        """The bytes, None when they are not at hand."""
        view = self._views.get(digest)
        return view.data if view else None

    def sent(self, digest: str) -> None:
        """The last of it is on its way: its place is free for another."""
        view = self._views.get(digest)
        if view is not None:
            view.free_at = 0.0
            self._views.move_to_end(digest, last=False)

    def clear(self) -> None:
        """Have nothing at hand."""
        self._views.clear()
        self._bytes = 0

    def _drop(self, digest: str) -> None:
        view = self._views.pop(digest, None)
        self._bytes -= len(view.data) if view else 0
