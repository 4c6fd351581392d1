"""Input files at the manager: who spoils them, who is waited for, what makes room for them."""

import msgspec
import pytest

from sdistrib import limits
from sdistrib.petitions import InputFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_manager import inputs, room
from sdistrib_manager.door import make_entry
from sdistrib_manager.events import BlobStored
from sdistrib_manager.rows import ForgetInput
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
    cancelled(client, pid)
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
        cancelled(client, pid)
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


def test_files_of_ended_petitions_make_room_for_new_ones():
    """Those of a petition that is done first: nobody can draw it again."""
    farm = Farm(blob_bytes_max=30)
    client, worker = Client(farm), Worker(farm)
    first = submits(client, 1, b"first file")
    sends(client, b"first file")
    cancelled(client, first)
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
    cancelled(client, pid)
    state_of(farm).store_trouble = "the disk is full"
    submits(client, 2, b"other file")
    assert client.last(wire.Refused).error.code == "busy"
    assert not dropped(farm)


def test_one_of_several_users_makes_room_in_his_own_share():
    farm = Farm(blob_bytes_max=100, owner_share=0.1)
    client = Client(farm)
    pid = submits(client, 1, b"first file")
    sends(client, b"first file")
    cancelled(client, pid)
    state = state_of(farm)
    entry = state.queue.entries[pid]
    ana = make_entry("f" * 32, "ana", b"", "", petition())
    room.make(state, ana, (InputFile("a" * 64, 10),))
    assert entry.inputs
    room.make(state, ana, (InputFile("a" * 64, 11),))
    assert not entry.inputs
