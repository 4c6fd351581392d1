"""Pictures from workers: fenced, put together, kept, recorded, and only then acknowledged."""

from sdistrib.errors import ProtocolError
from sdistrib.petitions import IMAGE_ENDS
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib.transfer import Incoming
from sdistrib_manager import blobs, delivery, dispatch, outcome
from sdistrib_manager.effects import PutBlob
from sdistrib_manager.queue import Entry, Image
from sdistrib_manager.roster import Worker
from sdistrib_manager.state import Arrival, State


def result(state: State, worker: Worker, message: wire.Result, body: Buffer) -> None:
    """A worker offers a picture: its head, with all bytes or with pieces to follow."""
    if state.store_trouble:
        return  # it is not acknowledged, so the worker keeps it and offers it again
    reason = _fence(state, worker, message)
    if reason:
        _refuse(state, worker, message.attempt, reason)
        return
    key = (worker.instance, message.attempt)
    here = state.arriving.pop(key, None)
    if here is None or here.incoming.digest != message.digest:
        here = Arrival(message, Incoming(message.digest, message.size_bytes))
    state.arriving[key] = here  # as the newest
    if here.storing:
        return
    if len(body):
        _take(state, worker, here, 0, body)
    else:
        seen = wire.ChunkSeen(digest=message.digest, offset=here.incoming.received)
        state.tell_worker(worker, seen)


def chunk(state: State, worker: Worker, message: wire.Chunk, body: Buffer) -> None:
    """A piece of a picture. One that belongs to nothing is of a result that was refused."""
    here = _transfer(state, worker, message.digest)
    if here is None:
        return
    _take(state, worker, here, message.offset, body)
    seen = wire.ChunkSeen(digest=message.digest, offset=here.incoming.received)
    state.tell_worker(worker, seen)


def _transfer(state: State, worker: Worker, digest: str) -> Arrival | None:
    """The picture that the worker sends in pieces, of those with this digest the newest offered.

    Images may have equal pictures; by the protocol they come one after the other.
    """
    for (instance, _), here in reversed(state.arriving.items()):
        if (instance, here.incoming.digest) == (worker.instance, digest) and not here.storing:
            return here
    return None


def _fence(state: State, worker: Worker, message: wire.Result) -> str:
    """Why the picture is not wanted; "" when it is."""
    found = state.find(message.attempt)
    if found is None:
        return "the petition is not known"
    entry, image = found
    issued = image.issued.get(message.attempt.number)
    if issued is None or issued.instance != worker.instance:
        return "the attempt was not given to this worker"
    if image.state in IMAGE_ENDS:
        return f"the image is {image.state}"
    if message.seed != entry.seed + image.index:
        return "the seed is not that of the image"
    return ""


def _refuse(state: State, worker: Worker, attempt: wire.Attempt, reason: str) -> None:
    worker.leases.pop(attempt, None)
    state.schedule_due = True
    state.tell_worker(worker, wire.ResultRefused(attempt=attempt, reason=reason))


def _take(state: State, worker: Worker, here: Arrival, offset: int, piece: Buffer) -> None:
    try:
        complete = here.incoming.take(offset, piece)
    except ProtocolError as error:
        _damaged(state, worker, here, str(error))
        return
    if complete:
        here.storing = True
        state.outbox.append(PutBlob(here.incoming.digest, here.incoming.parts()))


def _damaged(state: State, worker: Worker, here: Arrival, reason: str) -> None:
    """The bytes are not those announced: the attempt is a failure of its worker."""
    attempt = here.result.attempt
    del state.arriving[worker.instance, attempt]
    _refuse(state, worker, attempt, reason)
    found = state.find(attempt)
    if found is not None and found[1].state == "leased":
        entry, image = found
        image.issued[attempt.number].live = False
        error = state.error(
            "engine_error",
            f"Damaged picture: {reason}.",
            worker=worker.name,
            attempt=attempt.number,
        )
        outcome.attempt_failed(state, entry, image, error)


def stored(state: State, digest: str) -> None:
    """A picture is kept: record it for every result that offered it."""
    for key, here in list(state.arriving.items()):
        if here.storing and here.incoming.digest == digest:
            del state.arriving[key]
            worker = state.roster.by_instance.get(key[0])
            _record(state, worker, here.result)


def failed(state: State, digest: str, reason: str) -> None:
    """A picture could not be kept: it is not acknowledged, and its worker offers it again later."""
    for key, here in list(state.arriving.items()):
        if here.storing and here.incoming.digest == digest:
            del state.arriving[key]
    state.log("error", f"a picture or input file could not be kept: {reason}")


def missing(state: State, digest: str, reason: str) -> None:
    """A picture that was recorded is not there: its images are drawn again."""
    delivery.lost(state, digest)
    for entry in list(state.queue):
        for image in list(entry.images.values()):
            if image.kept and image.result is not None and image.result.digest == digest:
                delivery.drop_picture(state, entry, image)
                if entry.ended or image.seen:
                    state.keep_image(entry, image)
                    delivery.finish(state, entry)
                    continue
                outcome.undo(state, entry, image)
    for client in state.clients.values():
        delivery.pump(state, client)


def _record(state: State, worker: Worker | None, message: wire.Result) -> None:
    found = state.find(message.attempt)
    if found is None or found[1].state in IMAGE_ENDS:
        if worker is not None:
            _refuse(state, worker, message.attempt, "the image ended while it was being kept")
        return
    entry, image = found
    if image.state == "waiting":
        state.take(entry, image.index)
    image.result, image.kept = message, True
    blobs.use(state, entry.owner, message.digest, message.size_bytes)
    state.queue.share(entry.owner).picture_bytes += message.size_bytes
    image.issued[message.attempt.number].live = False
    if worker is not None:
        dispatch.learn(state, worker, entry, message)
    state.move_image(entry, image, "done")
    _free(state, worker, entry, image, message)
    delivery.offer(state, entry, image.index)
    outcome.settle(state, entry)


def _free(
    state: State, worker: Worker | None, entry: Entry, image: Image, message: wire.Result
) -> None:
    """Acknowledge, and call off every other attempt at the same image."""
    if worker is not None:
        worker.leases.pop(message.attempt, None)
        worker.done += 1
        state.tell_worker(worker, wire.ResultRecorded(attempt=message.attempt))
    outcome.call_off(state, entry, image)
    state.schedule_due = True


def forget(state: State, worker: Worker) -> None:
    """The worker's session is over: half pictures of it are dropped."""
    for key, here in list(state.arriving.items()):
        if key[0] == worker.instance and not here.storing:
            del state.arriving[key]
