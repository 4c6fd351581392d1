"""When petitions will be done, and the speeds that say so."""

import pytest

from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib_manager import foresight
from tests.support.farm import Client, Farm, Worker, petition_id
from tests.support.planning import BOTH, ask, drew, facts, stands, two_speeds


@pytest.fixture
def farm() -> Farm:
    return Farm()


# --- Ends foreseen --------------------------------------------------------------------------


def test_no_end_is_foreseen_while_nobody_takes_the_rest(farm):
    client, worker = Client(farm), Worker(farm)
    drew(client, worker, 101, 2.0)
    pid = client.submits(1, images=9)
    worker.starts(worker.attempts[-1])
    farm.wait(1, client, worker)
    assert {row.id: row.eta_s for row in ask(client, "queue").queue}[pid] > 0
    stands(worker)
    farm.wait(1, client, worker)
    assert {row.id: row.eta_s for row in ask(client, "queue").queue}[pid] == 0


def test_a_list_foresees_the_end_of_each_petition(farm):
    client, _fast, slow = two_speeds(farm)
    stands(slow)
    first, second = client.submits(1, images=3), client.submits(2, images=2)
    etas = {row.id: row.eta_s for row in ask(client, "queue").queue}
    assert sorted(etas) == sorted((first, second))
    assert max(etas.values()) == pytest.approx(10.0)
    assert min(etas.values()) > 0


def test_an_end_that_nobody_can_foresee_is_zero(farm):
    client = Client(farm)
    pid = client.submits()
    assert client.last(wire.Progress).eta_s == 0.0
    worker = Worker(farm)
    stands(worker)
    assert ask(client, "queue").queue[0].eta_s == 0.0
    assert farm.manager.state.queue.entries[pid].first_eta is None


def test_the_first_foresight_is_held_against_the_end(farm):
    client, fast, slow = two_speeds(farm)
    stands(slow)
    assert ask(client, "status").eta_error == 0.0
    pid = client.submits(1)
    assert client.last(wire.Progress).eta_s == pytest.approx(2.0)
    fast.starts()
    farm.turn(2.5)
    fast.draws(fast.attempts[-1], context="context of tiny")
    assert ask(client, "status").eta_error == pytest.approx(0.5 / 2.5)
    assert ask(client, "queue").eta_error == 0.0
    assert [one.eta_s for one in ask(client, "petition", id=pid).queue] == [0.0]


def test_a_guess_before_anything_was_finished_is_held_against_nobody(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(1, images=2)
    attempt = worker.starts(worker.attempts[0])
    worker.says(wire.Step(attempt=attempt, phase="sampling", step=2, steps=5, step_s=2.0))
    assert ask(client, "queue").queue[0].eta_s > 0
    assert farm.manager.state.queue.entries[petition_id(1)].first_eta is None
    farm.turn(4.0)
    worker.draws(attempt, draw_s=4.0)
    assert ask(client, "queue").queue[0].eta_s == pytest.approx(4.0)
    second = worker.starts(worker.attempts[1])
    farm.turn(5.0)
    worker.draws(second, draw_s=5.0)
    assert ask(client, "status").eta_error == pytest.approx(1.0 / 5.0)


def test_ends_of_before_do_not_count_for_a_retry_nor_cancelled_ones(farm):
    client, _fast, slow = two_speeds(farm)
    stands(slow)
    pid = client.submits(1)
    farm.turn(1.0)
    client.says(wire.Cancel(id=pid))
    assert not farm.manager.state.eta_errors
    client.says(wire.Retry(id=pid))
    assert farm.manager.state.queue.entries[pid].first_eta[0] == farm.now


def test_steps_say_how_long_it_takes_where_nothing_better_is_known(farm):
    client, worker = Client(farm), Worker(farm)
    for number, eta_s in ((1, 6.0), (2, 10.0)):
        pid = client.submits(number)
        attempt = worker.starts()
        worker.says(wire.Step(attempt=attempt, phase="sampling", step=2, steps=5, step_s=2.0))
        assert ask(client, "queue").queue[0].eta_s == pytest.approx(eta_s)
        worker.draws(attempt, draw_s=10.0)
        client.sees(pid, 0)


def test_of_two_attempts_the_sooner_end_counts(farm):
    client, fast, slow = two_speeds(farm)
    stands(fast)
    client.submits(1)
    slow.starts()
    fast.says(wire.Standing(state="open"))
    farm.wait(1, client, fast, slow)
    assert len(fast.attempts) == 2
    assert ask(client, "queue").queue[0].eta_s == pytest.approx(2.0)


def test_a_forecast_of_much_work_is_kept_for_a_while(farm, monkeypatch):
    client, _fast, slow = two_speeds(farm)
    stands(slow)
    client.submits(1, images=5)
    before = ask(client, "queue").queue[0].eta_s
    monkeypatch.setattr(foresight, "_FREE", 0)
    farm.manager.state.foreseen = None
    ask(client, "queue")
    farm.now += 0.5 * foresight._LASTS_S
    client.submits(2, images=5)
    etas = {row.id: row.eta_s for row in ask(client, "queue").queue}
    assert etas[petition_id(2)] == 0.0
    assert etas[petition_id(1)] == pytest.approx(before, rel=1e-3)
    farm.now += 1.0
    assert all(row.eta_s > 0 for row in ask(client, "queue").queue)


def test_no_more_than_the_first_hundred_are_foreseen(farm):
    client, _fast, slow = two_speeds(farm)
    stands(slow)
    for number in range(201, 311):
        client.submits(number, images=2)
        client.says(wire.Detach(id=petition_id(number)))
    rows = ask(client, "queue").queue
    assert len(rows) == 110
    foreseen = sum(row.eta_s > 0 for row in rows)
    assert foreseen in (foresight.PETITIONS_MAX, foresight.PETITIONS_MAX + 1)


# --- Speeds ---------------------------------------------------------------------------------


def test_speeds_are_called_as_the_worker_calls_its_models_newest_first(farm):
    client, worker = Client(farm), Worker(farm, files=BOTH)
    drew(client, worker, 1, 2.0, steps=10)
    drew(client, worker, 2, 8.0, model="other", width=1024, height=1024)
    found = facts(client)
    assert [speed.model for speed in found.speeds] == ["other.safetensors", "tiny.safetensors"]
    assert found.loaded == "other.safetensors"
    other, tiny = found.speeds
    assert (other.pixels, other.image_s, other.load_s) == (1024 * 1024, 8.0, 3.0)
    assert (tiny.image_s, tiny.step_s) == (pytest.approx(2.0), pytest.approx(2.0 / 20))
    farm.restart()
    again = Client(farm, "new")
    worker.reconnects()
    restored = facts(again).speeds
    assert {speed.model for speed in restored} == {"tiny.safetensors", "other.safetensors"}
    assert {speed.image_s for speed in restored} == {0.0}
    assert all(speed.step_s > 0 for speed in restored)


def test_a_model_that_the_worker_did_not_name_is_called_as_its_file(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    worker.draws(worker.starts())
    assert [speed.model for speed in facts(client).speeds] == ["tiny.safetensors"]
    farm.manager.state.models.clear()
    assert facts(client).speeds == ()


def test_no_more_than_eight_speeds_are_shown_and_names_are_bounded(farm, monkeypatch):
    files = tuple(ModelFile("stable-diffusion", f"m{i}.safetensors", 1) for i in range(10))
    client, worker = Client(farm), Worker(farm, files=files)
    for i in range(10):
        drew(client, worker, i + 1, 2.0, model=f"m{i}")
    assert [speed.model for speed in facts(client).speeds] == [
        f"m{i}.safetensors" for i in range(9, 1, -1)
    ]
    monkeypatch.setattr("sdistrib.limits.KINDS_MAX", 3)
    farm.manager.state.name_model("x", "y")
    assert len(farm.manager.state.models) == 3
