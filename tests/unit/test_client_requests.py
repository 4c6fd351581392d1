"""The client's petitions and questions: what is said of them, cancels, time limits, answers."""

import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib_client import effects, events
from sdistrib_client.requests import ANSWER_TIMEOUT_S
from sdistrib_client.tracker import EXPIRY_GRACE_S
from tests.support.client_bench import ID, OTHER, Bench, delivered, ends, opened, result, sent


@pytest.fixture
def bench() -> Bench:
    """A machine that knows nobody yet."""
    return Bench()


@pytest.fixture
def open_bench() -> Bench:
    """A machine with an accepted petition of two images."""
    return opened()


# --- What the manager says of a petition ----------------------------------------------------


def test_accepted_is_shown_once_progress_always_and_each_is_answered(bench):
    bench.petition()
    bench.welcome()
    accepted = wire.Accepted(id=ID, state="queued", ahead=3)
    assert bench.say(accepted) == [effects.ShowAccepted(accepted)]
    assert bench.say(accepted) == []
    progress = wire.Progress(id=ID, state="running", done=1, images=2)
    for _ in range(2):
        assert bench.say(progress) == [
            effects.ShowProgress(progress),
            effects.Send(wire.ProgressSeen(id=ID)),
        ]


def test_refused_ends_it(open_bench):
    error = ErrorInfo(code="model_not_found", message="no such file", closest=("m2",))
    (end,) = ends(open_bench.say(wire.Refused(id=ID, error=error)))
    assert end.ending == effects.Ending(outcome="refused", error=error)
    assert not open_bench.machine.busy


def test_finished_with_all_pictures_is_done(open_bench):
    for index in (1, 0):
        open_bench.say(result(index, b"%d" % index), b"%d" % index)
        open_bench.post(events.PictureTaken(ID, index))
    (end,) = ends(open_bench.say(wire.Finished(id=ID, state="done", done=(0, 1))))
    assert end.ending == effects.Ending(outcome="done", done=(0, 1))


def test_finished_with_failures_carries_them(open_bench):
    error = ErrorInfo(code="engine_crashed", message="SIGSEGV", worker="gpu1", signal="SIGSEGV")
    failures = (wire.ImageFailure(1, error),)
    open_bench.say(result(0, b"0"), b"0")
    out = open_bench.say(wire.Finished(id=ID, state="failed", done=(0,), failures=failures))
    assert ends(out)[0].ending == effects.Ending(
        outcome="failed", error=error, done=(0,), failures=failures
    )


@pytest.mark.parametrize(
    ("message", "outcome", "code"),
    [
        (wire.Finished(id=ID, state="cancelled"), "cancelled", "cancelled"),
        (wire.Finished(id=ID, state="expired"), "expired", "expired"),
        (wire.Finished(id=ID, state="failed"), "failed", "internal"),
        (wire.Finished(id=ID, state="done"), "failed", "internal"),
        (wire.Finished(id=ID, state="running"), "failed", "internal"),
    ],
)
def test_every_other_finish_has_an_error(open_bench, message, outcome, code):
    (end,) = ends(open_bench.say(message))
    assert (end.ending.outcome, end.ending.error.code) == (outcome, code)


def test_what_is_said_of_an_unknown_petition_is_dropped(open_bench):
    unknown = "c" * 32
    for message in (
        wire.Accepted(id=unknown, state="queued"),
        wire.Progress(id=unknown, state="queued"),
        wire.Finished(id=unknown, state="done"),
        wire.Cancelled(id=unknown),
    ):
        assert open_bench.say(message) == []
    assert sent(open_bench.say(result(0, b"x", id_=unknown), b"x")) == [wire.Detach(id=unknown)]


def test_a_fault_ends_everything_with_its_error(open_bench):
    error = ErrorInfo(code="protocol_error", message="protocol version 2 is spoken here")
    (end,) = ends(open_bench.say(wire.Fault(error=error)))
    assert end.ending.error == error


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([b"\x02WELCOME", b"\x80"], "protocol version 2 is not spoken here"),
        ([b"\x01NONSENSE", b"\x80"], "NONSENSE"),
        ([b"\x01FINISHED", b"\xc1"], "FINISHED"),
        ([b"HTTP/1.1 400"], "1 frames that are no message"),
    ],
)
def test_what_cannot_be_understood_ends_everything(open_bench, frames, text):
    out = open_bench.post(events.FramesReceived(frames))
    (end,) = ends(out)
    assert end.ending.error.code == "protocol_error"
    assert text in end.ending.error.message


# --- Cancel and time limits -----------------------------------------------------------------


def test_a_cancel_is_sent_once_and_ends_with_the_managers_word(open_bench):
    assert sent(open_bench.post(events.CancelWished(ID))) == [wire.Cancel(id=ID)]
    assert open_bench.post(events.CancelWished(ID)) == []
    out = open_bench.say(result(0, b"late"), b"late")
    assert delivered(out) == {0: b"late"}
    (end,) = ends(open_bench.say(wire.Cancelled(id=ID, done=(0, 1))))
    assert end.ending.outcome == "cancelled"
    assert end.ending.confirmed
    assert end.ending.done == (0, 1)
    assert end.ending.error.code == "cancelled"


def test_a_cancel_without_answer_ends_unconfirmed(open_bench):
    open_bench.post(events.CancelWished(ID))
    assert ends(open_bench.wait(limits.CANCEL_CONFIRM_S - 0.1)) == []
    (end,) = ends(open_bench.wait(0.2))
    assert end.ending.outcome == "cancelled"
    assert not end.ending.confirmed
    assert "not confirmed" in end.ending.error.message


def test_a_cancel_before_anything_was_sent_ends_at_once(bench):
    bench.petition()
    (end,) = ends(bench.post(events.CancelWished(ID)))
    assert end.ending.confirmed
    assert sent(bench.welcome()) == []


def test_after_a_reconnect_a_wished_cancel_is_said_instead_of_the_petition(open_bench):
    open_bench.post(events.SendFailed())
    assert open_bench.post(events.CancelWished(ID)) == []
    assert sent(open_bench.welcome()) == [wire.Cancel(id=ID)]


def test_a_petition_of_another_process_can_be_cancelled(bench):
    bench.post(events.CancelWished(OTHER))
    assert sent(bench.welcome()) == [wire.Cancel(id=OTHER)]
    (end,) = ends(bench.say(wire.Cancelled(id=OTHER)))
    assert end.ending.confirmed


def test_a_cancel_of_what_is_complete_does_not_spoil_it(open_bench):
    for index in (0, 1):
        open_bench.say(result(index, b"%d" % index), b"%d" % index)
        open_bench.post(events.PictureTaken(ID, index))
    assert open_bench.post(events.CancelWished(ID)) == []
    (end,) = ends(open_bench.say(wire.Finished(id=ID, state="done", done=(0, 1))))
    assert end.ending.outcome == "done"


def test_somebody_elses_cancel_ends_it_when_what_was_recorded_is_here(open_bench):
    out = open_bench.say(wire.Cancelled(id=ID, done=(0,)))
    assert out == []
    open_bench.say(result(0, b"0"), b"0")
    (end,) = ends(open_bench.post(events.PictureTaken(ID, 0)))
    assert end.ending.outcome == "cancelled"
    assert end.ending.done == (0,)


def test_somebody_elses_cancel_with_nothing_recorded_ends_it_at_once(open_bench):
    (end,) = ends(open_bench.say(wire.Cancelled(id=ID)))
    assert end.ending.outcome == "cancelled"


def test_the_time_limit_runs_from_acceptance_and_the_manager_is_given_grace():
    bench = Bench()
    bench.petition(timeout_s=5.0)
    bench.post(events.Tick())
    bench.now += 1.0
    bench.welcome()
    bench.say(wire.Accepted(id=ID, state="queued"))
    out: list[effects.Effect] = []
    for _ in range(9):
        bench.say(wire.Beat())
        out += bench.wait(1.0)
    assert ends(out) == []
    out = bench.wait(5.0 + EXPIRY_GRACE_S - 9.0 + 0.01)
    (end,) = ends(out)
    assert end.ending.outcome == "expired"
    assert not end.ending.confirmed
    assert "5 s passed with 0 of 2" in end.ending.error.message
    assert wire.Cancel(id=ID) in sent(out)


# --- Questions ------------------------------------------------------------------------------


def test_a_question_is_asked_at_once_and_again_after_a_reconnect(open_bench):
    ask = wire.Ask(number=4, what="workers")
    assert sent(open_bench.post(events.QuestionAsked(4, "workers"))) == [ask]
    open_bench.say(wire.Identify())
    assert ask in sent(open_bench.welcome())
    answer = wire.Answer(number=4, software="manager")
    assert open_bench.say(answer) == [effects.Reply(4, answer)]
    assert open_bench.say(answer) == []


def test_a_question_that_a_living_manager_never_answers_ends(bench):
    bench.post(events.QuestionAsked(1, "models"))
    bench.welcome()
    out: list[effects.Effect] = []
    for _ in range(int(ANSWER_TIMEOUT_S) + 1):
        bench.say(wire.Beat())
        out += bench.wait(1.0)
    (reply,) = [effect for effect in out if isinstance(effect, effects.Reply)]
    assert reply.answer is None
    assert reply.ending.error.code == "internal"


def test_questions_end_with_an_unreachable_manager(bench):
    bench.post(events.QuestionAsked(1, "models"))
    out = bench.wait(10.1)
    (reply,) = [effect for effect in out if isinstance(effect, effects.Reply)]
    assert reply.ending.outcome == "unreachable"


def test_the_loop_is_never_asked_to_spin(bench):
    """Each deadline lies ahead, or a tick at it does something that moves it."""
    for prepare in (
        lambda: None,
        bench.petition,
        bench.welcome,
        lambda: bench.post(events.SendFailed()),
        bench.welcome,
        lambda: bench.post(events.CancelWished(ID)),
    ):
        prepare()
        for _ in range(200):
            bench.now = bench.machine.next_deadline()
            bench.post(events.Tick())
            assert bench.machine.next_deadline() > bench.now
