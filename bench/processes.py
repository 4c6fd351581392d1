"""Processes under measurement: started, told apart, ended; and what they have used."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from sdistrib.transport import Address

_TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(*module_and_arguments: str, **popen: object) -> Iterator[subprocess.Popen[str]]:
    """`python -m …` while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", *module_and_arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **popen,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def manager() -> Iterator[tuple[subprocess.Popen[str], Address, Address]]:
    """A manager on free ports: the process, and where clients and workers dial."""
    with running("sdistrib_manager", "--client-port", "0", "--worker-port", "0") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"clients (\S+):(\d+), workers (\S+):(\d+)", line):
                clients = Address(found[1], int(found[2]))
                yield process, clients, Address(found[3], int(found[4]))
                return
        raise SystemExit("the manager did not start")


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used, in user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(pid: int) -> float:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024
