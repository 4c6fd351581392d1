"""When the manager's loop commits: before anything depends on it, and no more often."""

from collections.abc import Iterator

import pytest

from sdistrib.errors import StoreError
from sdistrib_manager import effects as fx
from sdistrib_manager.events import BlobStored
from sdistrib_manager.loop import Loop
from sdistrib_manager.rows import Clock
from sdistrib_manager.state import Settings
from sdistrib_manager.storage import open_memory

SOFT = fx.Keep(Clock(1.0), soft=True)
HARD = fx.Keep(Clock(2.0))


class Committing:
    """A loop, its clock, and what it has committed."""

    def __init__(self) -> None:
        self.now = 100.0
        self.commits: list[list[fx.Keep]] = []
        self.storage = open_memory(Settings("test"))
        self.loop = Loop(self.storage, {}, lambda: self.now)
        self.storage.commit = lambda keeps: self.commits.append(list(keeps))  # type: ignore[method-assign, assignment]

    def turn(self, *effects: fx.Effect) -> None:
        self.loop._commit(list(effects))


@pytest.fixture
def committing() -> Iterator[Committing]:
    made = Committing()
    yield made
    made.loop._running = False
    made.loop.run()  # closes what it holds


def test_what_nothing_depends_on_is_kept_with_the_next_that_something_does(
    committing: Committing,
) -> None:
    committing.turn(SOFT)
    committing.turn(fx.Log("info", "nothing to keep"))
    committing.turn(SOFT)
    assert committing.commits == []
    committing.turn(HARD)
    assert committing.commits == [[SOFT, SOFT, HARD]]
    committing.turn()
    assert len(committing.commits) == 1


def test_it_waits_no_longer_than_a_moment_after_the_first(committing: Committing) -> None:
    committing.turn(SOFT)
    committing.now += 0.04
    committing.turn(SOFT)
    assert committing.commits == []
    committing.now += 0.02
    committing.turn()
    assert committing.commits == [[SOFT, SOFT]]


@pytest.mark.parametrize("effect", [fx.Stop(), fx.Checkpoint()])
def test_what_ends_or_empties_the_store_finds_everything_in_it(
    committing: Committing, effect: fx.Effect
) -> None:
    committing.turn(SOFT, effect)
    assert committing.commits == [[SOFT]]


def test_a_picture_goes_after_the_row_that_lets_it_go(committing: Committing) -> None:
    committing.loop._doomed.add("aa")
    committing.turn(SOFT)
    assert committing.commits == [[SOFT]]


def test_what_waited_is_forgotten_with_all_that_was_not_kept(committing: Committing) -> None:
    committing.turn(SOFT)
    committing.loop._start_over(StoreError("the disk is gone"))
    committing.turn(HARD)
    assert committing.commits == [[HARD]]


def test_a_batch_of_outcomes_wakes_the_loop_with_all_of_them(committing: Committing) -> None:
    committing.loop._notify(BlobStored("aa"), BlobStored("bb"))
    assert list(committing.loop._readable()) == [BlobStored("aa"), BlobStored("bb")]
