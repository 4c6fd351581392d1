"""First come, first served, image by image, each box one at a time."""

from collections.abc import Iterator, Sequence

from bench.scheduling.farm import Image
from bench.scheduling.peer_base import Peer
from bench.scheduling.policy import Grant, Guesses, Order, SeenBox


class Fifo(Peer):
    """The oldest image that a free box can draw goes to the fastest of them."""

    def decide(self, now: float) -> Iterator[Order]:
        """Match until boxes or images run out."""
        free = self.free()
        granted: list[Grant] = []
        for image in self.waiting:
            if not free:
                break
            able = [name for name in free if self.boxes[name].can(image.job)]
            if able:
                box = self.pick(able, image)
                free.remove(box)
                granted.append(Grant(box, image))
        for grant in granted:
            self.take(grant.box, grant.image)
            yield grant

    def pick(self, able: Sequence[str], image: Image) -> str:
        """The fastest box at this image, loads left aside."""
        return min(able, key=lambda name: self.known.draw_s(name, image.job))


class LeastRecent(Fifo):
    """sdistrib in C++: the worker that has been ready for longest; every image is a new context."""

    always_reloads = True

    def start(self, now: float, boxes: Sequence[SeenBox], known: Guesses) -> None:
        """All are ready, in order of joining."""
        super().start(now, boxes, known)
        self._ready = {box.name: place for place, box in enumerate(boxes)}
        self._turn = len(boxes)

    def finished(self, now: float, box: str, image: Image, load_s: float, draw_s: float) -> None:
        """The worker goes to the end of the queue of the ready."""
        super().finished(now, box, image, load_s, draw_s)
        self._ready[box] = self._turn
        self._turn += 1

    def pick(self, able: Sequence[str], image: Image) -> str:
        """Ready for longest."""
        return min(able, key=self._ready.__getitem__)
