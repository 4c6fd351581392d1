"""The soak: real processes, killed at random, and a proof from what they wrote down.

    python -m tests.soak [--part N] [--seed S] [--keep FOLDER]

10,000 images on 8 workers with a scripted 20 ms engine; 1,000 workers, 300 engines, 100 managers
and 50 clients die on the way. `--part 10` is a tenth of it. The seed is printed and decides the
petitions and the order of the faults; the moments are the machine's. Exits 1 when a promise broke.
"""

import argparse
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.soak.plan import FULL
from tests.soak.run import Soak

#: The whole soak takes about a quarter of an hour on two cores; this is the bound of a bug.
_LIMIT_S = 3600.0


def main() -> None:
    """Run one soak and print what it has shown."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--part", type=int, default=1, metavar="N", help="a part of all: 1/N")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave histories and logs here")
    arguments = parser.parse_args()
    print(f"soak: seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = arguments.keep or Path(temporary)
        models = Path(temporary) / "models" / "Stable-diffusion"
        models.mkdir(parents=True)
        (models / "tiny.safetensors").write_bytes(b"the scripted engine is content with anything")
        soak = Soak(FULL.part(arguments.part), arguments.seed, folder / "soak", models.parent)
        report = soak.run(_LIMIT_S)
    print(json.dumps(asdict(report), indent=2))
    sys.exit(1 if report.anomalies else 0)


if __name__ == "__main__":
    main()
