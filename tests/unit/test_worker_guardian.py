"""Several workers in one box: which is started again, and how all of them end."""

import math

import pytest

from sdistrib import limits
from sdistrib_worker.effects import Log
from sdistrib_worker.guardian import (
    STEADY_S,
    Effect,
    Ended,
    Guardian,
    Leave,
    StartWorker,
    StopAsked,
    StopWorker,
    Ticked,
)
from sdistrib_worker.guarding import labelled

TWO = ("cuda0", "cuda1")


def done(effects: list[Effect]) -> list[Effect]:
    """What is to be done, apart from words."""
    return [effect for effect in effects if not isinstance(effect, Log)]


def words(effects: list[Effect]) -> str:
    """What the operator hears."""
    return "\n".join(effect.text for effect in effects if isinstance(effect, Log))


@pytest.fixture
def guardian():
    """One with two workers that run since second 0."""
    made = Guardian(TWO)
    assert made.next_deadline() == -math.inf
    assert made.handle(Ticked(), 0.0) == [StartWorker("cuda0"), StartWorker("cuda1")]
    assert made.next_deadline() == math.inf
    assert made.handle(Ticked(), 1.0) == []
    return made


@pytest.mark.parametrize("status", [-9, -11, 1, 137])
def test_one_that_dies_is_started_again_and_the_other_goes_on(guardian, status):
    made = guardian.handle(Ended("cuda1", status), 5.0)
    assert done(made) == []
    assert "cuda1 died" in words(made)
    assert guardian.next_deadline() == 5.0
    assert guardian.handle(Ticked(), 5.0) == [StartWorker("cuda1")]


def test_one_that_keeps_dying_waits_longer_each_time_up_to_a_limit(guardian):
    now, waits = 0.0, []
    for _ in range(len(limits.RESTART_BACKOFF_S) + 2):
        guardian.handle(Ended("cuda0", -11), now)
        waits.append(guardian.next_deadline() - now)
        assert done(guardian.handle(Ticked(), now + waits[-1] - 0.01)) == []
        now += waits[-1]
        assert guardian.handle(Ticked(), now) == [StartWorker("cuda0")]
    most = limits.RESTART_BACKOFF_S[-1]
    assert waits == pytest.approx([*limits.RESTART_BACKOFF_S, most, most])


def test_one_that_ran_long_enough_is_started_at_once_again(guardian):
    guardian.handle(Ended("cuda0", -11), 1.0)
    guardian.handle(Ticked(), 1.0)
    guardian.handle(Ended("cuda0", -11), 1.0 + STEADY_S)
    assert guardian.next_deadline() == 1.0 + STEADY_S
    guardian.handle(Ticked(), 1.0 + STEADY_S)
    guardian.handle(Ended("cuda0", -11), 2 * STEADY_S)
    assert guardian.next_deadline() > 2 * STEADY_S


@pytest.mark.parametrize("status", [0, 2, 7])
def test_one_that_leaves_or_was_started_wrongly_stays_away(guardian, status):
    made = guardian.handle(Ended("cuda0", status), 5.0)
    assert f"exit status {status}" in words(made)
    assert done(made) == []
    assert guardian.next_deadline() == math.inf
    assert done(guardian.handle(Ended("cuda1", 0), 6.0)) == [Leave(status)]


def test_stops_are_passed_on_each_time_and_nobody_is_started_any_more(guardian):
    guardian.handle(Ended("cuda1", -9), 5.0)
    assert guardian.handle(StopAsked(), 5.0) == [StopWorker("cuda0")]
    assert guardian.handle(Ticked(), 99.0) == []
    assert guardian.handle(StopAsked(), 99.0) == [StopWorker("cuda0")]
    # The other died before anybody asked it to end: that is told in the end.
    assert done(guardian.handle(Ended("cuda0", 0), 100.0)) == [Leave(1)]


@pytest.mark.parametrize(
    ("first", "second", "worst"), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (0, -11, 1), (-15, -2, 0)]
)
def test_the_worst_status_is_the_guardians(guardian, first, second, worst):
    assert done(guardian.handle(StopAsked(), 1.0)) == [StopWorker("cuda0"), StopWorker("cuda1")]
    assert done(guardian.handle(Ended("cuda0", first), 2.0)) == []
    assert done(guardian.handle(Ended("cuda1", second), 3.0)) == [Leave(worst)]


def test_a_stop_before_anything_was_started_ends_it():
    assert Guardian(TWO).handle(StopAsked(), 0.0) == [Leave(0)]


def test_lines_say_whose_they_are_in_text_and_in_json():
    assert labelled("cuda0", b"12:00:00 ready") == b"[cuda0] 12:00:00 ready"
    assert labelled("cuda0", b'{"time": 1}') == b'{"device": "cuda0", "time": 1}'
