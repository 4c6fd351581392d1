"""Puts pictures beside the loop, so that no fsync ever holds up a beat."""

import queue
import threading
from collections.abc import Callable, Sequence

from sdistrib.errors import StoreError
from sdistrib.protocol.codec import Buffer
from sdistrib_manager.events import BlobFailed, BlobStored
from sdistrib_manager.store.base import Blobs

#: Disks do several fsyncs at once; more threads than this only queue in the kernel.
_THREADS = 4

_Order = tuple[str, Sequence[Buffer]]


class Keeper:
    """Carries out puts. With slow blobs, in threads that tell `done` when each is finished."""

    def __init__(self, blobs: Blobs, done: Callable[[BlobStored | BlobFailed], None]) -> None:
        self._blobs = blobs
        self._done = done
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"keeper-{number}", daemon=True)
            for number in range(_THREADS if blobs.slow else 0)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, digest: str, parts: Sequence[Buffer]) -> BlobStored | BlobFailed | None:
        """Keep a picture: the outcome at once, or None when `done` will tell it."""
        if not self._threads:
            return self._put(digest, parts)
        self._orders.put((digest, parts))
        return None

    def _put(self, digest: str, parts: Sequence[Buffer]) -> BlobStored | BlobFailed:
        try:
            self._blobs.put(digest, parts)
        except StoreError as error:
            return BlobFailed(digest, str(error))
        return BlobStored(digest)

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            self._done(self._put(*order))

    def close(self) -> None:
        """Finish what was ordered and end the threads."""
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join()
