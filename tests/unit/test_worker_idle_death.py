"""An engine that died while idle: its death is no fault of the image it was asked for next."""

from sdistrib.errors import ErrorInfo
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib_worker import events
from sdistrib_worker.making import START_TRIES
from tests.support.rig import FACTS, Rig, attempt, crash, one, said


def test_a_death_before_the_image_was_begun_does_not_count_against_it() -> None:
    rig = Rig()
    rig.connect()
    rig.grant(attempt(0))
    assert one(said(rig.turn(crash()), wire.Failed)).started is False


def test_a_death_after_it_does() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0))
    assert one(said(rig.turn(crash()), wire.Failed)).started is True


def test_an_engine_that_never_begins_keeps_no_image_for_ever() -> None:
    rig = Rig()
    rig.connect()
    counted = []
    for number in range(1, START_TRIES + 3):
        rig.grant(attempt(0, number))
        counted.append(one(said(rig.turn(crash()), wire.Failed)).started)
        rig.turn(after_s=11.0)
        rig.engine(child.Ready(facts=FACTS))
    assert counted == [False] * START_TRIES + [True, True]


def test_one_that_was_silent_until_it_was_ended_counts() -> None:
    rig = Rig()
    rig.connect()
    rig.grant(attempt(0))
    hung = ErrorInfo(code="engine_hung", message="It did not begin.", signal="SIGKILL")
    made = rig.turn(events.EngineDied(hung, ours=True))
    assert one(said(made, wire.Failed)).started is True


def test_a_death_while_starting_does_not_count_against_what_waits_unless_it_is_one_of_many() -> (
    None
):
    rig = Rig()
    rig.connect()
    rig.turn(crash())
    counted = []
    for number in range(1, START_TRIES + 3):
        rig.grant(attempt(0, number))
        rig.turn(after_s=11.0)
        counted.append(one(said(rig.turn(crash(was_ready=False)), wire.Failed)).started)
    assert counted == [False] * (START_TRIES - 1) + [True, True, True]
