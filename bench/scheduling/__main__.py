"""`python -m bench.scheduling [WORKLOAD…] [--seeds tuning|held-out] [--json]`: policies compared.

Everything is simulated from seeds: the same figures come out on every machine.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from bench.scheduling import report, runs
from bench.scheduling.targets import verdicts
from bench.scheduling.workloads import HELD_OUT, TUNING, WORKLOADS

_SEEDS = {"tuning": TUNING, "held-out": HELD_OUT}


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduling", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--seeds", choices=_SEEDS, default="held-out", help="  [default: held-out]")
    parser.add_argument("--count", type=int, help="take only so many of them")
    parser.add_argument("--json", action="store_true", help="print JSON, with every batch")
    arguments = parser.parse_args(words)
    for name in arguments.names:
        if name not in WORKLOADS:
            parser.error(f"there is no workload {name!r}; there are {', '.join(WORKLOADS)}")
    if arguments.count is not None and arguments.count < 1:
        parser.error("--count is at least 1")
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    """Run, and print the table and the targets."""
    arguments = _arguments(words)
    seeds = _SEEDS[arguments.seeds][: arguments.count]
    peers = runs.peers()
    entrants = [*peers, *runs.ours()]
    table = {}
    for name in arguments.names or WORKLOADS:
        table[name] = report.tallies(name, seeds, entrants)
        print(f"{name}: {len(seeds)} seeds", file=sys.stderr, flush=True)
    names = [peer.name for peer in peers]
    found = verdicts(table, names)
    if arguments.json:
        print(json.dumps(report.plain(table, found), indent=1))
    else:
        print(report.text(table, names, found))


if __name__ == "__main__":
    main()
