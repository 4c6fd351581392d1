"""Processes under measurement: started, told apart, ended; and what they have used."""

import contextlib
import ctypes
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from sdistrib.transport import Address

#: Nothing takes longer to start or to end.
_PATIENCE_S = 60.0
_LISTENING = re.compile(r"clients (\S+):(\d+), workers (\S+):(\d+)")
_LIBC = ctypes.CDLL(None)
_T = TypeVar("_T")


class Process:
    """One `python -m …`, its standard error in a file: a pipe that nobody reads would stop it."""

    def __init__(self, name: str, popen: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self.name = name
        self.popen = popen
        self._errors = errors

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    @property
    def errors(self) -> str:
        """What it has written to standard error so far."""
        return Path(self._errors.name).read_text(encoding="utf-8", errors="replace")

    def prints(self) -> str:
        """The next line of its standard output."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has ended:\n{self.errors}")
        return line

    def hears(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def complains(self, pattern: str) -> re.Match[str]:
        """Wait until its standard error has `pattern`."""
        return await_value(lambda: re.search(pattern, self.errors), self)


def await_value(probe: Callable[[], _T | None], process: Process) -> _T:
    """The first answer of `probe` that is something, unless `process` ends before.

    Raises:
        SystemExit: it ended, or time is up.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while (answer := probe()) is None:
        if process.popen.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.name} does not come up:\n{process.errors}")
        time.sleep(0.01)
    return answer


@contextlib.contextmanager
def running(*module_and_arguments: str) -> Iterator[Process]:
    """`python -m …` while the block runs."""
    with tempfile.NamedTemporaryFile(prefix="sdistrib-bench-") as errors:
        popen = subprocess.Popen(
            [sys.executable, "-m", *module_and_arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield Process(module_and_arguments[0], popen, errors)
        finally:
            popen.send_signal(signal.SIGTERM)
            try:
                popen.wait(10)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
            for stream in (popen.stdin, popen.stdout):
                if stream is not None:
                    stream.close()


class Manager(NamedTuple):
    """A manager under measurement."""

    process: Process
    #: Where clients and workers dial.
    clients: Address
    workers: Address

    def joined(self, workers: int) -> None:
        """Wait until so many workers have joined."""
        self.process.complains(rf"(?s)(?: joins: .*){{{workers}}}")


@contextlib.contextmanager
def manager(*store: str) -> Iterator[Manager]:
    """A manager on free ports while the block runs; keeps in memory unless `store` says where."""
    with running(
        "sdistrib_manager", "--client-port", "0", "--worker-port", "0",
        *(store or ("--store", "memory")),
    ) as process:  # fmt: skip
        found = process.complains(_LISTENING.pattern)
        clients, workers = Address(found[1], int(found[2])), Address(found[3], int(found[4]))
        yield Manager(process, clients, workers)


def cpu_s(pid: int) -> float:
    """Processor seconds that all threads of a process have used, in user and kernel."""
    clock = ctypes.c_int()
    if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise ProcessLookupError(f"there is no process {pid}")
    return time.clock_gettime(clock.value)


def rss_mib(pid: int) -> float:
    """Memory of a process that is in RAM, libraries that it shares included."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024
