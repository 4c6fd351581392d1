"""Which image goes to which box, and when. Pure: same inputs, same decisions.

Theory of operation. Whenever something changed, `Scheduler.orders` looks at the boxes that have
room. An image goes to the box that finishes it soonest, a load counted in; a slow box takes the
first image in the line that it would finish no later than the others could (so nothing starts on a
slow box that a fast one would be done with sooner). A box first serves what it has loaded. Another
context is loaded for the next in fair order for which the load pays. Who was passed for too long,
for the sake of what is loaded, is passed no more. While it draws, a box is handed the next images
that it need not load for, which can be taken back until they begin. A box that finds nothing to do
takes back what another one holds and has not begun, or races the last images of a slower one. A box
may keep several contexts; that which it used least lately goes for another.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Generic, NamedTuple, TypeVar

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.lines import Head, Key, Line, Lines
from sdistrib_manager.scheduler.outlook import Outlooks, Ready, left
from sdistrib_manager.scheduler.rights import LAST, Bound, Rights
from sdistrib_manager.scheduler.rivals import Rivals
from sdistrib_manager.scheduler.shares import QUANTUM_S, Shares
from sdistrib_manager.scheduler.takeover import Takeover
from sdistrib_manager.scheduler.work import Box, Held, Job

#: Nobody is overtaken for longer, unless a load takes more than half of it.
OVERTAKEN_S = 60.0
#: A box is asked to give something back at most this often.
_ASK_S = 1.0
#: A box of another pixel class must be sooner by more than this part of the time.
_HARDLY = 0.05
#: Who was overtaken for too long waits for a better box only if that would be done in this part of
#: the time: what is better is wanted by others as well.
_HURRY = 0.1

#: Limits where there are none.
_NONE: Mapping[Any, Key] = {}

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


class Progress(NamedTuple):
    """How far the sampling of an image is."""

    #: In all, and done.
    steps: int
    done: int
    #: Seconds of the last one.
    step_s: float


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
        job.new, job.passed_before = False, None
        self.shares.charge(job.client, expected_s, now)
        return expected_s

    def stepped(self, box: Box, held: Held, progress: Progress, now: float) -> float:
        """An image that the box draws has come so far.

        Returns:
            Expected seconds from its beginning to the picture. What was learned of the box stands
            where more is to come than these steps, as in highres fix.
        """
        steps, done, step_s = progress
        known = self.costs.knows(box.name, held.job)
        if held.begun_at is None or (known and steps != held.job.steps):
            return held.expected_s
        left_s = max(0, steps - done) * step_s
        return now - held.begun_at + left_s + self.costs.rest_s(box.name, held.job)


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
        bound = Bound(self._policy.overtaken_s, self._policy.overtaken_loads)
        self._rights = Rights(now, bound, self._costs, self._lines, self._outlooks, able)
        #: Lines that leave their images to others than the boxes with room.
        self._refused: set[Line] = set()

    def orders(self) -> Iterator[Order[_B]]:
        while (give := self._next()) is not None:
            self._mark_passed(give)
            yield give
            self._rights.was_given(give.box, give.job)
            self._outlooks.again(give.box)
            # Boxes that are at this have more to do now, which may be too much for them.
            context = give.job.context
            self._refused = {line for line in self._refused if line.context != context}
        yield from self._make_way()
        if self._outlooks.idle:
            yield from self._help()

    # --- the choice -------------------------------------------------------------------------

    def _next(self) -> Give[_B] | None:
        heads = self._lines.heads()
        idle = self._outlooks.idle
        for priority in sorted({key.priority for key, _, _ in heads}):
            of_it = [one for one in heads if one[0].priority == priority]
            give = self._to_idle(of_it, idle) if idle else None
            give = give or self._behind(of_it)
            if give:
                return give
        return None

    def _to_idle(self, heads: list[Head], idle: list[_B]) -> Give[_B] | None:
        """Newcomers first. Else a box goes on with what it has loaded, or loads where that pays;
        but nobody who was overtaken for too long, and would take an idle box, is passed again."""
        for head in self._rights.newcomers(heads):
            give = self._best(head[2], idle, _NONE)
            if give is not None:
                return give
        for key, _, line in self._rights.overtaken():
            if key.priority > heads[0][0].priority:
                break
            limits = dict.fromkeys(idle, key)
            give = self._best(line, idle, limits, hurry=_HURRY)
            if give is not None:
                before = [head for head in heads if head[0] <= key]
                return self._loaded(before, limits) or self._fresh(before, idle, limits) or give
        return self._loaded(heads) or self._fresh(heads, idle)

    def _make_way(self) -> Iterator[Order[_B]]:
        """What waits on a box before somebody of better right is taken back if it can be.

        Only where the other would then be handed to that box, so that nothing goes back and forth.
        """
        heads, last = self._lines.heads(), self._last_to_begin()
        if not heads or last is None or last <= heads[0][0]:
            return
        for box, key in self._rights.next_boxes():
            yield from self._take_back(box, key.__lt__)
        kept = self._rights.kept()
        for head in heads:
            # Nothing that was handed out stands behind this one, nor behind those that follow.
            if last <= head[0]:
                break
            # Nor does anything give way to it, if not even the last does.
            if not _gives_way(head[0], last):
                continue
            boxes = self._would_be_handed(head, kept)
            if boxes and not any(held.revoking for box in boxes for held in box.holds):
                _, place = min((self._end_before(box, head), i) for i, box in enumerate(boxes))
                yield from self._take_back(boxes[place], partial(_gives_way, head[0]))

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
        way = self._way(box, partial(_gives_way, head[0]))
        way_s = sum(left(box, held, self._now, self._costs) for held in way)
        return self._outlooks.reckoned(box, head[1]) - way_s

    def _way(self, box: _B, gives_way: Callable[[Key], bool]) -> list[Held]:
        """What gives way on a box: of these, what has not begun nor is about to."""
        after = (held for held in list(box.holds)[1:] if held.begun_at is None)
        return [
            held for held in after if not held.revoking and gives_way(self._lines.key(held.job))
        ]

    def _take_back(self, box: _B, gives_way: Callable[[Key], bool]) -> Iterator[Order[_B]]:
        way = self._way(box, gives_way)
        if way and self._may_ask(box):
            for held in way:
                yield TakeBack(box, held)

    def _may_ask(self, box: _B) -> bool:
        """Not more often than this, lest anything go back and forth without end."""
        if self._now - self._asked.get(box.name, -inf) < _ASK_S:
            return False
        self._asked[box.name] = self._now
        return True

    def _loaded(self, heads: list[Head], limits: Mapping[_B, Key] = _NONE) -> Give[_B] | None:
        """An idle box goes on with what it has loaded."""
        loaded = {context for box in self._outlooks.idle for context in box.contexts}
        for _, job, line in heads:
            if job.context in loaded:
                having = self._outlooks.having(job.context)
                boxes = [box for box in having if not self._outlooks[box].held]
                give = self._best(line, boxes, limits)
                if give is not None:
                    return give
        return None

    def _fresh(
        self, heads: list[Head], idle: list[_B], limits: Mapping[_B, Key] = _NONE
    ) -> Give[_B] | None:
        """An idle box loads something else, where that pays."""
        for _, _, line in heads:
            give = self._best(line, idle, limits)
            if give is not None:
                return give
        return None

    def _behind(self, heads: list[Head]) -> Give[_B] | None:
        """A box that draws is handed the next image that it need not load for."""
        kept = self._rights.kept()
        roomy = self._outlooks.roomy()
        limits = self._rights.limits(roomy)
        worst = max(map(limits.__getitem__, roomy), default=None)
        for key, job, line in heads:
            if worst is None or worst < key:
                break
            if line in self._refused:
                continue
            free = (box for box in self._outlooks.with_room(job) if key <= limits[box])
            boxes = [box for box in free if box not in kept or key <= kept[box][0]]
            give = self._best(line, boxes, limits)
            if give is not None:
                return give
            if boxes:
                self._refused.add(line)
        return None

    def _first(self, line: Line) -> Job | None:
        """The first job of the line of which more may be given."""
        head = line.head()
        assert head is not None  # noqa: S101
        if not self._held_back(head[1]):
            return head[1]
        return next((job for job in line.ordered() if not self._held_back(job)), None)

    def _best(
        self,
        line: Line,
        boxes: list[_B],
        limits: Mapping[_B, Key],
        hurry: float = 1.0,
    ) -> Give[_B] | None:
        """The box of these that would be done soonest, and the image of the line for it.

        Args:
            line: has a head.
            boxes: among these.
            limits: of what boxes may be given, see `Rights.limits`; no limit where there is none.
            hurry: others must be so much sooner for nothing to be given.
        """
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
        rivals = Rivals(self._outlooks, self._costs, self._lines, self._able, line, job)
        for end, i in self._preferred(job, boxes, ends):
            by = self._now + hurry * (end - self._now)
            before = rivals.drawn_before(by, boxes[i], line.images)
            if before >= line.images:
                # So they would before a later end.
                return None
            chosen = self._pick(line, job, boxes[i], before)
            if line.key(chosen) <= limits.get(boxes[i], LAST):
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

    def _pick(self, line: Line, first: Job, box: _B, before: int) -> Job:
        """The first image of the line of which others have not drawn so many before."""
        if not before or (before < first.waiting and self._able(box, first)):
            return first
        for job in line.ordered():
            if before < job.waiting and self._able(box, job):
                return job
            before -= job.waiting
        return first

    def _mark_passed(self, give: Give[_B]) -> None:
        """Who stands before this job in fair order and could have had the box was passed."""
        line = self._lines.of(give.job)
        assert line is not None  # noqa: S101 - it waits
        key = line.key(give.job)
        for _, job, other in self._lines.heads_before(key):
            if self._able(give.box, job):
                other.passed(self._now, key)

    # --- idle boxes -------------------------------------------------------------------------

    def _help(self) -> Iterator[Order[_B]]:
        """Nothing waits for these boxes: take over, or race, what a slower one holds."""
        takeover = Takeover(self._now, self._costs, self._outlooks, self._able, self._fits)
        # The quickest first: it wins most with what is latest.
        free = sorted(self._outlooks.idle, key=lambda box: self._costs.slowness(box.name))
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


def _gives_way(key: Key, other: Key) -> bool:
    """What a box holds gives way to a higher priority, and to a first image."""
    return other.priority > key.priority or key.round < 0 <= other.round
