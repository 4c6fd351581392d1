"""How long a person waits for the command line."""

import subprocess
import sys
import time
from collections.abc import Iterator

from bench.stats import Figure, Sample


def _seconds(*words: str) -> float:
    began_at = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began_at


def _help(rounds: int) -> Iterator[Sample]:
    """Milliseconds of `sdistrib-client --help` by those of importing what any such client needs."""
    for number in range(rounds + 1):
        ours = _seconds("-m", "sdistrib_client", "--help")
        theirs = _seconds("-c", "import click, zmq")
        if number:  # the first pair fills the disk cache
            yield Sample.ratio(1000 * ours, 1000 * theirs)


FIGURES = (
    Figure(
        "help", "sdistrib-client --help, by python -c 'import click, zmq'",
        2.0, "<=", "x", "ms", 15, _help,
    ),
)  # fmt: skip
