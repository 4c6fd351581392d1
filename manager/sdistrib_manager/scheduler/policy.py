"""Which image goes to which box, and when. Pure: same inputs, same decisions.

Theory of operation. Whenever something changed, `Scheduler.orders` looks at the boxes that have
room. An image goes to the box that finishes it soonest, a load counted in; a slow box takes the
first image in the line that it would finish no later than the others could (so nothing starts on a
slow box that a fast one would be done with sooner). A box first serves what it has loaded. Another
context is loaded for the oldest line that was overtaken for too long, else for the next in fair
order for which the load pays. While it draws, a box is handed the next images of the same context,
which can be taken back until they begin. A box that finds nothing to do takes back what another one
holds and has not begun, or races the last images of a slower one.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.lines import Key, Line, Lines
from sdistrib_manager.scheduler.shares import QUANTUM_S, Shares
from sdistrib_manager.scheduler.work import Box, Held, Job

#: A box may hold one image beside the running one, and more while all of them take no longer.
HOLD_S = 10.0
#: ... but never more than this many.
HOLD_MAX = 16
_HOLD_MIN = 2
#: A race or a taking back must win at least this part of the image's time.
_GAIN = 0.1
#: Ends that differ by less than this part of an image are equal.
_ROUNDING = 1e-9

_B = TypeVar("_B", bound=Box)


class Give(NamedTuple, Generic[_B]):
    """Hand the next waiting image of the job to the box."""

    box: _B
    job: Job
    #: Seconds until its end, loading included, once it begins.
    expected_s: float


class TakeBack(NamedTuple, Generic[_B]):
    """The box shall give this back if it has not begun: an idle one is sooner."""

    box: _B
    held: Held


class Race(NamedTuple, Generic[_B]):
    """Hand a second attempt at what another box is at to an idle one."""

    box: _B
    held: Held
    expected_s: float


Order = Give[_B] | TakeBack[_B] | Race[_B]


@dataclass(slots=True)
class Policy:
    """What an operator may choose."""

    #: Nobody is overtaken for the sake of a loaded context for longer than this,
    overtaken_s: float = 60.0
    #: or than this many times the load it waits for.
    overtaken_loads: float = 2.0
    #: A further copy of a context is loaded when that would pay were the load so much longer. A
    #: load takes time from everybody, and what it replaces may be wanted next.
    copy_cost: float = 1.0
    quantum_s: float = QUANTUM_S
    #: A petition is due this many times its own length after it came.
    stretch: float = 5.0


@dataclass(slots=True)
class _Outlook:
    """A box as it will be when it has finished what it holds."""

    ready_at: float
    context: Hashable
    held: int
    #: Seconds of work it holds.
    held_s: float


class Scheduler:
    """Waiting work, learned costs, shares, and the choice."""

    def __init__(self, policy: Policy | None = None, costs: Costs | None = None) -> None:
        self.policy = policy or Policy()
        self.costs = costs or Costs()
        self.shares = Shares(self.policy.quantum_s)
        self.lines = Lines(self.shares)

    def orders(
        self,
        now: float,
        boxes: list[_B],
        able: Callable[[_B, Job], bool],
        fits: Callable[[_B, Held], bool],
    ) -> Iterator[Order[_B]]:
        """Decide, one order at a time; each must be carried out before the next is asked for.

        Args:
            now: monotonic seconds.
            boxes: those that take work.
            able: whether a box can draw the next image of a job.
            fits: whether a box may take over or race this image, if it is able at all.
        """
        return _Turn(self, now, boxes, able, fits).orders()

    def arrive(self, job: Job, images: int, now: float) -> None:
        """A petition with so many waiting images."""
        job.due = job.arrived_at + self.policy.stretch * images * self.costs.typical_s(job)
        self.lines.change(job, images, now)

    def granted(self, job: Job, expected_s: float, now: float) -> None:
        """One more of the job's images is in somebody's hands."""
        self.lines.change(job, -1, now)
        self.shares.charge(job.client, expected_s, now)

    def put_back(self, job: Job, now: float) -> None:
        """One of its images waits again."""
        self.lines.change(job, 1, now)


class _Turn(Generic[_B]):
    """One look at everything."""

    def __init__(
        self,
        scheduler: Scheduler,
        now: float,
        boxes: list[_B],
        able: Callable[[_B, Job], bool],
        fits: Callable[[_B, Held], bool],
    ) -> None:
        self._now = now
        self._costs = scheduler.costs
        self._policy = scheduler.policy
        self._lines = scheduler.lines
        self._boxes = boxes
        self._able = able
        self._fits = fits
        self._outlook = {box: self._look(box) for box in boxes}

    def orders(self) -> Iterator[Order[_B]]:
        while (give := self._next()) is not None:
            line = self._lines.of(give.job)
            self._mark_passed(give, line)
            yield give
            self._outlook[give.box] = self._look(give.box)
        idle = [box for box in self._boxes if not self._outlook[box].held]
        for box in idle:
            yield from self._help(box)

    # --- boxes ------------------------------------------------------------------------------

    def _look(self, box: _B) -> _Outlook:
        ready_at, context, held_s, count = self._now, box.context, 0.0, 0
        for held in box.holds:
            job = held.job
            if held.begun_at is None:
                left_s = self._costs.image_s(box.name, job)
                left_s += self._costs.load_s(box.name, job) if job.context != context else 0.0
            else:
                # What takes longer than expected may take as long again as it is late.
                left_s = abs(held.expected_s - (self._now - held.begun_at))
            ready_at += left_s
            held_s += left_s
            context, count = job.context, count + 1
        return _Outlook(ready_at, context, count, held_s)

    def _end(self, box: _B, job: Job) -> float:
        """When the box would have finished one more image: this one."""
        look = self._outlook[box]
        load_s = 0.0 if look.context == job.context else self._costs.load_s(box.name, job)
        return look.ready_at + load_s + self._costs.image_s(box.name, job)

    def _reckoned(self, box: _B, job: Job) -> float:
        """The same with what a further copy of the context costs others."""
        end = self._end(box, job)
        replaced = self._outlook[box].context
        if replaced not in (None, job.context) and self._is_held(job.context):
            end += self._policy.copy_cost * self._costs.load_s(box.name, job)
        return end

    def _is_held(self, context: Hashable) -> bool:
        """Some box has it, or will."""
        return any(look.context == context for look in self._outlook.values())

    def _has_room(self, box: _B, job: Job) -> bool:
        look = self._outlook[box]
        if not look.held:
            return True
        if look.context != job.context or look.held >= HOLD_MAX:
            return False
        if look.held < _HOLD_MIN:
            return True
        quick = look.held_s + self._costs.image_s(box.name, job) <= HOLD_S
        return quick and look.held < (box.most(job) or HOLD_MAX)

    # --- the choice -------------------------------------------------------------------------

    def _next(self) -> Give[_B] | None:
        heads = self._lines.heads()
        if not heads:
            return None
        idle = [box for box in self._boxes if not self._outlook[box].held]
        for priority in sorted({key.priority for key, _, _ in heads}):
            of_it = [one for one in heads if one[0].priority == priority]
            give = idle and (self._overdue(of_it, idle) or self._loaded(of_it, idle))
            give = give or (idle and self._fresh(of_it, idle)) or self._behind(of_it)
            if give:
                return give
        return None

    def _overdue(self, heads: list[tuple[Key, Job, Line]], idle: list[_B]) -> Give[_B] | None:
        """The line that was overtaken for longest, if that is too long; and newcomers."""
        waiting = []
        for key, job, line in heads:
            since = line.overtaken_since(job)
            if key.round < 0:
                waiting.append((0.0, key, line))
            elif since is not None:
                waiting.append((since, key, line))
        for since, key, line in sorted(waiting, key=lambda one: one[:2]):
            boxes = [box for box in idle if key.round < 0 or self._is_overdue(since, line, box)]
            give = self._best(line, boxes)
            if give is not None:
                return give
        return None

    def _is_overdue(self, since: float, line: Line, box: Box) -> bool:
        head = line.head()
        assert head is not None  # noqa: S101
        load_s = self._costs.load_s(box.name, head[1])
        bound_s = max(self._policy.overtaken_s, self._policy.overtaken_loads * load_s)
        return self._now - since >= bound_s

    def _loaded(self, heads: list[tuple[Key, Job, Line]], idle: list[_B]) -> Give[_B] | None:
        """An idle box goes on with what it has loaded."""
        for _, job, line in heads:
            boxes = [box for box in idle if self._outlook[box].context == job.context]
            give = self._best(line, boxes)
            if give is not None:
                return give
        return None

    def _fresh(self, heads: list[tuple[Key, Job, Line]], idle: list[_B]) -> Give[_B] | None:
        """An idle box loads something else, where that pays."""
        for _, _, line in heads:
            give = self._best(line, idle)
            if give is not None:
                return give
        return None

    def _behind(self, heads: list[tuple[Key, Job, Line]]) -> Give[_B] | None:
        """A box that draws is handed the next image of the same context."""
        for _, job, line in heads:
            boxes = [b for b in self._boxes if self._outlook[b].held and self._has_room(b, job)]
            give = self._best(line, boxes)
            if give is not None:
                return give
        return None

    def _best(self, line: Line, boxes: list[_B]) -> Give[_B] | None:
        """The box of these that would be done soonest, and the image of the line for it."""
        head = line.head()
        assert head is not None  # noqa: S101
        job = head[1]
        ends = sorted(
            ((self._reckoned(box, job), i) for i, box in enumerate(boxes) if self._able(box, job)),
        )
        for end, i in ends:
            chosen = self._pick(line, boxes[i], end)
            if chosen is not None:
                look = self._outlook[boxes[i]]
                return Give(boxes[i], chosen, self._end(boxes[i], chosen) - look.ready_at)
        return None

    def _pick(self, line: Line, box: _B, end: float) -> Job | None:
        """The first image of the line that others would not have finished before `end`."""
        head = line.head()
        assert head is not None  # noqa: S101
        before = self._done_by_others(head[1], box, end, line.images)
        if before >= line.images:
            return None
        if not before:
            return head[1]
        for job in line.ordered():
            if before < job.waiting and self._able(box, job):
                return job
            before -= job.waiting
        return head[1]

    def _done_by_others(self, job: Job, box: _B, end: float, enough: int) -> int:
        """Images of the line that other boxes would finish before `end`.

        Of boxes that are at something else nothing is expected.
        """
        count = 0
        for other in self._boxes:
            look = self._outlook[other]
            elsewhere = look.held and look.context != job.context
            if other is box or elsewhere or look.ready_at >= end or not self._able(other, job):
                continue
            image_s = self._costs.image_s(other.name, job)
            first = self._reckoned(other, job)
            if first < end:
                count += 1 + int((end - first) / image_s - _ROUNDING)
            if count >= enough:
                break
        return count

    def _mark_passed(self, give: Give[_B], line: Line | None) -> None:
        """Who stands before this job in fair order and could have had the box was passed."""
        head = line.head() if line is not None else None
        if head is None:
            return
        for key, job, other in self._lines.heads():
            if key >= head[0]:
                break
            if other is not line and self._able(give.box, job):
                other.passed(self._now)

    # --- idle boxes -------------------------------------------------------------------------

    def _help(self, box: _B) -> Iterator[Order[_B]]:
        """Nothing waits for this box: take over, or race, what a slower one holds."""
        best: tuple[float, _B, Held] | None = None
        for other in self._boxes:
            at = self._now
            if other is box:
                continue
            for held in other.holds:
                job = held.job
                at += self._left_s(other, held)
                if held.revoking or not self._able(box, job):
                    continue
                gain = at - self._end(box, job)
                if held.begun_at is not None and not self._may_race(box, held):
                    continue
                if gain > _GAIN * self._costs.image_s(box.name, job) and (
                    best is None or gain > best[0]
                ):
                    best = gain, other, held
        if best is None:
            return
        _, other, held = best
        if held.begun_at is None:
            yield TakeBack(other, held)
        else:
            look = self._outlook[box]
            yield Race(box, held, self._end(box, held.job) - look.ready_at)
            self._outlook[box] = self._look(box)

    def _left_s(self, box: _B, held: Held) -> float:
        if held.begun_at is None:
            return self._costs.image_s(box.name, held.job)
        return abs(held.expected_s - (self._now - held.begun_at))

    def _may_race(self, box: _B, held: Held) -> bool:
        return held.job.hedge and not held.alone and box.context in (None, held.job.context)
