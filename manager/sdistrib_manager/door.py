"""What may be done with petitions: submit, attach, fetch, cancel, retry, purge."""

import hashlib

from sdistrib import limits
from sdistrib.errors import ErrorInfo, PetitionError
from sdistrib.models import wanted_files
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, decode_petition
from sdistrib_manager import blobs, delivery, inputs, outcome, room, waiting
from sdistrib_manager.clients import Client, Slot
from sdistrib_manager.effects import Checkpoint
from sdistrib_manager.jobs import Find, make_job, rungs
from sdistrib_manager.queue import LOCAL, Entry, Image
from sdistrib_manager.rows import PetitionBodyRow, PetitionRow, Tombstone
from sdistrib_manager.state import Staged, State


def submit(state: State, client: Client, message: wire.Submit, body: Buffer) -> None:
    """A petition comes, or comes again."""
    if not message.detach and _deaf(state, client, message.id):
        return
    digest = hashlib.sha256(body).hexdigest()
    known = state.queue.entries.get(message.id)
    stone = state.tombstones.get(message.id)
    before = known.digest if known is not None else stone.digest if stone is not None else ""
    if (before and before != digest) or _is_staged_otherwise(state, message, body):
        text = f"petition {message.id} exists with other content"
        _refuse(state, client, message.id, state.error("conflict", text))
        return
    if known is not None:
        _welcome(state, client, known, message)
        return
    if stone is not None:
        _refuse(state, client, message.id, _buried(state, stone))
        return
    try:
        entry = _entry(state, message.id, bytes(body), digest)
    except PetitionError as error:
        _refuse(state, client, message.id, error.info)
        return
    if _is_let_in(state, client, message, entry, entry.inputs):
        _accept(state, entry)
        _welcome(state, client, entry, message)


def _is_let_in(
    state: State,
    client: Client,
    message: wire.Submit | wire.Retry,
    entry: Entry,
    files: tuple[InputFile, ...],
) -> bool:
    """There is room for it, somebody may draw it, and its input files are here.

    If not, the client is told why, or which files are to come first.
    """
    room.make(state, entry, files)
    refusal = (
        room.no_room(state, entry, files)
        or room.nobody_can(state, entry)
        or inputs.refusal(state, entry.id, entry.owner, files)
    )
    if refusal is not None:
        _refuse(state, client, message.id, refusal)
    elif inputs.absent(state, entry.owner, files):
        inputs.stage(state, client, message, bytes(entry.body), files)
    else:
        return True
    return False


def _is_staged_otherwise(state: State, message: wire.Submit | wire.Retry, body: Buffer) -> bool:
    """Input files are coming for a petition of this id and other content."""
    staged = state.staged.get(message.id)
    return staged is not None and len(body) > 0 and staged.body != body


def take_staged(state: State, staged: Staged) -> None:
    """The input files of a petition are here: its clients' messages are taken once more."""
    for route, message in list(staged.waiters.items()):
        client = state.clients[route]
        if isinstance(message, wire.Submit):
            submit(state, client, message, staged.body)
        else:
            retry(state, client, message, staged.body)
    if staged.waiters:  # refused: nobody waits for it any more
        inputs.drop(state, staged.id)


def _entry(state: State, petition_id: str, body: bytes, digest: str) -> Entry:
    petition = decode_petition(body)
    find, decided = state.roster.name_of, state.roster.decided()
    entry = make_entry(petition_id, LOCAL, body, digest, petition, find, decided)
    entry.number = entry.job.number = state.queue.next_number()
    entry.accepted_wall = state.wall
    if petition.timeout_s:
        entry.expires_at = state.now + petition.timeout_s
    return entry


def make_entry(
    petition_id: str,
    owner: str,
    body: bytes,
    digest: str,
    petition: Petition,
    find: Find = lambda _kind, _name: None,
    decided: frozenset[str] = frozenset(),
) -> Entry:
    """The record of a petition, all its images fresh; `find` and `decided` as for `make_job`."""
    params = petition.params
    return Entry(
        id=petition_id,
        owner=owner,
        body=body,
        digest=digest,
        model=params.model or params.diffusion_model or params.upscale_model,
        wanted=wanted_files(params),
        job=make_job(petition_id, owner, petition, find, decided),
        seed=petition.seed,
        size=petition.images,
        number=0,
        accepted_wall=0.0,
        cancel_on_disconnect=petition.cancel_on_disconnect,
        exact=petition.exact,
        on_oom=petition.on_oom,
        rungs=rungs(petition),
        inputs=petition.inputs,
        open=petition.images,
    )


def _accept(state: State, entry: Entry) -> None:
    entry.ahead = state.counters.waiting_images
    state.queue.add(entry)
    state.line_up(entry)
    state.counters.waiting_images += entry.size
    state.keep(
        PetitionRow(
            id=entry.id,
            owner=entry.owner,
            number=entry.number,
            body=entry.body,
            digest=entry.digest,
            accepted_wall=entry.accepted_wall,
        )
    )
    for file in entry.inputs:
        blobs.name_input(state, entry, file)
    if entry.expires_at is not None:
        state.keep_state(entry)
    inputs.drop(state, entry.id)
    state.schedule_due = True
    state.log("info", f"petition {entry.id[:8]}: {entry.size} images accepted")


def attach(state: State, client: Client, message: wire.Attach, _: Buffer) -> None:
    """A client wants what a petition yields: the rest of it, or with `again` all of it."""
    if _deaf(state, client, message.id):
        return
    entry = state.queue.entries.get(message.id)
    if entry is None:
        stone = state.tombstones.get(message.id)
        error = _buried(state, stone) if stone else _unknown(state, message.id)
        _refuse(state, client, message.id, error)
    else:
        _tell_accepted(state, client, entry)
        slot = Slot(brief=not message.wait, previews=message.wait and message.previews)
        _listen(state, client, entry, slot, again=message.again)


def detach(state: State, client: Client, message: wire.Detach, _: Buffer) -> None:
    """A client wants nothing more of a petition. What it was not seen to have stays due."""
    entry = state.queue.entries.get(message.id)
    if entry is not None and message.id in client.slots:
        state.part(client, entry)
        delivery.retire(state)
    inputs.leave(state, client, message.id)
    delivery.pump(state, client)


def _welcome(state: State, client: Client, entry: Entry, message: wire.Submit | wire.Retry) -> None:
    """The client knows now that the petition is kept; unless it left, it gets what it yields."""
    _tell_accepted(state, client, entry)
    if not message.detach:
        _listen(state, client, entry, Slot(previews=message.previews))


def _tell_accepted(state: State, client: Client, entry: Entry) -> None:
    if entry.state == "queued":
        entry.reason = entry.reason or waiting.why_waiting(state, entry)
    accepted = wire.Accepted(
        id=entry.id, state=entry.state, ahead=entry.ahead, reason=entry.reason, images=entry.size
    )
    state.say("client", client.route, accepted)


def _listen(state: State, client: Client, entry: Entry, slot: Slot, *, again: bool = False) -> None:
    """From now on this connection gets what the petition yields, beside those that do already."""
    if client.route not in entry.listeners:
        entry.listeners = (*entry.listeners, client.route)
    entry.finished_sent = False
    client.slots[entry.id] = slot
    if not slot.previews:
        state.drop_preview(client, entry.id)
    state.touch(entry)
    delivery.offer_all(state, client, entry, again=again)


def cancel(state: State, client: Client, message: wire.Cancel, _: Buffer) -> None:
    """End a petition. One that is not known yet never runs: Cancel may overtake Submit."""
    entry = state.queue.entries.get(message.id)
    if message.id in state.staged:
        state.staged[message.id].waiters.pop(client.route, None)
        text = f"Petition {message.id[:8]} was cancelled."
        inputs.drop(state, message.id, state.error("cancelled", text))
    if entry is None:
        if message.id not in state.tombstones:
            outcome.bury(state, message.id, LOCAL, "", "cancelled")
        state.say("client", client.route, wire.Cancelled(id=message.id))
        return
    if not entry.ended:
        outcome.end(state, entry, "cancelled")
    done = tuple(entry.indices("done"))
    state.say("client", client.route, wire.Cancelled(id=entry.id, done=done, state=entry.state))


def retry(state: State, client: Client, message: wire.Retry, body: Buffer) -> None:
    """Put the images of an ended petition that have no picture back, edited if a body comes.

    Sent again since its answer got lost, it finds the petition open, and that is the answer.
    """
    if not message.detach and _deaf(state, client, message.id):
        return
    entry = state.queue.entries.get(message.id)
    if entry is None:
        _refuse(state, client, message.id, _unknown(state, message.id))
        return
    drawn = set(entry.indices("done"))
    undone = [index for index in range(entry.size) if index not in drawn]
    try:
        edits = len(body) and bytes(body) != entry.body
        edited = _edited(state, entry, bytes(body)) if edits else entry
    except PetitionError as error:
        _refuse(state, client, message.id, error.info)
        return
    if not entry.ended or not undone:
        _nothing_to_retry(state, client, message, entry, edited)
        return
    petition = decode_petition(edited.body)
    if _is_staged_otherwise(state, message, edited.body):
        text = f"petition {message.id} is tried again with other content"
        _refuse(state, client, message.id, state.error("conflict", text))
        return
    files = tuple(file for file in petition.inputs if file not in entry.inputs)
    if _is_let_in(state, client, message, edited, files):
        _open_again(state, entry, edited, undone, petition)
        _welcome(state, client, entry, message)


def _nothing_to_retry(
    state: State, client: Client, message: wire.Retry, entry: Entry, edited: Entry
) -> None:
    if edited.body == entry.body:
        _welcome(state, client, entry, message)
        return
    text = f"Petition {message.id[:8]} is {entry.state}; its parameters cannot be changed now."
    _refuse(state, client, message.id, state.error("invalid_params", text))


def _edited(state: State, entry: Entry, body: bytes) -> Entry:
    find, decided = state.roster.name_of, state.roster.decided()
    petition = decode_petition(body)
    edited = make_entry(entry.id, entry.owner, body, entry.digest, petition, find, decided)
    edited.job.number = entry.number
    if (edited.seed, edited.size) != (entry.seed, entry.size):
        raise PetitionError.of(
            "invalid_params", "A retry cannot change the seed or the number of images."
        )
    return edited


def _open_again(
    state: State, entry: Entry, edited: Entry, undone: list[int], petition: Petition
) -> None:
    outcome.abandon_leases(state, entry)
    for index in undone:
        for issued in entry.image(index).issued.values():
            issued.live = False
            if edited is not entry:
                # A late result of that attempt is a picture of the parameters of before.
                issued.instance = ""
    if edited is not entry:
        entry.adopt(edited)
        state.keep(PetitionBodyRow(id=entry.id, body=entry.body))
    _exchange_inputs(state, entry, petition.inputs)
    inputs.drop(state, entry.id)
    entry.expires_at = state.now + petition.timeout_s if petition.timeout_s else None
    entry.ended_uptime_s, entry.orphaned_at, entry.first_eta = 0.0, None, None
    entry.move("queued")
    state.queue.count_ended(entry, -1)
    _wait_again(state, entry, undone)
    state.keep_state(entry)
    state.schedule_due = True
    state.log("info", f"petition {entry.id[:8]}: {len(undone)} images are tried again")


def _exchange_inputs(state: State, entry: Entry, wanted: tuple[InputFile, ...]) -> None:
    """From now on the petition keeps these input files, and no other."""
    for file in wanted:
        if file not in entry.inputs:
            blobs.name_input(state, entry, file)
    for file in entry.inputs:
        if file not in wanted:
            blobs.drop_input(state, entry, file)
    entry.inputs = wanted


def _wait_again(state: State, entry: Entry, undone: list[int]) -> None:
    for index in undone:
        image: Image = entry.image(index)
        image.failures.clear()
        image.losses = 0
        if image.state != "waiting":
            state.move_image(entry, image, "waiting")
        else:
            state.counters.waiting_images += 1
            state.keep_image(entry, image)
        entry.put_back(index)
    entry.open = len(undone)
    state.queue.count_images(entry, len(undone))
    state.line_up(entry)


def purge(state: State, client: Client, message: wire.Purge, _: Buffer) -> None:
    """Forget prompts and pictures for good: of one ended petition, or of all of them."""
    if message.id:
        entry = state.queue.entries.get(message.id)
        if entry is None and message.id not in state.tombstones:
            _refuse(state, client, message.id, _unknown(state, message.id))
            return
        if entry is not None and not entry.ended:
            text = f"Petition {message.id[:8]} is {entry.state}; cancel it first."
            _refuse(state, client, message.id, state.error("invalid_params", text))
            return
        doomed = [entry] if entry is not None else []
        damaged = [message.id] if message.id in state.damaged else []
    else:
        doomed = [entry for entry in state.queue if entry.ended]
        damaged = list(state.damaged)
    for entry in doomed:
        outcome.forget(state, entry)
    for petition_id in damaged:
        outcome.forget_damaged(state, petition_id)
    forgotten = len(doomed) + len(damaged)
    if forgotten or not message.id:
        state.outbox.append(Checkpoint())
    state.say("client", client.route, wire.Purged(id=message.id, petitions=forgotten))


def _refuse(state: State, client: Client, petition_id: str, error: ErrorInfo) -> None:
    state.say("client", client.route, wire.Refused(id=petition_id, error=error))
    state.log("info", f"petition {petition_id[:8]} refused: {error.code}")


def _deaf(state: State, client: Client, petition_id: str) -> bool:
    """The connection listens to as many petitions as it may, and was told so."""
    most = limits.CLIENT_PETITIONS_MAX
    if petition_id in client.slots or len(client.slots) < most:
        return False
    text = (
        f"This connection listens to {most} petitions, the most it may; nothing was changed."
        " Detach from one, use another connection, or try again in 5 s."
    )
    _refuse(state, client, petition_id, state.error("busy", text, retry_after_s=5.0))
    return True


def _unknown(state: State, petition_id: str) -> ErrorInfo:
    return state.error("not_found", f"No petition {petition_id} is known here.")


def _buried(state: State, stone: Tombstone) -> ErrorInfo:
    if stone.state == "cancelled":
        return state.error("cancelled", f"Petition {stone.id[:8]} was cancelled.")
    text = f"Petition {stone.id[:8]} ended as {stone.state} and is not kept any more."
    if stone.id in state.damaged:
        text = f"Petition {stone.id[:8]} is kept as failed: this manager cannot read it back."
    return state.error("not_found", text)
