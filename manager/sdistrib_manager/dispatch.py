"""Carries out what the scheduler decides: grants, takings back, races; and tells it what was so."""

from collections.abc import Hashable
from typing import NamedTuple, cast

from sdistrib.petitions import IMAGE_ENDS, Relief
from sdistrib.protocol import messages as wire
from sdistrib_manager import limited, outcome, relief
from sdistrib_manager.jobs import Kind
from sdistrib_manager.queue import Entry, Image, Issued
from sdistrib_manager.roster import Lease, Worker
from sdistrib_manager.rows import CostRow, ForgetCost, PinRow
from sdistrib_manager.scheduler.costs import Sample
from sdistrib_manager.scheduler.policy import Give, Progress, Race, TakeBack
from sdistrib_manager.scheduler.work import Held, Job, left_by
from sdistrib_manager.state import State

#: Attempts at one image that may run at a time: one, and one on a faster worker.
LIVE_MAX = 2
#: Waiting images of one petition that are looked at when the first is not for this worker.
_LOOK_AHEAD = 8


class _Granted(NamedTuple):
    """Images that go out in one message."""

    worker: Worker
    entry: Entry
    relief: Relief
    attempts: list[wire.Attempt]


def schedule(state: State) -> None:
    """Hand waiting images to workers, and take back what is better elsewhere."""
    state.schedule_due = False
    limited.count(state)
    grants: list[_Granted] = []
    for order in state.scheduler.orders(
        state.now,
        open_workers(state),
        able=lambda worker, job: able(state, worker, job),
        fits=lambda worker, held: _fits(state, worker, held),
        held_back=lambda job: limited.is_full(state, state.queue.entries[job.id]),
    ):
        match order:
            case Give(worker, job):
                entry = state.queue.entries[job.id]
                attempt, way = _give(state, worker, entry)
                if grants and grants[-1][:3] == (worker, entry, way):
                    grants[-1].attempts.append(attempt)
                else:
                    grants.append(_Granted(worker, entry, way, [attempt]))
            case TakeBack(worker, held):
                lease = cast(Lease, held)
                lease.revoking = True
                _send(state, grants)
                state.tell_worker(worker, wire.Revoke(attempt=lease.attempt))
            case Race(worker, held):
                _race(state, worker, held)
    _send(state, grants)


def _send(state: State, grants: list[_Granted]) -> None:
    for worker, entry, way, attempts in grants:
        ran_out = relief.ran_out(state, entry) if way else ()
        grant = wire.Grant(attempts=tuple(attempts), relief=way, ran_out=ran_out)
        state.tell_worker(worker, grant, entry.body)
    grants.clear()


def open_workers(state: State) -> list[Worker]:
    """Workers that take grants now."""
    here = (worker for worker in state.roster.present() if worker.is_open)
    return [worker for worker in here if worker.liveness.state(state.now) == "alive"]


def able(state: State, worker: Worker, job: Job) -> bool:
    """The worker can draw the next image of the petition, or another of the first that wait."""
    entry = state.queue.entries[job.id]
    if limited.is_full(state, entry):
        return False
    if job is not entry.job or not (entry.again or len(entry.rungs) > 1):
        return worker.can(job)
    return _next_for(state, worker, entry) is not None


def _fits(state: State, worker: Worker, held: Held) -> bool:
    """The image may go to this worker, or be drawn there as well.

    It did not fail there, no two are at it, and what failed anywhere is not raced.
    """
    lease = cast(Lease, held)
    entry = state.queue.entries[lease.attempt.id]
    image = entry.image(lease.attempt.index)
    live = sum(issued.live for issued in image.issued.values())
    if live >= LIVE_MAX or (lease.started and image.failures):
        return False
    return not outcome.avoids(state, entry, lease.attempt.index, worker)


def _next_for(state: State, worker: Worker, entry: Entry) -> tuple[int, Relief] | None:
    """The first waiting image that should not rather go to another worker, and how it is drawn."""
    for place, index in enumerate(entry.waiting()):
        if place == _LOOK_AHEAD:
            return None
        way = relief.rung(state, entry, entry.images.get(index))
        if worker.can(relief.job_for(state, entry, way)) and not outcome.avoids(
            state, entry, index, worker
        ):
            return index, way
    return None


def _give(state: State, worker: Worker, entry: Entry) -> tuple[wire.Attempt, Relief]:
    found = _next_for(state, worker, entry)
    assert found is not None  # noqa: S101 - the scheduler asked `able`
    index, way = found
    image = entry.image(index)
    state.take(entry, index)
    _pin(state, worker, entry)
    lease = _issue(state, worker, entry, image, way)
    # What others have no memory for is not raced.
    lease.alone = bool(way)
    state.move_image(entry, image, "leased")
    return lease.attempt, way


def _issue(state: State, worker: Worker, entry: Entry, image: Image, way: Relief) -> Lease:
    attempt = wire.Attempt(entry.id, image.index, len(image.issued) + 1)
    image.issued[attempt.number] = Issued(worker.instance, worker.name, relief=way)
    job = relief.job_for(state, entry, way)
    lease = worker.leases[attempt] = Lease(attempt, job, state.now)
    state.held[limited.held_by(entry)] += 1
    return lease


def _pin(state: State, worker: Worker, entry: Entry) -> None:
    """From its first grant on a petition is drawn from the same files, or waits."""
    kind = cast(Kind, entry.job.kind)
    if kind.contents:
        return
    pinned = worker.pinned(kind, exact=entry.exact)
    state.change_kind(entry, pinned)
    entry.job.prefers = worker.pixel_class
    state.keep(
        PinRow(
            id=entry.id,
            contents=pinned.contents,
            fingerprint=pinned.fingerprint,
            first=worker.pixel_class,
        )
    )


def _race(state: State, worker: Worker, held: Held) -> None:
    """A second attempt at what another worker is at; the first picture counts."""
    lease = cast(Lease, held)
    found = state.find(lease.attempt)
    if found is None or found[1].state in IMAGE_ENDS:
        return
    entry, image = found
    lease.alone = True
    second = _issue(state, worker, entry, image, "")
    second.alone = True
    state.keep_image(entry, image)
    state.tell_worker(worker, wire.Grant(attempts=(second.attempt,)), entry.body)


def begun(state: State, worker: Worker, lease: Lease) -> None:
    """The engine turned to this image; what it began before is drawn.

    A worker may say so twice, with `Started` and with `TooLate`, in either order.
    """
    lease.revoking = False
    if lease.started:
        return
    for other in worker.leases.values():
        other.drawn = other.drawn or other.started
    lease.begun_at = state.now
    lease.expected_s = state.scheduler.begun(worker, lease.job, state.now)
    worker.contexts = left_by(worker.contexts, lease.job, worker.keep)


def stepped(state: State, worker: Worker, lease: Lease, step: wire.Step) -> None:
    """The engine tells how fast it is."""
    lease.step = step
    waits = step.phase == "sampling" and not step.step_s
    lease.sampling_at = (lease.sampling_at or state.now) if waits else None
    if step.phase == "sampling" and step.step_s > 0:
        scheduler, progress = state.scheduler, Progress(step.steps, step.step, step.step_s)
        lease.expected_s = scheduler.stepped(worker, lease, progress, state.now)
        step_s = step.step_s * step.steps / lease.job.steps
        _forget(state, scheduler.costs.step_seen(worker.name, lease.job, step_s))


def learn(state: State, worker: Worker, entry: Entry, result: wire.Result) -> None:
    """A picture was recorded: what it cost, and what its context is called."""
    way = entry.image(result.attempt.index).issued[result.attempt.number].relief
    job = relief.job_for(state, entry, way)
    # Tiles take longer than the whole, whose times are remembered under the same context.
    if way != "tile":
        sampling_s = result.sampling_s or result.draw_s
        sample = Sample(result.load_s, sampling_s, max(0.0, result.draw_s - sampling_s))
        forgotten = state.scheduler.costs.learn(worker.name, job, sample)
        known = state.scheduler.costs.known(worker.name, job.context)
        if known is not None:
            state.keep(CostRow.of(known), soft=True)
        _forget(state, forgotten)
    context = cast(str, job.context)
    state.name_context(result.context, context)
    if worker.state.loaded and worker.state.context == result.context:
        state.name_model(context, worker.state.loaded)


def _forget(state: State, pairs: list[tuple[str, Hashable]]) -> None:
    """What the scheduler does not remember need not be kept either."""
    for box, context in pairs:
        state.keep(ForgetCost(box, cast(str, context)), soft=True)
