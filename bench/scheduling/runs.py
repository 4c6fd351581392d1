"""One run: a workload, a policy, and what the policy knows."""

import importlib
import importlib.util
import math
from typing import NamedTuple

from bench.scheduling.engine import simulate
from bench.scheduling.farm import Workload
from bench.scheduling.measures import Measures, measure
from bench.scheduling.peers import PEERS
from bench.scheduling.policy import Knowledge, Make, guesses, jitter

_OURS = "bench.scheduling.ours"


class Entrant(NamedTuple):
    """A policy that takes part, and what it is told of speeds beforehand."""

    name: str
    make: Make
    knowledge: Knowledge


def peers() -> list[Entrant]:
    """All peers. Each knows exact speeds, better than any benchmark run would tell it."""
    return [Entrant(name, make, "exact") for name, make in PEERS.items()]


def ours() -> list[Entrant]:
    """Our scheduler, `ours.make(workload)`, with each kind of knowledge; empty without it."""
    if importlib.util.find_spec(_OURS) is None:
        return []
    make: Make = importlib.import_module(_OURS).make
    return [
        Entrant("ours", make, "exact"),
        Entrant("ours~30%", make, "noisy"),
        Entrant("ours~30%~50%", make, "vague"),
        Entrant("ours-cold", make, "cold"),
    ]


def run(workload: Workload, entrant: Entrant) -> Measures:
    """Simulate and measure; PolicyError if the policy orders nonsense or stops."""
    policy = entrant.make(workload)
    known = guesses(workload.boxes, entrant.knowledge, workload.seed)
    unsteady = jitter(workload, entrant.knowledge)
    log = simulate(workload, policy, known, jitter=unsteady)
    unfair_s = getattr(policy, "unfair_s", math.nan)
    return measure(workload, log, together=policy.delivers_together, unfair_s=unfair_s)
