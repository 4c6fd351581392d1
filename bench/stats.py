"""What a figure is, what its rounds add up to, and the table that shows it."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple


class Sample(NamedTuple):
    """One round: a ratio of two measurements made one after the other, or one plain number."""

    #: What is judged.
    value: float
    #: The two sides of a ratio, in the figure's `side_unit`; None for a plain number.
    ours: float | None = None
    theirs: float | None = None

    @classmethod
    def ratio(cls, ours: float, theirs: float) -> "Sample":
        """Ours by theirs."""
        return cls(ours / theirs, ours, theirs)


class Figure(NamedTuple):
    """One number that the README may quote."""

    #: Word that selects it on the command line.
    name: str
    #: What is measured, against what.
    title: str
    #: The number that its median is held against, and on which side of it the median shall be.
    limit: float
    sense: Literal["<=", ">="]
    #: "x" for a ratio, else the unit of the value.
    unit: str
    #: Unit of the two sides of a ratio; "" for plain numbers.
    side_unit: str
    #: Rounds without `--rounds`.
    rounds: int
    #: Gives the samples of so many rounds; more than one per round where they cost nothing.
    measure: Callable[[int], Iterable[Sample]]


class Outcome(NamedTuple):
    """A figure with all its samples, at least one."""

    figure: Figure
    samples: tuple[Sample, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(sample.value for sample in self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest value."""
        values = [sample.value for sample in self.samples]
        return min(values), max(values)

    @property
    def met(self) -> bool:
        """The median is on the right side of the limit, which itself is right."""
        limit = self.figure.limit
        return self.median <= limit if self.figure.sense == "<=" else self.median >= limit

    @property
    def sides(self) -> tuple[float, float] | None:
        """Medians of ours and theirs; None for plain numbers. Their ratio is not the median."""
        ours = [sample.ours for sample in self.samples if sample.ours is not None]
        theirs = [sample.theirs for sample in self.samples if sample.theirs is not None]
        return (statistics.median(ours), statistics.median(theirs)) if ours and theirs else None


def measured(figure: Figure, rounds: int | None = None) -> Outcome:
    """Measure a figure.

    Raises:
        ValueError: it gave no sample at all.
    """
    samples = tuple(figure.measure(rounds or figure.rounds))
    if not samples:
        raise ValueError(f"the figure {figure.name} gave no samples")
    return Outcome(figure, samples)


def number(value: float) -> str:
    """Three digits that say something: 0.412, 3.07, 51.4, 1240."""
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def row(outcome: Outcome) -> tuple[str, ...]:
    """One line of the table, cell by cell; see `HEADINGS`."""
    figure, unit = outcome.figure, outcome.figure.unit
    unit = unit if unit == "x" else f" {unit}"
    low, high = outcome.spread
    sides = ""
    if outcome.sides is not None:
        sides = f"{number(outcome.sides[0])} / {number(outcome.sides[1])} {figure.side_unit}"
    return (
        figure.title,
        f"{figure.sense} {figure.limit:g}{unit}",
        f"{number(outcome.median)}{unit}",
        f"{number(low)}..{number(high)} of {len(outcome.samples)}",
        sides,
        "met" if outcome.met else "NOT MET",
        f"python -m bench {figure.name}",
    )


HEADINGS = ("figure", "target", "median", "spread", "ours / theirs", "", "command")


def table(outcomes: Sequence[Outcome]) -> str:
    """All figures, one line each, in columns."""
    rows = [HEADINGS, *(row(outcome) for outcome in outcomes)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) for cells in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome for JSON."""
    figure = outcome.figure
    return {
        "name": figure.name,
        "title": figure.title,
        "target": f"{figure.sense} {figure.limit:g}",
        "unit": figure.unit,
        "median": outcome.median,
        "spread": list(outcome.spread),
        "met": outcome.met,
        "side_unit": figure.side_unit,
        "samples": [list(sample) for sample in outcome.samples],
        "command": f"python -m bench {figure.name}",
    }
