"""Pictures to clients: in order of finishing, under credit, in pieces when they are large."""

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib.transfer import Outgoing
from sdistrib_manager.clients import Client, Delivery
from sdistrib_manager.effects import DropBlob, SendPicture
from sdistrib_manager.queue import Entry
from sdistrib_manager.state import State

#: Failures of one petition that are told with message and log; each may be 8 KiB.
_FAILURES_WHOLE = 2


def offer(state: State, entry: Entry, index: int) -> None:
    """A picture was recorded: send it when the credit of its client allows."""
    client = state.clients.get(entry.route) if entry.route is not None else None
    if client is not None:
        client.ready.append((entry, index))
        pump(state, client)


def offer_all(state: State, client: Client, entry: Entry) -> None:
    """The client has just attached to the petition: everything it has not seen is due."""
    waiting = {(other.id, index) for other, index in client.ready}
    for index in entry.indices("done"):
        key = (entry.id, index)
        if not entry.image(index).seen and key not in client.flying and key not in waiting:
            client.ready.append((entry, index))
    pump(state, client)
    if entry.ended:
        finish(state, entry)


def pump(state: State, client: Client) -> None:
    """Send what the credit allows."""
    while client.ready:
        entry, index = client.ready[0]
        image = entry.image(index)
        result = image.result
        # Another connection may have taken the petition over, and even brought it back.
        if result is None or image.seen or entry.route != client.route:
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
    if delivery is None or delivery.pieces is None:
        return
    if message.digest not in state.blob_uses:
        # Another connection has taken the petition over and has the picture.
        client.land(delivery.entry.id, delivery.index)
        pump(state, client)
        return
    delivery.pieces.seen(message.offset)
    _send_pieces(state, client, message.digest, delivery.pieces)


def seen(state: State, client: Client, message: wire.ResultSeen, _: Buffer = b"") -> None:
    """The client has a picture for good."""
    client.land(message.id, message.index)
    entry = state.queue.entries.get(message.id)
    image = entry.images.get(message.index) if entry else None
    if entry is not None and image is not None and image.result is not None and not image.seen:
        image.seen = True
        entry.unseen -= 1
        drop_picture(state, image.result)
        if entry.ended:
            finish(state, entry)
    pump(state, client)


def drop_picture(state: State, result: wire.Result) -> None:
    """One image less needs this picture."""
    uses = state.blob_uses.get(result.digest, 0) - 1
    if uses > 0:
        state.blob_uses[result.digest] = uses
    elif state.blob_uses.pop(result.digest, None) is not None:
        state.blob_bytes -= result.size_bytes
        state.outbox.append(DropBlob(result.digest))


def drop_unused(state: State, digest: str) -> None:
    """Nobody needs this picture."""
    state.outbox.append(DropBlob(digest))


def finish(state: State, entry: Entry) -> None:
    """Tell the client the end of its petition, once it has all pictures."""
    client = state.clients.get(entry.route) if entry.route is not None else None
    if client is None or entry.finished_sent or entry.unseen:
        return
    entry.finished_sent = True
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
    client.slots.pop(entry.id, None)


def _fitting(failures: tuple[wire.ImageFailure, ...]) -> tuple[wire.ImageFailure, ...]:
    """The first few failures are told whole; of a thousand only the code fits a header."""
    whole = failures[:_FAILURES_WHOLE]
    rest = (
        wire.ImageFailure(failure.index, ErrorInfo(code=failure.error.code, message=""))
        for failure in failures[_FAILURES_WHOLE:]
    )
    return (*whole, *rest)
