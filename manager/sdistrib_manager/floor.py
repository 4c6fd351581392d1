"""The workers' side of the manager: hello, grants, progress, results, failures, silence."""

from collections.abc import Callable, Iterator
from typing import Any

from sdistrib import limits
from sdistrib.errors import ErrorInfo, ProtocolError
from sdistrib.liveness import Liveness
from sdistrib.models import Catalogue
from sdistrib.petitions import IMAGE_ENDS
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, decode_inventory
from sdistrib_manager import (
    arrival,
    conflicts,
    controls,
    dispatch,
    outcome,
    previews,
    relief,
    restore,
    serving,
)
from sdistrib_manager.jobs import plain_context
from sdistrib_manager.queue import Entry, Issued
from sdistrib_manager.roster import Lease, Worker
from sdistrib_manager.rows import CeilingRow, CeilingsRow, ForgetWorker, WorkerRow
from sdistrib_manager.state import State

#: After these the engine is a new one, with nothing loaded.
_DEATHS = frozenset({"engine_crashed", "engine_hung", "out_of_memory"})


def on_message(state: State, route: bytes, message: wire.Message, body: Buffer) -> None:
    """A worker said something.

    Raises:
        ProtocolError: it may not say that now.
    """
    if isinstance(message, wire.WorkerHello):
        _hello(state, route, message, body)
        return
    worker = state.roster.at(route)
    if worker is None:
        state.say("worker", route, wire.Identify())
        return
    _heard(state, worker)
    handler = _HANDLERS.get(type(message))
    if handler is None:
        raise ProtocolError(f"a worker does not say {wire.verb(type(message))}")
    handler(state, worker, message, body)


def _hello(state: State, route: bytes, hello: wire.WorkerHello, body: Buffer) -> None:
    if wire.VERSION not in hello.protocols:
        raise ProtocolError(
            f"{hello.software} speaks protocol {list(hello.protocols)}, this manager"
            f" ({state.settings.software}) speaks {wire.VERSION}"
        )
    catalogue = Catalogue(decode_inventory(body))
    _remember(state, hello.name, body)
    worker = state.roster.by_instance.get(hello.instance)
    if worker is None:
        _warn_of_twin(state, hello.name)
        pulse = Liveness(state.now, state.settings.suspect_s, state.settings.gone_s)
        worker = Worker(
            route, hello.name, hello.instance, hello.engine, catalogue, pulse,
        )  # fmt: skip
        worker.settle(hello.engine, hello.declared)
        state.roster.join(worker)
        files = len(catalogue.files)
        state.log("info", f"worker {hello.name} joins: {hello.engine.backend}, {files} files")
    else:
        state.roster.move(worker, route)
        worker.settle(hello.engine, hello.declared)
        # What it was sent on another connection it asks for again.
        worker.fetches.clear()
        worker.set_catalogue(catalogue)
        state.log("info", f"worker {hello.name} is back")
    worker.standing = wire.Standing(state=hello.standing, reason=hello.reason)
    worker.liveness.heard(state.now)
    state.say(
        "worker", route, wire.Welcome(protocol=wire.VERSION, software=state.settings.software)
    )
    serving.remind(state, worker)
    conflicts.warn(state, worker)
    _compare_leases(state, worker, hello)
    _unpark(state, worker)
    state.schedule_due = True


def _remember(state: State, name: str, inventory: Buffer) -> None:
    row = WorkerRow(
        name=name,
        inventory=bytes(inventory),
        seen_wall=state.wall,
        seen_uptime_s=state.uptime_s,
    )
    state.keep(row, soft=True)


def _warn_of_twin(state: State, name: str) -> None:
    if any(worker.name == name for worker in state.roster.present()):
        state.log("warning", f"two workers are called {name}; give one another --name")


def _compare_leases(state: State, worker: Worker, hello: wire.WorkerHello) -> None:
    """After a hello: what the worker does not know of is lost, what nobody wants is dropped."""
    claimed = dict.fromkeys((*hello.running, *hello.holding))
    leases = list(worker.leases.values())
    if state.grace_until:
        # Of leases from before the start only the images know; what this one does not have goes
        # out at once, for the grace is for workers that have not reported yet.
        before = restore.leased_before(state, worker.instance)
        leases += [
            _lease(state, one, state.queue.entries[one.id])
            for one in before
            if one not in worker.leases
        ]
    for lease in leases:
        # What was asked for on another connection is not answered on this one.
        lease.revoking = False
        if lease.attempt not in claimed:
            _release(state, worker, lease, began=False)
    for attempt in [one for one in claimed if one not in worker.leases]:
        found = state.find(attempt)
        issued = found[1].issued.get(attempt.number) if found else None
        if found is None or issued is None or found[1].state in IMAGE_ENDS:
            state.tell_worker(worker, wire.Abandon(attempt=attempt))
        elif issued.instance == worker.instance:
            lease = worker.leases[attempt] = _lease(state, attempt, found[0])
            if attempt in hello.holding:
                lease.begun_at, lease.drawn = state.now, True
            else:
                dispatch.begun(state, worker, lease)


def _lease(state: State, attempt: wire.Attempt, entry: Entry) -> Lease:
    """What a worker has of an earlier session, or of an earlier manager."""
    way = entry.image(attempt.index).issued[attempt.number].relief
    return Lease(attempt, relief.job_for(state, entry, way), state.now, alone=bool(way))


def _heard(state: State, worker: Worker) -> None:
    if worker.liveness.state(state.now) == "suspect":
        _unpark(state, worker)
        # What waited while it was suspect may go to it now.
        state.schedule_due = True
    worker.liveness.heard(state.now)


def _started(state: State, worker: Worker, message: wire.Started, _: Buffer) -> None:
    lease = worker.leases.get(message.attempt)
    found = state.find(message.attempt)
    if lease is None or found is None:
        return
    dispatch.begun(state, worker, lease)
    entry = found[0]
    entry.reason = ""
    if entry.state == "queued":
        entry.move("running")
        state.keep_state(entry)
    state.touch(entry)


def _step(state: State, worker: Worker, step: wire.Step, _: Buffer) -> None:
    lease = worker.leases.get(step.attempt)
    found = state.find(step.attempt)
    if lease is not None and found is not None:
        dispatch.stepped(state, worker, lease, step)
        state.touch(found[0])


def _failed(state: State, worker: Worker, failed: wire.Failed, _: Buffer) -> None:
    lease = worker.leases.pop(failed.attempt, None)
    found = state.find(failed.attempt)
    if lease is None or found is None:
        return
    entry, image = found
    _close(image.issued[failed.attempt.number])
    state.schedule_due = True
    if image.state != "leased":
        return
    # An engine that was killed for memory before it began died of something else than this image.
    counts = failed.started or failed.error.code in outcome.NOT_BEGUN
    if failed.error.code == "worker_lost" or not counts:
        outcome.attempt_lost(state, entry, image, worker, began=False)
        return
    worker.failed += 1
    if failed.error.code in _DEATHS:
        worker.contexts = ()
    if failed.error.code == "out_of_memory":
        loading = lease.step is not None and lease.step.phase == "loading"
        worker.lower_ceiling(lease.job, loading=loading)
        _ran_out(state, worker)
    error = _placed(failed.error, worker, failed.attempt)
    state.log(
        "warning",
        f"image {entry.id[:8]}/{image.index} on {worker.name}: {error.code} {error.signal}",
    )
    outcome.attempt_failed(state, entry, image, error)


def _ran_out(state: State, worker: Worker) -> None:
    """Remember it, and do not let the worker begin what it has no memory for."""
    ceilings = tuple(CeilingRow(*key, pixels) for key, pixels in worker.ceilings.items())
    row = CeilingsRow(worker=worker.name, settings=worker.settings, ceilings=ceilings)
    state.keep(row, soft=True)
    for lease in worker.leases.values():
        if not (lease.started or lease.revoking or worker.can(lease.job)):
            lease.revoking = True
            state.tell_worker(worker, wire.Revoke(attempt=lease.attempt))


def _placed(error: ErrorInfo, worker: Worker, attempt: wire.Attempt) -> ErrorInfo:
    return ErrorInfo(
        code=error.code,
        message=error.message[: limits.TEXT_CHARS_MAX],
        field=error.field,
        worker=worker.name,
        attempt=attempt.number,
        signal=error.signal,
        log_tail=tuple(line[:200] for line in error.log_tail[-limits.LOG_TAIL_LINES :]),
        closest=error.closest[:3],
    )


def _close(issued: Issued) -> None:
    issued.live = False


def _revoked(state: State, worker: Worker, message: wire.Revoked, _: Buffer) -> None:
    lease = worker.leases.get(message.attempt)
    if lease is not None:
        _release(state, worker, lease, began=False)


def _too_late(state: State, worker: Worker, message: wire.TooLate, _: Buffer) -> None:
    lease = worker.leases.get(message.attempt)
    if lease is not None:
        dispatch.begun(state, worker, lease)


def _inventory(state: State, worker: Worker, _: wire.Inventory, body: Buffer) -> None:
    worker.set_catalogue(Catalogue(decode_inventory(body)))
    _remember(state, worker.name, body)
    conflicts.warn(state, worker)
    state.schedule_due = True


def _engine_state(state: State, worker: Worker, message: wire.EngineState, _: Buffer) -> None:
    worker.state = message
    if message.state in ("idle", "drawing"):
        held = (wire.Kept(message.context, message.loaded), *message.kept)
        worker.contexts = tuple(dict.fromkeys(_contexts(state, held)))


def _contexts(state: State, held: tuple[wire.Kept, ...]) -> Iterator[str]:
    """The manager's own keys of what an engine holds."""
    for one in held:
        if one.context in state.contexts:
            yield state.contexts[one.context]
        elif one.model:
            yield plain_context(one.model, state.roster.name_of)


def _goodbye(state: State, worker: Worker, message: wire.Goodbye, _: Buffer) -> None:
    state.log("info", f"worker {worker.name} leaves: {message.reason}")
    leave(state, worker)


def _fault(state: State, worker: Worker, message: wire.Fault, _: Buffer) -> None:
    state.log("warning", f"worker {worker.name} found a fault: {message.error.message}")


def _nothing(state: State, worker: Worker, message: wire.Message, _: Buffer) -> None:
    """A sign of life, which it was by arriving."""


_HANDLERS: dict[type[wire.Message], Callable[[State, Worker, Any, Buffer], None]] = {
    wire.Beat: _nothing,
    wire.ChunkSeen: serving.seen,
    wire.Chunk: arrival.chunk,
    wire.EngineState: _engine_state,
    wire.Failed: _failed,
    wire.Fault: _fault,
    wire.Fetch: serving.fetch,
    wire.Goodbye: _goodbye,
    wire.Inventory: _inventory,
    wire.Preview: previews.arrived,
    wire.Result: arrival.result,
    wire.Revoked: _revoked,
    wire.Standing: controls.standing,
    wire.Started: _started,
    wire.Steered: controls.steered,
    wire.Step: _step,
    wire.TooLate: _too_late,
}


def _release(state: State, worker: Worker, lease: Lease, *, began: bool) -> None:
    """The worker has this lease no more; its image waits again unless another attempt lives."""
    worker.leases.pop(lease.attempt, None)
    state.schedule_due = True
    found = state.find(lease.attempt)
    if found is None:
        return
    entry, image = found
    _close(image.issued[lease.attempt.number])
    if image.state not in IMAGE_ENDS:
        outcome.attempt_lost(state, entry, image, worker, began=began)


def leave(state: State, worker: Worker) -> None:
    """The worker's session is over: what it had goes to others."""
    state.roster.leave(worker)
    for lease in list(worker.leases.values()):
        _release(state, worker, lease, began=lease.started)
    arrival.forget(state, worker)
    worker.fetches.clear()


def connection_lost(state: State, route: bytes) -> None:
    """A send found no connection. The worker may come back with its work within the limit."""
    worker = state.roster.at(route)
    if worker is not None:
        state.log("warning", f"worker {worker.name} has disconnected")
        state.roster.leave(worker)
        worker.fetches.clear()
        _park(state, worker)


def _park(state: State, worker: Worker) -> None:
    """Its images may go elsewhere; its late results still count."""
    state.schedule_due = True
    # An image that goes back may be the end of its petition, and of other leases.
    for lease in list(worker.leases.values()):
        found = state.find(lease.attempt)
        if found is None:
            continue
        entry, image = found
        issued = image.issued[lease.attempt.number]
        if issued.live:
            _close(issued)
            outcome.attempt_lost(state, entry, image, worker, began=False)


def _unpark(state: State, worker: Worker) -> None:
    """It was only slow: what nobody else has taken is its own again."""
    for lease in list(worker.leases.values()):
        found = state.find(lease.attempt)
        if found is None:
            continue
        entry, image = found
        issued = image.issued[lease.attempt.number]
        live = sum(other.live for other in image.issued.values())
        # Two others are at it already; a result from here would still count.
        if issued.live or live >= dispatch.LIVE_MAX or image.state in IMAGE_ENDS:
            continue
        issued.live = True
        if image.state == "waiting":
            state.take(entry, image.index)
            state.move_image(entry, image, "leased")


def review(state: State) -> None:
    """Once a beat: silence becomes suspicion, suspicion becomes the end of a session."""
    for worker in list(state.roster):
        pulse = worker.liveness.state(state.now)
        if pulse == "gone" and (worker.present or worker.leases):
            state.log("warning", f"worker {worker.name} is gone")
            leave(state, worker)
        elif pulse == "suspect" and worker.present:
            _park(state, worker)
        if not worker.present and state.now - worker.liveness.heard_at > limits.REMEMBER_WORKER_S:
            state.roster.forget(worker)
            state.keep(ForgetWorker(worker.name), soft=True)
            state.keep(CeilingsRow(worker=worker.name), soft=True)
        elif not (worker.present or worker.leases) and _successor(state, worker):
            # What is kept is kept by name, and is its successor's.
            state.roster.forget(worker)
        if worker.present and worker.liveness.beat_due(state.now):
            state.say("worker", worker.route, wire.Beat())
    # What was not worth a load, a slower worker or a race may be by now.
    counters = state.counters
    state.schedule_due |= bool(counters.waiting_images or counters.running_images)


def _successor(state: State, worker: Worker) -> bool:
    """Another process of the same name is here: it is what became of this one."""
    return any(other.name == worker.name for other in state.roster.present())
