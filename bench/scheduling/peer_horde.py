"""AI Horde with reGen workers: each box pulls when it has room.

A pop gives images of one request: the oldest of the highest priority that the box can draw, as
many as the batching rule allows. A box has one batch in work and one queued. With stickiness it
asks, with that probability, only for the model it has loaded, and after an empty answer waits a
second. Kudos, which order requests there, do not exist here. Images are delivered one by one,
which is kinder than the original.
"""

import random
from collections.abc import Iterator

from bench.scheduling.farm import Image
from bench.scheduling.peer_base import Peer
from bench.scheduling.policy import Grant, Order

#: `max_batch` of the worker, and its `max_power` 32: 1024 x 1024.
_AMOUNT = 4
_PIXELS_MAX = 1024 * 1024
_POP_S = 1.0
#: Batches that a box has: one in work, one queued.
_BATCHES = 2
_RANKS = {"high": 0, "normal": 1, "low": 2}


def safe_amount(pixels: int, pixels_max: int, amount: int) -> int:
    """Images of this size in one batch, `ImageWorker.get_safe_amount` without post-processing."""
    return max(1, min(amount, round(pixels_max / 3.5 * amount / pixels)))


class Horde(Peer):
    """Boxes pull batches."""

    def __init__(self, stickiness: float, seed: int) -> None:
        super().__init__()
        self._stickiness = stickiness
        self._rng = random.Random(f"horde/{seed}")
        #: When a box that got nothing asks again.
        self._again_at: dict[str, float] = {}
        self._batches: dict[str, list[set[Image]]] = {}

    def decide(self, now: float) -> Iterator[Order]:
        """Every box with room pops, those with nothing to do first."""
        for place in range(_BATCHES):
            for box in self.boxes:
                held = set(self.holds[box])
                batches = [batch & held for batch in self._batches.get(box, [])]
                self._batches[box] = [batch for batch in batches if batch]
                if len(self._batches[box]) == place and self._again_at.get(box, 0.0) <= now:
                    yield from self._pop(box, now)

    def _pop(self, box: str, now: float) -> Iterator[Order]:
        seen, only = self.boxes[box], None
        if self.context[box] is not None and self._rng.random() < self._stickiness:
            only = self.context[box]
        fitting = (
            image
            for image in self.waiting
            if seen.can(image.job) and only in (None, image.job.context)
        )
        first = min(fitting, key=lambda image: _RANKS[image.job.priority], default=None)
        if first is None:
            if only is not None:
                self._again_at[box] = now + _POP_S
            return
        job = first.job
        amount = safe_amount(job.pixels, seen.pixels_max or _PIXELS_MAX, _AMOUNT)
        batch = [image for image in self.waiting if image.job is job][:amount]
        self._batches[box].append(set(batch))
        for image in batch:
            self.take(box, image)
            yield Grant(box, image)

    def wake_at(self) -> float | None:
        """When the first box asks again, if there is anything to ask for."""
        return min(self._again_at.values(), default=None) if self.waiting else None
