"""When petitions will be done, for those who look.

A forecast of the first waiting petitions is made when somebody asks and the last one is old, and
the older it may get the more it costs. So neither lists of thousands nor a crowd of watching
clients hold up the loop.
"""

import heapq
from itertools import islice
from statistics import median
from typing import cast

from sdistrib import limits
from sdistrib_manager import dispatch, relief
from sdistrib_manager.queue import Entry
from sdistrib_manager.roster import Lease, Worker
from sdistrib_manager.scheduler import outlook
from sdistrib_manager.scheduler.forecast import Forecast
from sdistrib_manager.scheduler.work import Job
from sdistrib_manager.state import Foreseen, State

#: Petitions with waiting images that are foreseen.
PETITIONS_MAX = 100
#: A forecast counts for so many seconds for each petition on each worker, beyond a small farm's:
#: some twenty times what it costs.
_LASTS_S = 1.5e-4
_FREE = 200


def make(state: State, before: Job | None = None) -> tuple[Forecast[Worker], dict[str, float]]:
    """The farm with the first waiting petitions placed, or those that go before one.

    Returns:
        The forecast, ready for more, and when each petition placed would be drawn; those that
        nobody can draw now are missing.
    """
    scheduler = state.scheduler
    forecast = Forecast(
        scheduler.costs,
        scheduler.policy.copy_cost,
        state.now,
        dispatch.open_workers(state),
        lambda worker, job: _can(state, worker, job),
    )
    lines = scheduler.lines
    jobs = [
        j
        for _, _, line in lines.heads()
        for j in islice(line.ordered(PETITIONS_MAX), PETITIONS_MAX)
    ]
    limit = lines.key_if(before) if before is not None else None
    ends: dict[str, float] = {}
    for job in heapq.nsmallest(PETITIONS_MAX, jobs, key=lines.key_of_last):
        if limit is None or lines.key_of_last(job) < limit:
            rows = [row.end for row in forecast.place(job, job.waiting) if row.images]
            if rows:
                ends[job.id] = max(rows)
    return forecast, ends


def _can(state: State, worker: Worker, job: Job) -> bool:
    """The worker can draw the petition in some way that it allows; one only planned, as it is."""
    entry = state.queue.entries.get(job.id)
    return worker.can(job) if entry is None else relief.can_somehow(state, entry, worker)


def eta_s(state: State, entry: Entry) -> float:
    """Expected seconds to the petition's end; 0 when not known.

    The first one that rests on finished images is remembered, to be held against what came.
    """
    if entry.ended:
        return 0.0
    if state.foreseen is None or state.now >= state.foreseen.until:
        state.foreseen = _foresee(state)
    end = state.foreseen.ends.get(entry.id)
    if end is None or not state.scheduler.costs.seen(entry.job):
        return 0.0
    left_s = min(max(0.0, end - state.now), limits.SECONDS_MAX)
    if entry.first_eta is None and state.scheduler.costs.drawn(entry.job):
        entry.first_eta = state.now, left_s
    return left_s


def _foresee(state: State) -> Foreseen:
    forecast_ends = make(state)[1]
    ends = dict(forecast_ends)
    for petition_id, end in _leased(state).items():
        entry = state.queue.entries[petition_id]
        if not entry.waiting_count or petition_id in ends:
            ends[petition_id] = max(end, ends.get(petition_id, end))
    work = len(state.roster) * len(forecast_ends)
    return Foreseen(state.now + _LASTS_S * max(0, work - _FREE), ends)


def _leased(state: State) -> dict[str, float]:
    """When the last leased image of each petition will be drawn; of two attempts the first."""
    images: dict[tuple[str, int], float] = {}
    for worker in state.roster:
        for held, end in outlook.ends(worker, state.now, state.scheduler.costs):
            attempt = cast(Lease, held).attempt
            key = attempt.id, attempt.index
            images[key] = min(end, images.get(key, end))
    latest: dict[str, float] = {}
    for (petition_id, _), end in images.items():
        latest[petition_id] = max(end, latest.get(petition_id, end))
    return latest


def error(state: State) -> float:
    """Median relative error of the first ETA, with costs known, of petitions that are done; 0 when
    there is none."""
    return median(state.eta_errors) if state.eta_errors else 0.0
