"""An engine child that writes down when it is at work, and a worker that runs it.

    python -m bench.stamped worker real|scripted FILE HOST MODELS [worker's options]
    python -m bench.stamped engine real|scripted FILE FD --device D

FILE gets one line per begin and end of an image: `+` or `-`, and monotonic seconds. The real engine
is stamped around the call that draws, so that handing out the pixels counts as a gap; the scripted
one at its `Began` and `Drawn` frames.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

from sdistrib import limits
from sdistrib.protocol.engine import Began, Draw, Drawn, EngineFrame
from sdistrib.testing import scripted_engine
from sdistrib_worker.engine.base import Painting
from sdistrib_worker.supervisor import FD

Kind = Literal["real", "scripted"]


class Stamps:
    """Appends to a file, one system call per stamp."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def put(self, sign: str) -> None:
        """Now."""
        os.write(self._descriptor, f"{sign} {time.monotonic()}\n".encode())


def gaps_s(path: Path, images: int) -> list[float]:
    """Seconds between the last `images` images of a stamp file, `images - 1` of them."""
    lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    times = [(sign, float(at)) for sign, at in lines][-2 * images :]
    assert [sign for sign, _ in times] == ["+", "-"] * images, "an image did not end"
    return [times[i + 1][1] - times[i][1] for i in range(1, len(times) - 1, 2)]


def _real(stamps: Stamps) -> None:
    # Only now: the worker's own process must not load the engine.
    from sdistrib_worker.engine import __main__ as child  # noqa: PLC0415
    from sdistrib_worker.engine.sdcpp import SdCpp  # noqa: PLC0415

    draw = SdCpp.draw

    def stamped(self: SdCpp, request: Draw) -> list[Painting]:
        stamps.put("+")
        try:
            return draw(self, request)
        finally:
            stamps.put("-")

    SdCpp.draw = stamped  # type: ignore[method-assign]
    child.main()


def _scripted(stamps: Stamps) -> None:
    send = scripted_engine.Child._send  # noqa: SLF001 - its own frames are what is measured

    def stamped(self: Any, frame: EngineFrame, descriptor: int | None = None) -> None:
        if isinstance(frame, Began | Drawn):
            stamps.put("+" if isinstance(frame, Began) else "-")
        send(self, frame, descriptor)

    scripted_engine.Child._send = stamped  # type: ignore[method-assign]  # noqa: SLF001
    scripted_engine.main()


def _worker(kind: str, path: str) -> None:
    from sdistrib_worker.cli import command  # noqa: PLC0415 - the child does without
    from sdistrib_worker.flags import Programs  # noqa: PLC0415

    # In a call of several there is no gap between its images.
    limits.CALL_S_MAX = 0.0

    def engine(device: str) -> tuple[str, ...]:
        module = (sys.executable, "-m", "bench.stamped", "engine", kind, path)
        return (*module, FD, "--device", device)

    command(obj=Programs(engine=engine))


def main() -> None:
    """Be the worker or its child."""
    role, kind, path = sys.argv[1:4]
    del sys.argv[1:4]
    if role == "worker":
        _worker(kind, path)
    elif kind == "real":
        _real(Stamps(path))
    else:
        _scripted(Stamps(path))


if __name__ == "__main__":
    main()
