"""What every store and every keeper of pictures does, whatever it is made of."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from sdistrib.errors import StoreError
from sdistrib.protocol import messages as wire
from sdistrib_manager.effects import (
    ForgetPetition,
    KeepImage,
    KeepPetition,
    KeepPetitionState,
)
from sdistrib_manager.store.memory import MemoryBlobs, MemoryStore
from tests.support.farm import petition_id


class Kept(NamedTuple):
    """What a store has of one petition."""

    body: bytes
    state: str
    images: dict[int, KeepImage]


def in_memory(store: MemoryStore) -> dict[str, Kept]:
    return {
        pid: Kept(bytes(body), store.states[pid], store.images[pid])
        for pid, body in store.bodies.items()
    }


#: Each implementation by name: what makes one, and what reads all that it has.
STORES: dict[str, tuple[Callable[[], Any], Callable[[Any], dict[str, Kept]]]] = {
    "memory": (MemoryStore, in_memory)
}
BLOBS: dict[str, Callable[[], Any]] = {"memory": MemoryBlobs}

ONE, TWO = petition_id(1), petition_id(2)


@pytest.fixture(params=sorted(STORES))
def implementation(request):
    return STORES[request.param]


@pytest.fixture
def store(implementation):
    made = implementation[0]()
    yield made
    made.close()


@pytest.fixture
def kept(implementation, store):
    """Reads all that the store has now."""
    return lambda: implementation[1](store)


@pytest.fixture(params=sorted(BLOBS))
def blobs(request):
    return BLOBS[request.param]()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def result(index: int) -> wire.Result:
    return wire.Result(
        attempt=wire.Attempt(ONE, index, 1), seed=1, digest="0" * 64, size_bytes=1, format="png",
        width=8, height=8, worker="w", fingerprint="f", context="c",
    )  # fmt: skip


def test_a_new_petition_is_queued_and_none_of_its_images_is_known(store, kept):
    store.commit([KeepPetition(ONE, b"body")])
    assert kept() == {ONE: Kept(b"body", "queued", {})}


def test_the_newest_of_each_is_kept(store, kept):
    store.commit([KeepPetition(ONE, b"body"), KeepImage(ONE, 0, "leased", 1)])
    store.commit(
        [
            KeepImage(ONE, 0, "waiting", 1),
            KeepImage(ONE, 0, "leased", 2),
            KeepPetitionState(ONE, "running"),
        ]
    )
    assert kept()[ONE] == Kept(b"body", "running", {0: KeepImage(ONE, 0, "leased", 2)})
    done = KeepImage(ONE, 0, "done", 2, result(0))
    store.commit([done, KeepPetitionState(ONE, "done")])
    assert kept()[ONE] == Kept(b"body", "done", {0: done})


def test_petitions_do_not_touch_each_other_and_one_is_forgotten_whole(store, kept):
    store.commit([KeepPetition(ONE, b"1"), KeepPetition(TWO, b"2")])
    store.commit([KeepImage(ONE, 0, "done", 1, result(0)), KeepImage(TWO, 0, "failed", 1)])
    store.commit([ForgetPetition(ONE)])
    assert kept() == {TWO: Kept(b"2", "queued", {0: KeepImage(TWO, 0, "failed", 1)})}


def test_what_is_not_known_is_forgotten_without_a_word(store, kept):
    store.commit([ForgetPetition(ONE), ForgetPetition(ONE)])
    assert kept() == {}


def test_nothing_is_a_commit_too_and_closing_twice_is_fine(store):
    store.commit([])
    store.close()
    store.close()


def test_pictures_come_back_as_they_went_in_whole_or_in_pieces(blobs):
    data = bytes(range(256)) * 100
    view = memoryview(data)
    blobs.put(digest_of(data), [data])
    assert bytes(blobs.view(digest_of(data))) == data
    pieces = [view[:1000], bytes(view[1000:7000]), view[7000:]]
    blobs.drop(digest_of(data))
    blobs.put(digest_of(data), pieces)
    assert bytes(blobs.view(digest_of(data))) == data
    assert bytes(memoryview(blobs.view(digest_of(data)))[5:9]) == data[5:9]


def test_the_same_picture_twice_is_one(blobs):
    blobs.put(digest_of(b"x"), [b"x"])
    blobs.put(digest_of(b"x"), [b"x"])
    blobs.drop(digest_of(b"x"))
    with pytest.raises(StoreError):
        blobs.view(digest_of(b"x"))


def test_a_dropped_or_unknown_picture_is_an_error_that_names_it_and_dropping_is_none(blobs):
    blobs.put(digest_of(b"x"), [b"x"])
    blobs.put(digest_of(b"y"), [b"y"])
    blobs.drop(digest_of(b"x"))
    blobs.drop(digest_of(b"x"))
    with pytest.raises(StoreError, match=digest_of(b"x")[:8]):
        blobs.view(digest_of(b"x"))
    assert bytes(blobs.view(digest_of(b"y"))) == b"y"
