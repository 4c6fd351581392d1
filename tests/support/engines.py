"""Talking to an engine child from a test: one request at a time, with a deadline."""

import itertools
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sdistrib.params import Params
from sdistrib.protocol.engine import Declined, Draw, EmbeddingFile, LogLine, LoraFile
from sdistrib_worker.supervisor import Died, EngineChild, Event, Picture, engine_command

ROOT = Path(__file__).resolve().parents[2]
#: Folders of the packages, for children that are started from elsewhere.
PYTHONPATH = os.pathsep.join(str(ROOT / part) for part in (".", "manager", "worker", "client"))
DEADLINE_S = 50.0
_numbers = itertools.count(1)


@dataclass
class Outcome:
    """What one request came to."""

    events: list[Event] = field(default_factory=list)
    picture: Picture | None = None
    pixels: bytes = b""

    @property
    def end(self) -> Event | None:
        """`Picture`, `Declined` or `Died`."""
        return self.events[-1] if self.events else None

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def log(self) -> str:
        """All log lines, with their level."""
        return "\n".join(f"{line.level} {line.text}" for line in self.of(LogLine))


def receive_until(child: EngineChild, wanted: Callable[[Event], bool]) -> list[Event]:
    """Everything up to the first wanted event, and what came along with it.

    Fails after `DEADLINE_S`, and when the child died unasked.
    """
    events: list[Event] = []
    deadline = time.monotonic() + DEADLINE_S
    while True:
        poller = select.poll()
        for descriptor in child.filenos():
            poller.register(descriptor, select.POLLIN)
        poller.poll(200)
        events += child.receive()
        if any(wanted(event) for event in events):
            return events
        if events and isinstance(events[-1], Died):
            pytest.fail(f"the child died: {events[-1]}")
        if time.monotonic() > deadline:
            pytest.fail(f"nothing came; so far: {events[-20:]}")


def outcome(child: EngineChild, request: Draw) -> Outcome:
    """Send a request and wait for its end."""
    child.send(request)
    result = Outcome(receive_until(child, lambda e: isinstance(e, Picture | Declined | Died)))
    ends = [e for e in result.events if isinstance(e, Picture | Declined | Died)]
    result.events.remove(ends[-1])
    result.events.append(ends[-1])
    if isinstance(ends[0], Picture):
        result.picture, result.pixels = ends[0], ends[0].pixels()
    return result


def died(child: EngineChild) -> Died:
    """Wait for the end of the child."""
    events = receive_until(child, lambda e: isinstance(e, Died))
    for event in events:
        if isinstance(event, Picture):
            event.close()
    (last,) = [event for event in events if isinstance(event, Died)]
    assert events[-1] is last
    return last


def request(
    models: Path = Path("models"),
    *,
    context: str = "base",
    seed: int = 3,
    files: Mapping[str, str] | None = None,
    loras: Sequence[tuple[str, float]] = (),
    embeddings: Sequence[tuple[str, str]] = (),
    inputs: Mapping[str, str] | None = None,
    max_pixels: int = 0,
    keep: int = 1,
    keep_bytes: int = 0,
    load_bytes: int = 14_000_000,
    **wishes: Any,
) -> Draw:
    """A small image of the tiny model; `files` are named below `models`."""
    params = {
        "model": "tiny", "prompt": "a cat", "width": 32, "height": 32, "steps": 2, "threads": 1,
        "cfg_scale": 1.0,
    } | wishes  # fmt: skip
    places = {"model": "stable-diffusion/tiny.safetensors"} | dict(files or {})
    return Draw(
        ticket=next(_numbers),
        context=context,
        params=Params(**params),
        seed=seed,
        files={name: str(models / place) for name, place in places.items()},
        loras=tuple(LoraFile(str(models / "lora" / name), weight) for name, weight in loras),
        embeddings=tuple(
            EmbeddingFile(name, str(models / "embeddings" / file)) for name, file in embeddings
        ),
        inputs=dict(inputs or {}),
        max_pixels=max_pixels,
        load_bytes=load_bytes,
        keep=keep,
        keep_bytes=keep_bytes,
    )


@contextmanager
def running(
    command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[EngineChild]:
    """A child that is ready; stopped at the end."""
    child = EngineChild(
        command or engine_command("auto"), {"PYTHONPATH": PYTHONPATH, **(environment or {})}
    )
    child.start()
    try:
        child.await_ready()
        yield child
    finally:
        child.stop()


def script(source: str) -> tuple[str, ...]:
    """The command of a child that is a few lines of Python; `sys.argv[1]` is its socket."""
    return (sys.executable, "-c", source, "{fd}")
