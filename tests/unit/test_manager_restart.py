"""What a manager knows after it was started anew."""

import pytest

from sdistrib import limits
from sdistrib.protocol import messages as wire
from sdistrib_manager import effects as fx
from sdistrib_manager.events import BlobMissing, StoreRecovered
from sdistrib_manager.rows import PetitionBodyRow, Tombstone
from tests.support.farm import Client, Farm, Worker, petition_id


@pytest.fixture
def farm() -> Farm:
    return Farm(retention_bytes=limits.RETENTION_BYTES)


def test_what_waited_waits_again_and_goes_out_in_the_same_order(farm):
    client = Client(farm)
    client.submits(1, images=2)
    client.submits(2)
    farm.restart()
    worker = Worker(farm)
    drawn = []
    while len(drawn) < 3:
        attempt = next(a for a in worker.attempts if (a.id, a.index) not in drawn)
        drawn.append((attempt.id, attempt.index))
        worker.draws(attempt)
    assert drawn == [(petition_id(2), 0), (petition_id(1), 0), (petition_id(1), 1)]


def test_a_worker_that_drew_on_hands_in_and_nothing_is_drawn_twice(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=3)
    running, queued = worker.attempts
    worker.starts(running)
    farm.restart()
    worker.says(wire.Beat())
    assert worker.got(wire.Identify)
    worker.reconnects(running=(running,))
    again = Client(farm, "new")
    again.submits(images=3)
    worker.draws(running)
    assert again.pictures == [0]
    numbers = {(a.index, a.number) for a in worker.attempts}
    assert (0, 2) not in numbers
    # What the worker had not begun goes out anew as soon as it has said so, at no cost.
    assert (queued.index, 2) in numbers
    image = farm.manager.state.queue.entries[pid].images[queued.index]
    assert (image.losses, image.failures) == (0, [])
    farm.wait(limits.RESTART_GRACE_S + 1, worker, again)
    assert (0, 2) not in {(a.index, a.number) for a in worker.attempts}


def test_images_of_a_worker_that_reports_without_them_do_not_wait_for_the_grace(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(images=2)
    worker.starts(worker.attempts[0])
    farm.restart()
    other = Worker(farm, "gpu2")
    assert not other.attempts, "its own worker has not reported yet"
    worker.reconnects(holding=(worker.attempts[0],))
    granted = {(a.index, a.number) for a in (*worker.attempts, *other.attempts)}
    assert granted == {(1, 2)}


def test_a_second_attempt_elsewhere_keeps_its_lease_when_the_first_worker_lacks_it(farm):
    client, slow = Client(farm), Worker(farm)
    client.submits()
    farm.wait(limits.SUSPECT_S + 1, client)
    other = Worker(farm, "gpu2")
    running = other.starts()
    slow.says(wire.Beat())
    farm.restart()
    slow.reconnects()
    other.reconnects(running=(running,))
    farm.wait(limits.RESTART_GRACE_S + 1, slow, other)
    assert not slow.attempts
    assert not other.attempts


def test_leased_images_of_a_worker_that_does_not_come_back_go_out_after_the_grace(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    worker.starts()
    farm.restart()
    other = Worker(farm, "gpu2")
    farm.wait(limits.RESTART_GRACE_S - 2, other)
    assert not other.attempts
    farm.wait(3, other)
    assert other.attempts[-1].number == 2


def test_pictures_that_were_recorded_are_delivered_by_the_next_manager(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    worker.draws(worker.starts(worker.attempts[0]))
    farm.restart()
    again = Client(farm, "new")
    again.says(wire.Attach(id=pid))
    assert again.last(wire.Accepted).images == 2
    assert again.pictures == [0]


def test_an_ended_petition_can_be_fetched_again(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    client.sees(pid, 0)
    farm.restart()
    again = Client(farm, "new")
    again.says(wire.Attach(id=pid))
    assert not again.pictures
    assert again.last(wire.Finished).state == "done"
    again.says(wire.Attach(id=pid, again=True))
    assert again.pictures == [0]
    again.sees(pid, 0)
    assert len(again.got(wire.Finished)) == 2


def test_the_time_limit_does_not_run_while_no_manager_does(farm):
    client = Client(farm)
    client.submits(timeout_s=100)
    farm.wait(50, client)
    farm.restart(after_s=1000)
    again = Client(farm, "new")
    again.submits(timeout_s=100)
    farm.wait(40, again)
    assert not again.got(wire.Finished)
    farm.wait(25, again)
    assert again.last(wire.Finished).state == "expired"


def test_retention_counts_only_while_a_manager_runs(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    client.sees(pid, 0)
    farm.restart(after_s=limits.RETENTION_S * 2)
    again = Client(farm, "new")
    again.says(wire.Attach(id=pid))
    assert again.last(wire.Finished).state == "done"


def test_a_forgotten_petition_never_runs_again(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    worker.draws(worker.starts())
    client.sees(petition_id(1), 0)
    client.says(wire.Purge())
    assert client.last(wire.Purged).petitions == 1
    farm.restart()
    again = Client(farm, "new")
    again.submits()
    assert again.last(wire.Refused).error.code == "not_found"
    again.submits(prompt="something else")
    assert again.last(wire.Refused).error.code == "conflict"
    assert len(worker.attempts) == 1


def test_a_cancel_that_overtakes_its_submit_holds(farm):
    client, worker = Client(farm), Worker(farm)
    client.says(wire.Cancel(id=petition_id(1)))
    assert farm.rows(Tombstone)
    farm.restart()
    Client(farm, "new").submits()
    assert Client(farm, "new").last(wire.Refused).error.code == "cancelled"
    assert not worker.attempts


def test_what_an_absent_worker_had_is_remembered(farm):
    Worker(farm)
    farm.restart()
    client = Client(farm)
    client.submits()
    assert "only on gpu1" in client.last(wire.Accepted).reason
    client.submits(2, model="nope")
    assert client.last(wire.Refused).error.code == "model_not_found"


def test_quarantine_survives_a_restart(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(images=2)
    worker.fails(worker.starts(worker.attempts[0]))
    farm.restart()
    worker.reconnects()
    farm.wait(limits.RESTART_GRACE_S + 1, worker)
    poison = [a for a in worker.attempts if a.index == 0][-1]
    worker.fails(worker.starts(poison))
    again = Client(farm, "new")
    again.submits(images=2)
    last = [a for a in worker.attempts if a.index == 1][-1]
    worker.draws(worker.starts(last))
    again.sees(petition_id(1), 1)
    assert again.last(wire.Finished).failures[0].error.code == "quarantined"


def test_a_retry_draws_what_failed_and_keeps_what_is_done(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    worker.draws(worker.starts(next(a for a in worker.attempts if a.index == 1)))
    client.sees(pid, 1)
    worker.fails(worker.starts(next(a for a in worker.attempts if a.index == 0)), "unsupported")
    assert client.last(wire.Finished).state == "failed"
    farm.restart()
    worker.reconnects()
    again = Client(farm, "new")
    again.says(wire.Retry(id=pid))
    attempt = worker.attempts[-1]
    assert (attempt.index, attempt.number) == (0, 2)
    worker.draws(worker.starts(attempt))
    again.sees(pid, 0)
    assert again.last(wire.Finished).done == (0, 1)


def test_while_the_store_is_in_trouble_nothing_new_is_taken_and_nothing_is_lost(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    running = worker.starts(worker.attempts[0])
    farm.manager.state.store_trouble = "the disk is full"
    client.submits(2)
    assert client.last(wire.Refused).error.code == "busy"
    worker.draws(running)
    assert not worker.got(wire.ResultRecorded)
    assert not worker.got(wire.Identify)
    farm.happen(StoreRecovered())
    assert len(worker.got(wire.Identify)) == 1, "it hands in at once and not when it tires"
    worker.hello(holding=(running,))
    worker.draws(running)
    assert worker.got(wire.ResultRecorded)
    assert client.pictures == [0]
    assert pid


def test_a_picture_that_vanished_before_anybody_had_it_is_drawn_again(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(images=2)
    worker.draws(worker.starts(worker.attempts[0]))
    digest = client.last(wire.Result).digest
    farm.happen(BlobMissing(digest, "it is damaged"))
    farm.turn()
    assert [a.number for a in worker.attempts if a.index == 0] == [1, 2]


def test_after_disk_trouble_workers_that_are_away_are_not_spoken_to(farm):
    here, away = Worker(farm), Worker(farm, "gpu2")
    away.breaks()
    farm.manager.state.store_trouble = "the disk is full"
    farm.happen(StoreRecovered())
    assert here.got(wire.Identify)
    assert not away.got(wire.Identify)


def _spoil(farm: Farm, pid: str) -> None:
    """What is kept of this petition's parameters makes no sense any more."""
    farm.store.commit([PetitionBodyRow(id=pid, body=b"\xc1")])


def _drawn(farm: Farm, client: Client, worker: Worker, number: int, data: bytes) -> str:
    pid = client.submits(number)
    worker.draws(worker.starts(next(a for a in worker.attempts if a.id == pid)), data=data)
    return pid


@pytest.mark.parametrize("named", [True, False], ids=["by id", "all"])
def test_what_cannot_be_read_back_is_purged_from_the_disk_too(farm, named):
    client, worker = Client(farm), Worker(farm)
    pid = _drawn(farm, client, worker, 1, b"one")
    digest = client.last(wire.Result).digest
    _spoil(farm, pid)
    farm.restart()
    again = Client(farm, "new")
    again.says(wire.Attach(id=pid))
    assert "cannot read it back" in again.last(wire.Refused).error.message
    assert farm.store.load().petitions
    again.says(wire.Purge(id=pid if named else ""))
    assert again.last(wire.Purged).petitions == 1
    kept = farm.store.load()
    assert (kept.petitions, kept.images, [stone.id for stone in kept.tombstones]) == ([], [], [pid])
    assert farm.kept(fx.DropBlob) == [fx.DropBlob(digest)]
    assert farm.kept(fx.Checkpoint)
    # Once is enough, and the id is never used again.
    again.says(wire.Purge(id=pid))
    assert again.last(wire.Purged).petitions == 0
    again.submits(1)
    assert "not kept any more" in again.last(wire.Refused).error.message


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (1, 3, 2)])
def test_a_picture_of_a_damaged_petition_and_of_others_goes_with_the_last_of_them(farm, order):
    client, worker = Client(farm), Worker(farm)
    for number in (1, 2, 3):
        _drawn(farm, client, worker, number, b"same")
    _spoil(farm, petition_id(1))
    _spoil(farm, petition_id(2))
    farm.restart()
    again = Client(farm, "new")
    for number in order:
        assert not farm.kept(fx.DropBlob)
        again.says(wire.Purge(id=petition_id(number)))
        assert again.last(wire.Purged).petitions == 1
    assert len(farm.kept(fx.DropBlob)) == 1


def test_the_id_of_what_cannot_be_read_back_is_taken_for_as_long_as_it_is_kept(farm):
    client = Client(farm)
    pid = client.submits(1)
    _spoil(farm, pid)
    farm.restart()
    farm.turn(limits.TOMBSTONE_S + limits.CLOCK_KEEP_S)
    again = Client(farm, "new")
    again.submits(1)
    assert again.last(wire.Refused).error.code == "not_found"


def test_a_picture_confirmed_after_it_was_lost_is_not_counted_as_kept(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    for attempt in worker.attempts[:2]:
        worker.draws(worker.starts(attempt))
    farm.happen(BlobMissing(client.got(wire.Result)[0].digest, "it is damaged"))
    client.sees(pid, 0)
    assert farm.manager.state.queue.entries[pid].images[0].seen
    assert farm.manager.state.seen_bytes == 0
