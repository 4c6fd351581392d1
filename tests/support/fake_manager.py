"""The manager's end of a real socket, driven by a test; and real worker processes to meet it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sdistrib import limits
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, Codec, encode, encode_petition
from sdistrib.transfer import Incoming
from sdistrib.transport import Address, Router, Watch, zmq_context

M = TypeVar("M", bound=wire.Message)
ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join(str(ROOT / part) for part in (".", "manager", "worker", "client"))
#: How long a test waits for what must come.
DEADLINE_S = 40.0


def attempt(index: int = 0, number: int = 1, petition: int = 1) -> wire.Attempt:
    """A recognisable attempt."""
    return wire.Attempt(f"{petition:032x}", index, number)


class FakeManager:
    """Says what the test says, beats by itself, and keeps all it hears."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._codec = Codec(wire.WORKER_TO_MANAGER)
        self._watch = Watch()
        self._watch.add(router)
        self._beat_at = 0.0
        self.route = b""
        self.heard: list[tuple[wire.Message, Buffer]] = []
        #: While False, nothing is said unasked: no beats, no welcome.
        self.polite = True

    @property
    def host(self) -> str:
        """What a worker dials."""
        return f"127.0.0.1:{self._router.port}"

    def say(self, message: wire.Message, body: Buffer | None = None) -> None:
        """Send to the worker that said hello last."""
        assert self._router.send(self.route, encode(message, body)) == "sent"

    def grant(self, *attempts: wire.Attempt, seed: int = 100, **params: Any) -> None:
        """Grant attempts at images of one petition."""
        wishes = {"prompt": "a house", "model": "tiny", "width": 64, "height": 64, "steps": 4}
        petition = Petition(params=Params(**{**wishes, **params}), seed=seed, images=1000)
        self.say(wire.Grant(attempts=attempts), encode_petition(petition))

    def listen(self, timeout_s: float) -> None:
        """Take in what comes within this time, or the first of it."""
        now = time.monotonic()
        if self.polite and self.route and now >= self._beat_at:
            self._beat_at = now + limits.BEAT_S
            self._router.send(self.route, encode(wire.Beat()))
        self._watch.wait(min(timeout_s, limits.BEAT_S / 2))
        while (received := self._router.receive()) is not None:
            route, frames = received
            got = self._codec.decode(frames)
            self.heard.append((got.message, got.body))
            if isinstance(got.message, wire.WorkerHello):
                self.route = route
                if self.polite:
                    self.say(wire.Welcome(protocol=1, software="fake manager"))
            elif self.polite and route != self.route:
                self._router.send(route, encode(wire.Identify()))

    def until(self, kind: type[M], wanted: Callable[[M], bool] = lambda message: True) -> M:
        """Wait for a message; it and all before it are taken out of `heard`."""
        deadline = time.monotonic() + DEADLINE_S
        looked_at = 0
        while True:
            for place, (message, body) in enumerate(self.heard[looked_at:], looked_at):
                if isinstance(message, kind) and wanted(message):
                    del self.heard[: place + 1]
                    self.body = body
                    return message
            looked_at = len(self.heard)
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"no {kind.__name__}; heard {[m for m, _ in self.heard]}"
            self.listen(left_s)

    def picture(self, of: wire.Attempt) -> tuple[wire.Result, bytes]:
        """Wait for a result, take its pieces with credit, record it."""
        result = self.until(wire.Result, lambda message: message.attempt == of)
        data = bytes(self.body)
        if not data:
            whole = Incoming(result.digest, result.size_bytes)
            complete = False
            while not complete:
                piece = self.until(wire.Chunk, lambda message: message.digest == result.digest)
                complete = whole.take(piece.offset, self.body)
                self.say(wire.ChunkSeen(digest=result.digest, offset=whole.received))
            data = b"".join(bytes(part) for part in whole.parts())
        self.say(wire.ResultRecorded(attempt=of))
        return result, data

    def failure(self, of: wire.Attempt) -> wire.Failed:
        """Wait for a failure."""
        return self.until(wire.Failed, lambda message: message.attempt == of)


@contextmanager
def fake_manager(port: int = 0) -> Iterator[FakeManager]:
    """A bound manager."""
    with zmq_context() as context:
        router = Router(context, Address("127.0.0.1", port))
        try:
            yield FakeManager(router)
        finally:
            router.close()


class WorkerProcess:
    """A real worker process on the scripted engine."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: dict[str, str] | None = None,
        module: str = "tests.support.scripted_worker",
        **more: Any,
    ) -> None:
        self._log = (folder / f"worker-{time.monotonic_ns()}.log").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": PYTHONPATH,
                "XDG_CACHE_HOME": str(folder / "cache"),
                **(environment or {}),
            },
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            **more,
        )

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has written so far."""
        return Path(self._log.name).read_text()

    def children(self) -> list[int]:
        """Process ids of its children, the engine that is."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def engine(self) -> int:
        """Process id of the engine child, once there is one."""
        return wait_for(self.children, "an engine child")[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker."""
        self.process.send_signal(number)

    def exit_status(self) -> int:
        """Wait for its end."""
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()


T = TypeVar("T")


def wait_for(look: Callable[[], T], what: str) -> T:
    """Look until there is something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"no {what} within {DEADLINE_S:g} s"
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
