"""Boxes as they will be when they have finished what they hold."""

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.work import Box, Contexts, Held, Job, left_by

#: A box may hold one image beside the running one, and more while all of them take no longer.
HOLD_S = 2.0
#: ... but never more than this many.
HOLD_MAX = 16
_HOLD_MIN = 2

B = TypeVar("B", bound=Box)
#: When a box will be free, and its place among all.
Ready = tuple[float, int]


@dataclass(slots=True)
class Outlook:
    """When a box will be free, and what it will have loaded then."""

    #: Monotonic seconds.
    ready_at: float
    contexts: Contexts
    #: How many contexts it keeps.
    keep: int
    #: Images it holds.
    held: int
    #: Seconds of work it holds.
    held_s: float
    #: What it will have loaded beside these, for the last job that needs such a thing.
    beside: Hashable = None

    @property
    def has(self) -> Contexts:
        """All that need not be loaded."""
        return self.contexts if self.beside is None else (*self.contexts, self.beside)

    def after(self, job: Job, takes_s: float, images: int = 1) -> "Outlook":
        """The same with more images, which take so long together."""
        return Outlook(
            self.ready_at + takes_s,
            left_by(self.contexts, job, self.keep),
            self.keep,
            self.held + images,
            self.held_s + takes_s,
            job.context if job.beside else self.beside,
        )

    def begin_at(self, costs: Costs, box: Box, job: Job) -> float:
        """When the box could begin an image of the job, its context loaded."""
        load_s = 0.0 if job.context in self.has else costs.load_s(box.name, job)
        return self.ready_at + load_s

    @property
    def has_space(self) -> bool:
        """A further context would replace none."""
        return len(self.contexts) < self.keep

    def replaces(self, job: Job) -> bool:
        """Something else would have to go for the job."""
        return not (job.beside or job.context in self.contexts or self.has_space)

    def loads_of_others(self, job: Job, copies: Callable[[Hashable], int]) -> int:
        """Loads that a further copy of the job's context costs others.

        Args:
            job: it has no copy cost where nothing is replaced, or no box has its context.
            copies: how many boxes have a context, or will.
        """
        if not self.replaces(job) or not copies(job.context):
            return 0
        # What was not used for longest goes; the last copy of it will have to be loaded again.
        return 1 + (copies(self.contexts[-1]) == 1)


def outlook(box: Box, now: float, costs: Costs) -> Outlook:
    """What is expected of a box, by what it holds and what that costs."""
    look = Outlook(now, box.contexts, box.keep, 0, 0.0)
    for held in box.holds:
        look = look.after(held.job, _takes(box, held, look, now, costs))
    return look


def ends(box: Box, now: float, costs: Costs) -> Iterator[tuple[Held, float]]:
    """What the box holds, in order, and when it will have finished each."""
    look = Outlook(now, box.contexts, box.keep, 0, 0.0)
    for held in box.holds:
        look = look.after(held.job, _takes(box, held, look, now, costs))
        yield held, look.ready_at


def _takes(box: Box, held: Held, look: Outlook, now: float, costs: Costs) -> float:
    """Seconds from the end of what goes before, which leaves the box like this."""
    load_s = 0.0
    if held.begun_at is None and held.job.context not in look.has:
        load_s = costs.load_s(box.name, held.job)
    return load_s + left(box, held, now, costs)


def left(box: Box, held: Held, now: float, costs: Costs) -> float:
    """Seconds until an image would be done, had the box nothing else; loading only if it began."""
    if held.begun_at is None:
        return costs.image_s(box.name, held.job)
    expected_s, spent_s = held.expected_s, now - held.begun_at
    if held.sampling_at is not None and not costs.knows(box.name, held.job):
        # Each of its steps takes at least as long as it has waited for the first.
        first_s = now - held.sampling_at
        expected_s = max(expected_s, spent_s - first_s + held.job.steps * first_s)
    # What takes longer than expected may take as long again as it is late.
    return abs(expected_s - spent_s)


class Outlooks(Generic[B]):
    """All boxes of one turn, found by what they will have loaded and when they will be free."""

    def __init__(self, boxes: list[B], now: float, costs: Costs, copy_cost: float) -> None:
        self.boxes = boxes
        self._now = now
        self._costs = costs
        self._copy_cost = copy_cost
        self._of: dict[B, Outlook] = {}
        self._places = {box: place for place, box in enumerate(boxes)}
        #: Places by context, in order, and of those with room those that hold something.
        self._by_context: dict[Hashable, list[int]] = {}
        self._roomy: dict[Hashable, set[B]] = {}
        #: Those that a further context would replace nothing in.
        self._spacious: set[B] = set()
        #: In order.
        self._ready: list[Ready] = []
        #: Boxes that hold nothing, in order.
        self.idle: list[B] = []
        for place, box in enumerate(boxes):
            look = self._look(box)
            for context in look.has:
                self._by_context.setdefault(context, []).append(place)
            self._ready.append((look.ready_at, place))
        self._ready.sort()
        self._find_idle()

    def __getitem__(self, box: B) -> Outlook:
        return self._of[box]

    def again(self, box: B) -> None:
        """What the box holds has changed."""
        place, before = self._places[box], self._of[box]
        for context in before.has:
            self._by_context[context].remove(place)
            self._roomy.get(context, set()).discard(box)
        self._spacious.discard(box)
        self._ready.remove((before.ready_at, place))
        look = self._look(box)
        for context in look.has:
            insort(self._by_context.setdefault(context, []), place)
        insort(self._ready, (look.ready_at, place))
        self._find_idle()

    def _look(self, box: B) -> Outlook:
        look = self._of[box] = outlook(box, self._now, self._costs)
        quick = look.held < HOLD_MAX and look.held_s < HOLD_S
        if look.held and (look.held < _HOLD_MIN or quick):
            for context in look.has:
                self._roomy.setdefault(context, set()).add(box)
        if look.has_space:
            self._spacious.add(box)
        return look

    def _find_idle(self) -> None:
        self.idle = [box for box in self.boxes if not self._of[box].held]

    def place(self, box: B) -> int:
        """Its place among the boxes of this turn."""
        return self._places[box]

    def having(self, context: Hashable) -> list[B]:
        """Boxes that have the context, or will."""
        return [self.boxes[place] for place in self._by_context.get(context, ())]

    def at_work_on(self, context: Hashable) -> list[B]:
        """Those of them that will not be at something else before: idle, or it comes last."""
        having = self.having(context)
        return [box for box in having if self._is_at(self._of[box], context)]

    @staticmethod
    def _is_at(look: Outlook, context: Hashable) -> bool:
        return not look.held or context in (*look.contexts[:1], look.beside)

    def roomy(self) -> set[B]:
        """Boxes that draw, and may be handed one more image of something."""
        return set().union(*self._roomy.values())

    def with_room(self, job: Job) -> list[B]:
        """Boxes that draw, and may be handed one more image: this one, which they need not load
        for."""
        roomy = self._roomy.get(job.context)
        if not roomy:
            return []
        return sorted((box for box in roomy if self._has_room(box, job)), key=self.place)

    def _has_room(self, box: B, job: Job) -> bool:
        look = self._of[box]
        if look.held < _HOLD_MIN:
            return True
        quick = look.held_s + self._costs.image_s(box.name, job) <= HOLD_S
        return quick and look.held < (box.most(job) or HOLD_MAX)

    def end(self, box: B, job: Job) -> float:
        """When the box would have finished one more image: this one."""
        begin_at = self._of[box].begin_at(self._costs, box, job)
        return begin_at + self._costs.image_s(box.name, job)

    def reckoned(self, box: B, job: Job) -> float:
        """The same with what a further copy of the context costs others."""
        end = self.end(box, job)
        loads = self._of[box].loads_of_others(job, self._copies)
        if loads:
            end += loads * self._copy_cost * self._costs.load_s(box.name, job)
        return end

    def _copies(self, context: Hashable) -> int:
        return len(self._by_context.get(context, ()))

    def by_readiness(self) -> list[Ready]:
        """All boxes, the first to be free first."""
        return list(self._ready)

    def first(self, job: Job, able: Callable[[B, Job], bool], among: list[Ready]) -> Ready | None:
        """Of these boxes, by readiness, the one that would be done with this image soonest.

        Boxes that would have to load are looked at in the order in which they will be free, until
        none that follows can be sooner even with the quickest load there is.
        """
        having = self._by_context.get(job.context, ())
        floor_s = self._costs.least_load_s
        if having and not self._spacious:
            floor_s += self._copy_cost * floor_s
        first, best = None, (inf, 0)
        for place in having:
            box = self.boxes[place]
            one = self._of[box].ready_at, place
            if self._holds(among, one) and able(box, job):
                end = self.reckoned(box, job), place
                if end < best:
                    first, best = one, end
        for one in among:
            if one[0] + floor_s >= best[0]:
                break
            box = self.boxes[one[1]]
            if job.context not in self._of[box].has and able(box, job):
                end = self.reckoned(box, job), one[1]
                if end < best:
                    first, best = one, end
        return first

    @staticmethod
    def _holds(among: list[Ready], one: Ready) -> bool:
        at = bisect_left(among, one)
        return at < len(among) and among[at] == one
