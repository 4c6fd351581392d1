"""When a petition will be drawn, and by whom, as things stand. Pure: same inputs, same forecast.

Water-filling: images go one after the other to the box that would finish the next one soonest, a
load counted in, by the same reckoning as the choice in `policy`. The level up to which all boxes
are busy is found at once, so that a petition costs one look at each box, however many its images.
What is placed stays: the next petition comes on top of it.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.outlook import Outlook, outlook
from sdistrib_manager.scheduler.work import Box, Job

_B = TypeVar("_B", bound=Box)


class Placed(NamedTuple, Generic[_B]):
    """What one box is expected to do for a petition."""

    box: _B
    #: How many of its images.
    images: int
    #: Seconds for one of them, and for loading before; 0 when its context will be loaded.
    image_s: float
    load_s: float
    #: When the last of them would be finished; for none, when one would be.
    end: float
    #: The times were learned from the box's own work.
    known: bool


class _Filling(NamedTuple, Generic[_B]):
    """A box while images are poured over all of them."""

    #: When it could begin, with what a further copy of a context costs others.
    reckoned_at: float
    image_s: float
    #: Tells equal ones apart.
    place: int
    box: _B


class Forecast(Generic[_B]):
    """Boxes as they will be, petition after petition."""

    def __init__(
        self,
        costs: Costs,
        copy_cost: float,
        now: float,
        boxes: list[_B],
        able: Callable[[_B, Job], bool],
    ) -> None:
        self._costs = costs
        self._copy_cost = copy_cost
        self._able = able
        self._looks: dict[_B, Outlook] = {box: outlook(box, now, costs) for box in boxes}

    def first(self, job: Job) -> _B | None:
        """The box that would finish one image of the job soonest; None when none can."""
        filling = self._filling(job)
        soonest = min(filling, key=lambda one: (_end(one, 1), one.place), default=None)
        return soonest.box if soonest is not None else None

    def place(self, job: Job, images: int) -> list[Placed[_B]]:
        """Put so many images of the job on the boxes; one row for each that is able."""
        filling = self._filling(job)
        counts = _poured(filling, images)
        rows = [self._placed(job, one, count) for one, count in zip(filling, counts, strict=True)]
        for row in rows:
            if row.images:
                at = self._looks[row.box]
                self._looks[row.box] = at.after(job, row.end - at.ready_at, row.images)
        return rows

    def _filling(self, job: Job) -> list[_Filling[_B]]:
        copies = Counter(context for at in self._looks.values() for context in at.contexts)
        filling = []
        for place, (box, at) in enumerate(self._looks.items()):
            if self._able(box, job):
                reckoned_at = at.begin_at(self._costs, box, job)
                loads = at.loads_of_others(job, copies.__getitem__)
                if loads:
                    reckoned_at += loads * self._copy_cost * self._costs.load_s(box.name, job)
                filling.append(
                    _Filling(reckoned_at, self._costs.image_s(box.name, job), place, box)
                )
        return filling

    def _placed(self, job: Job, one: _Filling[_B], images: int) -> Placed[_B]:
        at = self._looks[one.box]
        begin_at = at.begin_at(self._costs, one.box, job)
        return Placed(
            box=one.box,
            images=images,
            image_s=one.image_s,
            load_s=begin_at - at.ready_at,
            end=begin_at + max(1, images) * one.image_s,
            known=self._costs.knows(one.box.name, job),
        )


def _end(one: _Filling[_B], images: int) -> float:
    return one.reckoned_at + images * one.image_s


def _poured(filling: list[_Filling[_B]], images: int) -> list[int]:
    """How many images each box gets so that the last is finished as soon as can be."""
    counts = [0] * len(filling)
    if not filling:
        return counts
    level = _level(filling, images)
    for i, one in enumerate(filling):
        counts[i] = max(0, int((level - one.reckoned_at) / one.image_s))
    # Images are whole: what the level cuts off goes where it ends soonest, one for one.
    soonest = [(_end(one, counts[i] + 1), i) for i, one in enumerate(filling)]
    heapq.heapify(soonest)
    for _ in range(images - sum(counts)):
        _, i = soonest[0]
        counts[i] += 1
        heapq.heapreplace(soonest, (_end(filling[i], counts[i] + 1), i))
    return counts


def _level(filling: list[_Filling[_B]], images: int) -> float:
    """Until when all boxes that begin before would be busy, were images fluid."""
    poured, rate, level = 0.0, 0.0, 0.0
    for one in sorted(filling):
        if rate and poured + (one.reckoned_at - level) * rate >= images:
            break
        poured += (one.reckoned_at - level) * rate
        level = one.reckoned_at
        rate += 1.0 / one.image_s
    return level + (images - poured) / rate
