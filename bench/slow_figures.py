"""What one peer on a slow link costs everybody else.

`python -m bench.slow_figures HOST:PORT BYTES` is a worker that alone has the model of the large
picture.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from bench.fakes import FAKE_PARAMS, FakeClient, worker
from bench.processes import manager, running
from bench.stats import Figure, Sample
from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.transport import Address, Dealer, zmq_context
from tests.support.proxy import link

_LARGE = ModelFile("stable-diffusion", "large.safetensors", 1)
_LARGE_BYTES = 30_000_000
_LINK_BYTES_PER_S = 1e6
#: Small pictures per side and round: the largest but three or four is the 99th of a hundred.
_PICTURES = 400


def _p99_ms(client: FakeClient) -> float:
    times = sorted(client.draw(1)[0] for _ in range(_PICTURES))
    return 1000 * times[_PICTURES * 99 // 100]


def _draw_large(client: FakeClient, times: list[float]) -> None:
    times += client.draw(1)


def _ratios(rounds: int) -> Iterator[Sample]:
    """p99 of a 1 KB picture while a large one crawls in, by that on an idle farm."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq_context())
        farm = stack.enter_context(manager())
        slow = stack.enter_context(link(str(farm.workers)))
        slow.bytes_per_s = _LINK_BYTES_PER_S
        stack.enter_context(running("bench.fakes", "worker", str(farm.workers), str(limits.KIB)))
        stack.enter_context(running("bench.slow_figures", slow.address, str(_LARGE_BYTES)))
        farm.joined(2)
        client = FakeClient(Dealer(context, farm.clients), FAKE_PARAMS)
        wishes = Params(prompt="x", model="large")
        other = FakeClient(Dealer(context, farm.clients), wishes)
        _p99_ms(client)
        for _ in range(rounds):
            alone_ms = _p99_ms(client)
            before, times = slow.passed["up"], list[float]()
            large = threading.Thread(target=_draw_large, args=(other, times))
            large.start()
            while slow.passed["up"] < before + _LINK_BYTES_PER_S:
                time.sleep(0.01)
            beside_ms = _p99_ms(client)
            assert large.is_alive(), "the large picture was there before the small ones"
            large.join()
            assert len(times) == 1, "the large picture did not come"
            yield Sample.ratio(beside_ms, alone_ms)


FIGURES = (
    Figure(
        "slow-link", "p99 of a 1 KB picture beside a 30 MB one on a 1 MB/s link, by that alone",
        2.0, "<=", "x", "ms", 3, _ratios,
    ),
)  # fmt: skip


if __name__ == "__main__":
    _host, _, _port = sys.argv[1].rpartition(":")
    worker(Address(_host, int(_port)), int(sys.argv[2]), _LARGE)
