"""Boxes that keep several contexts: what they have, what goes, and what that costs others."""

from hypothesis import given
from hypothesis import strategies as st

from sdistrib_manager.scheduler.costs import Costs, Sample
from sdistrib_manager.scheduler.forecast import Forecast
from sdistrib_manager.scheduler.outlook import Outlook, Outlooks, ends, outlook
from sdistrib_manager.scheduler.work import Job, left_by, used
from tests.support.boxes import FakeBox, FakeHeld, Yard, busy, job
from tests.support.boxes import used as no_newcomers


def two(name: str, last: str = "A", other: str = "B", **more: object) -> FakeBox:
    """A box that keeps two contexts."""
    return FakeBox(name, last, keep=2, kept=(other,) if other else (), **more)


def yard(*boxes: FakeBox, load_s: float = 10.0) -> Yard:
    """Each image takes 1 s, whatever the context."""
    made = Yard(*boxes)
    for box in boxes:
        for context in "ABC":
            made.speed(box.name, 1.0, load_s, context)
    return made


def look(*contexts: str, keep: int = 2) -> Outlook:
    return Outlook(0.0, contexts, keep, 0, 0.0)


def test_the_last_used_is_first_and_the_least_lately_used_goes():
    assert used((), "A", 2) == ("A",)
    assert used(("A",), "B", 2) == ("B", "A")
    assert used(("B", "A"), "A", 2) == ("A", "B")
    assert used(("A", "B"), "C", 2) == ("C", "A")
    assert used(("A",), "B", 1) == ("B",)


@given(st.lists(st.sampled_from("ABCDE"), max_size=30), st.integers(1, 4))
def test_a_box_has_the_last_so_many_different_contexts(asked, keep):
    contexts: tuple[str, ...] = ()
    for context in asked:
        contexts = used(contexts, context, keep)
    assert contexts == tuple(dict.fromkeys(reversed(asked)))[:keep]


def test_what_is_kept_needs_no_load_and_an_empty_place_replaces_nothing():
    costs, box = Costs(), FakeBox("1")
    costs.learn("1", job(), Sample(7.0, 1.0, 0.0))
    assert look("B", "A").begin_at(costs, box, job()) == 0.0
    assert look("B", "C").begin_at(costs, box, job()) == 7.0
    assert look("B", "C").replaces(job())
    assert not look("B", "A").replaces(job())
    assert not look("B").replaces(job())


def test_only_what_goes_counts_for_what_a_copy_costs_others():
    copies = {"A": 1, "B": 1, "C": 2}.get
    assert look("C", "B").loads_of_others(job(), copies) == 2
    # C goes, and another box has it still.
    assert look("B", "C").loads_of_others(job(), copies) == 1
    assert look("B", "A").loads_of_others(job(), copies) == 0
    assert look("B").loads_of_others(job(), copies) == 0
    assert look("B", "C").loads_of_others(job("d", "D"), lambda _: 0) == 0


def test_the_outlook_follows_what_a_box_was_handed():
    costs, box = Costs(), two("1")
    costs.learn("1", job(), Sample(7.0, 1.0, 0.0))
    box.holds = [FakeHeld(job("c", "C")), FakeHeld(job("a", "A")), FakeHeld(job("b", "B"))]
    seen = outlook(box, 0.0, costs)
    # C is loaded for B, which was used least lately, and is loaded again.
    assert (seen.contexts, seen.held) == (("B", "A"), 3)
    assert seen.ready_at == sum(costs.image_s("1", held.job) for held in box.holds) + 2 * 7.0
    assert [end for _, end in ends(box, 0.0, costs)][-1] == seen.ready_at


def test_boxes_are_found_by_all_that_they_have():
    first, second = two("1"), two("2", "C", "")
    costs = Costs()
    looks = Outlooks([first, second], 0.0, costs, 1.0)
    assert looks.having("B") == [first]
    second.holds.append(FakeHeld(job("b", "B")))
    looks.again(second)
    assert looks.having("B") == [first, second]
    assert looks.having("C") == [second]
    assert looks.with_room(job("c", "C")) == [second]
    # At B, so nothing is expected of it for C.
    assert looks.at_work_on("C") == []
    assert looks.at_work_on("B") == [first, second]


def test_an_idle_box_serves_whatever_it_has():
    farm = yard(two("1"), two("2", "C", "D"))
    no_newcomers(farm, "b", "c")
    farm.arrive(job("b", "B"))
    farm.arrive(job("c", "C"))
    assert farm.orders() == ["1<b", "2<c"]


def test_behind_an_image_comes_one_that_needs_no_load():
    box = two("1")
    farm = yard(box)
    busy(farm, box, "A")
    no_newcomers(farm, "b", "c")
    farm.arrive(job("c", "C"))
    farm.arrive(job("b", "B"))
    assert farm.orders() == ["1<b"]


def test_what_waits_behind_for_another_context_does_not_give_way_to_first_images():
    """A stream of them would take it back again and again."""
    box = two("1")
    farm = yard(box)
    busy(farm, box, "A")
    no_newcomers(farm, "b", "c")
    farm.arrive(job("b", "B")).new = False
    assert farm.orders() == ["1<b"]
    farm.now = 5.0
    first = farm.arrive(job("c", "A"))
    assert first.new
    assert farm.orders() == []
    # The same behind which it would stand in its own context gives way.
    farm.finish(box)
    farm.begin(box)
    farm.finish(box)
    farm.orders()
    farm.begin(box)
    farm.arrive(job("d", "A")).new = False
    assert farm.orders() == ["1<d"]
    farm.now = 10.0
    no_newcomers(farm, "e")
    farm.arrive(job("e", "A"))
    assert farm.orders() == ["1>d"]


def test_a_load_takes_the_empty_place_before_it_replaces_anything():
    full, half = FakeBox("1", "A", keep=1), two("2", "B", "")
    farm = yard(full, half)
    no_newcomers(farm, "c")
    # A further copy of nothing is the same anywhere, but for what it replaces.
    third = FakeBox("3", "C", able={"A"})
    farm.boxes.append(third)
    farm.speed("3", 1.0, 10.0, "C")
    farm.arrive(job("c", "C"))
    assert farm.orders() == ["2<c"]


def test_an_idle_box_races_what_it_has_or_has_an_empty_place_for():
    slow = FakeBox("1", "A")
    for idle, races in ((two("2", "B", "A"), True), (two("2", "B", ""), True),
                        (two("2", "B", "C"), False)):  # fmt: skip
        slow.holds.clear()
        farm = Yard(slow, idle)
        farm.speed("1", 100.0)
        farm.speed("2", 1.0, 5.0)
        busy(farm, slow)
        assert farm.orders() == (["2=on 1"] if races else [])


def test_an_image_of_a_kept_context_begins_at_once():
    box = two("1")
    farm = yard(box)
    for context, expected_s in (("B", 1.0), ("A", 1.0), ("C", 11.0), ("B", 11.0)):
        assert farm.scheduler.begun(box, job(context=context), 0.0) == expected_s
        box.holds = [FakeHeld(job(context=context))]
        farm.begin(box)
        box.holds = []


def test_the_forecast_places_what_stays_and_what_goes():
    box, costs = two("1"), Costs()
    for context in "ABC":
        costs.learn("1", job(context=context), Sample(7.0, 2.0, 0.0))
    forecast = Forecast(costs, 1.0, 0.0, [box], lambda *_: True)
    loads = [forecast.place(job(context=context), 1)[0].load_s for context in "BACAB"]
    assert loads == [0.0, 0.0, 7.0, 0.0, 7.0]


def test_two_models_on_one_box_alternate_without_loads_where_both_stay():
    loads = {}
    for keep in (1, 2):
        box = FakeBox("1", keep=keep)
        farm = yard(box)
        no_newcomers(farm, *"ABCDEFGH")
        loads[keep] = 0
        for number, client in enumerate("ABCDEFGH"):
            context = "AB"[number % 2]
            farm.arrive(job(client, context, client=client))
            farm.orders()
            loads[keep] += context not in box.contexts
            farm.begin(box)
            farm.finish(box)
    assert loads == {1: 8, 2: 2}


# --- what stays beside the contexts ------------------------------------------------------------


def enlarging(name: str = "u", **more: object) -> Job:
    return job(name, "U", beside=True, **more)


def test_what_stays_beside_takes_the_place_of_no_context():
    costs, box = Costs(), FakeBox("1", "A")
    costs.learn("1", job(), Sample(7.0, 1.0, 0.0))
    costs.learn("1", enlarging(), Sample(2.0, 1.0, 0.0))
    box.holds = [FakeHeld(enlarging())]
    seen = outlook(box, 0.0, costs)
    assert (seen.contexts, seen.beside, seen.ready_at) == (("A",), "U", 3.0)
    assert seen.begin_at(costs, box, job()) == 3.0
    # The second one finds the upscaler there; another one does not.
    assert seen.begin_at(costs, box, enlarging()) == 3.0
    assert not look("A", keep=1).replaces(enlarging())
    assert left_by(("A",), enlarging(), 1) == ("A",)
    box.holds = [FakeHeld(enlarging()), FakeHeld(enlarging()), FakeHeld(job())]
    assert [end for _, end in ends(box, 0.0, costs)] == [3.0, 4.0, 5.0]


def test_a_box_that_enlarges_is_handed_the_next_one_before_it_is_done():
    made = yard(FakeBox("1", "A"))
    made.speed("1", 1.5, 1.0, "U")
    made.arrive(enlarging(), 3)
    assert made.orders() == ["1<u", "1<u"]


def test_a_model_is_not_loaded_elsewhere_for_a_picture_that_is_enlarged():
    """Its box still has it."""
    made = yard(FakeBox("1", "A"), FakeBox("2", ""))
    made.speed("1", 1.0, 0.5, "U")
    made.boxes[0].holds = [FakeHeld(enlarging())]
    seen = Outlooks(made.boxes, 0.0, made.costs, 0.0)
    assert seen.having("A") == [made.boxes[0]] == seen.having("U")
    assert seen.at_work_on("A") == [made.boxes[0]] == seen.at_work_on("U")
    assert seen.reckoned(made.boxes[0], job()) < seen.reckoned(made.boxes[1], job())
