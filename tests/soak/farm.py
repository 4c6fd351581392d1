"""The processes of a soak: started, killed, started again; what they say goes into files."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.soak.nursery import Forked, Nursery
from tests.support.history import Scribe
from tests.support.kept import OnDisk

ROOT = Path(__file__).resolve().parents[2]
_LISTENING = re.compile(r"clients (\S+:\d+), workers (\S+:\d+)")
#: A process that takes longer to start has a bug.
_START_S = 60.0
#: Seconds that the scripted engine takes for an image.
IMAGE_S = 0.02


def _own_environment() -> dict[str, str]:
    """This process's variables, less those that would measure the children's coverage.

    What dies by SIGKILL leaves no data, and what starts a thousand times should start quickly.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    path = os.pathsep.join(str(ROOT / part) for part in (".", "manager", "worker", "client"))
    return {**own, "PYTHONPATH": path}


def _spawned(log: Path, command: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env=_own_environment(), cwd=ROOT,
        )  # fmt: skip


class Life:
    """One life of one program."""

    def __init__(
        self, log: Path, *command: str, env: dict[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> None:  # fmt: skip
        self._log = log
        self._from = log.stat().st_size if log.exists() else 0
        self.popen: subprocess.Popen[bytes] | Forked = (
            nursery.start(log, [*command], env or {}) if nursery else _spawned(log, command)
        )

    @property
    def alive(self) -> bool:
        """It runs."""
        return self.popen.poll() is None

    def said(self) -> str:
        """What it has said so far."""
        with self._log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.popen.kill()
        self.popen.wait()

    def engine(self) -> int | None:
        """The process id of its engine child, if there is one."""
        try:
            children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text()
        except OSError:
            return None
        return next((int(pid) for pid in children.split()), None)


class Farm:
    """One manager, workers on the scripted engine, and clients."""

    def __init__(self, folder: Path, models: Path, workers: int) -> None:
        self.folder, self._models = folder, models
        self.history = folder / "history"
        self.history.mkdir(parents=True)
        self.scribe = Scribe(self.history / "driver.jsonl")
        self._nursery = Nursery(ROOT, _own_environment())
        self._ports = ("0", "0")
        self.manager = self.start_manager()
        self.workers = [self.start_worker(number) for number in range(workers)]
        self.clients: list[Life] = []
        self._lives: list[int] = []

    def start_manager(self) -> Life:
        """Start a manager; a second time on the ports of the first, with all it kept."""
        clients, workers = self._ports
        self.manager = Life(
            self.folder / "manager.log", "sdistrib_manager", "--client-port", clients,
            "--worker-port", workers, "--state", str(self.folder / "state"),
        )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while (found := _LISTENING.search(self.manager.said())) is None:
            assert self.manager.alive, self.manager.said()
            assert time.monotonic() < deadline, "the manager does not start"
            time.sleep(0.02)
        self._at = found[1], found[2]
        self._ports = (found[1].rpartition(":")[2], found[2].rpartition(":")[2])
        return self.manager

    def start_worker(self, number: int) -> Life:
        """Start a worker; it is not waited for."""
        env = {
            "SDISTRIB_SCRIPTED_IMAGE_S": str(IMAGE_S),
            "SDISTRIB_SCRIPTED_LOG": str(self.history / "engines.jsonl"),
        }
        return Life(
            self.folder / f"worker-{number}.log", self._at[1], str(self._models),
            "--name", f"box{number}", env=env, nursery=self._nursery,
        )  # fmt: skip

    def start_client(self, number: int) -> None:
        """Start a client, or the next life of one that was killed."""
        if number == len(self.clients):
            self._lives.append(0)
        self._lives[number] += 1
        life = Life(
            self.folder / f"client-{number}.log", "tests.soak.client", self._at[0],
            str(self.folder / f"plan-{number}.json"),
            str(self.history / f"client-{number}.jsonl"), self.caller(number),
        )  # fmt: skip
        self.clients[number : number + 1] = [life]

    def caller(self, number: int) -> str:
        """The name of the present life of a client."""
        return f"client-{number}.{self._lives[number]}"

    def kill_client(self, number: int) -> bool:
        """Kill a client and start its next life; False when it had ended."""
        if not self.clients[number].alive:
            return False
        self.clients[number].kill()
        self.scribe.write("killed", caller=self.caller(number))
        self.start_client(number)
        return True

    def kill_worker(self, number: int) -> None:
        """Kill a worker and start another under its name."""
        self.workers[number].kill()
        self.workers[number] = self.start_worker(number)

    def kill_engine(self, number: int) -> bool:
        """A segmentation fault in a worker's engine; False when there is none now."""
        engine = self.workers[number].engine()
        if engine is None:
            return False
        try:
            os.kill(engine, signal.SIGSEGV)
        except ProcessLookupError:
            return False
        return True

    def restart_manager(self) -> None:
        """Kill the manager and start the next."""
        self.manager.kill()
        self.start_manager()

    def close(self) -> None:
        """End everything, the manager last and politely."""
        for life in (*self.clients, *self.workers):
            life.popen.terminate()
        self._nursery.close()
        for life in (*self.clients, *self.workers, self.manager):
            if life is self.manager:
                life.popen.terminate()
            try:
                life.popen.wait(20)
            except subprocess.TimeoutExpired:
                life.kill()

    def write_what_is_stored(self) -> None:
        """The last chapter of the history: what the manager's store has, pictures looked at."""
        store = OnDisk(self.folder / "state" / "state.db")
        snapshot = store.store.load()
        store.store.close()
        pictures: dict[str, dict[int, str]] = {}
        for row in snapshot.images:
            if row.state == "done" and row.result is not None:
                digest = row.result.digest
                there = (self.folder / "state" / "pictures" / digest).exists()
                pictures.setdefault(row.id, {})[row.index] = digest if there else "missing"
        for state in snapshot.states:
            here = pictures.get(state.id, {})
            self.scribe.write("stored", petition=state.id, state=state.state, pictures=here)
        self.scribe.close()
