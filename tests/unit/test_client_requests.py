"""The client's decisions: no socket, no clock. Every transition of `sdistrib_client.requests`."""

import hashlib

import msgspec
import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode, encode_petition
from sdistrib_client import effects, events
from sdistrib_client.link import LOST_S
from sdistrib_client.requests import ANSWER_TIMEOUT_S, Requests
from sdistrib_client.tracker import EXPIRY_GRACE_S, FINISH_WAIT_S

ID = "a" * 32
OTHER = "b" * 32
BODY = encode_petition(Petition(params=Params(prompt="a house", model="m"), seed=7, images=2))


class Bench:
    """A machine, its time, and a manager played by the test."""

    def __init__(self, connect_timeout_s: float = 10.0) -> None:
        self.now = 1000.0
        self.machine = Requests("host:4133", "test", self.now, connect_timeout_s)

    def post(self, event: events.Event) -> list[effects.Effect]:
        return self.machine.handle(event, self.now)

    def say(self, message: wire.Message, body: bytes | None = None) -> list[effects.Effect]:
        return self.post(events.FramesReceived(encode(message, body)))

    def wait(self, seconds: float) -> list[effects.Effect]:
        """Ticks as a loop makes them: whenever the machine asks for one."""
        end, out = self.now + seconds, []
        while self.now < end:
            self.now = min(max(self.machine.next_deadline(), self.now + 0.001), end)
            out += self.post(events.Tick())
        return out

    def welcome(self) -> list[effects.Effect]:
        return self.say(wire.Welcome(protocol=wire.VERSION, software="manager"))

    def petition(
        self, images: int = 2, timeout_s: float = 0.0, id_: str = ID
    ) -> list[effects.Effect]:
        return self.post(events.PetitionMade(id_, BODY, images, timeout_s))


@pytest.fixture
def bench() -> Bench:
    """A machine that knows nobody yet."""
    return Bench()


@pytest.fixture
def open_bench() -> Bench:
    """A machine with an accepted petition of two images."""
    bench = Bench()
    bench.post(events.Tick())
    bench.petition()
    bench.welcome()
    bench.say(wire.Accepted(id=ID, state="queued"))
    return bench


def sent(out: list[effects.Effect]) -> list[wire.Message]:
    return [effect.message for effect in out if isinstance(effect, effects.Send)]


def ends(out: list[effects.Effect]) -> list[effects.End]:
    return [effect for effect in out if isinstance(effect, effects.End)]


def delivered(out: list[effects.Effect]) -> dict[int, bytes]:
    return {
        effect.result.attempt.index: b"".join(effect.parts)
        for effect in out
        if isinstance(effect, effects.Deliver)
    }


def notices(out: list[effects.Effect]) -> list[str]:
    return [effect.text for effect in out if isinstance(effect, effects.Notify)]


def result(index: int, data: bytes, id_: str = ID, digest: str = "") -> wire.Result:
    return wire.Result(
        attempt=wire.Attempt(id_, index, 1),
        seed=7 + index,
        digest=digest or hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        format="png",
        width=8,
        height=8,
        worker="gpu1",
        fingerprint="f" * 16,
        context="c",
    )


# --- Greeting -------------------------------------------------------------------------------


def test_a_hello_goes_first_and_the_petition_only_after_the_welcome(bench):
    assert sent(bench.petition()) == []
    (hello,) = sent(bench.post(events.Tick()))
    assert hello == wire.ClientHello(protocols=(wire.VERSION,), software="test")
    out = bench.welcome()
    assert sent(out) == [wire.Submit(id=ID)]
    assert out[0].body == BODY


def test_a_petition_goes_at_once_on_an_open_connection(open_bench):
    assert sent(open_bench.petition(id_=OTHER)) == [wire.Submit(id=OTHER)]


def test_hellos_are_repeated_until_one_is_welcomed_and_not_after(bench):
    assert sent(bench.wait(3.5)) == [wire.ClientHello(protocols=(1,), software="test")] * 4
    bench.petition()
    assert sent(bench.welcome()) == [wire.Submit(id=ID)]
    assert sent(bench.welcome()) == []
    assert all(isinstance(message, wire.Beat) for message in sent(bench.wait(3.5)))


def test_a_hello_that_cannot_leave_is_tried_again_soon_then_less_often(bench):
    times = []
    for _ in range(9):
        assert sent(bench.post(events.Tick()))
        bench.post(events.SendFailed())
        times.append(round(bench.machine.next_deadline() - bench.now, 4))
        bench.now = bench.machine.next_deadline()
    assert times == [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.25, 0.25, 0.25]


def test_a_welcome_of_another_protocol_ends_everything(bench):
    bench.petition()
    bench.post(events.QuestionAsked(1, "status"))
    out = bench.say(wire.Welcome(protocol=9, software="future"))
    assert ends(out)[0].ending.error.code == "protocol_error"
    assert "future" in ends(out)[0].ending.error.message
    assert [e.number for e in out if isinstance(e, effects.Reply)] == [1]
    assert not bench.machine.busy


def test_identify_means_hello_again_and_the_same_bytes_again(open_bench):
    assert sent(open_bench.say(wire.Identify())) == [
        wire.ClientHello(protocols=(wire.VERSION,), software="test")
    ]
    # A second one, of a beat that crossed the hello, changes nothing.
    assert open_bench.say(wire.Identify()) == []
    out = open_bench.welcome()
    assert [(e.message, e.body) for e in out] == [(wire.Submit(id=ID), BODY)]


def test_a_failed_send_means_hello_again_and_the_same_bytes_again(open_bench):
    open_bench.post(events.SendFailed())
    assert [type(m) for m in sent(open_bench.wait(0.1))] == [wire.ClientHello]
    out = open_bench.welcome()
    assert [(e.message, e.body) for e in out] == [(wire.Submit(id=ID), BODY)]


def test_nothing_but_a_hello_leaves_while_nobody_knows_us(open_bench):
    open_bench.say(result(0, b"picture"), b"picture")
    open_bench.post(events.SendFailed())
    assert open_bench.post(events.PictureTaken(ID, 0)) == []
    open_bench.welcome()
    # The manager, not told, sends the picture again, and is told now.
    assert sent(open_bench.say(result(0, b"picture"), b"picture")) == [
        wire.ResultSeen(id=ID, index=0)
    ]


def test_a_goodbye_is_told_and_the_next_hello_waits_a_little(open_bench):
    out = open_bench.say(wire.Goodbye(reason="stopping"))
    assert notices(out) == ["The manager at host:4133 says goodbye: stopping."]
    assert sent(open_bench.wait(limits.BEAT_S - 0.1)) == []
    assert [type(m) for m in sent(open_bench.wait(0.2))] == [wire.ClientHello]


def test_leaving_says_goodbye_to_a_manager_that_knows_us(bench, open_bench):
    assert bench.post(events.UserLeft()) == []
    assert sent(open_bench.post(events.UserLeft())) == [wire.Goodbye(reason="the client is done")]


# --- Liveness -------------------------------------------------------------------------------


def test_a_beat_each_second_unless_something_else_was_sent(open_bench):
    assert sent(open_bench.wait(3.0)) == [wire.Beat()] * 3
    open_bench.wait(0.9)
    open_bench.post(events.QuestionAsked(1, "queue"))
    assert sent(open_bench.wait(0.9)) == []
    assert open_bench.say(wire.Beat()) == []
    assert open_bench.say(wire.ChunkSeen(digest="0" * 64, offset=0)) == []


def test_silence_is_told_once_with_the_address_and_then_unreachable(bench):
    bench.petition()
    out = bench.wait(limits.SILENCE_NOTICE_S - 0.1)
    assert notices(out) == []
    out = bench.wait(4.9)
    assert len(notices(out)) == 1
    assert "host:4133" in notices(out)[0]
    assert "sdistrib-manager" in notices(out)[0]
    assert ends(out) == []
    (end,) = ends(bench.wait(0.3))
    assert end.ending.outcome == "unreachable"
    assert end.ending.reason.startswith("No manager answers: nothing from host:4133 for 10 s")


def test_the_time_to_connect_is_the_users(bench):
    quick = Bench(connect_timeout_s=2.0)
    quick.petition()
    out = quick.wait(2.1)
    assert notices(out) == []
    assert ends(out)[0].ending.outcome == "unreachable"


def test_somebody_who_answers_without_a_welcome_is_no_manager(bench):
    bench.petition()
    out: list[effects.Effect] = []
    for _ in range(11):
        out += bench.wait(1.0)
        out += bench.say(wire.Identify())
    assert ends(out)[0].ending.outcome == "unreachable"


def test_a_lost_connection_is_waited_for_longer_and_its_return_is_told(open_bench):
    out = open_bench.wait(limits.SILENCE_NOTICE_S + 20)
    assert len(notices(out)) == 1
    assert ends(out) == []
    open_bench.post(events.SendFailed())
    assert notices(open_bench.welcome()) == ["The manager at host:4133 answers again."]
    out = open_bench.wait(LOST_S - 0.1)
    assert len(notices(out)) == 1
    assert ends(out) == []
    (end,) = ends(open_bench.wait(0.2))
    assert end.ending.outcome == "unreachable"
    assert "The connection is lost" in end.ending.reason


def test_nobody_waits_so_no_silence_is_noted_and_patience_starts_with_the_wish(bench):
    assert notices(bench.wait(30.0)) == []
    bench.petition()
    assert notices(bench.wait(4.9)) == []
    assert len(notices(bench.wait(0.2))) == 1


def test_a_gap_of_our_own_is_nobodys_silence(open_bench):
    open_bench.now += 300.0
    out = open_bench.post(events.Tick())
    assert notices(out) == []
    assert ends(out) == []
    assert sent(out) == [wire.Beat()]
    assert notices(open_bench.wait(3.9)) == []


def test_a_gap_moves_the_local_time_limit_too():
    bench = Bench()
    bench.petition(timeout_s=5.0)
    bench.welcome()
    bench.now += 3600.0
    assert ends(bench.post(events.Tick())) == []


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


# --- Pictures -------------------------------------------------------------------------------


def test_a_picture_is_handed_out_once_and_acknowledged_when_taken(open_bench):
    out = open_bench.say(result(1, b"picture"), b"picture")
    assert delivered(out) == {1: b"picture"}
    assert sent(out) == []
    assert open_bench.say(result(1, b"picture"), b"picture") == []
    assert sent(open_bench.post(events.PictureTaken(ID, 1))) == [wire.ResultSeen(id=ID, index=1)]
    repeat = open_bench.say(result(1, b"other bytes"), b"other bytes")
    assert repeat == [effects.Send(wire.ResultSeen(id=ID, index=1))]


def test_an_index_beyond_the_petition_is_answered_and_dropped(open_bench):
    assert open_bench.say(result(2, b"x"), b"x") == [effects.Send(wire.ResultSeen(id=ID, index=2))]


def test_a_picture_in_pieces_is_put_together_and_each_piece_acknowledged(open_bench):
    data = bytes(range(256)) * 40
    head = result(0, data)
    assert open_bench.say(head) == []
    first = open_bench.say(wire.Chunk(digest=head.digest, offset=0), data[:6000])
    assert first == [effects.Send(wire.ChunkSeen(digest=head.digest, offset=6000))]
    out = open_bench.say(wire.Chunk(digest=head.digest, offset=6000), data[6000:])
    assert delivered(out) == {0: data}
    assert sent(out) == [wire.ChunkSeen(digest=head.digest, offset=len(data))]


def test_after_a_reconnect_a_transfer_goes_on_where_it_stood(open_bench):
    data = b"ab" * 5000
    head = result(0, data)
    open_bench.say(head)
    open_bench.say(wire.Chunk(digest=head.digest, offset=0), data[:4000])
    open_bench.say(wire.Identify())
    open_bench.welcome()
    assert sent(open_bench.say(head)) == [wire.ChunkSeen(digest=head.digest, offset=4000)]
    # Pieces that were already on their way again are acknowledged, not taken twice.
    again = open_bench.say(wire.Chunk(digest=head.digest, offset=0), data[:4000])
    assert sent(again) == [wire.ChunkSeen(digest=head.digest, offset=4000)]
    out = open_bench.say(wire.Chunk(digest=head.digest, offset=4000), data[4000:])
    assert delivered(out) == {0: data}


def test_equal_pictures_of_two_petitions_come_once_and_reach_both(open_bench):
    open_bench.petition(id_=OTHER)
    data = b"same" * 100
    open_bench.say(result(0, data))
    open_bench.say(result(1, data, id_=OTHER))
    digest = result(0, data).digest
    out = open_bench.say(wire.Chunk(digest=digest, offset=0), data)
    assert {(e.id, e.result.attempt.index) for e in out if isinstance(e, effects.Deliver)} == {
        (ID, 0),
        (OTHER, 1),
    }
    # One that comes whole serves those that wait for pieces, too.
    data = b"more" * 100
    open_bench.say(result(1, data))
    out = open_bench.say(result(0, data, id_=OTHER), data)
    assert {e.id for e in out if isinstance(e, effects.Deliver)} == {ID, OTHER}


def test_a_piece_nobody_waits_for_gives_its_credit_back(open_bench):
    out = open_bench.say(wire.Chunk(digest="0" * 64, offset=100), b"12345")
    assert out == [effects.Send(wire.ChunkSeen(digest="0" * 64, offset=105))]


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (result(0, b"right", digest="0" * 64), b"right"),
        (msgspec.structs.replace(result(0, b"right"), size_bytes=99), b"right" * 30),
        (msgspec.structs.replace(result(0, b"right"), size_bytes=0), None),
    ],
    ids=["digest", "too long", "empty"],
)
def test_a_damaged_picture_ends_its_petition_and_no_other(open_bench, head, body):
    open_bench.petition(id_=OTHER)
    out = open_bench.say(head, body)
    (end,) = ends(out)
    assert (end.id, end.ending.outcome) == (ID, "failed")
    assert end.ending.error.code == "protocol_error"
    assert sent(out) == [wire.Cancel(id=ID)]
    assert open_bench.machine.busy


def test_the_end_of_a_petition_drops_its_half_pictures_only(open_bench):
    open_bench.petition(id_=OTHER)
    both, mine = b"both" * 10, b"mine" * 10
    open_bench.say(result(0, both))
    open_bench.say(result(0, both, id_=OTHER))
    open_bench.say(result(1, mine))
    open_bench.say(wire.Finished(id=ID, state="expired"))
    digest = result(0, both).digest
    out = open_bench.say(wire.Chunk(digest=digest, offset=0), both)
    assert [e.id for e in out if isinstance(e, effects.Deliver)] == [OTHER]
    digest = result(1, mine).digest
    assert delivered(open_bench.say(wire.Chunk(digest=digest, offset=0), mine)) == {}


def test_with_all_pictures_taken_a_lost_finish_is_not_waited_for_long(open_bench):
    for index in (0, 1):
        open_bench.say(result(index, b"%d" % index), b"%d" % index)
        open_bench.post(events.PictureTaken(ID, index))
    assert ends(open_bench.wait(FINISH_WAIT_S - 0.1)) == []
    (end,) = ends(open_bench.wait(0.2))
    assert end.ending == effects.Ending(outcome="done", done=(0, 1), confirmed=False)
    # Telling again that a picture is safe is harmless.
    assert sent(open_bench.post(events.PictureTaken(ID, 0))) == [wire.ResultSeen(id=ID, index=0)]


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
