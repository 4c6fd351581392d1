"""Rows, stores and disks for the tests of what is kept."""

import contextlib
import hashlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdistrib.errors import ErrorInfo
from sdistrib.protocol.messages import Attempt, Result
from sdistrib_manager import rows
from sdistrib_manager.store.memory import MemoryStore
from sdistrib_manager.store.sqlite import SqliteStore

CANARY = b"a lighthouse that nobody else may know of"


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def again(self) -> MemoryStore:
        return self.store


class OnDisk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = SqliteStore(path)

    def again(self) -> SqliteStore:
        self.store.close()
        self.store = SqliteStore(self.path)
        return self.store


def pid(number: int) -> str:
    return f"{number:032x}"


def petition(which: int = 1, **more: Any) -> rows.PetitionRow:
    facts: dict[str, Any] = {
        "id": pid(which), "owner": "local", "number": which, "body": b"\x81\xa1" + CANARY,
        "digest": hashlib.sha256(CANARY).hexdigest(), "accepted_wall": 1.75e9,
    }  # fmt: skip
    return rows.PetitionRow(**{**facts, **more})


def result(number: int = 1, index: int = 0, data: bytes = b"picture") -> Result:
    return Result(
        attempt=Attempt(pid(number), index, 3), seed=2**63 - 2, size_bytes=len(data),
        digest=hashlib.sha256(data).hexdigest(), format="png", width=64, height=96,
        worker="gpu1", fingerprint="f" * 16, context="c" * 64, load_s=0.25, draw_s=1e-9,
        notes=("rounded up",),
    )  # fmt: skip


def image(number: int = 1, index: int = 0, **more: Any) -> rows.ImageRow:
    return rows.ImageRow(**{"id": pid(number), "index": index, "state": "leased", **more})


def whole_image() -> rows.ImageRow:
    """An image row with everything in it."""
    return image(
        state="done",
        issued=(rows.IssuedRow(1, "0" * 16, "gpu1", False), rows.IssuedRow(2, "1" * 16, "é", True)),
        failures=(
            ErrorInfo(code="engine_crashed", message="it broke", signal="SIGSEGV", log_tail=("x",)),
        ),
        losses=2,
        result=result(),
        seen=True,
        kept=True,
    )


def state_row(number: int = 1, **more: Any) -> rows.PetitionStateRow:
    return rows.PetitionStateRow(**{"id": pid(number), "state": "running", **more})


def stone(number: int = 1, **more: Any) -> rows.Tombstone:
    facts: dict[str, Any] = {
        "id": pid(number), "owner": "local", "digest": "", "state": "cancelled", "uptime_s": 5.5,
    }  # fmt: skip
    return rows.Tombstone(**{**facts, **more})


WORKER = rows.WorkerRow(
    name="gpu\0one é", inventory=bytes(range(256)), seen_wall=1e9, seen_uptime_s=7
)


COST = rows.CostRow(
    worker="gpu1 é", context="c" * 32, load_s=(12.5, 1e-9),
    step_s=((4096, (0.1, 0.2)), (262_144, (0.5,))), rest_s=((4096, (0.0,)),),
)  # fmt: skip


CEILINGS = rows.CeilingsRow(
    worker="gpu1 é", settings="a" * 32,
    ceilings=(rows.CeilingRow("c" * 32, True, 2**33), rows.CeilingRow("c" * 32, False, 1)),
)  # fmt: skip


def pin(number: int = 1, **more: Any) -> rows.PinRow:
    facts: dict[str, Any] = {"id": pid(number), "contents": (("a" * 64, 14), ("", 2**40))}
    return rows.PinRow(**{**facts, **more})


def named(number: int = 1, data: bytes = b"input") -> rows.InputRow:
    return rows.InputRow(pid(number), hashlib.sha256(data).hexdigest(), len(data))


def plain(snapshot: rows.Snapshot) -> dict[str, Any]:
    """A snapshot in a form that can be compared: memoryviews become bytes, order is by key."""
    return {
        "petitions": {
            row.id: (row.owner, row.number, bytes(row.body), row.digest, row.accepted_wall)
            for row in snapshot.petitions
        },
        "states": {row.id: row for row in snapshot.states},
        "images": {(row.id, row.index): row for row in snapshot.images},
        "tombstones": {row.id: row for row in snapshot.tombstones},
        "workers": {row.name: row for row in snapshot.workers},
        "costs": {(row.worker, row.context): row for row in snapshot.costs},
        "ceilings": {row.worker: row for row in snapshot.ceilings},
        "pins": {row.id: row for row in snapshot.pins},
        "inputs": snapshot.inputs,
        "uptime_s": snapshot.uptime_s,
    }


@contextlib.contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond `most_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def grep(folder: Path, needle: bytes) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if needle in path.read_bytes()]
