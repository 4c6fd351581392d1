"""Which image goes to which box, and when. Pure: same inputs, same decisions.

Theory of operation. Whenever something changed, `Scheduler.orders` looks at the boxes that have
room. An image goes to the box that finishes it soonest, a load counted in; a slow box takes the
first image in the line that it would finish no later than the others could (so nothing starts on a
slow box that a fast one would be done with sooner). A box first serves what it has loaded. Another
context is loaded for the oldest line that was overtaken for too long, else for the next in fair
order for which the load pays. While it draws, a box is handed the next images that it need not load
for, which can be taken back until they begin. A box that finds nothing to do takes back what
another one holds and has not begun, or races the last images of a slower one. A box may keep
several contexts; that which it used least lately goes for another.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, takewhile
from math import inf
from typing import Generic, NamedTuple, TypeVar

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.lines import Head, Key, Line, Lines
from sdistrib_manager.scheduler.outlook import Outlooks, Ready, left
from sdistrib_manager.scheduler.shares import QUANTUM_S, Shares
from sdistrib_manager.scheduler.takeover import Takeover
from sdistrib_manager.scheduler.work import Box, Held, Job

#: Nobody is overtaken for longer, unless a load takes more than half of it.
OVERTAKEN_S = 60.0
#: A box is asked to give something back at most this often.
_ASK_S = 1.0
#: A box of another pixel class must be sooner by more than this part of the time.
_HARDLY = 0.05
#: Ends that differ by less than this part of an image are equal.
_ROUNDING = 1e-9

_B = TypeVar("_B", bound=Box)


class Give(NamedTuple, Generic[_B]):
    """Hand the next waiting image of the job to the box."""

    box: _B
    job: Job


class TakeBack(NamedTuple, Generic[_B]):
    """The box shall give this back if it has not begun: an idle one is sooner."""

    box: _B
    held: Held


class Race(NamedTuple, Generic[_B]):
    """Hand a second attempt at what another box is at to an idle one."""

    box: _B
    held: Held


Order = Give[_B] | TakeBack[_B] | Race[_B]


@dataclass(slots=True)
class Policy:
    """What an operator may choose."""

    #: Nobody is overtaken for the sake of a loaded context for longer than this,
    overtaken_s: float = OVERTAKEN_S
    #: or than this many times the load it waits for.
    overtaken_loads: float = 2.0
    #: A further copy of a context is loaded when that would pay were the load so much longer. A
    #: load takes time from everybody, and what it replaces may be wanted next.
    copy_cost: float = 1.0
    quantum_s: float = QUANTUM_S
    #: A petition is due this many times its own length after it came.
    stretch: float = 5.0


class Scheduler:
    """Waiting work, learned costs, shares, and the choice."""

    def __init__(self, policy: Policy | None = None, costs: Costs | None = None) -> None:
        self.policy = policy or Policy()
        self.costs = costs or Costs()
        self.shares = Shares(self.policy.quantum_s)
        self.lines = Lines(self.shares)
        #: When each box was last asked for something back.
        self.asked: dict[str, float] = {}

    def orders(
        self,
        now: float,
        boxes: list[_B],
        able: Callable[[_B, Job], bool],
        fits: Callable[[_B, Held], bool],
        held_back: Callable[[Job], bool] = lambda _job: False,
    ) -> Iterator[Order[_B]]:
        """Decide, one order at a time; each must be carried out before the next is asked for.

        Args:
            now: monotonic seconds.
            boxes: those that take work.
            able: whether a box can draw the next image of a job.
            fits: whether a box may take over or race this image, if it is able at all.
            held_back: whether nothing more of a job may be given to anybody now.
        """
        return _Turn(self, now, boxes, able, fits, held_back).orders()

    def arrive(self, job: Job, images: int) -> None:
        """A petition with so many waiting images."""
        job.due = self.due(job, images)
        job.new, job.newcomer = self.shares.arrive(job.client, job.arrived_at)
        job.images = images
        self.lines.change(job, images)

    def due(self, job: Job, images: int) -> float:
        """Until when others may go before a petition of so many images."""
        return job.arrived_at + self.policy.stretch * images * self.costs.typical_s(job)

    def begun(self, box: Box, job: Job, now: float) -> float:
        """An engine turned to an image of the job: its client is served.

        Returns:
            Expected seconds until the picture, loading included if the box must.
        """
        expected_s = self.costs.image_s(box.name, job)
        if job.context not in box.contexts:
            expected_s += self.costs.load_s(box.name, job)
        job.new = False
        self.shares.charge(job.client, expected_s, now)
        return expected_s


class _Turn(Generic[_B]):
    """One look at everything.

    Its time grows with the boxes and the lines, not with the images that wait.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        now: float,
        boxes: list[_B],
        able: Callable[[_B, Job], bool],
        fits: Callable[[_B, Held], bool],
        held_back: Callable[[Job], bool],
    ) -> None:
        self._now = now
        self._costs = scheduler.costs
        self._policy = scheduler.policy
        self._lines = scheduler.lines
        self._asked = scheduler.asked
        self._boxes = boxes
        self._able = able
        self._fits = fits
        self._held_back = held_back
        self._outlooks = Outlooks(boxes, now, scheduler.costs, scheduler.policy.copy_cost)
        #: What `_kept_for` found, for which heads, and the boxes that it rests on.
        self._kept: tuple[list[Head], dict[_B, Head]] | None = None
        self._firsts: set[_B] = set()

    def orders(self) -> Iterator[Order[_B]]:
        while (give := self._next()) is not None:
            self._mark_passed(give)
            yield give
            # One more image in the same context makes a box no better for anybody.
            look = self._outlooks[give.box]
            more = look.held and look.has[:1] == (give.job.context,)
            self._kept = self._kept if more and give.box not in self._firsts else None
            self._outlooks.again(give.box)
        yield from self._make_way()
        if self._outlooks.idle:
            yield from self._help()

    # --- the choice -------------------------------------------------------------------------

    def _next(self) -> Give[_B] | None:
        heads = self._lines.heads()
        idle = self._outlooks.idle
        for priority in sorted({key.priority for key, _, _ in heads}):
            of_it = [one for one in heads if one[0].priority == priority]
            give = None
            if idle:
                give = self._urgent(of_it, idle) or self._loaded(of_it) or self._fresh(of_it, idle)
            roomy = [] if give else [h for h in of_it if self._outlooks.with_room(h[1])]
            if roomy:
                give = self._behind(roomy, self._kept_for(heads))
            if give:
                return give
        return None

    def _may_be_urgent(self, head: Head) -> bool:
        """Whether it is urgent for any box, were loads quick."""
        key, job, line = head
        since = line.passed_at
        overtaken = since is not None and self._now - since >= self._policy.overtaken_s
        return overtaken or (key.round < 0 and job.newcomer)

    def _is_urgent(self, head: Head, box: _B) -> bool:
        """Of a newcomer, or overtaken for too long: it does not wait for what the box has."""
        key, job, line = head
        if key.round < 0 and job.newcomer:
            return True
        since = line.passed_at
        load_s = self._costs.load_s(box.name, job)
        bound_s = max(self._policy.overtaken_s, self._policy.overtaken_loads * load_s)
        return since is not None and self._now - since >= bound_s

    def _urgent(self, heads: list[Head], idle: list[_B]) -> Give[_B] | None:
        """Newcomers, then the line that was overtaken for longest if that is too long."""
        for head in sorted(filter(self._may_be_urgent, heads), key=_urgency):
            boxes = [box for box in idle if self._is_urgent(head, box)]
            give = self._best(head[2], boxes)
            if give is not None:
                return give
        return None

    def _kept_for(self, heads: list[Head]) -> dict[_B, Head]:
        """Busy boxes that shall be handed nothing more: each is the first to be free for an
        urgent line that it must load for."""
        if self._kept is None or self._kept[0] is not heads:
            kept: dict[_B, Head] = {}
            self._firsts = set()
            free = self._outlooks.by_readiness()
            for head in filter(self._may_be_urgent, heads):
                self._keep(head, kept, free)
            self._kept = heads, kept
        return self._kept[1]

    def _keep(self, head: Head, kept: dict[_B, Head], free: list[Ready]) -> None:
        """Keep one of these boxes for the head, if it is to be."""
        first = self._outlooks.first(head[1], self._able, free)
        if first is None:
            return
        box = self._boxes[first[1]]
        self._firsts.add(box)
        if self._outlooks[box].held and self._is_urgent(head, box):
            kept[box] = head
            free.remove(first)

    def _make_way(self) -> Iterator[Order[_B]]:
        """What waits on a box before somebody of better right is taken back if it can be.

        Only where the other would then be handed to that box, so that nothing goes back and forth.
        """
        heads, last = self._lines.heads(), self._last_to_begin()
        if not heads or last is None or last <= heads[0][0]:
            return
        kept = self._kept_for(heads)
        for head in heads:
            # Nothing that was handed out stands behind this one, nor behind those that follow.
            if last <= head[0]:
                break
            boxes = self._would_be_handed(head, kept)
            if boxes and not any(held.revoking for box in boxes for held in box.holds):
                _, place = min((self._end_before(box, head), i) for i, box in enumerate(boxes))
                yield from self._take_back_others(boxes[place], head)

    def _last_to_begin(self) -> Key | None:
        """The last in fair order of what boxes hold and have not begun."""
        held = (held for box in self._boxes for held in box.holds)
        waiting = (h.job for h in held if h.begun_at is None and not h.revoking)
        return max(map(self._lines.key, waiting), default=None)

    def _would_be_handed(self, head: Head, kept: dict[_B, Head]) -> list[_B]:
        """Boxes, in their order, that are at the context or kept for the line.

        What a box was handed for another context that it has does not give way: a steady stream of
        first images would take it back for ever.
        """
        boxes = [box for box in self._outlooks.at_work_on(head[1].context) if box not in kept]
        boxes += [box for box, one in kept.items() if one == head]
        return [box for box in sorted(boxes, key=self._outlooks.place) if self._able(box, head[1])]

    def _end_before(self, box: _B, head: Head) -> float:
        """When the box would have finished the head of a line if all that gives way did so."""
        job = head[1]
        way_s = sum(left(box, held, self._now, self._costs) for held in self._way(box, head))
        return self._outlooks.reckoned(box, job) - way_s

    def _way(self, box: _B, head: Head) -> list[Held]:
        """What gives way: not begun nor about to, and of a lower priority, or in the way of a first
        image."""
        way = []
        for held in list(box.holds)[1:]:
            key = self._lines.key(held.job)
            other = key.priority > head[0].priority or head[0].round < 0 <= key.round
            if held.begun_at is None and not held.revoking and other:
                way.append(held)
        return way

    def _take_back_others(self, box: _B, head: Head) -> Iterator[Order[_B]]:
        way = self._way(box, head)
        if way and self._may_ask(box):
            for held in way:
                yield TakeBack(box, held)

    def _may_ask(self, box: _B) -> bool:
        """Not more often than this, lest anything go back and forth without end."""
        if self._now - self._asked.get(box.name, -inf) < _ASK_S:
            return False
        self._asked[box.name] = self._now
        return True

    def _loaded(self, heads: list[Head]) -> Give[_B] | None:
        """An idle box goes on with what it has loaded."""
        loaded = {context for box in self._outlooks.idle for context in box.contexts}
        for _, job, line in heads:
            if job.context in loaded:
                having = self._outlooks.having(job.context)
                give = self._best(line, [box for box in having if not self._outlooks[box].held])
                if give is not None:
                    return give
        return None

    def _fresh(self, heads: list[Head], idle: list[_B]) -> Give[_B] | None:
        """An idle box loads something else, where that pays."""
        for _, _, line in heads:
            give = self._best(line, idle)
            if give is not None:
                return give
        return None

    def _behind(self, heads: list[Head], kept: dict[_B, Head]) -> Give[_B] | None:
        """A box that draws is handed the next image that it need not load for."""
        for head in heads:
            roomy = self._outlooks.with_room(head[1])
            boxes = [box for box in roomy if kept.get(box, head) == head]
            give = self._best(head[2], boxes)
            if give is not None:
                return give
        return None

    def _first(self, line: Line) -> Job | None:
        """The first job of the line of which more may be given."""
        head = line.head()
        assert head is not None  # noqa: S101
        if not self._held_back(head[1]):
            return head[1]
        return next((job for job in line.ordered() if not self._held_back(job)), None)

    def _best(self, line: Line, boxes: list[_B]) -> Give[_B] | None:
        """The box of these that would be done soonest, and the image of the line for it."""
        job = self._first(line) if boxes else None
        if job is None:
            return None
        ends = sorted(
            (
                (self._outlooks.reckoned(box, job), i)
                for i, box in enumerate(boxes)
                if self._able(box, job)
            ),
        )
        for end, i in self._preferred(job, boxes, ends):
            chosen = self._pick(line, job, boxes[i], end)
            if chosen is not None:
                return Give(boxes[i], chosen)
        return None

    def _preferred(self, job: Job, boxes: list[_B], ends: list[Ready]) -> list[Ready]:
        """Ends in order, but boxes of the class that the job prefers and that are hardly later than
        the soonest go first, and count as soon as that."""
        if job.prefers is None or not ends:
            return ends
        soonest = ends[0][0]
        limit = soonest + _HARDLY * (soonest - self._now)
        alike = [i for end, i in ends if end <= limit and boxes[i].pixel_class == job.prefers]
        others = [(end, i) for end, i in ends if i not in alike]
        return [(soonest, i) for i in alike] + others

    def _pick(self, line: Line, first: Job, box: _B, end: float) -> Job | None:
        """The first image of the line that others would not have finished before `end`."""
        before = self._done_by_others(first, box, end, line.images)
        if before >= line.images:
            return None
        if not before:
            return first
        for job in line.ordered():
            if before < job.waiting and self._able(box, job):
                return job
            before -= job.waiting
        return first

    def _done_by_others(self, job: Job, box: _B, end: float, enough: int) -> int:
        """Images of the line that other boxes would finish before `end`.

        Of boxes that are at something else nothing is expected.
        """
        count = 0
        having = self._outlooks.at_work_on(job.context)
        idle = (other for other in self._outlooks.idle if job.context not in other.contexts)
        for other in chain(having, idle):
            ready_at = self._outlooks[other].ready_at
            if other is box or ready_at >= end or not self._able(other, job):
                continue
            image_s = self._costs.image_s(other.name, job)
            first = self._outlooks.reckoned(other, job)
            if first < end:
                count += 1 + int((end - first) / image_s - _ROUNDING)
            if count >= enough:
                break
        return count

    def _mark_passed(self, give: Give[_B]) -> None:
        """Who stands before this job in fair order and could have had the box was passed."""
        line = self._lines.of(give.job)
        for _, job, other in takewhile(lambda head: head[2] is not line, self._lines.heads()):
            if self._able(give.box, job):
                other.passed(self._now)

    # --- idle boxes -------------------------------------------------------------------------

    def _help(self) -> Iterator[Order[_B]]:
        """Nothing waits for these boxes: take over, or race, what a slower one holds."""
        takeover = Takeover(self._now, self._costs, self._outlooks, self._able, self._fits)
        free = list(self._outlooks.idle)
        for held in [held for box in self._boxes for held in box.holds if held.revoking]:
            takeover.feed(held, free)
        while free:
            box = free[0]
            found = takeover.best(box)
            if found is not None and found[1].begun_at is None and self._may_ask(found[0]):
                yield TakeBack(*found)
                takeover.feed(found[1], free)
                continue
            del free[0]
            if found is not None and found[1].begun_at is not None:
                held = found[1]
                yield Race(box, held)
                self._outlooks.again(box)
                takeover.add(box)


def _urgency(head: Head) -> tuple[bool, float, Key]:
    key, _, line = head
    since = line.passed_at
    return key.round >= 0, since if since is not None else inf, key
