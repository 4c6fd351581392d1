"""A manager from what was kept: after a restart, and after the store failed under it.

What was leased stays leased for the grace, since its worker may be drawing it still and will say so
in its hello; then it goes to others. Nothing else is different from a petition that never knew
another manager.
"""

from collections.abc import Iterator
from typing import cast

from sdistrib.errors import PetitionError, ProtocolError
from sdistrib.liveness import Liveness
from sdistrib.models import Catalogue
from sdistrib.petitions import IMAGE_ENDS, InputFile
from sdistrib.protocol.codec import decode_inventory, decode_petition
from sdistrib.protocol.messages import Attempt, EngineFacts
from sdistrib_manager import blobs
from sdistrib_manager.door import make_entry
from sdistrib_manager.jobs import Kind
from sdistrib_manager.queue import Entry, Image, Issued
from sdistrib_manager.roster import Worker
from sdistrib_manager.rows import (
    ForgetCost,
    ImageRow,
    PetitionRow,
    PetitionStateRow,
    PinRow,
    Snapshot,
    Tombstone,
)
from sdistrib_manager.state import State

_UNKNOWN_ENGINE = EngineFacts(version="", backend="", device="", fingerprint="")


def restore(state: State, snapshot: Snapshot) -> None:
    """Fill a fresh state with what was kept."""
    state.uptime_base_s = snapshot.uptime_s
    state.tombstones = {stone.id: stone for stone in snapshot.tombstones}
    images: dict[str, list[ImageRow]] = {}
    for row in snapshot.images:
        images.setdefault(row.id, []).append(row)
    inputs: dict[str, list[InputFile]] = {}
    for named in snapshot.inputs:
        inputs.setdefault(named.id, []).append(InputFile(named.digest, named.size_bytes))
    # Workers first: contexts are called by the names that they know.
    _restore_workers(state, snapshot)
    for cost in snapshot.costs:
        for box, context in state.scheduler.costs.remember(cost.known()):
            state.keep(ForgetCost(box, cast(str, context)), soft=True)
    pins = {pin.id: pin for pin in snapshot.pins}
    for petition, how_far in zip(snapshot.petitions, snapshot.states, strict=True):
        files = tuple(inputs.get(petition.id, ()))
        _restore_petition(state, petition, how_far, images.get(petition.id, []), files)
        if (pin := pins.get(petition.id)) is not None:
            _restore_pin(state, pin)
    for entry in state.queue:
        state.line_up(entry)
    if state.counters.running_images:
        state.grace_until = state.now + state.settings.restart_grace_s
    state.schedule_due = True


def _restore_petition(
    state: State,
    row: PetitionRow,
    how_far: PetitionStateRow,
    images: list[ImageRow],
    inputs: tuple[InputFile, ...],
) -> None:
    try:
        petition = decode_petition(row.body)
        entry = make_entry(
            row.id, row.owner, bytes(row.body), row.digest, petition, state.roster.name_of
        )
    except PetitionError as error:
        # Damaged, or of a version that allowed more. It stays on the disk until it is purged; here
        # it is a petition that has failed, so that neither its id nor its number is given again.
        state.log("error", f"petition {row.id[:8]} as kept makes no sense: {error}")
        state.queue.number_taken(row.number)
        state.tombstones[row.id] = Tombstone(
            id=row.id, owner=row.owner, digest=row.digest, state="failed", uptime_s=state.uptime_s
        )
        pictures = (image.result for image in images if image.kept)
        state.damaged[row.id] = frozenset(
            [result.digest for result in pictures if result] + [file.digest for file in inputs]
        )
        return
    entry.job.number = row.number
    entry.number, entry.accepted_wall = row.number, row.accepted_wall
    entry.state, entry.ended_uptime_s = how_far.state, how_far.ended_uptime_s
    if how_far.left_s:
        entry.expires_at = state.now + how_far.left_s
    for image_row in images:
        entry.images[image_row.index] = _image(image_row)
    # Fresh images go out in order, and each one granted has a row.
    entry.fresh = entry.size if entry.ended else len(images)
    entry.again = entry.indices("waiting") or None
    undone = [image for image in entry.images.values() if image.state not in IMAGE_ENDS]
    entry.done = len(entry.indices("done"))
    entry.open = 0 if entry.ended else entry.size - entry.fresh + len(undone)
    entry.inputs = inputs
    state.queue.add(entry)
    _count(state, entry)
    for file in inputs:
        blobs.name_input(state, entry, file, keep=False)


def _restore_pin(state: State, pin: PinRow) -> None:
    """It began to be drawn from these files."""
    entry = state.queue.entries.get(pin.id)
    if entry is not None:
        kind = cast(Kind, entry.job.kind)
        entry.job.kind = kind._replace(contents=pin.contents, fingerprint=pin.fingerprint)
        entry.job.prefers = pin.first or None


def _image(row: ImageRow) -> Image:
    # Other attempts at an image that ended or waits were called off after its row was made.
    leased = row.state == "leased"
    issued = {
        one.number: Issued(one.instance, one.worker, one.live and leased, one.relief)
        for one in row.issued
    }
    return Image(
        index=row.index,
        state=row.state,
        issued=issued,
        failures=list(row.failures),
        losses=row.losses,
        result=row.result,
        seen=row.seen,
        kept=row.kept,
    )


def _count(state: State, entry: Entry) -> None:
    counters = state.counters
    counters.waiting_images += entry.waiting_count
    counters.running_images += len(entry.indices("leased"))
    for image in _kept(entry):
        assert image.result is not None  # noqa: S101 - by _kept
        blobs.use(state, entry.owner, image.result.digest, image.result.size_bytes)
        if image.seen:
            state.seen_pictures.append((entry.id, image.index))
            state.seen_bytes += image.result.size_bytes
        else:
            state.queue.share(entry.owner).picture_bytes += image.result.size_bytes


def _kept(entry: Entry) -> Iterator[Image]:
    return (image for image in entry.images.values() if image.kept and image.result is not None)


def _restore_workers(state: State, snapshot: Snapshot) -> None:
    """Workers of before, as absent: petitions may wait for what they have."""
    learned = {row.worker: row for row in snapshot.ceilings}
    for row in snapshot.workers:
        try:
            catalogue = Catalogue(decode_inventory(row.inventory))
        except ProtocolError:
            continue
        away_s = max(0.0, state.wall - row.seen_wall)
        worker = Worker(
            route=b"",
            name=row.name,
            instance=f"away {row.name}",
            engine=_UNKNOWN_ENGINE,
            catalogue=catalogue,
            liveness=Liveness(state.now - away_s),
            present=False,
        )
        if (row_of := learned.get(row.name)) is not None:
            worker.settings = row_of.settings
            worker.recall({(one.context, one.tiled): one.pixels for one in row_of.ceilings})
        state.roster.by_instance[worker.instance] = worker


def leased_before(state: State, instance: str) -> list[Attempt]:
    """Live attempts at leased images that this worker process was given."""
    return [
        Attempt(entry.id, index, number)
        for entry in state.queue
        for index in entry.indices("leased")
        for number, issued in entry.image(index).issued.items()
        if issued.live and issued.instance == instance
    ]


def end_grace(state: State) -> list[tuple[Entry, Image]]:
    """Once, when the grace is over: leased images whose worker did not come back."""
    if not state.grace_until or state.now < state.grace_until:
        return []
    state.grace_until = 0.0
    left = []
    for entry in state.queue:
        for index in entry.indices("leased"):
            image = entry.image(index)
            for issued in image.issued.values():
                worker = state.roster.by_instance.get(issued.instance)
                issued.live &= worker is not None and any(
                    (lease.id, lease.index) == (entry.id, index) for lease in worker.leases
                )
            if not any(issued.live for issued in image.issued.values()):
                left.append((entry, image))
    return left
