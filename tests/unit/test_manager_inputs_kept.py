"""Input files at the manager: kept while somebody names them, also by a retry."""

import pytest

from sdistrib.petitions import InputFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_manager import blobs
from tests.support.farm import Client, Farm, Worker, petition, petition_id
from tests.support.input_files import FILE, digest_of, with_files
from tests.support.staged import (
    BIG,
    OTHER,
    cancelled,
    dropped,
    needed,
    nothing_is_staged,
    sends,
    state_of,
    submits,
)


@pytest.fixture
def farm() -> Farm:
    return Farm()


# --- kept while somebody names them -----------------------------------------------------------


def test_a_purge_drops_the_files_that_nobody_else_names_and_tells_the_workers(farm):
    client, worker = Client(farm), Worker(farm)
    first = submits(client, 1, FILE, OTHER)
    sends(client)
    sends(client, OTHER)
    second = submits(client, 2)
    for pid in (first, second):
        cancelled(client, pid)
    client.says(wire.Purge(id=first))
    assert worker.last(wire.Forget).digests == (digest_of(OTHER),)
    assert dropped(farm) == [digest_of(OTHER)]
    client.says(wire.Purge())
    assert worker.last(wire.Forget).digests == (digest_of(FILE),)
    assert farm.store.used_blobs() == set()
    assert (state_of(farm).blob_bytes, state_of(farm).blob_uses) == (0, {})


def test_retention_drops_files_too():
    farm = Farm(retention_s=5.0)
    client = Client(farm)
    pid = submits(client)
    sends(client)
    cancelled(client, pid)
    farm.turn(6.0)
    assert dropped(farm) == [digest_of(FILE)]
    assert farm.store.used_blobs() == set()


def test_workers_are_told_in_portions(farm):
    client, worker = Client(farm), Worker(farm)
    files = [b"%d" % number for number in range(300)]
    for number, data in enumerate(files):
        pid = submits(client, number, data)
        sends(client, data)
        cancelled(client, pid)
    client.says(wire.Purge())
    assert [len(forget.digests) for forget in worker.got(wire.Forget)] == [256, 44]


def test_a_file_named_anew_in_the_same_turn_is_not_forgotten(farm):
    client, worker = Client(farm), Worker(farm)
    pid = submits(client)
    sends(client)
    cancelled(client, pid)
    submits(client, 2, FILE, OTHER)  # holds it while it waits
    client.says(wire.Purge(id=pid))
    assert not dropped(farm)
    assert len(worker.got(wire.Forget)) == 1
    sends(client, OTHER)
    assert client.last(wire.Accepted).id == petition_id(2)
    entry = state_of(farm).queue.entries[petition_id(2)]
    state = state_of(farm)
    blobs.drop_input(state, entry, entry.inputs[0])
    blobs.name_input(state, entry, InputFile(digest_of(FILE), len(FILE)))
    assert not state.unnamed


# --- a retry ----------------------------------------------------------------------------------


def _failed(farm: Farm, client: Client, *files: bytes) -> tuple[str, Worker]:
    worker = Worker(farm)
    pid = submits(client, 1, *files)
    for data in files:
        sends(client, data)
    worker.fails(worker.starts(), "invalid_params")
    assert client.last(wire.Finished).state == "failed"
    return pid, worker


def test_a_retry_with_other_files_asks_for_them_and_is_then_applied(farm):
    client = Client(farm)
    pid, worker = _failed(farm, client, FILE, OTHER)
    body = encode_petition(with_files(petition(), OTHER, BIG))
    client.says(wire.Retry(id=pid), body)
    assert needed(client)[-1] == (digest_of(BIG),)
    assert state_of(farm).queue.entries[pid].state == "failed"
    other = encode_petition(with_files(petition(), OTHER, b"third"))
    client.says(wire.Retry(id=pid), other)
    assert client.last(wire.Refused).error.code == "conflict"
    sends(client, BIG)
    assert len(client.got(wire.Accepted)) == 2
    assert worker.last(wire.Grant).attempts[0].number == 2
    assert {row.digest for row in farm.store.load().inputs} == {digest_of(OTHER), digest_of(BIG)}
    assert digest_of(FILE) in dropped(farm)
    assert worker.last(wire.Forget).digests == (digest_of(FILE),)
    worker.draws(worker.starts())


def test_a_retry_without_changes_needs_no_files(farm):
    client = Client(farm)
    pid, _ = _failed(farm, client, FILE)
    client.says(wire.Retry(id=pid))
    assert len(needed(client)) == 1
    assert len(client.got(wire.Accepted)) == 2


def test_a_retry_that_waits_for_files_may_be_cancelled_and_the_end_stays(farm):
    client = Client(farm)
    pid, _ = _failed(farm, client, FILE)
    client.says(wire.Retry(id=pid), encode_petition(with_files(petition(), BIG)))
    client.says(wire.Cancel(id=pid))
    assert client.last(wire.Cancelled).state == "failed"
    assert nothing_is_staged(farm)
    client.says(wire.Detach(id=pid))


def test_a_retry_of_what_was_purged_meanwhile_is_refused(farm):
    client = Client(farm)
    pid, _ = _failed(farm, client, FILE)
    client.says(wire.Retry(id=pid), encode_petition(with_files(petition(), BIG)))
    client.says(wire.Purge(id=pid))
    sends(client, BIG)
    assert client.last(wire.Refused).error.code == "not_found"
    assert nothing_is_staged(farm)


def test_a_file_whose_petition_waits_for_another_is_held_though_no_row_names_it(farm):
    client = Client(farm)
    pid = submits(client, 1, FILE, OTHER)
    assert not farm.manager.is_held(digest_of(FILE))
    sends(client)
    assert farm.manager.is_held(digest_of(FILE))
    cancelled(client, pid)
    assert not farm.manager.is_held(digest_of(FILE))
