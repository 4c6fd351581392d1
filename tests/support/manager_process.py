"""A real manager process, and peers made by hand for it from sockets and codec alone."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, Codec, encode, encode_inventory, encode_petition
from sdistrib.transport import Address, Dealer, Watch, zmq_context
from tests.support.farm import ENGINE, MODEL, petition, petition_id

LINE = re.compile(r"^sdistrib-manager: clients (\S+):(\d+), workers (\S+):(\d+)$", re.MULTILINE)
#: Nothing here takes this long unless it hangs.
PATIENCE_S = 40.0


def start(log: Path, *args: str) -> "subprocess.Popen[bytes]":
    """Start a manager; what it says goes to `log`."""
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "sdistrib_manager", "--store", "memory", *args],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )


class Manager:
    """A running manager and the peers that a test has dialled."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._log = folder / "manager.log"
        self._context = stack.enter_context(zmq_context())
        self._watch = Watch()
        self._stack = stack
        self.peers: list[Peer] = []
        self.process = start(self._log, "--client-port", "0", "--worker-port", "0", "-v")
        stack.callback(self._end)
        self.until(lambda: LINE.search(self.log))
        found = LINE.search(self.log)
        assert found
        self.ports = {"client": int(found[2]), "worker": int(found[4])}

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(encoding="utf-8")

    @property
    def rss_bytes(self) -> int:
        """Its resident memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def dial(self, port: str) -> Dealer:
        """A connection of its own, closed with the test."""
        dealer = Dealer(self._context, Address("127.0.0.1", self.ports[port]))
        self._stack.callback(dealer.close)
        self._watch.add(dealer)
        return dealer

    def plain_socket(self, kind: int, port: str) -> Any:
        """A bare ZeroMQ socket, for peers that speak something else."""
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{self.ports[port]}")
        self._stack.callback(socket.close)
        return socket

    def turn(self) -> None:
        """Let every peer read what has come, act and beat."""
        self._watch.wait(0.01)
        for peer in self.peers:
            if not peer.deaf:
                peer.turn()

    def until(self, done: Callable[[], object], seconds: float = PATIENCE_S) -> None:
        """Turn until something is true."""
        deadline = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, f"the manager has ended:\n{self.log}"
            assert time.monotonic() < deadline, f"it did not come to that:\n{self.log[-3000:]}"
            self.turn()

    def until_it_ends(self) -> int:
        """Turn until the process has ended; its exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.log[-3000:]}"
            self.turn()
        return self.process.wait()

    def go_on_for(self, seconds: float) -> None:
        """Turn for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(PATIENCE_S)


@contextmanager
def running_manager(folder: Path) -> Iterator[Manager]:
    """A manager on free ports, ended with everything that was dialled."""
    with ExitStack() as stack:
        yield Manager(folder, stack)


class Peer:
    """One connection that beats and remembers what it was told."""

    port = "client"
    kinds = wire.MANAGER_TO_CLIENT

    def __init__(self, manager: Manager) -> None:
        self.dealer = manager.dial(self.port)
        self.manager = manager
        self.codec = Codec(self.kinds)
        self.got: list[wire.Message] = []
        self.deaf = False
        self._beat_at = 0.0
        manager.peers.append(self)

    def says(self, message: wire.Message, body: Buffer | None = None) -> None:
        """Send, waiting for the connection if need be."""
        frames = encode(message, body)
        deadline = time.monotonic() + PATIENCE_S
        while self.dealer.send(frames) != "sent":
            assert time.monotonic() < deadline, "nobody takes it"
            self.manager._watch.wait(0.01)

    def turn(self) -> None:
        """Read everything, and beat when it is time."""
        while (frames := self.dealer.receive()) is not None:
            received = self.codec.decode(frames)
            self.got.append(received.message)
            self.hears(received.message, received.body)
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + 0.5
            self.dealer.send(encode(wire.Beat()))

    def hears(self, message: wire.Message, body: Buffer) -> None:
        """Act on it."""

    def all(self, kind: type[wire.Message]) -> list[Any]:
        """Everything of one kind that it was told."""
        return [message for message in self.got if type(message) is kind]

    def waits_for(self, kind: type[wire.Message], count: int = 1) -> Any:
        """The newest of a kind, once there are so many."""
        self.manager.until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[-1]


class Client(Peer):
    """Takes pictures and acknowledges them."""

    def __init__(self, manager: Manager) -> None:
        super().__init__(manager)
        self.pictures: dict[tuple[str, int], bytes] = {}
        self.says(wire.ClientHello(protocols=(1,), software="a test"))
        self.waits_for(wire.Welcome)

    def submits(self, number: int, **about: Any) -> str:
        """Send a petition and wait until it is kept."""
        pid = petition_id(number)
        self.says(wire.Submit(id=pid), encode_petition(petition(**about)))
        self.manager.until(lambda: any(accepted.id == pid for accepted in self.all(wire.Accepted)))
        return pid

    def hears(self, message: wire.Message, body: Buffer) -> None:
        """Pictures are kept and acknowledged."""
        if isinstance(message, wire.Result):
            data, key = bytes(body), (message.attempt.id, message.attempt.index)
            assert hashlib.sha256(data).hexdigest() == message.digest
            assert self.pictures.setdefault(key, data) == data
            self.says(wire.ResultSeen(id=key[0], index=key[1]))
        elif isinstance(message, wire.Progress):
            self.says(wire.ProgressSeen(id=message.id))

    def asks(self) -> wire.Answer:
        """The manager's own counts."""
        number = len(self.all(wire.Answer))
        self.says(wire.Ask(number=number, what="status"))
        answer: wire.Answer = self.waits_for(wire.Answer, number + 1)
        return answer


class Worker(Peer):
    """Draws whatever it is granted, one image after the other."""

    port = "worker"
    kinds = wire.MANAGER_TO_WORKER

    def __init__(self, manager: Manager, name: str, draw_s: float = 0.0, size: int = 0) -> None:
        super().__init__(manager)
        self.name = name
        self.draw_s = draw_s
        #: 0 makes each picture its own bytes; else all are the same, of this size.
        self.size = size
        #: How often each image was begun.
        self.begun: Counter[tuple[str, int]] = Counter()
        self._queue: list[wire.Attempt] = []
        self._ready_at = 0.0
        hello = wire.WorkerHello(
            protocols=(1,), software="a test", name=name, engine=ENGINE,
            instance=hashlib.sha256(name.encode()).hexdigest()[:16],
        )  # fmt: skip
        self.says(hello, encode_inventory((MODEL,)))
        self.waits_for(wire.Welcome)

    def hears(self, message: wire.Message, body: Buffer) -> None:
        """Grants are queued, called-off attempts dropped."""
        match message:
            case wire.Grant():
                self._queue += message.attempts
            case wire.Revoke(attempt=attempt):
                begun = attempt not in self._queue[1:]
                if not begun:
                    self._queue.remove(attempt)
                self.says((wire.TooLate if begun else wire.Revoked)(attempt=attempt))
            case wire.Abandon(attempt=attempt) if attempt in self._queue:
                self._queue.remove(attempt)

    def turn(self) -> None:
        """Read, then draw on."""
        super().turn()
        while self._queue:
            attempt = self._queue[0]
            if not self._ready_at:
                self.says(wire.Started(attempt=attempt))
                self.begun[attempt.id, attempt.index] += 1
                self._ready_at = time.monotonic() + self.draw_s
            if time.monotonic() < self._ready_at:
                return
            self._ready_at = 0.0
            self._queue.pop(0)
            data = bytes(self.size) or f"{attempt.id} {attempt.index}".encode()
            self.says(self._result(attempt, data), data)

    def _result(self, attempt: wire.Attempt, data: bytes) -> wire.Result:
        return wire.Result(
            attempt=attempt, seed=100 + attempt.index, format="png", width=64, height=64,
            digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data), worker=self.name,
            fingerprint="f" * 16, context="c",
        )  # fmt: skip
