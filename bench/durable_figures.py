"""What durability costs: the manager with its SQLite store against the same with none.

All sides of a ratio are measured in turn in one run, on the disk of the temporary folder (`TMPDIR`
chooses it). The figures move with the disk, and ext4 makes files slowly for five minutes after many
were deleted, since it takes no inode again so soon: let it rest before a second run.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.fakes import FakeClient
from bench.processes import cpu_s, manager, rss_mib, running
from bench.stats import Figure, Sample
from sdistrib import limits
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib.transport import Dealer, zmq_context
from sdistrib_manager.rows import ImageRow, PetitionRow, PetitionStateRow
from sdistrib_manager.store.files import FileBlobs
from sdistrib_manager.store.sqlite import SqliteStore

#: Workers that do no work; each may hold two images, so that eight pictures are always under way.
_WORKERS = 4
#: Threads in which the disk alone is measured: as many pictures at once are as quick as any.
_THREADS = 4
_PICTURES = {limits.KIB: 2000, limits.MIB: 300}
_PARAMS = Params(prompt="a house on the beach, " * 10, model="fake")
_STORED = 100_000


class _Rate(NamedTuple):
    """How quickly pictures went from workers to a client."""

    per_s: float
    #: Processor microseconds of the manager per picture.
    cpu_us: float


@contextlib.contextmanager
def _folders() -> Iterator[Iterator[Path]]:
    """New folders without end; all go with the block, none before."""
    with tempfile.TemporaryDirectory(prefix="sdistrib-bench-") as temporary:

        def made() -> Iterator[Path]:
            while True:
                yield Path(tempfile.mkdtemp(dir=temporary))

        yield made()


def _store(kind: str, folder: Path) -> tuple[str, ...]:
    return ("--store", "memory") if kind == "memory" else ("--state", str(folder / "state"))


def _rate(kind: str, size_bytes: int, folder: Path) -> _Rate:
    """Pictures from fake workers to one client through a manager of this store."""
    count = _PICTURES[size_bytes]
    with contextlib.ExitStack() as stack:
        farm = stack.enter_context(manager(*_store(kind, folder)))
        for _ in range(_WORKERS):
            where = str(farm.workers)
            stack.enter_context(running("bench.fakes", "fresh-worker", where, str(size_bytes)))
        farm.joined(_WORKERS)
        context = stack.enter_context(zmq_context())
        client = FakeClient(Dealer(context, farm.clients), _PARAMS)
        client.draw(50)
        used_s, began_at = cpu_s(farm.process.pid), time.perf_counter()
        while count > 0:
            count -= len(client.draw(min(count, limits.IMAGES_PER_PETITION_MAX)))
        seconds = time.perf_counter() - began_at
        used_s = cpu_s(farm.process.pid) - used_s
        return _Rate(_PICTURES[size_bytes] / seconds, used_s / _PICTURES[size_bytes] * 1e6)


def _disk_rate(size_bytes: int, folder: Path) -> float:
    """Pictures per second that this disk takes for good, several at a time, by nobody's rules."""
    base, lock = os.urandom(size_bytes), threading.Lock()
    numbers = iter(range(_PICTURES[size_bytes]))

    def write() -> None:
        folder_fd = os.open(folder, os.O_RDONLY)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            scratch = folder / f"{number}.tmp"
            with scratch.open("wb") as file:
                file.write(base)
                file.flush()
                os.fsync(file.fileno())
            scratch.rename(folder / str(number))
            os.fsync(folder_fd)
        os.close(folder_fd)

    threads = [threading.Thread(target=write) for _ in range(_THREADS)]
    began_at = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _PICTURES[size_bytes] / (time.perf_counter() - began_at)


def _rates(rounds: int, size_bytes: int) -> Iterator[Sample]:
    """Durable pictures per second by the smaller of those in memory and those the disk takes."""
    with _folders() as folders:
        for _ in range(rounds):
            ours = _rate("sqlite", size_bytes, next(folders)).per_s
            memory = _rate("memory", size_bytes, next(folders)).per_s
            yield Sample.ratio(ours, min(memory, _disk_rate(size_bytes, next(folders))))


def _cpu(rounds: int, size_bytes: int) -> Iterator[Sample]:
    """The manager's processor time per picture, durable by memory."""
    with _folders() as folders:
        for _ in range(rounds):
            ours = _rate("sqlite", size_bytes, next(folders)).cpu_us
            yield Sample.ratio(ours, _rate("memory", size_bytes, next(folders)).cpu_us)


def _waiting(rounds: int, petitions: int, images: int) -> Iterator[Sample]:
    """KiB of the manager's memory per waiting image, no worker connected."""
    with _folders() as folders:
        for _ in range(rounds):
            with manager(*_store("sqlite", next(folders))) as farm, zmq_context() as context:
                client = FakeClient(Dealer(context, farm.clients), _PARAMS)
                _submit(client, 100, images)
                before = rss_mib(farm.process.pid)
                _submit(client, petitions, images)
                more = rss_mib(farm.process.pid) - before
                yield Sample(more * 1024 / (petitions * images))


def _submit(client: FakeClient, petitions: int, images: int) -> None:
    """Submit and leave; wait until all are accepted, some at a time."""
    body = encode_petition(Petition(params=_PARAMS, seed=0, images=images))
    for begun in range(0, petitions, 100):
        count = min(100, petitions - begun)
        for _ in range(count):
            client.peer.send(wire.Submit(id=uuid.uuid4().hex, detach=True), body)
        while count:
            message = client.peer.receive().message
            assert not isinstance(message, wire.Refused), message
            count -= isinstance(message, wire.Accepted)


def _start(rounds: int) -> Iterator[Sample]:
    """Seconds from the start of a manager that has 100,000 pictures to its first answer."""
    with _folders() as folders:
        folder = next(folders)
        _fill(folder / "state", _STORED)
        for _ in range(rounds):
            began_at = time.perf_counter()
            with manager(*_store("sqlite", folder)) as farm, zmq_context() as context:
                FakeClient(Dealer(context, farm.clients))
                yield Sample(time.perf_counter() - began_at)


def _fill(folder: Path, images: int) -> None:
    """A state folder as a manager leaves it that has kept so many pictures of 1 KB."""
    folder.mkdir()
    FileBlobs(folder / "pictures")
    store = SqliteStore(folder / "state.db")
    body = encode_petition(Petition(params=_PARAMS, seed=0, images=100))
    for number in range(images // 100):
        pid = f"{number:032x}"
        changes: list[Any] = [
            PetitionRow(
                id=pid, owner="local", number=number + 1, body=body, accepted_wall=0.0,
                digest=hashlib.sha256(body).hexdigest(),
            ),
            PetitionStateRow(id=pid, state="done", ended_uptime_s=1.0),
        ]  # fmt: skip
        for index in range(100):
            data = f"{pid} {index} ".encode().ljust(1000)
            digest = hashlib.sha256(data).hexdigest()
            (folder / "pictures" / digest).write_bytes(data)
            result = wire.Result(
                attempt=wire.Attempt(pid, index, 1), seed=index, digest=digest, size_bytes=1000,
                format="png", width=64, height=64, worker="box", fingerprint="0" * 16, context="0",
            )  # fmt: skip
            changes.append(
                ImageRow(id=pid, index=index, state="done", result=result, seen=True, kept=True)
            )
        store.commit(changes)
    store.close()
    os.sync()  # else the manager's first sync would wait for all of it


FIGURES = (
    Figure(
        "durable-1k", "1 KB pictures/s, durable by the smaller of memory store and disk",
        0.4, ">=", "x", "/s", 5, lambda rounds: _rates(rounds, limits.KIB),
    ),
    Figure(
        "durable-1m", "1 MB pictures/s, durable by the smaller of memory store and disk",
        0.7, ">=", "x", "/s", 5, lambda rounds: _rates(rounds, limits.MIB),
    ),
    Figure(
        "durable-cpu-1k", "manager CPU per 1 KB picture, durable by memory store",
        4.0, "<=", "x", "us", 3, lambda rounds: _cpu(rounds, limits.KIB),
    ),
    Figure(
        "durable-cpu-1m", "manager CPU per 1 MB picture, durable by memory store",
        4.0, "<=", "x", "us", 3, lambda rounds: _cpu(rounds, limits.MIB),
    ),
    Figure(
        "durable-memory", "manager's memory per waiting image, petitions of ten",
        2.0, "<=", "KiB", "", 2, lambda rounds: _waiting(rounds, 5000, 10),
    ),
    Figure(
        "durable-memory-1", "manager's memory per waiting petition of one image",
        2.0, "<=", "KiB", "", 2, lambda rounds: _waiting(rounds, 15_000, 1),
    ),
    Figure(
        "durable-start", f"start of a manager with {_STORED:,} stored images, to its first answer",
        10.0, "<=", "s", "", 3, _start,
    ),
)  # fmt: skip
