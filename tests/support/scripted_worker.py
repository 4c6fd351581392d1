"""A real worker on the scripted engine: `python -m tests.support.scripted_worker HOST DIR …`.

The same command, loop, supervisor and encoder as `sdistrib-worker`; only the engine child's command
is another one, and input files are fetched for their own sake.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sdistrib_worker import cli, loop
from sdistrib_worker import effects as fx
from sdistrib_worker.cache import InputCache, InputKeeper
from sdistrib_worker.events import InputEvent, InputReady
from sdistrib_worker.flags import Programs
from sdistrib_worker.supervisor import FD

#: The devices that there are made to be; see `fake_listing`.
LISTING = (sys.executable, "-m", "tests.support.fake_listing")
WORKER = (sys.executable, "-m", "tests.support.scripted_worker")


class NotingKeeper(InputKeeper):
    """`SDISTRIB_SCRIPTED_LOG` gets a line for each input file that was fetched, or forgotten."""

    def __init__(self, cache: InputCache, done: Callable[[InputEvent], None]) -> None:
        self._written: set[str] = set()

        def told(event: InputEvent) -> None:
            if isinstance(event, InputReady) and event.digest in self._written:
                self._written.remove(event.digest)
                _write("fetched", event.digest)
            done(event)

        super().__init__(cache, told)

    def order(self, effect: fx.InputEffect) -> None:
        """Do it as the product does."""
        if isinstance(effect, fx.WriteInput):
            self._written.add(effect.digest)
        if isinstance(effect, fx.ForgetInputs):
            for digest in effect.digests:
                _write("forgotten", digest)
        super().order(effect)


def _write(event: str, digest: str) -> None:
    if path := os.environ.get("SDISTRIB_SCRIPTED_LOG"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "seed": -1, "digest": digest}) + "\n")


def scripted_command(device: str) -> tuple[str, ...]:
    """The engine child's command."""
    module = "sdistrib.testing.scripted_engine"
    return (sys.executable, "-m", module, FD, "--device", device)


def main() -> None:
    """Run the worker's command."""
    loop.InputKeeper = NotingKeeper  # type: ignore[misc]
    cli.command(obj=Programs(engine=scripted_command, listing=LISTING, worker=WORKER))


if __name__ == "__main__":
    main()
