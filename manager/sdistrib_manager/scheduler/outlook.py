"""A box as it will be when it has finished what it holds."""

from collections.abc import Hashable
from dataclasses import dataclass

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.work import Box


@dataclass(slots=True)
class Outlook:
    """When a box will be free, and what it will have loaded then."""

    #: Monotonic seconds.
    ready_at: float
    context: Hashable
    #: Images it holds.
    held: int
    #: Seconds of work it holds.
    held_s: float


def outlook(box: Box, now: float, costs: Costs) -> Outlook:
    """What is expected of a box, by what it holds and what that costs."""
    ready_at, context, held_s, count = now, box.context, 0.0, 0
    for held in box.holds:
        job = held.job
        if held.begun_at is None:
            left_s = costs.image_s(box.name, job)
            left_s += costs.load_s(box.name, job) if job.context != context else 0.0
        else:
            # What takes longer than expected may take as long again as it is late.
            left_s = abs(held.expected_s - (now - held.begun_at))
        ready_at += left_s
        held_s += left_s
        context, count = job.context, count + 1
    return Outlook(ready_at, context, count, held_s)
