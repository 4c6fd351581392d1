"""Waiting work: one line for each context, kind and size, each in fair order.

However many images wait, a choice looks at the head of each line only. Fair order is: priority,
then the client's round, then what is due first. A petition is due some multiple of its own length
after it came, so that short ones go before long ones, and no stream of them does so for ever.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Hashable, Iterator
from itertools import islice
from typing import NamedTuple

from sdistrib_manager.scheduler.shares import Shares
from sdistrib_manager.scheduler.work import Job

#: Petitions of one line that are looked at when the head is not for a box.
_LOOK = 8
#: The round of first images: before all others.
_FIRST = -1


class Key(NamedTuple):
    """Who goes first; the smaller key does."""

    priority: int
    #: Of its client, see `Shares`.
    round: int
    #: Of the petition: it came so late, or is so long, that others may go first until then.
    due: float
    #: Order of arrival.
    number: int


class Line:
    """Petitions that need the same context, have the same size, and fit the same boxes."""

    def __init__(self, context: Hashable, shares: Shares) -> None:
        self.context = context
        #: Images that wait in it.
        self.images = 0
        self._shares = shares
        #: Each client's petitions with waiting images, by (priority, due, number).
        self._clients: dict[str, list[tuple[int, float, int, str, Job]]] = {}
        #: (key, client): the key may be outdated, and is then too small.
        self._turns: list[tuple[Key, str]] = []
        #: How often each client stands there.
        self._stands: dict[str, int] = {}
        #: When a petition of another line first went before its head, since it was last served.
        self.passed_at: float | None = None

    def add(self, job: Job) -> None:
        """A petition has waiting images, and had none."""
        queue = self._clients.setdefault(job.client, [])
        insort(queue, _place(job))
        self.place(job)

    def place(self, job: Job) -> None:
        """The petition may go earlier than before."""
        if self._clients[job.client][0][-1] is job:
            heapq.heappush(self._turns, (self._key(job), job.client))
            self._stands[job.client] = self._stands.get(job.client, 0) + 1

    def remove(self, job: Job) -> None:
        """None of its images waits any more."""
        queue = self._clients[job.client]
        del queue[bisect_left(queue, _place(job))]
        if not queue:
            del self._clients[job.client]

    def head(self) -> tuple[Key, Job] | None:
        """Whose turn it is."""
        while self._turns:
            key, client = self._turns[0]
            queue = self._clients.get(client)
            current = self._key(queue[0][-1]) if queue else None
            if queue and current == key:
                return key, queue[0][-1]
            if current is None or self._stands[client] > 1:
                heapq.heappop(self._turns)
                self._stands[client] -= 1
            else:
                heapq.heapreplace(self._turns, (current, client))
        return None

    def ordered(self, look: int = _LOOK) -> Iterator[Job]:
        """The first petitions of so many clients and so many of each, about in fair order."""
        turns = heapq.nsmallest(look, ((self._key(q[0][-1]), c) for c, q in self._clients.items()))
        for _, client in turns:
            for *_, job in islice(self._clients[client], look):
                yield job

    def passed(self, now: float) -> None:
        """A petition of another line goes before this one's head."""
        if self.passed_at is None:
            self.passed_at = now

    def _key(self, job: Job) -> Key:
        # With one image of it in somebody's hands, the others are as anybody's.
        first = job.new and job.waiting == job.images
        return _key(job, self._shares.round(job.client), first=first)


#: The head of a line: its place in fair order, and the line.
Head = tuple[Key, Job, Line]


class Lines:
    """All lines."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._lines: dict[Hashable, Line] = {}
        #: All heads in fair order, but for lines that changed since; for the rounds of `_version`.
        self._heads: list[Head] = []
        self._changed: set[Line] = set()
        self._version = shares.version

    def of(self, job: Job) -> Line | None:
        """The line that the job stands in, if anything of it waits."""
        return self._lines.get(_key_of(job))

    def change(self, job: Job, images: int) -> None:
        """So many more (or fewer) of the job's images wait."""
        if not images:
            return
        line = self._lines.get(_key_of(job))
        if line is None:
            line = self._lines[_key_of(job)] = Line(job.context, self._shares)
        before, job.waiting = job.waiting, job.waiting + images
        self._shares.wait(job.client, images)
        line.images += images
        if images < 0:
            line.passed_at = None
        if not before or not job.waiting or job.new:
            self._changed.add(line)
        if not before and job.waiting:
            line.add(job)
        elif before and not job.waiting:
            line.remove(job)
        elif images > 0 and job.new:
            line.place(job)
        if not line.images:
            del self._lines[_key_of(job)]

    def key(self, job: Job) -> Key:
        """The place in fair order of what is in somebody's hands and has not begun."""
        return _key(job, self._shares.round(job.client), first=job.new)

    def key_of_last(self, job: Job) -> Key:
        """The place in fair order of the last of its waiting images."""
        return _key(job, self._shares.round(job.client), first=job.new and job.images == 1)

    def key_if(self, job: Job) -> Key:
        """The same of a petition that does not wait, were it to."""
        alone, round_ = self._shares.would_be(job.client)
        return _key(job, round_, first=alone and job.images == 1)

    def heads(self) -> list[Head]:
        """The head of each line, in fair order."""
        lines: Collection[Line] = self._changed
        if self._version != self._shares.version:
            self._version = self._shares.version
            lines, self._heads = self._lines.values(), []
        elif self._changed:
            self._heads = [head for head in self._heads if head[2] not in self._changed]
        if lines:
            for line in lines:
                head = line.head()
                if head is not None:
                    self._heads.append((*head, line))
            self._heads.sort(key=lambda one: one[0])
            self._changed.clear()
        return self._heads


def _key(job: Job, round_: int, *, first: bool) -> Key:
    """The place of an image; the first of somebody who had nothing goes before all rounds."""
    return Key(job.priority, _FIRST if first else round_, job.due, job.number)


def _key_of(job: Job) -> Hashable:
    return job.context, job.kind, job.pixels


def _place(job: Job) -> tuple[int, float, int, str, Job]:
    """Its place among the petitions of its client."""
    return job.priority, job.due, job.number, job.id, job
