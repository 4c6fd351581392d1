"""Pictures on their way to the disk: beside the loop, before their rows, and never lost by a drop.

And petitions that cannot be read back: they stand in nobody's way.
"""

import hashlib
import threading
from collections.abc import Sequence

import pytest

from sdistrib import limits
from sdistrib.errors import StoreError
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib_manager import effects as fx
from sdistrib_manager.events import BlobFailed, BlobStored, MessageArrived
from sdistrib_manager.keeper import Keeper
from sdistrib_manager.store.memory import MemoryBlobs
from tests.support.farm import Client, Farm, Worker, petition_id


class SlowBlobs(MemoryBlobs):
    """Blobs that are kept when the test says so."""

    slow = True

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        #: Digests of the pictures that are not kept.
        self.broken: set[str] = set()
        #: Pictures of each batch.
        self.batches: list[int] = []

    def put_all(self, pictures: Sequence[tuple[str, Sequence[Buffer]]]) -> list[StoreError | None]:
        assert self.go.wait(20)
        self.batches.append(len(pictures))
        bad = [digest in self.broken for digest, _ in pictures]
        super().put_all([one for one, fails in zip(pictures, bad, strict=True) if not fails])
        return [StoreError("the disk is full") if fails else None for fails in bad]


class Told(list[BlobStored | BlobFailed]):
    """What a keeper has told."""

    def note(self, *outcomes: BlobStored | BlobFailed) -> None:
        self.extend(outcomes)


@pytest.fixture
def blobs() -> SlowBlobs:
    return SlowBlobs()


def test_a_slow_put_is_told_later_and_holds_up_nobody(blobs: SlowBlobs) -> None:
    told = Told()
    keeper = Keeper(blobs, told.note)
    assert keeper.put("aa", [b"one"]) is None
    assert keeper.put("bb", [b"two"]) is None
    assert not told
    blobs.go.set()
    keeper.close()
    assert sorted(told) == [BlobStored("aa"), BlobStored("bb")]
    assert blobs.view("bb") == b"two"


def test_a_put_that_fails_is_told_with_the_reason(blobs: SlowBlobs) -> None:
    told = Told()
    keeper = Keeper(blobs, told.note)
    blobs.broken = {"aa"}
    blobs.go.set()
    keeper.put("aa", [b"one"])
    keeper.close()
    assert told == [BlobFailed("aa", "the disk is full")]


def test_one_that_fails_takes_no_other_of_its_batch_with_it(blobs: SlowBlobs) -> None:
    told = Told()
    keeper = Keeper(blobs, told.note)
    blobs.broken = {"7"}
    for number in range(20):
        keeper.put(f"{number}", [b"x"])
    blobs.go.set()
    keeper.close()
    assert BlobFailed("7", "the disk is full") in told
    assert len([outcome for outcome in told if isinstance(outcome, BlobStored)]) == 19
    assert max(blobs.batches) > 7, "no batch had it among others"


@pytest.mark.parametrize(("count", "size_bytes"), [(100, 1), (20, limits.MIB)])
def test_a_batch_is_bounded_in_pictures_and_bytes(
    blobs: SlowBlobs, count: int, size_bytes: int
) -> None:
    told = Told()
    keeper = Keeper(blobs, told.note)
    for number in range(count):
        keeper.put(f"{number}", [bytes(size_bytes)])
    blobs.go.set()
    keeper.close()
    assert len(told) == count
    assert 1 < max(blobs.batches) <= min(32, max(4, 4 * limits.MIB // size_bytes))


def test_closing_finishes_what_was_ordered(blobs: SlowBlobs) -> None:
    told = Told()
    keeper = Keeper(blobs, told.note)
    for number in range(50):
        keeper.put(f"{number}", [b"x"])
    blobs.go.set()
    keeper.close()
    assert len(told) == 50
    assert not [t for t in threading.enumerate() if t.name.startswith("keeper-")]


def test_quick_blobs_are_told_at_once_and_need_no_thread() -> None:
    before = threading.active_count()
    keeper = Keeper(MemoryBlobs(), _unexpected)
    assert threading.active_count() == before
    assert keeper.put("aa", [b"one"]) == BlobStored("aa")
    keeper.close()


def _unexpected(event: object) -> None:
    raise AssertionError(f"{event} was told besides")


def test_one_batch_is_kept_while_another_waits_for_the_disk() -> None:
    meeting = threading.Barrier(2, timeout=20)

    class Together(MemoryBlobs):
        slow = True

        def put_all(
            self, pictures: Sequence[tuple[str, Sequence[Buffer]]]
        ) -> list[StoreError | None]:
            meeting.wait()
            return super().put_all(pictures)

    told = Told()
    keeper = Keeper(Together(), told.note)
    for number in range(2):
        keeper.put(f"{number}", [bytes(4 * limits.MIB)])  # each fills a batch
    keeper.close()
    assert len(told) == 2


# --- equal pictures ---------------------------------------------------------------------------

SAME = b"the same picture"
DIGEST = hashlib.sha256(SAME).hexdigest()


def _offer(farm: Farm, worker: Worker, attempt: wire.Attempt) -> list[fx.Effect]:
    """Hand in the picture; its putting stays under way."""
    message = worker.result(attempt, SAME)
    arrived = MessageArrived("worker", worker.route, message, SAME)
    return farm.manager.handle(arrived, farm.now, farm.wall)


def test_a_picture_that_is_being_kept_for_another_image_is_not_dropped() -> None:
    farm = Farm()
    client, worker = Client(farm), Worker(farm)
    # Two petitions of one seed, and a client that keeps nothing: the pictures are equal.
    client.submits(1)
    client.submits(2)
    first, second = worker.attempts
    worker.draws(worker.starts(first), data=SAME)
    worker.starts(second)
    assert fx.PutBlob in {type(effect) for effect in _offer(farm, worker, second)}
    client.sees(petition_id(1), 0)
    # The first image needs it no more, but the file that is being written has the same name.
    assert fx.DropBlob(DIGEST) not in farm.effects
    farm.happen(BlobStored(DIGEST))
    farm.turn()
    assert client.pictures == [0, 0]
    client.sees(petition_id(2), 0)
    assert farm.kept(fx.DropBlob) == [fx.DropBlob(DIGEST)]


def test_a_picture_kept_for_nobody_is_dropped_when_it_is_there() -> None:
    farm = Farm()
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    _offer(farm, worker, worker.starts())
    client.says(wire.Cancel(id=pid))
    assert not farm.kept(fx.DropBlob)
    farm.happen(BlobStored(DIGEST))
    assert farm.kept(fx.DropBlob) == [fx.DropBlob(DIGEST)]


def test_a_put_that_fails_leaves_the_image_to_be_offered_again() -> None:
    farm = Farm()
    client, worker = Client(farm), Worker(farm)
    client.submits()
    attempt = worker.starts()
    farm.blob_failure = "the disk is full"
    worker.draws(attempt)
    assert not worker.got(wire.ResultRecorded)
    assert not worker.got(wire.ResultRefused)
    farm.blob_failure = ""
    worker.draws(attempt)
    assert worker.got(wire.ResultRecorded)
    assert client.pictures == [0]


# --- what cannot be read back -----------------------------------------------------------------


def _scramble(farm: Farm, number: int) -> None:
    """The kept body of a petition becomes something that no version can read."""
    row = farm.store._petitions[petition_id(number)]
    farm.store._petitions[petition_id(number)] = type(row)(
        id=row.id, owner=row.owner, number=row.number, body=b"\xc1", digest=row.digest,
        accepted_wall=row.accepted_wall,
    )  # fmt: skip


def test_a_petition_that_cannot_be_read_back_has_failed_and_stops_no_other() -> None:
    farm = Farm()
    client = Client(farm)
    client.submits(1)
    client.submits(2, seed=7)
    _scramble(farm, 2)
    farm.restart()
    assert any("makes no sense" in line for line in farm.logs)
    again = Client(farm, "new")
    again.submits(2, seed=7)
    assert again.last(wire.Refused).error.code == "not_found"
    assert "failed" in again.last(wire.Refused).error.message
    # Its number is not given to another one, which the store would refuse.
    again.submits(3)
    again.submits(1)
    assert [row.number for row in farm.store.load().petitions] == [1, 2, 3]
    worker = Worker(farm)
    worker.draws(worker.starts(worker.attempts[0]))
    assert again.pictures == [0]


def test_what_retention_forgets_leaves_the_disk_too() -> None:
    farm = Farm(retention_s=5.0)
    client = Client(farm)
    pid = client.submits()
    client.says(wire.Cancel(id=pid))
    farm.wait(8, client)
    assert pid not in farm.manager.state.queue.entries
    assert farm.kept(fx.Checkpoint) == [fx.Checkpoint()]
