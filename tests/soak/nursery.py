"""Starts workers quickly: forks of one interpreter that has imported what all of them need.

    python -m tests.soak.nursery

A soak starts a thousand workers, and most of a worker's start is importing. Each line on standard
input is a JSON object (argv, env, log); the answer is a line with the process id of a child that
goes on as `python -m tests.support.scripted_worker ARGV` would, in a process of its own: same
command, loop, supervisor and engine child. The nursery ends with its input; its children do not.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from sdistrib_worker.cli import command
from sdistrib_worker.flags import Programs
from tests.support.scripted_worker import scripted_command


class Forked:
    """A process that another one forked: what `subprocess.Popen` offers, as far as it is used."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd: int | None
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # dead and reaped already
            self._pidfd = None

    def poll(self) -> int | None:
        """None while it runs; nobody but its parent knows how it ended."""
        if self._pidfd is not None and not select.select([self._pidfd], [], [], 0)[0]:
            return None
        return self._over()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        if self._pidfd is not None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._pidfd], [], [], left)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self._over()

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                self._over()

    def _over(self) -> int:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        return 0


class Nursery:
    """The nursery as its user sees it."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.nursery"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1, env=environment, cwd=root,
        )  # fmt: skip

    def start(self, log: Path, argv: list[str], env: dict[str, str]) -> Forked:
        """A worker of this command line."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps({"argv": argv, "env": env, "log": str(log)}) + "\n")
        return Forked(int(self._popen.stdout.readline()))

    def close(self) -> None:
        """End it; the workers go on."""
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            stream.close()
        self._popen.wait()


def _go_on(order: dict[str, Any]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with Path("/dev/null").open("rb") as nothing, Path(order["log"]).open("ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(order["env"])
    sys.argv = ["scripted_worker", *order["argv"]]
    command(obj=Programs(engine=scripted_command))
    raise AssertionError("the command came back")


def main() -> None:
    """Fork a worker for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _go_on(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
