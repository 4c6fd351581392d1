"""SwarmUI at 021c906: a backend that has the model, else a load where the pressure is highest.

Every image is a request. A backend takes two at a time, the least used one first and then by the
order of the list, which here begins with the fastest, as its documentation advises. While requests
wait for a model there is pressure: ten for each, and one for each second since the first. Whenever
a backend has room, the model with the highest pressure, and no other, may be loaded there, if it
has pressed for 1.5 s or there is no second such backend, and if it is not being loaded already. An
unused backend is preferred, then the one that was last taken or released longest ago; it gets no
requests until it has loaded.
"""

from collections import Counter, defaultdict
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
        super().start(now, sorted(boxes, key=lambda box: known.decode_s[box.name]), known)
        #: When each box was last given something or came to rest.
        self._touched_at = dict.fromkeys(self.boxes, now)
        #: Boxes that are to load or are loading, with the image they do it for.
        self._reserved: dict[str, Image] = {}
        #: When loads that have begun will be done.
        self._loaded_at: dict[str, float] = {}
        #: Since when requests have waited for a model without a break.
        self._since: dict[str, float] = {}
        self._patient_at: float | None = None

    def began(self, now: float, box: str, image: Image) -> None:
        """A load for which a box is reserved begins."""
        if self._reserved.get(box) == image:
            self._loaded_at[box] = now + self.known.load_s[box, image.job.context]

    def finished(self, now: float, box: str, image: Image, load_s: float, draw_s: float) -> None:
        """Released."""
        super().finished(now, box, image, load_s, draw_s)
        self._touched_at[box] = now
        if self._reserved.get(box) == image:
            self._open(box)

    def gone(self, now: float, box: str, lost: Sequence[Image]) -> None:
        """Neither reserved nor loading."""
        super().gone(now, box, lost)
        self._open(box)

    def _open(self, box: str) -> None:
        self._reserved.pop(box, None)
        self._loaded_at.pop(box, None)

    def decide(self, now: float) -> Iterator[Order]:
        """Serve what is loaded, then load, until nothing more can be done."""
        for box in [box for box, at in self._loaded_at.items() if at <= now]:
            self._open(box)
        for grant in self._serve():
            self._touched_at[grant.box] = now
            yield grant
        self._patient_at = None
        waiting = Counter(image.job.context for image in self.waiting)
        self._since = {context: self._since.get(context, now) for context in waiting}
        while (load := self._load(now, waiting)) is not None:
            self._touched_at[load.box] = now
            waiting[load.image.job.context] -= 1
            yield load

    def _serve(self) -> Iterator[Grant]:
        """Requests in order, each to a box that has its model and room."""
        room: dict[str | None, list[str]] = defaultdict(list)
        for box in self.boxes:
            if box not in self._reserved:
                room[self.context[box]].append(box)
        found: list[Grant] = []
        held = {box: len(images) for box, images in self.holds.items()}
        for image in self.waiting:
            boxes = [box for box in room[image.job.context] if held[box] < _USAGES]
            able = [box for box in boxes if self.boxes[box].can(image.job)]
            if able:
                box = min(able, key=held.__getitem__)
                held[box] += 1
                found.append(Grant(box, image))
        for grant in found:
            self.take(grant.box, grant.image)
        yield from found

    def _load(self, now: float, waiting: Counter[str]) -> Grant | None:
        """The oldest image of the model that is to be loaded now, and where."""
        room = [
            box
            for box, images in self.holds.items()
            if len(images) < _USAGES and box not in self._reserved
        ]
        loading = {image.job.context for image in self._reserved.values()}
        pressing = {
            context: count * _PER_REQUEST + now - self._since[context]
            for context, count in waiting.items()
            if count
            and context not in loading
            and any(context in self.boxes[box].contexts for box in room)
        }
        if not pressing:
            return None
        context = max(pressing, key=pressing.__getitem__)
        patient_at = self._since[context] + _PATIENCE_S
        if len(room) > 1 and now < patient_at:
            self._patient_at = patient_at
            return None
        image = next(image for image in self.waiting if image.job.context == context)
        valid = [b for b in room if self.context[b] != context and self.boxes[b].can(image.job)]
        if not valid:
            return None
        box = min(valid, key=lambda box: (bool(self.holds[box]), self._touched_at[box]))
        self._reserved[box] = image
        self.take(box, image)
        return Grant(box, image)

    def wake_at(self) -> float | None:
        """When a load is done, or a model has pressed for long enough."""
        times = list(self._loaded_at.values())
        if self._patient_at is not None:
            times.append(self._patient_at)
        return min(times, default=None)
