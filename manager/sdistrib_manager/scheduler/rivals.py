"""What other boxes would have drawn of a line before one more box was done with its first image."""

from collections.abc import Callable
from itertools import chain
from typing import Generic

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.lines import Line, Lines
from sdistrib_manager.scheduler.outlook import B, Outlooks
from sdistrib_manager.scheduler.work import Job

#: Ends that differ by less than this part of an image are equal.
_ROUNDING = 1e-9


class Rivals(Generic[B]):
    """The boxes that may draw the next images of one line, in one turn."""

    def __init__(
        self,
        outlooks: Outlooks[B],
        costs: Costs,
        lines: Lines,
        able: Callable[[B, Job], bool],
        line: Line,
        job: Job,
    ) -> None:
        self._outlooks = outlooks
        self._costs = costs
        self._lines = lines
        self._able = able
        self._line = line
        #: The first in the line.
        self._job = job
        #: Of boxes that are at something else nothing is expected.
        self._at_work = outlooks.at_work_on(job.context)
        self._behind_s: float | None = None

    def drawn_before(self, end: float, box: B, enough: int) -> int:
        """Images of the line that boxes other than this one would finish before `end`.

        Args:
            end: monotonic seconds.
            box: what it would do itself is not counted.
            enough: no more than about so many are counted.
        """
        count = self._count(end, box, enough, 0.0)
        # They draw what is of better right first.
        before_s = self._before_it_s() if count else 0.0
        return self._count(end, box, enough, before_s) if before_s else count

    def _count(self, end: float, box: B, enough: int, behind_s: float) -> int:
        job, count = self._job, 0
        idle = (other for other in self._outlooks.idle if job.context not in other.contexts)
        for other in chain(self._at_work, idle):
            ready_at = self._outlooks[other].ready_at + behind_s
            if other is box or ready_at >= end or not self._able(other, job):
                continue
            first = self._outlooks.reckoned(other, job) + behind_s
            if first < end:
                image_s = self._costs.image_s(other.name, job)
                count += 1 + int((end - first) / image_s - _ROUNDING)
            if count >= enough:
                break
        return count

    def _before_it_s(self) -> float:
        """Seconds that all of them together take for what is before the line in the same context.

        Images count as fluid.
        """
        if self._behind_s is None:
            self._behind_s = 0.0
            key = self._line.key(self._job)
            for _, job, line in self._lines.heads_before(key):
                if line.context == self._line.context and line is not self._line:
                    able = (box for box in self._at_work if self._able(box, job))
                    rate = sum(1 / self._costs.image_s(box.name, job) for box in able)
                    self._behind_s += line.before(key) / rate if rate else 0.0
        return self._behind_s
