"""What failures, retries and silent workers cost."""

import pytest

from sdistrib import limits
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode, encode_inventory
from tests.support.farm import Client, Farm, Worker, petition_id


@pytest.fixture
def farm() -> Farm:
    return Farm()


def test_a_crash_costs_one_attempt_and_the_next_goes_to_another_worker(farm):
    client = Client(farm)
    one, two = Worker(farm, "gpu1"), Worker(farm, "gpu2")
    client.submits(images=2)
    one.fails(one.starts())
    assert two.attempts[-1] == wire.Attempt(petition_id(1), one.attempts[0].index, 2)


def test_an_image_that_killed_two_engines_is_quarantined_and_the_others_go_on(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    tail = {"signal": "SIGSEGV", "log_tail": ("boom",)}
    for _ in range(2):
        poison = next(a for a in reversed(worker.attempts) if a.index == 0)
        worker.fails(worker.starts(poison), error=tail)
    good = next(a for a in worker.attempts if a.index == 1)
    worker.draws(worker.starts(good))
    client.sees(pid, 1)
    finished = client.last(wire.Finished)
    assert (finished.state, finished.done) == ("failed", (1,))
    (failure,) = finished.failures
    error = failure.error
    assert (failure.index, error.code, error.signal) == (0, "quarantined", "SIGSEGV")
    assert (error.worker, error.attempt) == ("gpu1", 2)
    assert error.log_tail == ("[gpu1] boom", "[gpu1] boom")


def test_one_attempt_is_all_when_the_operator_says_so():
    farm = Farm(attempts_max=1)
    client, worker = Client(farm), Worker(farm)
    client.submits()
    worker.fails(worker.starts())
    assert client.last(wire.Finished).state == "failed"
    assert len(worker.attempts) == 1


@pytest.mark.parametrize("code", ["invalid_params", "unsupported"])
def test_what_cannot_be_cured_is_not_tried_again(farm, code):
    client, worker = Client(farm), Worker(farm)
    Worker(farm, "gpu2")
    client.submits()
    worker.fails(worker.starts(), code)
    assert client.last(wire.Finished).failures[0].error.code == code


def test_an_engine_error_is_tried_on_another_worker_but_not_on_the_same(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(1)
    worker.fails(worker.starts(), "engine_error")
    assert client.last(wire.Finished).failures[0].error.code == "engine_error"
    other = Worker(farm, "gpu2")
    client.submits(2)
    first, second = (worker, other) if len(worker.attempts) > 1 else (other, worker)
    first.fails(first.starts(), "engine_error")
    second.draws(second.starts())
    assert client.pictures == [0]


def test_a_failure_that_had_not_begun_counts_for_nothing(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    for _ in range(5):
        worker.fails(worker.attempts[-1], started=False)
    assert len(worker.attempts) == 6
    assert not client.got(wire.Finished)


def test_a_failure_of_an_unknown_attempt_is_ignored(farm):
    worker = Worker(farm)
    worker.fails(wire.Attempt(petition_id(9), 0, 1))
    assert not worker.got(wire.Fault)


def test_a_file_that_vanishes_moves_the_work_away(farm):
    client = Client(farm)
    one = Worker(farm)
    two = Worker(farm, "gpu2")
    one.says(wire.Inventory(), encode_inventory(()))
    client.submits(images=2)
    assert not one.attempts
    assert len(two.attempts) == 2


def test_a_broken_connection_gives_the_work_to_others_at_once(farm):
    client = Client(farm)
    one, two = Worker(farm, "gpu1"), Worker(farm, "gpu2")
    client.submits(images=2)
    lost = one.starts()
    one.breaks()
    assert two.attempts[-1] == wire.Attempt(lost.id, lost.index, 2)


def test_three_missed_beats_make_suspect_and_work_goes_elsewhere(farm):
    client = Client(farm)
    one, two = Worker(farm, "gpu1"), Worker(farm, "gpu2")
    client.submits(images=2)
    lost = one.starts()
    farm.wait(2, client, two)
    assert len(two.attempts) == 1
    farm.wait(2, client, two)
    assert two.attempts[-1] == wire.Attempt(lost.id, lost.index, 2)
    assert _fact(client, "gpu1").state == "suspect"


def test_an_operator_may_be_more_patient_with_workers():
    farm = Farm(suspect_s=40.0, gone_s=60.0)
    client = Client(farm)
    slow, other = Worker(farm, "slow"), Worker(farm, "quick")
    client.submits(hedge=False)
    (attempt,) = slow.attempts
    slow.starts(attempt)
    farm.wait(39, client, other)
    assert not other.attempts
    farm.wait(2, client, other)
    assert other.attempts == [wire.Attempt(attempt.id, attempt.index, 2)]
    assert _fact(client, "slow").state == "suspect"
    farm.wait(20, client, other)
    assert _fact(client, "slow").state == "away"


def test_a_late_result_counts_while_the_image_is_undone(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    attempt = worker.starts()
    farm.wait(5, client)
    worker.draws(attempt)
    assert client.pictures == [0]
    assert worker.got(wire.ResultRecorded)


def test_a_zombies_result_is_refused_once_another_was_recorded(farm):
    client = Client(farm)
    one, two = Worker(farm, "gpu1"), Worker(farm, "gpu2")
    client.submits()
    slow, quick = (one, two) if one.attempts else (two, one)
    attempt = slow.starts()
    farm.wait(5, client, quick)
    quick.draws(quick.starts())
    slow.draws(attempt)
    assert slow.last(wire.ResultRefused).reason == "the image is done"
    assert client.pictures == [0]


def test_a_slow_worker_takes_up_again_what_nobody_else_took(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    attempt = worker.starts()
    farm.wait(4, client)
    worker.says(wire.Beat())
    assert len(worker.attempts) == 1
    worker.draws(attempt)
    assert client.pictures == [0]


def test_the_first_of_two_live_attempts_wins_and_the_other_is_called_off(farm):
    client = Client(farm)
    one, two = Worker(farm, "gpu1"), Worker(farm, "gpu2")
    client.submits()
    slow, quick = (one, two) if one.attempts else (two, one)
    attempt = slow.starts()
    farm.wait(4, client, quick)
    slow.says(wire.Beat())
    quick.draws(quick.starts())
    assert slow.last(wire.Abandon).attempt == attempt


def test_thirty_silent_seconds_end_the_session_and_three_losses_end_the_image(farm):
    client = Client(farm)
    client.submits()
    for number in range(3):
        worker = Worker(farm, f"gpu{number}")
        worker.starts()
        farm.wait(31, client)
        assert _fact(client, worker.name).state == "away"
    finished = client.last(wire.Finished)
    assert finished.failures[0].error.code == "worker_lost"


def test_a_reconnected_worker_keeps_what_it_runs_and_loses_what_it_forgot(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(images=2)
    running, forgotten = worker.attempts
    worker.starts(running)
    worker.breaks()
    worker.reconnects(running=(running,))
    assert worker.attempts[0] == wire.Attempt(forgotten.id, forgotten.index, 2)
    worker.draws(running)
    assert client.pictures == [0]


def test_a_worker_that_was_given_up_hands_in_what_it_held(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    attempt = worker.starts()
    farm.wait(31, client)
    worker.reconnects(holding=(attempt,))
    assert not worker.got(wire.Abandon)
    worker.draws(attempt)
    assert client.pictures == [0]


def test_what_a_worker_claims_and_nobody_wants_is_called_off(farm):
    worker = Worker(farm)
    stray = wire.Attempt(petition_id(7), 0, 1)
    worker.reconnects(running=(stray,))
    assert worker.last(wire.Abandon).attempt == stray


def test_a_worker_that_says_goodbye_leaves_its_images_to_others(farm):
    client = Client(farm)
    worker = Worker(farm)
    client.submits()
    worker.says(wire.Goodbye(reason="told to stop"))
    other = Worker(farm, "gpu2")
    assert other.attempts[-1].number == 2


def test_a_jammed_worker_must_say_hello_again(farm):
    worker = Worker(farm)
    worker.jams()
    worker.says(wire.Beat())
    assert worker.got(wire.Identify)


def test_a_worker_is_remembered_for_a_week_and_the_petition_says_where_its_model_is(farm):
    client, worker = Client(farm), Worker(farm)
    worker.says(wire.Goodbye())
    farm.wait(40, client)
    client.submits()
    assert client.last(wire.Accepted).reason == "only on gpu1, last seen 40 s ago"
    farm.now += limits.REMEMBER_WORKER_S
    farm.turn()
    assert not _asks(Client(farm, "new"), "workers").workers


def test_this_machines_own_pause_is_nobodys_silence(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    attempt = worker.starts()
    farm.now += 40
    farm.manager.forgive(40)
    farm.turn()
    assert worker.attempts == [attempt]
    assert _fact(client, "gpu1").state == "loading"


def _asks(client: Client, what: str) -> wire.Answer:
    client.says(wire.Ask(number=1, what=what))  # type: ignore[arg-type]
    return client.last(wire.Answer)


def _fact(client: Client, name: str) -> wire.WorkerFacts:
    return next(fact for fact in _asks(client, "workers").workers if fact.name == name)


def _recorded(worker: Worker) -> set[int]:
    return {seen.attempt.index for seen in worker.got(wire.ResultRecorded)}


def test_a_worker_that_cannot_draw_it_is_not_asked_for_ever(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    worker.fails(worker.attempts[-1], "model_not_found", started=False)
    assert client.last(wire.Finished).failures[0].error.code == "model_not_found"
    assert len(worker.attempts) == 1


def test_a_thousand_failures_fit_one_message():
    farm = Farm(no_worker_timeout_s=1)
    client = Client(farm)
    client.submits(images=limits.IMAGES_PER_PETITION_MAX, model="x" * limits.NAME_CHARS_MAX)
    farm.wait(4, client, Worker(farm))
    finished = client.last(wire.Finished)
    assert len(finished.failures) == limits.IMAGES_PER_PETITION_MAX
    assert len(encode(finished)[1]) < limits.HEADER_BYTES_MAX
