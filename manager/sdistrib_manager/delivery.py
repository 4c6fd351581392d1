"""Pictures to clients: in order of finishing, under credit, in pieces when they are large."""

from collections import deque

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib.transfer import Outgoing
from sdistrib_manager import blobs
from sdistrib_manager.clients import Client, Delivery
from sdistrib_manager.effects import SendPicture
from sdistrib_manager.queue import Entry, Image
from sdistrib_manager.state import State

#: Failures of one petition that are told with message and log; each may be 8 KiB.
_FAILURES_WHOLE = 2


def offer(state: State, entry: Entry, index: int) -> None:
    """A picture was recorded: send it when the credit of its clients allows."""
    for client in state.listening(entry):
        if not client.slots[entry.id].brief:
            client.ready.append((entry, index))
            pump(state, client)


def offer_all(state: State, client: Client, entry: Entry, *, again: bool = False) -> None:
    """The client has just attached to the petition: what it has not seen is due.

    With `again`, what was seen before and is still kept is due as well.
    """
    for index in entry.indices("done"):
        image = entry.image(index)
        if image.kept and (again or not image.seen) and not client.is_due(entry.id, index):
            client.ready.append((entry, index))
    pump(state, client)
    finish(state, entry)


def pump(state: State, client: Client) -> None:
    """Send what the credit allows."""
    while client.ready:
        entry, index = client.ready[0]
        image = entry.image(index)
        result = image.result
        if result is None or not image.kept or entry.id not in client.slots:
            client.ready.popleft()
            continue
        if not client.may_send(result.size_bytes) or client.transfer_of(result.digest):
            return
        client.ready.popleft()
        _launch(state, client, entry, result)


def _launch(state: State, client: Client, entry: Entry, result: wire.Result) -> None:
    delivery = Delivery(entry, result.attempt.index, result.size_bytes)
    client.launch(delivery)
    client.liveness.sent(state.now)
    if result.size_bytes <= limits.CHUNK_BYTES:
        whole = SendPicture(client.route, result, result.digest, 0, result.size_bytes)
        state.outbox.append(whole)
        return
    delivery.pieces = Outgoing(result.size_bytes)
    state.say("client", client.route, result)
    _send_pieces(state, client, result.digest, delivery.pieces)


def _send_pieces(state: State, client: Client, digest: str, pieces: Outgoing) -> None:
    for piece in pieces.ready():
        chunk = wire.Chunk(digest=digest, offset=piece.offset)
        state.outbox.append(SendPicture(client.route, chunk, digest, piece.offset, piece.end))


def piece_seen(state: State, client: Client, message: wire.ChunkSeen, _: Buffer = b"") -> None:
    """The client has part of a picture; it can take more."""
    delivery = client.transfer_of(message.digest)
    if delivery is not None and delivery.pieces is not None:
        delivery.pieces.seen(message.offset)
        _send_pieces(state, client, message.digest, delivery.pieces)


def seen(state: State, client: Client, message: wire.ResultSeen, _: Buffer = b"") -> None:
    """The client has a picture for good; one that does not listen has not asked for it."""
    client.land(message.id, message.index)
    entry = state.queue.entries.get(message.id) if message.id in client.slots else None
    image = entry.images.get(message.index) if entry else None
    if entry is None or image is None or image.result is None:
        pump(state, client)
        return
    mark_seen(state, entry, image)
    retire(state)
    pump(state, client)
    finish(state, entry)


def mark_seen(state: State, entry: Entry, image: Image) -> None:
    """A client has the picture: from now on it is kept for fetching again only."""
    if image.seen or image.result is None:
        return
    image.seen = True
    if image.kept:
        state.seen_pictures.append((entry.id, image.index))
        state.seen_bytes += image.result.size_bytes
        state.queue.share(entry.owner).picture_bytes -= image.result.size_bytes
    state.keep_image(entry, image, soft=True)


def retire(state: State) -> None:
    """Drop the oldest pictures that clients have seen, beyond what is kept for fetching again.

    Not while the store is in trouble: a picture must not go before the row that lets it go is kept,
    else a restart would find it missing and draw it again.
    """
    if state.store_trouble:
        return
    while state.seen_pictures and state.seen_bytes > state.settings.retention_bytes:
        petition_id, index = state.seen_pictures[0]
        entry = state.queue.entries.get(petition_id)
        if entry and any(one.is_due(petition_id, index) for one in state.listening(entry)):
            return  # whoever has it next lets it go
        state.seen_pictures.popleft()
        image = entry.images.get(index) if entry else None
        if entry is not None and image is not None and image.kept and image.result is not None:
            drop_picture(state, entry, image)
            state.keep_image(entry, image, soft=True)


def store_recovered(state: State) -> None:
    """Writing works again: what was left out meanwhile is kept, and what waited for it goes on."""
    state.store_trouble = ""
    state.schedule_due = True
    left_out, state.left_out = state.left_out, {}
    for petition_id, index in left_out:
        entry = state.queue.entries.get(petition_id)
        image = entry.images.get(index) if entry else None
        if entry is not None and image is not None:
            state.keep_image(entry, image, soft=True)
    for worker in state.roster.present():
        # Results offered meanwhile got no answer: a worker that says hello again hands them in.
        state.tell_worker(worker, wire.Identify())
    retire(state)


def drop_picture(state: State, entry: Entry, image: Image) -> None:
    """The picture of this image is not needed any more."""
    if not image.kept or image.result is None:
        return
    image.kept = False
    if image.seen:
        state.seen_bytes -= image.result.size_bytes
    else:
        state.queue.share(entry.owner).picture_bytes -= image.result.size_bytes
    blobs.release(state, entry.owner, image.result.digest)


def lost(state: State, digest: str) -> None:
    """The picture is on its way to no client any more, and waits for no credit."""
    for client in state.clients.values():
        client.ready = deque(due for due in client.ready if not _is_of(*due, digest))
        for key, delivery in list(client.flying.items()):
            if _is_of(delivery.entry, delivery.index, digest):
                client.land(*key)


def _is_of(entry: Entry, index: int, digest: str) -> bool:
    result = entry.image(index).result
    return result is not None and result.digest == digest


def finish(state: State, entry: Entry) -> None:
    """Tell each client that has all its pictures the end, or how far the petition is."""
    for client in state.listening(entry):
        brief = client.slots[entry.id].brief
        if (entry.ended or brief) and not _is_owed(client, entry):
            entry.finished_sent |= entry.ended
            _tell_end(state, client, entry)


def _is_owed(client: Client, entry: Entry) -> bool:
    on_the_way = any(petition_id == entry.id for petition_id, _ in client.flying)
    return on_the_way or any(other is entry for other, _ in client.ready)


def _tell_end(state: State, client: Client, entry: Entry) -> None:
    failures = tuple(
        wire.ImageFailure(image.index, image.failures[-1])
        for image in sorted(entry.images.values(), key=lambda image: image.index)
        if image.state == "failed"
    )
    state.say(
        "client",
        client.route,
        wire.Finished(
            id=entry.id,
            state=entry.state,
            done=tuple(entry.indices("done")),
            failures=_fitting(failures),
        ),
    )
    state.part(client, entry)


def _fitting(failures: tuple[wire.ImageFailure, ...]) -> tuple[wire.ImageFailure, ...]:
    """The first few failures are told whole; of a thousand only the code fits a header."""
    whole = failures[:_FAILURES_WHOLE]
    rest = (
        wire.ImageFailure(failure.index, ErrorInfo(code=failure.error.code, message=""))
        for failure in failures[_FAILURES_WHOLE:]
    )
    return (*whole, *rest)
