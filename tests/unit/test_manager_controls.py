"""What clients wish of workers, at the manager: relayed, answered, and kept to by the scheduler."""

import pytest

from sdistrib import limits
from sdistrib.protocol import messages as wire
from tests.support.farm import Client, Farm, Worker


@pytest.fixture
def farm() -> Farm:
    return Farm()


def wishes(client: Client, wish: wire.WorkerWish, *workers: str, number: int = 5) -> None:
    client.says(wire.Control(number=number, wish=wish, workers=workers))


def stands(worker: Worker, state: wire.StandingState, reason: str = "") -> None:
    worker.says(wire.Standing(state=state, reason=reason))


def fact(client: Client, name: str) -> wire.WorkerFacts:
    client.says(wire.Ask(number=1, what="workers"))
    (found,) = [one for one in client.last(wire.Answer).workers if one.name == name]
    return found  # type: ignore[no-any-return]


# --- relay ------------------------------------------------------------------------------------


def test_a_wish_goes_to_the_worker_named_and_its_answer_to_the_client(farm):
    client, worker, other = Client(farm), Worker(farm), Worker(farm, "gpu2")
    wishes(client, "pause", "gpu1")
    steer = worker.last(wire.Steer)
    assert (steer.wish, steer.by) == ("pause", "local")
    assert not other.got(wire.Steer)
    assert not client.got(wire.Controlled)
    worker.says(wire.Steered(number=steer.number, did="paused"))
    answer = wire.ControlAnswer("gpu1", "paused")
    assert client.got(wire.Controlled) == [wire.Controlled(number=5, answers=(answer,))]
    worker.says(wire.Steered(number=steer.number, did="paused"))
    assert len(client.got(wire.Controlled)) == 1


def test_all_are_those_that_are_here_and_all_answers_come_together(farm):
    client = Client(farm)
    workers = [Worker(farm, name) for name in ("gpu2", "gpu1", "gone")]
    workers[2].says(wire.Goodbye())
    wishes(client, "unload")
    for worker in workers[:2]:
        assert not client.got(wire.Controlled)
        number = worker.last(wire.Steer).number
        worker.says(wire.Steered(number=number, did=f"did {worker.name}"))
    answers = client.last(wire.Controlled).answers
    assert [(a.worker, a.did) for a in answers] == [("gpu1", "did gpu1"), ("gpu2", "did gpu2")]
    assert not workers[2].got(wire.Steer)


def test_two_workers_of_one_name_are_both_meant(farm):
    client, one = Client(farm), Worker(farm)
    twin = Worker(farm, "gpuX")
    twin.name, twin.instance = "gpu1", "e" * 16
    twin.hello()
    wishes(client, "drain", "gpu1")
    for worker in (one, twin):
        worker.says(wire.Steered(number=worker.last(wire.Steer).number, did="drains"))
    assert len(client.last(wire.Controlled).answers) == 2


def test_an_unknown_name_is_not_found_with_the_closest_and_nothing_is_done(farm):
    client, worker = Client(farm), Worker(farm, "gpu1")
    Worker(farm, "cellar")
    wishes(client, "pause", "gpu1", "gpu7")
    told = client.last(wire.Controlled)
    assert (told.error.code, told.error.closest) == ("not_found", ("gpu1",))
    assert "No worker is called 'gpu7'; nothing was done." in told.error.message
    assert not worker.got(wire.Steer)
    assert not farm.manager.state.steering


def test_all_of_nobody_is_not_found(farm):
    client = Client(farm)
    wishes(client, "pause")
    assert client.last(wire.Controlled).error.code == "not_found"


def test_an_absent_worker_is_answered_for_at_once(farm):
    client, worker = Client(farm), Worker(farm)
    worker.says(wire.Goodbye())
    wishes(client, "pause", "gpu1")
    (answer,) = client.last(wire.Controlled).answers
    assert (answer.did, answer.obeyed) == ("nothing: it is away", False)


def test_a_worker_that_does_not_answer_for_n_seconds_is_spoken_for(farm):
    client, worker = Client(farm), Worker(farm)
    wishes(client, "pause", "gpu1")
    farm.wait(limits.STEER_ANSWER_S - 1, client, worker)
    assert not client.got(wire.Controlled)
    farm.wait(2, client, worker)
    (answer,) = client.last(wire.Controlled).answers
    assert (answer.did, answer.obeyed) == ("no answer for 10 s; it may still do it", False)
    worker.says(wire.Steered(number=worker.last(wire.Steer).number, did="late"))
    assert len(client.got(wire.Controlled)) == 1


def test_a_worker_whose_connection_is_lost_is_spoken_for(farm):
    client, worker = Client(farm), Worker(farm)
    wishes(client, "pause", "gpu1")
    worker.breaks()
    farm.wait(2, client)
    (answer,) = client.last(wire.Controlled).answers
    assert answer == wire.ControlAnswer(
        "gpu1", "no answer: its connection is lost; it may have done it", obeyed=False
    )


def test_a_client_that_left_is_not_answered(farm):
    client, worker = Client(farm), Worker(farm)
    wishes(client, "pause", "gpu1")
    client.says(wire.Goodbye())
    worker.says(wire.Steered(number=worker.last(wire.Steer).number, did="paused"))
    assert not client.got(wire.Controlled)
    assert not farm.manager.state.steering


def test_words_of_workers_are_cut_and_answers_fit_one_message(farm):
    client = Client(farm)
    workers = [Worker(farm, f"{n:03}" + "w" * 400) for n in range(120)]
    wishes(client, "pause")
    for worker in workers:
        worker.says(wire.Steered(number=worker.last(wire.Steer).number, did="x" * 4000))
    told = client.last(wire.Controlled)
    assert told.cut
    assert 20 < len(told.answers) < 120
    assert len(told.answers[0].did) == 300


def test_a_worker_may_not_say_what_only_a_client_may(farm):
    worker = Worker(farm)
    worker.says(wire.Control(number=1, wish="pause"))
    assert worker.last(wire.Fault).error.code == "protocol_error"


# --- standing ---------------------------------------------------------------------------------


def test_a_paused_worker_gets_no_grants_and_what_it_gives_back_goes_to_others_at_once(farm):
    client, paused, other = Client(farm), Worker(farm), Worker(farm, "gpu2")
    pid = client.submits(images=6)
    running, queued = paused.attempts
    paused.starts(running)
    stands(paused, "paused", "paused by ana")
    other.starts(other.attempts[0])
    paused.says(wire.Revoked(attempt=queued))
    assert len(paused.attempts) == 2
    paused.draws(running)
    while len(client.pictures) < 6:
        other.draws(next(a for a in other.attempts if a.index not in client.pictures))
        client.sees(pid, *client.pictures)
    assert sorted(client.pictures) == list(range(6))
    assert len(paused.attempts) == 2
    assert queued.index in [attempt.index for attempt in other.attempts]


def test_a_worker_that_opens_is_granted_at_once(farm):
    client, worker = Client(farm), Worker(farm)
    stands(worker, "paused", "paused by ana")
    client.submits()
    assert not worker.attempts
    stands(worker, "open")
    assert len(worker.attempts) == 1


def test_a_pause_is_known_from_the_hello_on_after_a_restart_too(farm):
    client, worker = Client(farm), Worker(farm)
    stands(worker, "paused", "paused by ana")
    client.submits()
    farm.restart()
    worker.reconnects(standing="paused", reason="paused by ana")
    farm.wait(limits.RESTART_GRACE_S + 1, worker)
    assert not worker.attempts
    assert fact(Client(farm, "new"), "gpu1").state == "paused"
    worker.reconnects()
    assert len(worker.attempts) == 1


def test_a_waiting_petition_says_who_takes_no_grants(farm):
    client, worker = Client(farm), Worker(farm)
    stands(worker, "paused", "outside its hours 22-08, until 22:00 there")
    client.submits()
    reason = "gpu1 takes no grants: outside its hours 22-08, until 22:00 there"
    assert client.last(wire.Accepted).reason == reason
    other = Worker(farm, "gpu2")
    stands(other, "draining", "drained by ben")
    farm.turn(2.0)
    client.submits(2)
    assert client.last(wire.Accepted).reason == f"{reason}, and 1 more take none"
    stands(other, "open")
    client.submits(3, images=3)
    client.submits(4)
    assert client.last(wire.Accepted).reason == "waiting for a free worker (gpu2)"


def test_an_image_that_failed_does_not_wait_for_a_paused_worker(farm):
    client, worker = Client(farm), Worker(farm)
    stands(Worker(farm, "gpu2"), "paused", "paused by ana")
    client.submits()
    worker.fails(worker.starts())
    assert worker.attempts[-1].number == 2


def test_the_list_of_workers_says_how_each_stands_and_why(farm):
    client, worker = Client(farm), Worker(farm)
    worker.says(wire.EngineState(state="idle"))
    assert (fact(client, "gpu1").state, fact(client, "gpu1").reason) == ("idle", "")
    client.submits()
    worker.starts()
    assert fact(client, "gpu1").state == "busy"
    stands(worker, "paused", "paused by ana" + "!" * 999)
    shown = fact(client, "gpu1")
    assert (shown.state, len(shown.running), len(shown.reason)) == ("paused", 1, 300)
    stands(worker, "draining", "drained by ana")
    assert fact(client, "gpu1").state == "draining"
    farm.wait(4, client)
    assert fact(client, "gpu1").state == "suspect"
    worker.says(wire.Goodbye())
    assert (fact(client, "gpu1").state, fact(client, "gpu1").reason) == ("away", "")


def test_what_a_worker_declares_is_kept_and_shown(farm):
    client, worker = Client(farm), Worker(farm)
    assert fact(client, "gpu1").declared == wire.Declared()
    declared = wire.Declared(max_pixels=262_144, max_batch=2)
    worker.reconnects(declared=declared)
    assert fact(client, "gpu1").declared == declared
    (kept,) = list(farm.manager.state.roster)
    assert kept.declared == declared
