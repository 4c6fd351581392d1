"""The clients' side of the manager: submit, cancel, questions, goodbye."""

import hashlib
from collections.abc import Callable
from typing import Any

from sdistrib.errors import ErrorInfo, PetitionError, ProtocolError
from sdistrib.liveness import Liveness
from sdistrib.models import not_found, wanted_files
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, decode_petition
from sdistrib_manager import answers, delivery, outcome
from sdistrib_manager.clients import Client, Slot
from sdistrib_manager.effects import KeepPetition
from sdistrib_manager.queue import Entry
from sdistrib_manager.state import State


def on_message(state: State, route: bytes, message: wire.Message, body: Buffer) -> None:
    """A client said something.

    Raises:
        ProtocolError: it may not say that now.
    """
    client = state.clients.get(route)
    if isinstance(message, wire.ClientHello):
        _hello(state, route, message)
        return
    if client is None:
        state.say("client", route, wire.Identify())
        return
    client.liveness.heard(state.now)
    handler = _HANDLERS.get(type(message))
    if handler is None:
        raise ProtocolError(f"a client does not say {wire.verb(type(message))}")
    handler(state, client, message, body)


def _hello(state: State, route: bytes, hello: wire.ClientHello) -> None:
    if wire.VERSION not in hello.protocols:
        raise ProtocolError(
            f"{hello.software} speaks protocol {list(hello.protocols)}, this manager"
            f" ({state.settings.software}) speaks {wire.VERSION}"
        )
    if route not in state.clients:
        state.clients[route] = Client(route, Liveness(state.now))
    state.clients[route].liveness.heard(state.now)
    state.say(
        "client", route, wire.Welcome(protocol=wire.VERSION, software=state.settings.software)
    )


def _submit(state: State, client: Client, submit: wire.Submit, body: Buffer) -> None:
    digest = hashlib.sha256(body).hexdigest()
    known = state.queue.entries.get(submit.id)
    if known is not None:
        if known.digest != digest:
            message = f"petition {submit.id} exists with other content"
            _refuse(state, client, submit.id, state.error("conflict", message))
        else:
            _attach(state, client, known)
        return
    try:
        petition = decode_petition(body)
        wanted = wanted_files(petition.params)
    except PetitionError as error:
        _refuse(state, client, submit.id, error.info)
        return
    refusal = _no_room(state, petition)
    entry = Entry(
        id=submit.id,
        body=bytes(body),
        digest=digest,
        petition=petition,
        wanted=wanted,
        number=state.queue.next_number(),
        accepted_at=state.now,
        route=client.route,
    )
    refusal = refusal or _nobody_can(state, entry)
    if refusal is not None:
        _refuse(state, client, submit.id, refusal)
        return
    entry.ahead = state.counters.waiting_images
    state.queue.add(entry)
    state.counters.waiting_images += petition.images
    state.outbox.append(KeepPetition(entry.id, entry.body))
    _attach(state, client, entry)
    state.schedule_due = True
    state.log("info", f"petition {entry.id[:8]}: {petition.images} images accepted")


def _attach(state: State, client: Client, entry: Entry) -> None:
    """From now on this connection gets what the petition yields."""
    before = state.clients.get(entry.route) if entry.route is not None else None
    if before is not None and before is not client:
        before.slots.pop(entry.id, None)
    entry.route = client.route
    entry.finished_sent = False
    entry.reason = entry.reason or outcome.why_waiting(state, entry)
    client.slots[entry.id] = Slot(told=answers.progress(state, entry))
    accepted = wire.Accepted(id=entry.id, state=entry.state, ahead=entry.ahead, reason=entry.reason)
    state.say("client", client.route, accepted)
    delivery.offer_all(state, client, entry)


def _refuse(state: State, client: Client, petition_id: str, error: ErrorInfo) -> None:
    state.say("client", client.route, wire.Refused(id=petition_id, error=error))
    state.log("info", f"petition {petition_id[:8]} refused: {error.code}")


def _no_room(state: State, petition: Petition) -> ErrorInfo | None:
    """`busy`, when one more petition would pass a limit."""
    settings = state.settings
    if state.stopping:
        return state.error("busy", "The manager is stopping.", retry_after_s=10.0)
    facts = (
        (len(state.queue.entries) + 1, settings.petitions_max, "petitions"),
        (state.queue.open_images + petition.images, settings.images_max, "images"),
        (state.blob_bytes, settings.blob_bytes_max, "bytes of pictures not fetched"),
    )
    for would_be, most, what in facts:
        if would_be > most:
            text = f"The manager's queue is full: {most} {what} at most. Try again in 30 s."
            return state.error("busy", text, retry_after_s=30.0)
    return None


def _nobody_can(state: State, entry: Entry) -> ErrorInfo | None:
    """The refusal for files that no known worker has; None when one has them or none is known."""
    if not len(state.roster) or state.roster.holders(entry.wanted):
        return None
    catalogues = [worker.catalogue for worker in state.roster]
    for want in entry.wanted:
        if all(files.find(want.kind, want.name) is None for files in catalogues):
            return not_found(want, catalogues)
    names = ", ".join(f"{want.kind} {want.name!r}" for want in entry.wanted)
    return state.error("no_capable_worker", f"No single worker has all of: {names}.")


def _cancel(state: State, client: Client, cancel: wire.Cancel, _: Buffer) -> None:
    entry = state.queue.entries.get(cancel.id)
    if entry is None:
        # Cancel may overtake Submit after a reconnect; to the client both mean the same.
        state.say("client", client.route, wire.Cancelled(id=cancel.id))
        return
    if not entry.ended:
        outcome.end(state, entry, "cancelled")
    state.say(
        "client", client.route, wire.Cancelled(id=entry.id, done=tuple(entry.indices("done")))
    )


def _progress_seen(state: State, client: Client, message: wire.ProgressSeen, _: Buffer) -> None:
    slot = client.slots.get(message.id)
    if slot is not None:
        slot.unseen = False
        if slot.dirty:
            state.dirty.add(message.id)


def _ask(state: State, client: Client, message: wire.Ask, _: Buffer) -> None:
    state.say("client", client.route, answers.answer(state, message))


def _goodbye(state: State, client: Client, _message: wire.Goodbye, _: Buffer) -> None:
    leave(state, client)


def _fault(state: State, _client: Client, message: wire.Fault, _: Buffer) -> None:
    state.log("warning", f"a client found a fault: {message.error.message}")


def _nothing(state: State, client: Client, message: wire.Message, _: Buffer) -> None:
    """A sign of life, which it was by arriving."""


_HANDLERS: dict[type[wire.Message], Callable[[State, Client, Any, Buffer], None]] = {
    wire.Ask: _ask,
    wire.Beat: _nothing,
    wire.Cancel: _cancel,
    wire.ChunkSeen: delivery.piece_seen,
    wire.Fault: _fault,
    wire.Goodbye: _goodbye,
    wire.ProgressSeen: _progress_seen,
    wire.ResultSeen: delivery.seen,
    wire.Submit: _submit,
}


def leave(state: State, client: Client) -> None:
    """A client's connection is gone. Its petitions go on unless it asked otherwise."""
    state.clients.pop(client.route, None)
    for petition_id in client.slots:
        entry = state.queue.entries.get(petition_id)
        if entry is None or entry.route != client.route:
            continue
        entry.route = None
        if entry.petition.cancel_on_disconnect and not entry.ended:
            outcome.end(state, entry, "cancelled")


def review(state: State) -> None:
    """Once a beat: drop clients that fell silent, beat to the others."""
    for client in list(state.clients.values()):
        if client.liveness.state(state.now) == "gone":
            leave(state, client)
        elif client.liveness.beat_due(state.now):
            state.say("client", client.route, wire.Beat())


def send_progress(state: State) -> None:
    """Send the newest state of each petition that changed and whose last one was seen."""
    dirty, state.dirty = state.dirty, set()
    for petition_id in dirty:
        entry = state.queue.entries.get(petition_id)
        client = state.clients.get(entry.route) if entry and entry.route is not None else None
        slot = client.slots.get(petition_id) if client else None
        if entry is None or client is None or slot is None or entry.finished_sent:
            continue
        slot.dirty = slot.unseen
        if slot.unseen:
            continue
        newest = answers.progress(state, entry)
        if newest != slot.told:
            slot.told, slot.unseen = newest, True
            state.say("client", client.route, newest)
