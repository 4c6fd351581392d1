"""The scheduler under any boxes and any petitions: what it may never do."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from sdistrib_manager.scheduler.outlook import HOLD_MAX, HOLD_S
from sdistrib_manager.scheduler.work import Contexts, Job, used
from tests.support.boxes import FakeBox, Yard, job

_BOX = st.tuples(
    st.sampled_from([0.05, 0.3, 1.0, 2.0, 9.0]),
    st.sampled_from([0.5, 4.0, 30.0]),
    st.sampled_from([None, None, None, "A", "B"]),
    st.sampled_from([0, 0, 1, 3]),
    st.sampled_from([1, 1, 2, 3]),
)
_PETITION = st.tuples(
    st.sampled_from([0.0, 0.0, 0.5, 5.0, 70.0]),
    st.sampled_from("AABC"),
    st.sampled_from(["ana", "ben", "cat"]),
    st.integers(1, 12),
    st.sampled_from(["normal", "normal", "high", "low"]),
    st.booleans(),
)
_WORLD = {"boxes": st.lists(_BOX, min_size=1, max_size=4),
          "petitions": st.lists(_PETITION, min_size=1, max_size=8)}  # fmt: skip
#: Orders that answers to orders may lead to before time goes on.
_SETTLED = 200


@dataclass
class Run:
    """Boxes that draw as they were said to; every rule is checked after every event."""

    yard: Yard
    log: list[str] = field(default_factory=list)
    drawn: dict[str, int] = field(default_factory=dict)
    ends: dict[FakeBox, float] = field(default_factory=dict)
    #: When each box was last asked for something back.
    asked: dict[str, float] = field(default_factory=dict)

    def settle(self) -> None:
        """Decide, answer what is asked back, and again, until nothing is said any more."""
        before = len(self.log)
        while orders := self.yard.orders():
            self.log += [f"{self.yard.now:.3f} {order}" for order in orders]
            self._check_limits()
            self._check_asked({order.split(">")[0] for order in orders if ">" in order})
            assert self.yard.orders() == [], "more orders though nothing happened"
            for box in self.yard.boxes:
                self.yard.give_back(box)
            assert len(self.log) - before < _SETTLED, self.log[-8:]
        self._check_conservation()
        for box in self.yard.boxes:
            if box.holds and box.holds[0].begun_at is None:
                self.ends[box] = self.yard.now + self.yard.begin(box).expected_s

    def next_end(self) -> float:
        """When the next image is drawn."""
        self.ends = {box: at for box, at in self.ends.items() if box.holds}
        return min(self.ends.values(), default=float("inf"))

    def draw(self) -> None:
        """Until the next image is drawn."""
        at = self.next_end()
        box = next(box for box, end in self.ends.items() if end == at)
        self.yard.now = max(self.yard.now, at)
        begun = {one: one.holds[0] for one in self.yard.boxes if one.holds}
        made = self.yard.finish(box)
        for other, held in begun.items():
            # The loser of a race was called off: its box begins anew.
            if other is box or held not in other.holds:
                self.ends.pop(other, None)
        self.drawn[made.id] = self.drawn.get(made.id, 0) + 1
        self.log.append(f"{self.yard.now:.3f} {box.name} drew {made.id}")

    def _check_asked(self, names: set[str]) -> None:
        for name in names:
            since_s = self.yard.now - self.asked.get(name, float("-inf"))
            assert since_s >= 1.0, f"{name} is asked again after {since_s} s"
            self.asked[name] = self.yard.now

    def _check_limits(self) -> None:
        for box in self.yard.boxes:
            count = len(box.holds)
            assert count <= HOLD_MAX
            # Nothing is handed to a box that draws which it would have to load for.
            assert len({held.job.context for held in box.holds}) <= box.keep
            assert {held.job.context for held in box.holds[1:]} <= set(_then(box))
            if count > 2:
                assert count <= (box.batch or HOLD_MAX)
                last = [self.yard.costs.image_s(box.name, held.job) for held in box.holds]
                assert sum(last[1:]) <= HOLD_S, "more wait behind the running image than is quick"
            assert all(box.able is None or h.job.context in box.able for h in box.holds)

    def _check_conservation(self) -> None:
        """An idle box that could draw what waits is idle only because others are done sooner."""
        for _, head, line in self.yard.scheduler.lines.heads():
            for box in self.yard.boxes:
                if not box.holds and self.yard._able(box, head):
                    end = self._ready(box, head) + self._draw_s(box, head)
                    sooner = sum(
                        self._sooner(other, head, end, line.images)
                        for other in self.yard.boxes
                        if other is not box and self.yard._able(other, head)
                    )
                    assert sooner >= line.images, f"{box.name} is idle while {head.id} waits"

    def _draw_s(self, box: FakeBox, made: Job) -> float:
        return self.yard.costs.image_s(box.name, made)

    def _sooner(self, box: FakeBox, made: Job, end: float, enough: int) -> int:
        """Images like this that the box would finish before then; of one that is at something
        else nothing is expected."""
        if box.holds and box.holds[-1].job.context != made.context:
            return 0
        at, count = self._ready(box, made), 0
        while count < enough and at + self._draw_s(box, made) < end + 1e-6:
            at, count = at + self._draw_s(box, made), count + 1
        return count

    def _ready(self, box: FakeBox, made: Job) -> float:
        """When the box could begin this, the price of a further copy counted in."""
        costs, now = self.yard.costs, self.yard.now
        at, contexts = now, box.contexts
        for held in box.holds:
            if held.begun_at is not None:
                at += abs(held.expected_s - (now - held.begun_at))
            else:
                at += costs.image_s(box.name, held.job)
                at += 0.0 if held.job.context in contexts else costs.load_s(box.name, held.job)
            contexts = used(contexts, held.job.context, box.keep)
        wanted = made.context
        if wanted not in contexts:
            copies = [context for b in self.yard.boxes for context in _then(b)]
            # A further copy costs one load more, and one more again where the last of another goes.
            copy = len(contexts) == box.keep and wanted in copies
            price = 1 + (copies.count(contexts[-1]) == 1) if copy else 0
            at += costs.load_s(box.name, made) * (1 + price)
        return at


def _then(box: FakeBox) -> Contexts:
    """What the box has when it has drawn all that it holds."""
    contexts = box.contexts
    for held in box.holds:
        contexts = used(contexts, held.job.context, box.keep)
    return contexts


def _run(boxes: list, petitions: list) -> Run:  # type: ignore[type-arg]
    made = [FakeBox(f"g{n}", able={only} if only else None, batch=batch, keep=keep)
            for n, (_, _, only, batch, keep) in enumerate(boxes)]  # fmt: skip
    run = Run(Yard(*made, quantum_s=20.0))
    for number, (image_s, load_s, *_) in enumerate(boxes):
        for context in "ABC":
            run.yard.speed(f"g{number}", image_s, load_s, context)
    wanted = {}
    at = 0.0
    for number, (gap_s, context, client, images, priority, hedge) in enumerate(petitions):
        at += gap_s
        while run.next_end() <= at:
            run.draw()
            run.settle()
        run.yard.now = at
        one = job(f"p{number}", context, client=client, priority=priority, hedge=hedge)
        if any(box.able is None or context in box.able for box in made):
            wanted[one.id] = images
        run.yard.arrive(one, images)
        run.settle()
    while run.next_end() < float("inf"):
        run.draw()
        run.settle()
    # Everything that somebody can draw was drawn, and nothing twice.
    assert run.drawn == wanted
    return run


@settings(max_examples=150)
@given(**_WORLD)
def test_all_work_is_drawn_and_no_able_box_is_idle_without_reason(boxes, petitions):
    _run(boxes, petitions)


@settings(max_examples=30)
@given(**_WORLD)
def test_the_same_inputs_lead_to_the_same_decisions(boxes, petitions):
    assert _run(boxes, petitions).log == _run(boxes, petitions).log


@settings(max_examples=30)
@given(
    speeds=st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=1, max_size=3),
    load_s=st.sampled_from([0.5, 10.0]),
    context=st.sampled_from("AB"),
    images=st.integers(1, 3),
    stream=st.lists(st.sampled_from("AAAB"), min_size=1, max_size=8),
    keep=st.integers(1, 2),
)
def test_nobody_waits_for_ever_beside_a_steady_stream(
    speeds, load_s, context, images, stream, keep
):
    run = Run(Yard(*(FakeBox(f"g{n}", keep=keep) for n in range(len(speeds))), quantum_s=20.0))
    for number, image_s in enumerate(speeds):
        for each in "AB":
            run.yard.speed(f"g{number}", image_s, load_s, each)
    sent = 0

    def more() -> None:
        nonlocal sent
        while sum(line.images for _, _, line in run.yard.scheduler.lines.heads()) < 8:
            sent += 1
            of = stream[sent % len(stream)]
            run.yard.arrive(job(f"s{sent}", of, client=f"client {sent % 3}"))

    more()
    run.settle()
    for _ in range(20):
        run.draw()
        more()
        run.settle()
    run.yard.arrive(job("p", context, client="patient"), images)
    run.settle()
    # It is due after five times its own length; three others may use up their quanta; then it is
    # overtaken for no longer than the bound, for each of its images.
    wait_s = 5 * images * max(speeds) + 4 * (20 + max(speeds) + load_s)
    wait_s += images * (60 + 2 * load_s + max(speeds) * 3)
    completions = 0
    while run.drawn.get("p", 0) < images:
        run.draw()
        more()
        run.settle()
        completions += 1
        assert completions <= wait_s * len(speeds) / min(speeds), run.log[-5:]
