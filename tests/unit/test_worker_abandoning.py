"""The worker's machine and pictures that nobody wants any more."""

import pytest

from sdistrib.errors import ErrorInfo
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from tests.support.rig import (
    FACTS,
    Rig,
    asked,
    attempt,
    crash,
    log_of,
    of,
    one,
    said,
)

# --- abandoning -------------------------------------------------------------------------------


def test_abandoned_in_the_queue_is_dropped_without_a_word() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    assert rig.hear(wire.Abandon(attempt=attempt(1))) == []
    assert asked(rig.draw(1)) == []


def test_abandoned_before_its_speed_is_known_goes_on_until_it_is() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(), steps=50)
    rig.engine(child.At(ticket=ticket, phase="loading"))
    assert rig.hear(wire.Abandon(attempt=attempt())) == []
    # A slow first step: 49 more of them are worse than a reload.
    made = rig.engine(
        child.At(ticket=ticket, phase="sampling", step=1, steps=50, step_s=3.0), after_s=3.0
    )
    assert of(made, fx.KillEngine) == [
        fx.KillEngine("Its picture is not wanted any more.", "cancelled")
    ]
    assert not said(made, wire.Step)
    late = child.At(ticket=ticket, phase="sampling", step=2, steps=50, step_s=3.0)
    assert rig.engine(late) == []
    info = ErrorInfo(code="cancelled", message="x", signal="SIGKILL")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert of(made, fx.StartEngine)
    assert not said(made, wire.Failed)
    assert log_of(made, "error") == ""


def test_nothing_is_asked_of_a_child_that_was_ended() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1), steps=50)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=50, step_s=9.0))
    assert of(rig.hear(wire.Abandon(attempt=attempt(0))), fx.KillEngine)
    # Its picture was under way already.
    made = rig.draw(ticket)
    assert of(made, fx.DropPicture)
    assert asked(made) == []
    info = ErrorInfo(code="cancelled", message="x", signal="SIGKILL")
    assert of(rig.turn(events.EngineDied(info, ours=True)), fx.StartEngine)
    assert one(asked(rig.engine(child.Ready(facts=FACTS)))).seed == 101


def test_an_engine_that_can_cancel_is_asked_to_and_lives() -> None:
    rig = Rig()
    rig.turn()
    rig.engine(child.Ready(facts=FACTS, cancels=True))
    rig.welcome()
    ticket = rig.begin(attempt(0), attempt(1), steps=50)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=50, step_s=9.0))
    made = rig.hear(wire.Abandon(attempt=attempt(0)))
    assert of(made, fx.CancelDrawing) == [fx.CancelDrawing(ticket)]
    # Asked once, and neither a word more nor a kill while it obeys.
    late = child.At(ticket=ticket, phase="sampling", step=2, steps=50, step_s=9.0)
    assert rig.engine(late) == []
    made = rig.engine(child.Declined(ticket=ticket, code="cancelled", message="x"))
    assert not said(made, wire.Failed)
    assert not of(made, fx.KillEngine)
    assert one(asked(made)).seed == 101


def test_abandoned_near_its_end_finishes_unseen() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt(0), steps=20), load_s=30.0)
    rig.encoded(attempt(0))
    ticket = rig.begin(attempt(1), attempt(2), steps=20)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=10, steps=20, step_s=2.0))
    made = rig.hear(wire.Abandon(attempt=attempt(1)))
    assert not of(made, fx.KillEngine)
    assert one(said(rig.hear(wire.Identify()), wire.WorkerHello)).running == ()
    rig.welcome()
    made = rig.engine(child.At(ticket=ticket, phase="decoding"))
    assert not of(made, fx.KillEngine)
    assert said(made) == []
    made = rig.draw(ticket)
    assert len(of(made, fx.DropPicture)) == 1
    assert not of(made, fx.EncodePicture)


def _loading(*others: wire.Attempt, start_s: float = 1.0) -> Rig:
    """An engine that takes a second to start, and loads what was never loaded, for attempt 0."""
    rig = Rig()
    rig.turn()
    rig.engine(child.Ready(facts=FACTS), after_s=start_s)
    rig.welcome()
    ticket = rig.begin(attempt(0), *others)
    rig.engine(child.At(ticket=ticket, phase="loading"))
    return rig


def test_a_load_nobody_wants_any_more_is_given_up_when_a_new_engine_is_sooner() -> None:
    rig = _loading()
    assert not of(rig.hear(wire.Abandon(attempt=attempt(0)), after_s=0.5), fx.KillEngine)
    # It has taken a second, and may take as long again: a new engine is no later.
    assert not of(rig.engine(child.At(ticket=1, phase="loading"), after_s=0.5), fx.KillEngine)
    made = rig.engine(child.At(ticket=1, phase="loading"), after_s=0.5)
    assert one(of(made, fx.KillEngine)).code == "cancelled"
    info = ErrorInfo(code="cancelled", message="x", signal="SIGKILL")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert of(made, fx.StartEngine)
    assert not said(made, wire.Failed)


@pytest.mark.parametrize(("load_s", "is_ended"), [(30.0, True), (3.0, False)])
def test_a_load_is_judged_by_what_the_same_took_before(load_s: float, is_ended: bool) -> None:
    rig = _loading()
    rig.draw(1, load_s=load_s)
    rig.encoded(attempt(0))
    rig.draw(rig.begin(attempt(1), model="other"), load_s=0.5)
    rig.encoded(attempt(1))
    ticket = rig.begin(attempt(2))
    rig.engine(child.At(ticket=ticket, phase="loading"))
    made = rig.hear(wire.Abandon(attempt=attempt(2)), after_s=2.5)
    assert bool(of(made, fx.KillEngine)) is is_ended


def test_a_load_is_judged_by_the_size_of_its_files_and_the_last_load() -> None:
    rig = _loading()
    rig.draw(1, load_s=14.0)  # a microsecond for each byte
    rig.encoded(attempt(0))
    ticket = rig.begin(attempt(1), model="other")
    rig.engine(child.At(ticket=ticket, phase="loading"))
    made = rig.hear(wire.Abandon(attempt=attempt(1)))
    assert of(made, fx.KillEngine)


@pytest.mark.parametrize(("model", "is_ended"), [("tiny", False), ("other", True), ("no", True)])
def test_a_load_that_the_next_image_wants_goes_on(model: str, is_ended: bool) -> None:
    rig = _loading()
    rig.grant(attempt(1), model=model)
    made = rig.hear(wire.Abandon(attempt=attempt(0)), after_s=5.0)
    assert bool(of(made, fx.KillEngine)) is is_ended


@pytest.mark.parametrize(("late_s", "is_ended"), [(1.0, False), (4.0, True)])
def test_what_lost_a_race_because_it_is_late_is_not_waited_for(
    late_s: float, is_ended: bool
) -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt(0), steps=20), load_s=30.0)
    rig.encoded(attempt(0))
    ticket = rig.begin(attempt(1), steps=20)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=10, steps=20, step_s=0.1))
    rig.now += late_s
    made = rig.hear(wire.Abandon(attempt=attempt(1)))
    assert bool(of(made, fx.KillEngine)) is is_ended


def test_abandoned_and_declined_or_dead_gets_no_answer() -> None:
    for end in ("declined", "dead", "began"):
        rig = Rig()
        rig.connect()
        ticket = one(asked(rig.grant(attempt()))).ticket
        rig.hear(wire.Abandon(attempt=attempt()))
        if end == "declined":
            made = rig.engine(child.Declined(ticket=ticket, code="engine_error", message="x"))
        elif end == "began":
            made = rig.engine(child.Began(ticket=ticket))
        else:
            made = rig.turn(crash())
        assert not said(made, wire.Failed)
        assert not said(made, wire.Started)


def test_abandoned_while_encoded_or_kept() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt(0)))
    rig.hear(wire.Abandon(attempt=attempt(0)))
    assert said(rig.encoded(attempt(0)), wire.Result) == []
    rig.draw(rig.begin(attempt(1)))
    rig.hear(wire.Abandon(attempt=attempt(1)))
    error = ErrorInfo(code="internal", message="x")
    assert rig.turn(events.EncodingFailed(attempt(1), error)) == []
    rig.draw(rig.begin(attempt(2)))
    rig.encoded(attempt(2))
    rig.hear(wire.Abandon(attempt=attempt(2)))
    assert one(said(rig.hear(wire.Identify()), wire.WorkerHello)).holding == ()
