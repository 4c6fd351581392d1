"""Real processes: a manager, workers and clients on loopback, ended however the test ends."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Nothing that a test waits for takes longer, on a machine that is busy with other things.
PATIENCE_S = 60.0

_LISTENING = re.compile(r"clients (\S+:\d+), workers (\S+:\d+)")


class Process:
    """One program, its standard error collected as it comes."""

    def __init__(self, *command: str, env: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "GGML_NO_BACKTRACE": "1", **(env or {})},
        )
        self._out: list[str] = []
        self._readers = [
            threading.Thread(target=self._collect, args=(stream, into), daemon=True)
            for stream, into in ((self.popen.stderr, self.lines), (self.popen.stdout, self._out))
        ]
        for reader in self._readers:
            reader.start()

    def _collect(self, stream: Any, into: list[str]) -> None:
        for line in stream:
            into.append(line)  # noqa: PERF402 - seen while it grows

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.popen.pid

    @property
    def errors(self) -> str:
        """Standard error so far."""
        return "".join(self.lines)

    @property
    def output(self) -> str:
        """Standard output so far."""
        return "".join(self._out)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Standard output as NDJSON."""
        return [json.loads(line) for line in self._out if line.strip()]

    def says(self, text: str) -> str:
        """Wait until a line of standard error holds `text`; the line."""

        def found() -> str | None:
            return next((line for line in list(self.lines) if text in line), None)

        return wait_for(found, f"{text!r} in\n{self.errors}")

    def ends(self) -> int:
        """Wait for the end; the exit status."""
        status = self.popen.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return status

    def signals(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def close(self) -> None:
        """End it, politely first."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.ends()
        for stream in (self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()


def wait_for(probe: Callable[[], Any], what: str) -> Any:
    """The first answer of `probe` that is not None or False.

    Raises:
        AssertionError: there was none within `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


class Cluster:
    """A manager and what dials it."""

    def __init__(self, *manager_options: str) -> None:
        self._processes: list[Process] = []
        self.clients_at = self.workers_at = "127.0.0.1:0"
        self.manager = self.start_manager(*manager_options)

    def start_manager(self, *options: str) -> Process:
        """Start a manager; a second time on the ports of the first."""
        ports = [at.rpartition(":")[2] for at in (self.clients_at, self.workers_at)]
        # What is kept stays out of the user's own folders.
        store = () if "--state" in options else ("--store", "memory")
        manager = self.start(
            "sdistrib_manager",
            "--client-port",
            ports[0],
            "--worker-port",
            ports[1],
            *store,
            *options,
        )
        found = _LISTENING.search(manager.says("clients "))
        assert found is not None
        self.clients_at, self.workers_at = found[1], found[2]
        self.manager = manager
        return manager

    def start(self, *command: str, env: dict[str, str] | None = None) -> Process:
        """Start `python -m …`, ended with the cluster."""
        process = Process(*command, env=env)
        self._processes.append(process)
        return process

    def worker(self, models: Path, *options: str, scripted: bool = False) -> Process:
        """Start a worker and wait until the manager knows it."""
        module = "tests.support.scripted_worker" if scripted else "sdistrib_worker"
        joined = self.manager.errors.count(" joins: ")
        worker = self.start(module, self.workers_at, str(models), *options)
        wait_for(
            lambda: (
                self.manager.errors.count(" joins: ") > joined or worker.popen.poll() is not None
            ),
            "the worker to join",
        )
        assert worker.popen.poll() is None, worker.errors
        return worker

    def client(self, *words: str, env: dict[str, str] | None = None) -> Process:
        """Start a client; it is not waited for."""
        return self.start("sdistrib_client", self.clients_at, *words, env=env)

    def draw(self, *words: str) -> Process:
        """Run a client to its end."""
        client = self.client(*words)
        client.ends()
        return client

    def close(self) -> None:
        """End everything, last started first."""
        for process in reversed(self._processes):
            process.close()


@contextmanager
def cluster(*manager_options: str) -> Iterator[Cluster]:
    """A manager for one test."""
    running = Cluster(*manager_options)
    try:
        yield running
    finally:
        running.close()
