"""What durability costs: `python -m bench.durable [--rounds N] [--folder DIR] [--json FILE]`.

The manager with its SQLite store against the same one with `--store memory`, turn by turn in one
run, with workers and a client that do no work; what the disk itself can sync; memory per waiting
image; and how soon a manager with 100,000 stored images answers.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Codec, Received, encode, encode_inventory, encode_petition
from sdistrib.transport import Address, Dealer, Watch, zmq_context
from sdistrib_manager.rows import ImageRow, PetitionRow, PetitionStateRow
from sdistrib_manager.store.files import FileBlobs
from sdistrib_manager.store.sqlite import SqliteStore

#: Workers that do no work; each may hold two images, so that eight pictures are always under way.
_WORKERS = 4
#: Threads in which a manager keeps pictures, and in which the disk alone is measured.
_THREADS = 4
#: Nobody waits longer for anything.
_PATIENCE_S = 120.0
_MODEL = ModelFile("stable-diffusion", "fake.safetensors", 1)
_ENGINE = wire.EngineFacts(version="0", backend="fake", device="none", fingerprint="0" * 16)
_LISTENING = re.compile(r"clients (\S+):(\d+), workers (\S+):(\d+)")


class Rate(NamedTuple):
    """How quickly pictures went from workers to a client."""

    per_s: float
    #: Processor milliseconds that the manager used per picture.
    cpu_ms: float


class Figure(NamedTuple):
    """One number, and what it is held against."""

    name: str
    value: float
    #: Smallest and largest of the rounds.
    spread: tuple[float, float]
    limit: float
    #: "at least" or "at most".
    sense: str
    about: str


# --- peers that do no work --------------------------------------------------------------------


class Peer:
    """A Dealer with a codec; it waits, and beats while it does."""

    def __init__(self, dealer: Dealer, kinds: tuple[type[wire.Message], ...]) -> None:
        self._dealer, self._codec, self._watch = dealer, Codec(kinds), Watch()
        self._watch.add(dealer)
        self._beat_at = time.monotonic()

    def send(self, message: wire.Message, body: bytes | None = None) -> None:
        """Send; a connection that is only being made is waited for."""
        while self._dealer.send(encode(message, body)) != "sent":
            time.sleep(0.001)

    def receive(self) -> Received:
        """The next message that is no beat."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            frames = self._dealer.receive()
            if time.monotonic() - self._beat_at > limits.BEAT_S:
                self._beat_at = time.monotonic()
                self.send(wire.Beat())
            if frames is None:
                self._watch.wait(0.5)
                continue
            received = self._codec.decode(frames)
            if not isinstance(received.message, wire.Beat):
                return received
        raise SystemExit("the manager says nothing more")


def worker(address: Address, size_bytes: int) -> None:
    """Answer each grant at once with a picture that nobody else has; for ever."""
    instance = secrets.token_hex(8)
    base = os.urandom(size_bytes)
    with zmq_context() as context:
        peer = Peer(Dealer(context, address), wire.MANAGER_TO_WORKER)
        hello = wire.WorkerHello(
            protocols=(1,), software="bench", name=instance, instance=instance, engine=_ENGINE
        )
        peer.send(hello, encode_inventory((_MODEL,)))
        while True:
            message = peer.receive().message
            for attempt in message.attempts if isinstance(message, wire.Grant) else ():
                head = f"{attempt.id} {attempt.index} ".encode()
                data = head + base[len(head) :]
                result = wire.Result(
                    attempt=attempt, seed=attempt.index, size_bytes=len(data), format="png",
                    digest=hashlib.sha256(data).hexdigest(), width=64, height=64, worker=instance,
                    fingerprint="0" * 16, context="0",
                )  # fmt: skip
                peer.send(wire.Started(attempt=attempt))
                peer.send(result, data)


class Client:
    """Submits, takes pictures, counts."""

    def __init__(self, dealer: Dealer) -> None:
        self.peer = Peer(dealer, wire.MANAGER_TO_CLIENT)
        self.peer.send(wire.ClientHello(protocols=(1,), software="bench"))
        assert isinstance(self.peer.receive().message, wire.Welcome)

    def submit(self, images: int, *, detach: bool = False) -> str:
        """Submit a petition and wait until it is accepted; its id."""
        petition_id = secrets.token_hex(16)
        params = Params(prompt="a house on the beach, " * 10, model="fake")
        body = encode_petition(Petition(params=params, seed=0, images=images))
        self.peer.send(wire.Submit(id=petition_id, detach=detach), body)
        return petition_id

    def take(self, count: int) -> None:
        """Take so many pictures."""
        while count:
            message = self.peer.receive().message
            match message:
                case wire.Result(attempt=attempt):
                    self.peer.send(wire.ResultSeen(id=attempt.id, index=attempt.index))
                    count -= 1
                case wire.Progress(id=petition_id):
                    self.peer.send(wire.ProgressSeen(id=petition_id))
                case wire.Refused(error=error):
                    raise SystemExit(error.sentence())
                case _:
                    pass


# --- processes --------------------------------------------------------------------------------


class Manager(NamedTuple):
    """A running manager."""

    pid: int
    clients: Address
    workers: Address


@contextlib.contextmanager
def _running(*module_and_words: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", *module_and_words],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE if module_and_words[0] == "sdistrib_manager" else None,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _manager(*options: str) -> Iterator[Manager]:
    with _running("sdistrib_manager", "--client-port", "0", "--worker-port", "0", *options) as one:
        assert one.stderr is not None
        for line in one.stderr:
            if found := _LISTENING.search(line):
                break
        else:
            raise SystemExit("the manager did not start")
        # Its log would fill the pipe and stop it.
        drain = threading.Thread(target=_drain, args=(one.stderr,), daemon=True)
        drain.start()
        yield Manager(one.pid, Address(found[1], int(found[2])), Address(found[3], int(found[4])))
    drain.join()
    one.stderr.close()


def _drain(stream: IO[str]) -> None:
    for _ in stream:
        pass


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _store(kind: str, folder: Path) -> tuple[str, ...]:
    return ("--store", "memory") if kind == "memory" else ("--state", str(folder / kind))


# --- measurements -----------------------------------------------------------------------------


def rate(kind: str, size_bytes: int, pictures: int) -> Callable[[Path], Rate]:
    """Measures pictures from fake workers to one client through a manager of this store."""

    def measure(folder: Path) -> Rate:
        with contextlib.ExitStack() as stack:
            manager = stack.enter_context(_manager(*_store(kind, folder)))
            where = f"{manager.workers}"
            for _ in range(_WORKERS):
                stack.enter_context(
                    _running("bench.durable", "--worker", where, "--size", str(size_bytes))
                )
            context = stack.enter_context(zmq_context())
            client = Client(Dealer(context, manager.clients))
            client.submit(50)
            client.take(50)  # everybody is there and warm
            cpu_s, began_at = _cpu_s(manager.pid), time.perf_counter()
            for images in _portions(pictures, limits.IMAGES_PER_PETITION_MAX):
                client.submit(images)
            client.take(pictures)
            seconds = time.perf_counter() - began_at
            return Rate(pictures / seconds, (_cpu_s(manager.pid) - cpu_s) / pictures * 1000)

    return measure


def _portions(total: int, most: int) -> Iterator[int]:
    while total > 0:
        yield min(total, most)
        total -= most


def disk_rate(folder: Path, size_bytes: int, pictures: int) -> float:
    """Pictures per second that this disk takes for good, several at a time, by nobody's rules."""
    target = folder / "disk"
    target.mkdir()
    base = os.urandom(size_bytes)
    numbers = iter(range(pictures))
    lock = threading.Lock()

    def write() -> None:
        folder_fd = os.open(target, os.O_RDONLY)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            scratch = target / f"{number}.tmp"
            with scratch.open("wb") as file:
                file.write(base)
                file.flush()
                os.fsync(file.fileno())
            scratch.rename(target / str(number))
            os.fsync(folder_fd)
        os.close(folder_fd)

    threads = [threading.Thread(target=write) for _ in range(_THREADS)]
    began_at = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return pictures / (time.perf_counter() - began_at)


def memory_per_image(folder: Path, petitions: int, images: int) -> float:
    """Bytes of the manager's memory per waiting image, no worker connected."""
    with (
        _manager("--state", str(folder / f"waiting-{images}")) as manager,
        zmq_context() as context,
    ):
        client = Client(Dealer(context, manager.clients))
        _accept(client, 100, images)
        before = _rss_bytes(manager.pid)
        _accept(client, petitions, images)
        return (_rss_bytes(manager.pid) - before) / (petitions * images)


def _accept(client: Client, petitions: int, images: int) -> None:
    for count in _portions(petitions, 100):
        for _ in range(count):
            client.submit(images, detach=True)
        accepted = 0
        while accepted < count:
            message = client.peer.receive().message
            assert not isinstance(message, wire.Refused), message
            accepted += isinstance(message, wire.Accepted)


def start_s(folder: Path) -> float:
    """Seconds from the start of a manager's process to its first answer."""
    began_at = time.perf_counter()
    with _manager("--state", str(folder)) as manager, zmq_context() as context:
        Client(Dealer(context, manager.clients))
        return time.perf_counter() - began_at


def fill(folder: Path, images: int) -> None:
    """A state folder as a manager leaves it that has kept so many pictures of 1 KB."""
    folder.mkdir()
    FileBlobs(folder / "pictures")
    store = SqliteStore(folder / "state.db")
    params = Params(prompt="a house on the beach, " * 10, model="fake")
    body = encode_petition(Petition(params=params, seed=0, images=100))
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


# --- figures ----------------------------------------------------------------------------------


def _small(rounds: int, new: Callable[[], Path]) -> list[Figure]:
    pairs = [
        (rate("sqlite", 1000, 2000)(new()), rate("memory", 1000, 2000)(new()))
        for _ in range(rounds)
    ]
    shares = [ours.per_s / theirs.per_s for ours, theirs in pairs]
    ours, theirs = pairs[len(pairs) // 2]
    about = (
        f"{ours.per_s:.0f}/s and {ours.cpu_ms:.2f} ms of CPU each against"
        f" {theirs.per_s:.0f}/s and {theirs.cpu_ms:.2f} ms"
    )
    return [_figure("1 KB pictures, durable / memory", shares, 0.4, "at least", about)]


def _large(rounds: int, new: Callable[[], Path]) -> list[Figure]:
    size_bytes, shares, about = 1_000_000, [], ""
    for _ in range(rounds):
        ours = rate("sqlite", size_bytes, 300)(new())
        theirs = rate("memory", size_bytes, 300)(new())
        disk = disk_rate(new(), size_bytes, 300)
        shares.append(ours.per_s / min(theirs.per_s, disk))
        about = (
            f"{ours.per_s:.0f}/s and {ours.cpu_ms:.1f} ms of CPU each against memory"
            f" {theirs.per_s:.0f}/s and {theirs.cpu_ms:.1f} ms, disk {disk:.0f}/s"
        )
    name = "1 MB pictures, durable / min(memory, disk)"
    return [_figure(name, shares, 0.7, "at least", about)]


def _memory(rounds: int, new: Callable[[], Path]) -> list[Figure]:
    ten = [memory_per_image(new(), 5000, 10) for _ in range(rounds)]
    one = [memory_per_image(new(), 15_000, 1) for _ in range(rounds)]
    about = "petitions of 10 images; a prompt of 220 characters"
    return [
        _figure("bytes per waiting image", ten, 2048, "at most", about),
        _figure("bytes per waiting petition of one image", one, 2048, "at most", ""),
    ]


def _start(rounds: int, new: Callable[[], Path]) -> list[Figure]:
    folder = new() / "state"
    empty = [start_s(new() / "empty") for _ in range(rounds)]
    fill(folder, 100_000)
    times = [start_s(folder) for _ in range(rounds)]
    about = f"{statistics.median(empty):.2f} s with none"
    return [_figure("seconds to the first answer, 100,000 stored", times, 10, "at most", about)]


def _figure(name: str, values: list[float], limit: float, sense: str, about: str) -> Figure:
    spread = (min(values), max(values))
    return Figure(name, statistics.median(values), spread, limit, sense, about)


def main() -> None:
    """Measure and print; with `--worker`, be a fake worker instead."""
    parser = argparse.ArgumentParser(prog="python -m bench.durable", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=1000, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        host, _, port = arguments.worker.rpartition(":")
        worker(Address(host, int(port)), arguments.size)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="durable-", dir=arguments.folder) as temporary:
        counter = iter(range(10_000))

        def new() -> Path:
            folder = Path(temporary) / str(next(counter))
            folder.mkdir()
            return folder

        for part in (_small, _large, _memory, _start):
            for figure in part(arguments.rounds, new):
                figures.append(figure)
                low, high = figure.spread
                print(
                    f"{figure.name}: {figure.value:.2f} ({low:.2f} to {high:.2f},"
                    f" {figure.sense} {figure.limit:g})  {figure.about}",
                    flush=True,
                )
    if arguments.json is not None:
        text = json.dumps([figure._asdict() for figure in figures], indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
