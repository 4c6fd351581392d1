"""What idle boxes take over from slower ones, and what they race."""

from collections.abc import Callable

import pytest

from tests.support.boxes import FakeBox, FakeHeld, Yard, busy, job, used


def _slow_and_idle(image_s: float = 10.0) -> tuple[Yard, FakeBox, FakeBox]:
    slow, idle = FakeBox("1", "A"), FakeBox("2", "A")
    yard = Yard(slow, idle)
    yard.speed("1", image_s)
    yard.speed("2", 1.0)
    return yard, slow, idle


def test_what_another_has_not_begun_is_taken_back_for_an_idle_box() -> None:
    yard, slow, idle = _slow_and_idle()
    used(yard, "a")
    yard.arrive(job(), 2)
    yard.boxes = [slow]
    assert yard.orders() == ["1<a", "1<a"]
    yard.begin(slow)
    yard.boxes = [slow, idle]
    assert yard.orders() == ["1>a"]
    # One that is coming back feeds the idle box: nothing more is taken meanwhile.
    assert yard.orders() == []
    yard.give_back(slow)
    assert yard.orders() == ["2<a"]
    assert yard.orders() == []


@pytest.mark.parametrize("is_down", [False, True])
def test_what_an_engine_turns_to_now_is_not_taken_back_unless_it_is_down(is_down: bool) -> None:
    yard, slow, idle = _slow_and_idle()
    used(yard, "a")
    yard.arrive(job())
    yard.boxes = [slow]
    assert yard.orders() == ["1<a"]
    slow.is_down = is_down
    # Time and again a box is idle that would be sooner: what stands first begins all the same.
    yard.boxes = [slow, idle]
    assert yard.orders() == (["1>a"] if is_down else [])


def test_what_an_engine_turns_to_now_makes_way_for_nobody() -> None:
    slow = FakeBox("1", "A")
    yard = Yard(slow)
    used(yard, "a", "b")
    yard.arrive(job("a"), 2)
    assert yard.orders() == ["1<a", "1<a"]
    yard.arrive(job("b", priority="high"))
    assert yard.orders() == ["1>a"]
    assert [held.revoking for held in slow.holds] == [False, True]


def test_a_running_image_is_raced_by_an_idle_box_that_would_be_sooner() -> None:
    yard, slow, idle = _slow_and_idle()
    busy(yard, slow)
    assert yard.orders() == ["2=on 1"]
    # Once.
    assert yard.orders() == []
    yard.begin(idle)
    assert yard.orders() == []


_Change = Callable[[Yard, FakeBox, FakeBox], None]


def _no_hedge(_: Yard, slow: FakeBox, __: FakeBox) -> None:
    slow.holds[0].job.hedge = False


def _alone(_: Yard, slow: FakeBox, __: FakeBox) -> None:
    slow.holds[0].alone = True


def _elsewhere(_: Yard, __: FakeBox, idle: FakeBox) -> None:
    idle.context = "B"


def _coming_back(_: Yard, slow: FakeBox, __: FakeBox) -> None:
    slow.holds[0].revoking = True


def _unfit(yard: Yard, _: FakeBox, __: FakeBox) -> None:
    yard.unfit.add(("2", "on 1"))


def _unable(_: Yard, __: FakeBox, idle: FakeBox) -> None:
    idle.able = {"B"}


def _nearly_done(yard: Yard, _: FakeBox, __: FakeBox) -> None:
    yard.now += 8.95


@pytest.mark.parametrize(
    "change", [_no_hedge, _alone, _elsewhere, _coming_back, _unfit, _unable, _nearly_done]
)
def test_no_race(change: _Change) -> None:
    yard, slow, idle = _slow_and_idle()
    busy(yard, slow)
    change(yard, slow, idle)
    assert yard.orders() == []


@pytest.mark.parametrize(("slow_s", "raced"), [(1.24, False), (1.26, True)])
def test_what_would_win_next_to_nothing_is_not_raced(slow_s: float, raced: bool) -> None:
    yard, slow, _ = _slow_and_idle(slow_s)
    busy(yard, slow)
    assert (yard.orders() == ["2=on 1"]) is raced


def test_the_quickest_idle_box_races_for_what_is_latest() -> None:
    boxes = [FakeBox(name, "A") for name in "1234"]
    yard = Yard(*boxes)
    for name, image_s in zip("1234", (30.0, 9.0, 6.0, 1.0), strict=True):
        yard.speed(name, image_s)
    for box in boxes[:2]:
        busy(yard, box)
    assert yard.orders() == ["4=on 1", "3=on 2"]


def test_an_empty_box_may_load_for_a_race() -> None:
    yard, slow, idle = _slow_and_idle(100.0)
    yard.speed("2", 1.0, 5.0)
    busy(yard, slow)
    idle.context = None
    assert yard.orders() == ["2=on 1"]


def test_what_is_late_is_taken_to_be_late_again() -> None:
    yard, slow, _ = _slow_and_idle()
    busy(yard, slow)
    yard.now += 9.5
    assert yard.orders() == []
    yard.now += 4.0
    assert yard.orders() == ["2=on 1"]


def test_the_slowest_is_helped_first() -> None:
    first, second, idle = FakeBox("1", "A"), FakeBox("2", "A"), FakeBox("3", "A")
    yard = Yard(first, second, idle)
    for box, image_s in (("1", 20.0), ("2", 50.0), ("3", 1.0)):
        yard.speed(box, image_s)
    busy(yard, first)
    yard.boxes = [second]
    busy(yard, second)
    yard.boxes = [first, second, idle]
    assert yard.orders() == ["3=on 2"]


def test_a_box_that_nothing_can_help_does_nothing() -> None:
    yard = Yard(FakeBox("1"), FakeBox("2"))
    assert yard.orders() == []


def test_an_image_that_comes_back_is_for_an_idle_box_that_can_draw_it() -> None:
    yard, slow, idle = _slow_and_idle()
    made = yard.arrive(job(hedge=True), 2)
    yard.boxes = [slow]
    yard.orders()
    yard.begin(slow)
    other = FakeBox("0", "B", able={"B"})
    yard.boxes = [other, slow, idle]
    assert yard.orders() == ["1>a"]
    # Box 0 cannot, so box 2 waits for it, and races nothing meanwhile.
    assert yard.orders() == []
    yard.give_back(slow)
    assert yard.orders() == ["2<a"]
    assert made.waiting == 0


def test_what_comes_back_for_one_idle_box_keeps_no_other_from_racing() -> None:
    yard, slow, idle = _slow_and_idle(100.0)
    yard.arrive(job(), 2)
    yard.boxes = [slow]
    yard.orders()
    yard.begin(slow)
    third = FakeBox("3", "A")
    yard.speed("3", 2.0)
    yard.boxes = [slow, idle, third]
    assert yard.orders() == ["1>a", "3=a"]
    assert yard.orders() == []


def test_a_box_is_asked_at_most_once_a_second() -> None:
    yard, slow, idle = _slow_and_idle(100.0)
    made = yard.arrive(job(hedge=False), 3)
    yard.boxes = [slow]
    yard.orders()
    yard.begin(slow)
    slow.holds.append(FakeHeld(made))
    yard.scheduler.lines.change(made, -1)
    third = FakeBox("3", "A")
    yard.speed("3", 2.0)
    yard.boxes = [slow, idle, third]
    assert yard.orders() == ["1>a"]
    yard.now = 0.99
    assert yard.orders() == []
    yard.now = 1.0
    assert yard.orders() == ["1>a"]


def test_what_comes_back_and_fits_no_idle_box_keeps_none() -> None:
    yard, slow, _ = _slow_and_idle(100.0)
    yard.arrive(job(), 2)
    yard.boxes = [slow, FakeBox("2", "A", able={"B"})]
    yard.orders()
    yard.begin(slow)
    slow.holds[1].revoking = True
    assert yard.orders() == []


def test_what_will_be_done_soon_is_not_even_reckoned() -> None:
    first, second, idle = FakeBox("1", "A"), FakeBox("2", "A"), FakeBox("3", "A")
    yard = Yard(first, second, idle)
    for box, image_s in (("1", 50.0), ("2", 20.0), ("3", 1.0)):
        yard.speed(box, image_s)
    for box in (first, second):
        yard.boxes = [box]
        busy(yard, box)
    yard.boxes = [first, second, idle]
    assert yard.orders() == ["3=on 1"]
