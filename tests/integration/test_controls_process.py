"""Workers that are paused, drained and unloaded under load: real processes on scripted engines.

What engines began is read from the log that they all share, so that "once" is counted where the
work is done.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdistrib.errors import EXIT_USAGE
from sdistrib_client import AsyncClient, Client, PetitionError
from tests.support.cluster import Process, wait_for
from tests.support.scripted_farm import Farm, drawn

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    running = Farm(tmp_path)
    try:
        yield running
    finally:
        running.close()


def engine(worker: Process) -> int:
    """Process id of its engine."""

    def found() -> int | None:
        tasks = Path(f"/proc/{worker.pid}/task").glob("*/children")
        pids = [int(pid) for task in tasks for pid in task.read_text().split()]
        return pids[0] if pids else None

    return int(wait_for(found, "an engine"))


def test_a_paused_worker_finishes_its_image_and_others_do_the_rest(farm):
    farm.join("left")
    farm.join("right")
    client = farm.wish(12)
    wait_for(lambda: drawn(client, "left") and drawn(client, "right"), "both to draw")
    assert farm.does("pause", "left") in (
        "left: paused; it finishes the image under way\n",
        "left: paused\n",
    )
    shown = farm.state("left")
    assert (shown["state"], shown["reason"]) == ("paused", "paused by local")
    # What it had under way may come, and nothing after it.
    most = len(drawn(client, "left")) + 2
    assert client.ends() == 0
    assert sorted(drawn(client)) == list(range(12))
    assert len(drawn(client, "left")) <= most
    assert farm.begun() == Counter(range(12))
    # It stays so for another petition, and for another manager, until it is resumed.
    farm.manager.close()
    farm.start_manager("--state", str(farm.folder / "state"))
    for name in ("left", "right"):
        farm.manager.says(f"worker {name} joins")
    client = farm.wish(2, "two.png")
    assert client.ends() == 0
    assert len(drawn(client, "right")) == 2
    assert farm.state("left")["state"] == "paused"
    assert farm.does("resume", "left") == "left: resumed\n"
    assert farm.does("pause", "right").startswith("right: paused")
    client = farm.wish(2, "three.png")
    assert client.ends() == 0
    assert len(drawn(client, "left")) == 2


def test_drain_ends_the_worker_well_and_loses_and_repeats_nothing(farm):
    left = farm.join("left")
    farm.join("right")
    client = farm.wish(10)
    wait_for(lambda: drawn(client, "left"), "a picture of left")
    assert farm.does("drain", "left").startswith("left: drains: it ")
    assert left.ends() == 0
    assert "drained by local" in left.errors
    assert client.ends() == 0
    assert sorted(drawn(client)) == list(range(10))
    assert farm.begun() == Counter(range(10))
    assert farm.state("left")["state"] == "away"


def test_unload_frees_the_engine_and_the_worker_goes_on(farm):
    worker = farm.join("left")
    assert farm.wish(1).ends() == 0
    before = engine(worker)
    assert farm.state("left")["loaded"] == "tiny.safetensors"
    assert farm.does("unload", "left") == "left: unloads tiny.safetensors\n"
    wait_for(lambda: engine(worker) != before, "another engine")
    assert not Path(f"/proc/{before}/exe").exists()
    wait_for(lambda: farm.state("left")["loaded"] == "", "nothing to be loaded")
    assert farm.does("unload", "left") == "left: nothing: no model was loaded\n"
    assert farm.wish(1, "again.png").ends() == 0
    assert farm.state("left")["loaded"] == "tiny.safetensors"


def test_an_unused_model_is_unloaded_after_some_time(farm):
    worker = farm.join("left", "--unload-after", "0.01")
    before = engine(worker)
    assert farm.wish(1).ends() == 0
    wait_for(lambda: engine(worker) != before, "another engine")
    worker.says("unused for 0.01 min")
    assert farm.wish(1, "again.png").ends() == 0


def test_outside_its_hours_a_worker_waits_and_the_petition_says_so(farm):
    hour = time.localtime().tm_hour
    # Neither now nor within the next hour.
    worker = farm.join("left", "--hours", f"{(hour + 2) % 24}-{(hour + 3) % 24}")
    worker.says("No grants are taken now: outside its hours")
    assert str(farm.state("left")["reason"]).startswith("outside its hours")
    petition = farm.does("-m", "tiny", "-p", "x", "-W", "64", "-H", "64", "--detach").strip()
    assert "left takes no grants: outside its hours" in farm.does("status", petition)
    assert "still takes no grants" not in farm.does("pause", "left")
    assert "resumed; it still takes no grants: outside" in farm.does("resume", "left")
    assert not farm.begun()


def test_what_cannot_be_watched_is_a_refusal_to_start(farm):
    worker = farm.launch("left", "--yield-when-busy", SDISTRIB_SCRIPTED_BACKEND="vulkan")
    assert worker.ends() == EXIT_USAGE
    assert "--yield-when-busy: on vulkan other processes' use of" in worker.errors
    assert "joins" not in farm.manager.errors


def test_copies_are_the_very_files_that_the_client_gets(farm):
    own = farm.folder / "own"
    farm.join("left", "--autosave", str(own), "--autosave-name", "{worker}/{model}-{seed}")
    for _ in range(2):
        client = farm.wish(2)
        assert client.ends() == 0, client.errors
    wanted = [(farm.folder / f"out_{index}.png").read_bytes() for index in (0, 1)]
    names = ["tiny-0.png", "tiny-1.png", "tiny-0-1.png", "tiny-1-1.png"]
    # A wish that is drawn a second time is the same file, and its copy gets a name of its own.
    wait_for(
        lambda: (
            {str(path.relative_to(own)): path.read_bytes() for path in own.rglob("*.png")}
            == {f"left/{name}": data for name, data in zip(names, wanted * 2, strict=True)}
        ),
        "four copies, whole",
    )
    farm.does("purge", "--all", "--yes")
    assert len(list(own.rglob("*.png"))) == 4


def test_declared_limits_and_models_are_the_managers_knowledge(farm):
    (farm.models / "Stable-diffusion" / "other.safetensors").write_bytes(b"other")
    worker = farm.join(
        "left", "--max-pixels", "64x64", "--max-batch", "2", "--models", "TIN*", "--threads", "1",
        "--no-clip-on-cpu",
    )  # fmt: skip
    wanted = {
        "max_pixels": 4096,
        "max_batch": 2,
        "keep": 1,
        "placement": ["clip_on_cpu=false", "threads=1"],
    }
    assert farm.state("left")["declared"] == wanted
    names = [json.loads(line)["name"] for line in farm.does("models", "--json").splitlines()]
    assert names == ["tiny.safetensors"]
    client = farm.draw("-m", "tiny", "-p", "x", "-W", "128", "-H", "64", "--json")
    (error,) = [row for row in client.events if row["event"] == "error"]
    assert error["code"] == "too_large"
    assert "left takes the most, 4096 pixels" in error["message"]
    assert worker.popen.poll() is None
    wish = farm.wish(1, "out.png", "--clip-on-cpu")
    assert wish.ends() == 0
    (image,) = [row for row in wish.events if row["event"] == "image"]
    note = "this worker keeps the text encoder on its device (its owner's choice)"
    assert image["notes"] == [note]


def test_the_python_clients_control_workers_too(farm):
    farm.join("left")
    with Client(farm.clients_at) as client:
        (answer,) = client.control("pause")
        assert (answer.worker, answer.did, answer.obeyed) == ("left", "paused", True)
        with pytest.raises(PetitionError) as caught:
            client.control("resume", "lift")
        assert (caught.value.code, caught.value.info.closest) == ("not_found", ("left",))

    async def story() -> None:
        async with AsyncClient(farm.clients_at) as client:
            (answer,) = await client.control("resume", "left")
            assert answer.did == "resumed"

    asyncio.run(story())
    client = farm.draw("pause", "lift")
    assert client.popen.returncode == 1
    assert "No worker is called 'lift'" in client.errors
    assert "left" in client.errors
