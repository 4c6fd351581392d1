"""Pictures through the manager: credit, pieces, damage."""

import hashlib

import pytest

from sdistrib import limits
from sdistrib.protocol import messages as wire
from sdistrib_manager import effects as fx
from sdistrib_manager.events import BlobStored
from tests.support.farm import Client, Farm, Worker


@pytest.fixture
def farm() -> Farm:
    return Farm()


def test_a_client_that_does_not_acknowledge_gets_four_pictures_and_no_more(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=7)
    for _ in range(7):
        worker.draws(next(a for a in worker.attempts if a.index not in _recorded(worker)))
    assert client.pictures == [0, 1, 2, 3]
    client.sees(pid, 2)
    assert client.pictures == [0, 1, 2, 3, 4]
    client.sees(pid, 0, 1, 3, 4)
    assert client.pictures == list(range(7))


def test_credit_counts_bytes_too_but_one_picture_is_always_allowed(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=3)
    for index in range(2):
        _draw_in_pieces(worker, worker.attempts[index], 5 * limits.MIB + index)
    assert client.pictures == [0]
    client.sees(pid, 0)
    assert client.pictures == [0, 1]


def test_a_large_picture_goes_to_the_client_in_pieces_under_credit(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    data = _draw_in_pieces(worker, worker.starts(), 6 * limits.MIB + 7)
    digest = hashlib.sha256(data).hexdigest()
    offsets = [chunk.offset for chunk in client.got(wire.Chunk)]
    assert offsets == [i * limits.CHUNK_BYTES for i in range(limits.CHUNK_CREDIT)]
    client.says(wire.ChunkSeen(digest=digest, offset=3 * limits.CHUNK_BYTES))
    assert len(client.got(wire.Chunk)) == 7
    last = [e for e in farm.effects if isinstance(e, fx.SendPicture)][-1]
    assert last.end == len(data)
    client.sees(pid, 0)
    assert client.last(wire.Finished).state == "done"


def test_two_equal_large_pictures_go_one_after_the_other(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    data = bytes(2 * limits.MIB)
    for attempt in list(worker.attempts):
        _draw_in_pieces(worker, attempt, len(data))
    assert client.pictures == [0]
    client.sees(pid, 0)
    assert client.pictures == [0, 1]
    client.sees(pid, 1)
    assert client.last(wire.Finished).done == (0, 1)


def test_a_damaged_picture_is_refused_and_drawn_again_elsewhere(farm):
    client = Client(farm)
    bad, good = Worker(farm, "bad"), Worker(farm, "good")
    client.submits()
    worker, other = (bad, good) if bad.attempts else (good, bad)
    attempt = worker.starts()
    worker.draws(attempt, data=b"what came", digest=hashlib.sha256(b"other").hexdigest())
    assert "digest" in worker.last(wire.ResultRefused).reason
    assert other.attempts[-1].number == 2
    other.draws(other.starts())
    assert client.pictures == [0]


def test_pieces_that_do_not_fit_together_are_a_damaged_picture(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    attempt = worker.starts()
    head = worker.result(attempt, bytes(3 * limits.MIB))
    worker.says(head)
    worker.says(wire.Chunk(digest=head.digest, offset=limits.MIB), b"x")
    assert worker.got(wire.ResultRefused)


def test_a_piece_that_belongs_to_nothing_is_dropped(farm):
    worker = Worker(farm)
    worker.says(wire.Chunk(digest="0" * 64, offset=0), b"x")
    assert not worker.got(wire.Fault)


def test_a_picture_that_cannot_be_kept_is_not_acknowledged(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits()
    attempt = worker.starts()
    farm.blob_failure = "no space left on device"
    worker.draws(attempt)
    assert not worker.got(wire.ResultRecorded)
    assert any("no space left" in line for line in farm.logs)
    farm.blob_failure = ""
    worker.draws(attempt)
    assert worker.got(wire.ResultRecorded)
    assert client.pictures == [0]


def _recorded(worker: Worker) -> set[int]:
    return {seen.attempt.index for seen in worker.got(wire.ResultRecorded)}


def _draw_in_pieces(worker: Worker, attempt: wire.Attempt, size: int) -> bytes:
    data = bytes(size)
    head = worker.result(attempt, data)
    worker.says(head)
    for offset in range(0, size, limits.CHUNK_BYTES):
        piece = data[offset : offset + limits.CHUNK_BYTES]
        worker.says(wire.Chunk(digest=head.digest, offset=offset), piece)
    return data


def test_equal_pictures_that_come_while_the_first_is_being_kept_are_both_recorded(farm):
    farm.slow_disk = True
    client, worker = Client(farm), Worker(farm)
    for number in (1, 2):
        client.submits(number)
    for attempt in worker.attempts:
        data = worker.draws(worker.starts(attempt), data=b"the same picture")
    assert not worker.got(wire.ResultRecorded)
    farm.happen(BlobStored(hashlib.sha256(data).hexdigest()))
    assert [one.attempt for one in worker.got(wire.ResultRecorded)] == worker.attempts[:2]
    assert len(client.pictures) == 2
    # The second put was another of the same bytes; nothing is left to be done when it ends.
    farm.happen(BlobStored(hashlib.sha256(data).hexdigest()))
    assert not farm.kept(fx.DropBlob)
    assert not farm.manager.state.arriving


def test_equal_large_pictures_come_in_pieces_one_after_the_other(farm):
    farm.slow_disk = True
    client, worker = Client(farm), Worker(farm)
    for number in (1, 2):
        client.submits(number)
    data = bytes(limits.CHUNK_BYTES + 1)
    for attempt in worker.attempts[:2]:
        head = worker.result(worker.starts(attempt), data)
        worker.says(head)
        assert worker.last(wire.ChunkSeen).offset == 0
        for offset in (0, limits.CHUNK_BYTES):
            piece = data[offset : offset + limits.CHUNK_BYTES]
            worker.says(wire.Chunk(digest=head.digest, offset=offset), piece)
        assert worker.last(wire.ChunkSeen).offset == len(data)
    farm.happen(BlobStored(head.digest))
    assert len(worker.got(wire.ResultRecorded)) == 2
    assert client.got(wire.Result)


def test_of_two_equal_pictures_cut_short_the_one_offered_last_gets_the_pieces(farm):
    client, worker = Client(farm), Worker(farm)
    for number in (1, 2):
        client.submits(number)
    data = bytes(limits.CHUNK_BYTES + 1)
    first, second = (worker.result(worker.starts(a), data) for a in worker.attempts[:2])
    for head in (first, second, first):
        worker.says(head)
    for offset in (0, limits.CHUNK_BYTES):
        piece = data[offset : offset + limits.CHUNK_BYTES]
        worker.says(wire.Chunk(digest=first.digest, offset=offset), piece)
    assert [one.attempt for one in worker.got(wire.ResultRecorded)] == [first.attempt]
