"""All runs of one policy on one workload, added up."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.scheduling.bounds import Bounds
from bench.scheduling.farm import Workload
from bench.scheduling.measures import Measures


def geometric(values: Iterable[float]) -> float:
    """Geometric mean; nan of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


@dataclass(frozen=True)
class Tally:
    """Ratios are geometric means over runs, of the run's figure by its lower bound."""

    #: Of each run.
    makespans: tuple[float, ...]
    makespan: float
    mean: float
    p95: float
    #: Loads per run, and most loads of one context in one run.
    loads: float
    loads_worst: int
    #: Worst of all runs; see `Measures`. nan where there is no fair order, or no newcomer.
    passed_s: float
    overtaken_s: float
    unfair_s: float
    first_s: float
    late_s: float
    #: Part of the drawing that was of no use.
    wasted: float
    #: The longest load that any box can have.
    load_s: float


def tally(
    workloads: Sequence[Workload], floors: Sequence[Bounds], runs: Sequence[Measures]
) -> Tally:
    """Add up runs, one per workload."""
    pairs = list(zip(runs, floors, strict=True))
    makespans = tuple(run.makespan_s / floor.makespan_s for run, floor in pairs)
    drawn_s = math.fsum(run.drawn_s for run in runs)
    return Tally(
        makespans=makespans,
        makespan=geometric(makespans),
        mean=geometric(run.mean_s / floor.mean_s for run, floor in pairs),
        p95=geometric(run.p95_s / floor.p95_s for run, floor in pairs),
        loads=sum(run.loads_total for run in runs) / len(runs),
        loads_worst=max(max(run.loads.values(), default=0) for run in runs),
        passed_s=max(run.passed_s for run in runs),
        overtaken_s=max(run.overtaken_s for run in runs),
        unfair_s=max(run.unfair_s for run in runs),
        first_s=max(run.newcomer_s for run in runs),
        late_s=max(run.late_s for run in runs),
        wasted=math.fsum(run.wasted_s for run in runs) / drawn_s,
        load_s=max(s for w in workloads for box in w.boxes for s in box.load_s.values()),
    )
