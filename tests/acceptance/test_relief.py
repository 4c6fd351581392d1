"""Real engines that run out of memory, or fall silent: the image is cured, and says how."""

import os
import resource
import signal
from pathlib import Path

import pytest
from PIL import Image

from sdistrib.infotext import parse_chunk
from tests.acceptance.test_pictures import _children, _direct, _pixels, _step
from tests.support.cluster import Cluster, cluster, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.process, pytest.mark.timeout(240)]

#: Four tiles, and few enough pixels for a busy machine.
SIDE = 384
LARGE = {"width": SIDE, "height": SIDE, "steps": 1, "cfg_scale": 1}
LARGE_WORDS = ("-W", str(SIDE), "-H", str(SIDE), "--steps", "1", "--cfg-scale", "1")
#: Room for so many pixels decoded in tiles (104 MiB), and not at once (234 MiB).
SPARE_BYTES = 170 * 2**20


@pytest.fixture(autouse=True)
def _one_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that allocates at a bad moment gets an arena of its own: 64 MiB of what is left."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")


def _warm_and_confined(
    farm: Cluster,
    models: Path,
    tmp_path: Path,
    name: str,
    *words: str,
    spare_bytes: int = SPARE_BYTES,
) -> None:
    """A worker whose engine has its model loaded (with `words`) and no more room than that."""
    worker = farm.worker(models, "--name", name, "--threads", "1")
    first = farm.draw(
        "-m", "tiny", "-p", "x", "-W", "64", "-H", "64", "--steps", "1", "--cfg-scale", "1",
        *words, "-o", str(tmp_path / f"first-{name}.png"),
    )  # fmt: skip
    assert first.ends() == 0, first.errors
    (engine,) = _children(worker.pid)
    pages = int(Path(f"/proc/{engine}/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + spare_bytes
    resource.prlimit(engine, resource.RLIMIT_AS, (most, most))


def test_an_image_without_room_is_drawn_in_tiles_where_that_is_allowed(models_dir, tmp_path):
    out = tmp_path / "output.png"
    words = ("-m", "tiny", "-p", "x", *LARGE_WORDS, "-s", "7", "-o", str(out), "--json")
    with cluster() as farm:
        _warm_and_confined(farm, models_dir, tmp_path, "box1")
        refused = farm.draw(*words)
        assert refused.ends() == 5
        (error,) = [event for event in refused.events if event["event"] == "error"]
        assert error["code"] == "out_of_memory"
        client = farm.draw(*words, "--on-oom", "tile")
        assert client.ends() == 0, client.errors
    (image,) = [event for event in client.events if event["event"] == "image"]
    assert image["notes"] == ["drawn with VAE tiling after running out of memory on box1"]
    # It is the picture of a single run with tiles, and names them.
    wanted = _direct(models_dir, tmp_path / "direct", 7, 1, prompt="x", vae_tiling=True, **LARGE)
    assert [_pixels(out)] == wanted
    with Image.open(out) as picture:
        assert parse_chunk(picture.info["sdistrib"]).params.vae_tiling


def test_an_image_without_room_goes_to_a_worker_that_has_it(models_dir, tmp_path):
    out = tmp_path / "output.png"
    words = ("-m", "tiny", "-p", "x", *LARGE_WORDS, "-s", "7", "-o", str(out), "--json")
    with cluster() as farm:
        _warm_and_confined(farm, models_dir, tmp_path, "box1")
        client = farm.client(*words, "--priority", "high")
        farm.manager.says("on box1: out_of_memory")
        client.ends()
        farm.worker(models_dir, "--name", "box2", "--threads", "1")
        again = farm.draw(*words)
        assert again.ends() == 0, again.errors
    (image,) = [event for event in again.events if event["event"] == "image"]
    assert image["worker"] == "box2"
    assert not image.get("notes")
    wanted = _direct(models_dir, tmp_path / "direct", 7, 1, prompt="x", **LARGE)
    assert [_pixels(out)] == wanted


def test_an_engine_that_is_alive_and_silent_is_ended_and_its_image_drawn_elsewhere(
    models_dir, tmp_path
):
    out = tmp_path / "output.png"
    size = {"width": 256, "height": 256, "steps": 20, "cfg_scale": 1}
    with cluster() as farm:
        # A twentieth of the usual patience: three seconds of silence in a step.
        worker = farm.worker(models_dir, "--name", "box1", "--threads", "1", "--patience", "0.05")
        client = farm.client(
            "-m", "tiny", "-p", "x", "-W", "256", "-H", "256", "--steps", "20", "--cfg-scale", "1",
            "-s", "7", "-o", str(out), "--no-hedge", "--json",
        )  # fmt: skip
        wait_for(lambda: any(_step(event) >= 2 for event in client.events), "a step")
        (engine,) = _children(worker.pid)
        os.kill(engine, signal.SIGSTOP)
        farm.worker(models_dir, "--name", "box2", "--threads", "1")
        assert "silent for" in worker.says("Ending the engine")
        farm.manager.says("on box1: engine_hung SIGKILL")
        assert client.ends() == 0, client.errors
        wait_for(lambda: not Path(f"/proc/{engine}").exists(), "the engine's end")
    (image,) = [event for event in client.events if event["event"] == "image"]
    assert image["worker"] == "box2"
    wanted = _direct(models_dir, tmp_path / "direct", 7, 1, prompt="x", **size)
    assert [_pixels(out)] == wanted
