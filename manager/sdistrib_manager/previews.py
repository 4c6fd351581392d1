"""Previews from workers to clients: passed on or overwritten, never kept, never looked into.

A connection of a client that takes previews has one slot for each petition: the newest waits there
while the one before is not acknowledged, whichever image and attempt it shows. At most
`limits.CLIENT_PREVIEWS_IN_FLIGHT_MAX` are under way to one connection. A worker hears at once that
there is room for another: what is slow on the way to a client is overwritten here.
"""

from sdistrib import limits
from sdistrib.petitions import IMAGE_ENDS
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib_manager.clients import Client
from sdistrib_manager.roster import Worker
from sdistrib_manager.state import State


def arrived(state: State, worker: Worker, message: wire.Preview, body: Buffer) -> None:
    """A worker shows what it draws. What nobody waits for is dropped."""
    state.tell_worker(worker, wire.PreviewSeen(attempt=message.attempt))
    found = state.find(message.attempt)
    issued = found[1].issued.get(message.attempt.number) if found else None
    if found is None or issued is None or issued.instance != worker.instance or not len(body):
        return
    entry, image = found
    if image.state in IMAGE_ENDS:
        return
    for client in state.listening(entry):
        if client.slots[entry.id].previews:
            _offer(state, client, message, body)


def seen(state: State, client: Client, message: wire.PreviewSeen, _: Buffer) -> None:
    """A client is done with a preview: what waits longest goes next."""
    client.previews_flying.discard(message.attempt.id)
    for petition_id, (preview, body) in list(client.previews_waiting.items()):
        if _may_send(client, petition_id):
            state.drop_preview(client, petition_id)
            _send(state, client, preview, body)


def _may_send(client: Client, petition_id: str) -> bool:
    flying = client.previews_flying
    return petition_id not in flying and len(flying) < limits.CLIENT_PREVIEWS_IN_FLIGHT_MAX


def _offer(state: State, client: Client, preview: wire.Preview, body: Buffer) -> None:
    petition_id = preview.attempt.id
    if _may_send(client, petition_id):
        state.drop_preview(client, petition_id)
        _send(state, client, preview, body)
        return
    waiting = client.previews_waiting.get(petition_id)
    more = len(body) - (len(waiting[1]) if waiting else 0)
    if state.preview_bytes + more <= limits.PREVIEWS_BYTES_MAX:
        client.previews_waiting[petition_id] = (preview, body)
        state.preview_bytes += more


def _send(state: State, client: Client, preview: wire.Preview, body: Buffer) -> None:
    client.previews_flying.add(preview.attempt.id)
    state.say("client", client.route, preview, body)
