"""`python -m bench [NAME…] [--rounds N] [--json FILE]`: the figures of the README.

`python -m bench scheduling …` instead simulates farms, see `bench.scheduling`.

Measurements that are compared are made in turn (ours, theirs, ours, …) and divided pair by pair.
This is no test: the exit status says only whether everything could be measured.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import (
    dispatch_figures,
    durable_figures,
    engine_figures,
    farm_figures,
    slow_figures,
    start_figures,
)
from bench.scheduling import __main__ as scheduling
from bench.stats import Figure, Outcome, measured, plain, row, table

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        *engine_figures.FIGURES, *farm_figures.FIGURES, *start_figures.FIGURES,
        *durable_figures.FIGURES, *slow_figures.FIGURES, *dispatch_figures.FIGURES,
    )
}  # fmt: skip
#: Words for several figures.
GROUPS: dict[str, list[str]] = {
    "durable": [figure.name for figure in durable_figures.FIGURES],
    "dispatch": [figure.name for figure in dispatch_figures.FIGURES],
}

_WORDS = (*FIGURES, *GROUPS)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_WORDS)}")
    parser.add_argument("--rounds", type=int, help="pairs of measurements  [default: by figure]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    arguments = parser.parse_args(words)
    for name in arguments.names:
        if name not in _WORDS:
            parser.error(f"there is no figure {name!r}; there are {', '.join(_WORDS)}")
    arguments.names = [one for name in arguments.names for one in GROUPS.get(name, [name])]
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the samples."""
    words = sys.argv[1:] if words is None else words
    if words and words[0] == "scheduling":
        scheduling.main(words[1:])
        return
    arguments = _arguments(words)
    outcomes: list[Outcome] = []
    for name in arguments.names or FIGURES:
        outcome = measured(FIGURES[name], arguments.rounds)
        outcomes.append(outcome)
        print("  ".join(filter(None, row(outcome)[:-1])), file=sys.stderr, flush=True)
    print(table(outcomes))
    if arguments.json is not None:
        text = json.dumps([plain(outcome) for outcome in outcomes], indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
