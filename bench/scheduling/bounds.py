"""What no policy can beat.

For one petition the bound is the integer optimum: images are alike, so giving each to the box that
would end it first, loads included and known deaths respected, ends the last as early as possible.

For traces the bounds are loose. They leave out loads and deaths, and take the larger of two:
each petition as if it had the farm to itself; and all petitions as if the farm were one machine of
the boxes' summed speed that can be divided and interrupted at will, where the least remaining work
first gives the least mean wait. The latter holds as all boxes of a workload are uniform: one is
faster than another by the same factor in everything. Image times are taken as nominal, without
jitter, so that a lucky run may fall below by a percent or so.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.scheduling.farm import Box, Job, Workload


class Bounds(NamedTuple):
    """Of one workload, in seconds; see `Measures`."""

    makespan_s: float
    mean_s: float
    p95_s: float


def bounds(workload: Workload) -> Bounds:
    """The optimum for one petition, else the lower bounds."""
    jobs = workload.jobs
    if len(jobs) == 1:
        optimum_s = optimum(workload.boxes, jobs[0])
        return Bounds(optimum_s, optimum_s, optimum_s)
    alone = [optimum(workload.boxes, job, free_loads=True) for job in jobs]
    ends = shared_ends(workload.boxes, jobs)
    last = max(job.arrives_at + s for job, s in zip(jobs, alone, strict=True))
    shared = math.fsum(end - job.arrives_at for end, job in zip(ends, jobs, strict=True))
    return Bounds(
        makespan_s=max(last, *ends) - jobs[0].arrives_at,
        mean_s=max(math.fsum(alone), shared) / len(jobs),
        p95_s=sorted(alone)[math.ceil(0.95 * len(jobs)) - 1],
    )


def optimum(boxes: Iterable[Box], job: Job, *, free_loads: bool = False) -> float:
    """Least seconds to draw a petition on a farm that does nothing else.

    With `free_loads` nothing needs loading and no box dies, which no farm can do better than.
    """
    ends: list[tuple[float, float, float]] = []
    for box in boxes:
        if box.can(job):
            load_s = 0.0 if free_loads or box.loaded == job.context else box.load_s[job.context]
            dies_at = math.inf if free_loads or box.dies_at is None else box.dies_at
            ends.append((load_s + box.draw_s(job), box.draw_s(job), dies_at))
    heapq.heapify(ends)
    left, last_s = job.images, math.inf
    while left and ends:
        end_s, draw_s, dies_at = ends[0]
        if end_s > dies_at:
            heapq.heappop(ends)
            continue
        heapq.heapreplace(ends, (end_s + draw_s, draw_s, dies_at))
        left, last_s = left - 1, end_s
    return math.inf if left else last_s


def shared_ends(boxes: Sequence[Box], jobs: Sequence[Job]) -> list[float]:
    """When each petition ends on one machine of all boxes' speed, least remaining work first."""
    works_s = [job.images / math.fsum(1 / box.draw_s(job) for box in boxes) for job in jobs]
    ends = [0.0] * len(jobs)
    ready: list[tuple[float, int]] = []
    now = 0.0
    for place, job in enumerate(jobs):
        now = _advance(ready, now, job.arrives_at, ends)
        heapq.heappush(ready, (works_s[place], place))
    _advance(ready, now, math.inf, ends)
    return ends


def _advance(ready: list[tuple[float, int]], now: float, until: float, ends: list[float]) -> float:
    """Work from now to until, or to the end of the work; gives until."""
    while ready and now < until:
        left_s, place = heapq.heappop(ready)
        if now + left_s > until:
            heapq.heappush(ready, (left_s - (until - now), place))
            break
        now += left_s
        ends[place] = now
    return until
