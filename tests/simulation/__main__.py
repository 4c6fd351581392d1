"""The simulation from the command line.

    python -m tests.simulation SEED               tells the story of one seed
    python -m tests.simulation --seeds 2000       plays many, prints those that broke a promise
    python -m tests.simulation --plants           plants each fault and says which seed finds it

Nothing but the seed decides: neither the clock, nor the machine, nor Python's hash seed.
"""

import argparse
import os
import sys
import time

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
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="say what was met, and how often; fail where that is too seldom for a run of 2,000",
    )
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
    count = len(PLANTS)
    print(f"{count - unseen} of {count} found in {time.process_time():.1f} s of one core's time")
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
    seldom = outcome.seldom() if options.coverage else []
    if options.coverage:
        print(outcome.coverage())
    print(outcome.report())
    for what in seldom:
        print(f"too seldom: {what}")
    if outcome.broken:
        plant = f" --plant '{options.plant}'" if options.plant else ""
        print(f"its story: python -m tests.simulation{plant} {min(outcome.broken)}")
    return min(len(outcome.broken) + len(seldom), 1)


if __name__ == "__main__":
    sys.exit(main())
