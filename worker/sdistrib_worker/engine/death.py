"""Why an engine child died: decided from its status, its last words and the kernel's counters.

`verdict` is pure; `OomKills` reads the kernel's counters of killed processes.
"""

import signal
from collections.abc import Iterable
from pathlib import Path

from sdistrib import limits
from sdistrib.errors import ErrorCode, ErrorInfo

#: What ggml, sd.cpp, libstdc++, CUDA, Vulkan and Python say, in lower case, when memory is out.
_NO_MEMORY = (
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "cannot allocate memory",
    "out of memory",
    "outofdevicememory",
    "outofhostmemory",
    "insufficient memory",
    "memoryerror",
    "alloc tensor buffer failed",
    "alloc compute buffer failed",
    "alloc params backend buffer failed",
    "not enough memory",
)
#: Lines of faulthandler's stack of the current thread that are worth keeping.
_STACK_LINES_KEPT = 3


def says_out_of_memory(lines: Iterable[str]) -> bool:
    """True when one of the log lines says that memory could not be had."""
    return any(sign in line.lower() for line in lines for sign in _NO_MEMORY)


def tail(lines: Iterable[str]) -> tuple[str, ...]:
    """The last `limits.LOG_TAIL_LINES` lines that say something.

    Of faulthandler's dump a few lines are kept, and stand before the others: whoever is shown only
    the end is to see the engine's own last words (its failed assertion), not our stack.
    """
    words: list[str] = []
    dump: list[str] = []
    in_dump = False
    room = 0
    for line in lines:
        text = line.rstrip()
        if text.startswith("Fatal Python error"):
            in_dump, room = True, 0
        elif in_dump and text.startswith(("Current thread", "Stack (most", "Thread 0x")):
            room = 0 if text.startswith("Thread") else _STACK_LINES_KEPT
            continue
        elif in_dump and text.startswith("  File "):
            room -= 1
            if room < 0:
                continue
        elif in_dump and text.lstrip().startswith(("<no Python frame>", "Extension modules:")):
            continue
        if text.strip():
            is_dump = in_dump and text.startswith(("Fatal Python error", "  File "))
            (dump if is_dump else words).append(text[: limits.TEXT_CHARS_MAX])
    dump = dump[: _STACK_LINES_KEPT + 1]
    return (*dump, *words[-(limits.LOG_TAIL_LINES - len(dump)) :])


def signal_name(status: int) -> str:
    """ "SIGSEGV" for a wait status of -11, "" for an exit status."""
    if status >= 0:
        return ""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def verdict(status: int, log: Iterable[str], where: str, oom_kill: str, fault: str) -> ErrorInfo:
    """What killed a child that nobody of us ended.

    Args:
        status: exit status, or minus the signal's number.
        log: all lines kept, oldest first.
        where: what it was doing, for example "sampling, step 3 of 20".
        oom_kill: which kernel counter of killed processes rose, "" when none did.
        fault: what was wrong with its stream, "" when nothing was.
    """
    name = signal_name(status)
    code: ErrorCode = "engine_crashed"
    if fault:
        message = f"The engine was ended because {fault} ({where})."
    elif name == "SIGKILL" and oom_kill:
        code = "out_of_memory"
        message = f"The kernel's out-of-memory killer ended the engine ({where}; {oom_kill} rose)."
    elif says_out_of_memory(log):
        code = "out_of_memory"
        end = f"by {name}" if name else f"with exit status {status}"
        message = f"The engine ran out of memory and ended {end} ({where})."
    elif name:
        message = f"The engine was ended by {name} ({where})."
    else:
        message = f"The engine ended by itself with exit status {status} ({where})."
    return ErrorInfo(code=code, message=message, signal=name, log_tail=tail(log))


class OomKills:
    """Counters of processes that the kernel's out-of-memory killer has ended.

    The control group of the child knows its own; `/proc/vmstat` counts for the whole machine and
    serves where the group's counter cannot be read.
    """

    def __init__(self, pid: int) -> None:
        self._files = _counter_files(pid)
        self._before = {file: _count(file) for file in self._files}

    def risen(self) -> str:
        """The first counter that rose since the start, with its place; "" when none did."""
        for file in self._files:
            if _count(file) > self._before[file]:
                return f"oom_kill in {file}"
        return ""


def _counter_files(pid: int) -> list[Path]:
    found: list[Path] = []
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        groups = []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        below = path.lstrip("/")
        if controllers == "":
            found += [
                Path(root, below, "memory.events")
                for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
            ]
        elif "memory" in controllers.split(","):
            found.append(Path("/sys/fs/cgroup/memory", below, "memory.oom_control"))
    found.append(Path("/proc/vmstat"))
    return [file for file in found if file.is_file()]


def _count(file: Path) -> int:
    try:
        text = file.read_text(encoding="ascii")
    except OSError:
        return 0
    for line in text.splitlines():
        word, _, number = line.partition(" ")
        if word == "oom_kill" and number.isdecimal():
            return int(number)
    return 0
