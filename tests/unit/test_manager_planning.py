"""When petitions will be done, who would draw them, and why they wait."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_inventory, encode_petition
from sdistrib_manager import effects as fx
from sdistrib_manager import foresight
from sdistrib_manager.rows import ForgetWorker
from sdistrib_manager.scheduler.costs import Costs, Sample
from sdistrib_manager.scheduler.forecast import Forecast
from sdistrib_manager.scheduler.lines import Lines
from sdistrib_manager.scheduler.shares import Shares
from sdistrib_manager.scheduler.work import Job
from sdistrib_manager.waiting import why_waiting
from tests.support.farm import MODEL, Client, Farm, Worker, petition, petition_id

OTHER = ModelFile("stable-diffusion", "other.safetensors", 1, "b" * 64)
BOTH = (MODEL, OTHER)


@pytest.fixture
def farm() -> Farm:
    return Farm()


def plan(client: Client, **about: Any) -> wire.Planned:
    envelope = {k: about.pop(k) for k in ("priority", "exact", "hedge") if k in about}
    plain = petition(**about)
    wanted = Petition(params=plain.params, seed=plain.seed, images=plain.images, **envelope)
    client.says(wire.Plan(number=7), encode_petition(wanted))
    return client.last(wire.Planned)


def row(planned: wire.Planned, name: str) -> wire.PlannedWorker:
    return next(row for row in planned.workers if row.worker == name)


def ask(client: Client, what: Any, **more: Any) -> wire.Answer:
    client.says(wire.Ask(number=1, what=what, **more))
    return client.last(wire.Answer)


def facts(client: Client, name: str = "gpu1") -> wire.WorkerFacts:
    return next(one for one in ask(client, "workers").workers if one.name == name)


def drew(client: Client, worker: Worker, number: int, draw_s: float, **about: Any) -> None:
    """The only open worker draws an image, which so becomes known."""
    pid = client.submits(number, **about)
    model = about.get("model", "tiny")
    digest = f"context of {model}"
    worker.starts()
    worker.says(wire.EngineState(state="drawing", loaded=f"{model}.safetensors", context=digest))
    worker.draws(worker.attempts[-1], draw_s=draw_s, load_s=3.0, context=digest)
    client.sees(pid, 0)


def stands(worker: Worker, state: wire.StandingState = "paused", reason: str = "by ana") -> None:
    worker.says(wire.Standing(state=state, reason=reason))


def two_speeds(farm: Farm) -> tuple[Client, Worker, Worker]:
    """gpu1 takes 2 s, gpu2 5 s; both have the model loaded and are idle."""
    client, fast = Client(farm), Worker(farm)
    drew(client, fast, 101, 2.0)
    stands(fast)
    slow = Worker(farm, "gpu2")
    drew(client, slow, 102, 5.0)
    fast.says(wire.Standing(state="open"))
    return client, fast, slow


# --- The forecast alone ---------------------------------------------------------------------


class Box:
    contexts = ("c",)
    keep = 1
    holds = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def most(self, _job: Job) -> int:
        return 0


def job(context: str = "c") -> Job:
    return Job("j", "ana", context, 1, 1, 0, 0.0)


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=6), st.integers(1, 40))
def test_images_are_placed_so_that_the_last_is_done_as_soon_as_can_be(speeds, images):
    costs, boxes = Costs(), [Box(str(i)) for i in range(len(speeds))]
    for box, speed in zip(boxes, speeds, strict=True):
        costs.learn(box.name, job(), Sample(0.0, speed, 0.0))
    forecast = Forecast(costs, 1.0, 0.0, boxes, lambda *_: True)
    rows = forecast.place(job(), images)
    assert sum(row.images for row in rows) == images
    ends = sorted(k * speed for speed in speeds for k in range(1, images + 1))
    assert max(row.end for row in rows if row.images) == pytest.approx(ends[images - 1])


def test_what_is_placed_stays_and_a_load_counts():
    costs, box = Costs(), Box("a")
    costs.learn("a", job(), Sample(0.0, 2.0, 0.0))
    costs.learn("a", job("d"), Sample(7.0, 3.0, 0.0))
    forecast = Forecast(costs, 1.0, 10.0, [box], lambda *_: True)
    assert forecast.place(job(), 2)[0].end == pytest.approx(14.0)
    second = forecast.place(job("d"), 1)[0]
    assert (second.load_s, second.end) == (pytest.approx(7.0), pytest.approx(14 + 7 + 3))


def test_a_further_copy_must_pay_for_what_it_replaces():
    costs, boxes = Costs(), [Box("a"), Box("b")]
    boxes[1].contexts = ("d",)
    for name in "ab":
        costs.learn(name, job(), Sample(10.0, 2.0, 0.0))
    for copy_cost, images in ((0.0, 3), (1.0, 0)):
        forecast = Forecast(costs, copy_cost, 0.0, boxes, lambda *_: True)
        assert forecast.place(job(), 11)[1].images == images


def test_nobody_able_is_no_placement():
    forecast = Forecast(Costs(), 1.0, 0.0, [Box("a")], lambda *_: False)
    assert forecast.place(job(), 3) == []
    assert forecast.first(job()) is None


# --- Plan -----------------------------------------------------------------------------------


def test_a_plan_with_nobody_here_says_so(farm):
    planned = plan(Client(farm))
    assert planned == wire.Planned(number=7, reason="no worker is connected yet")


def test_a_plan_is_refused_as_its_petition_would_be(farm):
    client = Client(farm)
    Worker(farm)
    error = plan(client, model="tinny").error
    assert (error.code, error.field, error.closest) == (
        "model_not_found", "model", ("tiny.safetensors",),
    )  # fmt: skip
    client.says(wire.Plan(number=8), b"\xc1")
    planned = client.last(wire.Planned)
    assert (planned.number, planned.error.code) == (8, "invalid_params")


def test_a_plan_places_by_learned_times_and_keeps_nothing(farm):
    client, fast, slow = two_speeds(farm)
    granted, kept = len(fast.attempts + slow.attempts), len(farm.kept(fx.Keep))
    farm.effects.clear()
    planned = plan(client, images=4)
    assert (row(planned, "gpu1").images, row(planned, "gpu2").images) == (3, 1)
    assert (planned.eta_s, planned.ahead, planned.reason) == (pytest.approx(6.0), 0, "")
    first = row(planned, "gpu1")
    assert (first.image_s, first.load_s, first.known) == (pytest.approx(2.0), 0.0, True)
    assert len(farm.manager.state.queue.entries) == 2
    assert len(fast.attempts + slow.attempts) == granted
    assert kept
    assert not farm.kept(fx.Keep)


def test_a_plan_says_who_is_too_slow(farm):
    planned = plan(two_speeds(farm)[0], images=2)
    slow = row(planned, "gpu2")
    assert (slow.images, slow.reason) == (0, "others are done sooner")
    assert slow.image_s == pytest.approx(5.0)


def test_a_plan_counts_a_load_and_marks_a_guess(farm):
    client, worker = Client(farm), Worker(farm, files=BOTH)
    drew(client, worker, 101, 2.0)
    planned = plan(client, model="other")
    only = row(planned, "gpu1")
    assert (only.load_s, only.known) == (pytest.approx(3.0), False)
    assert planned.eta_s == pytest.approx(5.0)


def test_a_plan_says_what_each_worker_lacks(farm):
    client = Client(farm)
    Worker(farm, "bare", ())
    stands(Worker(farm, "idle"), reason="paused by ana")
    stands(Worker(farm, "mute"), reason="")
    small = Worker(farm, "small")
    small.hello(declared=wire.Declared(max_pixels=64 * 64))
    Worker(farm, "twin", (ModelFile("stable-diffusion", "tiny.safetensors", 5, "c" * 64),))
    Worker(farm, "gone").says(wire.Goodbye())
    Worker(farm, "able").says(wire.EngineState(state="idle", loaded="tiny.safetensors"))
    farm.now += 5
    silent = [farm.manager.state.roster.at(one) for one in (small.route,)]
    for worker in farm.manager.state.roster.present():
        worker.liveness.heard(farm.now - (4 if worker in silent else 0))
    planned = plan(client)
    assert row(planned, "bare").lacks == ("stable-diffusion 'tiny'",)
    assert row(planned, "idle").reason == "paused by ana"
    assert row(planned, "mute").reason == "paused"
    assert row(planned, "small").reason == "silent for 4 s"
    assert row(planned, "gone").reason == "last seen 5 s ago"
    assert "not those that the petition began with" in row(planned, "twin").reason
    assert row(planned, "able").images == 1
    assert [one.worker for one in planned.workers] == sorted(w.worker for w in planned.workers)
    for worker in farm.manager.state.roster.present():
        worker.liveness.heard(farm.now)
    assert "262144 pixels are more than" in row(plan(client), "small").reason


def test_an_exact_plan_stays_on_one_fingerprint(farm):
    client, _fast, slow = two_speeds(farm)
    farm.manager.state.roster.at(slow.route).engine = wire.EngineFacts(
        version="", backend="cpu", device="", fingerprint="0" * 16
    )
    planned = plan(client, images=4, exact=True)
    assert row(planned, "gpu1").images == 4
    assert "fingerprint" in row(planned, "gpu2").reason


def test_a_plan_tells_of_memory_that_did_not_suffice(farm):
    client, worker = Client(farm), Worker(farm)
    drew(client, worker, 101, 2.0)
    client.submits(1, width=1024, height=1024)
    worker.fails(worker.starts(), "out_of_memory")
    assert row(plan(client, width=1024, height=1024), "gpu1").reason == (
        "it ran out of memory at 1048576 pixels"
    )
    assert row(plan(client), "gpu1").images == 1
    assert facts(client).max_pixels_learned == 1024 * 1024 - 1


def test_a_plan_stands_behind_those_that_would_go_before_it(farm):
    client, _fast, slow = two_speeds(farm)
    stands(slow)
    client.submits(1, images=3)
    low = plan(client, priority="low")
    high = plan(client, priority="high")
    assert (low.ahead, high.ahead) == (1, 1)
    assert low.eta_s == pytest.approx(2 * 3 + 2)
    assert high.eta_s == pytest.approx(2 * 2 + 2)
    assert low.reason == "gpu1 is free in about 4 s"


def test_a_plan_of_a_large_farm_is_cut_to_one_message(farm):
    client = Client(farm)
    Worker(farm, "able")
    tags = "".join(f"<lora:{i:0100d}:1>" for i in range(64))
    files = tuple(ModelFile("lora", f"{i:0100d}.safetensors", 1) for i in range(64))
    for i in range(20):
        Worker(farm, f"w{i:02d}")
    Worker(farm, "all", (MODEL, *files))
    planned = plan(client, prompt=f"a {tags}")
    assert planned.cut
    assert planned.workers
    assert planned.error is None


def test_who_has_nothing_waiting_would_join_the_round_of_the_day():
    shares = Shares(quantum_s=10.0)
    assert shares.would_be("ben") == (True, 0)
    shares.arrive("ana", 0.0)
    shares.wait("ana", 2)
    assert shares.would_be("ana") == (False, shares.round("ana"))
    shares.charge("ana", 25.0, 5.0)
    shares.charge("ana", 1.0, 5.0)
    assert shares.would_be("ana") == (False, 2)
    shares.charge("cem", 1.0, 5.0)
    assert shares.would_be("cem") == (True, 2)
    assert shares.would_be("ben") == (True, 2)


def test_a_first_image_goes_before_and_the_last_of_several_does_not():
    shares = Shares()
    lines = Lines(shares)
    for images, round_ in ((1, -1), (2, 0)):
        would_be = job()
        would_be.images = images
        assert lines.key_if(would_be).round == round_
    for number, (images, round_) in enumerate(((1, -1), (2, 0))):
        waits = Job(str(number), f"client {number}", "c", 1, 1, number, 0.0)
        waits.new, _ = shares.arrive(waits.client, 0.0)
        waits.images = images
        lines.change(waits, images)
        assert lines.key_of_last(waits).round == round_
        would_be = Job("j", waits.client, "c", 1, 1, 9, 0.0)
        would_be.images = 1
        # Its client has something waiting.
        assert lines.key_if(would_be).round == 0


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


# --- Reasons --------------------------------------------------------------------------------


def reason(client: Client, number: int) -> str:
    (row,) = ask(client, "queue", id=petition_id(number)).queue
    return row.reason


def test_who_waits_is_told_for_whom_and_how_long(farm):
    client, fast, slow = two_speeds(farm)
    slow.says(wire.Goodbye())
    client.submits(1, images=2)
    fast.starts(fast.attempts[-2])
    client.submits(2)
    assert reason(client, 2) == "gpu1 is free in about 4 s"
    client.says(wire.ProgressSeen(id=petition_id(2)))
    farm.wait(1, client, fast)
    assert reason(client, 2) == "gpu1 is free in about 3 s"


def test_who_needs_a_load_is_told(farm):
    client, worker = Client(farm), Worker(farm, files=BOTH)
    drew(client, worker, 1, 2.0, model="other")
    drew(client, worker, 2, 2.0)
    client.submits(3, images=2)
    client.submits(4, model="other")
    assert reason(client, 4) == ("gpu1 would have to load it (3 s) and is at something else")
    state = farm.manager.state
    state.roster.at(worker.route).leases.clear()
    assert why_waiting(state, state.queue.entries[petition_id(4)]) == (
        "gpu1 would have to load it (3 s)"
    )


def test_who_is_above_every_declared_limit_is_refused_at_the_door(farm):
    client = Client(farm)
    for name, most in (("gpu1", 64 * 64), ("gpu2", 128 * 128)):
        Worker(farm, name).hello(declared=wire.Declared(max_pixels=most))
    client.submits(1, width=256, height=256)
    error = client.last(wire.Refused).error
    assert error.code == "too_large"
    assert error.message.startswith("256x256 is more than any worker here takes; gpu2 takes the")
    assert "16384 pixels" in error.message
    client.submits(2, width=128, height=128)
    assert client.last(wire.Accepted).id == petition_id(2)
    assert plan(client, width=256, height=256).error.code == "too_large"


def test_who_is_above_the_limits_of_those_that_have_the_files_waits_and_is_told(farm):
    client = Client(farm)
    Worker(farm, "bare", ())
    Worker(farm).hello(declared=wire.Declared(max_pixels=64 * 64))
    client.submits(1, width=1024, height=1024)
    assert client.last(wire.Accepted).reason == (
        "1024x1024 is more than any worker here takes; gpu1 takes the most, 4096 pixels"
    )


def test_a_petition_no_worker_has_memory_for_ends_no_capable_worker():
    farm = Farm(no_worker_timeout_s=5)
    client, worker = Client(farm), Worker(farm)
    client.submits(1, width=1024, height=1024)
    worker.fails(worker.starts(), "out_of_memory")
    pid = client.submits(2, width=1024, height=1024)
    assert client.last(wire.Accepted).reason == (
        "gpu1 cannot: it ran out of memory at 1048576 pixels"
    )
    farm.wait(8, client, worker)
    finished = next(one for one in client.got(wire.Finished) if one.id == pid)
    assert finished.failures[0].error.code == "no_capable_worker"
    assert "ran out of memory" in finished.failures[0].error.message


def test_who_began_with_files_that_are_not_here_is_told(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(1, images=2)
    worker.says(wire.Goodbye())
    farm.now += limits.REMEMBER_WORKER_S + 1
    farm.turn()
    other = ModelFile("stable-diffusion", "tiny.safetensors", 5, "c" * 64)
    for name in ("gpu2", "gpu3"):
        Worker(farm, name, (other,))
    client = Client(farm, "new")
    farm.wait(1)
    assert reason(client, 1) == (
        "gpu2 cannot: its files of these names are not those that the petition began with;"
        " nor can 1 more"
    )


def test_a_remembered_worker_may_be_the_exact_one(farm):
    client, worker = Client(farm), Worker(farm)
    wanted = Petition(params=petition().params, seed=1, images=2, exact=True)
    client.says(wire.Submit(id=petition_id(1)), encode_petition(wanted))
    assert worker.attempts
    farm.restart()
    client = Client(farm, "new")
    farm.wait(limits.RESTART_GRACE_S + 2, client)
    assert reason(client, 1).startswith("only on gpu1, last seen")


def test_files_that_are_spread_over_workers_are_told(farm):
    client, one, two = Client(farm), Worker(farm), Worker(farm, "gpu2")
    vae = ModelFile("vae", "v.safetensors", 1)
    for worker, files in ((one, (MODEL, vae)), (two, (vae,))):
        worker.says(wire.Inventory(), encode_inventory(files))
    client.submits(1, vae="v", images=2)
    one.says(wire.Inventory(), encode_inventory((MODEL,)))
    entry = farm.manager.state.queue.entries[petition_id(1)]
    assert why_waiting(farm.manager.state, entry) == "no single worker has all the files it names"
    two.says(wire.Inventory(), encode_inventory(()))
    assert "has vae 'v'" in why_waiting(farm.manager.state, entry)


# --- Two findings ---------------------------------------------------------------------------


def test_a_new_process_of_a_name_takes_the_place_of_the_old_one(farm):
    client, old = Client(farm), Worker(farm)
    young = Worker(farm, "gpu2", ())
    farm.manager.state.roster.at(young.route).name = "gpu1"
    assert len(ask(client, "workers").workers) == 2
    old.says(wire.Goodbye())
    farm.wait(limits.GONE_S + 2, client, young)
    assert [one.name for one in ask(client, "workers").workers] == ["gpu1"]
    assert not farm.rows(ForgetWorker)
    client.submits()
    assert client.last(wire.Refused).error.code == "model_not_found"


def test_a_petition_of_which_nothing_is_leased_any_more_is_queued(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=3)
    first, second = worker.attempts
    worker.starts(first)
    stands(worker)
    worker.says(wire.Revoked(attempt=second))
    worker.draws(first)
    assert farm.manager.state.queue.entries[pid].state == "queued"
    farm.wait(1, client, worker)
    assert reason(client, 1) == "gpu1 takes no grants: by ana"
