"""Kills a process that writes pictures and rows, again and again, and looks at what is left.

    python -m tests.soak.writer FOLDER --kills 50 --seed 1

Each round forks a writer that opens the store, keeps pictures and commits rows, and tells through a
pipe what it has promised. It dies by SIGKILL at a chosen place, or at no chosen place at all: then
the signal comes from outside after a random time. Afterwards the folder must open clean, with
everything promised in it. Prints one JSON object; exits 1 with the reason when a promise is broken.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from sdistrib.protocol.messages import Attempt, Result
from sdistrib_manager.rows import Forget, ImageRow, PetitionRow
from sdistrib_manager.store.files import FileBlobs
from sdistrib_manager.store.sqlite import SqliteStore

#: Where a writer can die; the last is wherever it happens to be.
PLACES = (
    "picture written", "picture synced", "picture renamed", "folder synced",
    "BEGIN", "INSERT", "COMMIT", "committed", "anywhere",
)  # fmt: skip


#: A petition is forgotten in the commit that brings the one so many numbers later.
BEHIND = 7


def petition_id(number: int) -> str:
    """The id of the petition of this number."""
    return f"{number:032x}"


def picture(number: int) -> bytes:
    """The picture of this number, of some KiB."""
    return hashlib.shake_256(str(number).encode()).digest(1000 + number * 997 % 50_000)


class Writer:
    """The child's part. Dies at the n-th visit to its place."""

    def __init__(self, folder: Path, place: str, visits: int, promises: int) -> None:
        self._folder, self._place, self._left, self._pipe = folder, place, visits, promises

    def run(self) -> NoReturn:
        """Write until death."""
        self._hook()
        blobs, store = FileBlobs(self._folder / "pictures"), SqliteStore(self._folder / "state.db")
        store._connection().set_trace_callback(lambda text: self._at(text.split(None, 1)[0]))
        number = max((row.number for row in store.load().petitions), default=0)
        while True:
            number += 1
            data = picture(number)
            digest = hashlib.sha256(data).hexdigest()
            blobs.put(digest, [data[:500], data[500:]])
            forget = Forget(petition_id(number - BEHIND)) if number > BEHIND else None
            store.commit([*_rows(number, digest, len(data)), *([forget] if forget else [])])
            self._at("committed")
            os.write(self._pipe, f"{number}\n".encode())

    def _at(self, place: str) -> None:
        if place == self._place:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def _hook(self) -> None:
        fsync, replace = os.fsync, os.replace

        def hooked_fsync(fd: int) -> None:
            what = "folder" if Path(f"/proc/self/fd/{fd}").is_dir() else "picture"
            if what == "picture":
                self._at("picture written")
            fsync(fd)
            self._at(f"{what} synced")

        def hooked_replace(source: Any, target: Any) -> None:
            replace(source, target)
            self._at("picture renamed")

        os.fsync, os.replace = hooked_fsync, hooked_replace


def _rows(number: int, digest: str, size_bytes: int) -> list[PetitionRow | ImageRow]:
    pid = petition_id(number)
    result = Result(
        attempt=Attempt(pid, 0, 1), seed=number, digest=digest, size_bytes=size_bytes, format="png",
        width=64, height=64, worker="w", fingerprint="0" * 16, context="0",
    )  # fmt: skip
    petition = PetitionRow(
        id=pid, owner="local", number=number, body=bytes(500), digest=digest, accepted_wall=0.0
    )
    return [petition, ImageRow(id=pid, index=0, state="done", result=result, kept=True)]


def one_kill(folder: Path, place: str, chance: random.Random) -> set[int]:
    """Fork a writer, have it die; the numbers that it promised."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        with contextlib.suppress(BaseException):  # never back into the parent's code
            Writer(folder, place, chance.randint(1, 6), write).run()
        os._exit(3)
    os.close(write)
    if place == "anywhere":
        time.sleep(chance.uniform(0.005, 0.08))  # the moment is the test's input
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as pipe:
        promised = {int(line) for line in pipe if line.endswith("\n")}
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise AssertionError(f"the writer ended by itself with {os.waitstatus_to_exitcode(status)}")
    return promised


def check(folder: Path, promised: set[int]) -> None:
    """Raise AssertionError, saying what is broken in the folder."""
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as db:
        found = db.execute("PRAGMA integrity_check").fetchall()
        assert found == [("ok",)], f"integrity_check: {found}"
        assert not db.execute("PRAGMA foreign_key_check").fetchall(), "an image without petition"
    blobs, store = FileBlobs(folder / "pictures"), SqliteStore(folder / "state.db")
    snapshot = store.load()
    store.close()
    there = {row.number for row in snapshot.petitions}
    newest = max(there, default=0)
    # Each commit brings one number and takes one, so that a commit that is half there shows.
    whole = set(range(max(1, newest - BEHIND + 1), newest + 1))
    assert there == whole, f"a commit is half there: {sorted(there ^ whole)}"
    assert max(promised, default=0) <= newest, f"{max(promised)} was promised, {newest} is newest"
    assert {row.id for row in snapshot.images} == {row.id for row in snapshot.petitions}
    for row in snapshot.images:
        assert row.result is not None
        assert bytes(blobs.view(row.result.digest)) == picture(int(row.id, 16))


def main() -> None:
    """Kill, look, repeat."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.writer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    promised: set[int] = set()
    places = dict.fromkeys(PLACES, 0)
    for number in range(arguments.kills):
        place = PLACES[number // 2 % len(PLACES)] if number % 2 else "anywhere"
        places[place] += 1
        promised |= one_kill(arguments.folder, place, chance)
        try:
            check(arguments.folder, promised)
        except AssertionError as error:
            sys.exit(f"after kill {number} (at {place!r}, seed {arguments.seed}): {error}")
    report = {"kills": arguments.kills, "promised": len(promised), "places": places}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
