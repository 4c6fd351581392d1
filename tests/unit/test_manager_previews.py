"""Previews through the manager: newest wins, one under way per petition, nothing kept."""

import pytest

from sdistrib import limits
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_manager import effects as fx
from tests.support.farm import Client, Farm, Worker, petition, petition_id


@pytest.fixture
def farm():
    return Farm()


def shows(worker: Worker, attempt: wire.Attempt, step: int, data: bytes = b"preview") -> None:
    """A worker shows what it draws."""
    preview = wire.Preview(
        attempt=attempt, step=step, steps=20, width=8, height=8, format="png", worker=worker.name
    )
    worker.says(preview, data)


def submits(client: Client, number: int = 1, *, previews: bool = True, **about: object) -> str:
    """Submit a petition and listen to it, with previews or without."""
    body = encode_petition(petition(preview="proj", **about))
    client.says(wire.Submit(id=petition_id(number), previews=previews), body)
    return petition_id(number)


def steps(client: Client) -> list[int]:
    """The steps that a client was shown."""
    return [preview.step for preview in client.got(wire.Preview)]


def seen(client: Client, attempt: wire.Attempt) -> None:
    client.says(wire.PreviewSeen(attempt=attempt))


def test_a_preview_goes_to_whoever_asked_and_the_worker_has_room_at_once(farm):
    worker, client, plain = Worker(farm), Client(farm), Client(farm, "old")
    pid = submits(client)
    plain.says(wire.Attach(id=pid))
    attempt = worker.starts()
    shows(worker, attempt, 3, b"what it looks like")
    (send,) = [e for e in farm.kept(fx.Send) if isinstance(e.message, wire.Preview)]
    assert (send.route, send.body, send.message.step) == (client.route, b"what it looks like", 3)
    assert steps(plain) == []
    assert worker.got(wire.PreviewSeen) == [wire.PreviewSeen(attempt=attempt)]


def test_a_client_that_does_not_answer_gets_one_and_then_the_newest(farm):
    worker, client = Worker(farm), Client(farm)
    submits(client)
    attempt = worker.starts()
    for step in range(1, 11):
        shows(worker, attempt, step)
    assert steps(client) == [1]
    assert farm.manager.state.preview_bytes == len(b"preview")
    # The engine's way to the manager is not held up by it.
    assert len(worker.got(wire.PreviewSeen)) == 10
    seen(client, attempt)
    assert steps(client) == [1, 10]
    assert farm.manager.state.preview_bytes == 0
    seen(client, attempt)
    assert steps(client) == [1, 10]


def test_one_slow_client_holds_up_no_other(farm):
    worker, slow, quick = Worker(farm), Client(farm, "slow"), Client(farm, "fast")
    pid = submits(slow)
    quick.says(wire.Attach(id=pid, previews=True))
    attempt = worker.starts()
    for step in (1, 2, 3):
        shows(worker, attempt, step)
        seen(quick, attempt)
    assert (steps(slow), steps(quick)) == ([1], [1, 2, 3])


def test_two_workers_share_the_slot_of_their_petition(farm):
    one, two, client = Worker(farm), Worker(farm, "gpu2"), Client(farm)
    submits(client, images=2)
    first, second = one.starts(), two.starts()
    shows(one, first, 1)
    shows(two, second, 4)
    shows(one, first, 2)
    seen(client, first)
    told = [(preview.worker, preview.step) for preview in client.got(wire.Preview)]
    assert told == [("gpu1", 1), ("gpu1", 2)]


def test_nothing_is_shown_of_a_picture_that_is_there(farm):
    worker, client = Worker(farm), Client(farm)
    pid = submits(client, images=2)
    attempt = worker.starts(worker.attempts[0])
    shows(worker, attempt, 1)
    shows(worker, attempt, 2)
    worker.draws(attempt)
    assert farm.manager.state.preview_bytes == 0
    seen(client, attempt)
    shows(worker, attempt, 3)
    assert steps(client) == [1]
    assert client.pictures == [0]
    # The other image is shown as before.
    shows(worker, worker.starts(wire.Attempt(pid, 1, 1)), 1)
    assert steps(client) == [1, 1]


@pytest.mark.parametrize("what", ["cancel", "detach", "goodbye", "breaks", "hello", "plain attach"])
def test_what_waits_for_a_client_is_dropped_when_it_leaves_or_begins_anew(farm, what):
    worker, client = Worker(farm), Client(farm)
    pid = submits(client)
    attempt = worker.starts()
    shows(worker, attempt, 1)
    shows(worker, attempt, 2)
    assert farm.manager.state.preview_bytes
    match what:
        case "cancel":
            client.says(wire.Cancel(id=pid))
        case "detach":
            client.says(wire.Detach(id=pid))
        case "goodbye":
            client.says(wire.Goodbye())
        case "breaks":
            client.breaks()
        case "hello":
            client.says(wire.ClientHello(protocols=(1,), software="client test"))
        case _:
            client.says(wire.Attach(id=pid))
    assert farm.manager.state.preview_bytes == 0
    shows(worker, attempt, 3)
    assert steps(client) == ([1, 3] if what == "hello" else [1])


def test_a_purged_petition_leaves_no_preview(farm):
    worker, client, other = Worker(farm), Client(farm), Client(farm, "two")
    pid = submits(client)
    attempt = worker.starts()
    shows(worker, attempt, 1)
    shows(worker, attempt, 2)
    other.says(wire.Cancel(id=pid))
    other.says(wire.Purge(id=pid))
    assert farm.manager.state.preview_bytes == 0
    seen(client, attempt)
    assert steps(client) == [1]


def test_a_restarted_manager_has_none_and_passes_the_next_one_on(farm):
    worker, client = Worker(farm), Client(farm)
    pid = submits(client)
    attempt = worker.starts()
    shows(worker, attempt, 1)
    shows(worker, attempt, 2)
    farm.restart()
    worker.reconnects(running=(attempt,))
    client.says(wire.ClientHello(protocols=(1,), software="client test"))
    client.says(wire.Attach(id=pid, previews=True))
    shows(worker, attempt, 3)
    assert steps(client) == [1, 3]


def test_previews_of_attempts_that_were_never_given_are_answered_and_dropped(farm):
    worker, liar, client = Worker(farm), Worker(farm, "liar"), Client(farm)
    pid = submits(client)
    attempt = worker.starts()
    for false in (attempt, wire.Attempt(pid, 0, 9), wire.Attempt(pid, 7, 1),
                  wire.Attempt(petition_id(8), 0, 1)):  # fmt: skip
        shows(liar, false, 1)
    shows(worker, attempt, 1, b"")
    assert steps(client) == []
    assert len(liar.got(wire.PreviewSeen)) == 4


def test_a_client_may_be_shown_n_petitions_at_a_time_and_the_rest_waits_in_turn(farm):
    most = limits.CLIENT_PREVIEWS_IN_FLIGHT_MAX
    client = Client(farm)
    workers = [Worker(farm, f"w{number}") for number in range(most + 2)]
    attempts = []
    for number, worker in enumerate(workers):
        submits(client, number + 1)
        attempts.append(worker.starts())
    for number, worker in enumerate(workers):
        shows(worker, attempts[number], number)
    assert steps(client) == list(range(most))
    seen(client, attempts[0])
    assert steps(client) == list(range(most + 1))
    seen(client, attempts[1])
    assert steps(client) == list(range(most + 2))


def test_what_waits_is_bounded_in_bytes_and_the_newcomer_is_dropped(farm, monkeypatch):
    monkeypatch.setattr(limits, "PREVIEWS_BYTES_MAX", 20)
    one, two = Client(farm, "one"), Client(farm, "two")
    worker = Worker(farm)
    pid = submits(one)
    two.says(wire.Attach(id=pid, previews=True))
    attempt = worker.starts()
    shows(worker, attempt, 1)
    shows(worker, attempt, 2, bytes(10))
    assert farm.manager.state.preview_bytes == limits.PREVIEWS_BYTES_MAX
    # One byte more than there is room for: what waits stays.
    shows(worker, attempt, 3, bytes(11))
    assert farm.manager.state.preview_bytes == limits.PREVIEWS_BYTES_MAX
    for client in (one, two):
        seen(client, attempt)
    assert farm.manager.state.preview_bytes == 0
    assert (steps(one), steps(two)) == ([1, 2], [1, 2])


def test_a_flood_of_previews_grows_nothing(farm):
    worker, client = Worker(farm), Client(farm)
    submits(client)
    attempt = worker.starts()
    for step in range(300):
        shows(worker, attempt, step, bytes(1000))
    assert farm.manager.state.preview_bytes == 1000
    assert steps(client) == [0]


def test_previews_are_neither_kept_nor_logged(farm):
    worker, client = Worker(farm), Client(farm)
    submits(client)
    attempt = worker.starts()
    before = len(farm.kept(fx.Keep)), len(farm.logs)
    for step in (1, 2, 3):
        shows(worker, attempt, step)
        seen(client, attempt)
    assert (len(farm.kept(fx.Keep)), len(farm.logs)) == before
    assert farm.kept(fx.PutBlob) == []


def test_a_client_shows_nobody_anything(farm):
    client = Client(farm)
    preview = wire.Preview(
        attempt=wire.Attempt(petition_id(1), 0, 1), step=1, steps=2, width=8, height=8,
        format="png", worker="x",
    )  # fmt: skip
    client.says(preview, b"x")
    assert client.last(wire.Fault).error.code == "protocol_error"
