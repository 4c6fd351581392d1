"""The worker's own engine in one process with nothing around it: the loop to be equalled.

`python -m bench.bare MODEL_FILE THREADS [KIND]` reads numbers of images from standard input, draws
that many of a kind of `bench.engine_figures.KINDS` with seeds from 0 and prints the seconds it
took. A second number on a line says how many go into one call of the engine.
"""

import sys
import time
from collections.abc import Callable

from bench.engine_figures import KINDS
from sdistrib.protocol.engine import Draw
from sdistrib.protocol.messages import Phase
from sdistrib_worker.engine.sdcpp import SdCpp


class _Deaf:
    def at(
        self, phase: Phase, step: int = 0, steps: int = 0, step_s: float = 0.0, image: int = 0
    ) -> None:
        """Nobody is told."""

    takes_preview = False

    def when_room(self, then: Callable[[], None]) -> None:
        """There never is."""

    def preview(
        self, step: int, width: int, height: int, channels: int, pixels: bytes, *, noisy: bool
    ) -> None:
        """Nobody looks."""

    def holds(self, contexts: tuple[str, ...]) -> None:
        """Nobody is told."""

    def log(self, level: int, text: str) -> None:
        """Nobody is told."""


def main() -> None:
    """Serve until standard input ends."""
    model, threads, *kind = sys.argv[1:]
    params = KINDS[kind[0] if kind else "usual"]
    engine = SdCpp("auto", _Deaf())
    for line in sys.stdin:
        began_at = time.perf_counter()
        images, per_call = map(int, [*line.split(), "1"][:2])
        for number in range(0, images, per_call):
            request = Draw(
                ticket=1, count=per_call, context="bare", params=params, seed=number,
                files={"model": model}, threads=int(threads),
            )  # fmt: skip
            engine.draw(request)
        print(time.perf_counter() - began_at, flush=True)


if __name__ == "__main__":
    main()
