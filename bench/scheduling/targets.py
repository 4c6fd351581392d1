"""The targets of the scheduler, and whether our runs meet them.

Batches are held against the optimum with each kind of knowledge; with speeds known to 30 % and
loads to 50 % the limits are ours, and harder than the target, which speaks of speeds. All else is
judged from cold, as the scheduler ships: it is told no speeds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bench.scheduling.tally import Tally, geometric
from bench.scheduling.workloads import BATCHES, KEEPING, MIXES, SINGLES

_COLD = "ours-cold"
#: The bound on overtaking: this, or twice the longest load.
_OVERTAKEN_S = 60.0
#: Two messages: the one that takes a prefetched image back, the one that grants.
_LATE_S = 0.05

#: Tallies by workload and policy.
Table = Mapping[str, Mapping[str, Tally]]


class Verdict(NamedTuple):
    """One target."""

    text: str
    limit: float
    value: float

    @property
    def met(self) -> bool:
        """At most the limit."""
        return self.value <= self.limit


def verdicts(table: Table, peers: Sequence[str]) -> list[Verdict]:
    """Those targets that the workloads in the table can say something about."""
    if not any(_COLD in tallies for tallies in table.values()):
        return []
    return [*_batches(table), *_waiting(table, peers), *_fairness(table)]


def _batches(table: Table) -> Iterator[Verdict]:
    names = [name for name in BATCHES if name in table and name != "death"]
    limits = (
        ("ours", 1.02, 1.02), ("ours~30%", 1.15, 1.25), ("ours~30%~50%", 1.15, 1.25),
        ("ours-cold", 1.5, 1.5),
    )  # fmt: skip
    for policy, mean, worst in limits:
        ratios = [r for name in names for r in table[name][policy].makespans]
        if ratios:
            text = f"{policy}: batch makespan / optimum"
            yield Verdict(f"{text}, mean", mean, sum(ratios) / len(ratios))
            yield Verdict(f"{text}, worst", worst, max(ratios))
    if "death" in table:
        ratios = list(table["death"]["ours"].makespans)
        text = "ours: a box dies, makespan / optimum that knows it"
        yield Verdict(f"{text}, mean", 1.3, sum(ratios) / len(ratios))
        yield Verdict(f"{text}, worst", 1.3, max(ratios))


def _best(tallies: Mapping[str, Tally], peers: Iterable[str], what: str) -> float:
    """Ours by the best peer's."""
    best = min(float(getattr(tallies[peer], what)) for peer in peers)
    return float(getattr(tallies[_COLD], what)) / best


def _waiting(table: Table, peers: Sequence[str]) -> Iterator[Verdict]:
    mixes = {name: _best(table[name], peers, "mean") for name in MIXES if name in table}
    if mixes:
        text = "model mixes, mean wait / best peer's"
        yield Verdict(f"{text}, geometric mean", 0.7, geometric(mixes.values()))
        worst = max(mixes, key=mixes.__getitem__)
        yield Verdict(f"{text}, worst ({worst})", 1.0, mixes[worst])
    for name in SINGLES:
        if name in table:
            ratio = table[name][_COLD].mean / table[name]["fifo-fastest"].mean
            yield Verdict(f"{name}: mean wait / fifo-fastest", 1.02, ratio)
    tails = {n: _best(table[n], peers, "p95") for n in MIXES | SINGLES if n in table}
    if tails:
        worst = max(tails, key=tails.__getitem__)
        yield Verdict(f"p95 of waits / best peer's, worst ({worst})", 1.0, tails[worst])


def _fairness(table: Table) -> Iterator[Verdict]:
    if "alternating" in table:
        loads = table["alternating"][_COLD].loads_worst
        yield Verdict("alternating: loads of one context, most", 2, loads)
    excess = {
        name: table[name][_COLD].unfair_s / max(_OVERTAKEN_S, 2 * table[name][_COLD].load_s)
        for name in table
        if name in MIXES | SINGLES
    }
    if excess:
        worst = max(excess, key=excess.__getitem__)
        text = f"overtaken in fair order / max(60 s, 2 loads), worst ({worst})"
        yield Verdict(text, 1.0, excess[worst])
    one, two = KEEPING
    if one in table and two in table:
        ratio = table[two][_COLD].loads / table[one][_COLD].loads
        yield Verdict("loads of boxes that keep two contexts / that keep one", 0.6, ratio)
    if "newcomer" in table:
        late_s = table["newcomer"][_COLD].late_s
        yield Verdict("newcomer: begins this long after the first free box, s", _LATE_S, late_s)
