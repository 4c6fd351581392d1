"""The scheduler while anything happens at any time: boxes go and come, answers are late.

What is asked back is answered whenever the box likes, or was begun before; images take other times
than expected; petitions are cancelled. Orders stay few, and in the end all images are drawn.
"""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from sdistrib_manager.scheduler.costs import Sample
from sdistrib_manager.scheduler.outlook import HOLD_MAX
from sdistrib_manager.scheduler.work import Job
from tests.support.boxes import FakeBox, Yard, job

_BOXES = st.integers(0, 3)
_GAPS_S = st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0, 61.0])
#: Orders that take back may come so soon after another to the same box.
_ASK_S = 1.0


class Farm(RuleBasedStateMachine):
    """Up to four boxes and three clients."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = [FakeBox(f"g{number}") for number in range(4)]
        self.yard = Yard(quantum_s=20.0)
        self.jobs: list[Job] = []
        self.drawn: Counter[str] = Counter()
        self.wanted: Counter[str] = Counter()
        self.asked: dict[str, float] = {}

    @initialize(
        able=st.lists(st.sampled_from([None, None, "A", "B"]), min_size=4, max_size=4),
        keep=st.lists(st.sampled_from([1, 1, 2, 3]), min_size=4, max_size=4),
    )
    def start(self, able: list[str | None], keep: list[int]) -> None:
        for box, only, most in zip(self.boxes, able, keep, strict=True):
            box.able = {only} if only else None
            box.keep = most
        self.yard.boxes = list(self.boxes[:2])

    def decide(self) -> None:
        """As after each event: nothing is left to be said."""
        for order in self.yard.orders():
            if ">" in order:
                name = order.split(">")[0]
                since_s = self.yard.now - self.asked.get(name, float("-inf"))
                assert since_s == 0.0 or since_s >= _ASK_S, f"{name} is asked too often"
                self.asked[name] = self.yard.now
        assert self.yard.orders() == [], "more orders though nothing happened"

    @rule(
        context=st.sampled_from("AABC"),
        client=st.sampled_from("xyz"),
        images=st.integers(1, 9),
        priority=st.sampled_from(["normal", "normal", "high", "low"]),
        hedge=st.booleans(),
    )
    def submit(self, context: str, client: str, images: int, priority: str, hedge: bool) -> None:
        name = f"p{len(self.jobs)}"
        made = job(name, context, client=client, priority=priority, hedge=hedge)
        self.jobs.append(self.yard.arrive(made, images))
        self.wanted[name] = images
        self.decide()

    @rule(seconds=_GAPS_S)
    def wait(self, seconds: float) -> None:
        self.yard.now += seconds
        self.decide()

    @rule(number=_BOXES)
    def begin(self, number: int) -> None:
        box = self.boxes[number]
        if box.holds and box.holds[0].begun_at is None:
            self.yard.begin(box)
            self.decide()

    @rule(number=_BOXES, image_s=st.sampled_from([0.05, 0.5, 3.0, 40.0]))
    def finish(self, number: int, image_s: float) -> None:
        box = self.boxes[number]
        if box.holds and box.holds[0].begun_at is not None:
            made = self.yard.finish(box)
            self.drawn[made.id] += 1
            self.yard.costs.learn(box.name, made, Sample(image_s / 2, image_s, 0.1))
            self.decide()

    @rule(number=_BOXES)
    def answer(self, number: int) -> None:
        self.yard.give_back(self.boxes[number])
        self.decide()

    @rule(number=_BOXES)
    def come_or_go(self, number: int) -> None:
        """A box that goes loses what it held, begun or not."""
        box = self.boxes[number]
        if box not in self.yard.boxes:
            self.yard.boxes = [one for one in self.boxes if one in self.yard.boxes or one is box]
        else:
            for held in box.holds:
                held.revoking = True
            self.yard.give_back(box)
            self.yard.boxes.remove(box)
            box.context, box.kept = None, ()
        self.decide()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """What waits of a petition does so no more; what is in somebody's hands is drawn."""
        waiting = [made for made in self.jobs if made.waiting]
        if waiting:
            made = data.draw(st.sampled_from(waiting))
            self.wanted[made.id] -= made.waiting
            self.yard.scheduler.lines.change(made, -made.waiting)
            self.decide()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        halves: Counter[str] = Counter()
        for box in self.boxes:
            assert len(box.holds) <= HOLD_MAX
            for one in box.holds:
                assert box.able is None or one.job.context in box.able
                # Two attempts are one image.
                halves[one.job.id] += 2 if one.twin is None else 1
        for made in self.jobs:
            there = self.drawn[made.id] + made.waiting
            assert 2 * there + halves[made.id] == 2 * self.wanted[made.id]

    def teardown(self) -> None:
        """All come back and draw: everything that any can do is drawn, and nothing twice."""
        self.yard.boxes = list(self.boxes)
        for _ in range(2000):
            self.yard.now += 1.0
            self.decide()
            for box in self.boxes:
                # Late as answers go: whatever is asked back before an engine begins it comes back.
                self.yard.give_back(box)
                if box.holds and box.holds[0].begun_at is not None:
                    self.drawn[self.yard.finish(box).id] += 1
                elif box.holds:
                    self.yard.begin(box)
            able = [b.able for b in self.boxes]
            able_any = [m for m in self.jobs if any(a is None or m.context in a for a in able)]
            if all(self.drawn[made.id] == self.wanted[made.id] for made in able_any):
                break
        else:
            raise AssertionError("not all is drawn")
        assert not any(box.holds for box in self.boxes)


def test_whatever_happens_orders_are_few_and_all_is_drawn() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Farm, settings=settings(max_examples=60, stateful_step_count=40)
    )
