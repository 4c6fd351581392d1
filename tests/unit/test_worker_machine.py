"""The worker's machine and its manager: hello, welcome, beats, silence, faults."""

import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import decode_inventory
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from tests.support.rig import (
    FACTS,
    FILES,
    Rig,
    attempt,
    log_of,
    of,
    one,
    said,
    tiny_context,
)

# --- session ----------------------------------------------------------------------------------


def test_engine_is_started_first_and_hello_follows_its_facts() -> None:
    rig = Rig()
    assert rig.turn() == [fx.StartEngine()]
    assert rig.turn(after_s=1.0) == []
    made = rig.engine(child.Ready(facts=FACTS))
    hello = one(said(made))
    assert hello == wire.WorkerHello(
        protocols=(1,), software="sdistrib 0.1.0", name="box", instance="0" * 16, engine=FACTS
    )
    (send,) = of(made, fx.Send)
    assert send.body is not None
    assert decode_inventory(send.body) == tuple(stored.file for stored in FILES)
    for word in ("box", "cpu", "f" * 16, "3 model files", "10.0.0.9:4134"):
        assert word in log_of(made)


def test_welcome_opens_the_session_and_tells_the_engine_state() -> None:
    rig = Rig()
    rig.ready()
    made = rig.welcome()
    assert said(made) == [wire.EngineState(state="idle")]
    assert "Connected" in log_of(made)
    # The answer to a hello that was said twice.
    assert log_of(rig.welcome()) == ""


def test_hello_is_repeated_until_welcomed() -> None:
    rig = Rig()
    rig.ready()
    assert said(rig.turn(after_s=limits.SUSPECT_S - 0.1)) == []
    assert said(rig.turn(after_s=0.1), wire.WorkerHello)
    rig.welcome()
    for _ in range(5):
        assert not said(rig.hear(wire.Beat(), after_s=1.0), wire.WorkerHello)


def test_hello_that_found_nobody_is_tried_again_soon() -> None:
    rig = Rig()
    hello = one(said(rig.ready()))
    assert said(rig.turn(events.SendFailed(hello))) == []
    assert said(rig.turn(after_s=0.25)) == [hello]


def test_notice_after_five_seconds_once_with_address_and_remedy() -> None:
    rig = Rig()
    rig.ready()
    assert log_of(rig.turn(after_s=4.9), "warning") == ""
    text = log_of(rig.turn(after_s=0.1), "warning")
    assert "10.0.0.9:4134" in text
    assert "sdistrib-manager running" in text
    for _ in range(20):
        assert log_of(rig.turn(after_s=1.0), "warning") == ""
    assert "Connected" in log_of(rig.welcome())


def test_notice_within_a_session_is_taken_back() -> None:
    rig = Rig()
    rig.connect()
    assert "No answer" in log_of(rig.turn(after_s=limits.SILENCE_NOTICE_S))
    assert "answers again" in log_of(rig.hear(wire.Beat(), after_s=1.0))
    assert log_of(rig.hear(wire.Beat(), after_s=1.0)) == ""


def test_beats_go_out_when_nothing_else_does() -> None:
    rig = Rig()
    rig.connect()
    assert said(rig.turn(after_s=0.5)) == []
    assert said(rig.turn(after_s=0.5)) == [wire.Beat()]
    rig.grant(attempt())
    assert said(rig.turn(after_s=0.9)) == []


def test_suspect_manager_changes_nothing_and_gone_ends_the_session() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    rig.turn(after_s=limits.SUSPECT_S + 1)
    assert not said(rig.effects[1:], wire.Revoked)
    before = len(rig.effects)
    rig.turn(after_s=limits.GONE_S)
    made = rig.effects[before:]
    assert "silent for 30 s" in log_of(made)
    hello = one(said(made, wire.WorkerHello))
    assert hello.running == (attempt(0),)
    made = rig.welcome()
    assert one(said(made, wire.Revoked)).attempt == attempt(1)


@pytest.mark.parametrize(
    "message", [wire.Identify(), wire.Goodbye(reason="restart"), wire.Goodbye()]
)
def test_hello_again_when_the_manager_lets_go(message: wire.Message) -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1))
    hello = one(said(rig.hear(message), wire.WorkerHello))
    assert hello.running == (attempt(0),)
    # Progress of what runs is not sent to nobody.
    assert said(rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=4))) == []
    # More of the same answers do not make more hellos.
    assert said(rig.hear(wire.Identify())) == []
    assert said(rig.hear(wire.Identify(), after_s=0.25), wire.WorkerHello)
    made = rig.welcome()
    state = wire.EngineState(state="drawing", loaded="tiny.safetensors", context=tiny_context())
    assert said(made) == [wire.Revoked(attempt=attempt(1)), state]


def test_a_send_that_fails_ends_the_session_and_loses_no_answer() -> None:
    rig = Rig()
    rig.connect()
    failed = wire.Failed(attempt=attempt(), error=ErrorInfo(code="internal", message="x"))
    revoked = wire.Revoked(attempt=attempt(1))
    made = rig.turn(events.SendFailed(failed), events.SendFailed(revoked))
    hello = one(said(made, wire.WorkerHello))
    assert hello.holding == (attempt(),)
    made = rig.welcome()
    assert said(made)[:2] == [revoked, failed]


def test_fault_of_the_first_hello_ends_the_worker() -> None:
    rig = Rig()
    rig.ready()
    error = ErrorInfo(code="protocol_error", message="this manager speaks protocol 2")
    stop = one(of(rig.hear(wire.Fault(error=error)), fx.Stop))
    assert stop.exit_status == 7
    assert "speaks protocol 2" in stop.reason


def test_later_faults_are_logged_once_in_a_row() -> None:
    rig = Rig()
    rig.connect()
    error = ErrorInfo(code="protocol_error", message="strange")
    assert "strange" in log_of(rig.hear(wire.Fault(error=error)))
    assert rig.hear(wire.Fault(error=error)) == []


def test_strange_bytes_are_answered_and_warned_of_once() -> None:
    rig = Rig()
    rig.connect()
    made = rig.turn(events.Malformed("this looks like the C++ sdistrib"))
    assert one(said(made, wire.Fault)).error.code == "protocol_error"
    assert "C++ sdistrib" in log_of(made, "warning")
    assert log_of(rig.turn(events.Malformed("this looks like the C++ sdistrib"))) == ""


def test_a_late_turn_moves_all_deadlines() -> None:
    rig = Rig()
    rig.turn()
    made = rig.turn(events.TurnLate(100.0), after_s=100.0)
    assert not of(made, fx.KillEngine)
    rig.engine(child.Ready(facts=FACTS))
    assert log_of(rig.turn(events.TurnLate(100.0), after_s=100.0), "warning") == ""
    rig.welcome()
    rig.begin(attempt())
    made = rig.turn(events.TurnLate(700.0), after_s=700.0)
    assert not of(made, fx.KillEngine)
    assert not said(made, wire.WorkerHello)
    assert "No answer" not in log_of(made)
