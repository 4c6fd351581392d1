"""Nothing accepted is lost: real processes, a durable manager, and what people do to them.

Engines are scripted; what they began is read from the log that they all share, so that "once" is
counted where the work is done.
"""

import asyncio
import json
import resource
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdistrib_client import AsyncClient, Client, PetitionError
from tests.support.cluster import Cluster, Process, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


class Farm(Cluster):
    """A durable manager, workers that write down what they begin, and clients."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.folder, self._models = folder, models
        self.state = folder / "state"
        super().__init__("--state", str(self.state))

    def restart_manager(self, *options: str) -> None:
        """Another manager on the same ports and state folder."""
        self.start_manager("--state", str(self.state), *options)

    def join(self, name: str, image_s: float = 0.2) -> Process:
        """Start a worker and wait until the manager knows it."""
        env = {
            "SDISTRIB_SCRIPTED_IMAGE_S": str(image_s),
            "SDISTRIB_SCRIPTED_LOG": str(self.folder / "engines.jsonl"),
        }
        worker = self.start(
            "tests.support.scripted_worker", self.workers_at, str(self._models), "--name", name,
            env=env,
        )  # fmt: skip
        self.manager.says(f"worker {name} joins")
        return worker

    def wish(self, *words: str, prompt: str = "a lighthouse", seed: int = 0) -> Process:
        """Start a client that draws."""
        return self.client(
            "-m", "tiny", "-p", prompt, "-W", "64", "-H", "64", "--steps", "4", "-s", str(seed),
            *words,
        )  # fmt: skip

    def detached(self, *words: str, prompt: str = "a lighthouse", seed: int = 0) -> str:
        """Submit and leave; the petition's id."""
        client = self.wish("--detach", *words, prompt=prompt, seed=seed)
        assert client.ends() == 0, client.errors
        return client.output.strip()

    def rows(self) -> dict[str, str]:
        """State of every petition, ended ones too."""
        listed = self.draw("queue", "--all", "--json")
        assert listed.popen.returncode == 0, listed.errors
        return {row["id"]: row["state"] for row in listed.events}

    def ended(self, petition_id: str) -> str:
        """Wait for a petition's end; its state."""

        def state() -> str | None:
            found = self.rows()[petition_id]
            return found if found not in ("queued", "running") else None

        return str(wait_for(state, f"the end of {petition_id}"))

    def begun(self) -> Counter[int]:
        """How often an engine began each seed."""
        path = self.folder / "engines.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines]
        return Counter(event["seed"] for event in events if event["event"] == "begun")

    def has_begun(self, images: int) -> None:
        """Wait until engines have begun so many images."""
        wait_for(lambda: len(self.begun()) >= images, f"{images} images to be begun")

    def out(self, name: str) -> str:
        """Where a client writes."""
        return str(self.folder / "out" / name)

    def pictures(self, start: str) -> list[bytes]:
        """The files of a client's pictures, by number."""
        return [path.read_bytes() for path in sorted((self.folder / "out").glob(f"{start}*"))]


@pytest.fixture
def farm(tmp_path: Path, models_dir: Path) -> Iterator[Farm]:
    running = Farm(tmp_path, models_dir)
    try:
        yield running
    finally:
        running.close()


# --- Coming back later ----------------------------------------------------------------------


def test_a_detached_petition_is_attached_to_and_fetched_by_other_processes(farm):
    pid = farm.detached("-b", "2")
    assert len(pid) == 32
    early = farm.draw("fetch", pid[:8], "-o", farm.out("early.png"))
    assert early.popen.returncode == 1
    assert "The petition is queued: 0 of 2 pictures are done." in early.errors
    status = farm.draw("status", pid[:6])
    assert status.output == f"{pid[:8]}: queued, 0/2 done: no worker is connected yet\n"
    farm.join("gpu1")
    attached = farm.draw("attach", pid[:8], "-o", farm.out("a.png"))
    assert attached.popen.returncode == 0, attached.errors
    fetched = farm.draw("fetch", pid, "-o", farm.out("f.png"), "--json")
    assert fetched.popen.returncode == 0, fetched.errors
    assert [event["event"] for event in fetched.events] == [
        "accepted", "image", "image", "finished",
    ]  # fmt: skip
    assert farm.pictures("a") == farm.pictures("f")
    assert len(farm.pictures("f")) == 2
    assert farm.rows() == {pid: "done"}
    assert farm.draw("queue").output.endswith("(none)\n")
    assert farm.begun() == {0: 1, 1: 1}


_ABOUT = {"model": "tiny", "width": 64, "height": 64, "steps": 4}


def test_the_same_from_python(farm):
    with Client(farm.clients_at) as client:
        pid = client.submit("a lighthouse !segv@1", images=2, seed=0, **_ABOUT)
        early = client.fetch(pid)
        assert list(early) == []
        assert early.ending is not None
        assert early.ending.outcome == "unfinished"
        # Leaving does not cancel, and leaves nothing behind on this connection.
        with client.attach(pid[:8]):
            assert client.find(pid).state == "queued"
        farm.join("gpu1")
        with pytest.raises(PetitionError) as caught:
            list(client.attach(pid))
        assert caught.value.code == "quarantined"
        assert not client.cancel(pid)
        again = client.retry(pid[:8], prompt="a lighthouse")
        assert [picture.index for picture in again] == [1]
        assert [picture.seed for picture in client.fetch(pid)] == [0, 1]
        assert [row.id for row in client.queue(every=True)] == [pid]
        assert client.purge(pid[:8]) == 1
        with pytest.raises(PetitionError) as caught:
            client.fetch(pid)
        assert caught.value.code == "not_found"
        assert client.purge(None) == 0


def test_the_same_from_asyncio(farm):
    async def story() -> None:
        async with AsyncClient(farm.clients_at) as client:
            pid = await client.submit("a lighthouse !segv@1", images=2, seed=0, **_ABOUT)
            async with await client.attach(pid[:8]):
                assert (await client.find(pid)).state == "queued"
            await asyncio.to_thread(farm.join, "gpu1")
            with pytest.raises(PetitionError) as caught:
                [picture async for picture in await client.attach(pid)]
            assert caught.value.code == "quarantined"
            again = await client.retry(pid[:8], prompt="a lighthouse")
            assert [picture.index async for picture in again] == [1]
            assert [picture.seed async for picture in await client.fetch(pid)] == [0, 1]
            assert [row.id for row in await client.queue(every=True)] == [pid]
            assert await client.purge(pid) == 1
            with pytest.raises(PetitionError):
                await client.retry(pid)

    asyncio.run(story())


def test_an_unknown_id_says_what_to_do(farm):
    for verb in ("attach", "fetch", "cancel", "retry", "status"):
        client = farm.client(verb, "abc")
        assert client.ends() == 1
        assert "queue --all" in client.errors


def test_a_killed_clients_petition_goes_on_and_the_rest_is_picked_up(farm):
    farm.join("gpu1", image_s=0.4)
    client = farm.wish("-b", "4", "-v", "-o", farm.out("a_%03d.png"))
    pid = client.says("is accepted").split()[1]
    client.says("picture 0: seed 0")
    client.popen.kill()
    attached = farm.client("attach", pid, "-o", farm.out("a_%03d.png"))
    assert attached.ends() == 0, attached.errors
    assert len(farm.pictures("a_")) == 4
    assert farm.begun() == dict.fromkeys(range(4), 1)


def test_who_attaches_while_it_runs_takes_nothing_from_who_draws(farm):
    farm.join("gpu1", image_s=0.6)
    drawing = farm.wish("-b", "4", "-v", "-o", farm.out("d.png"))
    pid = drawing.says("is accepted").split()[1]
    drawing.says("picture 0: seed 0")
    fetched = farm.client("fetch", pid, "-o", farm.out("f.png"))
    attached = farm.client("attach", pid, "-o", farm.out("a.png"))
    assert drawing.ends() == 0, drawing.errors
    assert attached.ends() == 0, attached.errors
    assert fetched.ends() in (0, 1)
    assert len(farm.pictures("d")) == 4
    assert farm.pictures("a")[-1] == farm.pictures("d")[-1]
    assert farm.pictures("f")[0] == farm.pictures("d")[0]
    assert "sampling" in attached.errors


def test_a_cancel_from_elsewhere_ends_who_draws_with_its_error(farm):
    farm.join("gpu1", image_s=5)
    drawing = farm.wish("-b", "3", "-v", "-o", farm.out("d.png"))
    pid = drawing.says("is accepted").split()[1]
    farm.has_begun(1)
    cancelled = farm.draw("cancel", pid[:8])
    assert cancelled.popen.returncode == 0, cancelled.errors
    assert cancelled.output == f"{pid[:8]} is cancelled.\n"
    assert drawing.ends() == 1
    assert "[cancelled]" in drawing.errors
    assert farm.pictures("d") == []
    again = farm.draw("cancel", pid, "--json")
    assert json.loads(again.output)["state"] == "cancelled"


def test_an_image_that_killed_two_engines_is_retried_with_other_parameters(farm):
    farm.join("gpu1")
    client = farm.wish("-b", "2", "-o", farm.out("d.png"), prompt="a lighthouse !segv@1")
    assert client.ends() == 5
    assert "[quarantined]" in client.errors
    (pid,) = farm.rows()
    plain = farm.draw("retry", pid[:8], "--detach")
    assert plain.output == f"{pid}\n"
    assert farm.ended(pid) == "failed"
    retried = farm.draw("retry", pid[:8], "-p", "a lighthouse", "-o", farm.out("d.png"))
    assert retried.popen.returncode == 0, retried.errors
    assert len(farm.pictures("d")) == 2
    assert farm.begun() == {0: 1, 1: 5}
    nothing_left = farm.draw("retry", pid)
    assert nothing_left.popen.returncode == 2
    assert "nothing to try again" in nothing_left.errors


def test_what_is_purged_is_nowhere_in_the_state_folder(farm):
    canary = "xylophone-canary"
    farm.join("gpu1")
    client = farm.wish("-o", farm.out("d.png"), prompt=f"a lighthouse with a {canary}")
    assert client.ends() == 0, client.errors
    failed = farm.wish("-o", farm.out("x.png"), prompt=f"another {canary} !decline=engine_error")
    assert failed.ends() == 1
    kept = farm.detached(prompt="something else", seed=7)
    assert farm.ended(kept) == "done"
    assert _files_with(farm.state, canary)
    pid, other = [pid for pid in farm.rows() if pid != kept]
    unasked = farm.draw("purge", pid)
    assert unasked.popen.returncode == 2
    for petition_id in (pid, other[:8]):
        purged = farm.draw("purge", petition_id, "--yes")
        assert purged.output == "1 petition forgotten.\n", purged.errors
    assert _files_with(farm.state, canary) == []
    assert farm.rows() == {kept: "done"}
    assert farm.draw("purge", "--all", "--yes").output == "1 petition forgotten.\n"
    assert _files_with(farm.state, "something else") == []
    gone = farm.draw("fetch", pid)
    assert gone.popen.returncode == 1


def _files_with(folder: Path, text: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


# --- Restarts -------------------------------------------------------------------------------


def test_a_killed_manager_loses_nothing_and_repeats_nothing(farm):
    farm.join("gpu1", image_s=1.0)
    clients = [farm.wish("-v", "-o", farm.out(f"{n}.png"), seed=n) for n in range(6)]
    for client in clients:
        client.says("is accepted")
    farm.has_begun(1)
    farm.manager.popen.kill()
    farm.manager.ends()
    farm.restart_manager()
    assert [client.ends() for client in clients] == [0] * 6, clients[-1].errors
    assert farm.begun() == dict.fromkeys(range(6), 1)
    assert set(farm.rows().values()) == {"done"}


def test_what_was_detached_survives_the_manager(farm):
    pid = farm.detached("-b", "2")
    farm.manager.popen.kill()
    farm.manager.ends()
    farm.restart_manager()
    assert farm.rows() == {pid: "queued"}
    farm.join("gpu1")
    assert farm.draw("attach", pid, "-o", farm.out("a.png")).popen.returncode == 0
    farm.manager.signals(signal.SIGTERM)
    assert farm.manager.ends() == 0
    farm.restart_manager()
    assert farm.draw("fetch", pid, "-o", farm.out("f.png")).popen.returncode == 0
    assert farm.pictures("a") == farm.pictures("f")


def test_restarting_every_process_in_turn_fails_nothing_and_repeats_nothing(farm):
    workers = {name: farm.join(name, image_s=0.5) for name in ("gpu1", "gpu2")}
    client = farm.wish("-b", "24", "-o", farm.out("d_%03d.png"))
    farm.has_begun(4)
    for step, name in enumerate(workers):
        workers[name].signals(signal.SIGTERM)
        assert workers[name].ends() == 0, workers[name].errors
        farm.join(f"{name} again", image_s=0.5)
        farm.has_begun(8 + 4 * step)
        if not step:
            farm.manager.signals(signal.SIGTERM)
            assert farm.manager.ends() == 0, farm.manager.errors
            farm.restart_manager()
    assert client.ends() == 0, client.errors
    assert len(farm.pictures("d_")) == 24
    assert farm.begun() == dict.fromkeys(range(24), 1)


def test_a_worker_told_to_stop_finishes_its_image(farm):
    worker = farm.join("gpu1", image_s=2)
    client = farm.wish("-b", "2", "-o", farm.out("d.png"))
    farm.has_begun(1)
    worker.signals(signal.SIGTERM)
    assert worker.ends() == 0, worker.errors
    client.says("picture 0: seed 0")
    farm.join("gpu2")
    assert client.ends() == 0, client.errors
    assert farm.begun() == {0: 1, 1: 1}


def test_a_worker_told_twice_gives_its_image_back_at_no_cost(farm):
    """With --retries 0 a failure that counted would be the image's end."""
    farm.manager.signals(signal.SIGTERM)
    farm.manager.ends()
    farm.restart_manager("--retries", "0")
    worker = farm.join("gpu1", image_s=30)
    client = farm.wish("-o", farm.out("d.png"))
    farm.has_begun(1)
    worker.signals(signal.SIGTERM)
    worker.says("Finishing the current image")
    worker.signals(signal.SIGTERM)
    assert worker.ends() == 0, worker.errors
    farm.join("gpu2")
    assert client.ends() == 0, client.errors
    assert farm.begun() == {0: 2}


# --- The state folder -----------------------------------------------------------------------


def test_a_second_manager_on_the_same_folder_is_refused(farm):
    second = farm.start(
        "sdistrib_manager", "--client-port", "0", "--worker-port", "0", "--state", str(farm.state)
    )
    assert second.ends() == 2
    assert f"Another manager uses {farm.state}" in second.errors
    assert "Traceback" not in second.errors


def _damage(state: Path) -> None:
    for path in state.glob("state.db*"):
        path.write_bytes(b"?" * path.stat().st_size)


def test_a_manager_whose_disk_fails_for_good_ends_with_one_sentence_and_a_status(farm):
    farm.detached()
    # From now on nothing more can be written, and what is there cannot be read back.
    _damage(farm.state)
    resource.prlimit(farm.manager.pid, resource.RLIMIT_FSIZE, (0, 0))
    client = farm.wish("--detach")
    assert farm.manager.ends() == 1
    # Under coverage that follows which cannot write its own file either.
    (last,) = [line for line in farm.manager.lines if "nor read it back" in line]
    said = farm.manager.lines[: farm.manager.lines.index(last)]
    assert not any("Traceback" in line for line in said)
    assert last.startswith(f"sdistrib-manager: cannot write {farm.state / 'state.db'}: ")
    assert "nor read it back" in last
    assert "start again" in last
    client.signals(signal.SIGTERM)


def test_a_damaged_database_is_named_and_not_started_on(farm):
    farm.manager.signals(signal.SIGTERM)
    assert farm.manager.ends() == 0
    _damage(farm.state)
    broken = farm.start(
        "sdistrib_manager", "--client-port", "0", "--worker-port", "0", "--state", str(farm.state)
    )
    assert broken.ends() == 1
    assert f"cannot use {farm.state / 'state.db'}" in broken.errors
    assert "start again" in broken.errors
    assert "Traceback" not in broken.errors


def test_a_database_of_a_newer_version_is_refused_with_its_version(farm):
    farm.manager.signals(signal.SIGTERM)
    assert farm.manager.ends() == 0
    database = sqlite3.connect(farm.state / "state.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    newer = farm.start(
        "sdistrib_manager", "--client-port", "0", "--worker-port", "0", "--state", str(farm.state)
    )
    assert newer.ends() == 2
    assert "has schema 99 and was written by a newer sdistrib" in newer.errors
    assert "Traceback" not in newer.errors


# --- Poison ---------------------------------------------------------------------------------


def test_without_retries_the_first_crash_is_the_answer(farm):
    farm.manager.signals(signal.SIGTERM)
    farm.manager.ends()
    farm.restart_manager("--retries", "0")
    farm.join("gpu1")
    client = farm.wish("-o", farm.out("d.png"), prompt="a lighthouse !segv")
    assert client.ends() == 5
    assert "[engine_crashed]" in client.errors
    assert "SIGSEGV" in client.errors
    assert farm.begun() == {0: 1}


def test_quarantine_shows_the_last_words_of_both_engines(farm):
    for name in ("gpu1", "gpu2"):
        farm.join(name)
    client = farm.wish("-v", "-o", farm.out("d.png"), prompt="a lighthouse !abort")
    assert client.ends() == 5
    assert "[quarantined]" in client.errors
    for name in ("gpu1", "gpu2"):
        assert f"[{name}] scripted engine dies now: abort" in client.errors
    assert farm.begun() == {0: 2}


def test_poison_among_two_hundred_harms_nobody_else(farm):
    for name in ("gpu1", "gpu2"):
        farm.join(name, image_s=0.01)
    with Client(farm.clients_at) as client:
        before = [client.submit("a lighthouse", seed=seed, **_ABOUT) for seed in range(100)]
        poison = client.submit("a lighthouse !segv", seed=1000, **_ABOUT)
        after = [client.submit("a lighthouse", seed=seed, **_ABOUT) for seed in range(100, 200)]
        assert len({*before, poison, *after}) == 201
        drawn = client.attach(after[-1])
        assert [picture.seed for picture in drawn] == [199]
    assert farm.ended(poison) == "failed"
    states = Counter(farm.rows().values())
    assert states == {"done": 200, "failed": 1}
    counts = farm.begun()
    assert counts.pop(1000) == 2
    assert counts == dict.fromkeys(range(200), 1)


# --- Time limits ----------------------------------------------------------------------------


def test_a_time_limit_ends_a_petition_as_expired_with_what_is_done_by_then(farm):
    farm.join("gpu1")
    drawing = farm.wish(
        "-b", "2", "--timeout", "3", "--json", "-o", farm.out("d.png"),
        prompt="a lighthouse !sleep=16@1",
    )  # fmt: skip
    farm.has_begun(2)
    left = farm.detached("--timeout", "1", seed=7)
    assert drawing.ends() == 6, drawing.errors
    finished = drawing.events[-1]
    assert (finished["outcome"], finished["done"]) == ("expired", [0])
    assert len(farm.pictures("d")) == 1
    assert farm.ended(left) == "expired"
    fetched = farm.draw("fetch", finished["id"], "-o", farm.out("f.png"))
    assert fetched.popen.returncode == 6, fetched.errors
    assert farm.pictures("f") == farm.pictures("d")
    # The engine that was at it is of use again.
    after = farm.wish("-o", farm.out("a.png"), seed=9)
    assert after.ends() == 0, after.errors
