"""The simulated farm: time on hand-computed cases, measures, workloads, the command."""

import json
from collections.abc import Iterable

import pytest

from bench import __main__ as bench
from bench.scheduling import engine, runs
from bench.scheduling.engine import PolicyError, simulate
from bench.scheduling.farm import Box, Image, Job, Workload, box
from bench.scheduling.measures import measure
from bench.scheduling.peer_base import Peer
from bench.scheduling.peer_fifo import Fifo
from bench.scheduling.peers import PEERS
from bench.scheduling.policy import (
    Abandon,
    Grant,
    Guesses,
    Knowledge,
    Order,
    Revoke,
    guesses,
    jitter,
)
from bench.scheduling.runs import Entrant
from bench.scheduling.workloads import BATCHES, HELD_OUT, OTHERS, TUNING, WORKLOADS

_NOTHING = Guesses({}, {}, {})


def _box(name: str = "a", step_s: float = 1.0, **fields) -> Box:
    """Decodes a square in 2 s, loads m0 in 10 s and m1 in 20 s."""
    return Box(name, {"m0": step_s, "m1": step_s}, 2.0, {"m0": 10.0, "m1": 20.0}, **fields)


def _job(id_: int = 0, images: int = 1, at: float = 0.0, context: str = "m0", **fields) -> Job:
    """Four steps at 512 x 512: 6 s an image on `_box`."""
    values = {"client": "c", "priority": "normal", "steps": 4, "width": 512, "height": 512}
    values |= fields
    return Job(id=id_, images=images, arrives_at=at, context=context, **values)


class _Script(Peer):
    """Orders by time: what is due goes out."""

    def __init__(self, *orders: tuple[float, Order], together: bool = False) -> None:
        super().__init__()
        self.orders = sorted(orders, key=lambda order: order[0])
        self.delivers_together = together
        self.heard: list[tuple[object, ...]] = []
        self.steps: list[tuple[object, ...]] = []

    def arrived(self, now, job):
        self.heard.append(("arrived", now))

    def began(self, now, box, image):
        self.heard.append(("began", round(now, 6), box, image.number))

    def stepped(self, now, box, image, step_s):
        self.steps.append((round(now, 6), box, image.number, step_s))

    def finished(self, now, box, image, load_s, draw_s):
        self.heard.append(("finished", round(now, 6), box, image.number, load_s, draw_s))

    def gone(self, now, box, lost):
        self.heard.append(("gone", now, box, [image.number for image in lost]))

    def revoked(self, now, box, image):
        self.heard.append(("revoked", round(now, 6), box, image.number))

    def decide(self, now: float) -> Iterable[Order]:
        due = [order for at, order in self.orders if at <= now]
        self.orders = [(at, order) for at, order in self.orders if at > now]
        return due

    def wake_at(self) -> float | None:
        return self.orders[0][0] if self.orders else None


def test_the_beginning_of_sampling_and_its_first_step_are_told() -> None:
    job = _job()
    script = _Script((0.0, Grant("a", Image(job, 0))))
    _run([_box("a")], [job], script, latency_s=0.0)
    assert script.steps == [(10.0, "a", 0, 0.0), (11.0, "a", 0, 1.0)]


def _run(boxes: list[Box], jobs: list[Job], script: _Script, **options) -> list[tuple[object, ...]]:
    simulate(Workload("w", 0, tuple(boxes), tuple(jobs)), script, _NOTHING, **options)
    return script.heard


def test_an_image_costs_latency_load_steps_and_decoding():
    job = _job(images=2)
    script = _Script((0, Grant("a", Image(job, 0))), (0, Grant("a", Image(job, 1))))
    assert _run([_box()], [job], script) == [
        ("arrived", 0.0),
        ("began", 0.01, "a", 0),
        ("finished", 16.01, "a", 0, 10.0, 6.0),
        ("began", 16.01, "a", 1),
        ("finished", 22.01, "a", 1, 0.0, 6.0),
    ]


def test_time_grows_with_pixels_and_what_is_loaded_at_the_start_costs_nothing():
    job = _job(width=1024, height=1024)
    script = _Script((3, Grant("a", Image(job, 0))))
    assert _run([_box(loaded="m0")], [job], script, latency_s=0)[-1] == (
        "finished", 27.0, "a", 0, 0.0, 24.0,
    )  # fmt: skip


def test_another_context_costs_its_load_each_time():
    jobs = [_job(0), _job(1, context="m1"), _job(2)]
    script = _Script(*((0, Grant("a", Image(job, 0))) for job in jobs))
    heard = _run([_box()], jobs, script, latency_s=0)
    assert [line[4] for line in heard if line[0] == "finished"] == [10.0, 20.0, 10.0]


def test_a_policy_that_always_reloads_pays_for_every_image():
    job = _job(images=2)
    script = _Script((0, Grant("a", Image(job, 0))), (0, Grant("a", Image(job, 1))))
    script.always_reloads = True
    heard = _run([_box(loaded="m0")], [job], script, latency_s=0)
    assert [line[4] for line in heard if line[0] == "finished"] == [0.0, 10.0]


def test_a_revoke_works_until_the_image_begins():
    job = _job(images=3)
    first, second, third = (Image(job, number) for number in range(3))
    script = _Script(
        (0, Grant("a", first)), (0, Grant("a", second)), (0, Grant("a", third)),
        (1, Revoke("a", second)), (1, Revoke("a", first)), (2, Grant("b", second)),
    )  # fmt: skip
    heard = _run([_box(), _box("b")], [job], script)
    assert ("revoked", 1.01, "a", 1) in heard
    assert not [line for line in heard if line[:1] == ("revoked",) and line[3] != 1]
    assert [line[:4] for line in heard if line[0] == "finished"] == [
        ("finished", 16.01, "a", 0), ("finished", 18.01, "b", 1), ("finished", 22.01, "a", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("abandoned_at", "free_at"), [(5.0, 10.01), (12.0, 12.01)], ids=["loading", "drawing"]
)
def test_an_abandoned_image_ends_at_once_but_a_load_is_finished(abandoned_at, free_at):
    job = _job(images=2)
    one, other = Image(job, 0), Image(job, 1)
    script = _Script(
        (0, Grant("a", one)), (0, Grant("a", other)), (abandoned_at, Abandon("a", one)),
        (15, Grant("a", one)),
    )  # fmt: skip
    heard = _run([_box()], [job], script)
    assert ("revoked", free_at, "a", 0) in heard
    assert ("began", free_at, "a", 1) in heard
    assert ("finished", round(free_at + 6, 6), "a", 1, 0.0, 6.0) in heard


def test_of_two_copies_the_first_counts_and_both_are_reported():
    job = _job()
    workload = Workload("w", 0, (_box(step_s=2.0), _box("b"), _box("c")), (job,))
    script = _Script((0, Grant("a", Image(job, 0))), (0, Grant("b", Image(job, 0))))
    log = simulate(workload, script, _NOTHING, latency_s=0)
    assert measure(workload, log).makespan_s == 16.0
    last = _job(1, at=30)
    workload = Workload("w", 0, workload.boxes, (job, last))
    script = _Script(
        (0, Grant("a", Image(job, 0))),
        (0, Grant("b", Image(job, 0))),
        (30, Grant("c", Image(last, 0))),
    )  # fmt: skip
    found = measure(workload, simulate(workload, script, _NOTHING, latency_s=0))
    assert found.waits_s == (16.0, 16.0)
    assert found.wasted_s == 10.0
    assert found.drawn_s == 22.0
    assert found.loads == {"m0": 3}


def test_a_death_is_silent_and_takes_all_that_the_box_was_granted():
    job = _job(images=4)
    images = [Image(job, number) for number in range(4)]
    script = _Script(
        (0, Grant("a", images[0])), (0, Grant("a", images[1])), (0, Grant("a", images[2])),
        (23, Grant("a", images[3])), *((25, Grant("b", image)) for image in images[1:]),
    )  # fmt: skip
    heard = _run([_box(dies_at=21.0), _box("b", loaded="m0")], [job], script)
    assert ("gone", 24.0, "a", [1, 2, 3]) in heard
    assert [line[1:4] for line in heard if line[0] == "finished"] == [
        (16.01, "a", 0), (31.01, "b", 1), (37.01, "b", 2), (43.01, "b", 3),
    ]  # fmt: skip


def test_pictures_that_come_together_come_with_those_that_nobody_asked_for():
    job = _job()
    script = _Script((0, Grant("a", Image(job, 0))), (0, Grant("b", Image(job, 1))), together=True)
    workload = Workload("w", 0, (_box(), _box("b", step_s=2.0)), (job,))
    log = simulate(workload, script, _NOTHING, latency_s=0)
    found = measure(workload, log, together=True)
    assert found.waits_s == found.firsts_s == (20.0,)
    assert found.wasted_s == 10.0


@pytest.mark.parametrize(
    ("orders", "wrong"),
    [
        (lambda job, _: [Grant("a", Image(job, 1))], "nobody asked"),
        (lambda job, _: [Grant("a", Image(job, 0))] * 2, "the box has it"),
        (lambda _, later: [Grant("a", Image(later, 0))], "has not come"),
        (lambda job, _: [Grant("small", Image(job, 0))], "cannot draw"),
        (lambda job, _: [Revoke("a", Image(job, 0))], "does not hold"),
        (lambda _job, _: [], "for ever"),
    ],
)
def test_an_order_that_cannot_be_and_work_left_undone_are_errors(orders, wrong):
    job, later = _job(), _job(1, at=100)
    script = _Script(*((0, order) for order in orders(job, later)))
    with pytest.raises(PolicyError, match=wrong):
        _run([_box(), _box("small", pixels_max=512 * 511)], [job, later], script)


def test_a_grant_to_a_box_known_dead_and_a_picture_that_is_there_are_errors():
    job = _job()
    script = _Script((4, Grant("a", Image(job, 0))))
    with pytest.raises(PolicyError, match="the box is gone"):
        _run([_box(dies_at=1.0)], [job], script)
    job = _job(images=2)
    script = _Script((0, Grant("a", Image(job, 0))), (50, Grant("a", Image(job, 0))))
    with pytest.raises(PolicyError, match="the picture is there"):
        _run([_box()], [job], script)


def test_a_policy_that_wakes_for_nothing_is_stopped(monkeypatch):
    monkeypatch.setattr(engine, "TURNS_MAX", 50)

    class Restless(_Script):
        now = 0.0

        def decide(self, now):
            self.now = now
            return []

        def wake_at(self):
            return self.now + 1

    with pytest.raises(PolicyError, match="50 turns, and 1 images"):
        _run([_box()], [_job()], Restless())


def test_being_passed_lasts_from_the_first_to_the_last_image_of_later_petitions():
    old, other, new = _job(0), _job(1), _job(2, images=3, at=1.0, client="d")
    orders = [(2, Grant("a", Image(new, number))) for number in range(3)]
    orders += [(30, Grant("a", Image(old, 0))), (30, Grant("a", Image(other, 0)))]
    workload = Workload("w", 0, (_box(loaded="m0"),), (old, other, new))
    log = simulate(workload, _Script(*orders), _NOTHING, latency_s=0)
    assert measure(workload, log).passed_s == 12.0
    assert measure(workload, log).overtaken_s == 12.0
    orders[-1] = (9, Grant("b", Image(old, 0)))
    orders.append((40, Grant("a", Image(other, 0))))
    workload = Workload("w", 0, (_box(loaded="m0"), _box("b")), (old, other, new))
    log = simulate(workload, _Script(*orders[:3], *orders[4:]), _NOTHING, latency_s=0)
    assert measure(workload, log).passed_s == 12.0, "the second petition of c was passed all along"
    assert measure(workload, log).overtaken_s == 6.0, "but c had a turn after 7 s"


@pytest.mark.parametrize("fields", [{"context": "m1"}, {"priority": "low"}])
def test_what_a_box_could_not_have_drawn_or_may_wait_is_not_passed(fields):
    old, new = _job(0, **fields), _job(1, images=2, at=1.0, client="d")
    only_m0 = Box("a", {"m0": 1.0}, 2.0, {"m0": 10.0}, loaded="m0")
    able = only_m0 if "context" in fields else _box(loaded="m0")
    orders = [(2, Grant("a", Image(new, number))) for number in range(2)]
    orders.append((30, Grant("b", Image(old, 0))))
    workload = Workload("w", 0, (able, _box("b")), (old, new))
    found = measure(workload, simulate(workload, _Script(*orders), _NOTHING, latency_s=0))
    assert found.passed_s == 0.0


def test_a_newcomer_is_late_by_what_passes_after_the_first_box_is_free():
    heavy, new = _job(0, images=3), _job(1, at=3.0, client="new")
    orders = [(0, Grant("a", Image(heavy, 0))), (0, Grant("a", Image(heavy, 1)))]
    orders += [(0, Grant("b", Image(heavy, 2))), (4, Grant("a", Image(new, 0)))]
    boxes = (_box(loaded="m0"), _box("b", step_s=5.0, loaded="m0"))
    workload = Workload("w", 0, boxes, (heavy, new), newcomer="new")
    found = measure(workload, simulate(workload, _Script(*orders), _NOTHING, latency_s=0))
    assert found.newcomer_s == 15.0
    assert found.late_s == 6.0


def test_knowledge_is_exact_wrong_by_so_much_or_nothing():
    boxes = [box(f"b{n}", 10, {"m0": 20.0}) for n in range(50)]
    kinds: tuple[Knowledge, ...] = ("exact", "noisy", "vague", "cold")
    exact, noisy, vague, cold = (guesses(boxes, kind, 1) for kind in kinds)
    assert exact.draw_s("b0", _job(steps=20)) == pytest.approx(6.0)
    assert exact.load_s["b0", "m0"] == 20.0
    ratios = [noisy.draw_s(b.name, _job(steps=20)) / 6.0 for b in boxes]
    assert 0.7 <= min(ratios) < 0.8
    assert 1.2 < max(ratios) <= 1.3
    assert noisy.load_s == exact.load_s
    assert 10.0 <= min(vague.load_s.values()) < max(vague.load_s.values()) <= 30.0
    assert vague.step_s != exact.step_s
    assert cold == _NOTHING


def test_luck_is_the_same_for_every_policy_and_none_with_exact_knowledge():
    workload = next(iter(WORKLOADS["batch"](0)))
    image, first = Image(workload.jobs[0], 1), workload.boxes[0]
    assert workload.luck(image, first, 0.0) == 1.0
    again = next(iter(WORKLOADS["batch"](0)))
    luck = workload.luck(image, first, 0.1)
    assert luck != 1.0
    assert luck == again.luck(Image(again.jobs[0], 1), again.boxes[0], 0.1)
    assert jitter(workload, "exact") == 0.0
    assert jitter(workload, "cold") == 0.1


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_come_from_their_seed_alone_in_order_on_uniform_boxes(name):
    assert not set(TUNING) & set(HELD_OUT)
    ones, twos, others = (list(WORKLOADS[name](seed)) for seed in (1, 1, 1001))
    for one, two, other in zip(ones, twos, others, strict=True):
        plain = [(j.id, j.client, j.images, j.steps, j.arrives_at) for j in one.jobs]
        assert plain == [(j.id, j.client, j.images, j.steps, j.arrives_at) for j in two.jobs]
        assert one.seed == two.seed != other.seed
        assert [job.id for job in one.jobs] == list(range(len(one.jobs)))
        assert sorted(job.arrives_at for job in one.jobs) == [job.arrives_at for job in one.jobs]
        for job in one.jobs:
            ratios = {box.draw_s(job) / box.decode_s / job.squares for box in one.boxes}
            assert max(ratios) == pytest.approx(min(ratios)), "bounds rest on it"
            assert all(box.can(job) for box in one.boxes)


@pytest.mark.parametrize("name", [*BATCHES, *OTHERS])
@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_ends_and_twice_the_same(name, peer):
    entrant = Entrant(peer, PEERS[peer], "exact")
    workload = next(iter(WORKLOADS[name](3)))
    found = runs.run(workload, entrant)
    again = runs.run(next(iter(WORKLOADS[name](3))), entrant)
    assert found.waits_s == again.waits_s
    assert found.loads == again.loads


def test_the_command_prints_ratios_without_ours(monkeypatch, capsys):
    monkeypatch.setattr(runs, "_OURS", "bench.scheduling.nobody")
    bench.main(["scheduling", "slow-box", "mixed", "--seeds", "tuning", "--count", "1"])
    out = capsys.readouterr().out
    assert {"slow-box", "mixed"} <= {line.split(" ")[0] for line in out.splitlines()}
    assert all(peer in out for peer in PEERS)
    assert "target" not in out


def test_the_command_judges_ours(monkeypatch, capsys):
    entrants = [
        Entrant(name, lambda _: Fifo(), "exact")
        for name in ("ours", "ours~30%", "ours~30%~50%", "ours-cold")
    ]
    monkeypatch.setattr(runs, "ours", lambda: entrants)
    names = ["batch", "death", "alternating", "newcomer", "single-3-.5", "mix-3x3-.4"]
    bench.main(["scheduling", *names, "--seeds", "tuning", "--count", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    verdicts = {line["text"]: line["met"] for line in found["targets"]}
    assert verdicts["single-3-.5: mean wait / fifo-fastest"]
    assert not verdicts["ours: batch makespan / optimum, worst"]
    assert not verdicts["alternating: loads of one context, most"]
    assert not verdicts["model mixes, mean wait / best peer's, geometric mean"]
    fifo = found["workloads"]["mix-3x3-.4"]
    assert fifo["ours"]["mean"] == fifo["fifo-fastest"]["mean"]
    bench.main(["scheduling", *names, "--seeds", "tuning", "--count", "1"])
    out = capsys.readouterr().out
    assert "NOT MET" in out
    assert "model mixes" in out


@pytest.mark.parametrize("words", [["nonsense"], ["batch", "--count", "0"], ["--seeds", "mine"]])
def test_a_wrong_command_line_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["scheduling", *words])
    assert stopped.value.code == 2
    assert "bench.scheduling: error: " in capsys.readouterr().err
