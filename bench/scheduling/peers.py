"""All peers' policies by name."""

from bench.scheduling.farm import Workload
from bench.scheduling.peer_fifo import Fifo, LeastRecent
from bench.scheduling.peer_horde import Horde
from bench.scheduling.peer_static import EqualSplit, Topics
from bench.scheduling.peer_swarm import Swarm
from bench.scheduling.peer_webui import Webui
from bench.scheduling.policy import Make, Policy

#: Probability that a reGen worker asks only for what it has loaded.
_STICKINESS = 0.75


def _fifo(_: Workload) -> Policy:
    return Fifo()


def _least_recent(_: Workload) -> Policy:
    return LeastRecent()


def _webui(_: Workload) -> Policy:
    return Webui(complement=True)


def _webui_plain(_: Workload) -> Policy:
    return Webui(complement=False)


def _horde(workload: Workload) -> Policy:
    return Horde(0.0, workload.seed)


def _horde_sticky(workload: Workload) -> Policy:
    return Horde(_STICKINESS, workload.seed)


def _swarm(_: Workload) -> Policy:
    return Swarm()


def _equal(_: Workload) -> Policy:
    return EqualSplit()


def _stealing(_: Workload) -> Policy:
    return EqualSplit(stealing=True)


PEERS: dict[str, Make] = {
    "fifo-fastest": _fifo,
    "sdistrib-c++": _least_recent,
    "webui-distributed": _webui,
    "webui-no-complement": _webui_plain,
    "ai-horde": _horde,
    "ai-horde-sticky": _horde_sticky,
    "sd-webui-api-queue": Topics,
    "swarmui": _swarm,
    "equal-split": _equal,
    "naive-stealing": _stealing,
}
