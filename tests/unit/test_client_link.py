"""The client's link to its manager: greeting, beats, silence, return."""

import pytest

from sdistrib import limits
from sdistrib.protocol import messages as wire
from sdistrib_client import effects, events
from sdistrib_client.link import LOST_S
from tests.support.client_bench import BODY, ID, OTHER, Bench, ends, notices, opened, result, sent


@pytest.fixture
def bench() -> Bench:
    """A machine that knows nobody yet."""
    return Bench()


@pytest.fixture
def open_bench() -> Bench:
    """A machine with an accepted petition of two images."""
    return opened()


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
