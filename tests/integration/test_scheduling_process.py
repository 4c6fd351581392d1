"""Unequal workers, one petition: real processes on scripted engines of different speed."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.cluster import wait_for
from tests.support.scripted_farm import Farm, drawn

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

#: Seconds per image of a scripted engine.
SPEED = "SDISTRIB_SCRIPTED_IMAGE_S"


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    running = Farm(tmp_path)
    try:
        yield running
    finally:
        running.close()


def pixels(farm: Farm, stem: str, images: int) -> list[bytes]:
    """The pictures of a petition, without what the files say of who drew them."""
    found = []
    for index in range(images):
        with Image.open(farm.folder / f"{stem}_{index}.png") as picture:
            found.append(picture.convert("RGB").tobytes())
    return found


def once_slow(farm: Farm, seed: int, seconds: float) -> str:
    """A prompt of which one image takes so long, the first time that it is tried."""
    return f"a lighthouse !sleep={seconds}@{seed} !once={farm.folder / 'once'}@{seed}"


def test_a_batch_on_three_workers_of_which_one_is_killed_has_the_pixels_of_one(farm):
    victim = farm.join("fast", **{SPEED: "0.1"})
    farm.join("middle", **{SPEED: "0.3"})
    farm.join("slow", **{SPEED: "0.6"})
    client = farm.wish(8, "three.png")
    wait_for(lambda: drawn(client), "a picture")
    victim.signals(signal.SIGKILL)
    assert client.ends() == 0
    assert sorted(drawn(client)) == list(range(8))
    assert drawn(client, "middle")
    farm.does("pause", "slow")
    client = farm.wish(8, "one.png")
    assert client.ends() == 0
    assert len(drawn(client, "middle")) == 8
    assert pixels(farm, "three", 8) == pixels(farm, "one", 8)


def test_a_slow_worker_gets_nothing_that_the_fast_one_finishes_sooner(farm):
    farm.join("fast", **{SPEED: "0.05"})
    farm.join("slow", **{SPEED: "5"})
    for idle, busy in (("slow", "fast"), ("fast", "slow")):
        farm.does("pause", idle)
        client = farm.wish(1, f"{busy}.png")
        assert client.ends() == 0
        assert drawn(client, busy) == [0]
        farm.does("resume", idle)
    client = farm.wish(4, "four.png", "-s", "100")
    assert client.ends() == 0
    assert sorted(drawn(client, "fast")) == [0, 1, 2, 3]
    assert all(farm.begun()[seed] == 1 for seed in range(100, 104))


def test_an_idle_worker_races_one_that_becomes_slow_and_the_first_picture_counts(farm):
    farm.join("left", **{SPEED: "0.2"})
    farm.join("right", **{SPEED: "0.2"})
    assert farm.wish(4, "before.png").ends() == 0
    client = farm.wish(4, "raced.png", "-s", "100", "-p", once_slow(farm, 102, 600.0))
    assert client.ends() == 0
    assert sorted(drawn(client)) == [0, 1, 2, 3]
    assert farm.begun()[102] == 2
    # Whoever lost has given it up: both draw again.
    for name in ("left", "right"):
        wait_for(lambda name=name: farm.state(name)["state"] == "idle", f"{name} to be idle")
    client = farm.wish(4, "plain.png", "-s", "100")
    assert client.ends() == 0
    assert pixels(farm, "raced", 4) == pixels(farm, "plain", 4)


def test_without_races_every_image_is_begun_once(farm):
    farm.join("left", **{SPEED: "0.2"})
    farm.join("right", **{SPEED: "0.2"})
    assert farm.wish(4, "before.png").ends() == 0
    prompt = once_slow(farm, 102, 6.0)
    client = farm.wish(4, "alone.png", "-s", "100", "-p", prompt, "--no-hedge")
    assert client.ends() == 0
    assert sorted(drawn(client)) == [0, 1, 2, 3]
    assert all(farm.begun()[seed] == 1 for seed in range(100, 104))


def test_a_high_priority_passes_a_low_one(farm):
    farm.join("box")
    low = farm.wish(60, "low.png", "--priority", "low")
    wait_for(lambda: drawn(low), "a picture of the low one")
    high = farm.wish(2, "high.png", "--priority", "high")
    assert high.ends() == 0
    assert len(drawn(low)) < 60
    assert low.popen.poll() is None
    low.signals(signal.SIGINT)
    low.ends()
