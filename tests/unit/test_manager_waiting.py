"""Why petitions wait, and for whom."""

import pytest

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_inventory, encode_petition
from sdistrib_manager.rows import ForgetWorker
from sdistrib_manager.waiting import why_waiting
from tests.support.farm import MODEL, Client, Farm, Worker, petition, petition_id
from tests.support.planning import BOTH, ask, drew, plan, stands, two_speeds


@pytest.fixture
def farm() -> Farm:
    return Farm()


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
