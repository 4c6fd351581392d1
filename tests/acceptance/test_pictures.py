"""Pictures through real managers, workers and clients on the real engine."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.cluster import Cluster, cluster, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.process, pytest.mark.timeout(180)]

SMALL = ("-W", "64", "-H", "64", "--steps", "2", "--cfg-scale", "1")


@pytest.fixture
def farm(models_dir: Path) -> Iterator[Cluster]:
    with cluster() as running:
        running.worker(models_dir, "--name", "box1", "--threads", "1")
        yield running


def _pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def _direct(models: Path, out: Path, seed: int, count: int, **params: object) -> list[bytes]:
    out.mkdir()
    words = [f"{key}={value}" for key, value in params.items()]
    model = str(models / "stable-diffusion" / "tiny.safetensors")
    script = str(Path(__file__).with_name("direct.py"))
    command = [sys.executable, script, model, str(out), str(seed), str(count), *words]
    subprocess.run(command, check=True, capture_output=True)
    return [(out / f"{number}.rgb").read_bytes() for number in range(seed, seed + count)]


def test_a_batch_through_two_workers_equals_single_direct_calls(farm, models_dir, tmp_path):
    farm.worker(models_dir, "--name", "box2", "--threads", "1")
    out = tmp_path / "output.png"
    client = farm.draw(
        "-m", "tiny", "-p", "a red house", "-n", "blue", "-W", "64", "-H", "64", "--steps", "4",
        "--cfg-scale", "3", "-b", "4", "-s", "1000", "-o", str(out), "--json",
    )  # fmt: skip
    assert client.ends() == 0, client.errors
    files = [tmp_path / f"output_{i}.png" for i in range(4)]
    wanted = _direct(
        models_dir, tmp_path / "direct", 1000, 4, prompt="a red house", negative_prompt="blue",
        width=64, height=64, steps=4, cfg_scale=3,
    )  # fmt: skip
    assert [_pixels(file) for file in files] == wanted
    pictures = [event for event in client.events if event["event"] == "image"]
    assert {event["seed"] for event in pictures} == {1000, 1001, 1002, 1003}
    assert {event["worker"] for event in pictures} == {"box1", "box2"}


def test_the_ancestors_own_command_writes_its_picture(models_dir, tmp_path):
    tree = tmp_path / "models"
    (tree / "Stable-diffusion").mkdir(parents=True)
    shutil.copy(
        models_dir / "stable-diffusion" / "tiny.safetensors",
        tree / "Stable-diffusion" / "768-v-ema.safetensors",
    )
    out = tmp_path / "output.png"
    # As its README writes it; only size and steps are lowered.
    command = (
        '-m "768-v-ema.safetensors" -p "a house in the beach" -n "deep fried" --steps 2 -H 64'
        f" -W 64 --vae-tiling --clip-on-cpu -o {out} --seed -1 --sampling-method 'dpm2'"
        " --guidance 4 --schedule exponential"
    )
    with cluster() as running:
        running.worker(tree, "--threads", "1")
        client = running.draw(*shlex.split(command))
        assert client.ends() == 0, client.errors
    with Image.open(out) as picture:
        text = picture.info["parameters"]
        assert picture.size == (64, 64)
    assert "Sampler: DPM2" in text
    assert "Schedule type: Exponential" in text
    assert "Negative prompt: deep fried" in text


def test_two_clients_at_once_get_their_own_pictures(farm, models_dir, tmp_path):
    clients = {
        seed: farm.client("-m", "tiny", "-p", "x", *SMALL, "-b", "2", "-s", str(seed), "-o",
                          str(tmp_path / f"{seed}.png"))
        for seed in (10, 500)
    }  # fmt: skip
    for seed, client in clients.items():
        assert client.ends() == 0, client.errors
        wanted = _direct(
            models_dir, tmp_path / f"d{seed}", seed, 2, prompt="x", width=64, height=64, steps=2,
            cfg_scale=1,
        )  # fmt: skip
        assert [_pixels(tmp_path / f"{seed}_{i}.png") for i in range(2)] == wanted


@pytest.mark.parametrize(
    ("words", "signal_name"),
    [
        (("--diffusion-model", "tiny-flux", "--vae", "tiny-vae"), "SIGSEGV"),
        (("-m", "abort-in-load"), "SIGABRT"),
        (("-m", "tiny", "--lora-apply-mode", "at_runtime"), "SIGABRT"),
    ],
    ids=["segfault-in-generate", "abort-in-load", "abort-in-generate"],
)
def test_a_real_engine_death_is_named_and_costs_nothing_else(farm, tmp_path, words, signal_name):
    worker = farm._processes[-1]
    prompt = "x <lora:abort:1>" if "--lora-apply-mode" in words else "x"
    client = farm.draw(*words, "-p", prompt, *SMALL, "-o", str(tmp_path / "no.png"))
    assert client.ends() == 5, client.errors
    assert signal_name in client.errors
    assert worker.popen.poll() is None
    after = farm.draw("-m", "tiny", "-p", "x", *SMALL, "-o", str(tmp_path / "yes.png"))
    assert after.ends() == 0, after.errors
    assert (tmp_path / "yes.png").exists()
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize("name", ["corrupt", "truncated", "empty", "wrong-architecture"])
def test_a_bad_model_file_is_an_engine_error_and_the_worker_goes_on(farm, tmp_path, name):
    client = farm.draw("-m", name, "-p", "x", *SMALL, "-o", str(tmp_path / "no.png"))
    assert client.ends() == 1, client.errors
    assert "engine_error" in client.errors
    after = farm.draw("-m", "tiny", "-p", "x", *SMALL, "-o", str(tmp_path / "yes.png"))
    assert after.ends() == 0, after.errors


def test_an_engine_killed_in_the_middle_is_replaced_and_the_image_is_drawn_again(
    farm, models_dir, tmp_path
):
    worker = farm._processes[-1]
    out = tmp_path / "output.png"
    client = farm.client(
        "-m", "tiny", "-p", "x", "-W", "256", "-H", "256", "--steps", "20", "--cfg-scale", "1",
        "-s", "7", "-o", str(out), "--json",
    )  # fmt: skip
    wait_for(lambda: any(_step(event) >= 2 for event in client.events), "a step")
    (engine,) = _children(worker.pid)
    os.kill(engine, signal.SIGKILL)
    assert client.ends() == 0, client.errors
    wanted = _direct(
        models_dir, tmp_path / "direct", 7, 1, prompt="x", width=256, height=256, steps=20,
        cfg_scale=1,
    )  # fmt: skip
    assert [_pixels(out)] == wanted
    assert _children(worker.pid) != [engine]


def test_a_worker_killed_in_the_middle_of_a_batch_is_made_up_for(models_dir, tmp_path):
    words = (
        "-m", "tiny", "-p", "x", "-W", "64", "-H", "64", "--steps", "12", "--cfg-scale", "1",
        "-b", "8", "-s", "50", "--json",
    )  # fmt: skip

    def drawing(event: dict[str, Any]) -> bool:
        return any(at["worker"] == "box2" and 0 < at["step"] < 8 for at in event.get("running", ()))

    with cluster("--state", str(tmp_path / "state")) as farm:
        farm.worker(models_dir, "--name", "box1", "--threads", "1")
        victim = farm.worker(models_dir, "--name", "box2", "--threads", "1")
        client = farm.client(*words, "-o", str(tmp_path / "killed.png"))
        wait_for(lambda: any(map(drawing, client.events)), "an image of the victim")
        victim.signals(signal.SIGKILL)
        assert client.ends() == 0, client.errors
        undisturbed = farm.draw(*words, "-o", str(tmp_path / "whole.png"))
        assert undisturbed.ends() == 0, undisturbed.errors
    pictures = [event for event in client.events if event["event"] == "image"]
    assert sorted(event["index"] for event in pictures) == list(range(8))
    killed, whole = (
        [_pixels(tmp_path / f"{name}_{i}.png") for i in range(8)] for name in ("killed", "whole")
    )
    assert killed == whole
    assert len(set(killed)) == 8


def test_the_engine_dies_with_its_worker(farm):
    worker = farm._processes[-1]
    (engine,) = wait_for(lambda: _children(worker.pid), "the engine child")
    worker.signals(signal.SIGKILL)
    worker.ends()
    wait_for(lambda: not Path(f"/proc/{engine}").exists(), "the engine's end")


def test_contexts_are_kept_and_reloaded_only_when_their_key_changes(farm, tmp_path):
    def load_s(*words: str) -> float:
        out = str(tmp_path / "o.png")
        client = farm.draw(*words, "-p", "x", *SMALL, "-o", out, "--json")
        assert client.ends() == 0, client.errors
        (picture,) = [event for event in client.events if event["event"] == "image"]
        return float(picture["load_s"])

    assert load_s("-m", "tiny") > 0
    assert load_s("-m", "tiny") == 0
    assert load_s("-m", "tiny", "--sampling-method", "heun", "-s", "3") == 0
    assert load_s("-m", "tiny-alt") > 0
    assert load_s("-m", "tiny-alt", "--rng", "cpu") > 0


def _step(event: dict[str, object]) -> int:
    running = event.get("running") or [{}]
    return int(running[0].get("step", 0))  # type: ignore[index]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
