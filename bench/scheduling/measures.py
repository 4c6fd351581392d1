"""What a log says: makespan, waiting, loads, and who was passed by whom."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.scheduling.engine import Entry
from bench.scheduling.farm import Box, Image, Job, Workload

_RANKS = {"high": 0, "normal": 1, "low": 2}


@dataclass(frozen=True)
class Measures:
    """One run of one policy. Times in seconds."""

    #: From the first arrival to the last picture.
    makespan_s: float
    #: Per petition in order of arrival: from its arrival to its last picture.
    waits_s: tuple[float, ...]
    #: The same to its first picture.
    firsts_s: tuple[float, ...]
    #: Loads by context.
    loads: Mapping[str, int]
    #: Longest time from the first to the last image that passed one and the same petition while
    #: none of its own began: an image of a later petition of no higher priority, on a box that
    #: could have drawn the other.
    passed_s: float
    #: The same, of the oldest waiting petition of each client only: whoever waits behind petitions
    #: of his own has had his turn.
    overtaken_s: float
    #: The same against fair order, where there is one, see `Fairness`; nan without.
    unfair_s: float
    #: Longest wait of the newcomer for a first picture; nan without one.
    newcomer_s: float
    #: Longest time from when a box that could draw for the newcomer was free (of the image it had
    #: begun before) to when it began to draw or load for him; nan without one.
    late_s: float
    #: All seconds of drawing.
    drawn_s: float
    #: Drawing that was of no use: second copies, dropped images, pictures nobody asked for.
    wasted_s: float

    @property
    def mean_s(self) -> float:
        """Mean wait to the last picture."""
        return math.fsum(self.waits_s) / len(self.waits_s)

    @property
    def p95_s(self) -> float:
        """The wait that 19 of 20 petitions do not exceed."""
        return sorted(self.waits_s)[math.ceil(0.95 * len(self.waits_s)) - 1]

    @property
    def loads_total(self) -> int:
        """All loads."""
        return sum(self.loads.values())


def measure(
    workload: Workload,
    log: Sequence[Entry],
    *,
    together: bool = False,
    unfair_s: float = math.nan,
) -> Measures:
    """Read a log; `together` as in `Policy.delivers_together`."""
    first, last = _pictures(log, together=together)
    jobs = workload.jobs
    loads, drawn_s, wasted_s = _work(log)
    waits_s = tuple(last[job] - job.arrives_at for job in jobs)
    firsts_s = tuple(first[job] - job.arrives_at for job in jobs)
    newcomer = [s for s, job in zip(firsts_s, jobs, strict=True) if job.client == workload.newcomer]
    return Measures(
        makespan_s=max(last.values()) - jobs[0].arrives_at,
        waits_s=waits_s,
        firsts_s=firsts_s,
        loads=loads,
        passed_s=_passed(workload.boxes, log, heads=False),
        overtaken_s=_passed(workload.boxes, log, heads=True),
        unfair_s=unfair_s,
        newcomer_s=max(newcomer, default=math.nan),
        late_s=_late(workload, log),
        drawn_s=drawn_s,
        wasted_s=wasted_s,
    )


def _pictures(log: Iterable[Entry], *, together: bool) -> tuple[dict[Job, float], dict[Job, float]]:
    """When the first and the last picture of each petition was there."""
    first: dict[Job, float] = {}
    last: dict[Job, float] = {}
    drawn: set[Image] = set()
    for entry in log:
        job = entry.image.job
        asked = entry.image.number < job.images
        if entry.what == "finished" and (together or (asked and entry.image not in drawn)):
            drawn.add(entry.image)
            first.setdefault(job, entry.at)
            last[job] = entry.at
    return (last, last) if together else (first, last)


def _work(log: Iterable[Entry]) -> tuple[Counter[str], float, float]:
    """Loads by context, seconds drawn, seconds drawn for nothing."""
    running: dict[str, Entry] = {}
    loads: Counter[str] = Counter()
    drawn: set[Image] = set()
    drawn_s = wasted_s = 0.0
    for entry in log:
        image, box = entry.image, entry.box
        if entry.what == "began":
            running[box] = entry
            if entry.load_s:
                loads[image.job.context] += 1
        elif box in running and running[box].image == image:
            began = running.pop(box)
            took_s = max(0.0, entry.at - began.at - began.load_s)
            drawn_s += took_s
            useful = entry.what == "finished" and image.number < image.job.images
            if not useful or image in drawn:
                wasted_s += took_s
            if useful:
                drawn.add(image)
    return loads, drawn_s, wasted_s


def _late(workload: Workload, log: Sequence[Entry]) -> float:
    """See `Measures.late_s`."""
    worst_s = math.nan
    for place, entry in enumerate(log):
        job = entry.image.job
        if entry.what == "arrived" and job.client == workload.newcomer:
            busy = _busy(log[:place])
            first = next(e for e in log[place:] if e.what == "began" and e.image.job is job)
            free_at = _free(log[place:], first.box) if first.box in busy else entry.at
            worst_s = max(first.at - free_at, -math.inf if math.isnan(worst_s) else worst_s)
    return worst_s


def _busy(log: Iterable[Entry]) -> set[str]:
    """Boxes that are drawing at the end of the log."""
    busy: set[str] = set()
    for entry in log:
        if entry.what == "began":
            busy.add(entry.box)
        elif entry.what == "finished":
            busy.discard(entry.box)
    return busy


def _free(log: Iterable[Entry], box: str) -> float:
    """When this box next ends an image; inf if it never does."""
    return next((e.at for e in log if e.what == "finished" and e.box == box), math.inf)


def _passed(boxes: Iterable[Box], log: Iterable[Entry], *, heads: bool) -> float:
    """See `Measures.passed_s` and, with heads, `Measures.overtaken_s`."""
    by_name = {box.name: box for box in boxes}
    waiting: dict[Job, set[int]] = {}
    since: dict[Job, float] = {}
    drawn: set[Image] = set()
    worst_s = 0.0
    for entry in log:
        job = entry.image.job
        if entry.what == "arrived":
            waiting[job] = set(range(job.images))
        elif entry.what == "finished":
            drawn.add(entry.image)
            waiting.get(job, set()).discard(entry.image.number)
            if job in waiting and not waiting[job]:
                del waiting[job]
        elif entry.what in ("dropped", "lost") and _waits_again(entry.image, drawn):
            waiting.setdefault(job, set()).add(entry.image.number)
            waiting = dict(sorted(waiting.items(), key=lambda item: item[0].id))
        elif entry.what == "began":
            for other in _older(waiting, job, by_name[entry.box], heads=heads):
                worst_s = max(worst_s, entry.at - since.setdefault(other, entry.at))
            since.pop(job, None)
            left = waiting.get(job, set())
            left.discard(entry.image.number)
            if not left:
                waiting.pop(job, None)
    return worst_s


def _waits_again(image: Image, drawn: set[Image]) -> bool:
    """Somebody asked for it, and no second copy of it came first."""
    return image.number < image.job.images and image not in drawn


def _older(waiting: Mapping[Job, set[int]], job: Job, box: Box, *, heads: bool) -> Iterable[Job]:
    """Waiting petitions that this box could have served, and that came before this one."""
    clients: set[str] = set()
    for other in waiting:
        if other.id >= job.id:
            return
        if heads and other.client in clients:
            continue
        clients.add(other.client)
        if box.can(other) and _RANKS[other.priority] <= _RANKS[job.priority]:
            yield other
