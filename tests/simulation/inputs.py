"""Stands for `InputKeeper`: a worker's cache of input files, in memory and a little late."""

import hashlib
from collections.abc import Callable

from sdistrib_worker import effects as fx
from sdistrib_worker import events
from tests.simulation.world import World

#: The real one is a thread with a queue: answers come late, and in order.
_DELAY_S = 0.003


class SimInputs:
    """Files of one box; `whole` outlives the process, as a disk does."""

    def __init__(
        self, world: World, whole: dict[str, bytes], notify: Callable[[events.Event], None]
    ) -> None:
        self._world, self._whole, self._notify = world, whole, notify
        self._parts: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._dead = False

    def order(self, effect: fx.InputEffect) -> None:
        """Do it a little later."""
        self._world.after(_DELAY_S, self._do, effect)

    def stop(self) -> None:
        """End."""
        self._dead = True

    def _do(self, effect: fx.InputEffect) -> None:
        if self._dead:
            return
        match effect:
            case fx.OpenInput(digest, size_bytes):
                self._sizes[digest] = size_bytes
                if digest in self._whole:
                    self._notify(events.InputReady(digest, f"/inputs/{digest}"))
                else:
                    have = len(self._parts.get(digest, b""))
                    self._notify(events.InputOpened(digest, have))
            case fx.WriteInput(digest, offset, data):
                self._notify(self._written(digest, offset, bytes(data)))
            case fx.CloseInput(digest):
                self._sizes.pop(digest, None)
            case fx.ForgetInputs(digests):
                for digest in digests:
                    self._whole.pop(digest, None)
                    self._parts.pop(digest, None)

    def _written(self, digest: str, offset: int, data: bytes) -> events.InputEvent:
        have = self._parts.get(digest, b"")
        if offset != len(have):
            return events.InputFailed(digest, "its pieces came in the wrong order")
        have = self._parts[digest] = have + data
        if len(have) < self._sizes[digest]:
            return events.InputHeld(digest, len(have))
        del self._parts[digest]
        if hashlib.sha256(have).hexdigest() != digest:
            return events.InputBroken(digest)
        self._whole[digest] = have
        return events.InputReady(digest, f"/inputs/{digest}")
