"""The worker's machine when its engine dies, does not start or is silent."""

import math

import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.making import START_TRIES
from sdistrib_worker.pace import Pace
from sdistrib_worker.shelf import StoredFile
from tests.support.rig import (
    FACTS,
    Rig,
    asked,
    attempt,
    crash,
    of,
    one,
    said,
)

# --- deaths and watchdogs ---------------------------------------------------------------------


def test_a_crash_costs_one_attempt_and_the_queue_goes_on() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    made = rig.turn(crash())
    failed = one(said(made, wire.Failed))
    assert (failed.attempt, failed.started) == (attempt(0), True)
    assert (failed.error.code, failed.error.signal) == ("engine_crashed", "SIGSEGV")
    assert failed.error.log_tail == ("a line",)
    assert (failed.error.worker, failed.error.attempt) == ("box", 1)
    assert of(made, fx.StartEngine)
    assert one(said(made, wire.EngineState)).state == "starting"
    assert one(asked(rig.engine(child.Ready(facts=FACTS)))).seed == 101


def test_backoff_grows_with_deaths_and_ends_with_a_picture() -> None:
    rig = Rig()
    rig.connect()
    for delay_s in (*limits.RESTART_BACKOFF_S, limits.RESTART_BACKOFF_S[-1]):
        made = rig.turn(crash())
        if delay_s:
            assert not of(made, fx.StartEngine)
            assert not of(rig.turn(after_s=delay_s - 0.1), fx.StartEngine)
            made = rig.turn(after_s=0.2)
        assert of(made, fx.StartEngine)
        rig.engine(child.Ready(facts=FACTS))
    rig.welcome()
    rig.draw(rig.begin(attempt()))
    assert of(rig.turn(crash()), fx.StartEngine)


def test_an_engine_that_does_not_come_back_fails_what_waits() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    made = rig.turn(crash())
    assert len(said(made, wire.Failed)) == 1
    made = rig.turn(crash(was_ready=False))
    assert one(said(made, wire.Failed)).attempt == attempt(1)


def test_an_engine_that_never_starts_ends_the_worker() -> None:
    for signal, hint in (("SIGILL", "another CPU"), ("SIGSEGV", "last words")):
        rig = Rig()
        rig.turn()
        info = ErrorInfo(code="engine_crashed", message="m", signal=signal)
        made = []
        for _ in range(START_TRIES):
            assert not of(made, fx.Stop)
            made = rig.turn(events.EngineDied(info, was_ready=False), after_s=1.0)
            rig.turn(after_s=1.0)
        stop = one(of(made, fx.Stop))
        assert stop.exit_status == 1
        assert hint in stop.reason


def test_a_refused_device_ends_the_worker_at_once() -> None:
    rig = Rig()
    rig.turn()
    info = ErrorInfo(code="unsupported", message="Asked for cuda0, but there is only a cpu.")
    made = rig.turn(events.EngineDied(info, was_ready=False, refused=True))
    assert of(made, fx.Stop) == [fx.Stop(2, info.message)]
    assert not of(made, fx.Log)  # the loop prints the reason of a stop: said once


def test_a_device_refused_later_is_waited_for() -> None:
    rig = Rig()
    rig.connect()
    rig.turn(crash())
    info = ErrorInfo(code="unsupported", message="no cuda0")
    assert not of(rig.turn(events.EngineDied(info, was_ready=False, refused=True)), fx.Stop)
    assert of(rig.turn(after_s=1.0), fx.StartEngine)


def test_an_engine_that_came_back_as_another_says_hello_anew() -> None:
    rig = Rig()
    rig.connect()
    rig.turn(crash())
    facts = wire.EngineFacts(version="0.4.7", backend="cuda", device="b", fingerprint="e" * 16)
    made = rig.engine(child.Ready(facts=facts))
    assert one(said(made, wire.WorkerHello)).engine == facts


def test_declined_images_leave_the_engine_alive() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1))
    rig.engine(child.At(ticket=ticket, phase="encoding"))
    declined = child.Declined(ticket=ticket, code="engine_error", message="bad", loading=False)
    made = rig.engine(declined)
    assert one(said(made, wire.Failed)).error.message == "bad"
    draw = one(asked(made))
    assert said(made, wire.EngineState) == []  # its context is still loaded
    declined = child.Declined(ticket=draw.ticket, code="engine_error", message="x", loading=True)
    made = rig.engine(declined)
    assert said(made, wire.EngineState) == [wire.EngineState(state="idle")]


def _hang(rig: Rig, limit_s: float, words: str) -> None:
    """Silence becomes a hang at `limit_s` and not before; a hang becomes a typed error."""
    due_s = rig.now + limit_s
    while rig.now + 20 < due_s:
        assert not of(rig.hear(wire.Beat(), after_s=20.0), fx.KillEngine)
    assert not of(rig.hear(wire.Beat(), after_s=due_s - rig.now - 0.1), fx.KillEngine)
    kill = one(of(rig.hear(wire.Beat(), after_s=0.2), fx.KillEngine))
    assert kill.code == "engine_hung"
    assert words in kill.reason
    assert not of(rig.hear(wire.Beat(), after_s=1.0), fx.KillEngine)
    info = ErrorInfo(code="engine_hung", message=kill.reason, signal="SIGKILL")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert [failed.error.code for failed in said(made, wire.Failed)] == ["engine_hung"]
    assert of(made + rig.hear(wire.Beat(), after_s=1.0), fx.StartEngine)


def test_watchdog_of_a_request_that_is_not_begun() -> None:
    rig = Rig()
    rig.connect()
    rig.grant(attempt())
    _hang(rig, limits.STEP_SILENCE_S_MIN, "did not begin")


@pytest.mark.parametrize("patience", [1.0, 2.0])
def test_watchdog_of_loading_goes_by_size(patience: float) -> None:
    big = StoredFile(ModelFile("stable-diffusion", "big.gguf", 10 * limits.GIB), "/m/b", 1)
    rig = Rig((big,), patience=patience)
    rig.connect()
    ticket = rig.begin(attempt(), model="big")
    rig.engine(child.At(ticket=ticket, phase="loading"))
    limit_s = limits.LOAD_S_BASE + 10 * limits.LOAD_S_PER_GIB
    _hang(rig, patience * limit_s, "while loading big.gguf")


def test_watchdog_of_steps_learns() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=0, steps=4))
    _hang(rig, limits.STEP_SILENCE_S, "after step 0 of 4")
    rig.engine(child.Ready(facts=FACTS))
    ticket = rig.begin(attempt(1))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=4, step_s=5.0))
    _hang(rig, 5.0 * limits.STEP_SILENCE_FACTOR, "after step 1 of 4")
    # Known from before, for this size.
    rig.engine(child.Ready(facts=FACTS))
    ticket = rig.begin(attempt(2))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=0, steps=4))
    assert rig.worker.next_deadline() <= rig.now + 150.0


def test_quick_steps_still_get_the_least_patience() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=4, step_s=0.01))
    _hang(rig, limits.STEP_SILENCE_S_MIN, "after step 1 of 4")


def test_watchdog_of_other_phases() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0))
    rig.engine(child.At(ticket=ticket, phase="decoding"))
    _hang(rig, limits.STEP_SILENCE_S, "while decoding")


@pytest.mark.parametrize(("side", "scale"), [(64, 1.0), (1024, 1.0), (4096, 16.0)])
def test_watchdog_of_other_phases_goes_by_pixels(side: int, scale: float) -> None:
    assert scale == max(1.0, side * side / limits.STEP_SILENCE_PIXELS)
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), width=side, height=side)
    rig.engine(child.At(ticket=ticket, phase="decoding"))
    _hang(rig, limits.STEP_SILENCE_S * scale, "while decoding")


def test_the_second_pass_of_highres_fix_is_not_judged_by_the_first() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), hires=True, hires_scale=4.0)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=4, steps=4, step_s=1.0))
    rig.engine(child.At(ticket=ticket, phase="upscaling"))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=0, steps=4))
    _hang(rig, 4 * limits.STEP_SILENCE_S, "after step 0 of 4")
    rig.engine(child.Ready(facts=FACTS))
    # The first pass of the next one is judged by what it is.
    ticket = rig.begin(attempt(1), hires=True, hires_scale=4.0)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=0, steps=4))
    _hang(rig, limits.STEP_SILENCE_S_MIN, "after step 0 of 4")


def test_watchdog_of_the_start() -> None:
    rig = Rig()
    rig.turn()
    assert rig.worker.next_deadline() == rig.now + limits.ENGINE_START_S
    assert not of(rig.turn(after_s=limits.ENGINE_START_S - 0.1), fx.KillEngine)
    kill = one(of(rig.turn(after_s=0.1), fx.KillEngine))
    assert "not ready within 60 s" in kill.reason
    assert math.isinf(rig.worker.next_deadline())


def test_only_so_many_speeds_are_remembered() -> None:
    pace = Pace()
    for width in range(600):
        pace.stepped(("key", width, 64), 1.0)
    assert pace.step_s(("key", 0, 64)) == 0.0
    assert pace.step_s(("key", 599, 64)) == 1.0
