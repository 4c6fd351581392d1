"""What becomes of an image on which engines run out of memory."""

from typing import Any

import msgspec
import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.petitions import InputFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_manager.rows import CeilingsRow
from sdistrib_manager.scheduler.costs import Sample
from sdistrib_manager.scheduler.work import Job
from tests.support.farm import MODEL, Client, Farm, Worker, petition, petition_id
from tests.support.input_files import digest_of

KILLED = {"signal": "SIGKILL"}


@pytest.fixture
def farm() -> Farm:
    return Farm()


def _workers(farm: Farm, count: int) -> list[Worker]:
    return [Worker(farm, f"gpu{number}") for number in range(1, count + 1)]


def _holder(workers: list[Worker], index: int = 0) -> tuple[Worker, wire.Attempt]:
    """Who was last handed the image, of the newest petition."""
    found = [(one, worker) for worker in workers for one in worker.attempts if one.index == index]
    attempt, worker = max(found, key=lambda row: (row[0].id, row[0].number))
    return worker, attempt


def _grant(worker: Worker) -> wire.Grant:
    grant: wire.Grant = worker.last(wire.Grant)
    return grant


def _runs_out(workers: list[Worker], **error: Any) -> str:
    """Whoever has image 0 has no memory for it; its name."""
    worker, attempt = _holder(workers)
    worker.fails(worker.starts(attempt), "out_of_memory", error=error)
    return worker.name


def _failure(client: Client) -> ErrorInfo:
    error: ErrorInfo = client.last(wire.Finished).failures[0].error
    return error


def test_who_has_no_memory_passes_the_image_on_as_it_is(farm):
    client, workers = Client(farm), _workers(farm, 3)
    client.submits()
    tried = {_runs_out(workers), _runs_out(workers)}
    worker, attempt = _holder(workers)
    assert tried | {worker.name} == {"gpu1", "gpu2", "gpu3"}
    assert (_grant(worker).relief, _grant(worker).ran_out) == ("", ())
    worker.draws(worker.starts(attempt))
    assert client.pictures == [0]


@pytest.mark.parametrize("count", [1, 2])
def test_with_nobody_left_the_whole_petition_ends_and_says_who_was_tried(farm, count):
    client, workers = Client(farm), _workers(farm, count)
    client.submits(images=9)
    for worker in workers:
        worker.fails(worker.starts(worker.attempts[0]), "out_of_memory")
        # What it was handed besides is asked back before it begins.
        for revoke in worker.got(wire.Revoke):
            worker.says(wire.Revoked(attempt=revoke.attempt))
    finished = client.last(wire.Finished)
    assert {row.error.code for row in finished.failures} == {"out_of_memory"}
    assert len(finished.failures) == 9
    if count > 1:
        message = finished.failures[0].error.message
        assert "gpu2 as asked; others had before: gpu1" in message


def test_what_comes_back_after_the_end_ends_as_well_and_so_do_the_leases_beside_it(farm):
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    client.submits(images=5)
    _runs_out(workers)
    assert worker.got(wire.Revoke)
    # (Found by simulation: the connection broke before that was answered.)
    worker.breaks()
    assert len(client.last(wire.Finished).failures) == 5


def test_fail_ends_at_the_first(farm):
    client, workers = Client(farm), _workers(farm, 2)
    client.submits(on_oom="fail")
    _runs_out(workers)
    assert _failure(client).code == "out_of_memory"
    assert sum(len(worker.attempts) for worker in workers) == 1


def test_fail_leaves_other_images_to_who_has_the_memory(farm):
    client, workers = Client(farm), _workers(farm, 2)
    client.submits(images=4, on_oom="fail")
    small, _ = _holder(workers)
    other = next(worker for worker in workers if worker is not small)
    small.fails(small.starts(small.attempts[0]), "out_of_memory")
    for attempt in small.attempts[1:]:
        small.says(wire.Revoked(attempt=attempt))
    done = set()
    while len(done) < 3:
        attempt = next(a for a in other.attempts if a.index not in done)
        other.draws(other.starts(attempt))
        client.sees(attempt.id, attempt.index)
        done.add(attempt.index)
    finished = client.last(wire.Finished)
    assert (finished.state, len(finished.done)) == ("failed", 3)


def test_the_ladder_goes_to_tiles_and_then_to_offloaded_weights(farm):
    client, workers = Client(farm), _workers(farm, 2)
    client.submits(on_oom="tile")
    ways = []
    for _ in range(6):
        worker, _ = _holder(workers)
        ways.append(_grant(worker).relief)
        if _grant(worker).relief:
            assert _grant(worker).ran_out == ("gpu1", "gpu2")
        _runs_out(workers)
    assert ways == ["", "", "tile", "tile", "offload", "offload"]
    error = _failure(client)
    assert error.code == "out_of_memory"
    for name in ("gpu1", "gpu2"):
        for how in ("as asked", "with VAE tiling", "with VAE tiling and offloaded weights"):
            assert f"{name} {how}" in error.message
    assert "--vae-tiling" in error.sentence()


def test_what_was_relieved_is_a_picture_like_any(farm):
    client, workers = Client(farm), _workers(farm, 1)
    pid = client.submits(on_oom="tile")
    _runs_out(workers)
    worker, attempt = _holder(workers)
    worker.draws(worker.starts(attempt), notes=("drawn with VAE tiling",))
    assert client.last(wire.Result).notes == ("drawn with VAE tiling",)
    client.sees(pid, 0)
    assert client.last(wire.Finished).state == "done"


def test_images_behind_it_and_later_petitions_do_not_run_out_again(farm):
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    client.submits(1, images=20, on_oom="tile")
    _runs_out(workers)
    (revoke,) = worker.got(wire.Revoke)
    worker.says(wire.Revoked(attempt=revoke.attempt))
    assert _grant(worker).relief == "tile"
    client.says(wire.Cancel(id=petition_id(1)))
    client.submits(2, on_oom="tile")
    assert _grant(worker).attempts[0].id == petition_id(2)
    assert _grant(worker).relief == "tile"
    # Who asks for tiles himself may have them; who does not waits for another worker.
    client.submits(3, vae_tiling=True)
    client.submits(4)
    worker.draws(worker.starts())
    granted = {attempt.id for attempt in worker.attempts}
    assert petition_id(3) in granted
    assert petition_id(4) not in granted


@pytest.mark.parametrize(
    ("asked", "ways"),
    [
        ({"vae_tiling": True}, ["", "offload"]),
        ({"offload_to_cpu": True}, ["", "tile"]),
        ({"vae_tiling": True, "offload_to_cpu": True}, [""]),
    ],
)
def test_what_was_asked_for_is_no_relief(farm, asked, ways):
    client, workers = Client(farm), _workers(farm, 1)
    client.submits(on_oom="tile", **asked)
    found = []
    while not client.got(wire.Finished):
        found.append(_grant(workers[0]).relief)
        _runs_out(workers)
    assert found == ways


def test_a_context_that_does_not_fit_is_offloaded_at_once_and_no_smaller_picture_tried(farm):
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    client.submits(1, on_oom="tile")
    attempt = worker.starts()
    worker.says(wire.Step(attempt=attempt, phase="loading"))
    worker.fails(attempt, "out_of_memory")
    assert _grant(worker).relief == "offload"
    client.submits(2, width=64, height=64)
    assert "it ran out of memory while loading it" in client.last(wire.Accepted).reason
    assert farm.manager.state.roster.at(worker.route).pixels_learned == 0


def test_offloaded_weights_are_a_context_of_their_own_and_tiles_teach_no_times(farm):
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    client.submits(1, on_oom="tile")
    _runs_out(workers)
    known = farm.manager.state.scheduler.costs.speeds
    worker.draws(worker.starts(), context="plain")
    assert known("gpu1", 9) == []
    client.submits(2, width=640, on_oom="tile")
    _runs_out(workers)
    worker.draws(worker.starts(), context="offloaded", load_s=3.0)
    # Tiles failed at this size only.
    contexts = farm.manager.state.contexts
    assert set(contexts) == {"plain", "offloaded"}


def test_after_a_restart_of_the_manager_the_ladder_goes_on(farm):
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    client.submits(1, on_oom="tile")
    _runs_out(workers)
    attempt = worker.starts()
    farm.restart()
    worker.reconnects(running=(attempt,))
    assert not worker.got(wire.Abandon)
    worker.fails(attempt, "out_of_memory")
    assert _grant(worker).relief == "offload"
    worker.draws(worker.starts(), context="o", load_s=1.0)
    (speed,) = farm.manager.state.scheduler.costs.speeds("gpu1", 9)
    assert speed.context != farm.manager.state.queue.entries[petition_id(1)].job.context


@pytest.mark.parametrize("settings", ["same", "other"])
def test_ceilings_outlive_the_manager_but_no_change_of_the_worker(farm, settings):
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    client.submits(1)
    _runs_out(workers)
    assert farm.rows(CeilingsRow)[-1].ceilings[0].pixels == 512 * 512
    farm.restart()
    if settings == "other":
        worker.about["declared"] = wire.Declared(max_pixels=2**22)
    worker.reconnects()
    client = Client(farm, "new")
    client.submits(2)
    assert bool(worker.attempts) == (settings == "other")


def test_a_forgotten_worker_leaves_no_ceilings(farm):
    client, workers = Client(farm), _workers(farm, 1)
    client.submits(1)
    _runs_out(workers)
    workers[0].says(wire.Goodbye())
    farm.now += limits.REMEMBER_WORKER_S + 2
    farm.turn()
    assert farm.store.load().ceilings == []


@pytest.mark.parametrize(("on_oom", "images"), [("retry", 0), ("tile", 3)])
def test_a_plan_reckons_with_what_is_allowed(farm, on_oom, images):
    client, workers = Client(farm), _workers(farm, 1)
    client.submits(1)
    _runs_out(workers)
    client.says(wire.Plan(number=1), encode_petition(petition(images=3, on_oom=on_oom)))
    (row,) = client.last(wire.Planned).workers
    assert row.images == images
    assert ("ran out of memory" in row.reason) == (not images)


def test_a_petition_that_must_be_relieved_has_an_expected_end_and_those_like_it_their_reasons(farm):
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    client.submits(1, on_oom="tile")
    _runs_out(workers)
    worker.starts()
    plain, tile = (client.submits(n, on_oom=how) for n, how in ((2, "retry"), (3, "tile")))
    farm.wait(3, client, worker)
    reasons = {p: farm.manager.state.queue.entries[p].reason for p in (plain, tile)}
    assert "ran out of memory" in reasons[plain]
    assert "ran out of memory" not in reasons[tile]
    farm.manager.state.scheduler.costs.learn("gpu1", _job(farm, tile), Sample(0.0, 8.0, 1.0))
    client.says(wire.Ask(number=1, what="queue"))
    rows = {row.id: row.eta_s for row in client.last(wire.Answer).queue}
    assert rows[plain] == 0.0
    assert rows[tile] > 0.0


def _job(farm: Farm, pid: str) -> Job:
    return farm.manager.state.queue.entries[pid].job


# --- deaths -----------------------------------------------------------------------------------


def test_two_engines_killed_for_memory_are_all_that_one_way_of_drawing_costs(farm):
    client, workers = Client(farm), _workers(farm, 3)
    client.submits()
    _runs_out(workers, **KILLED)
    _runs_out(workers, **KILLED)
    error = _failure(client)
    assert (error.code, error.signal) == ("out_of_memory", "SIGKILL")
    assert sum(len(worker.attempts) for worker in workers) == 2


def test_with_less_to_hold_it_has_another_chance_and_no_more_than_two(farm):
    client, workers = Client(farm), _workers(farm, 3)
    client.submits(on_oom="tile")
    ways = []
    while not client.got(wire.Finished):
        ways.append(_grant(_holder(workers)[0]).relief)
        _runs_out(workers, **KILLED)
    assert ways == ["", "", "tile", "tile", "offload", "offload"]
    assert _failure(client).code == "out_of_memory"


@pytest.mark.parametrize(
    "codes", [("out_of_memory", "engine_crashed"), ("engine_hung", "out_of_memory")]
)
def test_an_image_that_kills_in_two_ways_is_quarantined(farm, codes):
    client, workers = Client(farm), _workers(farm, 3)
    client.submits(images=1)
    for code in codes:
        worker, attempt = _holder(workers)
        worker.fails(worker.starts(attempt), code, error=KILLED)
    assert _failure(client).code == "quarantined"


def test_an_operator_who_wants_no_second_try_gets_none():
    farm = Farm(attempts_max=1)
    client, workers = Client(farm), _workers(farm, 2)
    client.submits(on_oom="tile")
    _runs_out(workers)
    assert _failure(client).code == "out_of_memory"


def test_each_way_is_tried_on_n_workers_and_no_more(farm):
    client, workers = Client(farm), _workers(farm, limits.OOM_TRIES_MAX + 1)
    client.submits(on_oom="tile")
    for _ in range(limits.OOM_TRIES_MAX):
        assert _grant(_holder(workers)[0]).relief == ""
        _runs_out(workers)
    assert _grant(_holder(workers)[0]).relief == "tile"


def test_a_relieved_image_is_not_raced(farm):
    client, workers = Client(farm), _workers(farm, 2)
    client.submits(on_oom="tile")
    _runs_out(workers)
    _runs_out(workers)
    worker, attempt = _holder(workers)
    worker.starts(attempt)
    farm.wait(200, client, *workers)
    assert _holder(workers) == (worker, attempt)


# --- bounds -----------------------------------------------------------------------------------


def test_n_ceilings_are_remembered_and_the_oldest_goes(farm):
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    ceilings = farm.manager.state.roster.at(worker.route).ceilings
    for number in range(limits.CEILINGS_MAX + 1):
        client.submits(number, images=1, tensor_type_rules=f"a{number}=f16")
        _runs_out(workers)
        assert len(ceilings) == min(number + 1, limits.CEILINGS_MAX)


def test_answers_about_n_kinds_of_petitions_are_remembered(farm, monkeypatch):
    monkeypatch.setattr(limits, "KINDS_MAX", 3)
    client, workers = Client(farm), _workers(farm, 1)
    (worker,) = workers
    for number in range(5):
        client.submits(number, width=64 * (1 + number), tensor_type_rules=f"a{number}=f16")
        worker.draws(worker.starts(), context=f"{number}")
        state = farm.manager.state
        assert len(state.roster.at(worker.route)._can) <= limits.KINDS_MAX
        assert set(state.contexts) == {str(n) for n in range(number + 1)[-limits.KINDS_MAX :]}


# --- what an owner allows, and what nobody knows the size of -----------------------------------

UPSCALER = ModelFile("esrgan", "twice.pth", 1_000, "b" * 64)


def _upscalers(farm: Farm, *pixels: int) -> list[Worker]:
    return [
        Worker(
            farm,
            f"gpu{number}",
            files=(MODEL, UPSCALER),
            declared=wire.Declared(max_pixels=most),
        )
        for number, most in enumerate(pixels, 1)
    ]


def _enlarges(client: Client, number: int = 1, data: bytes = b"a picture", **about: Any) -> None:
    """A petition that only makes a given picture larger, and its picture."""
    digest = digest_of(data)
    given = petition(
        mode="upscale", prompt="", model="", upscale_model="twice", init_image=digest, **about
    )
    given = msgspec.structs.replace(given, inputs=(InputFile(digest, len(data)),))
    client.says(wire.Submit(id=petition_id(number)), encode_petition(given))
    client.says(wire.Chunk(digest=digest, offset=0), data)


def test_a_picture_that_an_owner_does_not_allow_goes_to_one_that_does(farm):
    client, workers = Client(farm), _upscalers(farm, 100, 200, 0)
    _enlarges(client)
    tried = []
    while (found := _holder(workers))[0].name != "gpu3":
        worker, attempt = found
        tried.append(worker.name)
        worker.fails(worker.starts(attempt), "too_large")
    assert set(tried) <= {"gpu1", "gpu2"}
    worker, attempt = found
    worker.draws(worker.starts(attempt))
    assert client.pictures == [0]
    assert not farm.rows(CeilingsRow)


def test_where_no_owner_allows_more_the_image_fails_with_what_the_last_one_said(farm):
    client, workers = Client(farm), _upscalers(farm, 200, 200)
    _enlarges(client)
    worker, attempt = _holder(workers)
    worker.fails(worker.starts(attempt), "too_large")
    assert _failure(client).code == "too_large"


def test_too_large_is_final_where_the_size_is_known_or_the_owner_has_no_limit(farm):
    client, workers = Client(farm), _upscalers(farm, 0, 0)
    _enlarges(client)
    worker, attempt = _holder(workers)
    worker.fails(worker.starts(attempt), "too_large")
    assert _failure(client).code == "too_large"
    client.submits(2)
    worker, attempt = _holder(workers)
    worker.fails(worker.starts(attempt), "too_large")
    assert client.last(wire.Finished).state == "failed"


def test_an_upscale_without_memory_bars_no_other_upscale(farm):
    """Its size is nowhere in the petition: a camera's picture must not bar every icon."""
    client, workers = Client(farm), _upscalers(farm, 0)
    _enlarges(client)
    assert _runs_out(workers) == "gpu1"
    assert _failure(client).code == "out_of_memory"
    _enlarges(client, 2, b"a small one")
    worker, attempt = _holder(workers)
    assert attempt.id == petition_id(2)
    worker.draws(worker.starts(attempt))
    assert client.pictures == [0]


def test_a_limit_on_drawn_pixels_is_none_on_given_pictures(farm):
    client, workers = Client(farm), _upscalers(farm, 100)
    _enlarges(client)
    worker, attempt = _holder(workers)
    worker.draws(worker.starts(attempt))
    assert client.pictures == [0]


def test_an_upscale_takes_the_place_of_no_context(farm):
    client, (worker,) = Client(farm), _upscalers(farm, 0)
    client.submits(1)
    worker.draws(worker.starts())
    contexts = farm.manager.state.roster.by_instance[worker.instance].contexts
    assert contexts
    _enlarges(client, 2)
    worker.starts()
    assert farm.manager.state.roster.by_instance[worker.instance].contexts == contexts


def test_an_upscale_is_not_decoded_in_tiles(farm):
    client, workers = Client(farm), _upscalers(farm, 0)
    _enlarges(client, on_oom="tile")
    _runs_out(workers)
    assert _grant(workers[0]).relief == "offload"


def test_who_may_be_drawn_with_less_does_not_wait_behind_who_may_not(farm):
    """Equal but for --on-oom, and the first one waits for a larger worker that is away."""
    client, small, large = Client(farm), Worker(farm, "small"), Worker(farm, "large")
    client.submits(1)
    first, attempt = _holder([small, large])
    assert first is small
    small.fails(small.starts(attempt), "out_of_memory")
    second, attempt = _holder([small, large])
    second.draws(second.starts(attempt))
    large.says(wire.Goodbye(reason="home"))
    client.submits(2, on_oom="retry")
    client.submits(3, on_oom="tile")
    assert _grant(small).relief == "tile"
    assert _grant(small).attempts[0].id == petition_id(3)


def test_an_engine_that_was_killed_before_it_began_teaches_nothing(farm):
    client, (worker,) = Client(farm), _workers(farm, 1)
    client.submits()
    worker.fails(worker.attempts[-1], "out_of_memory", error=KILLED, started=False)
    assert not farm.rows(CeilingsRow)
    worker.draws(worker.starts())
    assert client.pictures == [0]
