"""Why a petition waits, in one line, for people."""

import dataclasses
from typing import cast

from sdistrib.models import not_found
from sdistrib.params import drawn_size
from sdistrib.protocol.codec import decode_petition
from sdistrib_manager import limited
from sdistrib_manager.jobs import Kind
from sdistrib_manager.queue import Entry
from sdistrib_manager.relief import can_somehow
from sdistrib_manager.roster import Worker
from sdistrib_manager.scheduler.outlook import outlook
from sdistrib_manager.scheduler.work import Job
from sdistrib_manager.state import State

#: Characters of a reason in which a worker has its say.
REASON_CHARS = 300


def why_waiting(state: State, entry: Entry) -> str:
    """Why nothing of this petition runs."""
    if not len(state.roster):
        return "no worker is connected yet"
    able = [worker for worker in state.roster if can_somehow(state, entry, worker)]
    here = [worker for worker in able if worker.present]
    open_now = [worker for worker in here if not why_closed(state, worker)]
    if open_now and limited.is_full(state, entry):
        most = state.settings.client_running_max
        return f"its client has {most} images in workers' hands, as many as one may have"
    if open_now:
        return _for_whom(state, entry.job, open_now)
    if here:
        more = f", and {len(here) - 1} more take none" if len(here) > 1 else ""
        return f"{here[0].name} takes no grants: {why_closed(state, here[0])}{more}"
    if able:
        worker = max(able, key=lambda w: w.liveness.heard_at)
        return f"only on {worker.name}, {why_closed(state, worker)}{_nor_here(state, entry)}"
    return _why_none(state, entry)


def _nor_here(state: State, entry: Entry) -> str:
    """What is in the way on a worker that is here and has files of these names."""
    here = (worker for worker in state.roster.holders(entry.wanted) if worker.present)
    worker = next(here, None)
    return f"; {worker.name} cannot: {worker.lacks(entry.job)}" if worker is not None else ""


def why_closed(state: State, worker: Worker) -> str:
    """Why the worker takes no grants, whatever they are for; empty when it does."""
    silent_s = state.now - worker.liveness.heard_at
    if not worker.present:
        return f"last seen {silent_s:.0f} s ago"
    if not worker.is_open:
        return (worker.standing.reason or worker.standing.state)[:REASON_CHARS]
    if worker.liveness.state(state.now) != "alive":
        return f"silent for {silent_s:.0f} s"
    return ""


def size_words(entry: Entry) -> str:
    """The size of the picture that is drawn: "1024x1024"."""
    width, height = drawn_size(decode_petition(entry.body).params)
    return f"{width}x{height}"


def _for_whom(state: State, job: Job, workers: list[Worker]) -> str:
    """The worker that will have drawn the first image soonest, and when it turns to it."""
    costs = state.scheduler.costs
    looks = {worker: outlook(worker, state.now, costs) for worker in workers}
    worker = min(
        workers,
        key=lambda w: looks[w].begin_at(costs, w, job) + costs.image_s(w.name, job),
    )
    at = looks[worker]
    if not costs.seen(job) or not (at.held or at.replaces(job)):
        return f"waiting for a free worker ({', '.join(sorted(w.name for w in workers)[:3])})"
    load = f"{costs.load_s(worker.name, job):.0f} s" if at.replaces(job) else ""
    if not at.held:
        return f"{worker.name} would have to load it ({load})"
    if load:
        return f"{worker.name} would have to load it ({load}) and is at something else"
    return f"{worker.name} is free in about {max(1.0, at.held_s):.0f} s"


def engine_is_gone(state: State, entry: Entry) -> bool:
    """The petition keeps to one fingerprint, which no worker has; others could draw it."""
    kind = cast(Kind, entry.job.kind)
    if not kind.fingerprint:
        return False
    freely = dataclasses.replace(entry.job, kind=kind._replace(fingerprint=""))
    return any(worker.can(freely) for worker in state.roster)


def _why_none(state: State, entry: Entry) -> str:
    """What is in the way on every worker."""
    if engine_is_gone(state, entry):
        fingerprint = cast(Kind, entry.job.kind).fingerprint
        return f"it keeps to engines of fingerprint {fingerprint} (--exact), and none is known now"
    holders = state.roster.holders(entry.wanted)
    if holders:
        pixels = cast(Kind, entry.job.kind).pixels
        limits = {worker: worker.declared.max_pixels for worker in holders}
        if all(0 < most < pixels for most in limits.values()):
            worker = max(holders, key=lambda w: limits[w])
            return (
                f"{size_words(entry)} is more than any worker here takes; {worker.name} takes the"
                f" most, {limits[worker]} pixels"
            )
        worker = max(holders, key=lambda w: (w.present, w.liveness.heard_at))
        more = f"; nor can {len(holders) - 1} more" if len(holders) > 1 else ""
        return f"{worker.name} cannot: {worker.lacks(entry.job)}{more}"
    catalogues = [worker.catalogue for worker in state.roster]
    for want in entry.wanted:
        if all(files.find(want.kind, want.name) is None for files in catalogues):
            near = ", ".join(not_found(want, catalogues).closest)
            hint = f"; closest: {near}" if near else ""
            return f"none of {len(catalogues)} workers has {want.kind} {want.name!r}{hint}"
    return "no single worker has all the files it names"
