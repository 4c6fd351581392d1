"""Who does not wait for what a box has loaded: newcomers, and whoever was overtaken for too long.

Fair order is one thing, a loaded context another: a box goes on with what it has, and passes those
who stand before. Two kinds of petitions are not passed: a newcomer's first image, and one that was
passed for longer than the bound. While such a one waits, a box that it would take is given nothing
of worse right.
"""

import sys
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.lines import Head, Key, Line, Lines
from sdistrib_manager.scheduler.outlook import B, Outlooks, Ready
from sdistrib_manager.scheduler.work import Job

#: Nothing stands behind this.
LAST = Key(sys.maxsize, 0, 0.0, 0)


class Bound(NamedTuple):
    """For how long somebody may be overtaken: the longer of the two."""

    seconds: float
    #: Times the load that he waits for.
    loads: float


class Rights(Generic[B]):
    """Whose right is the better one, in one turn."""

    def __init__(
        self,
        now: float,
        bound: Bound,
        costs: Costs,
        lines: Lines,
        outlooks: Outlooks[B],
        able: Callable[[B, Job], bool],
    ) -> None:
        self._now = now
        self._bound = bound
        self._costs = costs
        self._lines = lines
        self._outlooks = outlooks
        self._able = able
        #: What `overtaken`, `limits` and `kept` found; the last for which heads, by which boxes.
        self._overtaken: list[Head] | None = None
        self._limits: dict[B, Key] = {}
        self._kept: dict[B, Head] = {}
        self._kept_for: list[Head] | None = None
        self._firsts: set[B] = set()

    def newcomers(self, heads: list[Head]) -> list[Head]:
        """Those of these heads, in their order."""
        return [head for head in heads if _is_newcomer(head)]

    def overtaken(self) -> list[Head]:
        """Of each line the first petition that was passed for too long, in fair order."""
        if self._overtaken is None:
            found = (self._late(line) for *_, line in self._lines.heads())
            self._overtaken = sorted((head for head in found if head), key=lambda head: head[0])
        return self._overtaken

    def _late(self, line: Line) -> Head | None:
        found = line.overtaken(self._now - self._bound.seconds)
        if found is None or found[1].passed_at is None:
            return None
        bound_s = self._bound.loads * self._costs.typical_load_s(found[1])
        return (*found, line) if self._now - found[1].passed_at >= bound_s else None

    def limits(self, boxes: Iterable[B]) -> Mapping[B, Key]:
        """What goes to a box must have no worse right than this: that of the first overtaken
        petition that it could draw."""
        for box in boxes:
            if box not in self._limits:
                able = (key for key, job, _ in self.overtaken() if self._able(box, job))
                self._limits[box] = next(able, LAST)
        return self._limits

    def next_boxes(self) -> Iterator[tuple[B, Key]]:
        """For each overtaken petition the first box to be free that could draw it."""
        free = self._outlooks.by_readiness() if self.overtaken() else []
        for key, job, _ in self.overtaken():
            able = (
                i for i, one in enumerate(free) if self._able(self._outlooks.boxes[one[1]], job)
            )
            place = next(able, None)
            if place is not None:
                yield self._outlooks.boxes[free.pop(place)[1]], key

    def kept(self) -> dict[B, Head]:
        """Busy boxes that shall be handed nothing else: each is the first to be free for a newcomer
        whom it must load for."""
        heads = self._lines.heads()
        if self._kept_for is not heads:
            self._kept, self._kept_for, self._firsts = {}, heads, set()
            newcomers = self.newcomers(heads)
            free = self._outlooks.by_readiness() if newcomers else []
            for head in newcomers:
                self._keep(head, free)
        return self._kept

    def _keep(self, head: Head, free: list[Ready]) -> None:
        first = self._outlooks.first(head[1], self._able, free)
        if first is not None:
            box = self._outlooks.boxes[first[1]]
            self._firsts.add(box)
            if self._outlooks[box].held:
                self._kept[box] = head
                free.remove(first)

    def was_given(self, box: B, job: Job) -> None:
        """The box was given an image of the job, and its outlook is not known yet."""
        look = self._outlooks[box]
        # One more image in the same context makes a box no better for anybody.
        more = look.held and look.has[:1] == (job.context,)
        if not more or box in self._firsts:
            self._kept_for = None
        before = next((head for head in self._overtaken or () if head[1] is job), None)
        if before is not None:
            self._has_got(before)

    def _has_got(self, before: Head) -> None:
        """An overtaken petition has got something; the next of its line has no better right."""
        self._overtaken = [head for head in self.overtaken() if head is not before]
        self._limits = {box: limit for box, limit in self._limits.items() if limit != before[0]}
        head = self._late(before[2])
        if head is not None:
            insort(self._overtaken, head, key=lambda one: one[0])


def _is_newcomer(head: Head) -> bool:
    return head[0].round < 0 and head[1].newcomer
