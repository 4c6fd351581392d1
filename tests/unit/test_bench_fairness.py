"""For how long a petition is overtaken: what counts, and what does not."""

import pytest

from bench.scheduling.fairness import Fairness
from bench.scheduling.farm import Image, Job


def _job(number: int) -> Job:
    return Job(number, "c", "normal", "m0", 9, 20, 512, 512, 0.0)


A, B = _job(1), _job(2)


@pytest.mark.parametrize(("ends", "worst_s"), [(40.0, 20.0), (14.0, 0.0), (15.5, 0.0), (30.0, 5.0)])
def test_only_what_would_have_been_sooner_counts(ends: float, worst_s: float) -> None:
    found = Fairness()
    for now, would_end in ((10.0, 15.0), (15.0, 25.0), (30.0, 35.0)):
        found.handed(now, Image(B, int(now)), [(A, would_end)])
    found.handed(31.0, Image(A, 0), [])
    found.finished(ends, Image(A, 0))
    assert found.worst_s == worst_s


def test_an_image_of_its_own_begins_anew_and_one_taken_back_does_not() -> None:
    found = Fairness()
    found.handed(0.0, Image(B, 0), [(A, 5.0)])
    found.handed(10.0, Image(A, 0), [])
    found.back(Image(A, 0))
    found.handed(20.0, Image(B, 1), [(A, 25.0)])
    found.handed(30.0, Image(A, 0), [])
    found.handed(70.0, Image(B, 2), [(A, 75.0)])
    found.handed(90.0, Image(A, 1), [])
    found.finished(99.0, Image(A, 1))
    assert found.worst_s == 0.0
    found.finished(100.0, Image(A, 0))
    assert found.worst_s == 20.0


@pytest.mark.parametrize("begins", [True, False])
def test_one_taken_back_after_another_was_served_is_no_longer_overtaken(begins: bool) -> None:
    found = Fairness()
    if begins:
        found.handed(0.0, Image(A, 1), [])
    found.handed(0.0, Image(B, 0), [(A, 5.0)])
    found.handed(10.0, Image(A, 0), [])
    if begins:
        found.began(20.0, Image(A, 1))
    else:
        found.handed(20.0, Image(A, 1), [])
    found.back(Image(A, 0))
    found.handed(50.0, Image(B, 1), [(A, 55.0)])
    found.handed(60.0, Image(A, 0), [])
    found.finished(99.0, Image(A, 0))
    assert found.worst_s == 0.0


def test_who_never_got_anything_is_not_counted_before_he_does() -> None:
    found = Fairness()
    found.handed(0.0, Image(B, 0), [(A, 5.0)])
    found.handed(99.0, Image(B, 1), [(A, 105.0)])
    assert found.worst_s == 0.0
    found.finished(3.0, Image(B, 0))
    assert found.worst_s == 0.0
