"""All peers' policies by name."""

from bench.scheduling.farm import Workload
from bench.scheduling.peer_fifo import Fifo, LeastRecent
from bench.scheduling.policy import Make, Policy


def _fifo(_: Workload) -> Policy:
    return Fifo()


def _least_recent(_: Workload) -> Policy:
    return LeastRecent()


PEERS: dict[str, Make] = {
    "fifo-fastest": _fifo,
    "sdistrib-c++": _least_recent,
}
