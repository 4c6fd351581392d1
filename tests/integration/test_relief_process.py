"""Engines out of memory, between real processes: who is tried, how, and what a restart forgets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Process
from tests.support.scripted_farm import Farm

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    running = Farm(tmp_path)
    try:
        yield running
    finally:
        running.close()


def _asks(farm: Farm, need: str, *words: str) -> Process:
    """A client whose image has no room unless it is drawn so."""
    return farm.draw(
        "-m", "tiny", "-p", f"a lighthouse {need}", "-W", "64", "-H", "64", "--steps", "4",
        "-o", str(farm.folder / "out.png"), "--json", *words,
    )  # fmt: skip


def _event(client: Process, kind: str) -> dict[str, Any]:
    return next(event for event in client.events if event["event"] == kind)


@pytest.mark.parametrize("how", ["oom", "oom_abort"])
@pytest.mark.parametrize(
    ("need", "words"),
    [("tile", "VAE tiling"), ("offload", "VAE tiling and offloaded weights")],
)
def test_the_ladder_is_climbed_until_it_fits(farm: Farm, how: str, need: str, words: str) -> None:
    farm.join("box1")
    client = _asks(farm, f"!{how}={need}", "--on-oom", "tile")
    assert client.popen.returncode == 0, client.output + farm.manager.errors
    note = f"drawn with {words} after running out of memory on box1"
    assert _event(client, "image")["notes"] == [note]
    assert farm.manager.errors.count("on box1: out_of_memory") == (1 if need == "tile" else 2)


@pytest.mark.parametrize(("words", "tries"), [((), 2), (("--on-oom", "fail"), 1)])
def test_without_leave_the_pixels_stay_what_they_are(
    farm: Farm, words: tuple[str, ...], tries: int
) -> None:
    farm.join("box1")
    farm.join("box2")
    client = _asks(farm, "!oom=tile", *words)
    assert client.popen.returncode == 5
    assert _event(client, "error")["code"] == "out_of_memory"
    assert "--vae-tiling" in _event(client, "error")["next_step"]
    assert farm.manager.errors.count(": out_of_memory") == tries + 1  # the last is the image's end


def test_a_restarted_manager_tries_nothing_again(farm: Farm) -> None:
    worker = farm.join("box1", "--max-pixels", "9000000")
    assert _asks(farm, "!oom=tile").popen.returncode == 5
    farm.manager.close()
    farm.start_manager("--state", str(farm.folder / "state"))
    farm.manager.says("worker box1 joins")
    # The same size, drawn at once as it fits.
    client = _asks(farm, "!oom=tile", "--on-oom", "tile")
    assert client.popen.returncode == 0, client.output
    assert "out_of_memory" not in farm.manager.errors
    # With other settings it has its chance again.
    worker.close()
    farm.join("box1", "--max-pixels", "8000000")
    assert _asks(farm, "").popen.returncode == 0
