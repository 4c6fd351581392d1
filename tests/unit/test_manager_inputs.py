"""Input files through the manager: asked for, put together, kept, accepted; then to workers."""

from typing import Any

import msgspec
import pytest

from sdistrib import limits
from sdistrib.params import Params
from sdistrib.petitions import InputFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_manager import blobs, inputs, room
from sdistrib_manager import effects as fx
from sdistrib_manager.door import make_entry
from sdistrib_manager.events import BlobFailed, BlobMissing, BlobStored, MessageArrived
from sdistrib_manager.jobs import context_key, evaluations
from sdistrib_manager.rows import ForgetInput, InputRow, PetitionRow
from sdistrib_manager.state import State
from tests.support.farm import MODEL, Client, Farm, Worker, petition, petition_id
from tests.support.input_files import FILE, digest_of, with_files

BIG = bytes(range(256)) * (10 * limits.KIB)
OTHER = b"another picture"


@pytest.fixture
def farm() -> Farm:
    return Farm()


def submits(
    client: Client, number: int = 1, *files: bytes, detach: bool = False, **more: Any
) -> str:
    """Submit a petition that names files; its id."""
    body = encode_petition(with_files(petition(**more), *(files or (FILE,))))
    client.says(wire.Submit(id=petition_id(number), detach=detach), body)
    return petition_id(number)


def sends(client: Client, data: bytes = FILE, begin: int = 0, end: int | None = None) -> None:
    """Send the pieces of a file."""
    for offset in range(begin, len(data) if end is None else end, limits.CHUNK_BYTES):
        piece = data[offset : offset + limits.CHUNK_BYTES]
        client.says(wire.Chunk(digest=digest_of(data), offset=offset), piece)


def needed(client: Client) -> list[tuple[str, ...]]:
    return [need.digests for need in client.got(wire.Need)]


def state_of(farm: Farm) -> State:
    return farm.manager.state


def nothing_is_staged(farm: Farm) -> bool:
    return not (state_of(farm).staged or state_of(farm).uploads)


def dropped(farm: Farm) -> list[str]:
    return [effect.digest for effect in farm.kept(fx.DropBlob)]


# --- to the manager ---------------------------------------------------------------------------


def test_a_file_that_is_not_here_is_asked_for_and_then_the_petition_is_accepted(farm):
    client, worker = Client(farm), Worker(farm)
    pid = submits(client, 1, BIG)
    assert needed(client) == [(digest_of(BIG),)]
    assert not client.got(wire.Accepted)
    assert not state_of(farm).queue.entries
    sends(client, BIG)
    assert [seen.offset for seen in client.got(wire.ChunkSeen)] == [
        limits.CHUNK_BYTES, 2 * limits.CHUNK_BYTES, len(BIG),
    ]  # fmt: skip
    assert client.last(wire.Accepted).id == pid
    assert farm.rows(InputRow) == [InputRow(pid, digest_of(BIG), len(BIG))]
    assert nothing_is_staged(farm)
    worker.draws(worker.starts())
    assert client.pictures == [0]


def test_the_row_is_kept_after_the_file_and_before_the_word(farm):
    farm.slow_disk = True
    client = Client(farm)
    submits(client)
    sends(client)
    (put,) = farm.kept(fx.PutBlob)
    assert b"".join(put.parts) == FILE
    assert not client.got(wire.Accepted)
    assert not farm.rows(PetitionRow)
    made = farm.happen(BlobStored(digest_of(FILE)))
    kinds = [
        type(getattr(effect, "row", None) or getattr(effect, "message", None)) for effect in made
    ]
    assert kinds.index(PetitionRow) < kinds.index(InputRow) < kinds.index(wire.Accepted)


def test_what_was_sent_or_received_once_is_not_asked_for_again(farm):
    client, worker = Client(farm), Worker(farm)
    submits(client)
    sends(client)
    submits(Client(farm, "two"), 2)
    picture = worker.draws(worker.starts())
    submits(client, 3, picture, FILE)
    assert len(needed(client)) == 1
    assert {accepted.id for accepted in client.got(wire.Accepted)} == {
        petition_id(1),
        petition_id(3),
    }
    assert len(farm.kept(fx.PutBlob)) == 2


def test_what_another_user_has_is_asked_for_all_the_same(farm):
    client = Client(farm)
    state = state_of(farm)
    blobs.use(state, "ana", digest_of(FILE), len(FILE))
    body = encode_petition(with_files(petition(), FILE))
    # Past the farm, whose invariants know no ana.
    effects = farm.manager.handle(_arrived(client, wire.Submit(id=petition_id(1)), body), farm.now)
    assert [e.message for e in effects if isinstance(e, fx.Send)] == [
        wire.Need(id=petition_id(1), digests=(digest_of(FILE),))
    ]
    # The bytes are kept once, and each of the two is their owner.
    chunk = wire.Chunk(digest=digest_of(FILE), offset=0)
    farm.manager.handle(_arrived(client, chunk, FILE), farm.now)
    farm.manager.handle(BlobStored(digest_of(FILE)), farm.now)
    assert state.blob_bytes == len(FILE)
    blobs.release(state, "ana", digest_of(FILE))
    assert not any(isinstance(effect, fx.DropBlob) for effect in state.outbox)


def _arrived(client: Client, message: wire.Message, body: bytes) -> Any:
    return MessageArrived("client", client.route, message, body)


def test_detached_too_a_petition_is_accepted_when_its_files_are_here(farm):
    client = Client(farm)
    pid = submits(client, detach=True)
    assert not client.got(wire.Accepted)
    sends(client)
    assert client.last(wire.Accepted).id == pid
    assert not state_of(farm).queue.entries[pid].listeners


def test_a_resubmit_after_a_reconnect_goes_on_behind_what_is_here(farm):
    client = Client(farm)
    submits(client, 1, BIG)
    sends(client, BIG, 0, limits.CHUNK_BYTES)
    client.breaks()
    again = Client(farm, "two")
    submits(again, 1, BIG)
    seen, need = farm.sent[again.route][-2:]
    assert seen == wire.ChunkSeen(digest=digest_of(BIG), offset=limits.CHUNK_BYTES)
    assert need == wire.Need(id=petition_id(1), digests=(digest_of(BIG),))
    sends(again, BIG, limits.CHUNK_BYTES)
    assert again.got(wire.Accepted)


def test_the_same_submit_twice_on_one_connection_is_asked_again(farm):
    client = Client(farm)
    submits(client)
    submits(client)
    assert len(needed(client)) == 2
    sends(client)
    assert len(client.got(wire.Accepted)) == 1


def test_a_staged_id_with_other_content_is_a_conflict(farm):
    client = Client(farm)
    submits(client)
    submits(client, 1, OTHER)
    assert client.last(wire.Refused).error.code == "conflict"
    sends(client)
    assert client.got(wire.Accepted)


def test_after_a_restart_what_was_only_staged_is_forgotten(farm):
    client = Client(farm)
    submits(client, 1, BIG)
    sends(client, BIG, 0, limits.CHUNK_BYTES)
    farm.restart()
    assert nothing_is_staged(farm)
    again = Client(farm, "two")
    submits(again, 1, BIG)
    assert not again.got(wire.ChunkSeen)
    assert needed(again)


def test_a_petition_with_files_goes_on_after_a_restart(farm):
    client = Client(farm)
    pid = submits(client)
    sends(client)
    farm.restart()
    worker = Worker(farm)
    worker.says(wire.Fetch(digest=digest_of(FILE)))
    assert worker.got(wire.Chunk)
    again = Client(farm, "two")
    submits(again)
    assert not needed(again)
    worker.draws(worker.starts())
    again.sees(pid, 0)
    assert again.last(wire.Finished).state == "done"


def test_what_nobody_sends_any_more_is_forgotten_after_n_seconds(farm):
    client = Client(farm)
    submits(client, 1, FILE, OTHER)
    sends(client, OTHER)
    client.breaks()
    farm.turn(limits.GONE_S - 1.0)
    assert state_of(farm).staged
    farm.turn(1.0)
    assert nothing_is_staged(farm)
    assert dropped(farm) == [digest_of(OTHER)]


def test_a_file_comes_from_one_connection_at_a_time(farm):
    one, two = Client(farm, "one"), Client(farm, "two")
    submits(one, 1)
    submits(two, 2, FILE, OTHER)
    assert needed(two) == [(digest_of(OTHER),)]
    sends(two, OTHER)
    sends(two)  # which it was not asked for
    assert not two.got(wire.Accepted)
    one.breaks()
    assert needed(two)[1:] == [(digest_of(FILE),)]
    sends(two)
    assert two.last(wire.Accepted).id == petition_id(2)
    # The other petition has all it needs too, and waits for its client.
    again = Client(farm, "new")
    submits(again, 1)
    assert again.last(wire.Accepted).id == petition_id(1)
    assert not needed(again)
    assert nothing_is_staged(farm)


def test_two_connections_may_wait_for_one_petition(farm):
    one, two = Client(farm, "one"), Client(farm, "two")
    submits(one)
    submits(two)
    sends(one)  # the newer one was asked
    assert not one.got(wire.ChunkSeen)
    two.says(wire.Detach(id=petition_id(1)))
    assert len(needed(one)) == 2
    sends(one)
    assert one.got(wire.Accepted)
    assert not two.got(wire.Accepted)


def test_both_of_two_connections_are_told(farm):
    one, two = Client(farm, "one"), Client(farm, "two")
    submits(one)
    submits(two)
    sends(two)
    assert one.got(wire.Accepted)
    assert two.got(wire.Accepted)


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"x" * len(FILE), "digest"), (FILE + b"x", "bytes"), (b"", "0 bytes")],
    ids=["other bytes", "too many", "none"],
)
def test_bytes_that_are_not_those_announced_are_refused(farm, body, words):
    client = Client(farm)
    pid = submits(client)
    client.says(wire.Chunk(digest=digest_of(FILE), offset=0), body)
    refused = client.last(wire.Refused)
    assert (refused.id, refused.error.code, refused.error.field) == (
        pid,
        "invalid_params",
        "inputs",
    )
    assert words in refused.error.message
    assert nothing_is_staged(farm)
    # Nothing of it is remembered against the next try.
    submits(client)
    sends(client)
    assert client.got(wire.Accepted)


def test_pieces_that_nobody_asked_for_and_behind_a_gap_change_nothing(farm):
    client = Client(farm)
    sends(client)
    submits(client, 1, BIG)
    sends(client, BIG, limits.CHUNK_BYTES)
    assert not client.got(wire.ChunkSeen)
    sends(client, BIG)
    sends(client, BIG)
    assert len(client.got(wire.Accepted)) == 1


def test_a_wrong_size_of_a_file_that_is_here_is_refused(farm):
    client = Client(farm)
    submits(client)
    sends(client)
    wrong = with_files(petition(), FILE)
    files = (InputFile(digest_of(FILE), len(FILE) + 1),)
    body = encode_petition(_replaced(wrong, inputs=files))
    client.says(wire.Submit(id=petition_id(2)), body)
    error = client.last(wire.Refused).error
    assert (error.code, error.field) == ("invalid_params", "inputs")
    assert f"{len(FILE)} bytes and not {len(FILE) + 1}" in error.message


def _replaced(struct: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(struct, **changes)


def test_a_disk_that_takes_no_file_is_a_typed_busy(farm):
    farm.blob_failure = "No space left on device (the disk is full)"
    client = Client(farm)
    submits(client)
    sends(client)
    error = client.last(wire.Refused).error
    assert (error.code, error.retry_after_s) == ("busy", 30.0)
    assert "disk is full" in error.message
    assert nothing_is_staged(farm)
    farm.blob_failure = ""
    submits(client)
    sends(client)
    assert client.got(wire.Accepted)


def test_a_picture_that_could_not_be_kept_is_no_input_file(farm):
    client = Client(farm)
    submits(client)
    farm.happen(BlobFailed(digest_of(FILE), "no"))
    assert not client.got(wire.Refused)


def test_a_cancel_before_the_files_are_here_ends_it_for_good(farm):
    client, other = Client(farm), Client(farm, "oth")
    pid = submits(client)
    submits(other)
    client.says(wire.Cancel(id=pid))
    assert client.last(wire.Cancelled) == wire.Cancelled(id=pid)
    assert other.last(wire.Refused).error.code == "cancelled"
    assert not client.got(wire.Refused)
    assert nothing_is_staged(farm)
    submits(client)
    assert client.last(wire.Refused).error.code == "cancelled"


def test_a_petition_that_is_refused_when_its_files_are_here_leaves_nothing(farm):
    client = Client(farm)
    submits(client)
    farm.manager.state.settings.images_max = 0
    sends(client)
    assert client.last(wire.Refused).error.code == "busy"
    assert nothing_is_staged(farm)
    assert set(dropped(farm)) == {digest_of(FILE)}


def test_of_two_petitions_with_one_file_each_may_be_cancelled(farm):
    one, two = Client(farm, "one"), Client(farm, "two")
    submits(one, 1, FILE, OTHER)
    submits(two, 2)
    sends(one, OTHER)
    one.says(wire.Cancel(id=petition_id(1)))
    assert set(dropped(farm)) == {digest_of(OTHER)}
    assert needed(two) == [(digest_of(FILE),)]
    submits(one, 3, OTHER, FILE)
    one.says(wire.Chunk(digest=digest_of(OTHER), offset=0), b"x" * len(OTHER))
    assert one.last(wire.Refused).id == petition_id(3)
    sends(two)
    assert two.got(wire.Accepted)


def test_a_file_that_nobody_waits_for_when_it_is_kept_is_dropped(farm):
    farm.slow_disk = True
    client = Client(farm)
    pid = submits(client)
    sends(client)
    client.says(wire.Cancel(id=pid))
    assert not dropped(farm)
    farm.happen(BlobStored(digest_of(FILE)))
    assert dropped(farm) == [digest_of(FILE)]


def test_a_file_that_is_being_kept_is_not_asked_for_anew(farm):
    farm.slow_disk = True
    client = Client(farm)
    submits(client)
    sends(client)
    client.breaks()
    again = Client(farm, "two")
    submits(again)
    assert not needed(again)
    farm.happen(BlobStored(digest_of(FILE)))
    assert again.got(wire.Accepted)


def test_one_user_has_n_bytes_under_way_and_no_more(farm, monkeypatch):
    assert limits.STAGED_BYTES_MAX >= 2 * limits.INPUT_BYTES_MAX
    monkeypatch.setattr(limits, "STAGED_BYTES_MAX", 10)
    client = Client(farm)
    submits(client, 1, b"1234567")
    submits(client, 2, b"123")
    assert len(needed(client)) == 2
    submits(client, 3, b"x")
    assert client.last(wire.Refused).error.code == "busy"
    # What is under way already does not count twice.
    submits(client, 4, b"123")
    submits(client, 2, b"123")
    assert len(client.got(wire.Refused)) == 1
    submits(client, 5, b"12345678901")
    assert client.last(wire.Refused).error.code == "too_large"
    sends(client, b"123")
    submits(client, 6, b"x")
    assert len(client.got(wire.Refused)) == 2


def test_who_sends_nothing_for_n_seconds_is_not_waited_for(farm):
    """Else a client that lives and says nothing would take everybody's room for ever."""
    silent, other = Client(farm, "aaaa"), Client(farm, "bbbb")
    submits(silent)
    submits(other, 2)
    sends(silent, BIG)  # asked for by nobody: no sign of diligence
    farm.wait(limits.UPLOAD_SILENCE_S - 1, silent, other)
    assert not silent.got(wire.Refused)
    assert needed(other) == []
    farm.wait(1, silent, other)
    assert silent.last(wire.Refused).error.code == "busy"
    assert needed(other) == [(digest_of(FILE),)]
    sends(other)
    assert other.got(wire.Accepted)
    farm.wait(40, silent, other)
    assert nothing_is_staged(farm)


def test_who_sends_something_is_waited_for(farm):
    client = Client(farm)
    submits(client, 1, BIG, OTHER)
    farm.wait(limits.UPLOAD_SILENCE_S - 1, client)
    sends(client, BIG, 0, 1)
    farm.wait(limits.UPLOAD_SILENCE_S - 1, client)
    assert not client.got(wire.Refused)
    assert state_of(farm).uploads


def test_a_crowd_of_petitions_that_wait_for_one_file_is_not_looked_at_for_each(farm, monkeypatch):
    """Their end is as much work as they are, not its square."""
    looks = []
    ask = inputs._ask
    monkeypatch.setattr(inputs, "_ask", lambda *a, **k: (looks.append(1), ask(*a, **k)))
    client = Client(farm)
    for number in range(1, 31):
        submits(client, number, FILE, detach=True)
    assert len(looks) == 30
    sends(client)
    assert len(client.got(wire.Accepted)) == 30
    for number in range(31, 61):
        submits(client, number, OTHER)
    client.says(wire.Goodbye())
    farm.wait(31)
    assert nothing_is_staged(farm)
    assert len(looks) == 60


def test_a_client_that_cancels_and_leaves_while_its_file_is_being_kept(farm):
    client, other = Client(farm), Client(farm, "bbbb")
    farm.slow_disk = True
    pid = submits(client)
    sends(client)
    _cancelled(client, pid)
    submits(other, 2, FILE, OTHER)
    client.says(wire.Goodbye())
    farm.happen(BlobStored(digest_of(FILE)))
    farm.slow_disk = False
    sends(other, OTHER)
    assert other.last(wire.Accepted).id == petition_id(2)
    assert nothing_is_staged(farm)


def test_who_sends_damage_spoils_it_for_nobody_else(farm):
    liar, other = Client(farm, "aaaa"), Client(farm, "bbbb")
    submits(liar, 1, FILE, OTHER)
    submits(other, 2, FILE)
    submits(other, 3, OTHER)
    both = submits(liar, 4, FILE)
    submits(other, 4, FILE)
    liar.says(wire.Chunk(digest=digest_of(FILE), offset=0), b"?" * len(FILE))
    assert [one.id for one in liar.got(wire.Refused)] == [petition_id(1), both]
    assert not other.got(wire.Refused)
    assert needed(other) == [(digest_of(OTHER),), (digest_of(FILE),)]
    sends(other)
    sends(other, OTHER)
    assert {one.id for one in other.got(wire.Accepted)} == {
        petition_id(2), petition_id(3), both,
    }  # fmt: skip
    assert nothing_is_staged(farm)


def test_who_names_another_size_spoils_it_for_nobody_else(farm):
    liar, other = Client(farm, "aaaa"), Client(farm, "bbbb")

    def lies(number: int, size: int) -> None:
        given = with_files(petition(), FILE)
        false = msgspec.structs.replace(given, inputs=(InputFile(digest_of(FILE), size),))
        liar.says(wire.Submit(id=petition_id(number)), encode_petition(false))

    lies(1, len(FILE) + 1)
    submits(other, 2)
    liar.says(wire.Goodbye())
    assert needed(other) == [(digest_of(FILE),)]
    sends(other)
    assert other.last(wire.Accepted).id == petition_id(2)
    # The same the other way round.
    liar.says(wire.ClientHello(protocols=(1,), software="t"))
    submits(other, 3, OTHER)
    given = with_files(petition(), OTHER)
    false = msgspec.structs.replace(given, inputs=(InputFile(digest_of(OTHER), 1),))
    liar.says(wire.Submit(id=petition_id(4)), encode_petition(false))
    sends(other, OTHER)
    assert other.last(wire.Accepted).id == petition_id(3)
    assert liar.last(wire.Refused).id == petition_id(4)
    assert liar.last(wire.Refused).error.code == "invalid_params"
    assert nothing_is_staged(farm)


def test_petitions_that_wait_for_files_count_as_petitions():
    farm = Farm(petitions_max=1)
    client = Client(farm)
    submits(client)
    client.submits(2)
    assert client.last(wire.Refused).error.code == "busy"
    sends(client)
    assert client.got(wire.Accepted)


def test_files_count_against_the_bytes_that_are_kept():
    farm = Farm(blob_bytes_max=20)
    client = Client(farm)
    submits(client, 1, b"1234567890")
    submits(client, 2, b"12345678901")  # beside what is under way
    assert client.last(wire.Refused).error.code == "busy"
    sends(client, b"1234567890")
    submits(client, 2, b"12345678901")
    assert "bytes of input files" in client.last(wire.Refused).error.message
    submits(client, 3, b"abcdefghij")
    assert len(client.got(wire.Refused)) == 2


def test_a_plan_needs_no_files(farm):
    client = Client(farm)
    client.says(wire.Plan(number=1), encode_petition(with_files(petition(), FILE)))
    assert client.last(wire.Planned).error is None
    assert nothing_is_staged(farm)


# --- kept while somebody names them -----------------------------------------------------------


def _cancelled(client: Client, pid: str) -> None:
    client.says(wire.Cancel(id=pid))


def test_a_purge_drops_the_files_that_nobody_else_names_and_tells_the_workers(farm):
    client, worker = Client(farm), Worker(farm)
    first = submits(client, 1, FILE, OTHER)
    sends(client)
    sends(client, OTHER)
    second = submits(client, 2)
    for pid in (first, second):
        _cancelled(client, pid)
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
    _cancelled(client, pid)
    farm.turn(6.0)
    assert dropped(farm) == [digest_of(FILE)]
    assert farm.store.used_blobs() == set()


def test_workers_are_told_in_portions(farm):
    client, worker = Client(farm), Worker(farm)
    files = [b"%d" % number for number in range(300)]
    for number, data in enumerate(files):
        pid = submits(client, number, data)
        sends(client, data)
        _cancelled(client, pid)
    client.says(wire.Purge())
    assert [len(forget.digests) for forget in worker.got(wire.Forget)] == [256, 44]


def test_n_files_are_remembered_for_workers_that_were_away(farm, monkeypatch):
    """A cache outlives a connection and a process: what was purged must go from it all the same."""
    monkeypatch.setattr(limits, "FORGOTTEN_INPUTS_MAX", 2)
    client, worker = Client(farm), Worker(farm)
    worker.says(wire.Goodbye())
    files = [b"one", b"two", b"three"]
    assert len(files) == limits.FORGOTTEN_INPUTS_MAX + 1
    for number, data in enumerate(files):
        pid = submits(client, number + 10, data)
        sends(client, data)
        _cancelled(client, pid)
        client.says(wire.Purge(id=pid))
    assert not worker.got(wire.Forget)
    worker.reconnects()
    assert worker.last(wire.Forget).digests == (digest_of(b"two"), digest_of(b"three"))
    # What is named anew is wanted, though it is sent anew.
    submits(client, 20, b"two")
    sends(client, b"two")
    worker.restarts()
    assert worker.last(wire.Forget).digests == (digest_of(b"three"),)
    assert worker.last(wire.Welcome)


def test_a_file_named_anew_in_the_same_turn_is_not_forgotten(farm):
    client, worker = Client(farm), Worker(farm)
    pid = submits(client)
    sends(client)
    _cancelled(client, pid)
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


def test_files_of_ended_petitions_make_room_for_new_ones():
    """Those of a petition that is done first: nobody can draw it again."""
    farm = Farm(blob_bytes_max=30)
    client, worker = Client(farm), Worker(farm)
    first = submits(client, 1, b"first file")
    sends(client, b"first file")
    _cancelled(client, first)
    farm.turn(1.0)
    submits(client, 2, b"other file")
    sends(client, b"other file")
    worker.draws(worker.starts())
    client.sees(petition_id(2), 0)
    farm.turn(1.0)
    farm.effects.clear()
    assert client.last(wire.Finished).state == "done"
    third = submits(client, 3, b"third file")
    sends(client, b"third file")
    assert not dropped(farm)
    # One that is under way keeps its own.
    fourth = submits(client, 4, b"first file", b"fourth ...")
    assert dropped(farm) == [digest_of(b"other file")]
    assert farm.rows(ForgetInput) == [ForgetInput(petition_id(2), digest_of(b"other file"))]
    assert worker.last(wire.Forget).digests == (digest_of(b"other file"),)
    sends(client, b"fourth ...")
    assert client.last(wire.Accepted).id == fourth
    submits(client, 5, b"fifth file")
    assert client.last(wire.Refused).error.code == "busy"
    client.says(wire.Cancel(id=third))
    submits(client, 5, b"fifth file")
    assert dropped(farm)[-1] == digest_of(b"third file")
    assert needed(client)[-1] == (digest_of(b"fifth file"),)
    farm.restart()
    assert [len(entry.inputs) for entry in state_of(farm).queue] == [0, 0, 0, 2]


def test_nothing_makes_room_while_the_store_is_in_trouble():
    farm = Farm(blob_bytes_max=10)
    client = Client(farm)
    pid = submits(client, 1, b"first file")
    sends(client, b"first file")
    _cancelled(client, pid)
    state_of(farm).store_trouble = "the disk is full"
    submits(client, 2, b"other file")
    assert client.last(wire.Refused).error.code == "busy"
    assert not dropped(farm)


def test_one_of_several_users_makes_room_in_his_own_share():
    farm = Farm(blob_bytes_max=100, owner_share=0.1)
    client = Client(farm)
    pid = submits(client, 1, b"first file")
    sends(client, b"first file")
    _cancelled(client, pid)
    state = state_of(farm)
    entry = state.queue.entries[pid]
    ana = make_entry("f" * 32, "ana", b"", "", petition())
    room.make(state, ana, (InputFile("a" * 64, 10),))
    assert entry.inputs
    room.make(state, ana, (InputFile("a" * 64, 11),))
    assert not entry.inputs


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
    _cancelled(client, ended)
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
    assert evaluations(_replaced(plain, init_image=digest_of(FILE), strength=0.5)) == 10
