"""A real worker whose two processes note their heaps: `python -m tests.support.heap_worker …`.

The file `SDISTRIB_HEAP_LOG` gets lines of the worker behind pictures that were drawn, and of its
engine child before such that begin; see `heap`.
"""

import logging
import os
import sys

from sdistrib_worker import cli
from sdistrib_worker.flags import Programs
from sdistrib_worker.supervisor import FD
from tests.support.heap import Notes

LOG = os.environ["SDISTRIB_HEAP_LOG"]


class _Noter(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._notes = Notes("worker", LOG)

    def emit(self, record: logging.LogRecord) -> None:
        if ": drawn in " in record.getMessage():
            self._notes.note()


def _engine(device: str) -> tuple[str, ...]:
    probe = (sys.executable, "-m", "tests.support.engine_probe", FD)
    return (*probe, "--device", device, f"--heap={LOG}")


def main() -> None:
    """Run the worker's command."""
    logging.getLogger("sdistrib.worker").addHandler(_Noter())
    cli.command(obj=Programs(engine=_engine))


if __name__ == "__main__":
    main()
