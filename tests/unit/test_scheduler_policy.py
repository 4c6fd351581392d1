"""Which image goes to which box, and when: each rule alone."""

import pytest

from sdistrib_manager.scheduler.lines import Key
from sdistrib_manager.scheduler.outlook import HOLD_MAX
from sdistrib_manager.scheduler.work import Job
from tests.support.boxes import SQUARE, FakeBox, Yard, busy, job, used

# --- earliest finish ----------------------------------------------------------------------------


def test_an_image_goes_to_the_box_that_finishes_it_soonest() -> None:
    yard = Yard(FakeBox("1", "A"), FakeBox("2", "A"), FakeBox("3", "A"))
    for box, image_s in (("1", 4.0), ("2", 3.0), ("3", 5.0)):
        yard.speed(box, image_s)
    yard.arrive(job())
    assert yard.orders() == ["2<a"]


@pytest.mark.parametrize(("load_s", "taker"), [(10.0, "slow"), (1.0, "fast")])
def test_a_load_counts_for_the_end(load_s: float, taker: str) -> None:
    yard = Yard(FakeBox("fast"), FakeBox("slow", "A"), copy_cost=0.0)
    yard.speed("fast", 1.0, load_s)
    yard.speed("slow", 3.0, load_s)
    yard.arrive(job())
    assert yard.orders() == [f"{taker}<a"]


def test_nothing_starts_on_a_slow_box_that_the_fast_one_would_be_done_with_sooner() -> None:
    yard = Yard(FakeBox("fast", "A"), FakeBox("slow", "A"))
    yard.speed("fast", 1.0)
    yard.speed("slow", 10.0)
    yard.arrive(job(), 9)
    # The fast one has drawn all nine before the slow one its first.
    given = yard.orders()
    assert "slow<a" not in given
    yard.arrive(job("b"), 9)
    assert "slow<b" in yard.orders()


def test_a_slow_box_takes_the_first_image_that_the_others_would_not_have_finished() -> None:
    yard = Yard(FakeBox("fast", "A"), FakeBox("slow", "A"))
    yard.speed("fast", 1.0)
    yard.speed("slow", 3.5)
    used(yard, "a", "b", "c")
    for name in "abc":
        yard.arrive(job(name), 2)
    # The fast one has drawn the first of b and one more by then.
    assert yard.orders()[:2] == ["fast<a", "slow<c"]


def test_of_a_box_that_draws_something_else_nothing_is_expected() -> None:
    fast, slow = FakeBox("fast", "B"), FakeBox("slow", "A")
    yard = Yard(fast, slow)
    yard.speed("fast", 1.0)
    yard.speed("fast", 1.0, context="B")
    yard.speed("slow", 50.0)
    busy(yard, fast, "B")
    yard.arrive(job(), 1)
    assert "slow<a" in yard.orders()


def test_a_box_that_cannot_draw_the_first_of_a_line_takes_one_that_it_can() -> None:
    fast, slow = FakeBox("fast", "A"), FakeBox("slow", "A")
    yard = Yard(fast, slow)
    yard.speed("fast", 1.0)
    yard.speed("slow", 1.5)
    used(yard, "a", "b")
    yard.arrive(job("a"), 1)
    yard.arrive(job("b"), 2)
    yard._able = lambda box, made: (box.name, made.id) != ("slow", "b")  # type: ignore[method-assign]
    # No image of b is for it, and none of a is left: the head of the line is tried again later.
    assert yard.orders() == ["fast<a", "fast<b"]


# --- what is loaded -----------------------------------------------------------------------------


def test_a_box_goes_on_with_what_it_has_loaded() -> None:
    yard = Yard(FakeBox("1", "B"))
    used(yard, "a", "b")
    yard.arrive(job("a", "A"))
    yard.arrive(job("b", "B"))
    assert yard.orders() == ["1<b"]


def _overtaking(yard: Yard, seconds: int, stop: str) -> int | None:
    """One box draws B, an image a second, while `stop` waits; when that got the box."""
    box = yard.boxes[0]
    for _ in range(seconds):
        yard.orders()
        if box.holds[0].job.id == stop:
            return round(yard.now)
        yard.begin(box)
        yard.now += 1.0
        yard.finish(box)
    return None


@pytest.mark.parametrize(
    ("load_s", "policy", "bound_s"),
    [(1.0, {}, 60), (50.0, {}, 100), (1.0, {"overtaken_s": 20.0}, 20),
     (50.0, {"overtaken_loads": 3.0}, 150)],
)  # fmt: skip
def test_nobody_is_overtaken_for_longer_than_the_bound(
    load_s: float, policy: dict[str, float], bound_s: int
) -> None:
    yard = Yard(FakeBox("1", "B"), **policy)
    yard.speed("1", 1.0, load_s, "A")
    yard.speed("1", 1.0, load_s, "B")
    used(yard, "a", "b")
    yard.arrive(job("a", "A"))
    yard.arrive(job("b", "B", priority="normal"), 500)
    got_at = _overtaking(yard, 300, "a")
    assert got_at is not None
    # What was already handed to it is drawn first.
    assert bound_s <= got_at <= bound_s + 3


def _passed(yard: Yard, made: Job, now: float) -> None:
    """Somebody of worse right was handed out before it."""
    line = yard.scheduler.lines.of(made)
    assert line is not None
    line.passed(now, Key(9, 0, 0.0, 0))
    assert made.passed_at == now


def _loaded_beside(*others: str) -> Yard:
    """A box with B loaded that can draw all these, each client known, an image a second."""
    yard = Yard(FakeBox("1", "B"))
    used(yard, "b", *(name.lower() for name in others))
    for context in ("B", *others):
        yard.speed("1", 1.0, 1.0, context)
    return yard


def test_of_several_overtaken_the_first_in_fair_order_is_next() -> None:
    yard = _loaded_beside("A", "C")
    later, sooner = yard.arrive(job("a", "A"), 9), yard.arrive(job("c", "C"), 2)
    _passed(yard, later, 1.0)
    _passed(yard, sooner, 2.0)
    yard.arrive(job("b", "B"), 30)
    yard.now = 200.0
    assert yard.orders()[0] == "1<c"


def test_what_is_loaded_still_goes_before_an_overtaken_one_if_it_has_the_better_right() -> None:
    yard = _loaded_beside("A")
    _passed(yard, yard.arrive(job("a", "A"), 9), 1.0)
    yard.now = 200.0
    yard.arrive(job("b", "B", priority="high"))
    assert yard.orders()[0] == "1<b"


def test_one_that_is_not_the_first_of_its_client_is_overtaken_as_well() -> None:
    yard = _loaded_beside("A")
    used(yard, "ana")
    second = yard.arrive(job("second", "A", client="ana"), 30)
    _passed(yard, second, 1.0)
    yard.now = 61.0
    yard.arrive(job("first", "A", client="ana"), 1)
    yard.arrive(job("b", "B", client="ana"), 300)
    # Whatever is before it in its line goes first, and that is no passing.
    assert yard.orders()[0] == "1<first"


def test_beside_an_overtaken_one_nothing_of_worse_right_is_handed_over_ahead_of_time() -> None:
    box = FakeBox("1", "B")
    yard = Yard(box)
    used(yard, "a", "b")
    for context in "AB":
        yard.speed("1", 10.0, 1.0, context)
    made = yard.arrive(job("a", "A"), 2)
    yard.arrive(job("b", "B"), 300)
    assert yard.orders() == ["1<b", "1<b"]
    assert made.passed_at == 0.0
    yard.begin(box)
    yard.now = 61.0
    # What waits there comes back, and nothing else goes there.
    assert yard.orders() == ["1>b"]
    yard.give_back(box)
    assert yard.orders() == []
    yard.finish(box)
    assert yard.orders()[0] == "1<a"


def test_an_image_that_came_back_has_waited_all_the_time() -> None:
    yard = _loaded_beside("A")
    made = yard.arrive(job("a", "A"), 2)
    _passed(yard, made, 3.0)
    lines = yard.scheduler.lines
    lines.change(made, -2)
    assert made.passed_at is None
    lines.change(made, 1)
    assert made.passed_at == 3.0
    # Once one has begun, that is forgotten.
    lines.change(made, -1)
    yard.scheduler.begun(yard.boxes[0], made, 9.0)
    lines.change(made, 1)
    assert made.passed_at is None


@pytest.mark.parametrize(("slow_s", "taken"), [(9.0, True), (11.0, False)])
def test_an_overtaken_one_waits_for_a_box_only_if_that_is_much_sooner(
    slow_s: float, taken: bool
) -> None:
    fast, slow = FakeBox("fast", "A"), FakeBox("slow", "A")
    yard = Yard(fast, slow)
    yard.speed("fast", 0.2)
    yard.speed("slow", slow_s)
    busy(yard, fast)
    fast.holds[0].expected_s = 0.8
    made = yard.arrive(job("a"))
    _passed(yard, made, -100.0)
    # The fast one would be done with it in a second.
    assert ("slow<a" in yard.orders()) is taken


@pytest.mark.parametrize("somebody", [True, False])
def test_others_are_not_expected_to_draw_it_before_what_is_of_better_right(somebody: bool) -> None:
    fast, slow = FakeBox("fast", "A"), FakeBox("slow", "A")
    yard = Yard(fast, slow)
    yard.speed("fast", 1.0)
    yard.speed("slow", 5.0)
    used(yard, "a", "b")
    busy(yard, fast)
    yard.arrive(job("a"), 3)
    if somebody:
        # Six seconds of the fast one.
        yard.arrive(job("b", pixels=2 * SQUARE, priority="high"), 3)
    assert ("slow<a" in yard.orders()) is somebody


@pytest.mark.parametrize(("copy_cost", "images", "copied"), [
    (1.0, 10, True), (1.0, 2, False), (0.0, 8, True), (100.0, 10, False),
])  # fmt: skip
def test_a_further_copy_is_loaded_only_when_it_pays(
    copy_cost: float, images: int, copied: bool
) -> None:
    yard = Yard(FakeBox("1", "A"), FakeBox("2", "B"), copy_cost=copy_cost)
    for box in "12":
        yard.speed(box, 10.0, 20.0)
    used(yard, "a")
    yard.arrive(job(), images)
    assert ("2<a" in yard.orders()) is copied


# --- ahead of time ------------------------------------------------------------------------------


def test_one_image_waits_behind_the_running_one() -> None:
    yard = Yard(FakeBox("1", "A"))
    yard.speed("1", 10.0)
    yard.arrive(job(), 9)
    assert yard.orders() == ["1<a", "1<a"]
    assert yard.orders() == []


@pytest.mark.parametrize(("image_s", "held"), [(0.5, 4), (0.7, 2), (0.01, HOLD_MAX), (30.0, 2)])
def test_more_wait_there_when_they_are_quick(image_s: float, held: int) -> None:
    yard = Yard(FakeBox("1", "A"))
    yard.speed("1", image_s)
    yard.arrive(job(), 50)
    assert len(yard.orders()) == held


@pytest.mark.parametrize(("batch", "held"), [(1, 2), (3, 3), (0, 16), (99, 16)])
def test_no_more_than_its_owner_allows_beside_the_two(batch: int, held: int) -> None:
    yard = Yard(FakeBox("1", "A", batch=batch))
    yard.speed("1", 0.01)
    yard.arrive(job(), 50)
    assert len(yard.orders()) == held


def test_only_of_the_same_context() -> None:
    yard = Yard(FakeBox("1", "A"))
    used(yard, "a", "b")
    yard.arrive(job("a", "A"))
    yard.arrive(job("b", "B"))
    assert yard.orders() == ["1<a"]


# --- newcomers, shares and priorities -----------------------------------------------------------


def test_a_newcomer_is_first_and_the_box_is_kept_for_him() -> None:
    box = FakeBox("1", "A")
    yard = Yard(box)
    for context in "AB":
        yard.speed("1", 10.0, 5.0, context)
    used(yard, "heavy")
    yard.arrive(job("h", client="heavy"), 50)
    assert yard.orders() == ["1<h", "1<h"]
    yard.begin(box)
    yard.now = 3.0
    yard.arrive(job("n", "B", client="new"))
    # What was handed over for later comes back, and no more goes there.
    assert yard.orders() == ["1>h"]
    yard.give_back(box)
    assert yard.orders() == []
    yard.now = 10.0
    yard.finish(box)
    assert yard.orders()[0] == "1<n"


def test_a_newcomer_of_the_same_context_gets_the_place_behind_the_running_image() -> None:
    box = FakeBox("1", "A")
    yard = Yard(box)
    yard.speed("1", 10.0)
    used(yard, "heavy")
    yard.arrive(job("h", client="heavy"), 50)
    yard.orders()
    yard.begin(box)
    yard.arrive(job("n", client="new"))
    assert yard.orders() == ["1>h"]
    # Nobody asks twice.
    assert yard.orders() == []
    yard.give_back(box)
    assert yard.orders() == ["1<n"]
    for _ in range(5):
        assert yard.orders() == []


def test_an_idle_box_that_can_is_better_for_a_newcomer_than_a_kept_one() -> None:
    first, idle = FakeBox("1", "A"), FakeBox("2", None)
    yard = Yard(first, idle)
    for box in "12":
        yard.speed(box, 10.0, 5.0)
        yard.speed(box, 10.0, 5.0, "B")
    busy(yard, first)
    yard.arrive(job("n", "B", client="new"))
    assert yard.orders() == ["2<n"]


def _all_busy(yard: Yard) -> None:
    """Each box draws what it has loaded, and one more image waits there."""
    boxes = yard.boxes
    for box in boxes:
        client = f"c{box.name}"
        used(yard, client)
        yard.boxes = [box]
        yard.arrive(job(f"on {box.name}", box.context, client=client, hedge=False), 2)
        assert len(yard.orders()) == 2
        yard.begin(box)
    yard.boxes = boxes


def test_for_a_newcomer_what_waits_on_the_box_that_would_be_done_soonest_gives_way() -> None:
    yard = Yard(FakeBox("1", "A"), FakeBox("2", "A"), FakeBox("3", "B", able={"B"}))
    for box, image_s in (("1", 10.0), ("2", 30.0), ("3", 5.0)):
        yard.speed(box, image_s, 1.0)
        yard.speed(box, image_s, 1.0, "B")
    _all_busy(yard)
    yard.arrive(job("n", "A", client="new"))
    assert yard.orders() == ["1>on 1"]


def test_of_a_box_that_is_kept_for_another_line_nothing_is_expected() -> None:
    yard = Yard(FakeBox("1", "A"), FakeBox("2", "A"))
    for context in "AB":
        yard.speed("1", 20.0, 1.0, context)
        yard.speed("2", 2.0, 1.0, context)
    _all_busy(yard)
    yard.arrive(job("n", "B", client="new"))
    yard.arrive(job("m", "A", client="newer"))
    # Box 2 will load B, so that A is to be drawn by box 1.
    assert yard.orders() == ["2>on 2", "1>on 1"]


def test_what_a_client_has_of_its_own_waits_for_its_newer_one_only_by_priority() -> None:
    box = FakeBox("1", "A")
    yard = Yard(box)
    yard.speed("1", 10.0)
    used(yard, "ana")
    yard.arrive(job("long", client="ana"), 9)
    yard.orders()
    yard.begin(box)
    yard.arrive(job("short", client="ana"))
    assert yard.orders() == []
    yard.arrive(job("now", client="ana", priority="high"))
    assert yard.orders() == ["1>long"]


def test_priorities_go_before_everything_else() -> None:
    box = FakeBox("1", "A")
    yard = Yard(box)
    yard.speed("1", 10.0)
    yard.speed("1", 10.0, 5.0, "B")
    used(yard, "l", "n", "h")
    yard.arrive(job("l", priority="low"))
    yard.arrive(job("n", priority="normal"))
    yard.arrive(job("h", "B", priority="high"))
    drawn = []
    for _ in range(3):
        yard.orders()
        drawn.append(yard.begin(box).job.id)
        yard.now += 10.0
        yard.finish(box)
    assert drawn == ["h", "n", "l"]


def test_clients_take_turns_by_the_seconds_they_got() -> None:
    box = FakeBox("1", "A")
    yard = Yard(box, quantum_s=30.0)
    yard.speed("1", 10.0)
    used(yard, "ana", "ben")
    for client in ("ana", "ben"):
        yard.arrive(job(client), 50)
    drawn = []
    for _ in range(24):
        yard.orders()
        drawn.append(yard.begin(box).job.client)
        yard.now += 10.0
        yard.finish(box)
    assert abs(drawn.count("ana") - drawn.count("ben")) <= 4
    assert drawn != sorted(drawn)


def test_short_petitions_go_before_long_ones_but_not_for_ever() -> None:
    yard = Yard(FakeBox("1", "A"))
    yard.speed("1", 1.0)
    used(yard, "a", "b")
    long = yard.arrive(job("a"), 20)
    yard.now = 10.0
    short = yard.arrive(job("b"))
    key = yard.scheduler.lines.key
    assert key(short) < key(long)
    yard.now = 101.0
    assert key(long) < key(yard.arrive(job("c", client="b")))


# --- lines --------------------------------------------------------------------------------------


def test_lines_that_nobody_here_can_draw_wait() -> None:
    yard = Yard(FakeBox("1", "A", able={"A"}))
    made = yard.arrive(job("b", "B"))
    assert yard.orders() == []
    assert made.waiting == 1


def test_a_place_far_back_in_a_line_is_not_looked_for() -> None:
    fast, slow = FakeBox("fast", "A"), FakeBox("slow", "A")
    yard = Yard(fast, slow)
    yard.speed("fast", 1.0)
    yard.speed("slow", 30.0)
    used(yard, "c")
    for number in range(40):
        yard.arrive(job(f"p{number}", client="c"))
    # It would be the thirtieth or so; so far the line is not walked, and the first is as good.
    assert yard.orders() == ["fast<p0", "slow<p1", "fast<p2"]


def test_whoever_can_have_the_box_and_is_passed_over_is_counted() -> None:
    yard = Yard(FakeBox("1", "C", able={"B", "C"}))
    used(yard, "a", "b", "c")
    made = [yard.arrive(job(name.lower(), name)) for name in "ABC"]
    assert yard.orders() == ["1<c"]
    assert [one.passed_at for one in made] == [None, 0.0, None]


@pytest.mark.parametrize(("other_s", "order"), [(9.6, "2<a"), (9.4, "1<a")])
def test_what_draws_the_same_bits_is_preferred_when_it_is_hardly_later(
    other_s: float, order: str
) -> None:
    other, same = FakeBox("1", "A", pixel_class="other"), FakeBox("2", "A", pixel_class="same")
    yard = Yard(other, same)
    yard.speed("1", other_s)
    yard.speed("2", 10.0)
    yard.arrive(job("a", prefers="same"))
    assert yard.orders() == [order]


def test_who_prefers_nothing_takes_the_soonest() -> None:
    yard = Yard(FakeBox("1", "A", pixel_class="other"), FakeBox("2", "A", pixel_class="same"))
    yard.speed("1", 9.9)
    yard.speed("2", 10.0)
    yard.arrive(job("a"))
    assert yard.orders() == ["1<a"]
