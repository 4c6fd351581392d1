"""The client's pictures: whole and in pieces, once, damaged, dropped."""

import msgspec
import pytest

from sdistrib.protocol import messages as wire
from sdistrib_client import effects, events
from sdistrib_client.tracker import FINISH_WAIT_S
from tests.support.client_bench import ID, OTHER, Bench, delivered, ends, opened, result, sent


@pytest.fixture
def open_bench() -> Bench:
    """A machine with an accepted petition of two images."""
    return opened()


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
