"""Granted attempts that wait for the engine, where they can be revoked. Pure."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from sdistrib.protocol.messages import Attempt
from sdistrib_worker.calls import Job, together

#: Attempts that may wait here. A manager grants a handful; the list of those given back when its
#: session ends must fit the header of one message.
QUEUE_MAX = 256


class Queue:
    """Attempts in the order in which they are drawn."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, attempt: Attempt) -> bool:
        return any(job.attempt == attempt for job in self._jobs)

    def add(self, job: Job) -> bool:
        """Take an attempt; False when there is no room."""
        if len(self._jobs) >= QUEUE_MAX:
            return False
        self._jobs.append(job)
        return True

    def put_back(self, jobs: Iterable[Job]) -> None:
        """What was taken is next again, in this order."""
        self._jobs.extendleft(reversed(list(jobs)))

    def remove(self, attempt: Attempt) -> bool:
        """Take an attempt out; False when it is not there."""
        kept = deque(job for job in self._jobs if job.attempt != attempt)
        found = len(kept) < len(self._jobs)
        self._jobs = kept
        return found

    def clear(self) -> list[Attempt]:
        """Take all out."""
        attempts = [job.attempt for job in self._jobs]
        self._jobs.clear()
        return attempts

    def next(self, can_begin: Callable[[Job], bool]) -> Job | None:
        """The first that can begin; one that cannot stops no other."""
        return next((job for job in self._jobs if can_begin(job)), None)

    def take(self, first: Job, image_s: float, most: int) -> list[Job]:
        """Take out what one call of the engine draws: this job, and what may go with it.

        Args:
            first: one of those that wait.
            image_s: expected seconds of one such image; 0 when not known.
            most: images that there is room for.
        """
        place = self._jobs.index(first)
        jobs = together(first, islice(self._jobs, place + 1, None), image_s, most)
        for job in jobs:
            self._jobs.remove(job)
        return jobs
