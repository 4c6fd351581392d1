"""Input files to workers: on request, in pieces under credit, and only what a worker may have."""

from sdistrib import limits
from sdistrib.errors import ProtocolError
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib.transfer import Outgoing
from sdistrib_manager.effects import SendPicture
from sdistrib_manager.roster import Worker
from sdistrib_manager.state import State

#: Digests in one `Forget`.
_FORGET_MAX = 256


def fetch(state: State, worker: Worker, message: wire.Fetch, _: Buffer) -> None:
    """A worker wants an input file, from some place on.

    Raises:
        ProtocolError: it has no such place.
    """
    size_bytes = _size_for(state, worker, message.digest)
    if size_bytes is None:
        text = f"worker {worker.name} asks for a file of no petition that it was granted"
        state.log("warning", f"{text}: {message.digest[:16]}")
        return
    if message.offset > size_bytes:
        raise ProtocolError(f"FETCH at {message.offset} of {size_bytes} bytes")
    pieces = worker.fetches[message.digest] = Outgoing(size_bytes)
    pieces.resume(message.offset)
    _send(state, worker, message.digest, pieces)


def _size_for(state: State, worker: Worker, digest: str) -> int | None:
    """Bytes of the file, if this worker process was ever granted a petition that names it."""
    for petition_id in state.input_names.get(digest, ()):
        entry = state.queue.entries[petition_id]
        issued = (one for image in entry.images.values() for one in image.issued.values())
        if any(one.instance == worker.instance for one in issued):
            return next(file.size_bytes for file in entry.inputs if file.digest == digest)
    return None


def _send(state: State, worker: Worker, digest: str, pieces: Outgoing) -> None:
    for piece in pieces.ready():
        worker.liveness.sent(state.now)
        said = wire.Chunk(digest=digest, offset=piece.offset)
        effect = SendPicture(worker.route, said, digest, piece.offset, piece.end, "worker")
        state.outbox.append(effect)
    if pieces.acknowledged == pieces.size_bytes:
        del worker.fetches[digest]


def seen(state: State, worker: Worker, message: wire.ChunkSeen, _: Buffer) -> None:
    """The worker has part of a file; it can take more."""
    pieces = worker.fetches.get(message.digest)
    if pieces is not None:
        pieces.seen(message.offset)
        _send(state, worker, message.digest, pieces)


def forget(state: State) -> None:
    """At the end of a turn: files that no petition names any more leave the workers' caches."""
    if not state.unnamed:
        return
    digests, state.unnamed = tuple(state.unnamed), {}
    for worker in state.roster.present():
        _tell(state, worker, digests)
        for digest in digests:
            worker.fetches.pop(digest, None)
    state.forgotten |= dict.fromkeys(digests)
    while len(state.forgotten) > limits.FORGOTTEN_INPUTS_MAX:
        del state.forgotten[next(iter(state.forgotten))]


def remind(state: State, worker: Worker) -> None:
    """The worker was away, or is new with the cache of an older process."""
    _tell(state, worker, tuple(state.forgotten))


def _tell(state: State, worker: Worker, digests: tuple[str, ...]) -> None:
    for start in range(0, len(digests), _FORGET_MAX):
        said = wire.Forget(digests=digests[start : start + _FORGET_MAX])
        state.tell_worker(worker, said)
