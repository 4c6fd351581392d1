"""Several devices in one box: a guardian, its workers, and what becomes of them. Real processes."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdistrib.errors import EXIT_OK, EXIT_USAGE
from tests.support.cluster import Process, cluster, wait_for
from tests.support.input_files import digest_of
from tests.support.scripted_farm import Farm, drawn
from tests.support.scripted_manager import png

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

TWO_CARDS = {
    "FAKE_DEVICES": json.dumps(
        [["CUDA0", "Card A", "gpu"], ["CUDA1", "Card B", "gpu"], ["CPU", "Some CPU", "cpu"]]
    ),
    "SDISTRIB_SCRIPTED_DEVICES": "cuda0,cuda1",
}


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    running = Farm(tmp_path)
    try:
        yield running
    finally:
        running.close()


def box(farm: Farm, *options: str) -> Process:
    """A box with two cards, both of whose workers have joined."""
    guardian = farm.launch("box", "--devices", "all", *options, **TWO_CARDS)
    for name in ("box-cuda0", "box-cuda1"):
        farm.manager.says(f"worker {name} joins")
    return guardian


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(one) for task in tasks for one in task.read_text().split()]


def worker_on(guardian: Process, device: str) -> int:
    """Process id of the worker of a device, once it is there."""

    def found() -> int | None:
        for pid in children(guardian.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if device.encode() in words:
                return pid
        return None

    return int(wait_for(found, f"a worker on {device}"))


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_each_device_is_a_worker_and_one_that_is_killed_comes_back(farm):
    guardian = box(farm)
    rows = [json.loads(line) for line in farm.does("workers", "--json").splitlines()]
    seen = {row["name"]: row["engine"]["device"] for row in rows}
    assert seen == {"box-cuda0": "scripted engine 0", "box-cuda1": "scripted engine 1"}
    client = farm.wish(16)
    wait_for(lambda: drawn(client, "box-cuda0") and drawn(client, "box-cuda1"), "both to draw")
    before, other = worker_on(guardian, "cuda0"), worker_on(guardian, "cuda1")
    os.kill(before, signal.SIGKILL)
    guardian.says("The worker on cuda0 died (SIGKILL)")
    assert client.ends() == 0, client.errors
    assert sorted(drawn(client)) == list(range(16))
    wait_for(lambda: farm.manager.errors.count("worker box-cuda0 joins") == 2, "it to come back")
    assert worker_on(guardian, "cuda0") != before
    assert worker_on(guardian, "cuda1") == other
    assert "[cuda0] " in guardian.errors
    assert "[cuda1] " in guardian.errors
    guardian.signals(signal.SIGTERM)
    assert guardian.ends() == EXIT_OK
    states = [json.loads(line) for line in farm.does("workers", "--json").splitlines()]
    assert {row["state"] for row in states} <= {"away"}


def test_the_workers_of_a_box_share_one_cache_of_input_files(farm):
    cache, given = farm.folder / "inputs", farm.folder / "in.png"
    given.write_bytes(png(1, 3_000_000))
    guardian = box(farm, "--cache", str(cache))
    client = farm.wish(16, "out.png", "-i", str(given))
    wait_for(lambda: drawn(client, "box-cuda0") and drawn(client, "box-cuda1"), "both to draw")
    # What one of them holds, the death of the other takes from nobody.
    os.kill(worker_on(guardian, "cuda0"), signal.SIGKILL)
    assert client.ends() == 0, client.errors
    assert sorted(drawn(client)) == list(range(16))
    wait_for(lambda: farm.manager.errors.count("worker box-cuda0 joins") == 2, "it to come back")
    assert (cache / digest_of(given.read_bytes())).read_bytes() == given.read_bytes()
    again = farm.wish(4, "again.png", "-i", str(given), "-p", "a lake")
    assert again.ends() == 0, again.errors
    assert [path.name for path in cache.iterdir()] == [digest_of(given.read_bytes())]
    farm.does("purge", "--all", "--yes")
    wait_for(lambda: not list(cache.iterdir()), "both to forget it")


def test_a_second_signal_leaves_at_once(farm):
    guardian = box(farm, "--log-json")
    client = farm.client("-m", "tiny", "-p", "x !sleep=600", "--no-hedge", "--detach")
    assert client.ends() == 0, client.errors
    wait_for(farm.begun, "an engine to begin")
    guardian.signals(signal.SIGINT)
    line = guardian.says("Finishing the current image")
    assert json.loads(line)["device"] in ("cuda0", "cuda1")
    guardian.signals(signal.SIGINT)
    assert guardian.ends() == EXIT_OK


def test_workers_of_a_guardian_that_is_killed_end_with_it(farm):
    guardian = box(farm)
    workers = children(guardian.pid)
    assert len(workers) == 2
    engines = [pid for worker in workers for pid in children(worker)]
    assert len(engines) == 2
    guardian.signals(signal.SIGKILL)
    guardian.ends()
    wait_for(lambda: all(map(gone, [*workers, *engines])), "workers and engines to end")


def test_a_device_that_is_not_there_and_one_that_its_engine_refuses(farm):
    worker = farm.launch("box", "--devices", "cuda0,cuda3", **TWO_CARDS)
    assert worker.ends() == EXIT_USAGE
    assert "cuda1 (Card B)" in worker.errors
    refused = {**TWO_CARDS, "SDISTRIB_SCRIPTED_DEVICES": "cuda0"}
    half = farm.launch("half", "--devices", "all", **refused)
    half.says("The worker on cuda1 has ended: exit status 2")
    farm.manager.says("worker half-cuda0 joins")
    assert half.popen.poll() is None
    half.signals(signal.SIGTERM)
    assert half.ends() == EXIT_USAGE


@pytest.mark.engine
def test_the_real_engine_on_the_cpu_needs_no_guardian(models_dir, tmp_path):
    with cluster() as running:
        words = ("--devices", "cpu", "--name", "box", "--threads", "1")
        worker = running.worker(models_dir, *words)
        assert "worker box joins" in running.manager.errors
        out = tmp_path / "out.png"
        client = running.draw(
            "-m", "tiny", "-p", "x", "-W", "64", "-H", "64", "--steps", "1", "-o", str(out)
        )
        assert client.popen.returncode == 0, client.errors
        assert out.read_bytes().startswith(b"\x89PNG")
        worker.signals(signal.SIGTERM)
        assert worker.ends() == EXIT_OK
