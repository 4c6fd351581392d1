"""Workers that keep several contexts, as the manager sees them."""

import pytest

from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from tests.support.farm import MODEL, Client, Farm, Worker

FILES = (
    MODEL,
    ModelFile("stable-diffusion", "other.safetensors", 1),
    ModelFile("stable-diffusion", "third.safetensors", 2),
)


@pytest.fixture
def farm() -> Farm:
    return Farm()


def join(farm: Farm, name: str, keep: int = 2) -> Worker:
    worker = Worker(farm, name, files=FILES)
    worker.hello(declared=wire.Declared(keep=keep))
    return worker


def holds(worker: Worker, *models: str, state: str = "idle") -> None:
    """The worker tells what is loaded, the last used first."""
    kept = tuple(wire.Kept("", f"{model}.safetensors") for model in models[1:])
    loaded = f"{models[0]}.safetensors" if models else ""
    worker.says(wire.EngineState(state=state, loaded=loaded, kept=kept))  # type: ignore[arg-type]


def has(farm: Farm, name: str) -> int:
    """How many contexts the manager thinks are loaded."""
    return len(next(one for one in farm.manager.state.roster if one.name == name).contexts)


def test_a_model_that_is_kept_beside_another_draws_its_petitions(farm):
    client = Client(farm)
    cold, warm = join(farm, "gpu1"), join(farm, "gpu2")
    holds(cold, "third")
    holds(warm, "other", "tiny")
    client.submits()
    assert (len(cold.attempts), len(warm.attempts)) == (0, 1)


def test_lists_show_all_that_is_loaded(farm):
    client, worker = Client(farm), join(farm, "gpu1")
    holds(worker, "other", "tiny")
    client.says(wire.Ask(number=1, what="workers"))
    (facts,) = client.last(wire.Answer).workers
    assert (facts.loaded, facts.kept) == ("other.safetensors", ("tiny.safetensors",))
    assert facts.declared.keep == 2


def test_digests_that_mean_the_same_to_the_manager_count_once(farm):
    worker = join(farm, "gpu1")
    kept = (wire.Kept("x", "tiny.safetensors"), wire.Kept("y", ""))
    worker.says(wire.EngineState(state="idle", loaded="tiny.safetensors", kept=kept))
    assert has(farm, "gpu1") == 1


def test_while_a_model_is_loaded_what_was_foreseen_stands(farm):
    client, worker = Client(farm), join(farm, "gpu1")
    holds(worker, "third", "tiny")
    client.submits(1, model="other")
    worker.starts()
    # The engine has freed one already; the load will come.
    holds(worker, "third", state="loading")
    assert has(farm, "gpu1") == 2
    holds(worker, "other", state="drawing")
    assert has(farm, "gpu1") == 1


def test_what_begins_is_taken_to_be_loaded_for_the_least_lately_used(farm):
    client, worker = Client(farm), join(farm, "gpu1")
    holds(worker, "third", "other")
    client.submits(1)
    worker.starts()
    worker.draws(worker.attempts[-1])
    assert has(farm, "gpu1") == 2
    cold = join(farm, "gpu2")
    holds(cold, "other")
    # gpu1 has tiny and third now; other is where it was loaded before.
    client.submits(2, model="other")
    client.submits(3, model="third")
    assert len(cold.attempts) == 1
    assert int(worker.attempts[-1].id, 16) == 3


def test_a_death_of_the_engine_takes_all(farm):
    client, worker = Client(farm), join(farm, "gpu1")
    holds(worker, "tiny", "other")
    client.submits(1)
    worker.starts()
    worker.fails(worker.attempts[-1], "engine_crashed")
    assert has(farm, "gpu1") == 0


def test_a_worker_of_an_older_version_keeps_one(farm):
    client, worker = Client(farm), Worker(farm, files=FILES)
    holds(worker, "tiny")
    client.submits(1, model="other")
    worker.starts()
    assert has(farm, "gpu1") == 1
