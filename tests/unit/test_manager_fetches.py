"""Input files from the manager to its workers: fetched in pieces, lost, counted."""

from typing import Any

import pytest

from sdistrib import limits
from sdistrib.params import Params
from sdistrib.protocol import messages as wire
from sdistrib_manager import effects as fx
from sdistrib_manager.events import BlobMissing
from sdistrib_manager.jobs import context_key, evaluations
from sdistrib_manager.rows import ForgetInput
from tests.support.farm import MODEL, Client, Farm, Worker, petition_id
from tests.support.input_files import FILE, digest_of
from tests.support.staged import (
    BIG,
    OTHER,
    cancelled,
    needed,
    replaced,
    sends,
    state_of,
    submits,
)


@pytest.fixture
def farm() -> Farm:
    return Farm()


# --- to the workers ---------------------------------------------------------------------------


def _accepted(farm: Farm, *files: bytes, **more: Any) -> Client:
    client = Client(farm)
    submits(client, 1, *files, **more)
    for data in files:
        sends(client, data)
    return client


def pieces(farm: Farm, worker: Worker) -> list[tuple[int, int]]:
    sent = [effect for effect in farm.kept(fx.SendPicture) if effect.route == worker.route]
    assert {effect.port for effect in sent} <= {"worker"}
    return [(effect.start, effect.end) for effect in sent]


def test_a_worker_fetches_a_file_in_pieces_under_credit(farm):
    worker = Worker(farm)
    data = bytes(6 * limits.CHUNK_BYTES + 7)
    _accepted(farm, data)
    worker.says(wire.Fetch(digest=digest_of(data)))
    whole = [(at, at + limits.CHUNK_BYTES) for at in range(0, len(data), limits.CHUNK_BYTES)]
    assert pieces(farm, worker) == whole[: limits.CHUNK_CREDIT]
    worker.says(wire.ChunkSeen(digest=digest_of(data), offset=3 * limits.CHUNK_BYTES))
    assert pieces(farm, worker) == [*whole[:-1], (6 * limits.CHUNK_BYTES, len(data))]
    worker.says(wire.ChunkSeen(digest=digest_of(data), offset=len(data)))
    assert not state_of(farm).roster.at(worker.route).fetches
    worker.says(wire.ChunkSeen(digest=digest_of(data), offset=len(data)))


def test_a_fetch_goes_on_where_the_worker_says_also_after_a_reconnect(farm):
    worker = Worker(farm)
    _accepted(farm, BIG)
    worker.says(wire.Fetch(digest=digest_of(BIG)))
    worker.reconnects(running=tuple(worker.attempts))
    worker.says(wire.ChunkSeen(digest=digest_of(BIG), offset=1))
    assert not pieces(farm, worker)
    worker.says(wire.Fetch(digest=digest_of(BIG), offset=2 * limits.CHUNK_BYTES))
    assert pieces(farm, worker) == [(2 * limits.CHUNK_BYTES, len(BIG))]
    worker.says(wire.Fetch(digest=digest_of(BIG), offset=len(BIG)))
    worker.says(wire.Fetch(digest=digest_of(BIG), offset=len(BIG) + 1))
    assert worker.got(wire.Fault)
    worker.breaks()


def test_a_worker_gets_no_file_of_a_petition_that_it_was_not_granted(farm):
    other = Worker(farm, "other", (MODEL,))
    worker = Worker(farm, "none", ())
    _accepted(farm, FILE)
    for digest in (digest_of(FILE), digest_of(OTHER)):
        worker.says(wire.Fetch(digest=digest))
    assert not pieces(farm, worker)
    assert "granted" in farm.logs[-1]
    other.says(wire.Fetch(digest=digest_of(FILE)))
    assert len(pieces(farm, other)) == 1


def test_a_file_may_be_fetched_for_an_attempt_that_is_not_live_any_more(farm):
    worker = Worker(farm)
    _accepted(farm, FILE)
    worker.fails(worker.attempts[0])
    worker.says(wire.Fetch(digest=digest_of(FILE)))
    assert len(pieces(farm, worker)) == 1


def test_a_lost_file_ends_what_needs_it_and_may_be_sent_again(farm):
    worker = Worker(farm)
    client = _accepted(farm, FILE, images=3)
    submits(client, 2)
    ended = submits(client, 3)
    cancelled(client, ended)
    worker.starts(worker.attempts[0])
    worker.says(wire.Fetch(digest=digest_of(FILE)))
    farm.happen(BlobMissing(digest_of(FILE), "cannot read it"))
    farm.turn()
    for finished in client.got(wire.Finished)[-2:]:
        errors = {failure.error.code for failure in finished.failures}
        assert (finished.state, errors) == ("failed", {"internal"})
    error = client.got(wire.Finished)[-1].failures[0].error
    assert "cannot read it" in error.message
    assert error.field == "inputs"
    assert {gone.attempt for gone in worker.got(wire.Abandon)} >= set(worker.attempts)
    assert len(farm.rows(ForgetInput)) == 3
    assert not state_of(farm).roster.at(worker.route).fetches
    # Nobody has it any more, so that whoever wants it is asked.
    client.says(wire.Retry(id=petition_id(1)))
    assert needed(client)[-1] == (digest_of(FILE),)
    sends(client)
    assert client.last(wire.Accepted).id == petition_id(1)
    worker.says(wire.Fetch(digest=digest_of(FILE)))


def test_what_a_context_costs_knows_upscalers_and_first_pictures():
    def key(**more: Any) -> str:
        return context_key(Params(**more), lambda _kind, _name: None)

    one = {"mode": "upscale", "init_image": digest_of(FILE)}
    assert key(**one, upscale_model="a") != key(**one, upscale_model="b")
    assert evaluations(Params(**one, upscale_model="a")) == 1
    plain = Params(prompt="a", model="m", steps=20, cfg_scale=1.0)
    assert evaluations(plain) == 20
    assert evaluations(replaced(plain, init_image=digest_of(FILE), strength=0.5)) == 10
