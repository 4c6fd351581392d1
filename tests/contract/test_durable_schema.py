"""Databases of another time, of another version, and damaged ones."""

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sdistrib.errors import ConfigError, StoreError
from sdistrib_manager import rows
from sdistrib_manager.store import sqlite as sqlite_module
from sdistrib_manager.store.sqlite import SqliteStore
from tests.support.kept import (
    COST,
    OnDisk,
    image,
    named,
    petition,
    pid,
    pin,
    plain,
    state_row,
    whole_image,
)

#: A database as version 0.2 made it; it never changes, whatever becomes of the schema.
SCHEMA_1 = """
CREATE TABLE petition (
    id             TEXT PRIMARY KEY,
    owner          TEXT NOT NULL,
    number         INTEGER NOT NULL UNIQUE,
    body           BLOB NOT NULL,
    digest         TEXT NOT NULL,
    accepted_wall  REAL NOT NULL,
    state          TEXT NOT NULL DEFAULT 'queued'
                   CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'expired')),
    left_s         REAL NOT NULL DEFAULT 0,
    ended_uptime_s REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE image (
    petition TEXT NOT NULL REFERENCES petition (id) ON DELETE CASCADE,
    number   INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('waiting', 'leased', 'done', 'failed', 'cancelled')),
    blob     TEXT,
    record   BLOB NOT NULL,
    PRIMARY KEY (petition, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_blob ON image (blob) WHERE blob IS NOT NULL;
CREATE TABLE tombstone (
    id       TEXT PRIMARY KEY,
    owner    TEXT NOT NULL,
    digest   TEXT NOT NULL,
    state    TEXT NOT NULL,
    uptime_s REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE worker (
    name          TEXT PRIMARY KEY,
    inventory     BLOB NOT NULL,
    seen_wall     REAL NOT NULL,
    seen_uptime_s REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE clock (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    uptime_s REAL NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO clock VALUES (1, 86400.5);
INSERT INTO petition VALUES
    ('00000000000000000000000000000001', 'local', 4, x'80', '{digest}', 1.75e9, 'running', 12.5, 0);
INSERT INTO image VALUES
    ('00000000000000000000000000000001', 0, 'done', '{digest}', x'{done}'),
    ('00000000000000000000000000000001', 1, 'waiting', NULL, x'{waiting}');
INSERT INTO tombstone VALUES ('00000000000000000000000000000002', 'local', '', 'cancelled', 3.0);
INSERT INTO worker VALUES ('gpu1', x'90', 1.75e9, 86000.0);
PRAGMA user_version = 1;
""".format(
    digest="ab" * 32,
    # MessagePack: {id, index, state, issued [[1, instance, worker, live]], result, kept}.
    done=(
        "86a26964d9203030303030303030303030303030303030303030303030303030303030303031a5696e646578"
        "00a57374617465a4646f6e65a6697373756564919401b030313233343536373839616263646566a467707531"
        "c2a6726573756c748aa7617474656d707483a26964d920303030303030303030303030303030303030303030"
        "3030303030303030303031a5696e64657800a66e756d62657201a4736565642aa6646967657374d940616261"
        "6261626162616261626162616261626162616261626162616261626162616261626162616261626162616261"
        "6261626162616261626162616261626162aa73697a655f627974657307a6666f726d6174a3706e67a5776964"
        "746840a668656967687440a6776f726b6572a467707531ab66696e6765727072696e74a130a7636f6e746578"
        "74a130a46b657074c3"
    ),
    waiting=(
        "84a26964d920" + b"00000000000000000000000000000001".hex() + "a5696e64657801a57374617465"
        "a777616974696e67a66c6f7373657301"
    ),
)  # fmt: skip


#: What databases of the versions after it have beside that.
SCHEMA_2 = (
    SCHEMA_1
    + """
DROP INDEX image_blob;
PRAGMA user_version = 2;
"""
)


SCHEMA_3 = (
    SCHEMA_2
    + """
CREATE TABLE cost (
    worker  TEXT NOT NULL,
    context TEXT NOT NULL,
    record  BLOB NOT NULL,
    PRIMARY KEY (worker, context)
) STRICT, WITHOUT ROWID;
CREATE TABLE pin (
    petition TEXT PRIMARY KEY REFERENCES petition (id) ON DELETE CASCADE,
    record   BLOB NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 3;
"""
)


@pytest.fixture(params=[SCHEMA_1, SCHEMA_2, SCHEMA_3], ids=["schema 1", "schema 2", "schema 3"])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(request.param)
    return path


def test_a_database_of_another_schema_is_read_and_written(released: Path) -> None:
    disk = OnDisk(released)
    found = plain(disk.store.load())
    assert found["petitions"] == {pid(1): ("local", 4, b"\x80", "ab" * 32, 1.75e9)}
    assert found["states"] == {pid(1): state_row(left_s=12.5)}
    done, waiting = found["images"][pid(1), 0], found["images"][pid(1), 1]
    assert done.result is not None
    assert (done.state, done.kept, done.seen, done.issued) == (
        "done", True, False, (rows.IssuedRow(1, "0123456789abcdef", "gpu1", False),),
    )  # fmt: skip
    assert (done.result.seed, done.result.digest, done.result.width) == (42, "ab" * 32, 64)
    assert waiting == image(index=1, state="waiting", losses=1)
    assert found["uptime_s"] == 86400.5
    assert (found["costs"], found["pins"], found["ceilings"]) == ({}, {}, {})
    assert found["inputs"] == []
    assert disk.store.used_blobs() == {"ab" * 32}
    disk.store.commit([pin(1), COST, named(1)])
    assert (disk.again().load().pins, disk.store.load().costs) == ([pin(1)], [COST])
    assert disk.store.load().inputs == [named(1)]
    assert disk.store.used_blobs() == {"ab" * 32, named().digest}
    disk.store.commit([petition(5), whole_image(), rows.Forget(pid(1)), rows.ForgetWorker("gpu1")])
    assert set(plain(disk.again().load())["petitions"]) == {pid(5)}
    assert disk.store.load().pins == disk.store.load().inputs == []
    disk.store.close()


def test_a_new_database_has_the_schema_that_an_old_one_is_brought_to(
    released: Path, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    for path in (released, tmp_path / "new" / "state.db"):
        SqliteStore(path).close()
    assert _schema(released) == _schema(tmp_path / "new" / "state.db")


def _schema(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        columns = {
            f"{table}: {column[1:]}"
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for column in db.execute(f"PRAGMA table_info({table})")
        }
        version = db.execute("PRAGMA user_version").fetchone()[0]
        return columns | {f"version {version}"}


def test_later_schemas_are_applied_in_order_and_each_wholly_or_not_at_all(
    released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sqlite_module._schemas()
    two = "ALTER TABLE worker ADD COLUMN speed REAL NOT NULL DEFAULT 0;"
    three = "UPDATE worker SET speed = 2;"
    broken = "UPDATE worker SET speed = 3; INSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(sqlite_module, "_schemas", lambda: [*one, two, three, broken])
    with pytest.raises(StoreError, match="nowhere"):
        SqliteStore(released)
    with contextlib.closing(sqlite3.connect(released)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(one) + 2,)
        assert db.execute("SELECT speed FROM worker").fetchone() == (2.0,)


def test_a_database_of_a_newer_version_is_refused_by_number(released: Path) -> None:
    with contextlib.closing(sqlite3.connect(released)) as db:
        db.execute("PRAGMA user_version = 12")
    with pytest.raises(ConfigError, match=r"schema 12 .*newer sdistrib.* knows 5\b"):
        SqliteStore(released)
    # It was not touched.
    assert "version 12" in _schema(released)


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name" * 200)


def _headless(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[:16] = bytes(16)
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scribbled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_garbage, _headless, _cut, _scribbled])
def test_a_damaged_database_is_refused_and_left_as_it_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    disk = OnDisk(tmp_path / "state.db")
    for number in range(1, 60):
        disk.store.commit([petition(number, body=bytes(2000)), image(number)])
    disk.store.close()
    damage(disk.path)
    before = disk.path.read_bytes()

    def read() -> None:
        store = SqliteStore(disk.path)
        try:
            store.load()
        finally:
            store.close()

    with pytest.raises(StoreError, match=r"state\.db"):
        read()
    assert disk.path.read_bytes() == before


def test_a_record_that_makes_no_sense_is_an_error_and_no_crash(tmp_path: Path) -> None:
    disk = OnDisk(tmp_path / "state.db")
    disk.store.commit([petition(), image()])
    disk.store._connection().execute("UPDATE image SET record = x'c1'")
    with pytest.raises(StoreError, match="cannot read"):
        disk.store.load()
