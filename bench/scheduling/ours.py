"""Our own scheduler under simulation: the shipped module, driven by the events of the farm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from bench.scheduling.fairness import Fairness
from bench.scheduling.farm import Image, Job, Workload
from bench.scheduling.policy import Abandon, Grant, Guesses, Order, Revoke, SeenBox
from sdistrib_manager.scheduler import policy as scheduling
from sdistrib_manager.scheduler import work
from sdistrib_manager.scheduler.costs import Known, Sample
from sdistrib_manager.scheduler.lines import Key
from sdistrib_manager.scheduler.outlook import outlook

#: How often the manager looks again though nothing happens.
_REVIEW_S = 1.0


@dataclass(slots=True, eq=False)
class _Held:
    """One image that a box was handed."""

    image: Image
    job: work.Job
    expected_s: float = 0.0
    begun_at: float | None = None
    sampling_at: float | None = None
    revoking: bool = False
    alone: bool = False


@dataclass(slots=True, eq=False)
class _Box:
    """What the manager knows of one worker."""

    seen: SeenBox
    name: str
    contexts: work.Contexts
    held: dict[Image, _Held] = field(default_factory=dict)
    pixel_class: str = "equal"
    is_down: bool = False

    @property
    def keep(self) -> int:
        return self.seen.keep

    @property
    def holds(self) -> Iterable[_Held]:
        return self.held.values()

    def most(self, job: work.Job) -> int:
        return 0


class Ours:
    """The manager's part: who holds what, and which images wait."""

    always_reloads = False
    delivers_together = False

    def __init__(self, workload: Workload, choice: scheduling.Policy | None = None) -> None:
        self._speeds = {box.name: box for box in workload.boxes}
        self._true: dict[str, Job] = {}
        self._scheduler = scheduling.Scheduler(choice)
        self._boxes: dict[str, _Box] = {}
        self._jobs: dict[Job, work.Job] = {}
        self._waiting: dict[Job, list[int]] = {}
        self._done: set[Image] = set()
        self._review_at: float | None = None
        self._fairness = Fairness()

    @property
    def unfair_s(self) -> float:
        """See `Measures.unfair_s`."""
        return self._fairness.worst_s

    def start(self, now: float, boxes: Sequence[SeenBox], known: Guesses) -> None:
        self._boxes = {seen.name: _Box(seen, seen.name, _loaded(seen)) for seen in boxes}
        for (box, context), step_s in known.step_s.items():
            rest = ((512 * 512, (known.decode_s[box],)),)
            steps = ((512 * 512, (step_s,)),)
            load_s = (known.load_s[box, context],) if (box, context) in known.load_s else ()
            self._scheduler.costs.remember(Known(box, context, load_s, steps, rest))

    def arrived(self, now: float, job: Job) -> None:
        made = work.Job(
            id=str(job.id),
            client=job.client,
            context=job.context,
            pixels=job.pixels,
            steps=job.steps,
            number=job.id,
            arrived_at=now,
            priority=work.PRIORITIES[job.priority],
        )
        self._jobs[job], self._true[made.id] = made, job
        self._waiting[job] = list(range(job.images))
        self._scheduler.arrive(made, job.images)

    def began(self, now: float, box: str, image: Image) -> None:
        held = self._boxes[box].held[image]
        held.begun_at = now
        self._fairness.began(now, image)
        held.expected_s = self._scheduler.begun(self._boxes[box], held.job, now)
        here = self._boxes[box]
        here.contexts = work.used(here.contexts, image.job.context, here.keep)

    def stepped(self, now: float, box: str, image: Image, step_s: float) -> None:
        here = self._boxes[box]
        held = here.held.get(image)
        if held is not None and not step_s:
            held.sampling_at = now
        elif held is not None:
            held.sampling_at = None
            progress = scheduling.Progress(held.job.steps, 1, step_s)
            held.expected_s = self._scheduler.stepped(here, held, progress, now)
            self._scheduler.costs.step_seen(box, held.job, step_s)

    def finished(self, now: float, box: str, image: Image, load_s: float, draw_s: float) -> None:
        self._boxes[box].held.pop(image, None)
        true = self._speeds[box]
        part = true.decode_s * image.job.squares / true.draw_s(image.job)
        sample = Sample(load_s, draw_s * (1 - part), draw_s * part)
        self._scheduler.costs.learn(box, self._jobs[image.job], sample)
        self._done.add(image)
        self._fairness.finished(now, image)

    def gone(self, now: float, box: str, lost: Sequence[Image]) -> None:
        del self._boxes[box]
        for image in lost:
            self._wait_again(now, image)

    def revoked(self, now: float, box: str, image: Image) -> None:
        if self._boxes[box].held.pop(image, None) is not None:
            self._wait_again(now, image)

    def _wait_again(self, now: float, image: Image) -> None:
        if image in self._done or any(image in box.held for box in self._boxes.values()):
            return
        self._waiting[image.job].insert(0, image.number)
        self._fairness.back(image)
        self._scheduler.lines.change(self._jobs[image.job], 1)

    def decide(self, now: float) -> Iterable[Order]:
        yield from self._losers()
        boxes = list(self._boxes.values())
        for order in self._scheduler.orders(now, boxes, able=self._able, fits=_fits):
            yield self._carry_out(now, order)
        self._review_at = now + _REVIEW_S

    def _losers(self) -> Iterable[Order]:
        """Second copies of pictures that have come."""
        for box in self._boxes.values():
            for image, held in [one for one in box.held.items() if one[0] in self._done]:
                if held.begun_at is not None:
                    del box.held[image]
                    yield Abandon(box.name, image)
                elif not held.revoking:
                    # It may begin before it hears of that.
                    held.revoking = True
                    yield Revoke(box.name, image)

    def _able(self, box: _Box, made: work.Job) -> bool:
        return box.seen.can(self._true[made.id])

    def _carry_out(self, now: float, order: scheduling.Order[_Box]) -> Order:
        match order:
            case scheduling.Give(box, made):
                job = self._true[made.id]
                passed = list(self._passed(now, box, made))
                image = Image(job, self._waiting[job].pop(0))
                self._fairness.handed(now, image, passed)
                box.held[image] = _Held(image, made)
                self._scheduler.lines.change(made, -1)
                return Grant(box.name, image)
            case scheduling.TakeBack(box, held):
                mine = cast(_Held, held)
                mine.revoking = True
                return Revoke(box.name, mine.image)
            case scheduling.Race(box, held):
                mine = cast(_Held, held)
                mine.alone = True
                box.held[mine.image] = _Held(mine.image, mine.job, alone=True)
                return Grant(box.name, mine.image)

    def _passed(self, now: float, box: _Box, made: work.Job) -> Iterable[tuple[Job, float]]:
        """Who stands before this one in fair order and could have the box, and when it would be
        done with its next image."""
        place, true = self._place(made), self._speeds[box.name]
        look = outlook(box, now, self._scheduler.costs)
        for job, waiting in self._waiting.items():
            if waiting and box.seen.can(job) and self._place(self._jobs[job]) < place:
                load_s = 0.0 if job.context in look.has else true.load_s[job.context]
                yield job, look.ready_at + load_s + true.draw_s(job)

    def _place(self, made: work.Job) -> Key:
        line = self._scheduler.lines.of(made)
        assert line is not None
        return line.key(made)

    def wake_at(self) -> float | None:
        return self._review_at


def _loaded(seen: SeenBox) -> work.Contexts:
    return () if seen.loaded is None else (seen.loaded,)


def _fits(_box: _Box, _held: work.Held) -> bool:
    return True


def make(workload: Workload) -> Ours:
    """Our policy with its defaults."""
    return Ours(workload)
