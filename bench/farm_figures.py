"""Figures of the manager alone, with peers that do no work: processor time and latency."""

import contextlib
import statistics
from collections.abc import Iterator
from typing import NamedTuple

import zmq

from bench.fakes import FakeClient, PlainClient
from bench.processes import Process, cpu_s, manager, running
from bench.stats import Figure, Sample
from sdistrib import limits
from sdistrib.transport import Dealer, zmq_context

_WORKERS = 2
#: Requests that the bare broker's client has under way: as many as our two workers have credit for
#: on both hops together.
_WINDOW = 8
#: Pictures per measurement of processor time; a multiple of every batch size.
_PICTURES = 2000
#: Closed-loop pictures per measurement of latency.
_LATENCIES = 25


class _Ours(NamedTuple):
    manager: Process
    client: FakeClient


class _Theirs(NamedTuple):
    broker: Process
    client: PlainClient


@contextlib.contextmanager
def _ours(context: "zmq.Context[zmq.Socket[bytes]]", workers: int, size: int) -> Iterator[_Ours]:
    with contextlib.ExitStack() as stack:
        running_manager = stack.enter_context(manager())
        where = str(running_manager.workers)
        for _ in range(workers):
            stack.enter_context(running("bench.fakes", "worker", where, str(size)))
        running_manager.joined(workers)
        client = FakeClient(Dealer(context, running_manager.clients))
        yield _Ours(running_manager.process, client)


@contextlib.contextmanager
def _broker(context: "zmq.Context[zmq.Socket[bytes]]", size: int) -> Iterator[_Theirs]:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(running("bench.broker"))
        front, back = broker.prints().split()
        for _ in range(_WORKERS):
            stack.enter_context(running("bench.fakes", "plain-worker", back, str(size)))
        yield _Theirs(broker, PlainClient(context, front))


@contextlib.contextmanager
def _proxy(
    context: "zmq.Context[zmq.Socket[bytes]]", size: int, *, verify: bool
) -> Iterator[PlainClient]:
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(running("bench.proxy"))
        front, back = proxy.prints().split()
        stack.enter_context(running("bench.fakes", "proxied-worker", back, str(size)))
        yield PlainClient(context, front, verify=verify).with_delimiter()


def _cpu_ratios(rounds: int, batch: int) -> Iterator[Sample]:
    """Manager's processor time per 1 KB picture by the broker's, in microseconds each."""
    with (
        zmq_context() as context,
        _ours(context, _WORKERS, limits.KIB) as ours,
        _broker(context, limits.KIB) as theirs,
    ):
        count = _PICTURES - _PICTURES % batch
        ours.client.draw(100)
        theirs.client.draw(100, _WINDOW)
        for _ in range(rounds):
            before = cpu_s(ours.manager.pid)
            for _ in range(count // batch):
                ours.client.draw(batch)
            manager_us = (cpu_s(ours.manager.pid) - before) / count * 1e6
            before = cpu_s(theirs.broker.pid)
            theirs.client.draw(count, _WINDOW)
            broker_us = (cpu_s(theirs.broker.pid) - before) / count * 1e6
            yield Sample.ratio(manager_us, broker_us)


def _latency_ratios(rounds: int, *, verify: bool) -> Iterator[Sample]:
    """Median milliseconds to a 1 MB picture through the manager by those through zmq_proxy."""
    size = limits.MIB
    with (
        zmq_context() as context,
        _ours(context, 1, size) as ours,
        _proxy(context, size, verify=verify) as theirs,
    ):
        for number in range(rounds + 1):
            ours_ms = 1000 * statistics.median(ours.client.draw(1)[0] for _ in range(_LATENCIES))
            theirs_ms = 1000 * statistics.median(theirs.draw(_LATENCIES, 1))
            if number:  # the first round warms up
                yield Sample.ratio(ours_ms, theirs_ms)


def _cpu_figure(batch: int) -> Figure:
    return Figure(
        f"cpu-{batch}", f"manager CPU per 1 KB picture, -b {batch}, by a 60-line broker's",
        4.0, "<=", "x", "us", 5, lambda rounds: _cpu_ratios(rounds, batch),
    )  # fmt: skip


FIGURES = (
    _cpu_figure(1000),
    _cpu_figure(100),
    _cpu_figure(16),
    Figure(
        "latency", "p50 of a 1 MB picture, by zmq_proxy's",
        2.0, "<=", "x", "ms", 20, lambda rounds: _latency_ratios(rounds, verify=False),
    ),
    Figure(
        "latency-verified", "the same, zmq_proxy's client checking SHA-256 as the manager does",
        2.0, "<=", "x", "ms", 20, lambda rounds: _latency_ratios(rounds, verify=True),
    ),
)  # fmt: skip
