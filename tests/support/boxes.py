"""Boxes, held images and jobs for tests of the scheduler: a few plain fields each."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from sdistrib_manager.scheduler.costs import Costs, Known
from sdistrib_manager.scheduler.policy import Give, Order, Policy, Race, Scheduler, TakeBack
from sdistrib_manager.scheduler.work import PRIORITIES, Contexts, Job
from sdistrib_manager.scheduler.work import used as then_loaded

SQUARE = 512 * 512


@dataclass(eq=False)
class FakeHeld:
    """One image in a box's hands."""

    job: Job
    begun_at: float | None = None
    expected_s: float = 0.0
    sampling_at: float | None = None
    revoking: bool = False
    alone: bool = False
    #: The other attempt at the same image.
    twin: "FakeHeld | None" = None


@dataclass(eq=False)
class FakeBox:
    """A worker that takes work."""

    name: str
    context: Hashable = None
    holds: list[FakeHeld] = field(default_factory=list)
    #: What its owner lets it have in hand.
    batch: int = 0
    #: Contexts that it can draw; None: all.
    able: set[Hashable] | None = None
    pixel_class: Hashable = "equal"
    is_down: bool = False
    #: How many contexts it keeps, and those beside the one that it used last.
    keep: int = 1
    kept: Contexts = ()

    @property
    def contexts(self) -> Contexts:
        """What it has loaded."""
        return () if self.context is None else (self.context, *self.kept)

    def most(self, job: Job) -> int:
        """The same for any job."""
        return self.batch


def job(name: str = "a", context: Hashable = "A", **more: Any) -> Job:
    """A petition of ten steps at 512 x 512."""
    priority = PRIORITIES[more.pop("priority", "normal")]
    facts: dict[str, Any] = {
        "client": name, "context": context, "pixels": SQUARE, "steps": 10, "number": 1,
        "arrived_at": 0.0, "priority": priority,
    }  # fmt: skip
    return Job(**{"id": name, **facts, **more})


class Yard:
    """A scheduler and its boxes; orders are carried out as a manager would."""

    def __init__(self, *boxes: FakeBox, **policy: Any) -> None:
        self.now = 0.0
        self.boxes = list(boxes)
        self.scheduler = Scheduler(Policy(**policy))
        self._number = 0
        #: Images that no box may take over: (box, held).
        self.unfit: set[tuple[str, str]] = set()

    @property
    def costs(self) -> Costs:
        """What is known."""
        return self.scheduler.costs

    def speed(self, box: str, image_s: float, load_s: float = 0.0, context: str = "A") -> None:
        """One image of ten steps takes a box so long, a load so long."""
        load = (load_s,) if load_s else ()
        step = ((SQUARE, (image_s / 10,)),)
        self.costs.remember(Known(box, context, load, step, ((SQUARE, (0.0,)),)))

    def arrive(self, made: Job, images: int = 1) -> Job:
        """A petition comes now."""
        self._number += 1
        made.number, made.arrived_at = self._number, self.now
        self.scheduler.arrive(made, images)
        return made

    def orders(self) -> list[str]:
        """Decide and carry out: `box<petition`, `box>petition` (taken back), `box=petition`."""
        out = []
        turn = self.scheduler.orders(self.now, self.boxes, self._able, self._fits)
        for order in turn:
            out.append(self._carry_out(order))
            assert len(out) < 1000, "orders without end"
        return out

    def _carry_out(self, order: Order[FakeBox]) -> str:
        match order:
            case Give(box, made):
                assert made.waiting > 0
                box.holds.append(FakeHeld(made))
                self.scheduler.lines.change(made, -1)
                return f"{box.name}<{made.id}"
            case TakeBack(box, held):
                assert held in box.holds
                assert held.begun_at is None
                held.revoking = True  # type: ignore[misc]
                return f"{box.name}>{held.job.id}"
            case Race(box, held):
                assert not box.holds
                assert isinstance(held, FakeHeld)
                assert held.twin is None, "a third attempt"
                held.alone = True
                held.twin = FakeHeld(held.job, alone=True, twin=held)
                box.holds.append(held.twin)
                return f"{box.name}={held.job.id}"

    def _able(self, box: FakeBox, made: Job) -> bool:
        return box.able is None or made.context in box.able

    def _fits(self, box: FakeBox, held: FakeHeld) -> bool:  # type: ignore[override]
        return held.twin is None and (box.name, held.job.id) not in self.unfit

    def begin(self, box: FakeBox) -> FakeHeld:
        """The engine turns to the first image it was handed."""
        held = box.holds[0]
        held.expected_s = self.scheduler.begun(box, held.job, self.now)
        held.begun_at, held.revoking = self.now, False
        box.context, *others = then_loaded(box.contexts, held.job.context, box.keep)
        box.kept = tuple(others)
        return held

    def finish(self, box: FakeBox) -> Job:
        """The image under way is drawn, and its loser is called off."""
        held = box.holds.pop(0)
        for other in self.boxes:
            other.holds[:] = [one for one in other.holds if one is not held.twin]
        return held.job

    def give_back(self, box: FakeBox) -> list[Job]:
        """What was asked back and has not begun comes back."""
        back = [held for held in box.holds if held.revoking]
        box.holds[:] = [held for held in box.holds if not held.revoking]
        for held in back:
            if held.twin is None:
                self.scheduler.lines.change(held.job, 1)
            else:
                # The other attempt goes on, and is not raced again.
                held.twin.twin = None
        return [held.job for held in back]


def used(yard: Yard, *clients: str) -> None:
    """These clients are no newcomers."""
    for client in clients:
        yard.scheduler.shares.charge(client, 1.0, yard.now)


def busy(yard: Yard, box: FakeBox, context: str = "A", client: str = "busy") -> None:
    """The box has begun an image of that context."""
    used(yard, client)
    made = yard.arrive(job(f"on {box.name}", context, client=client))
    others = [other for other in yard.boxes if other is not box]
    yard.boxes = [box]
    assert yard.orders() == [f"{box.name}<on {box.name}"]
    yard.boxes = sorted([box, *others], key=lambda one: one.name)
    yard.begin(box)
    assert made.waiting == 0
