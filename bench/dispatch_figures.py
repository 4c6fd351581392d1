"""What one choice of the scheduler costs, on a farm that only this file imagines.

Its boxes draw without end: whenever a picture is there, the scheduler is told and asked, as the
manager does it, and a petition that is drawn is replaced by another. What is measured is the CPU
time from "this picture came" to the last order.
"""

import heapq
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import quantiles
from typing import NamedTuple, cast

from bench.stats import Figure, Sample
from sdistrib_manager.scheduler import costs, work
from sdistrib_manager.scheduler import policy as scheduling

_CONTEXTS = 50
_CLIENTS = 20
_SIZES = (512 * 512, 1024 * 768)
_STEPS = (20, 28)
#: Contexts that a box has the files of, and images of one petition.
_FILES = 25
_IMAGES = (1, 12)
#: Choices before the first that is measured: until all boxes draw, costs are known, and lines
#: have been overtaken for too long where there are more than the boxes can draw.
_WARM_UP = 2000
#: Choices of each farm that one sample is made of.
_CHOICES = 500


@dataclass(slots=True, eq=False)
class _Held:
    """One image that a box was handed."""

    job: work.Job
    expected_s: float = 0.0
    begun_at: float | None = None
    sampling_at: float | None = None
    revoking: bool = False
    alone: bool = False


@dataclass(slots=True, eq=False)
class _Box:
    """One worker."""

    name: str
    #: Seconds per step at 512 x 512, and contexts that it can load.
    step_s: float
    files: frozenset[str]
    contexts: work.Contexts = ()
    held: list[_Held] = field(default_factory=list)
    pixel_class: str = "equal"
    is_down: bool = False
    keep: int = 1

    @property
    def holds(self) -> Iterable[_Held]:
        return self.held

    def most(self, job: work.Job) -> int:
        return 0

    def able(self, job: work.Job) -> bool:
        return job.context in self.files


class Shape(NamedTuple):
    """How large a farm is."""

    workers: int
    #: Images that wait.
    waiting: int


class Farm:
    """Boxes, and the scheduler between them and so many waiting images."""

    def __init__(self, shape: Shape) -> None:
        self._rng = random.Random(f"dispatch/{shape.workers}")
        self._scheduler = scheduling.Scheduler()
        contexts = [f"context{number}" for number in range(_CONTEXTS)]
        self._lines = [(context, pixels) for context in contexts for pixels in _SIZES]
        self._rng.shuffle(self._lines)
        self._boxes = [
            _Box(
                f"box{number}",
                self._rng.uniform(0.1, 0.5),
                frozenset(self._rng.sample(contexts, _FILES)),
            )
            for number in range(shape.workers)
        ]
        self._load_s = {context: self._rng.uniform(10, 30) for context in contexts}
        self._now = 0.0
        self._petitions = 0
        self._undrawn: list[tuple[float, int, _Box]] = []
        #: Being taken back.
        self._coming: list[tuple[_Box, _Held]] = []
        self._missing = shape.waiting
        self._fill()

    def _fill(self) -> None:
        """Petitions come until as many images wait as should."""
        while self._missing > 0:
            self._petitions += 1
            context, pixels = self._lines[self._petitions % len(self._lines)]
            images = self._rng.randint(*_IMAGES)
            job = work.Job(
                id=str(self._petitions),
                client=f"client{self._rng.randrange(_CLIENTS)}",
                context=context,
                pixels=pixels,
                steps=self._rng.choice(_STEPS),
                number=self._petitions,
                arrived_at=self._now,
            )
            self._scheduler.arrive(job, images)
            self._missing -= images

    def start(self) -> float:
        """All boxes join at once: CPU seconds of the choice."""
        began = time.thread_time()
        self._obey_all()
        spent_s = time.thread_time() - began
        self._begin_all()
        return spent_s

    def choose(self) -> float:
        """The next picture comes: CPU seconds until all orders are out."""
        self._answer()
        self._now, _, box = heapq.heappop(self._undrawn)
        job = box.held.pop(0).job
        sample = costs.Sample(0.0, self._draw_s(box, job), 0.5)
        self._begin(box)
        self._fill()
        spent_s = -time.thread_time()
        self._scheduler.costs.learn(box.name, job, sample)
        self._obey_all()
        spent_s += time.thread_time()
        self._begin_all()
        return spent_s

    def _answer(self) -> None:
        """What was taken back has come back when the next picture does."""
        coming, self._coming = self._coming, []
        for box, held in coming:
            if held.begun_at is None:
                box.held.remove(held)
                self._scheduler.lines.change(held.job, 1)
                self._missing -= 1
            held.revoking = False

    def _obey_all(self) -> None:
        for order in self._scheduler.orders(
            self._now, self._boxes, able=_Box.able, fits=lambda box, held: True
        ):
            self._obey(order)

    def _obey(self, order: scheduling.Order[_Box]) -> None:
        match order:
            case scheduling.Give(box, job):
                box.held.append(_Held(job))
                self._scheduler.lines.change(job, -1)
                self._missing += 1
            case scheduling.TakeBack(box, held):
                mine = cast(_Held, held)
                mine.revoking = True
                self._coming.append((box, mine))
            case scheduling.Race(box, held):
                cast(_Held, held).alone = True
                box.held.append(_Held(held.job, alone=True))

    def _draw_s(self, box: _Box, job: work.Job) -> float:
        return box.step_s * job.steps * job.pixels / _SIZES[0] * self._rng.uniform(0.9, 1.1)

    def _begin_all(self) -> None:
        for box in self._boxes:
            self._begin(box)

    def _begin(self, box: _Box) -> None:
        """The box turns to the first image that it holds, if it has not."""
        if not box.held or box.held[0].begun_at is not None:
            return
        held = box.held[0]
        held.begun_at = self._now
        held.expected_s = self._scheduler.begun(box, held.job, self._now)
        end_at = self._now + self._draw_s(box, held.job)
        context = str(held.job.context)
        if context not in box.contexts:
            end_at += self._load_s[context]
        box.contexts = work.used(box.contexts, context, box.keep)
        heapq.heappush(self._undrawn, (end_at, int(box.name[3:]), box))


def _ratios(large: Shape, small: Shape, percent: int, rounds: int) -> Iterator[Sample]:
    """A percentile of the choices on one farm by that on another, made in turn."""
    farms = [Farm(large), Farm(small)]
    for farm in farms:
        farm.start()
        for _ in range(_WARM_UP):
            farm.choose()
    for _ in range(rounds):
        spent: tuple[list[float], list[float]] = ([], [])
        for _ in range(_CHOICES):
            for farm, times in zip(farms, spent, strict=True):
                times.append(farm.choose())
        ours, theirs = (1000 * quantiles(times, n=100)[percent - 1] for times in spent)
        yield Sample.ratio(ours, theirs)


def _figure(name: str, title: str, limit: float, shapes: tuple[Shape, Shape], p: int) -> Figure:
    return Figure(name, title, limit, "<=", "x", "ms", 3, partial(_ratios, *shapes, p))


_WAITING = Shape(200, 100_000), Shape(200, 1000)
_WORKERS = Shape(200, 1000), Shape(50, 1000)
_BY_WAITING = "of a choice for 200 workers and 50 contexts: 100,000 images wait, by 1,000"
_BY_WORKERS = "of a choice with 1,000 waiting images and 50 contexts: 200 workers, by 50"

FIGURES = (
    _figure("dispatch-waiting", f"median {_BY_WAITING}", 1.5, _WAITING, 50),
    _figure("dispatch-waiting-p99", f"p99 {_BY_WAITING}", 1.5, _WAITING, 99),
    _figure("dispatch-workers", f"median {_BY_WORKERS}", 4.0, _WORKERS, 50),
    _figure("dispatch-workers-p99", f"p99 {_BY_WORKERS}", 4.0, _WORKERS, 99),
)
