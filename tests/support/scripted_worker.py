"""A real worker on the scripted engine: `python -m tests.support.scripted_worker HOST DIR …`.

The same command, loop, supervisor and encoder as `sdistrib-worker`; only the engine child's command
is another one, and input files are fetched for their own sake.
"""

import sys

from sdistrib_worker import cli
from sdistrib_worker.flags import Programs
from sdistrib_worker.supervisor import FD
from tests.support.fetching import FetchingDealer

#: The devices that there are made to be; see `fake_listing`.
LISTING = (sys.executable, "-m", "tests.support.fake_listing")
WORKER = (sys.executable, "-m", "tests.support.scripted_worker")


def scripted_command(device: str) -> tuple[str, ...]:
    """The engine child's command."""
    module = "sdistrib.testing.scripted_engine"
    return (sys.executable, "-m", module, FD, "--device", device)


def main() -> None:
    """Run the worker's command."""
    cli.Dealer = FetchingDealer  # type: ignore[misc]
    cli.command(obj=Programs(engine=scripted_command, listing=LISTING, worker=WORKER))


if __name__ == "__main__":
    main()
