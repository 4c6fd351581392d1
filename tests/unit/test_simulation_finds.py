"""What the simulation found in the machines, each as the shortest way to it."""

import hashlib

import pytest

from sdistrib import limits
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode
from sdistrib_client import effects, events
from sdistrib_client.requests import Requests
from sdistrib_manager import effects as fx
from sdistrib_manager.events import BlobMissing, StoreRecovered
from sdistrib_manager.rows import ImageRow, PetitionStateRow
from sdistrib_manager.state import Settings
from sdistrib_manager.storage import Storage
from sdistrib_manager.store.memory import MemoryBlobs, MemoryStore
from tests.support import rig
from tests.support.farm import Client, Farm, Worker, petition_id


@pytest.fixture
def farm() -> Farm:
    return Farm()


def test_a_worker_that_was_only_slow_gets_what_waited_meanwhile(farm):
    worker = Worker(farm)
    farm.wait(limits.SUSPECT_S + 1)
    Client(farm).submits()
    assert not worker.attempts
    worker.says(wire.Beat())
    assert worker.attempts


def test_a_hello_on_a_standing_connection_gets_again_what_was_under_way(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(images=2)
    worker.draws(worker.starts(worker.attempts[0]))
    assert client.pictures == [0]
    for _ in range(2):
        client.says(wire.ClientHello(protocols=(1,), software="client test"))
    client.submits(images=2)
    assert client.pictures == [0, 0]


def test_an_image_that_fails_is_nobodys_lease_any_more(farm):
    farm.settings.attempts_max = 1
    client, away = Client(farm), Worker(farm, "away")
    client.submits()
    attempt = away.starts()
    away.breaks()
    other = Worker(farm, "here")
    other.fails(other.starts())
    assert client.last(wire.Finished).state == "failed"
    assert not any(worker.leases for worker in farm.manager.state.roster)
    away.reconnects(running=(attempt,))
    assert away.last(wire.Abandon).attempt == attempt


def test_no_picture_goes_while_its_row_cannot_be_kept(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    worker.draws(worker.starts(worker.attempts[0]))
    farm.manager.state.store_trouble = "the disk is full"
    client.sees(pid, 0)
    assert not farm.kept(fx.DropBlob)
    farm.happen(StoreRecovered())
    assert farm.kept(fx.DropBlob)
    assert [row.kept for row in farm.rows(ImageRow)][-1] is False


def test_a_manager_in_trouble_does_not_read_everything_again_in_each_turn():
    storage = Storage(Settings("sdistrib test"), MemoryStore(), MemoryBlobs())
    manager = storage.manager(100.0, 0.0, trouble="the disk is full")
    assert manager.next_deadline() == 100.0 + limits.BEAT_S
    assert storage.manager(100.0, 0.0).next_deadline() <= 100.0


def test_remaining_times_are_not_kept_while_nothing_can_be(farm):
    Client(farm).submits(timeout_s=900.0)
    farm.manager.state.store_trouble = "the disk is full"
    before = len(farm.rows(PetitionStateRow))
    farm.wait(limits.CLOCK_KEEP_S + 2)
    assert len(farm.rows(PetitionStateRow)) == before
    farm.happen(StoreRecovered())
    farm.wait(2)
    assert len(farm.rows(PetitionStateRow)) == before + 1


def test_a_picture_that_is_lost_while_it_waits_for_credit_is_sent_once(farm):
    client, worker = Client(farm), Worker(farm)
    most = limits.CLIENT_RESULTS_IN_FLIGHT_MAX
    pid = client.submits(images=most + 3)
    pictures = [worker.draws(worker.starts(worker.attempts[n])) for n in range(most + 2)]
    assert client.pictures == [*range(most)]
    farm.happen(BlobMissing(hashlib.sha256(pictures[-1]).hexdigest(), "it is damaged"))
    farm.turn()
    worker.draws(worker.starts(worker.attempts[-1]))
    client.sees(pid, *range(most + 1))
    assert client.pictures == [*range(most + 2)]


def test_pictures_that_an_earlier_process_saw_are_asked_for_once():
    requests = Requests("manager:4133", "client test", 0.0)

    def hear(message: wire.Message) -> list[effects.Effect]:
        return requests.handle(events.FramesReceived(encode(message)), 0.0)

    hear(wire.Welcome(protocol=1, software="manager test"))
    pid = petition_id(1)
    requests.handle(events.PetitionMade(pid, b"body", 2), 0.0)
    (again,) = hear(wire.Finished(id=pid, state="done", done=(0, 1)))
    assert again == effects.Send(wire.Attach(id=pid, again=True))
    (end,) = hear(wire.Finished(id=pid, state="done", done=(0, 1)))
    assert isinstance(end, effects.End)
    assert end.ending.error is not None
    assert end.ending.error.code == "not_found"


@pytest.mark.parametrize("late", [wire.Abandon, wire.ResultRefused, wire.ResultRecorded])
def test_what_was_said_in_a_session_that_is_over_is_not_acted_on(late):
    # A cancel is said, the connection breaks, the petition is retried, the worker's hello claims
    # its picture for it, and only then the cancel arrives: the manager waits for that picture.
    worker = rig.Rig()
    worker.connect()
    worker.draw(worker.begin(rig.attempt()))
    worker.encoded(rig.attempt())
    worker.hear(wire.Identify())
    assert rig.attempt() in rig.one(rig.said(worker.effects, wire.WorkerHello)[-1:]).holding
    more = {} if late is not wire.ResultRefused else {"reason": "the image is cancelled"}
    worker.hear(late(attempt=rig.attempt(), **more))
    offered = rig.one(rig.said(worker.welcome(), wire.Result))
    assert offered.attempt == rig.attempt()


def test_a_grant_of_a_session_that_is_over_is_not_taken():
    # The hello did not name it, so the manager has given it to another by now.
    worker = rig.Rig()
    worker.connect()
    worker.hear(wire.Identify())
    worker.grant(rig.attempt())
    made = worker.welcome()
    assert not rig.asked(made)
    assert not rig.said(made, wire.Revoked)


@pytest.mark.parametrize("words", [(wire.Started, wire.TooLate), (wire.TooLate, wire.Started)])
def test_an_image_that_is_begun_is_told_twice_and_counted_once(farm, words):
    worker = Worker(farm)
    Client(farm).submits(images=4)
    first = worker.attempts[0]
    for word in words:
        worker.says(word(attempt=first))
        farm.turn(1.0)
    (here,) = farm.manager.state.roster
    assert next(iter(here.holds)).attempt == first
    assert here.leases[first].begun_at == farm.now - 2.0
    assert not here.leases[first].revoking


def raced(farm: Farm) -> tuple[Worker, Worker, wire.Attempt, wire.Attempt]:
    """Two workers at one image: the first takes far longer than was to be expected."""
    slow = Worker(farm, "slow")
    Client(farm).submits()
    first = slow.starts()
    farm.wait(300, slow)
    fast = Worker(farm, "fast")
    assert [(one.index, one.number) for one in fast.attempts] == [(first.index, 2)]
    return slow, fast, first, fast.attempts[-1]


def test_the_failure_of_one_of_two_is_kept_at_once(farm):
    slow, fast, first, second = raced(farm)
    fast.starts(second)
    slow.fails(first)
    assert [failure.worker for failure in farm.rows(ImageRow)[-1].failures] == ["slow"]
    farm.restart()
    fast.reconnects(running=(second,))
    fast.fails(second)
    assert farm.rows(ImageRow)[-1].state == "failed"


def test_an_image_that_two_are_at_is_not_raced(farm):
    names = ("first", "second", "third")
    silent = Worker(farm, names[0])
    Client(farm).submits()
    silent.starts()
    other = Worker(farm, names[1])
    farm.wait(limits.SUSPECT_S + 1, other)
    other.starts()
    silent.says(wire.Beat())
    farm.wait(300, silent, other)
    third = Worker(farm, names[2])
    farm.wait(300, silent, other, third)
    assert not third.attempts


def test_what_no_worker_has_the_memory_for_does_not_wait_for_ever(farm):
    farm.settings.no_worker_timeout_s = 30.0
    client, worker = Client(farm), Worker(farm)
    client.submits(1)
    pid = client.submits(2, seed=7)
    worker.fails(worker.starts(worker.attempts[0]), "out_of_memory")
    worker.says(wire.Revoked(attempt=worker.attempts[-1]))
    farm.wait(2, worker)
    why = farm.manager.state.queue.entries[pid].reason
    assert why == "gpu1 cannot: it ran out of memory at 262144 pixels"
    farm.wait(35, worker, client)
    (failure, *_) = client.last(wire.Finished).failures
    assert failure.error.code == "no_capable_worker"


def test_what_failed_before_is_not_raced_after_a_restart(farm):
    first, second = Worker(farm, "first"), Worker(farm, "second")
    Client(farm).submits()
    at, other = (first, second) if first.attempts else (second, first)
    at.fails(at.starts(), "engine_error")
    running = other.starts()
    farm.restart()
    third = Worker(farm, "third")
    other.reconnects(running=(running,))
    farm.wait(300, other, third)
    assert not third.attempts


def test_an_attempt_that_was_called_off_is_not_live_after_a_restart(farm):
    _, fast, first, second = raced(farm)
    fast.draws(fast.starts(second))
    farm.restart()
    (entry,) = farm.manager.state.queue
    assert not any(issued.live for issued in entry.image(first.index).issued.values())


def test_an_idle_worker_races_one_that_becomes_slow(farm):
    both = Worker(farm, "first"), Worker(farm, "second")
    Client(farm).submits()
    slow, idle = both if both[0].attempts else both[::-1]
    slow.starts()
    assert not idle.attempts
    farm.wait(300, slow, idle)
    assert [attempt.number for attempt in idle.attempts] == [2]


def test_a_lost_picture_is_not_counted_as_drawn_by_who_never_came_back(farm):
    _, fast, first, second = raced(farm)
    fast.starts(second)
    farm.restart()
    fast.reconnects(running=(second,))
    data = fast.draws(second)
    (image,) = farm.manager.state.queue.entries[first.id].images.values()
    assert not any(issued.live for issued in image.issued.values())
    farm.happen(BlobMissing(hashlib.sha256(data).hexdigest(), "it is damaged"))
    assert [issued.number for issued in farm.rows(ImageRow)[-1].issued if issued.live] in ([], [3])


def test_what_a_worker_is_granted_again_it_does_not_draw_twice():
    box = rig.Rig()
    box.ready()
    box.turn(after_s=4)  # a second hello: the manager's answer to the first is on its way
    box.welcome()
    running, void = rig.attempt(0), rig.attempt(1)
    ticket = box.begin(running, void)
    box.welcome()  # the answer to the second, which named neither
    box.grant(rig.attempt(1, number=2))
    (draw,) = rig.asked(box.draw(ticket))
    assert draw.seed == 101
    assert not rig.asked(box.draw(draw.ticket)), "once is enough"
