"""Input files from clients: asked for, put together, kept; only then their petition is accepted.

A petition that names files which its owner has not sent or received before is staged: it is in no
queue and in no store, and its client is told which files are needed. When the last one is kept, the
door takes the petition's own message once more, and finds everything there. What is only staged is
forgotten with this process, or some time after its last connection.

Each file comes from one connection at a time, though several petitions may wait for it; when that
one leaves, the next is asked, and goes on behind what is here.
"""

from collections.abc import Iterable

from sdistrib import limits
from sdistrib.errors import ErrorInfo, ProtocolError
from sdistrib.petitions import InputFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib.transfer import Incoming
from sdistrib_manager import blobs, outcome
from sdistrib_manager.clients import Client
from sdistrib_manager.effects import PutBlob
from sdistrib_manager.queue import LOCAL
from sdistrib_manager.state import Staged, State, Upload


def absent(state: State, owner: str, files: Iterable[InputFile]) -> list[InputFile]:
    """Those that this owner has not sent or received before, or that are not kept any more."""
    return [file for file in files if not blobs.is_owned(state, owner, file.digest)]


def refusal(
    state: State, petition_id: str, owner: str, files: tuple[InputFile, ...]
) -> ErrorInfo | None:
    """Why these files cannot be taken; None when they can."""
    for file in files:
        known = state.blob_sizes.get(file.digest)
        if blobs.is_owned(state, owner, file.digest) and known != file.size_bytes:
            text = f"Input file {file.digest[:16]} has {known} bytes and not {file.size_bytes}."
            return state.error("invalid_params", text, field="inputs")
    if petition_id in state.staged:
        return None  # they are counted
    wanted = {file.digest: file.size_bytes for file in absent(state, owner, files)}
    most = limits.STAGED_BYTES_MAX
    if sum(wanted.values()) > most:
        text = f"The input files have {sum(wanted.values())} bytes together; {most} is most."
        return state.error("too_large", text, field="inputs")
    more = sum(size for file, size in wanted.items() if (owner, file, size) not in state.fresh_uses)
    if state.fresh_bytes[owner] + more > most:
        text = f"You have {most} bytes of input files under way, all that one user may have."
        return state.error("busy", f"{text} Try again in 5 s.", retry_after_s=5.0)
    return None


def stage(
    state: State,
    client: Client,
    message: wire.Submit | wire.Retry,
    body: bytes,
    files: tuple[InputFile, ...],
) -> None:
    """Have the petition wait for its files, and ask for those that nobody sends yet."""
    staged = state.staged.get(message.id)
    if staged is None:
        fresh = {file.digest: file.size_bytes for file in absent(state, LOCAL, files)}
        staged = Staged(message.id, LOCAL, body, files, fresh)
        state.staged[message.id] = staged
        _count_fresh(state, staged, 1)
        # What is here already must not go while the rest comes.
        for file in files:
            if file.digest not in fresh:
                _hold(state, staged, file)
    staged.waiters[client.route] = message
    staged.lost_at = None
    _ask(state, staged, client.route, anew=True)


def _count_fresh(state: State, staged: Staged, more: int) -> None:
    """Its files are under way (1), or not any more (-1); equal ones of a user count once."""
    for digest, size_bytes in staged.fresh.items():
        key = staged.owner, digest, size_bytes
        uses = state.fresh_uses.get(key, 0)
        state.fresh_uses[key] = uses + more
        if 0 in (uses, uses + more):
            state.fresh_bytes[staged.owner] += more * size_bytes
        if not state.fresh_uses[key]:
            del state.fresh_uses[key]


def _hold(state: State, staged: Staged, file: InputFile) -> None:
    staged.held[file.digest] = None
    blobs.use(state, staged.owner, file.digest, file.size_bytes)


def _ask(state: State, staged: Staged, route: bytes, *, anew: bool) -> None:
    """Have this connection send what nobody sends, and `anew` what it was asked for before."""
    asked = []
    for file in staged.files:
        if file.digest in staged.held:
            continue
        key = staged.owner, file.digest
        upload = state.uploads.get(key)
        if upload is None:
            upload = state.uploads[key] = Upload(Incoming(file.digest, file.size_bytes))
        upload.petitions[staged.id] = None
        mine = upload.sender is None or (anew and upload.sender[1] == staged.id)
        if mine and not upload.storing:
            upload.sender = route, staged.id
            if upload.incoming.size_bytes != file.size_bytes:
                upload.incoming = Incoming(file.digest, file.size_bytes)
            asked.append(upload.incoming)
    for incoming in asked:
        if incoming.received:
            seen = wire.ChunkSeen(digest=incoming.digest, offset=incoming.received)
            state.say("client", route, seen)
    if asked:
        state.clients[route].pieces_at = state.now
        digests = tuple(incoming.digest for incoming in asked)
        state.say("client", route, wire.Need(id=staged.id, digests=digests))


def chunk(state: State, client: Client, message: wire.Chunk, body: Buffer) -> None:
    """A piece of an input file. One that was not asked for is of a petition that is refused."""
    upload = state.uploads.get((LOCAL, message.digest))
    if upload is None or upload.storing or upload.sender is None:
        return
    incoming = upload.incoming
    # A piece behind a gap was sent for an earlier petition; this one's begin where we said.
    if upload.sender[0] != client.route or message.offset > incoming.received:
        return
    try:
        complete = incoming.take(message.offset, body)
    except ProtocolError as error:
        text = f"Input file {message.digest[:16]} is damaged: {error}."
        _damaged(state, client, upload, state.error("invalid_params", text, field="inputs"))
        return
    client.pieces_at = state.now
    seen = wire.ChunkSeen(digest=message.digest, offset=incoming.received)
    state.say("client", client.route, seen)
    if complete:
        _store(state, upload)


def _damaged(state: State, client: Client, upload: Upload, error: ErrorInfo) -> None:
    """What a connection sends is not what it announced: others may have it all the same."""
    upload.incoming = Incoming(upload.incoming.digest, upload.incoming.size_bytes)
    upload.sender = None
    for staged in _waiting(state, upload):
        if client.route in staged.waiters:
            state.say("client", client.route, wire.Refused(id=staged.id, error=error))
            del staged.waiters[client.route]
            if not staged.waiters:
                drop(state, staged.id)
    _free_of(state, client)
    _ask_others(state, [upload])


def _store(state: State, upload: Upload) -> None:
    """All of the file is here: have it kept. Nothing is accepted on its strength before it is."""
    upload.storing = True
    state.outbox.append(PutBlob(upload.incoming.digest, upload.incoming.parts()))


def stored(state: State, digest: str) -> list[Staged]:
    """A file is kept; the petitions that wait for nothing more."""
    ready = []
    for key in [key for key, up in state.uploads.items() if up.storing and key[1] == digest]:
        upload = state.uploads.pop(key)
        for staged in _waiting(state, upload):
            file = next(file for file in staged.files if file.digest == digest)
            size_bytes = upload.incoming.size_bytes
            if file.size_bytes != size_bytes:
                text = f"Input file {digest[:16]} has {size_bytes} bytes, not {file.size_bytes}."
                drop(state, staged.id, state.error("invalid_params", text, field="inputs"))
                continue
            _hold(state, staged, file)
            if len(staged.held) == len(staged.files):
                ready.append(staged)
    return ready


def failed(state: State, digest: str, reason: str) -> None:
    """A file could not be kept: its petitions may be tried again later."""
    if any(key[1] == digest and upload.storing for key, upload in state.uploads.items()):
        text = f"The manager cannot keep an input file now: {reason}. Try again in 30 s."
        _spoil(state, digest, state.error("busy", text, retry_after_s=30.0))


def missing(state: State, digest: str, reason: str) -> None:
    """A file that petitions name is not there, or damaged: what needs it cannot be drawn."""
    for worker in state.roster:
        worker.fetches.pop(digest, None)
    for petition_id in list(state.input_names.get(digest, ())):
        entry = state.queue.entries[petition_id]
        file = next(file for file in entry.inputs if file.digest == digest)
        # Nobody has it any more: whoever tries again is asked for it.
        blobs.drop_input(state, entry, file)
        if not entry.ended:
            text = (
                f"Input file {digest[:16]} of the petition is lost at the manager: {reason[:200]}."
                " Send the petition again."
            )
            outcome.fail(state, entry, state.error("internal", text, field="inputs"))


def _waiting(state: State, upload: Upload) -> list[Staged]:
    """Petitions that need the file."""
    return [state.staged[petition_id] for petition_id in upload.petitions]


def _spoil(state: State, digest: str, error: ErrorInfo) -> None:
    """The file does not come: whoever needs it is refused."""
    for key in [key for key in state.uploads if key[1] == digest]:
        for staged in _waiting(state, state.uploads.pop(key)):
            drop(state, staged.id, error)
    blobs.drop_unused(state, digest)


def drop(state: State, petition_id: str, error: ErrorInfo | None = None) -> None:
    """The petition does not wait for files any more; who waits with it is told why."""
    staged = state.staged.pop(petition_id, None)
    if staged is None:
        return
    _count_fresh(state, staged, -1)
    if error is not None:
        for route in staged.waiters:
            state.say("client", route, wire.Refused(id=petition_id, error=error))
        state.log("info", f"petition {petition_id[:8]} refused: {error.code}")
    for digest in staged.held:
        blobs.release(state, staged.owner, digest)
    freed = []
    for key, upload in _coming(state, staged):
        upload.petitions.pop(petition_id, None)
        if upload.storing:
            continue
        if not upload.petitions:
            del state.uploads[key]
        elif upload.sender is not None and upload.sender[1] == petition_id:
            upload.sender = None
            freed.append(upload)
    _ask_others(state, freed)


def _coming(state: State, staged: Staged) -> list[tuple[tuple[str, str], Upload]]:
    """Files of the petition that are not here, by user and digest."""
    keys = [(staged.owner, file.digest) for file in staged.files if file.digest not in staged.held]
    return [(key, state.uploads[key]) for key in keys if key in state.uploads]


def left(state: State, client: Client) -> None:
    """The connection is gone: others may have the same files."""
    for staged in state.staged.values():
        _part(state, staged, client)
    _free_of(state, client)


def _free_of(state: State, client: Client) -> None:
    """What this connection sends for petitions that it waits for no more comes from others."""
    freed = []
    for upload in state.uploads.values():
        # One that is being kept comes from nobody any more, and its petition may be gone.
        if upload.storing or upload.sender is None or upload.sender[0] != client.route:
            continue
        if client.route not in state.staged[upload.sender[1]].waiters:
            upload.sender = None
            freed.append(upload)
    _ask_others(state, freed)


def leave(state: State, client: Client, petition_id: str) -> None:
    """This connection waits for the petition no more."""
    staged = state.staged.get(petition_id)
    if staged is None:
        return
    _part(state, staged, client)
    freed = []
    for _, upload in _coming(state, staged):
        if upload.sender == (client.route, petition_id):
            upload.sender = None
            freed.append(upload)
    _ask_others(state, freed)


def _part(state: State, staged: Staged, client: Client) -> None:
    if staged.waiters.pop(client.route, None) is not None and not staged.waiters:
        staged.lost_at = state.now


def _ask_others(state: State, freed: list[Upload]) -> None:
    """These files, which nobody sends, come from the next connection that waits for them."""
    for upload in freed:
        waiting = [] if upload.storing or upload.sender else _waiting(state, upload)
        staged = next((staged for staged in waiting if staged.waiters), None)
        if staged is not None:
            _ask(state, staged, next(iter(staged.waiters)), anew=False)


def review(state: State) -> None:
    """Once a beat: forget what nobody sends any more, and do not wait for who sends nothing."""
    for staged in list(state.staged.values()):
        if staged.lost_at is not None and state.now - staged.lost_at >= state.settings.gone_s:
            drop(state, staged.id)
    senders = [up.sender for up in state.uploads.values() if up.sender and not up.storing]
    for route in dict.fromkeys(route for route, _ in senders):
        if state.now - state.clients[route].pieces_at >= limits.UPLOAD_SILENCE_S:
            _give_up(state, state.clients[route])


def _give_up(state: State, client: Client) -> None:
    """A connection that lives sends nothing of what it was asked for, and takes others' room."""
    text = f"No piece of an input file came for {limits.UPLOAD_SILENCE_S:.0f} s."
    error = state.error("busy", f"{text} Send the petition again.", retry_after_s=5.0)
    for staged in state.staged.values():
        if client.route in staged.waiters:
            state.say("client", client.route, wire.Refused(id=staged.id, error=error))
    left(state, client)
