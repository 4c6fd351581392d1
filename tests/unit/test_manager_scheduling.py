"""Which image goes where, and how petitions are cut short."""

import pytest

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib_manager import effects as fx
from sdistrib_manager.rows import Forget
from tests.support.farm import MODEL, Client, Farm, Worker, petition_id


@pytest.fixture
def farm() -> Farm:
    return Farm()


def test_idle_engines_are_filled_before_any_gets_a_second_image(farm):
    client = Client(farm)
    workers = [Worker(farm, f"gpu{i}") for i in range(3)]
    client.submits(images=5)
    assert sorted(len(worker.attempts) for worker in workers) == [1, 2, 2]


def test_an_unbegun_image_is_taken_back_for_an_idle_worker(farm):
    client, busy = Client(farm), Worker(farm)
    client.submits(images=2)
    busy.starts(busy.attempts[0])
    idle = Worker(farm, "gpu2")
    revoked = busy.last(wire.Revoke).attempt
    assert revoked == busy.attempts[1]
    assert not idle.attempts
    busy.says(wire.Revoked(attempt=revoked))
    assert idle.attempts[-1].index == revoked.index
    assert len(busy.got(wire.Revoke)) == 1


def test_a_recall_that_comes_too_late_changes_nothing(farm):
    client, busy = Client(farm), Worker(farm)
    client.submits(images=2)
    busy.starts(busy.attempts[0])
    idle = Worker(farm, "gpu2")
    busy.says(wire.TooLate(attempt=busy.attempts[1]))
    assert not idle.attempts
    busy.draws(busy.attempts[1])
    assert client.pictures == [1]


def test_an_idle_worker_without_the_model_recalls_nothing(farm):
    client, busy = Client(farm), Worker(farm)
    client.submits(images=2)
    busy.starts(busy.attempts[0])
    Worker(farm, "gpu2", ())
    assert not busy.got(wire.Revoke)


def test_short_petitions_go_before_long_ones_and_what_is_loaded_before_other_files(farm):
    other = ModelFile("stable-diffusion", "other.safetensors", 1)
    client = Client(farm)
    worker = Worker(farm, files=(MODEL, other))
    client.submits(1, images=3)
    client.submits(2, model="other")
    client.submits(3)
    for _ in range(5):
        worker.draws(next(a for a in worker.attempts if (a.id, a.index) not in _drawn(worker)))
    order = [(int(a.id, 16), a.index) for a in worker.attempts]
    assert order == [(1, 0), (1, 1), (3, 0), (1, 2), (2, 0)]


def test_a_worker_that_has_the_model_loaded_is_preferred(farm):
    client = Client(farm)
    Worker(farm, "gpu1")
    warm = Worker(farm, "gpu2")
    warm.says(wire.EngineState(state="idle", loaded="tiny.safetensors"))
    client.submits()
    assert len(warm.attempts) == 1


def test_cancel_keeps_what_is_recorded_drops_the_rest_and_refuses_late_results(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=4)
    worker.draws(worker.starts(worker.attempts[0]))
    running = worker.starts(worker.attempts[1])
    client.says(wire.Cancel(id=pid))
    assert client.last(wire.Cancelled) == wire.Cancelled(id=pid, done=(0,))
    assert running in [abandon.attempt for abandon in worker.got(wire.Abandon)]
    worker.draws(running)
    assert worker.got(wire.ResultRefused)
    client.sees(pid, 0)
    assert client.pictures == [0]
    assert client.last(wire.Finished).state == "cancelled"


def test_a_result_still_arriving_when_the_cancel_commits_is_refused_and_forgotten(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    attempt = worker.starts()
    data = bytes(2 * limits.MIB)
    head = worker.result(attempt, data)
    worker.says(head)
    client.says(wire.Cancel(id=pid))
    for offset in (0, limits.MIB):
        worker.says(wire.Chunk(digest=head.digest, offset=offset), data[: limits.MIB])
    assert worker.got(wire.ResultRefused)
    assert not client.pictures
    assert not farm.manager.state.arriving


def test_cancel_of_an_ended_petition_answers_its_end(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    client.sees(pid, 0)
    client.says(wire.Cancel(id=pid))
    assert client.last(wire.Cancelled).done == (0,)
    assert client.last(wire.Finished).state == "done"


def test_cancel_of_an_unknown_petition_is_confirmed(farm):
    client = Client(farm)
    client.says(wire.Cancel(id=petition_id(5)))
    assert client.last(wire.Cancelled).done == ()


def test_cancel_touches_only_its_own_petition(farm):
    ana, ben, worker = Client(farm, "ana"), Client(farm, "ben"), Worker(farm)
    ana.says(wire.Cancel(id=ana.submits(1)))
    ben.submits(2)
    worker.draws(worker.starts())
    assert ben.pictures == [0]


def test_the_deadline_ends_a_petition_as_expired(farm):
    client = Client(farm)
    client.submits(timeout_s=5)
    farm.wait(4, client)
    assert not client.got(wire.Finished)
    farm.wait(2, client)
    assert client.last(wire.Finished).state == "expired"


def test_a_client_that_vanishes_does_not_lose_its_petition(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    client.breaks()
    worker.draws(worker.starts(worker.attempts[0]))
    again = Client(farm, "new")
    again.submits(images=2)
    assert again.pictures == [0]
    worker.draws(worker.starts(worker.attempts[1]))
    again.sees(pid, 0, 1)
    assert again.last(wire.Finished).done == (0, 1)


def test_a_client_that_asked_for_it_takes_its_petition_along(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(cancel_on_disconnect=True)
    worker.starts()
    client.says(wire.Goodbye())
    assert worker.got(wire.Abandon)


def test_a_silent_client_is_dropped_after_thirty_seconds(farm):
    client = Client(farm)
    farm.wait(31)
    client.says(wire.Beat())
    assert client.got(wire.Identify)


def test_a_second_connection_gets_the_petition_as_well(farm):
    old, worker = Client(farm, "old"), Worker(farm)
    old.submits()
    new = Client(farm, "new")
    pid = new.submits()
    worker.draws(worker.starts())
    assert new.pictures == [0]
    assert old.pictures == [0]
    new.sees(pid, 0)
    assert new.got(wire.Finished)
    assert not old.got(wire.Finished)
    old.sees(pid, 0)
    assert old.got(wire.Finished)


def test_a_finished_petition_sent_again_answers_its_end(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    client.sees(pid, 0)
    client.submits()
    assert client.last(wire.Accepted).state == "done"
    assert len(client.got(wire.Finished)) == 2
    assert len(worker.attempts) == 1


def test_an_ended_petition_is_forgotten_with_its_pictures_after_the_retention(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    worker.draws(worker.starts())
    client.breaks()
    farm.wait(limits.RETENTION_S + 1, worker)
    assert farm.rows(Forget)
    assert farm.kept(fx.DropBlob)


def test_a_petition_that_no_known_worker_can_do_ends_after_its_time():
    farm = Farm(no_worker_timeout_s=5)
    client = Client(farm)
    client.submits(model="gone", images=3)
    worker = Worker(farm)
    farm.wait(7, client, worker)
    finished = client.last(wire.Finished)
    assert {failure.error.code for failure in finished.failures} == {"no_capable_worker"}
    assert "none of 1 workers" in finished.failures[0].error.message


def test_the_reason_names_the_closest_file_while_it_waits(farm):
    client = Client(farm)
    pid = client.submits(model="tinny")
    worker = Worker(farm)
    farm.wait(2, client, worker)
    client.says(wire.ProgressSeen(id=pid))
    reason = client.last(wire.Progress).reason
    assert "none of 1 workers has stable-diffusion 'tinny'" in reason
    assert "tiny.safetensors" in reason


def _drawn(worker: Worker) -> set[tuple[str, int]]:
    return {(s.attempt.id, s.attempt.index) for s in worker.got(wire.ResultRecorded)}


def test_a_client_slower_than_the_retention_still_gets_its_pictures(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    farm.wait(limits.RETENTION_S + 1, worker, client)
    client.sees(pid, 0)
    assert client.last(wire.Finished).state == "done"
