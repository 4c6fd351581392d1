"""Fixed shares: sd-webui-api-queue's box per model, an equal split, and one with stealing."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from bench.scheduling.farm import Image, Workload
from bench.scheduling.peer_base import Peer
from bench.scheduling.policy import Grant, Guesses, Order, SeenBox


def assign(
    works: dict[str, float], speeds: dict[str, float], can: dict[str, frozenset[str]]
) -> dict[str, list[str]]:
    """Which boxes serve which context, as an operator who knows all that will come would set up.

    Args:
        works: drawing that will be asked for, by context.
        speeds: of the boxes.
        can: contexts that each box has files for.
    """
    serving: dict[str, list[str]] = {context: [] for context in works}
    burden = dict.fromkeys(speeds, 0.0)
    for context in sorted(works, key=lambda context: -works[context]):
        able = [box for box in speeds if context in can[box]]
        if able:
            box = min(able, key=lambda box: (burden[box] + works[context]) / speeds[box])
            serving[context].append(box)
            burden[box] += works[context]
    for box in sorted(speeds, key=lambda box: -speeds[box]):
        open_ = [context for context in serving if context in can[box] and serving[context]]
        if not burden[box] and open_:
            speed = {c: sum(speeds[other] for other in serving[c]) for c in open_}
            serving[max(open_, key=lambda c: works[c] / speed[c])].append(box)
    return serving


class Topics(Peer):
    """sd-webui-api-queue: a queue per model, each box serves its own; the oldest first.

    Every image is a request of its own, which spreads better than one request with all of them.
    With more models than boxes a box serves several; there it could not.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self._works: defaultdict[str, float] = defaultdict(float)
        for job in workload.jobs:
            work = job.images * job.steps * job.squares
            self._works[job.context] += work * workload.boxes[0].step_s[job.context]
        self._serving: dict[str, list[str]] = {}

    def start(self, now: float, boxes: Sequence[SeenBox], known: Guesses) -> None:
        """Assign."""
        super().start(now, boxes, known)
        self._assign()

    def gone(self, now: float, box: str, lost: Sequence[Image]) -> None:
        """Assign anew."""
        super().gone(now, box, lost)
        self._assign()

    def _assign(self) -> None:
        speeds = {name: 1 / self.known.decode_s[name] for name in self.boxes}
        can = {name: box.contexts for name, box in self.boxes.items()}
        self._serving = assign(dict(self._works), speeds, can)

    def decide(self, now: float) -> Iterator[Order]:
        """The oldest image of its models to every free box, the fastest first."""
        free = sorted(self.free(), key=self.known.decode_s.__getitem__)
        grants = []
        for image in self.waiting:
            if not free:
                break
            able = [
                name
                for name in free
                if name in self._serving[image.job.context] and self.boxes[name].can(image.job)
            ]
            if able:
                free.remove(able[0])
                grants.append(Grant(able[0], image))
        for grant in grants:
            self.take(grant.box, grant.image)
            yield grant


class EqualSplit(Peer):
    """Each petition's images in turn to all boxes that can draw them, at once and for good."""

    def __init__(self, *, stealing: bool = False) -> None:
        super().__init__()
        self._stealing = stealing
        #: Images that are dealt to each box and not yet granted.
        self._dealt: dict[str, deque[Image]] = {}

    def start(self, now: float, boxes: Sequence[SeenBox], known: Guesses) -> None:
        """Nothing is dealt."""
        super().start(now, boxes, known)
        self._dealt = {name: deque() for name in self.boxes}

    def gone(self, now: float, box: str, lost: Sequence[Image]) -> None:
        """All that the box was dealt is dealt anew."""
        super().gone(now, box, lost)
        self.waiting.update(dict.fromkeys(self._dealt.pop(box)))

    def decide(self, now: float) -> Iterator[Order]:
        """Deal what is new; a free box takes the next of its own, or with stealing of another's."""
        for image in self.waiting:
            able = [name for name, box in self.boxes.items() if box.can(image.job)]
            self._dealt[able[image.number % len(able)]].append(image)
        self.waiting.clear()
        for box in self.free():
            following = self._next(box)
            if following is not None:
                self.take(box, following)
                yield Grant(box, following)

    def _next(self, box: str) -> Image | None:
        mine = self._dealt[box]
        if mine:
            return mine.popleft()
        others = sorted(self._dealt.values(), key=len, reverse=True) if self._stealing else []
        for dealt in others:
            if dealt and self.boxes[box].can(dealt[-1].job):
                return dealt.pop()
        return None
