"""First come, first served by image, over the workers that can and are free.

Idle engines are filled before any engine gets a second image to hold; when an engine is idle and
nothing waits, an image that another worker holds but has not begun is taken back for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sdistrib_manager.queue import Entry, Queue
from sdistrib_manager.roster import CREDIT, Lease, Worker

#: Waiting images of one petition that are looked at when the first is not for this worker.
_LOOK_AHEAD = 8

#: Says whether an image should rather go to another worker, since it failed on this one.
Avoids = Callable[[Entry, int, Worker], bool]


@dataclass(frozen=True, slots=True)
class Choice:
    """This image goes to this worker."""

    worker: Worker
    entry: Entry
    index: int


def choose(queue: Queue, workers: Iterable[Worker], now: float, avoids: Avoids) -> Iterable[Choice]:
    """Take waiting images out of the queue, one by one, each with the worker it goes to."""
    credit = {worker: worker.credit(now) for worker in workers}
    for depth in range(CREDIT):
        free = [worker for worker, left in credit.items() if left == CREDIT - depth]
        while free and (choice := _next(queue, free, avoids)) is not None:
            free.remove(choice.worker)
            credit[choice.worker] -= 1
            yield choice


def _next(queue: Queue, free: list[Worker], avoids: Avoids) -> Choice | None:
    for entry in queue.heads():
        able = [worker for worker in free if worker.has_all(entry.wanted)]
        # A worker that has the petition's model in memory needs no load.
        able.sort(key=lambda worker: not worker.has_loaded(entry.wanted))
        for worker in able:
            index = _first(entry, worker, avoids)
            if index is not None:
                entry.take(index)
                return Choice(worker, entry, index)
    return None


def _first(entry: Entry, worker: Worker, avoids: Avoids) -> int | None:
    for place, index in enumerate(entry.waiting()):
        if place == _LOOK_AHEAD:
            return None
        if not avoids(entry, index, worker):
            return index
    return None


class Recall(NamedTuple):
    """Take this lease back from this worker, for an idle one."""

    worker: Worker
    lease: Lease


def recalls(
    workers: Iterable[Worker], now: float, able: Callable[[Worker, Lease], bool]
) -> Iterable[Recall]:
    """Leases that idle workers could begin at once."""
    workers = list(workers)
    idle = [w for w in workers if not w.leases and w.credit(now) == CREDIT]
    # What is being taken back already will feed one idle worker each.
    coming = sum(lease.revoking for w in workers for lease in w.leases.values())
    for taker in idle[coming:]:
        for holder in workers:
            lease = _unstarted(holder)
            if lease is not None and able(taker, lease):
                yield Recall(holder, lease)
                break


def _unstarted(worker: Worker) -> Lease | None:
    if len(worker.leases) < CREDIT or any(lease.revoking for lease in worker.leases.values()):
        return None
    last = list(worker.leases.values())[-1]
    return None if last.started else last
