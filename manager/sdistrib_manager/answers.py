"""What clients are told about the farm and about their petitions."""

from typing import TypeVar

import msgspec

from sdistrib import limits
from sdistrib.models import ModelFile, name_fits
from sdistrib.petitions import PETITION_ENDS, Priority
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib_manager import foresight
from sdistrib_manager.queue import Entry
from sdistrib_manager.roster import Worker, same_file
from sdistrib_manager.scheduler.work import PRIORITIES
from sdistrib_manager.state import State
from sdistrib_manager.waiting import REASON_CHARS

#: Bytes of the rows of one answer; the rest of the header needs little.
_ROWS_BYTES_MAX = limits.HEADER_BYTES_MAX * 3 // 4
#: A whole id; what is shorter is the beginning of one.
_ID_DIGITS = 32

#: Names of priorities.
_PRIORITIES: dict[int, Priority] = {number: name for name, number in PRIORITIES.items()}
#: Speeds of one worker that are shown, and the context of each.
_SPEEDS_MAX = 8

_Row = TypeVar("_Row")


def answer(state: State, ask: wire.Ask) -> wire.Answer:
    """The answer to a client's question."""
    counters = state.counters
    models = _models(state, ask) if ask.what == "models" else ()
    workers = _workers(state) if ask.what in ("workers", "status") else ()
    queue = _queue(state, ask) if ask.what in ("queue", "petition") else ()
    found = (fitting(models), fitting(workers), fitting(queue))
    return wire.Answer(
        number=ask.number,
        models=found[0],
        workers=found[1],
        queue=found[2],
        cut=sum(map(len, found)) < len(models) + len(workers) + len(queue),
        software=state.settings.software,
        uptime_s=state.now - state.started_at,
        waiting_images=counters.waiting_images,
        running_images=counters.running_images,
        done_images=counters.done_images,
        eta_error=foresight.error(state) if ask.what == "status" else 0.0,
    )


def fitting(rows: tuple[_Row, ...]) -> tuple[_Row, ...]:
    """As many of the first rows as fit one message."""
    size_bytes = 0
    for count, row in enumerate(rows):
        size_bytes += len(msgspec.msgpack.encode(row))
        if size_bytes > _ROWS_BYTES_MAX:
            return rows[:count]
    return rows


def _models(state: State, ask: wire.Ask) -> tuple[wire.FoundModel, ...]:
    """A row for each content of each name."""
    where: dict[tuple[str, str], list[tuple[ModelFile, str]]] = {}
    for worker in state.roster.present():
        for file in worker.catalogue.files:
            if ask.kind in ("", file.kind) and name_fits(ask.name, file.name):
                where.setdefault((file.kind, file.name), []).append((file, worker.name))
    found = []
    for _, owners in sorted(where.items()):
        contents = _contents(owners)
        for file, names in contents:
            found.append(wire.FoundModel(file, names, conflict=len(contents) > 1))
    return tuple(found)


def _contents(owners: list[tuple[ModelFile, str]]) -> list[tuple[ModelFile, tuple[str, ...]]]:
    """The different files behind one name, each with those that have it.

    What has no digest yet is taken for the first of the same size that has one.
    """
    names: dict[ModelFile, set[str]] = {}
    for file, owner in sorted(owners, key=lambda one: (not one[0].digest, one[0].digest, one[1])):
        same = next((known for known in names if same_file(known, file)), file)
        names.setdefault(same, set()).add(owner)
    return [(file, tuple(sorted(here))) for file, here in names.items()]


def _workers(state: State) -> tuple[wire.WorkerFacts, ...]:
    return tuple(_facts(state, worker) for worker in sorted(state.roster, key=lambda w: w.name))


def _facts(state: State, worker: Worker) -> wire.WorkerFacts:
    pulse = worker.liveness.state(state.now)
    doing = "loading" if worker.state.state in ("loading", "starting") else "busy"
    busy = bool(worker.leases) or worker.state.state == "starting"
    standing = "away" if not worker.present else "suspect" if pulse != "alive" else ""
    if not standing and not worker.is_open:
        standing = worker.standing.state
    return wire.WorkerFacts(
        name=worker.name,
        state=standing or (doing if busy else "idle"),  # type: ignore[arg-type]
        engine=worker.engine,
        files=len(worker.catalogue.files),
        done=worker.done,
        failed=worker.failed,
        running=tuple(attempt for attempt, lease in worker.leases.items() if lease.started),
        loaded=worker.state.loaded,
        kept=tuple(one.model for one in worker.state.kept),
        last_seen_s=max(0.0, state.now - worker.liveness.heard_at),
        reason=worker.standing.reason[:REASON_CHARS] if worker.present else "",
        declared=worker.declared,
        speeds=_speeds(state, worker),
        max_pixels_learned=worker.pixels_learned,
    )


def _speeds(state: State, worker: Worker) -> tuple[wire.SpeedFacts, ...]:
    """What it has drawn most lately, the newest first."""
    found = []
    for speed in state.scheduler.costs.speeds(worker.name, _SPEEDS_MAX):
        model = state.models.get(str(speed.context))
        if model is not None:
            times = (speed.step_s, speed.image_s, speed.load_s)
            step_s, image_s, load_s = (min(time, limits.SECONDS_MAX) for time in times)
            found.append(
                wire.SpeedFacts(
                    model=model,
                    pixels=speed.pixels,
                    step_s=step_s,
                    image_s=image_s,
                    load_s=load_s,
                )
            )
    return tuple(found)


def petition_body(state: State, ask: wire.Ask) -> Buffer | None:
    """The bytes of the one petition that `petition` asks for; None when it is not one."""
    found = _found(state, ask) if ask.what == "petition" else []
    return found[0].body if len(found) == 1 else None


def _found(state: State, ask: wire.Ask) -> list[Entry]:
    if len(ask.id) == _ID_DIGITS:
        entry = state.queue.entries.get(ask.id)
        return [entry] if entry is not None else []
    ended_too = ask.all or ask.what == "petition"
    return [e for e in state.queue if e.id.startswith(ask.id) and (ended_too or not e.ended)]


def _queue(state: State, ask: wire.Ask) -> tuple[wire.QueuedPetition, ...]:
    """In order of arrival. When not all fit, those that have not ended come first."""
    found = [_row(state, entry) for entry in _found(state, ask)]
    if len(fitting(tuple(found))) < len(found):
        found.sort(key=lambda row: row.state in PETITION_ENDS)
    return tuple(found)


def _row(state: State, entry: Entry) -> wire.QueuedPetition:
    return wire.QueuedPetition(
        id=entry.id,
        state=entry.state,
        model=entry.model,
        images=entry.size,
        done=entry.done,
        failed=len(entry.indices("failed")),
        running=0 if entry.ended else entry.leased_count,
        age_s=max(0.0, state.wall - entry.accepted_wall),
        ahead=entry.ahead if entry.state == "queued" else 0,
        reason=entry.reason,
        eta_s=foresight.eta_s(state, entry),
        priority=_PRIORITIES[entry.job.priority],
    )


def progress(state: State, entry: Entry) -> wire.Progress:
    """The newest state of a petition."""
    running = tuple(
        wire.ImageProgress(
            index=attempt.index,
            worker=worker.name,
            phase=lease.step.phase if lease.step else "loading",
            step=lease.step.step if lease.step else 0,
            steps=lease.step.steps if lease.step else 0,
            step_s=lease.step.step_s if lease.step else 0.0,
        )
        for worker in state.roster
        for attempt, lease in worker.leases.items()
        if attempt.id == entry.id and lease.started
    )
    return wire.Progress(
        id=entry.id,
        state=entry.state,
        ahead=entry.ahead if entry.state == "queued" else 0,
        done=entry.done,
        images=entry.size,
        running=running,
        eta_s=foresight.eta_s(state, entry),
        reason=entry.reason if not running else "",
    )
