"""What would become of a petition: the answer to `Plan`. Nothing is kept, nothing is submitted."""

from typing import cast

from sdistrib import limits
from sdistrib.errors import PetitionError
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, decode_petition
from sdistrib_manager import answers, door, foresight, relief, room, waiting
from sdistrib_manager.clients import Client
from sdistrib_manager.jobs import Kind
from sdistrib_manager.queue import LOCAL, Entry
from sdistrib_manager.roster import Worker
from sdistrib_manager.scheduler.forecast import Placed
from sdistrib_manager.state import State


def plan(state: State, client: Client, message: wire.Plan, body: Buffer) -> None:
    """A client wants to know before it submits."""
    state.say("client", client.route, _planned(state, message.number, bytes(body)))


def _planned(state: State, number: int, body: bytes) -> wire.Planned:
    try:
        petition = decode_petition(body)
        find, decided = state.roster.name_of, state.roster.decided()
        entry = door.make_entry("", LOCAL, body, "", petition, find, decided)
    except PetitionError as error:
        return wire.Planned(number=number, error=error.info)
    refusal = room.nobody_can(state, entry)
    if refusal is not None:
        return wire.Planned(number=number, error=refusal)
    # Where all are known to lack the memory it would be drawn with less, if it allows that.
    job = entry.job = relief.job_for(state, entry, relief.rung(state, entry, None))
    job.arrived_at, job.number = state.now, state.queue.arrivals + 1
    job.images = entry.size
    job.due = state.scheduler.due(job, entry.size)
    forecast, _ = foresight.make(state, before=job)
    worker = forecast.first(job)
    if worker is not None:
        # As `dispatch` will: from its first grant on it is drawn from the same files.
        job.kind = worker.pinned(cast(Kind, job.kind), exact=entry.exact)
    placed = {row.box.instance: row for row in forecast.place(job, entry.size)}
    end = max((row.end for row in placed.values() if row.images), default=state.now)
    idle = any(row.images and not row.box.leases for row in placed.values())
    workers = sorted(state.roster, key=lambda worker: worker.name)
    rows = tuple(_row(state, worker, entry, placed.get(worker.instance)) for worker in workers)
    shown = answers.fitting(rows)
    return wire.Planned(
        number=number,
        eta_s=min(end - state.now, limits.SECONDS_MAX),
        ahead=state.counters.waiting_images,
        reason="" if idle else waiting.why_waiting(state, entry),
        workers=shown,
        cut=len(shown) < len(rows),
    )


def _row(
    state: State, worker: Worker, entry: Entry, placed: Placed[Worker] | None
) -> wire.PlannedWorker:
    missing = worker.catalogue.missing(entry.wanted)
    lacks = tuple(f"{one.kind} {one.name!r}"[: limits.NAME_CHARS_MAX] for one in missing)
    if placed is None:
        reason = waiting.why_closed(state, worker) or ("" if lacks else worker.lacks(entry.job))
        return wire.PlannedWorker(worker=worker.name, lacks=lacks, reason=reason)
    return wire.PlannedWorker(
        worker=worker.name,
        images=placed.images,
        image_s=min(placed.image_s, limits.SECONDS_MAX),
        load_s=min(placed.load_s, limits.SECONDS_MAX),
        known=placed.known,
        reason="" if placed.images else "others are done sooner",
    )
