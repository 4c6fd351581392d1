"""The clients' side of the manager: hello, questions, goodbye. Petitions are `door`'s."""

from collections.abc import Callable
from typing import Any

from sdistrib.errors import ProtocolError
from sdistrib.liveness import Liveness
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib_manager import answers, controls, delivery, door, inputs, outcome, planning, previews
from sdistrib_manager.clients import Client
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
    client = state.clients[route]
    client.liveness.heard(state.now)
    # A peer that says hello again on a connection that stands has missed answers, or we have. What
    # was under way goes again when it has said what it still wants.
    client.unsend()
    for petition_id in list(client.previews_waiting):
        state.drop_preview(client, petition_id)
    state.say(
        "client", route, wire.Welcome(protocol=wire.VERSION, software=state.settings.software)
    )


def _progress_seen(state: State, client: Client, message: wire.ProgressSeen, _: Buffer) -> None:
    slot = client.slots.get(message.id)
    if slot is not None:
        slot.unseen = False
        if slot.dirty:
            state.dirty[message.id] = None


def _ask(state: State, client: Client, message: wire.Ask, _: Buffer) -> None:
    body = answers.petition_body(state, message)
    state.say("client", client.route, answers.answer(state, message), body)


def _goodbye(state: State, client: Client, _message: wire.Goodbye, _: Buffer) -> None:
    leave(state, client)


def _fault(state: State, _client: Client, message: wire.Fault, _: Buffer) -> None:
    state.log("warning", f"a client found a fault: {message.error.message}")


def _nothing(state: State, client: Client, message: wire.Message, _: Buffer) -> None:
    """A sign of life, which it was by arriving."""


_HANDLERS: dict[type[wire.Message], Callable[[State, Client, Any, Buffer], None]] = {
    wire.Ask: _ask,
    wire.Beat: _nothing,
    wire.Cancel: door.cancel,
    wire.Control: controls.control,
    wire.Chunk: inputs.chunk,
    wire.ChunkSeen: delivery.piece_seen,
    wire.Fault: _fault,
    wire.Goodbye: _goodbye,
    wire.Plan: planning.plan,
    wire.PreviewSeen: previews.seen,
    wire.ProgressSeen: _progress_seen,
    wire.ResultSeen: delivery.seen,
    wire.Submit: door.submit,
    wire.Attach: door.attach,
    wire.Detach: door.detach,
    wire.Retry: door.retry,
    wire.Purge: door.purge,
}


def leave(state: State, client: Client) -> None:
    """A client's connection is gone. Its petitions go on unless it asked otherwise."""
    state.clients.pop(client.route, None)
    inputs.left(state, client)
    for petition_id in list(client.slots):
        entry = state.queue.entries.get(petition_id)
        if entry is None:
            continue
        brief = client.slots[petition_id].brief
        state.part(client, entry)
        if entry.cancel_on_disconnect and not (entry.ended or entry.listeners or brief):
            outcome.end(state, entry, "cancelled")
    delivery.retire(state)


def review(state: State) -> None:
    """Once a beat: drop clients that fell silent, beat to the others."""
    for client in list(state.clients.values()):
        if client.liveness.state(state.now) == "gone":
            leave(state, client)
        elif client.liveness.beat_due(state.now):
            state.say("client", client.route, wire.Beat())


def send_progress(state: State) -> None:
    """Send the newest state of each petition that changed and whose last one was seen."""
    dirty, state.dirty = state.dirty, {}
    for petition_id in dirty:
        entry = state.queue.entries.get(petition_id)
        if entry is None:
            continue
        for client in state.listening(entry):
            slot = client.slots[petition_id]
            slot.dirty = not slot.brief
            if slot.dirty and not slot.unseen:
                slot.dirty, slot.unseen = False, True
                state.say("client", client.route, answers.progress(state, entry))
