"""The worker's machine leaves: at once, when done, or when asked twice."""

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from tests.support.rig import (
    Rig,
    attempt,
    big,
    log_of,
    of,
    one,
    said,
)

# --- leaving ----------------------------------------------------------------------------------


def _ask_to_stop(rig: Rig) -> list[fx.Effect]:
    return rig.turn(events.StopRequested())


def test_an_idle_worker_leaves_at_once() -> None:
    rig = Rig()
    rig.connect()
    made = _ask_to_stop(rig)
    assert said(made, wire.Goodbye)
    assert of(made, fx.Stop) == [fx.Stop(0)]


def test_without_a_manager_it_leaves_at_once_too() -> None:
    rig = Rig()
    rig.ready()
    made = _ask_to_stop(rig)
    assert said(made) == []
    assert of(made, fx.Stop) == [fx.Stop(0)]


def test_a_busy_worker_finishes_hands_in_and_leaves() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1))
    made = _ask_to_stop(rig)
    standing = wire.Standing(state="draining", reason="stopped by its owner")
    assert said(made) == [standing, wire.Revoked(attempt=attempt(1))]
    assert not of(made, fx.Stop)
    assert said(rig.grant(attempt(2)), wire.Revoked) == [wire.Revoked(attempt=attempt(2))]
    assert not of(rig.draw(ticket), fx.Stop)
    assert not of(rig.encoded(attempt(0)), fx.Stop)
    made = rig.hear(wire.ResultRecorded(attempt=attempt(0)))
    assert isinstance(said(made)[-1], wire.Goodbye)
    assert of(made, fx.Stop) == [fx.Stop(0)]


def test_a_leaving_worker_waits_for_its_manager_only_so_long() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0))
    _ask_to_stop(rig)
    rig.draw(ticket)
    rig.encoded(attempt(0))
    assert not of(rig.turn(after_s=limits.GONE_S - 0.1), fx.Stop)
    made = rig.turn(after_s=0.2)
    assert "1 results; they are lost" in log_of(made, "warning")
    assert of(made, fx.Stop) == [fx.Stop(1)]


def test_the_second_request_gives_everything_back_at_once() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt(0)))
    rig.encoded(attempt(0))  # small: wholly sent, and left to arrive
    big(rig, 1, 9)
    rig.draw(rig.begin(attempt(2)))
    rig.begin(attempt(3))
    _ask_to_stop(rig)
    made = _ask_to_stop(rig)
    failed = said(made, wire.Failed)
    assert [one_.attempt.index for one_ in failed] == [3, 2, 1]
    assert {one_.error.code for one_ in failed} == {"worker_lost"}
    assert all(one_.started for one_ in failed)
    assert isinstance(said(made)[-1], wire.Goodbye)
    assert of(made, fx.Stop) == [fx.Stop(0)]
    assert not of(_ask_to_stop(rig), fx.Stop)


def test_what_was_not_begun_is_said_not_to_be() -> None:
    rig = Rig()
    rig.connect()
    rig.grant(attempt(0))
    _ask_to_stop(rig)
    assert one(said(_ask_to_stop(rig), wire.Failed)).started is False


def test_an_error_fits_a_message_whatever_the_engine_wrote() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt())
    info = ErrorInfo(code="engine_crashed", message="é" * 9000, log_tail=("日" * 4000,) * 50)
    failed = one(said(rig.turn(events.EngineDied(info)), wire.Failed))
    assert len(encode(failed)[1]) <= limits.HEADER_BYTES_MAX
