"""Persist, then speak: the order in which a manager writes, syncs, renames, commits and sends.

Seen from inside by a loop whose calls are recorded, and, where strace may look into a process, from
outside as the kernel sees it, SQLite's and ZeroMQ's own calls included.
"""

import hashlib
import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from sdistrib.errors import StoreError
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, Codec, encode, encode_inventory, encode_petition
from sdistrib.transport import Address, Router, SendOutcome, zmq_context
from sdistrib_manager.loop import Loop
from sdistrib_manager.rows import ImageRow, InputRow, PetitionRow
from sdistrib_manager.state import Settings
from sdistrib_manager.storage import open_folder
from tests.support.cluster import PATIENCE_S, Process, cluster, wait_for
from tests.support.farm import ENGINE, MODEL, petition, petition_id
from tests.support.input_files import FILE, digest_of, with_files
from tests.support.rights import needs

Trace = list[str]


class Peer(Router):
    """A port with one peer, whose words the test puts in and whose answers are recorded."""

    def __init__(self, context: Any, kinds: tuple[type[wire.Message], ...], trace: Trace) -> None:
        super().__init__(context, Address("127.0.0.1", 0))
        self.says: deque[list[Buffer]] = deque()
        self.heard: list[wire.Message] = []
        self._codec = Codec(kinds)
        self._trace = trace

    def receive(self) -> tuple[bytes, list[Buffer]] | None:
        return (b"\0peer", self.says.popleft()) if self.says else None

    def send(self, route: bytes, frames: list[Buffer]) -> SendOutcome:
        message = self._codec.decode(frames).message
        self.heard.append(message)
        self._trace.append(f"send {wire.verb(type(message))}")
        return "sent"

    def last(self, kind: type[Any]) -> Any:
        return next((m for m in reversed(self.heard) if isinstance(m, kind)), None)


class Inside:
    """A loop in this process, its disk calls and sends recorded in order."""

    def __init__(self, folder: Path, context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trace: Trace = []
        self.commits = 0
        self.client = Peer(context, wire.MANAGER_TO_CLIENT, self.trace)
        self.worker = Peer(context, wire.MANAGER_TO_WORKER, self.trace)
        storage = open_folder(Settings("sdistrib test"), folder)
        self._record(monkeypatch, storage.store)
        self.storage = storage
        self.loop = Loop(storage, {"client": self.client, "worker": self.worker})

    def _record(self, monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
        fsync, replace, commit = os.fsync, os.replace, store.commit

        def recorded_fsync(fd: int) -> None:
            fsync(fd)
            self.trace.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink()}")

        def recorded_replace(source: Any, target: Any) -> None:
            replace(source, target)
            self.trace.append(f"rename {target}")

        def recorded_commit(changes: Any) -> None:
            commit(changes)
            self.commits += 1
            for row in changes:
                if isinstance(row, PetitionRow | ImageRow | InputRow):
                    state = row.state if isinstance(row, ImageRow) else ""
                    self.trace.append(f"commit {type(row).__name__} {state}")

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "replace", recorded_replace)
        monkeypatch.setattr(store, "commit", recorded_commit)

    def until(self, peer: Peer, kind: type[Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while peer.last(kind) is None:
            assert time.monotonic() < deadline, f"no {kind.__name__} in {self.trace}"
            self.loop.turn()
        return peer.last(kind)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    with zmq_context() as context:
        made = Inside(tmp_path, context, monkeypatch)
        yield made
        made.loop._running = False
        made.loop.run()  # closes what it holds


def _in_order(trace: Trace, *wanted: str) -> None:
    """Each of these patterns is found, and first found in this order."""
    places = [next((i for i, line in enumerate(trace) if re.search(w, line)), -1) for w in wanted]
    story = "\n".join(trace)
    assert -1 not in places, f"{dict(zip(wanted, places, strict=True))} in\n{story}"
    assert places == sorted(places), f"{dict(zip(wanted, places, strict=True))} in\n{story}"


def test_nothing_is_said_before_it_is_on_the_disk(inside: Inside) -> None:
    client, worker = inside.client, inside.worker
    client.says.append(encode(wire.ClientHello(protocols=(1,), software="test")))
    client.says.append(encode(wire.Submit(id=petition_id(1)), encode_petition(petition())))
    inside.until(client, wire.Accepted)
    _in_order(inside.trace, "commit PetitionRow", "send ACCEPTED")
    hello = wire.WorkerHello(
        protocols=(1,), software="test", name="gpu1", instance="0" * 16, engine=ENGINE
    )
    files: tuple[ModelFile, ...] = (MODEL,)
    worker.says.append(encode(hello, encode_inventory(files)))
    (attempt,) = inside.until(worker, wire.Grant).attempts
    # The attempt's number is on the disk before a worker hears of it.
    _in_order(inside.trace, "commit ImageRow leased", "send GRANT")
    data = b"a picture"
    digest = hashlib.sha256(data).hexdigest()
    worker.says.append(encode(wire.Started(attempt=attempt)))
    result = wire.Result(
        attempt=attempt, seed=100, digest=digest, size_bytes=len(data), format="png", width=64,
        height=64, worker="gpu1", fingerprint="f" * 16, context="c",
    )  # fmt: skip
    worker.says.append(encode(result, data))
    inside.until(client, wire.Result)
    for promise in ("send RESULT_RECORDED", "send RESULT$"):
        _in_order(
            inside.trace,
            f"fsync .*/tmp/{digest}",
            f"rename .*/pictures/{digest}$",
            "fsync .*/pictures$",
            "commit ImageRow done",
            promise,
        )


def test_no_petition_is_accepted_before_its_input_file_is_on_the_disk(inside: Inside) -> None:
    client, digest = inside.client, digest_of(FILE)
    body = encode_petition(with_files(petition(), FILE))
    client.says.append(encode(wire.ClientHello(protocols=(1,), software="test")))
    client.says.append(encode(wire.Submit(id=petition_id(1)), body))
    assert inside.until(client, wire.Need).digests == (digest,)
    client.says.append(encode(wire.Chunk(digest=digest, offset=0), FILE))
    inside.until(client, wire.Accepted)
    _in_order(
        inside.trace,
        "send NEED",
        f"fsync .*/tmp/{digest}",
        f"rename .*/pictures/{digest}$",
        "fsync .*/pictures$",
        "commit PetitionRow",
        "commit InputRow",
        "send ACCEPTED",
    )
    assert inside.storage.store.used_blobs() == {digest}


def _submits(client: Peer, numbers: range) -> None:
    body = encode_petition(petition())
    client.says += [encode(wire.Submit(id=petition_id(number)), body) for number in numbers]


def test_all_that_a_turn_took_in_is_one_transaction(inside: Inside) -> None:
    inside.client.says.append(encode(wire.ClientHello(protocols=(1,), software="test")))
    inside.until(inside.client, wire.Welcome)
    _submits(inside.client, range(1, 21))
    before = inside.commits
    inside.loop.turn()
    assert inside.commits == before + 1
    assert inside.trace.count("send ACCEPTED") == 20
    assert inside.trace.count("commit PetitionRow ") == 20
    assert inside.trace.index("send ACCEPTED") > max(
        at for at, line in enumerate(inside.trace) if line.startswith("commit")
    )


def test_a_turn_that_is_not_kept_is_not_spoken_of(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = inside.client
    client.says.append(encode(wire.ClientHello(protocols=(1,), software="test")))
    inside.until(client, wire.Welcome)
    with monkeypatch.context() as trouble:

        def refuses(_: Any) -> None:
            raise StoreError("the disk is on fire")

        trouble.setattr(inside.storage.store, "commit", refuses)
        _submits(client, range(1, 4))
        inside.loop.turn()
        assert not client.last(wire.Accepted)
    # As after a restart: nothing of that turn is known, and it may be sent again.
    assert not inside.storage.store.load().petitions
    client.says.append(encode(wire.ClientHello(protocols=(1,), software="test")))
    _submits(client, range(1, 2))
    inside.until(client, wire.Refused)
    assert client.last(wire.Refused).error.code == "busy"


# --- from outside -----------------------------------------------------------------------------


class Strace:
    """Looks at the system calls of a running process."""

    CALLS = "fsync,fdatasync,rename,renameat,renameat2,pwrite64,sendto,sendmsg,write,writev"

    def __init__(self, process: Process, path: Path) -> None:
        command = ["strace", "-f", "-y", "-s", "9000", "-e", f"trace={self.CALLS}"]
        self._popen = subprocess.Popen(
            [*command, "-o", str(path), "-p", str(process.pid)], stderr=subprocess.PIPE, text=True
        )
        self._path = path
        assert self._popen.stderr is not None
        assert "attached" in self._popen.stderr.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.terminate()
        self._popen.wait()
        assert self._popen.stderr is not None
        self._popen.stderr.close()

    def lines(self) -> Trace:
        """Calls in order. A send or write counts when it begins, a sync or rename when it ends."""
        begun: dict[str, str] = {}
        found: Trace = []
        for line in self._path.read_text(errors="replace").splitlines():
            thread, _, call = line.partition(" ")
            call = call.strip()
            if call.endswith("<unfinished ...>"):
                if re.match(r"fsync|fdatasync|rename", call):
                    begun[thread] = call.removesuffix("<unfinished ...>")
                else:
                    found.append(call)
            elif call.startswith("<... "):
                if thread in begun:
                    found.append(begun.pop(thread))
            else:
                found.append(call)
        return found


def _world(models_dir: Path, tmp_path: Path) -> Trace:
    with cluster("--state", str(tmp_path / "state")) as farm:
        farm.worker(models_dir, scripted=True)
        with Strace(farm.manager, tmp_path / "trace") as strace:
            drawn = farm.draw(
                "-m", "tiny", "-p", "a lighthouse", "-W", "64", "-H", "64",
                "-o", str(tmp_path / "out.png"),
            )  # fmt: skip
            assert drawn.popen.returncode == 0, drawn.errors
            wait_for(lambda: "RESULT_RECORDED" in "".join(strace.lines()), "the worker's answer")
        return strace.lines()


@pytest.mark.process
@pytest.mark.timeout(120)
@needs("a look into other processes", ("strace", "-o", os.devnull, "true"), "strace")
def test_the_kernel_sees_the_same_order(models_dir: Path, tmp_path: Path) -> None:
    trace = _world(models_dir, tmp_path)
    digest = hashlib.sha256((tmp_path / "out.png").read_bytes()).hexdigest()
    accepted = _first(trace, 0, r"^pwrite64\(\d+<\S+state\.db-wal>.*a lighthouse")
    accepted = _first(trace, accepted, r"^fdatasync\(\d+<\S+state\.db-wal>")
    assert accepted < _first(trace, 0, r"^send.*\\1ACCEPTED"), "accepted before it was kept"
    at = _first(trace, 0, rf"^fsync\(\d+<\S+/tmp/{digest}")
    at = _first(trace, at, rf"^rename\w*\(.*/tmp/{digest}.*/pictures/{digest}\"")
    at = _first(trace, at, r"^fsync\(\d+<\S+/pictures>")
    assert at < _first(trace, 0, rf"^pwrite64\(\d+<\S+state\.db-wal>.*{digest}"), "row before blob"
    at = _first(trace, at, rf"^pwrite64\(\d+<\S+state\.db-wal>.*{digest}")
    at = _first(trace, at, r"^fdatasync\(\d+<\S+state\.db-wal>")
    assert at < _first(trace, 0, "^send.*RESULT_RECORDED"), "recorded before it was kept"
    assert at < _first(trace, 0, r"^send.*\\1RESULT\\"), "delivered before it was kept"


def _first(trace: Trace, after: int, pattern: str) -> int:
    found = next((i for i in range(after, len(trace)) if re.search(pattern, trace[i])), None)
    story = "\n".join(line[:160] for line in trace)
    assert found is not None, f"no {pattern!r} after line {after} of\n{story}"
    return found
