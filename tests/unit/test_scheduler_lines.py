"""Waiting work: the head of each line, in fair order."""

import random

from sdistrib_manager.scheduler.lines import _LOOK, Key, Lines
from sdistrib_manager.scheduler.shares import Shares
from sdistrib_manager.scheduler.work import Job
from tests.support.boxes import job


class Stand:
    def __init__(self) -> None:
        self.shares = Shares(quantum_s=10.0)
        self.lines = Lines(self.shares)

    def add(self, made: Job, images: int = 1) -> Job:
        self.shares.arrive(made.client, 0.0)
        self.lines.change(made, images)
        return made

    @property
    def order(self) -> list[str]:
        return [found.id for _, found, _ in self.lines.heads()]


def test_equal_context_kind_and_size_stand_in_one_line() -> None:
    stand = Stand()
    first = stand.add(job("a"))
    for number, more in enumerate(({"context": "B"}, {"kind": "big"}, {"pixels": 64})):
        stand.add(job(f"x{number}", **more))
    stand.add(job("same"))
    assert len(stand.lines.heads()) == 4
    line = stand.lines.of(first)
    assert line is not None
    assert (line.images, line.context) == (2, "A")


def test_order_is_priority_then_round_then_due_then_arrival() -> None:
    stand = Stand()
    late = stand.add(job("late", "1", due=5.0, number=1))
    stand.add(job("second", "2", due=4.0, number=3))
    stand.add(job("first", "3", due=4.0, number=2))
    stand.add(job("served", "4", due=1.0))
    stand.add(job("low", "5", priority="low"))
    stand.add(job("high", "6", due=99.0, priority="high"))
    stand.shares.charge("served", 15.0, 0.0)
    assert stand.order == ["high", "first", "second", "late", "served", "low"]
    assert stand.lines.key(late) < stand.lines.key(job("served"))


def test_the_head_moves_on_when_its_client_was_served() -> None:
    stand = Stand()
    line = stand.lines.of(stand.add(job("ana", due=1.0), 5))
    stand.add(job("ben", due=2.0), 5)
    assert line is not None
    heads = []
    for _ in range(4):
        head = line.head()
        assert head is not None
        heads.append(head[1].id)
        stand.shares.charge(head[1].client, 10.0, 0.0)
    assert heads == ["ana", "ben", "ana", "ben"]


def test_an_earlier_petition_of_the_same_client_goes_first_and_leaves_again() -> None:
    stand = Stand()
    old = stand.add(job("old", client="ana", due=5.0))
    new = stand.add(job("new", client="ana", due=1.0))
    assert stand.order == ["new"]
    stand.lines.change(new, -1)
    assert stand.order == ["old"]
    stand.lines.change(old, -1)
    assert stand.order == []
    assert stand.lines.of(old) is None


def test_a_client_that_left_the_line_is_skipped() -> None:
    stand = Stand()
    gone, stays = stand.add(job("gone", due=1.0)), stand.add(job("stays", due=2.0))
    stand.lines.change(gone, -1)
    assert stand.order == ["stays"]
    stand.lines.change(stays, -1)
    # A line whose petitions are all somewhere else is no head.
    assert stand.lines.heads() == []


def test_no_images_make_no_line() -> None:
    stand = Stand()
    stand.lines.change(job(), 0)
    assert stand.lines.heads() == []


def test_some_of_a_petition_may_go_and_come_back() -> None:
    stand = Stand()
    made = stand.add(job("a"), 3)
    stand.lines.change(made, -2)
    stand.lines.change(made, 1)
    line = stand.lines.of(made)
    assert line is not None
    assert (made.waiting, line.images) == (2, 2)


def test_a_look_into_the_line_is_short_and_in_order() -> None:
    stand = Stand()
    for number in range(20):
        stand.add(job(f"p{number}", client=f"c{number % 10}", due=float(number)))
    line = stand.lines.of(job())
    assert line is not None
    seen = [found.id for found in line.ordered()]
    assert seen[:4] == ["p0", "p10", "p1", "p11"]
    assert len(seen) == 2 * _LOOK


_LAST = Key(9, 0, 0.0, 0)


def test_a_petition_is_overtaken_since_it_was_first_passed_after_it_last_got_something() -> None:
    stand = Stand()
    head = stand.add(job("a"), 2)
    line = stand.lines.of(head)
    assert line is not None
    assert line.overtaken(99.0) is None
    for now in (10.0, 10.5, 30.0):
        line.passed(now, _LAST)
    assert line.overtaken(9.9) is None
    assert line.overtaken(10.0) == (line.key(head), head)
    stand.lines.change(head, -1)
    assert line.overtaken(99.0) is None
    line.passed(40.0, _LAST)
    stand.add(job("b"))
    assert line.overtaken(99.0) == (line.key(head), head)
    stand.lines.change(head, -1)
    assert line.overtaken(99.0) is None


def test_only_who_stands_before_is_passed() -> None:
    stand = Stand()
    first, same, last = (
        stand.add(job(name, client="c", due=due))
        for name, due in (("a", 1.0), ("b", 2.0), ("c", 3.0))
    )
    line = stand.lines.of(first)
    assert line is not None
    line.passed(5.0, line.key(same))
    assert [one.passed_at for one in (first, same, last)] == [5.0, None, None]
    # The first of those that were passed by then is meant, not the one that was passed first.
    line.passed(6.0, _LAST)
    new = stand.add(job("d", client="d", due=0.5))
    line.passed(7.0, _LAST)
    assert [line.overtaken(at)[1] for at in (5.0, 6.5, 7.0) if line.overtaken(at)] == [
        first, first, new,
    ]  # fmt: skip


def test_what_moves_to_another_line_takes_along_how_long_it_has_waited() -> None:
    stand = Stand()
    made = stand.add(job("a"), 2)
    before = stand.lines.of(made)
    assert before is not None
    before.passed(5.0, _LAST)
    stand.lines.change(made, -2)
    made.kind = "other"
    stand.lines.change(made, 2)
    line = stand.lines.of(made)
    assert line is not None
    assert line is not before
    assert line.overtaken(5.0) == (line.key(made), made)
    assert before.overtaken(5.0) is None


def test_all_of_a_client_are_passed_however_many_he_has() -> None:
    stand = Stand()
    made = [stand.add(job(f"p{n}", client="c", due=float(n))) for n in range(_LOOK + 2)]
    line = stand.lines.of(made[0])
    assert line is not None
    line.passed(1.0, _LAST)
    assert [one.passed_at for one in made] == [1.0] * _LOOK + [None, None]
    stand.lines.change(made[0], -1)
    line.passed(2.0, _LAST)
    assert [one.passed_at for one in made[_LOOK:]] == [2.0, None]


def test_who_loses_his_first_right_still_stands_before_what_he_wants_later() -> None:
    stand = Stand()
    new = stand.add(job("new", client="c", due=1.0, new=True, images=1))
    assert stand.order == ["new"]
    stand.lines.change(new, -1)
    stand.add(job("later", client="c", due=3.0))
    assert stand.order == ["later"]
    stand.lines.change(new, 1)
    assert stand.order[0] == "new"
    new.new = False
    stand.add(job("other", client="d", due=2.0))
    assert stand.order == ["new"]


def test_images_before_a_place_are_counted() -> None:
    stand = Stand()
    stand.add(job("a", client="a", due=1.0), 3)
    stand.add(job("b", client="b", due=2.0), 4)
    made = stand.add(job("c", client="a", due=3.0), 5)
    line = stand.lines.of(made)
    assert line is not None
    assert [line.before(Key(1, 0, due, 0)) for due in (0.0, 1.5, 2.5, 9.0)] == [0, 3, 7, 12]


def test_a_newcomer_goes_before_others_first_images() -> None:
    stand = Stand()
    stand.add(job("new", "1", due=1.0, new=True, images=1))
    stand.add(job("newcomer", "2", due=9.0, new=True, newcomer=True, images=1))
    assert stand.order == ["newcomer", "new"]


def test_a_first_image_is_as_any_other_behind_what_its_client_wants_before() -> None:
    stand = Stand()
    new = stand.add(job("new", client="c", due=5.0, new=True, images=1))
    line = stand.lines.of(new)
    assert line is not None
    assert line.key(new).round < 0
    stand.add(job("short", client="c", due=1.0))
    assert line.key(new).round == 0


def test_a_first_image_goes_before_all_of_equal_priority() -> None:
    stand = Stand()
    stand.add(job("old", "1", due=1.0), 5)
    new = stand.add(job("new", "2", due=9.0, new=True, images=3), 3)
    stand.add(job("high", "3", due=9.0, priority="high"))
    assert stand.order == ["high", "new", "old"]
    # The others of it are as anybody's, once one is in somebody's hands; that one is not.
    stand.lines.change(new, -1)
    assert stand.order == ["high", "old", "new"]
    assert stand.lines.key(new).round < 0
    # It comes back, and is first again; when one was begun, it is not.
    stand.lines.change(new, 1)
    assert stand.order == ["high", "new", "old"]
    stand.lines.change(new, -1)
    new.new = False
    stand.lines.change(new, 1)
    assert stand.order == ["high", "old", "new"]


def test_a_petition_that_comes_back_to_the_front_of_its_own_line_goes_first() -> None:
    stand = Stand()
    stand.add(job("old", due=1.0), 5)
    new = stand.add(job("new", due=9.0, new=True, images=2), 2)
    orders = [stand.order]
    for images in (-1, 1, -1, 1, -2):
        stand.lines.change(new, images)
        orders.append(stand.order)
    assert orders == [["new"], ["old"], ["new"], ["old"], ["new"], ["old"]]


def test_coming_back_behind_another_of_its_client_changes_nothing() -> None:
    stand = Stand()
    stand.add(job("first", client="ana", due=1.0))
    second = stand.add(job("second", client="ana", due=2.0, new=True, images=2), 2)
    stand.lines.change(second, -1)
    stand.lines.change(second, 1)
    assert stand.order == ["first"]


def test_any_coming_and_going_leaves_the_smallest_key_at_the_head() -> None:
    draw = random.Random(4)
    stand = Stand()
    waiting: dict[str, Job] = {}
    for number in range(2000):
        now = float(number)
        if waiting and draw.random() < 0.45:
            one = waiting[draw.choice(sorted(waiting))]
            stand.lines.change(one, -1)
            if not one.waiting:
                del waiting[one.id]
        else:
            client = f"c{draw.randrange(6)}"
            one = job(f"p{number}", client=client, due=draw.random() * 50, number=number)
            stand.shares.arrive(client, now)
            stand.lines.change(one, draw.randint(1, 3))
            waiting[one.id] = one
        if draw.random() < 0.3:
            stand.shares.charge(one.client, draw.random() * 30, now)
        wanted = min(waiting.values(), key=stand.lines.key).id if waiting else None
        assert (stand.order[0] if stand.order else None) == wanted
