"""Carries out what the scheduler decides: grants, takings back, races; and tells it what was so."""

from collections.abc import Hashable
from typing import cast

from sdistrib.petitions import IMAGE_ENDS
from sdistrib.protocol import messages as wire
from sdistrib_manager import outcome
from sdistrib_manager.jobs import Kind
from sdistrib_manager.queue import Entry, Image, Issued
from sdistrib_manager.roster import Lease, Worker
from sdistrib_manager.rows import CostRow, ForgetCost, PinRow
from sdistrib_manager.scheduler.costs import Sample
from sdistrib_manager.scheduler.policy import Give, Race, TakeBack
from sdistrib_manager.scheduler.work import Held, Job, used
from sdistrib_manager.state import State

#: Attempts at one image that may run at a time: one, and one on a faster worker.
LIVE_MAX = 2
#: Waiting images of one petition that are looked at when the first is not for this worker.
_LOOK_AHEAD = 8


def schedule(state: State) -> None:
    """Hand waiting images to workers, and take back what is better elsewhere."""
    state.schedule_due = False
    grants: list[tuple[Worker, Entry, list[wire.Attempt]]] = []
    for order in state.scheduler.orders(
        state.now,
        open_workers(state),
        able=lambda worker, job: able(state, worker, job),
        fits=lambda worker, held: _fits(state, worker, held),
    ):
        match order:
            case Give(worker, job):
                entry = state.queue.entries[job.id]
                attempt = _give(state, worker, entry)
                if grants and grants[-1][:2] == (worker, entry):
                    grants[-1][2].append(attempt)
                else:
                    grants.append((worker, entry, [attempt]))
            case TakeBack(worker, held):
                lease = cast(Lease, held)
                lease.revoking = True
                _send(state, grants)
                state.tell_worker(worker, wire.Revoke(attempt=lease.attempt))
            case Race(worker, held):
                _race(state, worker, held)
    _send(state, grants)


def _send(state: State, grants: list[tuple[Worker, Entry, list[wire.Attempt]]]) -> None:
    for worker, entry, attempts in grants:
        state.tell_worker(worker, wire.Grant(attempts=tuple(attempts)), entry.body)
    grants.clear()


def open_workers(state: State) -> list[Worker]:
    """Workers that take grants now."""
    here = (worker for worker in state.roster.present() if worker.is_open)
    return [worker for worker in here if worker.liveness.state(state.now) == "alive"]


def able(state: State, worker: Worker, job: Job) -> bool:
    """The worker can draw the next image of the petition, or another of the first that wait."""
    if not worker.can(job):
        return False
    entry = state.queue.entries[job.id]
    return not entry.again or _index_for(state, worker, entry) is not None


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


def _index_for(state: State, worker: Worker, entry: Entry) -> int | None:
    """The first waiting image that should not rather go to another worker."""
    for place, index in enumerate(entry.waiting()):
        if place == _LOOK_AHEAD:
            return None
        if not outcome.avoids(state, entry, index, worker):
            return index
    return None


def _give(state: State, worker: Worker, entry: Entry) -> wire.Attempt:
    index = _index_for(state, worker, entry)
    assert index is not None  # noqa: S101 - the scheduler asked `able`
    image = entry.image(index)
    state.take(entry, index)
    _pin(state, worker, entry)
    lease = _issue(state, worker, entry, image)
    state.move_image(entry, image, "leased")
    return lease.attempt


def _issue(state: State, worker: Worker, entry: Entry, image: Image) -> Lease:
    attempt = wire.Attempt(entry.id, image.index, len(image.issued) + 1)
    image.issued[attempt.number] = Issued(worker.instance, worker.name)
    lease = worker.leases[attempt] = Lease(attempt, entry.job, state.now)
    return lease


def _pin(state: State, worker: Worker, entry: Entry) -> None:
    """From its first grant on a petition is drawn from the same files, or waits."""
    kind = cast(Kind, entry.job.kind)
    if kind.contents:
        return
    pinned = worker.pinned(kind, exact=entry.exact)
    state.change_kind(entry, pinned)
    state.keep(PinRow(id=entry.id, contents=pinned.contents, fingerprint=pinned.fingerprint))


def _race(state: State, worker: Worker, held: Held) -> None:
    """A second attempt at what another worker is at; the first picture counts."""
    lease = cast(Lease, held)
    found = state.find(lease.attempt)
    if found is None or found[1].state in IMAGE_ENDS:
        return
    entry, image = found
    lease.alone = True
    second = _issue(state, worker, entry, image)
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
    worker.contexts = used(worker.contexts, lease.job.context, worker.keep)


def stepped(state: State, worker: Worker, lease: Lease, step: wire.Step) -> None:
    """The engine tells how fast it is."""
    lease.step = step
    if step.phase == "sampling" and step.step_s > 0:
        costs = state.scheduler.costs
        if lease.begun_at is not None and not costs.knows(worker.name, lease.job):
            left_s = max(0, step.steps - step.step) * step.step_s
            lease.expected_s = state.now - lease.begun_at + left_s
        step_s = step.step_s * step.steps / lease.job.steps
        _forget(state, costs.step_seen(worker.name, lease.job, step_s))


def learn(state: State, worker: Worker, entry: Entry, result: wire.Result) -> None:
    """A picture was recorded: what it cost, and what its context is called."""
    sampling_s = result.sampling_s or result.draw_s
    sample = Sample(result.load_s, sampling_s, max(0.0, result.draw_s - sampling_s))
    forgotten = state.scheduler.costs.learn(worker.name, entry.job, sample)
    known = state.scheduler.costs.known(worker.name, entry.job.context)
    if known is not None:
        state.keep(CostRow.of(known), soft=True)
    _forget(state, forgotten)
    context = cast(str, entry.job.context)
    state.contexts[result.context] = context
    if worker.state.loaded and worker.state.context == result.context:
        state.name_model(context, worker.state.loaded)


def _forget(state: State, pairs: list[tuple[str, Hashable]]) -> None:
    """What the scheduler does not remember need not be kept either."""
    for box, context in pairs:
        state.keep(ForgetCost(box, cast(str, context)), soft=True)
