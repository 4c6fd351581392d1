"""Peers' policies against the worked numbers of the programs they stand for; bounds by force."""

import itertools
import math
import random

import pytest

from bench.scheduling.bounds import bounds, optimum, shared_ends
from bench.scheduling.engine import simulate
from bench.scheduling.farm import Box, Image, Job, Workload, box
from bench.scheduling.measures import measure
from bench.scheduling.peer_fifo import Fifo, LeastRecent
from bench.scheduling.peer_horde import Horde, safe_amount
from bench.scheduling.peer_static import EqualSplit, Topics, assign
from bench.scheduling.peer_swarm import Swarm
from bench.scheduling.peer_webui import Share, Webui, layout
from bench.scheduling.peers import PEERS
from bench.scheduling.policy import Policy, guesses
from bench.scheduling.workloads import WORKLOADS


def _job(
    id_: int = 0, images: int = 1, at: float = 0.0, context: str = "m0", size: int = 512
) -> Job:
    return Job(id_, f"client{id_}", "normal", context, images, 20, size, size, at)


def _farm(*ipms: float, loaded: str | None = "m0") -> tuple[Box, ...]:
    """Boxes a, b, …: 20 s to load m0, m1, m2."""
    made = [
        box("abcdef"[n], ipm, dict.fromkeys(("m0", "m1", "m2"), 20.0)) for n, ipm in enumerate(ipms)
    ]
    return tuple(Box(b.name, b.step_s, b.decode_s, b.load_s, loaded) for b in made)


def _began(policy: Policy, boxes: tuple[Box, ...], *jobs: Job) -> list[tuple[float, str, int, int]]:
    """When and where each image began: time, box, petition, number."""
    workload = Workload("w", 0, boxes, jobs)
    log = simulate(workload, policy, guesses(boxes, "exact", 0), latency_s=0)
    return [
        (round(e.at, 3), e.box, e.image.job.id, e.image.number) for e in log if e.what == "began"
    ]


def _eta(ipms: dict[str, float]):
    return lambda name, images: images / ipms[name] * 60


@pytest.mark.parametrize(
    ("ipms", "batch", "plain", "bonus"),
    [
        ((15, 20, 5), 12, (2, 10, 0), (8, 0, 2)),
        ((60, 10), 8, (8, 0), (0, 1)),
        ((20, 18), 10, (5, 5), (0, 0)),
        ((20, 19, 18), 2, (1, 1, 0), (0, 0, 1)),
    ],
)
def test_webui_lays_out_as_the_original_does(ipms, batch, plain, bonus):
    boxes = [f"w{place}" for place in range(len(ipms))]
    eta = _eta(dict(zip(boxes, ipms, strict=True)))
    without = layout(boxes, batch, eta, complement=False)
    assert without == {name: Share(n, 0) for name, n in zip(boxes, plain, strict=True)}
    shares = layout(boxes, batch, eta, complement=True)
    assert [shares[name] for name in boxes] == [
        Share(n, m) for n, m in zip(plain, bonus, strict=True)
    ]


def test_webui_draws_request_after_request_and_delivers_at_the_barrier():
    boxes, jobs = _farm(15, 20, 5), (_job(0, 12), _job(1, 12))
    workload = Workload("w", 0, boxes, jobs)
    policy = Webui(complement=True)
    log = simulate(workload, policy, guesses(boxes, "exact", 0), latency_s=0)
    found = measure(workload, log, together=policy.delivers_together)
    assert found.waits_s == pytest.approx((40.0, 80.0)), "ten images at 15 a minute, twice"
    assert found.wasted_s == pytest.approx(2 * (8 * 4 + 2 * 12))
    plain = [line for line in _began(Webui(complement=False), boxes, *jobs) if line[2] == 0]
    assert [sum(line[1] == name for line in plain) for name in "abc"] == [2, 10, 0]


def test_webui_drops_an_error_of_its_estimates_for_the_sixth_and_keeps_not_that():
    policy = Webui(complement=False)
    kept = []
    for count in range(1, 8):
        _began(policy, _farm(20), *(_job(n, at=float(n)) for n in range(count)))
        kept.append(len(policy._errors.pop("a")))
    assert kept == [1, 2, 3, 4, 5, 4, 5]


@pytest.mark.parametrize(
    ("side", "amount"), [(512, 20), (1096, 20), (1280, 15), (1536, 10), (2048, 6)]
)
def test_the_hordes_batch_shrinks_as_the_picture_grows(side, amount):
    assert safe_amount(side * side, 2048 * 2048, 20) == amount


def test_the_horde_gives_a_batch_of_one_request_to_whoever_pops():
    began = _began(Horde(0.0, 1), _farm(10, 10), _job(0, 6), _job(1, 6))
    assert {(name, job) for _, name, job, _ in began} == {
        ("a", 0),
        ("b", 0),
        ("b", 1),
        ("a", 1),
    }
    assert [line[1:] for line in began if line[1] == "a"][:5] == [
        ("a", 0, 0), ("a", 0, 1), ("a", 0, 2), ("a", 0, 3), ("a", 1, 0),
    ]  # fmt: skip


def test_a_sticky_worker_asks_for_what_it_has_loaded():
    jobs = (_job(0, context="m1"), _job(1))
    assert _began(Horde(0.0, 1), _farm(10), *jobs)[0][2] == 0
    assert _began(Horde(0.9, 1), _farm(10), *jobs)[0][2] == 1


def test_least_recent_goes_round_and_reloads():
    boxes = _farm(10, 10, loaded=None)
    jobs = [_job(n, at=n * 100.0) for n in range(4)]
    workload = Workload("w", 0, boxes, tuple(jobs))
    log = simulate(workload, LeastRecent(), guesses(boxes, "exact", 0))
    assert [e.box for e in log if e.what == "finished"] == ["a", "b", "a", "b"]
    assert measure(workload, log).loads == {"m0": 4}


def test_fifo_takes_the_fastest_of_the_free_though_another_has_the_model():
    slow, fast = _farm(5, 20)
    fast = Box(fast.name, fast.step_s, fast.decode_s, fast.load_s, "m1")
    assert _began(Fifo(), (slow, fast), _job(0, 3)) == [
        (0.0, "b", 0, 0), (0.0, "a", 0, 1), (12.0, "a", 0, 2),
    ]  # fmt: skip


def test_swarm_fills_the_backend_that_has_the_model_and_loads_after_a_second_and_a_half():
    first, *others = _farm(10, 10, 10, loaded=None)
    first = Box(first.name, first.step_s, first.decode_s, first.load_s, "m0")
    began = _began(Swarm(), (first, *others), _job(0, 12))
    assert began[0] == (0.0, "a", 0, 0)
    assert began[1] == (1.5, "b", 0, 2), "two are with the first, the third presses"
    third = [line for line in began if line[1] == "c"]
    assert third[0] == (21.5, "c", 0, 7), "one load at a time"


def test_swarm_loads_where_the_pressure_is_highest():
    jobs = (_job(0, 1, context="m1"), _job(1, 3, at=0.1, context="m2"))
    began = _began(Swarm(), _farm(10, 10), *jobs)
    assert began[0] == (1.6, "a", 1, 0), "the higher pressure, and nothing before it is old enough"
    assert began[1] == (1.6, "b", 0, 0), "then the next"
    began = _began(Swarm(), _farm(10), *jobs)
    assert began[0] == (0.0, "a", 0, 0), "a single backend loads at once"


def test_topics_give_every_model_its_boxes_by_what_is_asked_of_it():
    speeds = {"a": 4.0, "b": 2.0, "c": 1.0}
    can = dict.fromkeys(speeds, frozenset(("m0", "m1", "m2", "m3")))
    assert assign({"m0": 8.0, "m1": 3.0}, speeds, can) == {"m0": ["a", "c"], "m1": ["b"]}
    many = assign({"m0": 8.0, "m1": 3.0, "m2": 1.0, "m3": 1.0}, speeds, can)
    assert all(len(boxes) == 1 for boxes in many.values())
    assert assign(
        {"m0": 1.0}, {"a": 1.0, "b": 9.0}, {"a": frozenset(("m0",)), "b": frozenset()}
    ) == {"m0": ["a"]}


def test_topics_never_draw_elsewhere():
    jobs = tuple(_job(n, 3, at=n * 1.0, context=f"m{n % 2}") for n in range(8))
    boxes = _farm(10, 20)
    workload = Workload("w", 0, boxes, jobs)
    where = {(job % 2, name) for _, name, job, _ in _began(Topics(workload), boxes, *jobs)}
    assert len(where) == 2


def test_an_equal_split_waits_for_the_slowest_unless_others_steal():
    boxes = _farm(5, 20)
    assert max(_began(EqualSplit(), boxes, _job(0, 6))) == (24.0, "a", 0, 4)
    stolen = _began(EqualSplit(stealing=True), boxes, _job(0, 6))
    assert [line for line in stolen if line[1] == "b"][-1] == (9.0, "b", 0, 4), "from the end"
    assert max(stolen) == (12.0, "a", 0, 2)


def _by_force(boxes: tuple[Box, ...], job: Job) -> float:
    """The best of all ways to deal identical images."""
    best = math.inf
    for counts in itertools.product(range(job.images + 1), repeat=len(boxes)):
        if sum(counts) == job.images:
            used = [(b, n) for b, n in zip(boxes, counts, strict=True) if n]
            ends = [
                (0.0 if b.loaded == job.context else b.load_s[job.context]) + n * b.draw_s(job)
                for b, n in used
            ]
            if all(end <= (b.dies_at or math.inf) for (b, _), end in zip(used, ends, strict=True)):
                best = min(best, max(ends))
    return best


@pytest.mark.parametrize("seed", range(25))
def test_the_optimum_is_the_best_of_all_deals(seed):
    rng = random.Random(seed)
    boxes = tuple(
        Box(b.name, b.step_s, b.decode_s, b.load_s, rng.choice(("m0", None)), None, dies_at)
        for b in _farm(*(rng.uniform(2, 40) for _ in range(3)))
        for dies_at in [rng.choice((None, None, rng.uniform(5, 60)))]
    )
    job = _job(0, rng.randint(1, 7))
    assert optimum(boxes, job) == pytest.approx(_by_force(boxes, job))


def test_the_optimum_leaves_out_what_cannot_and_knows_when_nothing_can():
    small = Box("s", {"m0": 1.0}, 1.0, {"m0": 5.0}, "m0", 100)
    (fast,) = _farm(20)
    assert optimum((small, fast), _job(0, 4)) == pytest.approx(12.0)
    assert optimum((small,), _job()) == math.inf


def test_least_remaining_work_first_interrupts_the_longer():
    boxes = _farm(20, 40)
    jobs = [_job(0, 10), _job(1, 2, at=3.0), _job(2, 1, at=3.5)]
    assert shared_ends(boxes, jobs) == pytest.approx([13.0, 6.0, 4.5])


@pytest.mark.parametrize(
    "name", ["batch", "slow-box", "newcomer", "alternating", "single-3-.8", "mix-3x3-.4"]
)
@pytest.mark.parametrize(
    "peer", ["fifo-fastest", "swarmui", "sd-webui-api-queue", "naive-stealing"]
)
def test_no_peer_beats_the_bounds_when_times_are_nominal(name, peer):
    for workload in itertools.islice(WORKLOADS[name](7), 3):
        policy = PEERS[peer](workload)
        log = simulate(workload, policy, guesses(workload.boxes, "exact", 0), latency_s=0)
        found, floor = measure(workload, log), bounds(workload)
        assert found.makespan_s >= floor.makespan_s * (1 - 1e-9)
        assert found.mean_s >= floor.mean_s * (1 - 1e-9)
        assert found.p95_s >= floor.p95_s * (1 - 1e-9)


def test_what_a_dead_box_had_is_drawn_by_others():
    (workload, *_) = WORKLOADS["death"](1)
    for peer, make in PEERS.items():
        policy = make(workload)
        log = simulate(workload, policy, guesses(workload.boxes, "exact", 0))
        drawn = {e.image for e in log if e.what == "finished"}
        assert {Image(workload.jobs[0], n) for n in range(workload.jobs[0].images)} <= drawn, peer
