"""SwarmUI: the first backend that has the model, else a load where the pressure is highest.

Every image is a request. A backend takes `_USAGES` at a time; which one is taken first is the
order of the list, here the fastest first, as its documentation advises. A model that has waited
`_PATIENCE_S` may be loaded on an idle backend: the model with the most pressure, on the backend
that has been idle for longest, and one load per model at a time.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from bench.scheduling.farm import Image
from bench.scheduling.peer_base import Peer
from bench.scheduling.policy import Grant, Guesses, Order, SeenBox

_USAGES = 2
_PATIENCE_S = 1.5
#: Seconds of waiting that one more request is worth.
_PER_REQUEST = 10.0


class Swarm(Peer):
    """Pressure model loading."""

    def start(self, now: float, boxes: Sequence[SeenBox], known: Guesses) -> None:
        """The fastest come first in the list."""
        speed = {box.name: known.decode_s[box.name] for box in boxes}
        super().start(now, sorted(boxes, key=lambda box: speed[box.name]), known)
        self._released_at = dict.fromkeys(self.boxes, now)
        self._loading_until: dict[str, float] = {}
        self._wake_at: float | None = None

    def finished(self, now: float, box: str, image: Image, load_s: float, draw_s: float) -> None:
        """A backend that comes to rest is the last to get another model."""
        super().finished(now, box, image, load_s, draw_s)
        self._released_at[box] = now

    def decide(self, now: float) -> Iterator[Order]:
        """Serve what is loaded, then load, until nothing more can be done."""
        self._wake_at = None
        yield from self._serve()
        while (load := self._load(now)) is not None:
            yield load
            yield from self._serve()

    def _serve(self) -> Iterator[Grant]:
        room: dict[str | None, list[str]] = defaultdict(list)
        for box, images in self.holds.items():
            room[self.context[box]] += [box] * (_USAGES - len(images))
        grants = []
        for image in self.waiting:
            at = room[image.job.context]
            box = next((name for name in at if self.boxes[name].can(image.job)), None)
            if box is not None:
                at.remove(box)
                grants.append(Grant(box, image))
        for grant in grants:
            self.take(grant.box, grant.image)
            yield grant

    def _load(self, now: float) -> Grant | None:
        """The image whose model is to be loaded next, and where."""
        first: dict[str, Image] = {}
        pressure: dict[str, float] = defaultdict(float)
        for image in self.waiting:
            if image.job.context not in first:
                first[image.job.context] = image
                pressure[image.job.context] = now - image.job.arrives_at
            pressure[image.job.context] += _PER_REQUEST
        idle = self.free()
        for context in sorted(first, key=lambda context: -pressure[context]):
            image = first[context]
            able = [box for box in idle if self.boxes[box].can(image.job)]
            ready_at = max(
                self._loading_until.get(context, 0.0),
                image.job.arrives_at + (_PATIENCE_S if len(able) > 1 else 0.0),
            )
            if not able:
                continue
            if now < ready_at:
                self._wake_at = min(ready_at, self._wake_at or ready_at)
                continue
            box = min(able, key=self._released_at.__getitem__)
            self._loading_until[context] = now + self.known.load_s[box, context]
            self.take(box, image)
            return Grant(box, image)
        return None

    def wake_at(self) -> float | None:
        """When the next model may be loaded."""
        return self._wake_at
