"""Unequal luck on the real engine: a worker dies under a batch, and the pictures are the same."""

import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.support.cluster import cluster, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.process, pytest.mark.timeout(240)]

IMAGES = 8
WISH = (
    "-m", "tiny", "-p", "a red house", "-W", "64", "-H", "64", "--steps", "8", "--cfg-scale", "3",
    "-b", str(IMAGES), "-s", "1000", "--json",
)  # fmt: skip


def _pixels(folder: Path) -> list[bytes]:
    found = []
    for index in range(IMAGES):
        with Image.open(folder / f"out_{index}.png") as picture:
            found.append(picture.convert("RGB").tobytes())
    return found


def test_eight_images_on_three_workers_of_which_one_is_killed_equal_those_of_one(
    models_dir, tmp_path
):
    for name in ("one", "three"):
        (tmp_path / name).mkdir()
    with cluster() as running:
        box = running.worker(models_dir, "--name", "box1", "--threads", "1")
        client = running.draw(*WISH, "-o", str(tmp_path / "one" / "out.png"))
        assert client.popen.returncode == 0, client.errors
        for name in ("box2", "box3"):
            running.worker(models_dir, "--name", name, "--threads", "1")
        client = running.client(*WISH, "-o", str(tmp_path / "three" / "out.png"))
        wait_for(
            lambda: [event for event in client.events if event["event"] == "image"], "a picture"
        )
        box.signals(signal.SIGKILL)
        assert client.ends() == 0, client.errors
    pictures = [event for event in client.events if event["event"] == "image"]
    assert sorted(event["index"] for event in pictures) == list(range(IMAGES))
    assert {event["worker"] for event in pictures} & {"box2", "box3"}
    assert _pixels(tmp_path / "three") == _pixels(tmp_path / "one")
