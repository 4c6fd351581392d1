"""What loading and drawing cost: learned, guessed, remembered, forgotten."""

import pytest

from sdistrib_manager.scheduler import costs as costs_module
from sdistrib_manager.scheduler.costs import Costs, Known, Sample
from tests.support.boxes import SQUARE, job


@pytest.fixture
def costs() -> Costs:
    return Costs()


def test_a_figure_is_the_median_of_the_last_five(costs: Costs) -> None:
    for step_s in (9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0):
        costs.learn("box", job(), Sample(0.0, 10 * step_s, 0.5))
    assert costs.image_s("box", job()) == 10 * 3.0 + 0.5


def test_one_outlier_changes_nothing_and_a_lasting_change_is_believed_at_the_third(
    costs: Costs,
) -> None:
    for _ in range(5):
        costs.learn("box", job(), Sample(0.0, 1.0, 0.0))
    believed = []
    for _ in range(3):
        costs.learn("box", job(), Sample(0.0, 100.0, 0.0))
        believed.append(costs.image_s("box", job()))
    assert believed == [1.0, 1.0, 100.0]


def test_loading_is_apart_from_drawing(costs: Costs) -> None:
    costs.learn("box", job(), Sample(30.0, 1.0, 0.0))
    assert costs.image_s("box", job()) == 1.0
    assert costs.load_s("box", job()) == 30.0
    # An image that needed no load says nothing of loads.
    costs.learn("box", job(), Sample(0.0, 1.0, 0.0))
    costs.learn("box", job(), Sample(10.0, 1.0, 0.0))
    assert costs.load_s("box", job()) == 20.0


def test_steps_cost_by_number_and_another_size_in_proportion_to_the_nearest(costs: Costs) -> None:
    costs.learn("box", job(), Sample(0.0, 10.0, 1.0))
    assert costs.image_s("box", job(steps=30)) == 31.0
    assert costs.image_s("box", job(pixels=4 * SQUARE)) == 44.0
    costs.learn("box", job(pixels=16 * SQUARE), Sample(0.0, 320.0, 16.0))
    assert costs.image_s("box", job(pixels=12 * SQUARE)) == (320 + 16) * 12 / 16
    assert costs.image_s("box", job(pixels=2 * SQUARE)) == 22.0


def test_no_image_and_no_step_count_is_nothing(costs: Costs) -> None:
    costs.learn("box", job(steps=0), Sample(0.0, 0.0, 0.0))
    assert costs.image_s("box", job()) == 1e-3


def test_before_anything_is_known_a_constant_by_steps_and_size(costs: Costs) -> None:
    small, large = costs.image_s("box", job()), costs.image_s("box", job(pixels=2 * SQUARE))
    assert large == 2 * small
    assert costs.image_s("box", job(steps=100)) > 5 * small
    assert costs.load_s("box", job()) == 10.0
    assert costs.typical_s(job()) == small
    assert not costs.knows("box", job())


def test_an_unseen_pair_is_guessed_from_other_boxes_and_how_this_one_compares(
    costs: Costs,
) -> None:
    for box, image_s in (("fast", 1.0), ("slow", 4.0)):
        costs.learn(box, job(context="A"), Sample(0.0, image_s, 0.0))
    costs.learn("fast", job(context="B"), Sample(5.0, 3.0, 0.0))
    assert costs.image_s("slow", job(context="B")) == pytest.approx(12.0)
    # A box that drew nothing at all is taken to be midway.
    assert costs.image_s("new", job(context="B")) == pytest.approx(3.0 / 0.625)
    assert costs.load_s("slow", job(context="B")) == 5.0


def test_without_other_boxes_from_other_contexts_of_the_same_one(costs: Costs) -> None:
    for context, image_s in (("A", 1.0), ("B", 2.0), ("C", 9.0)):
        costs.learn("box", job(context=context), Sample(image_s, image_s, 0.0))
    assert costs.image_s("box", job(context="D")) == 2.0
    assert costs.load_s("box", job(context="D")) == 2.0


def test_boxes_that_share_no_size_or_took_no_time_are_not_compared(costs: Costs) -> None:
    costs.learn("one", job(pixels=SQUARE), Sample(0.0, 10.0, 0.0))
    costs.learn("two", job(pixels=4 * SQUARE), Sample(0.0, 400.0, 0.0))
    costs.learn("none", job(context="Z"), Sample(0.0, 0.0, 0.0))
    costs.learn("one", job(context="Z"), Sample(0.0, 7.0, 0.0))
    costs.learn("two", job(context="B"), Sample(0.0, 6.0, 0.0))
    assert costs.image_s("one", job(context="B")) == 6.0


def test_what_is_typical_is_the_median_over_boxes(costs: Costs) -> None:
    for box, image_s in (("one", 1.0), ("two", 3.0), ("three", 100.0)):
        costs.learn(box, job(), Sample(0.0, image_s, 0.0))
    assert costs.typical_s(job()) == 3.0


def test_what_a_running_image_says_counts_until_it_is_finished(costs: Costs) -> None:
    costs.step_seen("box", job(), 0.0)
    assert costs.known("box", "A") is None
    costs.step_seen("box", job(), 2.0)
    assert costs.image_s("box", job()) == 20.0
    # No decoding was seen yet: it counts for a guess, and is not called known, nor kept.
    assert not costs.knows("box", job())
    known = costs.known("box", "A")
    assert known is not None
    assert known.step_s == ()
    costs.step_seen("box", job(), 5.0)
    assert costs.image_s("box", job()) == 50.0
    assert not costs.drawn(job())
    costs.learn("box", job(), Sample(0.0, 10.0, 0.0))
    assert costs.knows("box", job())
    assert costs.drawn(job())
    assert costs.image_s("box", job()) == 10.0
    # Another size of the same context is seen anew.
    costs.step_seen("box", job(pixels=4 * SQUARE), 7.0)
    assert costs.image_s("box", job(pixels=4 * SQUARE)) == 70.0


def test_a_running_image_is_one_sample_beside_the_others(costs: Costs) -> None:
    costs.learn("box", job(), Sample(0.0, 10.0, 0.0))
    costs.step_seen("box", job(), 2.0)
    assert costs.image_s("box", job()) == 15.0
    # About the same again is nothing new.
    assert costs.step_seen("box", job(), 2.1) == []
    assert costs.image_s("box", job()) == 15.0
    costs.learn("box", job(), Sample(0.0, 10.0, 0.0))
    costs.step_seen("box", job(), 9.0)
    assert costs.image_s("box", job()) == 10.0


def test_a_guess_is_made_anew_after_each_thing_learned(costs: Costs) -> None:
    before = costs.image_s("two", job()), costs.load_s("two", job())
    costs.learn("one", job(), Sample(3.0, 50.0, 0.0))
    assert (costs.image_s("two", job()), costs.load_s("two", job())) == (50.0, 3.0) != before


def test_a_guess_about_another_context_is_made_anew_as_well(costs: Costs) -> None:
    for box, image_s in (("one", 1.0), ("two", 2.0)):
        costs.learn(box, job(context="A"), Sample(0.0, image_s, 0.0))
    costs.learn("one", job(context="B"), Sample(0.0, 10.0, 0.0))
    assert costs.image_s("two", job(context="B")) == pytest.approx(20.0)
    # Box two turns out to be three times as slow as that.
    for _ in range(3):
        costs.learn("two", job(context="A"), Sample(0.0, 6.0, 0.0))
    assert costs.image_s("two", job(context="B")) == pytest.approx(60.0)


def test_what_is_known_comes_back_as_it_was(costs: Costs) -> None:
    for number in range(7):
        costs.learn("box", job(), Sample(number / 3, number / 7, number / 9))
    costs.learn("box", job(pixels=64), Sample(0.0, 1.0, 2.0))
    costs.learn("other", job(context="B"), Sample(0.0, 1.0, 0.0))
    new = Costs()
    for box, context in (("box", "A"), ("other", "B")):
        known = costs.known(box, context)
        assert known is not None
        assert new.remember(known) == []
        assert new.known(box, context) == known
    for asked in (job(), job(pixels=64), job(context="B"), job(context="C")):
        assert new.image_s("box", asked) == costs.image_s("box", asked)
        assert new.load_s("box", asked) == costs.load_s("box", asked)


def test_beyond_the_limit_the_pair_not_used_for_longest_is_forgotten_and_named(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs_module, "PAIRS_MAX", 2)
    assert costs.learn("one", job(context="A"), Sample(1.0, 1.0, 0.0)) == []
    assert costs.learn("one", job(context="B"), Sample(1.0, 2.0, 0.0)) == []
    assert costs.learn("one", job(context="A"), Sample(1.0, 1.0, 0.0)) == []
    assert costs.learn("two", job(context="A"), Sample(1.0, 1.0, 0.0)) == [("one", "B")]
    assert costs.known("one", "B") is None
    assert costs.step_seen("one", job(context="B"), 1.0) == [("one", "A")]
    assert costs.remember(Known("six", "C", (), (), ())) == [("two", "A")]
    # Nothing is left behind of those that were forgotten.
    assert costs._by_box.keys() == {"one", "six"}
    assert costs._by_context.keys() == {"B", "C"}
