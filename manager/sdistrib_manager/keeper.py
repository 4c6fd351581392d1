"""Puts pictures beside the loop, so that no fsync ever holds up a beat."""

import queue
import threading
from collections.abc import Callable, Sequence

from sdistrib import limits
from sdistrib.protocol.codec import Buffer
from sdistrib_manager.events import BlobFailed, BlobStored
from sdistrib_manager.store.base import Blobs

#: While one waits for the disk the other has the processor. More share the orders into smaller
#: batches, and each batch costs what a single picture does.
_THREADS = 2
#: Pictures of one batch, and the bytes at which it is closed: none is told before all are kept.
_BATCH_MAX = 32
_BATCH_BYTES = 4 * limits.MIB

_Order = tuple[str, Sequence[Buffer]]
_Outcome = BlobStored | BlobFailed


class Keeper:
    """Carries out puts. With slow blobs, in threads that give their outcomes to `done`.

    A thread takes all orders that wait, up to a bound, as one batch: a disk that syncs several
    files together does it in little more time than one. Pictures that come meanwhile are the next
    batch, so that nobody waits for a batch to fill.
    """

    def __init__(self, blobs: Blobs, done: Callable[..., None]) -> None:
        self._blobs = blobs
        self._done = done
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"keeper-{number}", daemon=True)
            for number in range(_THREADS if blobs.slow else 0)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, digest: str, parts: Sequence[Buffer]) -> _Outcome | None:
        """Keep a picture: the outcome at once, or None when `done` will tell it."""
        if self._threads:
            self._orders.put((digest, parts))
            return None
        (outcome,) = self._put([(digest, parts)])
        return outcome

    def _put(self, batch: list[_Order]) -> list[_Outcome]:
        errors = self._blobs.put_all(batch)
        return [
            BlobStored(digest) if error is None else BlobFailed(digest, str(error))
            for (digest, _), error in zip(batch, errors, strict=True)
        ]

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._batch()
            self._done(*self._put(batch))

    def _batch(self) -> tuple[list[_Order], bool]:
        """The orders that wait, at least one unless it is the end; False when it is."""
        batch: list[_Order] = []
        size_bytes = 0
        while len(batch) < _BATCH_MAX and size_bytes < _BATCH_BYTES:
            try:
                order = self._orders.get(block=not batch)
            except queue.Empty:
                break
            if order is None:
                return batch, False
            batch.append(order)
            size_bytes += sum(len(part) for part in order[1])
        return batch, True

    def close(self) -> None:
        """Finish what was ordered and end the threads."""
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join()
