"""A long compilation, watched: its progress, its log, its end, and what to say when it fails.

Standard library only: `engine_wheel.py` runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

#: What a failed build's log says -> what to do about it. The first match wins.
REMEDIES = (
    (r"No space left on device", "free some disk space: a build needs about 1 GB, CUDA 4 GB"),
    (
        r"Killed signal|fatal error: Killed|out of memory",
        "the compiler ran out of memory: set CMAKE_BUILD_PARALLEL_LEVEL=1 and run this again",
    ),
    (
        r"LayerSettingEXT",
        "these Vulkan headers are older than 1.4.309: give newer ones, -DVulkan_INCLUDE_DIR=DIR",
    ),
    (r"Could NOT find Vulkan", "install libvulkan-dev and glslc"),
    (r"spirv\.hpp", "install spirv-headers"),
    (
        r"CUDA Toolkit not found|No CMAKE_CUDA_COMPILER|nvcc.*not found|CUDA::cublas",
        "install the whole CUDA toolkit and put nvcc on PATH, or name it in CUDACXX",
    ),
    (r"unsupported GNU version", "this CUDA wants an older g++: name one in CUDAHOSTCXX"),
    (r"lacks SYCL support", "load oneAPI first: `source /opt/intel/oneapi/setvars.sh`"),
    (
        r"Could not find a version|No matching distribution|ConnectionError|Temporary failure in",
        "the sources could not be downloaded: check the network and pip's index settings",
    ),
)


class BuildError(Exception):
    """The wheel cannot be made; the message says why and what to do, in one sentence."""


def tell(message: str) -> None:
    """One line for the person at the terminal."""
    print(f"sdistrib: {message}", file=sys.stderr, flush=True)


def parse_step(line: str) -> tuple[int, int] | None:
    """(done, all) of ninja's `[3/51] …` or (3, 100) of make's `[  3%] …`, else None."""
    found = re.match(r"\s*\[\s*(\d+)(?:/(\d+)|%)\]", line)
    return (int(found[1]), int(found[2] or 100)) if found else None


class Progress:
    """One updating line on a terminal; elsewhere a line at every tenth, or after two minutes."""

    QUIET_S = 120.0
    REDRAW_S = 0.2

    def __init__(self, label: str, stream: TextIO, *, tty: bool, now: float) -> None:
        self.label, self.stream, self.tty = label, stream, tty
        self.started = self.spoken = now
        self.done, self.total, self.tenth = 0, 0, -2

    def feed(self, line: str, now: float) -> None:
        """Takes one line of the build's output."""
        step = parse_step(line)
        # A build inside the build (Vulkan's shader compiler) counts for itself: the largest counts.
        if step and step[0] and step[1] >= self.total:
            self.done, self.total = step
        self.tick(now)

    def tick(self, now: float) -> None:
        """Says where the build is, if there is something new to say."""
        tenth = self.done * 10 // self.total if self.total else -1
        quiet_s = self.REDRAW_S if self.tty else self.QUIET_S
        if tenth == self.tenth and now - self.spoken < quiet_s:
            return
        text = self.text(now)
        self.stream.write(f"\r\x1b[K{text}" if self.tty else f"{text}\n")
        self.stream.flush()
        self.tenth, self.spoken = tenth, now

    def text(self, now: float) -> str:
        """Where the build is, for a person."""
        minutes, seconds = divmod(int(now - self.started), 60)
        where = (
            f"compiling [{self.done}/{self.total}]" if self.total else "fetching and configuring"
        )
        share = f" {100 * self.done // self.total}%" if self.total else ""
        return f"sdistrib: {self.label}: {where}{share}, {minutes}:{seconds:02d}"

    def close(self) -> None:
        """Leaves the terminal on a fresh line."""
        if self.tty:
            self.stream.write(f"\r\x1b[K{self.text(time.monotonic())}\n")
            self.stream.flush()


def session_members(leader: int) -> list[int]:
    """Living processes of a session; a group is not enough, ninja gives each compiler its own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def end_session(leader: int, patience_s: float = 5.0) -> None:
    """Ends every process of a session: politely, then not."""
    signal_session(leader, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while session_members(leader) and time.monotonic() < deadline:
        time.sleep(0.05)
    signal_session(leader, signal.SIGKILL)


def signal_session(leader: int, signum: signal.Signals) -> None:
    """Sends a signal to a session's processes, or to its first group where there is no /proc."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signum)
    for pid in session_members(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def run_logged(
    command: Sequence[str], environ: Mapping[str, str], log: Path, progress: Progress
) -> int:
    """Runs a command in a session of its own, its output into `log`; gives its exit code."""
    process = subprocess.Popen(
        command,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None  # PIPE was asked for
    pipe = process.stdout.fileno()
    try:
        with log.open("wb") as sink, selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            rest, chunk = b"", b"-"
            while chunk:
                if not ready.select(timeout=1.0):
                    progress.tick(time.monotonic())
                    if process.poll() is not None:
                        break  # a compiler cache's server may hold the pipe open for ever
                    continue
                chunk = os.read(pipe, 1 << 16)
                sink.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    progress.feed(line.decode(errors="replace"), time.monotonic())
        return process.wait()
    finally:
        end_session(process.pid)
        process.wait()
        process.stdout.close()


def explain(log: Path) -> tuple[str, str]:
    """Where a failed log first goes wrong, and one sentence of what to do."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip()[:240] for line in text.splitlines() if line.strip()]
    wrong = re.compile(r"FAILED:|CMake Error|\berror:|\bERROR:")
    start = next((n for n, line in enumerate(lines) if wrong.search(line)), len(lines) - 20)
    shown = "\n".join(f"  {line}" for line in lines[max(0, start) :][:20])
    remedy = next((what for pattern, what in REMEDIES if re.search(pattern, text)), "read the log")
    return shown, f"the engine did not compile: {remedy} (log: {log})"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file; the kernel lets go of it however we end."""
    with path.open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another build of this same engine is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def catch_signals() -> None:
    """Whatever ends us does it as Ctrl-C would, through every `finally`; repeats are ignored."""
    ours = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    ours = [signum for signum in ours if signal.getsignal(signum) is not signal.SIG_IGN]

    def interrupt(signum: int, _frame: object) -> NoReturn:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signum)

    for signum in ours:
        signal.signal(signum, interrupt)
