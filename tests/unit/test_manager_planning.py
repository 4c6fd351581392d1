"""Where a petition's images would go: the forecast alone, and plans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib_manager import effects as fx
from sdistrib_manager.scheduler.costs import Costs, Sample
from sdistrib_manager.scheduler.forecast import Forecast
from sdistrib_manager.scheduler.lines import Lines
from sdistrib_manager.scheduler.shares import Shares
from sdistrib_manager.scheduler.work import Job
from tests.support.farm import MODEL, Client, Farm, Worker
from tests.support.planning import BOTH, drew, facts, plan, row, stands, two_speeds


@pytest.fixture
def farm() -> Farm:
    return Farm()


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
