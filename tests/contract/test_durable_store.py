"""One suite for every store and every blob store, and what only those on a disk promise."""

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdistrib.errors import ErrorInfo, StoreError
from sdistrib_manager import rows
from sdistrib_manager.store.base import Store
from sdistrib_manager.store.files import FileBlobs
from sdistrib_manager.store.sqlite import SqliteStore
from tests.support.kept import (
    CANARY,
    CEILINGS,
    COST,
    WORKER,
    InMemory,
    OnDisk,
    full_disk,
    grep,
    image,
    named,
    petition,
    pid,
    pin,
    plain,
    result,
    state_row,
    stone,
    whole_image,
)

ROOT = Path(__file__).resolve().parents[2]


class Kept(Protocol):
    """A store, and how to look at what it keeps with fresh eyes."""

    store: Store

    def again(self) -> Store:
        """The store as the next process finds it."""
        ...


@pytest.fixture(params=["memory", "sqlite"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    made = InMemory() if request.param == "memory" else OnDisk(tmp_path / "state.db")
    yield made
    made.store.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[OnDisk]:
    made = OnDisk(tmp_path / "state.db")
    yield made
    made.store.close()


# --- rows -------------------------------------------------------------------------------------


def test_every_kind_of_row_comes_back(kept: Kept) -> None:
    everything: list[rows.Row] = [
        petition(),
        state_row(left_s=0.125, ended_uptime_s=3.0),
        whole_image(),
        image(index=999, state="failed"),
        stone(2),
        WORKER,
        COST,
        CEILINGS,
        pin(fingerprint="f" * 16),
        named(),
        rows.Clock(1e6 + 0.5),
    ]
    assert {type(row) for row in everything} | {
        rows.PetitionBodyRow,
        rows.Forget,
        rows.ForgetTombstone,
        rows.ForgetWorker,
        rows.ForgetCost,
        rows.ForgetInput,
    } == set(rows.Row.__args__)  # fmt: skip - a new kind of row needs a line in this suite
    kept.store.commit(everything)
    found = kept.again().load()
    assert plain(found) == {
        "petitions": {
            pid(1): ("local", 1, petition().body, hashlib.sha256(CANARY).hexdigest(), 1.75e9)
        },
        "states": {pid(1): state_row(left_s=0.125, ended_uptime_s=3.0)},
        "images": {(pid(1), 0): whole_image(), (pid(1), 999): image(index=999, state="failed")},
        "tombstones": {pid(2): stone(2)},
        "workers": {WORKER.name: WORKER},
        "costs": {(COST.worker, COST.context): COST},
        "ceilings": {CEILINGS.worker: CEILINGS},
        "pins": {pid(1): pin(fingerprint="f" * 16)},
        "inputs": [named()],
        "uptime_s": 1e6 + 0.5,
    }


def test_ceilings_are_replaced_and_without_any_forgotten(kept: Kept) -> None:
    other = msgspec.structs.replace(CEILINGS, worker="other")
    newer = msgspec.structs.replace(CEILINGS, settings="b" * 32)
    kept.store.commit([CEILINGS, other])
    kept.store.commit([newer, rows.CeilingsRow(worker="other")])
    assert kept.again().load().ceilings == [newer]


def test_a_fresh_store_is_empty_and_a_fresh_petition_is_queued(kept: Kept) -> None:
    assert plain(kept.store.load()) == plain(rows.Snapshot())
    kept.store.commit([])
    kept.store.commit([petition()])
    assert kept.again().load().states == [rows.PetitionStateRow(id=pid(1), state="queued")]


def test_later_rows_replace_earlier_ones(kept: Kept) -> None:
    kept.store.commit([petition(), image(), stone(2), WORKER, rows.Clock(1.0)])
    newer = rows.WorkerRow(name=WORKER.name, inventory=b"", seen_wall=2e9, seen_uptime_s=9)
    edited = rows.PetitionBodyRow(id=pid(1), body=b"other")
    kept.store.commit(
        [edited, state_row(state="done"), whole_image(), stone(2, state="expired"), newer]
    )
    kept.store.commit([rows.Clock(2.0)])
    found = plain(kept.again().load())
    assert found["petitions"][pid(1)][2] == b"other"
    # The digest stays that of the first submit: it tells a resend from a conflict.
    assert found["petitions"][pid(1)][3] == petition().digest
    assert found["states"][pid(1)].state == "done"
    assert found["images"] == {(pid(1), 0): whole_image()}
    assert found["tombstones"][pid(2)].state == "expired"
    assert found["workers"] == {WORKER.name: newer}
    assert found["uptime_s"] == 2.0


def test_forgetting_takes_the_petition_with_its_images_and_nothing_else(kept: Kept) -> None:
    kept.store.commit([petition(1), image(1), petition(2), image(2), stone(3), stone(4), WORKER])
    kept.store.commit([rows.Forget(pid(1)), rows.ForgetTombstone(pid(3))])
    found = plain(kept.again().load())
    assert set(found["petitions"]) == set(found["states"]) == {pid(2)}
    assert set(found["images"]) == {(pid(2), 0)}
    assert set(found["tombstones"]) == {pid(4)}
    kept.store.commit([rows.ForgetWorker(WORKER.name), rows.Forget(pid(9))])
    assert kept.again().load().workers == []
    # Its id and its number are free for another one.
    kept.store.commit([petition(1)])
    assert len(kept.again().load().petitions) == 2


def test_what_was_learned_is_kept_by_worker_and_context_until_it_is_forgotten(kept: Kept) -> None:
    other = rows.CostRow(worker=COST.worker, context="d")
    again = rows.CostRow(worker=COST.worker, context=COST.context, load_s=(1.0,))
    kept.store.commit([COST, other])
    kept.store.commit([again, rows.ForgetCost("gpu2", COST.context)])
    assert kept.again().load().costs == [again, other]
    kept.store.commit([rows.ForgetCost(COST.worker, COST.context)])
    # What it cost is another matter than who is here.
    kept.store.commit([rows.ForgetWorker(COST.worker)])
    assert kept.again().load().costs == [other]


def test_a_pin_lives_as_long_as_its_petition(kept: Kept) -> None:
    kept.store.commit([petition(1), pin(1), petition(2), pin(2)])
    kept.store.commit([pin(2, contents=(("b" * 64, 1),))])
    kept.store.commit([rows.Forget(pid(1)), pin(1)])
    assert kept.again().load().pins == [pin(2, contents=(("b" * 64, 1),))]
    # A petition of the same id is another one.
    kept.store.commit([petition(1)])
    assert len(kept.again().load().pins) == 1


def test_rows_come_back_in_order(kept: Kept) -> None:
    kept.store.commit([petition(7, number=3), petition(5, number=1), petition(6, number=2)])
    kept.store.commit([image(5, index) for index in (2, 0, 1)])
    kept.store.commit([stone(1, uptime_s=2.0), stone(2, uptime_s=1.0)])
    found = kept.again().load()
    assert [row.number for row in found.petitions] == [1, 2, 3]
    assert [row.id for row in found.states] == [row.id for row in found.petitions]
    assert [row.index for row in found.images] == [0, 1, 2]
    assert [row.id for row in found.tombstones] == [pid(2), pid(1)]


def test_a_body_may_be_a_view_on_memory_that_is_not_ours(kept: Kept) -> None:
    body = bytearray(200_000)
    kept.store.commit([petition(body=memoryview(body))])
    assert bytes(kept.again().load().petitions[0].body) == bytes(200_000)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(max_size=50),
    message=st.text(max_size=50),
    left_s=st.floats(0, 1e9),
    body=st.binary(max_size=100),
)
def test_any_text_and_any_number_comes_back(
    kept: Kept, name: str, message: str, left_s: float, body: bytes
) -> None:
    kept.store.commit([rows.Forget(pid(1)), rows.ForgetWorker(name)])
    failure = ErrorInfo(code="engine_error", message=message, worker=name)
    worker = rows.WorkerRow(name=name, inventory=body, seen_wall=left_s, seen_uptime_s=left_s)
    kept.store.commit(
        [petition(body=body), state_row(left_s=left_s), image(failures=(failure,)), worker]
    )
    found = kept.again().load()
    assert bytes(found.petitions[0].body) == body
    assert found.states == [state_row(left_s=left_s)]
    assert found.images == [image(failures=(failure,))]
    assert worker in found.workers


def test_used_blobs_are_those_of_images_whose_picture_is_kept(kept: Kept) -> None:
    one, two = result(data=b"one"), result(index=1, data=b"two")
    kept.store.commit([petition(), image(state="done", result=one, kept=True)])
    kept.store.commit([image(index=1, state="done", result=two, kept=False), image(index=2)])
    assert kept.again().used_blobs() == {one.digest}
    kept.store.commit([image(state="done", result=one, kept=False)])
    assert kept.again().used_blobs() == set()
    kept.store.commit([image(index=1, state="done", result=two, kept=True)])
    assert kept.store.used_blobs() == {two.digest}
    kept.store.commit([rows.Forget(pid(1))])
    assert kept.store.used_blobs() == set()


def _digest(row: rows.InputRow) -> str:
    return row.digest


def test_an_input_file_is_kept_while_a_petition_names_it(kept: Kept) -> None:
    one, two = named(1, b"one"), named(1, b"two")
    shared = named(2, b"one")
    kept.store.commit([petition(1), petition(2), one, two, shared, one])
    assert kept.again().load().inputs == [*sorted([one, two], key=_digest), shared]
    assert kept.store.used_blobs() == {one.digest, two.digest}
    kept.store.commit([rows.ForgetInput(pid(1), two.digest), rows.ForgetInput(pid(9), two.digest)])
    assert kept.again().used_blobs() == {one.digest}
    kept.store.commit([rows.Forget(pid(1))])
    assert kept.again().load().inputs == [shared]
    kept.store.commit([named(7), rows.Forget(pid(2))])
    # One of a petition that was forgotten in the same turn is no row.
    assert kept.again().load().inputs == []
    assert kept.store.used_blobs() == set()


# --- all or nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "impossible",
    [petition(1), petition(3, id=pid(1)), image(9)],
    ids=["the same petition twice", "the same id twice", "an image of no petition"],
)
def test_a_commit_that_fails_keeps_nothing_and_the_store_goes_on(
    kept: Kept, impossible: rows.Row
) -> None:
    kept.store.commit([petition(1), image(1), rows.Clock(1.0)])
    before = plain(kept.store.load())
    changes = [
        petition(2), rows.Clock(2.0), state_row(1), rows.Forget(pid(7)), stone(8), WORKER,
        whole_image(), impossible,
    ]  # fmt: skip
    with pytest.raises(StoreError):
        kept.store.commit(changes)
    assert plain(kept.store.load()) == before
    kept.store.probe()
    kept.store.commit(changes[:-1])
    assert len(kept.again().load().petitions) == 2


def test_within_one_commit_rows_take_effect_in_order(kept: Kept) -> None:
    kept.store.commit([petition(), whole_image()])
    kept.store.commit([rows.Forget(pid(1)), petition(), image(index=4)])
    assert [row.index for row in kept.again().load().images] == [4]
    with pytest.raises(StoreError):
        kept.store.commit([rows.Forget(pid(1)), image()])
    assert [row.index for row in kept.again().load().images] == [4]


# --- the database -----------------------------------------------------------------------------


def test_settings_that_the_promises_rest_on(disk: OnDisk) -> None:
    db = disk.store._connection()
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    assert {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted} == wanted


def test_a_second_connection_sees_what_was_committed_at_once(disk: OnDisk) -> None:
    disk.store.commit([petition()])
    other = SqliteStore(disk.path)
    assert len(other.load().petitions) == 1
    other.close()


def test_a_full_disk_fails_the_commit_and_space_cures_it(disk: OnDisk) -> None:
    disk.store.commit([petition(1)])
    size_bytes = (disk.path.parent / "state.db-wal").stat().st_size
    with full_disk(size_bytes + 8192):
        with pytest.raises(StoreError, match=r"state\.db"):
            disk.store.commit([petition(2, body=bytes(100_000))])
        # What is there stays readable, by the same store.
        assert [row.number for row in disk.store.load().petitions] == [1]
        with pytest.raises(StoreError):
            disk.store.commit([petition(2, body=bytes(100_000))])
    disk.store.probe()
    disk.store.commit([petition(2, body=bytes(100_000))])
    assert [row.number for row in disk.again().load().petitions] == [1, 2]


def test_a_disk_without_any_room_fails_the_probe(disk: OnDisk) -> None:
    disk.store.commit([petition(1)])
    disk.store.checkpoint()
    with full_disk(0), pytest.raises(StoreError):
        disk.store.probe()
    disk.store.probe()


def test_a_disk_that_can_only_be_read_is_still_read(disk: OnDisk) -> None:
    disk.store.commit([petition(1)])
    db = disk.store._connection()
    db.execute("PRAGMA query_only=ON")
    for _ in range(2):
        with pytest.raises(StoreError, match="readonly"):
            disk.store.commit([petition(2)])
        with pytest.raises(StoreError, match="readonly"):
            disk.store.probe()
    # Opening it anew might not work on such a disk, and is not tried.
    assert disk.store._connection() is db
    assert len(disk.store.load().petitions) == 1
    db.execute("PRAGMA query_only=OFF")
    disk.store.probe()
    disk.store.commit([petition(2)])
    assert len(disk.store.load().petitions) == 2


@pytest.mark.parametrize("log", [True, False])
def test_what_is_kept_is_read_while_nothing_can_be_written(disk: OnDisk, log: bool) -> None:
    disk.store.commit([petition(1)])
    if not log:
        disk.store.checkpoint()
    with full_disk(0):
        for _ in range(2):
            with pytest.raises(StoreError, match="I/O"):
                disk.store.commit([petition(2)])
            # Opening it as usual would have to write.
            assert [row.number for row in disk.store.load().petitions] == [1]
            with pytest.raises(StoreError):
                disk.store.probe()
    disk.store.probe()
    disk.store.commit([petition(2)])
    assert [row.number for row in disk.again().load().petitions] == [1, 2]


def test_a_folder_that_is_none_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        SqliteStore(tmp_path / "nowhere" / "state.db")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        FileBlobs(tmp_path / "file" / "pictures")


def test_a_failing_sync_is_not_believed(disk: OnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.store.commit([petition(1)])
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def counted(*args: Any, **more: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **more))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", counted)
    with full_disk(0), pytest.raises(StoreError):
        disk.store.commit([petition(2, body=bytes(100_000))])
    assert not opened
    disk.store.load()
    assert len(opened) == 1


def test_forgotten_bytes_are_gone_from_the_disk(disk: OnDisk) -> None:
    folder = disk.path.parent
    for number in range(1, 40):
        disk.store.commit([petition(number, body=CANARY + bytes(number * 1000) + CANARY)])
    disk.store.commit([petition(90, body=b"stays"), image(90)])
    assert grep(folder, CANARY)
    disk.store.commit([rows.PetitionBodyRow(id=pid(1), body=b"edited")])
    disk.store.commit([rows.Forget(pid(number)) for number in range(2, 40)])
    # The write-ahead log still has them, which is why a checkpoint is asked for.
    assert grep(folder, CANARY)
    disk.store.checkpoint()
    assert not grep(folder, CANARY)
    assert grep(folder, b"stays")


def test_a_checkpoint_that_a_reader_holds_up_says_so(disk: OnDisk) -> None:
    disk.store.commit([petition(1)])
    reader = sqlite3.connect(disk.path)
    with contextlib.closing(reader):
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM petition").fetchall()
        disk.store.commit([rows.Forget(pid(1))])
        with pytest.raises(StoreError, match="reads"):
            disk.store.checkpoint()
    disk.store.checkpoint()
    assert not grep(disk.path.parent, CANARY)


def test_a_backup_is_a_whole_store(disk: OnDisk, tmp_path: Path) -> None:
    disk.store.commit([petition(), whole_image(), WORKER])
    disk.store.backup(tmp_path / "copy.db")
    copy = OnDisk(tmp_path / "copy.db")
    assert plain(copy.store.load()) == plain(disk.store.load())
    copy.store.close()
    with pytest.raises(StoreError, match="back up"):
        disk.store.backup(tmp_path / "nowhere" / "copy.db")


@pytest.mark.process
@pytest.mark.timeout(120)
def test_fifty_kills_lose_nothing_that_was_promised(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.soak.writer", str(tmp_path), "--kills", "50"]
    done = subprocess.run(
        [*command, "--seed", "3"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((".", "manager", *sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == 50
    assert report["promised"] > 50
    # Each of the places where a writer can die was met.
    assert min(report["places"].values()) >= 1, report
