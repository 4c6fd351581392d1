"""The simulation from the command line.

    python -m tests.simulation SEED               tells the story of one seed
    python -m tests.simulation --seeds 2000       plays many, prints those that broke a promise
    python -m tests.simulation --plants           plants each fault and says which seed finds it

The order of sets follows from Python's hash seed: it is fixed here, so that a story can be told
again.
"""

import argparse
import os
import sys

from tests.simulation.plants import PLANTS
from tests.simulation.run import Outcome, play, run

#: Seeds within which each planted fault must be found.
PLANT_SEEDS = 200


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seed", type=int, nargs="?", help="tell the story of this seed")
    parser.add_argument("--seeds", type=int, default=0, help="play so many")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--coverage", action="store_true", help="say what was met, and how often")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="with this fault")
    parser.add_argument("--plants", action="store_true", help="plant each fault in turn")
    return parser.parse_args()


def _one(seed: int, plant: str) -> int:
    outcome = play(seed, print, plant)
    print(outcome.broken.get(seed, "every promise was kept"))
    return len(outcome.broken)


def _progress(outcome: Outcome) -> None:
    if outcome.seeds % 2000 == 0:
        print(f"... {outcome.report().splitlines()[-1]}", flush=True)


def _plants(jobs: int) -> int:
    unseen = 0
    for name in PLANTS:
        outcome = run(range(PLANT_SEEDS), jobs, plant=name)
        unseen += not outcome.broken
        seed = min(outcome.broken, default=-1)
        found = f"seed {seed}: {outcome.broken[seed][:150]}" if outcome.broken else "NOT FOUND"
        print(f"{name}: {found} ({outcome.seconds:.1f} s)", flush=True)
    return unseen


def main() -> int:
    """Exit status 0 when every promise was kept, or every planted fault found."""
    options = _arguments()
    if options.seed is not None:
        return _one(options.seed, options.plant)
    if options.plants:
        return _plants(1)
    seeds = range(options.start, options.start + options.seeds)
    outcome = run(seeds, options.jobs, plant=options.plant, progress=_progress)
    if options.coverage:
        print(outcome.coverage())
    print(outcome.report())
    return min(len(outcome.broken), 1)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])  # noqa: S606
    sys.exit(main())
