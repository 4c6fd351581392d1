"""How the manager carries out what its scheduler decides: files, limits, races, what is kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_inventory
from sdistrib_manager.rows import CostRow, ForgetCost, PinRow
from sdistrib_manager.scheduler import costs as costs_module
from sdistrib_manager.scheduler.outlook import HOLD_MAX
from sdistrib_manager.store.sqlite import SqliteStore
from tests.support.farm import MODEL, Client, Farm, Worker, petition_id

#: Another file under the same name.
FALSE = ModelFile("stable-diffusion", "tiny.safetensors", 15_000_000, "b" * 64)
#: The same name and size, its digest not known yet.
UNREAD = ModelFile("stable-diffusion", "tiny.safetensors", 14_000_000, "")
CUDA = wire.EngineFacts(version="0.4.7", backend="cuda", device="test", fingerprint="e" * 16)


@pytest.fixture
def farm() -> Farm:
    return Farm()


def _reason(farm: Farm, client: Client, pid: str, *alive: Worker) -> str:
    farm.wait(2, client, *alive)
    client.says(wire.ProgressSeen(id=pid))
    farm.wait(1, client, *alive)
    return str(client.last(wire.Progress).reason)


def _draw(worker: Worker, **more: Any) -> wire.Attempt:
    """Draw the first image in the worker's hands."""
    recorded = {done.attempt for done in worker.got(wire.ResultRecorded)}
    over = recorded | {one.attempt for one in worker.got(wire.Revoke)}
    over |= {one.attempt for one in worker.got(wire.Abandon)}
    attempt = next(one for one in worker.attempts if one not in over)
    worker.starts(attempt)
    worker.draws(attempt, **more)
    return attempt


# --- the same files for all images --------------------------------------------------------------


@pytest.mark.parametrize("other", [FALSE, ModelFile("stable-diffusion", MODEL.name, 13, "")])
def test_all_images_of_a_petition_are_drawn_from_the_same_files(farm, other):
    client, first = Client(farm), Worker(farm)
    client.submits(images=9)
    second = Worker(farm, "gpu2", (other,))
    third = Worker(farm, "gpu3")
    assert not second.attempts
    contents = (("a" * 64, 14_000_000),)
    assert farm.rows(PinRow) == [PinRow(id=petition_id(1), contents=contents, first="f" * 16)]
    for _ in range(3):
        _draw(first)
    assert third.attempts or first.got(wire.Revoke)
    assert not second.attempts
    # Another petition may begin on the other file.
    client.submits(2, images=30)
    assert {one.id for one in second.attempts} == {petition_id(2)}


def test_a_file_that_was_not_read_yet_is_the_same_when_its_size_is(farm):
    client, first = Client(farm), Worker(farm)
    client.submits(images=30)
    first.starts(first.attempts[0])
    second = Worker(farm, "gpu2", (UNREAD,))
    assert second.attempts


def test_a_petition_begun_waits_for_its_file_and_says_so(farm):
    client, first = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    second = Worker(farm, "gpu2", (FALSE,))
    first.says(wire.Goodbye())
    assert not second.attempts
    assert "only on gpu1, last seen" in _reason(farm, client, pid, second)
    first.files = (FALSE,)
    first.restarts()
    assert "not those that the petition began with" in _reason(farm, client, pid, first, second)
    back = Worker(farm, "gpu4")
    assert len(back.attempts) == 2


def test_a_pin_survives_a_restart(farm):
    client, first = Client(farm), Worker(farm)
    client.submits(images=2)
    _draw(first)
    farm.restart()
    farm.wait(limits.RESTART_GRACE_S + 1)
    second = Worker(farm, "gpu2", (FALSE,))
    assert not second.attempts
    assert Worker(farm, "gpu3").attempts


def test_a_file_that_becomes_another_one_is_not_drawn_from(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(images=9)
    worker.files = (FALSE,)
    worker.says(wire.Inventory(), _inventory(FALSE))
    before = len(worker.attempts)
    _draw(worker)
    assert len(worker.attempts) == before


def _inventory(*files: ModelFile) -> bytes:
    return encode_inventory(files)


def test_one_name_for_two_files_is_warned_of_once_for_each_pair_and_listed(farm):
    client = Client(farm)
    Worker(farm)
    assert not any("another file" in line for line in farm.logs)
    second = Worker(farm, "gpu2", (FALSE,))
    Worker(farm, "gpu3", (UNREAD,))
    second.says(wire.Inventory(), _inventory(FALSE))
    second.reconnects()
    warned = [line for line in farm.logs if "another file" in line]
    assert [("gpu1 " in line, "gpu3" in line) for line in warned] == [(True, False), (False, True)]
    assert all("'tiny.safetensors'" in line and "gpu2" in line for line in warned)
    client.says(wire.Ask(number=1, what="models"))
    models = client.last(wire.Answer).models
    assert [model.conflict for model in models] == [True] * len(models)
    assert len(models) > 1


def test_a_conflict_that_comes_with_a_later_inventory_is_warned_of(farm):
    Worker(farm)
    second = Worker(farm, "gpu2", (UNREAD,))
    assert not any("another file" in line for line in farm.logs)
    same_size = ModelFile(MODEL.kind, MODEL.name, MODEL.size_bytes, "b" * 64)
    second.says(wire.Inventory(), _inventory(same_size))
    assert sum("another file" in line for line in farm.logs) == 1


# --- the same engine, when asked for ------------------------------------------------------------


def test_exact_stays_on_one_fingerprint_and_says_so_while_it_waits(farm):
    client, first = Client(farm), Worker(farm)
    pid = client.submits(images=4, exact=True)
    other = Worker(farm, "gpu2", engine=CUDA)
    like = Worker(farm, "gpu3")
    _draw(first)
    assert not other.attempts
    assert farm.rows(PinRow)[0].fingerprint == "f" * 16
    first.says(wire.Goodbye())
    assert like.attempts
    like.says(wire.Goodbye())
    assert "only on gpu" in _reason(farm, client, pid, other)
    for one in (first, like):
        one.restarts(engine=CUDA)
    told = _reason(farm, client, pid, first, like, other)
    assert told == f"it keeps to engines of fingerprint {'f' * 16} (--exact), and none is known now"
    assert not other.attempts
    assert Worker(farm, "gpu4").attempts


@pytest.mark.parametrize("timeout_s", [0.0, 90.0])
def test_exact_waits_for_its_engine_until_its_own_time_limit(timeout_s):
    farm = Farm(no_worker_timeout_s=5)
    client, first = Client(farm), Worker(farm)
    pid = client.submits(images=2, exact=True, timeout_s=timeout_s)
    first.restarts(engine=CUDA)
    farm.wait(60, client, first)
    assert "--exact" in _reason(farm, client, pid, first)
    assert not client.got(wire.Finished)
    farm.wait(40, client, first)
    assert bool(client.got(wire.Finished)) == bool(timeout_s)
    # Without its files nobody can draw it whatever the engine is.
    first.says(wire.Inventory(), _inventory())
    farm.wait(10, client, first)
    code = client.last(wire.Finished).failures[0].error.code if not timeout_s else None
    assert code in (None, "no_capable_worker")


def test_a_petition_remembers_over_a_restart_what_its_first_image_was_granted_to(farm):
    client, first = Client(farm), Worker(farm)
    pid = client.submits(images=4)
    _draw(first)
    farm.restart()
    assert farm.manager.state.queue.entries[pid].job.prefers == "f" * 16


def test_without_exact_any_engine_will_do(farm):
    client, first = Client(farm), Worker(farm)
    client.submits(images=4)
    other = Worker(farm, "gpu2", engine=CUDA)
    first.says(wire.Goodbye())
    assert other.attempts


def test_an_exact_petition_waits_over_a_restart_for_a_worker_it_does_not_know_the_engine_of():
    farm = Farm(no_worker_timeout_s=5)
    client, first = Client(farm), Worker(farm)
    pid = client.submits(images=2, exact=True)
    _draw(first)
    farm.restart()
    farm.wait(limits.RESTART_GRACE_S + 20)
    assert farm.manager.state.queue.entries[pid].state != "failed"
    again = Worker(farm, "gpu1")
    assert again.attempts


def test_a_failed_image_of_an_exact_petition_is_tried_again_where_it_may_be(farm):
    client, first = Client(farm), Worker(farm)
    pid = client.submits(exact=True)
    Worker(farm, "gpu2", engine=CUDA)
    first.starts()
    # Nobody else may draw it: the same worker tries again, rather than nobody.
    first.fails(first.attempts[-1], "engine_crashed")
    assert [one.number for one in first.attempts] == [1, 2]
    first.fails(first.starts(), "engine_error")
    assert farm.manager.state.queue.entries[pid].state == "failed"


# --- room ---------------------------------------------------------------------------------------


def test_a_worker_gets_nothing_larger_than_its_owner_allows(farm):
    client = Client(farm)
    small = Worker(farm, declared=wire.Declared(max_pixels=512 * 512))
    client.submits(1, width=512, height=512)
    # Somebody takes it, or it were refused; he is away.
    Worker(farm, "gpu3").says(wire.Goodbye())
    pid = client.submits(2, width=512, height=576)
    assert [one.id for one in small.attempts] == [petition_id(1)]
    assert f"more than the {512 * 512} it allows" in _reason(farm, client, pid, small)
    large = Worker(farm, "gpu2", declared=wire.Declared(max_pixels=512 * 576))
    assert petition_id(2) in {one.id for one in large.attempts}


def test_highres_fix_counts_with_its_last_size(farm):
    client = Client(farm)
    small = Worker(farm, declared=wire.Declared(max_pixels=512 * 512))
    client.submits(1, width=512, height=512, hires=True)
    assert not small.attempts


def _out_of_memory(farm: Farm, **about: Any) -> tuple[Client, Worker]:
    client, worker = Client(farm), Worker(farm, **about)
    client.submits(1, width=1024, height=1024)
    worker.fails(worker.starts(), "out_of_memory")
    return client, worker


def test_out_of_memory_lowers_the_ceiling_of_that_worker_and_context(farm):
    client, worker = _out_of_memory(farm)
    granted = len(worker.attempts)
    pid = client.submits(2, width=1024, height=1088)
    assert len(worker.attempts) == granted
    assert f"ran out of memory at {1024 * 1024} pixels" in _reason(farm, client, pid, worker)
    client.submits(3, width=1024, height=960)
    assert worker.attempts[-1].id == petition_id(3)
    other = Worker(farm, "gpu2")
    assert other.attempts[-1].id == petition_id(2)


DECLARED = wire.Declared(max_pixels=2048 * 2048)


@pytest.mark.parametrize(
    ("about", "forgotten"),
    [({}, False), ({"engine": CUDA}, True), ({"declared": wire.Declared(max_pixels=2**23)}, True)],
)
def test_a_ceiling_is_forgotten_when_the_worker_comes_back_with_other_settings(
    farm, about, forgotten
):
    client, worker = _out_of_memory(farm, declared=DECLARED)
    worker.restarts(**about)
    client.submits(2, width=1024, height=1024)
    assert (petition_id(2) in {one.id for one in worker.attempts}) is forgotten


@pytest.mark.parametrize("leases", [False, True])
def test_a_ceiling_is_known_of_a_process_that_was_killed(farm, leases):
    client, worker = _out_of_memory(farm, declared=DECLARED)
    if leases:
        client.submits(3)
        worker.starts()
    worker.breaks()
    worker.instance = "0" * 16
    worker.reconnects()
    client.submits(2, width=1024, height=1024)
    assert petition_id(2) not in {one.id for one in worker.attempts}


def test_the_same_process_with_another_engine_forgets_its_ceilings(farm):
    client, worker = _out_of_memory(farm)
    worker.breaks()
    worker.reconnects(engine=CUDA)
    client.submits(2, width=1024, height=1024)
    assert worker.attempts[-1].id == petition_id(2)


def test_a_petition_that_is_too_large_for_everybody_does_not_wait_for_ever():
    farm = Farm(no_worker_timeout_s=5)
    client, worker = _out_of_memory(farm)
    client.submits(2, width=1024, height=1024, images=3)
    farm.wait(8, client, worker)
    finished = client.last(wire.Finished)
    assert {one.error.code for one in finished.failures} == {"no_capable_worker"}
    assert "ran out of memory" in finished.failures[0].error.message


# --- races --------------------------------------------------------------------------------------


def _race(farm: Farm, **about: Any) -> tuple[Client, Worker, Worker]:
    """An image runs on a slow worker; a fast one with the model loaded becomes idle."""
    client, slow = Client(farm), Worker(farm)
    fast = Worker(farm, "gpu2")
    client.submits(1, images=2)
    for worker, draw_s in ((slow, 60.0), (fast, 1.0)):
        _draw(worker, draw_s=draw_s, sampling_s=draw_s)
    fast.says(wire.EngineState(state="draining", loaded=""))
    fast.says(wire.Standing(state="paused", reason="test"))
    client.submits(2, **about)
    slow.starts()
    fast.says(wire.Standing(state="open"))
    fast.says(wire.EngineState(state="idle", loaded="tiny.safetensors"))
    farm.wait(2, client, slow, fast)
    return client, slow, fast


def test_the_last_image_of_a_slow_worker_is_raced_and_the_first_picture_counts(farm):
    client, slow, fast = _race(farm)
    second = fast.attempts[-1]
    assert second == wire.Attempt(petition_id(2), 0, 2)
    fast.starts(second)
    # Nobody makes it three.
    Worker(farm, "gpu3")
    fast.draws(second)
    assert slow.last(wire.Abandon).attempt == wire.Attempt(petition_id(2), 0, 1)
    slow.draws(slow.attempts[-1])
    assert slow.got(wire.ResultRefused)
    client.sees(petition_id(2), 0)
    assert client.last(wire.Finished).done == (0,)
    assert sum(r.attempt.id == petition_id(2) for r in client.got(wire.Result)) == 1


def test_the_slow_one_may_win(farm):
    _, slow, fast = _race(farm)
    fast.starts()
    slow.draws(slow.attempts[-1])
    assert fast.last(wire.Abandon).attempt == fast.attempts[-1]


def test_no_hedge_no_race(farm):
    _, _, fast = _race(farm, hedge=False)
    assert petition_id(2) not in {one.id for one in fast.attempts}


def test_a_failed_racer_costs_nothing_while_the_other_is_at_it(farm):
    client, slow, fast = _race(farm)
    fast.fails(fast.starts(), "engine_crashed")
    image = farm.manager.state.queue.entries[petition_id(2)].images[0]
    assert image.state == "leased"
    farm.wait(3, client, slow, fast)
    # It failed once: it is not raced again.
    assert fast.attempts[-1].number == 2
    slow.draws(slow.attempts[-1])
    client.sees(petition_id(2), 0)
    assert client.last(wire.Finished).done == (0,)


def test_a_racer_that_vanishes_costs_nothing(farm):
    client, slow, fast = _race(farm)
    fast.starts()
    fast.says(wire.Goodbye())
    image = farm.manager.state.queue.entries[petition_id(2)].images[0]
    assert (image.state, image.losses, image.failures) == ("leased", 1, [])
    slow.draws(slow.attempts[-1])
    assert petition_id(2) in {r.attempt.id for r in client.got(wire.Result)}


def test_an_image_that_has_failed_is_never_raced(farm):
    client, slow, fast = _race(farm, hedge=False)
    fast.says(wire.Standing(state="paused", reason="test"))
    slow.fails(slow.attempts[-1], "engine_crashed")
    slow.starts()
    entry = farm.manager.state.queue.entries[petition_id(2)]
    entry.job.hedge = True
    fast.says(wire.Standing(state="open"))
    farm.wait(3, client, slow, fast)
    assert petition_id(2) not in {one.id for one in fast.attempts}


def test_nor_is_it_after_a_restart_and_two_attempts_are_the_most(farm):
    _, slow, fast = _race(farm)
    fast.starts()
    farm.restart()
    slow.reconnects(running=(slow.attempts[-1],))
    fast.reconnects(running=(fast.attempts[-1],))
    quick = Worker(farm, "gpu3")
    quick.says(wire.EngineState(state="idle", loaded="tiny.safetensors"))
    farm.wait(3, Client(farm, "new"), slow, fast, quick)
    assert not quick.attempts


# --- what the workers say of it -----------------------------------------------------------------


def test_quick_images_go_out_several_in_one_grant(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(1)
    _draw(worker, draw_s=0.01, sampling_s=0.01)
    client.submits(2, images=40)
    assert len(worker.last(wire.Grant).attempts) == HOLD_MAX
    assert {one.id for one in worker.last(wire.Grant).attempts} == {petition_id(2)}
    # Results leave one by one, and each makes room for another.
    first = _draw(worker, draw_s=0.01, sampling_s=0.01)
    assert first in [done.attempt for done in worker.got(wire.ResultRecorded)]
    assert len(worker.last(wire.Grant).attempts) == 1


def test_a_declared_batch_is_smaller_for_larger_pictures(farm):
    client = Client(farm)
    worker = Worker(farm, declared=wire.Declared(max_pixels=1024 * 1024, max_batch=8))
    held = {}
    for number, side in enumerate((256, 512, 768)):
        client.submits(2 * number + 1, width=side, height=side)
        _draw(worker, draw_s=0.01, sampling_s=0.01)
        pid = client.submits(2 * number + 2, width=side, height=side, images=40)
        held[side] = sum(one.id == pid for one in worker.attempts)
        client.says(wire.Cancel(id=pid))
    assert held == {256: 8, 512: 8, 768: 4}


def test_a_recall_that_crossed_the_beginning_changes_nothing(farm):
    client, busy = Client(farm), Worker(farm)
    client.submits(images=2)
    busy.starts(busy.attempts[0])
    Worker(farm, "gpu2")
    late = busy.last(wire.Revoke).attempt
    busy.draws(busy.attempts[0])
    busy.starts(late)
    farm.now += 3.0
    busy.says(wire.TooLate(attempt=late))
    worker = farm.manager.state.roster.at(busy.route)
    (lease,) = worker.holds
    assert (lease.attempt, lease.begun_at) == (late, farm.now - 3.0)


def test_a_recall_that_was_lost_with_the_connection_is_asked_for_again(farm):
    client, busy = Client(farm), Worker(farm)
    client.submits(images=2)
    busy.starts(busy.attempts[0])
    Worker(farm, "gpu2")
    # Nobody is asked twice in a second.
    farm.now += 1.0
    busy.reconnects(running=tuple(busy.attempts))
    assert busy.got(wire.Revoke)


# --- what was learned ---------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Farm]:
    farm = Farm()
    if request.param == "sqlite":
        farm.store = SqliteStore(tmp_path / "state.db")  # type: ignore[assignment]
    yield farm
    farm.store.close()


def _costs(farm: Farm, pid: str) -> list[float]:
    job = farm.manager.state.queue.entries[pid].job
    costs = farm.manager.state.scheduler.costs
    return [costs.image_s("gpu1", job), costs.load_s("gpu1", job), costs.image_s("gpu2", job)]


def test_costs_survive_a_restart_of_the_manager(durable: Farm) -> None:
    client, worker = Client(durable), Worker(durable)
    pid = client.submits(images=9)
    guessed = _costs(durable, pid)
    for number in range(7):
        _draw(worker, draw_s=3.0 + number, sampling_s=2.0 + number, load_s=7.0 if number else 9.0)
    learned = _costs(durable, pid)
    assert learned != guessed
    assert learned[:2] == [7.0, 7.0]
    durable.restart()
    assert _costs(durable, pid) == learned
    # Once more: nothing was lost by keeping it again.
    durable.restart()
    assert _costs(durable, pid) == learned


@pytest.mark.parametrize("told_by", ["result", "step"])
def test_what_the_scheduler_forgets_leaves_the_store(
    durable: Farm, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    client, worker = Client(durable), Worker(durable)
    client.submits(1)
    _draw(worker)
    (row,) = durable.store.load().costs
    monkeypatch.setattr(costs_module, "PAIRS_MAX", 1)
    client.submits(3, wtype="q8_0")
    attempt = worker.starts()
    if told_by == "step":
        worker.says(wire.Step(attempt=attempt, phase="sampling", step=1, steps=20, step_s=0.5))
    else:
        worker.draws(attempt)
    assert row not in durable.store.load().costs
    assert ForgetCost("gpu1", row.context) in durable.rows(ForgetCost)


def test_a_store_that_keeps_more_than_is_remembered_is_tidied_at_the_next_start(
    durable: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable.store.commit([CostRow(worker="gpu1", context=f"c{number}") for number in range(5)])
    monkeypatch.setattr(costs_module, "PAIRS_MAX", 3)
    durable.restart()
    client = Client(durable)
    client.submits()
    assert len(durable.store.load().costs) == 3


# --- so many at a time --------------------------------------------------------------------------


def test_a_client_has_n_images_in_workers_hands_and_no_more():
    farm = Farm(client_running_max=2)
    client, workers = Client(farm), [Worker(farm, f"gpu{n}") for n in range(3)]
    client.submits(1, images=5)
    assert sum(len(worker.attempts) for worker in workers) == 2
    # On the plain port each petition counts for itself.
    client.submits(2, images=5)
    assert sum(len(worker.attempts) for worker in workers) == 4
    first = next(worker for worker in workers if worker.attempts[:1])
    _draw(first)
    assert sum(len(worker.attempts) for worker in workers) == 5


def test_all_petitions_of_a_user_count_together_and_say_why_they_wait(monkeypatch):
    monkeypatch.setattr("sdistrib_manager.door.LOCAL", "ana")
    farm = Farm(client_running_max=2)
    client, workers = Client(farm), [Worker(farm, f"gpu{n}") for n in range(3)]
    client.submits(1, images=5)
    pid = client.submits(2, images=5)
    assert sum(len(worker.attempts) for worker in workers) == 2
    told = _reason(farm, client, pid, *workers)
    assert told == "its client has 2 images in workers' hands, as many as one may have"
