"""Several images in one call of the engine: real processes on the scripted engine."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from sdistrib.protocol import messages as wire
from sdistrib.testing.scripted_engine import picture
from tests.support.fake_manager import FakeManager, WorkerProcess, alive, attempt, fake_manager
from tests.support.scripted_farm import Farm, drawn

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def manager() -> Iterator[FakeManager]:
    """A manager that is there."""
    with fake_manager() as made:
        yield made


@pytest.fixture
def worker(manager: FakeManager, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that said hello, whose engine writes down what it begins."""
    model = tmp_path / "models" / "Stable-diffusion" / "tiny.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"tiny")
    arguments = [manager.host, str(tmp_path / "models"), "--name", "box", "--patience", "0.008"]
    noted = {"SDISTRIB_SCRIPTED_LOG": str(tmp_path / "engines.jsonl")}
    made = WorkerProcess(arguments, tmp_path, noted)
    try:
        manager.until(wire.WorkerHello)
        yield made
    finally:
        made.close()


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """A durable manager."""
    with closing(Farm(tmp_path)) as made:
        yield made


def begun(folder: Path) -> list[tuple[int, int]]:
    """Seeds in the order in which engines began them, each with the images of its call."""
    lines = (folder / "engines.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [(one["seed"], one["call"]) for one in events if one["event"] == "begun"]


def answers(manager: FakeManager, count: int) -> dict[wire.Attempt, wire.Result | wire.Failed]:
    """What so many attempts come to; each picture is what it is when it is drawn alone."""
    found: dict[wire.Attempt, wire.Result | wire.Failed] = {}
    while len(found) < count:
        answer = manager.until(wire.Message, lambda one: isinstance(one, wire.Result | wire.Failed))
        assert isinstance(answer, wire.Result | wire.Failed)
        assert answer.attempt not in found
        found[answer.attempt] = answer
        if isinstance(answer, wire.Result):
            pixels = Image.open(BytesIO(bytes(manager.body))).tobytes()
            assert answer.seed == 50 + answer.attempt.index
            assert pixels == picture("a house", answer.seed, 64, 64)
            manager.say(wire.ResultRecorded(attempt=answer.attempt))
    return found


def test_quick_images_share_a_call_and_leave_one_by_one(
    manager: FakeManager, worker: WorkerProcess, tmp_path: Path
) -> None:
    manager.grant(*(attempt(index) for index in range(6)), seed=50)
    assert {type(answer) for answer in answers(manager, 6).values()} == {wire.Result}
    assert begun(tmp_path) == [(50, 1), *((seed, 5) for seed in range(51, 56))]


@pytest.mark.parametrize(
    ("directive", "code", "dies"),
    [
        ("!segv@53", "engine_crashed", True),
        ("!hang@53", "engine_hung", True),
        ("!garbage@53", "engine_crashed", True),
        ("!half@53", "engine_crashed", True),
        ("!decline=engine_error@53", "engine_error", False),
    ],
)
def test_an_end_at_image_k_of_a_call_costs_that_image_one_attempt(
    manager: FakeManager, worker: WorkerProcess, tmp_path: Path, directive: str, code: str,
    dies: bool,
) -> None:  # fmt: skip
    engine = worker.engine()
    manager.grant(*(attempt(index) for index in range(6)), seed=50, prompt=f"a house {directive}")
    found = answers(manager, 6)
    (failed,) = [answer for answer in found.values() if isinstance(answer, wire.Failed)]
    assert (failed.attempt, failed.error.code, failed.started) == (attempt(3), code, True)
    if code == "engine_crashed" and directive != "!half@53":
        # Its own last words, not those of its neighbours.
        words = "\n".join(failed.error.log_tail)
        assert "drawing the image of seed 53" in words
        assert "seed 52" not in words
    assert alive(engine) is not dies
    assert worker.process.poll() is None
    # Half a picture comes behind the whole ones before it, which are not drawn again.
    again = (4, 5) if directive == "!half@53" else (1, 2, 4, 5)
    first, *rest = begun(tmp_path)
    assert first == (50, 1)
    assert rest[0] == (51, 5)
    assert [one for one in rest if one[1] == 1] == [(50 + index, 1) for index in again]


def test_the_same_image_again_is_the_managers_to_decide(
    manager: FakeManager, worker: WorkerProcess, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    prompt = f"a house !once={once}@52 !segv@52"
    manager.grant(*(attempt(index) for index in range(4)), seed=50, prompt=prompt)
    found = answers(manager, 4)
    assert isinstance(found[attempt(2)], wire.Failed)
    manager.grant(attempt(2, number=2), seed=50, prompt=prompt)
    assert isinstance(answers(manager, 1)[attempt(2, number=2)], wire.Result)


def test_a_poisonous_image_ends_two_engines_and_its_neighbours_are_drawn(
    farm: Farm, tmp_path: Path
) -> None:
    for name in ("left", "right"):
        farm.join(name, SDISTRIB_SCRIPTED_IMAGE_S="0.02")
    client = farm.wish(40, "out.png", "-p", "a house !segv@7")
    client.ends()
    assert "quarantined" in client.output + client.errors
    assert sorted(drawn(client)) == [index for index in range(40) if index != 7]
    counts = Counter(seed for seed, _ in begun(tmp_path))
    assert counts.pop(7) == 2
    # A neighbour is begun again by what spoilt its call, and that can be only once.
    assert max(counts.values()) <= 2
    assert max(call for _, call in begun(tmp_path)) > 1


def test_a_cancel_waits_for_no_more_than_its_call(
    manager: FakeManager, worker: WorkerProcess
) -> None:
    manager.grant(*(attempt(index) for index in range(4)), seed=50, prompt="a house !sleep=0.3")
    manager.until(wire.Started, lambda message: message.attempt == attempt(2))
    for index in (1, 3):
        manager.say(wire.Abandon(attempt=attempt(index)))
    manager.say(wire.Revoke(attempt=attempt(2)))
    assert manager.until(wire.TooLate).attempt == attempt(2)
    assert set(answers(manager, 1)) == {attempt(2)}
    manager.grant(attempt(4), seed=50)
    assert set(answers(manager, 1)) == {attempt(4)}
