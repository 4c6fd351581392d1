"""Petitions and images in SQLite: one connection, one writer, one transaction per turn.

Write-ahead log with `synchronous=FULL`: what `commit` returned from survives a power cut. Pictures
are not in here, see `files`.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from sdistrib.errors import ConfigError, StoreError
from sdistrib_manager import rows

_ENCODER = msgspec.msgpack.Encoder()
_IMAGE = msgspec.msgpack.Decoder(rows.ImageRow)
_COST = msgspec.msgpack.Decoder(rows.CostRow)
_CEILINGS = msgspec.msgpack.Decoder(rows.CeilingsRow)
_PIN = msgspec.msgpack.Decoder(rows.PinRow)
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    "PRAGMA busy_timeout=0",
)


#: After these nothing was half written: what is read afterwards can be believed. After an error of
#: the disk itself, of a sync above all, only a database that is opened anew can.
_REFUSALS = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY,
})  # fmt: skip


class SqliteStore:
    """A store in one file. Use from one thread."""

    def __init__(self, path: Path) -> None:
        """Open or make the database and bring its schema up to date.

        Raises:
            StoreError: it cannot be opened or is damaged.
            ConfigError: it was written by a newer sdistrib.
        """
        self._path = path
        self._db: sqlite3.Connection | None = self._opened()

    def _opened(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {self._path}: {error}") from None
        try:
            for pragma in _PRAGMAS:
                db.execute(pragma)
            _migrate(db, self._path)
        except sqlite3.Error as error:
            db.close()
            raise StoreError(f"cannot use {self._path}: {error}") from None
        except ConfigError:
            db.close()
            raise
        return db

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = self._opened()
        return self._db

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with, also while nothing can be written.

        Opening as usual makes or grows a file beside the database, which such a disk refuses. To
        read without it, SQLite must know that it is alone, and the manager's lock on the folder
        sees to that.
        """
        try:
            db = self._connection()
        except StoreError as error:
            refused = error
        else:
            yield db
            return
        # What is in the log counts; without a log the database alone is all there is.
        log = self._path.with_name(f"{self._path.name}-wal")
        how = "vfs=unix-none" if log.exists() and log.stat().st_size else "immutable=1"
        uri = f"{self._path.absolute().as_uri()}?mode=ro&{how}"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
                yield db
        except sqlite3.Error:
            raise refused from None

    def commit(self, changes: Sequence[rows.Row]) -> None:
        """Keep all of it, or none.

        Raises:
            StoreError: none of it is kept; after an error of the disk the database is opened anew
                before its next use.
        """
        if not changes:
            return
        try:
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            for change in changes:
                statement, values = _statement(change)
                db.execute(statement, values)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._take_back(error)
            raise StoreError(f"cannot write {self._path}: {error}") from None

    def _take_back(self, error: sqlite3.Error) -> None:
        """Nothing of the transaction under way happened."""
        # The low byte is the kind of error; errors of the module itself have no code.
        if self._db is None or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _REFUSALS:
            self.close()
            return
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()

    def probe(self) -> None:
        """Find out whether writing works.

        Raises:
            StoreError: it does not.
        """
        try:
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            (uptime_s,) = db.execute("SELECT uptime_s FROM clock").fetchone()
            # There and back: SQLite writes nothing for a value that stays what it is.
            db.execute("UPDATE clock SET uptime_s = uptime_s + 1")
            db.execute("UPDATE clock SET uptime_s = ?", (uptime_s,))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._take_back(error)
            raise StoreError(f"cannot write {self._path}: {error}") from None

    def load(self) -> rows.Snapshot:
        """Everything that is kept.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            with self._reading() as db:
                return _load(db)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            self.close()
            raise StoreError(f"cannot read {self._path}: {error}") from None

    def used_blobs(self) -> set[str]:
        """Digests of all pictures and input files that a row names.

        Raises:
            StoreError: they cannot be read.
        """
        try:
            found = self._connection().execute(
                "SELECT blob FROM image WHERE blob IS NOT NULL UNION SELECT blob FROM input"
            )
            return {digest for (digest,) in found}
        except sqlite3.Error as error:
            self.close()
            raise StoreError(f"cannot read {self._path}: {error}") from None

    def checkpoint(self) -> None:
        """Move the log into the database and empty it, so that forgotten bytes are gone.

        Raises:
            StoreError: it does not work now; the log is moved later all the same.
        """
        try:
            found = self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"cannot checkpoint {self._path}: {error}") from None
        if found[0]:  # SQLite says so in a row, not as an error
            raise StoreError(f"cannot checkpoint {self._path}: another program reads it")

    def backup(self, path: Path) -> None:
        """Write a consistent copy.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            with contextlib.closing(sqlite3.connect(path)) as target:
                self._connection().backup(target)
        except sqlite3.Error as error:
            raise StoreError(f"cannot back up to {path}: {error}") from None

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None


def _schemas() -> list[str]:
    folder = resources.files("sdistrib_manager.store") / "schema"
    scripts = (entry for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [entry.read_text("utf-8") for entry in sorted(scripts, key=lambda entry: entry.name)]


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    schemas = _schemas()
    if version > len(schemas):
        raise ConfigError(
            f"{path} has schema {version} and was written by a newer sdistrib; this one knows"
            f" {len(schemas)}. Start the newer manager, or another --state folder."
        )
    for number, script in enumerate(schemas[version:], start=version + 1):
        db.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def _statement(change: rows.Row) -> tuple[str, tuple[Any, ...]]:
    match change:
        case rows.PetitionRow():
            return (
                "INSERT INTO petition (id, owner, number, body, digest, accepted_wall)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (change.id, change.owner, change.number, change.body, change.digest,
                 change.accepted_wall),
            )  # fmt: skip
        case rows.PetitionBodyRow():
            return "UPDATE petition SET body = ? WHERE id = ?", (change.body, change.id)
        case rows.PetitionStateRow():
            return (
                "UPDATE petition SET state = ?, left_s = ?, ended_uptime_s = ? WHERE id = ?",
                (change.state, change.left_s, change.ended_uptime_s, change.id),
            )
        case rows.ImageRow():
            blob = change.result.digest if change.result and change.kept else None
            return (
                "INSERT INTO image VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " state = excluded.state, blob = excluded.blob, record = excluded.record",
                (change.id, change.index, change.state, blob, _ENCODER.encode(change)),
            )
        case rows.Tombstone():
            return (
                "INSERT OR REPLACE INTO tombstone VALUES (?, ?, ?, ?, ?)",
                (change.id, change.owner, change.digest, change.state, change.uptime_s),
            )
        case _:
            return _small_statement(change)


def _small_statement(
    change: rows.WorkerRow
    | rows.CostRow
    | rows.CeilingsRow
    | rows.PinRow
    | rows.InputRow
    | rows.Forget
    | rows.ForgetTombstone
    | rows.ForgetWorker
    | rows.ForgetCost
    | rows.ForgetInput
    | rows.Clock,
) -> tuple[str, tuple[Any, ...]]:
    match change:
        case rows.WorkerRow():
            return (
                "INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?)",
                (change.name, change.inventory, change.seen_wall, change.seen_uptime_s),
            )
        case rows.CostRow():
            return (
                "INSERT OR REPLACE INTO cost VALUES (?, ?, ?)",
                (change.worker, change.context, _ENCODER.encode(change)),
            )
        case rows.CeilingsRow():
            return _ceilings(change)
        case rows.PinRow():
            # A petition that was forgotten in the same turn has no pin any more.
            return (
                "INSERT OR REPLACE INTO pin SELECT id, ? FROM petition WHERE id = ?",
                (_ENCODER.encode(change), change.id),
            )
        case rows.InputRow():
            return (
                "INSERT OR REPLACE INTO input SELECT id, ?, ? FROM petition WHERE id = ?",
                (change.digest, change.size_bytes, change.id),
            )
        case _:
            return _plain_statement(change)


def _ceilings(change: rows.CeilingsRow) -> tuple[str, tuple[Any, ...]]:
    if not change.ceilings:
        return "DELETE FROM ceiling WHERE worker = ?", (change.worker,)
    record = _ENCODER.encode(change)
    return "INSERT OR REPLACE INTO ceiling VALUES (?, ?)", (change.worker, record)


def _plain_statement(
    change: rows.Forget
    | rows.ForgetTombstone
    | rows.ForgetWorker
    | rows.ForgetCost
    | rows.ForgetInput
    | rows.Clock,
) -> tuple[str, tuple[Any, ...]]:
    match change:
        case rows.Clock(uptime_s):
            return "UPDATE clock SET uptime_s = ?", (uptime_s,)
        case rows.Forget(petition_id):
            return "DELETE FROM petition WHERE id = ?", (petition_id,)
        case rows.ForgetTombstone(petition_id):
            return "DELETE FROM tombstone WHERE id = ?", (petition_id,)
        case rows.ForgetWorker(name):
            return "DELETE FROM worker WHERE name = ?", (name,)
        case rows.ForgetCost(worker, context):
            return "DELETE FROM cost WHERE worker = ? AND context = ?", (worker, context)
        case rows.ForgetInput(petition_id, digest):
            return "DELETE FROM input WHERE petition = ? AND blob = ?", (petition_id, digest)


def _load(db: sqlite3.Connection) -> rows.Snapshot:
    def every(columns: str, table: str, order: str) -> Iterable[tuple[Any, ...]]:
        return db.execute(f"SELECT {columns} FROM {table} ORDER BY {order}")  # noqa: S608 - ours

    snapshot = rows.Snapshot()
    petitions = every(
        "id, owner, number, body, digest, accepted_wall, state, left_s, ended_uptime_s",
        "petition", "number",
    )  # fmt: skip
    for pid, owner, number, body, digest, wall, state, left_s, ended in petitions:
        row = rows.PetitionRow(
            id=pid, owner=owner, number=number, body=body, digest=digest, accepted_wall=wall
        )
        snapshot.petitions.append(row)
        snapshot.states.append(
            rows.PetitionStateRow(id=pid, state=state, left_s=left_s, ended_uptime_s=ended)
        )
    for (record,) in every("record", "image", "petition, number"):
        snapshot.images.append(_IMAGE.decode(record))
    for pid, owner, digest, state, uptime_s in every("*", "tombstone", "uptime_s"):
        snapshot.tombstones.append(
            rows.Tombstone(id=pid, owner=owner, digest=digest, state=state, uptime_s=uptime_s)
        )
    for name, inventory, wall, uptime_s in every("*", "worker", "name"):
        snapshot.workers.append(
            rows.WorkerRow(name=name, inventory=inventory, seen_wall=wall, seen_uptime_s=uptime_s)
        )
    costs = every("record", "cost", "worker, context")
    snapshot.costs = [_COST.decode(record) for (record,) in costs]
    ceilings = every("record", "ceiling", "worker")
    snapshot.ceilings = [_CEILINGS.decode(record) for (record,) in ceilings]
    snapshot.pins = [_PIN.decode(record) for (record,) in every("record", "pin", "petition")]
    inputs = every("petition, blob, size_bytes", "input", "petition, blob")
    snapshot.inputs = [rows.InputRow(*columns) for columns in inputs]
    (snapshot.uptime_s,) = db.execute("SELECT uptime_s FROM clock").fetchone()
    return snapshot
