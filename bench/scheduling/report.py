"""The table of all workloads and policies, and ours by each peer."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from bench.scheduling.bounds import bounds
from bench.scheduling.runs import Entrant, run
from bench.scheduling.tally import Tally, geometric, tally
from bench.scheduling.targets import Table, Verdict
from bench.scheduling.workloads import MIXES, WORKLOADS

_HEADINGS = (
    "workload", "policy", "makespan", "mean wait", "p95 wait", "loads", "wasted",
    "passed s", "overtaken s", "unfairly s", "newcomer s",
)  # fmt: skip


def tallies(name: str, seeds: Iterable[int], entrants: Iterable[Entrant]) -> dict[str, Tally]:
    """Run all entrants on all instances of a workload."""
    workloads = [workload for seed in seeds for workload in WORKLOADS[name](seed)]
    floors = [bounds(workload) for workload in workloads]
    return {
        entrant.name: tally(workloads, floors, [run(w, entrant) for w in workloads])
        for entrant in entrants
    }


def rows(name: str, policies: dict[str, Tally]) -> list[tuple[str, ...]]:
    """Lines of the table for one workload; see `_HEADINGS`."""
    return [
        (
            name,
            policy,
            f"{t.makespan:.2f}",
            f"{t.mean:.2f}",
            f"{t.p95:.2f}",
            f"{t.loads:.0f}",
            f"{t.wasted:.1%}",
            f"{t.passed_s:.0f}",
            f"{t.overtaken_s:.0f}",
            "" if math.isnan(t.unfair_s) else f"{t.unfair_s:.0f}",
            "" if math.isnan(t.first_s) else f"{t.first_s:.1f}",
        )
        for policy, t in policies.items()
    ]


def text(table: Table, peers: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """All that was found, in words and columns."""
    lines = [
        "Times by the lower bound, geometric means over runs; seconds are the worst run's.",
        "",
    ]
    lines += columns([_HEADINGS, *(r for name in table for r in rows(name, dict(table[name])))])
    lines += _against(table, peers)
    if verdicts:
        lines += ["", *columns([("target", "limit", "value", ""), *map(_judged, verdicts)])]
    return "\n".join(lines)


def _judged(verdict: Verdict) -> tuple[str, ...]:
    met = "met" if verdict.met else "NOT MET"
    return (verdict.text, f"<= {verdict.limit:g}", f"{verdict.value:.3f}", met)


def _against(table: Table, peers: Sequence[str]) -> list[str]:
    """Mean waits of ours by each peer's, and over the model mixes."""
    ours = [p for p in next(iter(table.values()), {}) if p not in peers]
    found: list[tuple[str, ...]] = []
    for policy in ours:
        ratios = {
            name: [policies[policy].mean / policies[peer].mean for peer in peers]
            for name, policies in table.items()
        }
        found += [(name, policy, *(f"{r:.2f}" for r in line)) for name, line in ratios.items()]
        mixes = [line for name, line in ratios.items() if name in MIXES]
        if mixes:
            means = [geometric(column) for column in zip(*mixes, strict=True)]
            found.append(("model mixes", policy, *(f"{r:.2f}" for r in means)))
    if not found:
        return []
    return ["", "Mean wait of ours by each peer's:", *columns([("", "", *peers), *found])]


def columns(table: Sequence[tuple[str, ...]]) -> list[str]:
    """Cells under each other, the first two to the left."""
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def plain(table: Table, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The same for JSON; what does not apply is null."""
    return {
        "workloads": {
            name: {policy: _plain(t) for policy, t in policies.items()}
            for name, policies in table.items()
        },
        "targets": [{**v._asdict(), "met": v.met} for v in verdicts],
    }


def _plain(t: Tally) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in vars(t).items()
    }
