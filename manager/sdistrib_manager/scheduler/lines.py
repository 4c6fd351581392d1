"""Waiting work: one line for each context, kind and size, each in fair order.

However many images wait, a choice looks at the head of each line only. Fair order is: priority,
then first images (a newcomer's before others), then the client's round, then what is due first. A
petition is due some multiple of its own length after it came, so that short ones go before long
ones, and no stream of them does so for ever.

A loaded context attracts its petitions against that order. A line remembers since when each
petition in it is passed so: see `Line.passed` and `Line.overtaken`.
"""

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator
from itertools import islice, takewhile
from typing import NamedTuple

from sdistrib_manager.scheduler.shares import Shares
from sdistrib_manager.scheduler.work import Job

#: Petitions of one line that are looked at when the head is not for a box.
_LOOK = 8
#: The rounds of first images, before all others: of a newcomer, and of who had nothing waiting.
_NEWCOMER, _FIRST = -2, -1

#: See `_place`.
_Place = tuple[int, float, int, str, Job]


class Key(NamedTuple):
    """Who goes first; the smaller key does."""

    priority: int
    #: Of its client, see `Shares`.
    round: int
    #: Of the petition: it came so late, or is so long, that others may go first until then.
    due: float
    #: Order of arrival.
    number: int


class _Turns:
    """Clients by a key each, which may get worse unnoticed, and better only by `put`."""

    def __init__(self) -> None:
        self._heap: list[tuple[Key, str]] = []
        #: The entry of each client that counts.
        self._counts: dict[str, Key] = {}

    def put(self, client: str, key: Key) -> None:
        """The client has this key, if it has none or a worse one."""
        counts = self._counts.get(client)
        if counts is None or key < counts:
            self._counts[client] = key
            heapq.heappush(self._heap, (key, client))

    def none_before(self, key: Key) -> bool:
        """Nobody can have a smaller key than this: told without looking up what they have."""
        return not self._heap or self._heap[0][0] >= key

    def first(self, current: Callable[[str], Job | None], key: Callable[[Job], Key]) -> Job | None:
        """What the client of the smallest key has now; who has nothing leaves."""
        while self._heap:
            seen, client = self._heap[0]
            job = current(client) if self._counts.get(client) == seen else None
            if job is None:
                heapq.heappop(self._heap)
                if self._counts.get(client) == seen:
                    del self._counts[client]
            elif (now := key(job)) == seen:
                return job
            else:
                self._counts[client] = now
                heapq.heapreplace(self._heap, (now, client))
        return None


class Line:
    """Petitions that need the same context, have the same size, and fit the same boxes."""

    def __init__(self, job: Job, shares: Shares) -> None:
        self.context = job.context
        self._name = _key_of(job)
        #: Images that wait in it.
        self.images = 0
        self._shares = shares
        #: What `ordered` found, while that holds: for the rounds of this version.
        self._looked: tuple[int, list[Job]] | None = None
        #: Each client's petitions with waiting images, by (priority, due, number).
        self._clients: dict[str, list[_Place]] = {}
        #: By each client's first petition, the first that was not passed, and the first that was
        #: found to be overtaken.
        self._turns, self._unpassed, self._late_turns = _Turns(), _Turns(), _Turns()
        #: What was passed, by when, and what came back since.
        self._passed: deque[tuple[float, Job]] = deque()
        self._back: list[Job] = []
        #: Each client's petitions that were found to be overtaken, by place and when they were
        #: passed.
        self._late: dict[str, list[tuple[_Place, float]]] = {}

    def add(self, job: Job) -> None:
        """A petition has waiting images, and had none."""
        queue = self._clients.setdefault(job.client, [])
        insort(queue, _place(job))
        self.place(job)

    def place(self, job: Job) -> None:
        """The petition may go earlier than before."""
        if self._first_of(job.client) is job:
            self._turns.put(job.client, self.key(job))

    def remove(self, job: Job) -> None:
        """None of its images waits any more."""
        queue = self._clients[job.client]
        del queue[bisect_left(queue, _place(job))]
        if not queue:
            del self._clients[job.client]

    def head(self) -> tuple[Key, Job] | None:
        """Whose turn it is."""
        job = self._turns.first(self._first_of, self.key)
        return None if job is None else (self.key(job), job)

    def ordered(self, look: int = _LOOK) -> Iterator[Job]:
        """The first petitions of so many clients and so many of each, about in fair order."""
        return iter(self._look() if look == _LOOK else self._firsts(look))

    def _look(self) -> list[Job]:
        if self._looked is None or self._looked[0] != self._shares.version:
            self._looked = self._shares.version, list(self._firsts(_LOOK))
        return self._looked[1]

    def _firsts(self, look: int) -> Iterator[Job]:
        firsts = ((self.key(queue[0][-1]), client) for client, queue in self._clients.items())
        for _, client in heapq.nsmallest(look, firsts):
            for *_, job in islice(self._clients[client], look):
                yield job

    def changes(self) -> None:
        """Petitions come or go, or stand elsewhere than before."""
        self._looked = None

    def key(self, job: Job) -> Key:
        """The place in fair order of a petition that waits here."""
        # With one image of it in somebody's hands, the others are as anybody's; and so are those of
        # a client who has since asked for something that goes before.
        first = job.new and job.waiting == job.images and self._first_of(job.client) is job
        return _key(job, self._shares.round(job.client), first=first)

    def before(self, key: Key) -> int:
        """About how many images here go before it."""
        return sum(job.waiting for job in self._look() if self.key(job) < key)

    # --- who is passed ----------------------------------------------------------------------

    def given(self, job: Job) -> None:
        """An image of it was handed out: it waits anew."""
        job.passed_before, job.passed_at = job.passed_at or job.passed_before, None
        first = self._first_unpassed(job.client)
        if first is not None:
            self._unpassed.put(job.client, self.key(first))

    def given_back(self, job: Job) -> None:
        """It comes, or an image of it came back unseen: then it has waited all the time."""
        if job.passed_before is None:
            self._unpassed.put(job.client, self.key(job))
        else:
            job.passed_at, job.passed_before = job.passed_before, None
            self._back.append(job)

    def passed(self, now: float, key: Key) -> None:
        """What has this place in fair order is handed out: it passes all that stand before."""
        while not self._unpassed.none_before(key):
            job = self._unpassed.first(self._first_unpassed, self.key)
            if job is None or self.key(job) >= key:
                break
            job.passed_at = now
            self._passed.append((now, job))

    def _first_unpassed(self, client: str) -> Job | None:
        queue = islice(self._clients.get(client, ()), _LOOK)
        return next((job for *_, job in queue if job.passed_at is None), None)

    def overtaken(self, since: float) -> tuple[Key, Job] | None:
        """The first in fair order of those that were passed by then and have got nothing yet."""
        while self._passed and self._passed[0][0] <= since:
            self._is_late(*self._passed.popleft())
        back, self._back = self._back, []
        for job in back:
            if job.passed_at is not None and job.passed_at <= since:
                self._is_late(job.passed_at, job)
            elif job.passed_at is not None:
                self._back.append(job)
        first = self._late_turns.first(self._late_of, self.key)
        return None if first is None else (self.key(first), first)

    def _is_late(self, at: float, job: Job) -> None:
        if not self._waits_since(at, job):
            return
        late = self._late.setdefault(job.client, [])
        if len(late) > 2 * self.images + _LOOK:
            # The rest of those that have got something since.
            late[:] = [one for one in late if self._waits_since(one[1], one[0][-1])]
            heapq.heapify(late)
        heapq.heappush(late, (_place(job), at))
        self._late_turns.put(job.client, self.key(job))

    def _late_of(self, client: str) -> Job | None:
        """The first of its petitions that were overtaken, if they still are."""
        late = self._late.get(client, [])
        while late and not self._waits_since(late[0][1], late[0][0][-1]):
            heapq.heappop(late)
        if not late:
            self._late.pop(client, None)
        return late[0][0][-1] if late else None

    def _waits_since(self, at: float, job: Job) -> bool:
        return job.passed_at == at and job.waiting > 0 and _key_of(job) == self._name

    def _first_of(self, client: str) -> Job | None:
        queue = self._clients.get(client)
        return queue[0][-1] if queue else None


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
            line = self._lines[_key_of(job)] = Line(job, self._shares)
        before, job.waiting = job.waiting, job.waiting + images
        self._shares.wait(job.client, images)
        line.images += images
        if not before or not job.waiting or job.new:
            self._changed.add(line)
            line.changes()
        if not before and job.waiting:
            line.add(job)
        elif before and not job.waiting:
            line.remove(job)
        elif images > 0 and job.new:
            line.place(job)
        if images > 0:
            line.given_back(job)
        else:
            line.given(job)
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

    def heads_before(self, key: Key) -> Iterator[Head]:
        """Those that stand before this place, in fair order."""
        return takewhile(lambda head: head[0] < key, self.heads())


def _key(job: Job, round_: int, *, first: bool) -> Key:
    """The place of an image; the first of somebody who had nothing goes before all rounds."""
    if first:
        round_ = _NEWCOMER if job.newcomer else _FIRST
    return Key(job.priority, round_, job.due, job.number)


def _key_of(job: Job) -> Hashable:
    return job.context, job.kind, job.pixels


def _place(job: Job) -> _Place:
    """Its place among the petitions of its client."""
    return job.priority, job.due, job.number, job.id, job
