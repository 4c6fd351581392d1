"""What a running process has: memory, descriptors, children. Linux only."""

import os
import re
from collections import Counter
from pathlib import Path


def resident_bytes(pid: int) -> int:
    """Memory of its own that is in RAM: what is mapped from files does not count."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def descriptors(pid: int) -> Counter[str]:
    """How many of each kind it has open: "socket", "pipe", "memfd", …"""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # closed just now
            continue
        kinds["memfd" if "/memfd:" in target else target.split(":", maxsplit=1)[0]] += 1
    return kinds


def children(pid: int) -> list[int]:
    """Processes that it has started and that run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in found if os.path.exists(f"/proc/{word}")]  # noqa: PTH110
