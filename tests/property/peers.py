"""Honest but unreliable peers of a manager's machine, on wires that lag, break and lose.

What the manager sends waits in the peer's inbox until the peer reads; what a peer says on a wire
that is broken is lost, whether the peer knows it or not.
"""

import hashlib
from collections import deque
from typing import Any

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_inventory, encode_petition
from sdistrib.transfer import Incoming, Outgoing
from sdistrib_manager import effects as fx
from sdistrib_manager.events import (
    BlobFailed,
    BlobStored,
    Event,
    MessageArrived,
    PeerFull,
    PeerGone,
    TurnEnded,
)
from sdistrib_manager.invariants import check_invariants
from sdistrib_manager.machine import Manager
from sdistrib_manager.rows import ImageRow
from sdistrib_manager.state import Settings
from tests.support.farm import ENGINE, petition


class Line:
    """One connection as the manager knows it."""

    def __init__(self, port: str, route: bytes) -> None:
        self.port = port
        self.route = route
        self.open = True
        self.full = False
        self.inbox: deque[tuple[wire.Message, bytes]] = deque()


class Net:
    """The machine, its clock, its blobs and its wires."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.manager = Manager(Settings("sdistrib test", **settings), self.now)
        self.lines: dict[bytes, Line] = {}
        self.blobs: dict[str, bytes] = {}
        #: "now", "later" or "fails".
        self.disk = "now"
        self.unstored: list[fx.PutBlob] = []
        self.pending: deque[Event] = deque()
        #: Digests of the images that were recorded, and of those that clients got.
        self.recorded: dict[tuple[str, int], str] = {}
        self.delivered: dict[tuple[str, int], str] = {}
        #: The end of each image.
        self.ends: dict[tuple[str, int], str] = {}

    def dial(self, port: str) -> Line:
        route = b"\0" + (len(self.lines) + 1).to_bytes(4, "big")
        self.lines[route] = Line(port, route)
        return self.lines[route]

    def event(self, event: Event) -> None:
        """One event; its effects are carried out as the loop does."""
        for effect in self.manager.handle(event, self.now):
            self._carry_out(effect)
        check_invariants(self.manager)

    def turn(self, after_s: float = 0.0) -> None:
        self.now += after_s
        while self.pending:
            self.event(self.pending.popleft())
        self.event(TurnEnded())

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(_, route, message, body):
                self._send(route, message, bytes(body or b""))
            case fx.SendPicture():
                piece = self.blobs[effect.digest][effect.start : effect.end]
                self._send(effect.route, effect.message, piece)
            case fx.PutBlob():
                self.unstored.append(effect)
                if self.disk != "later":
                    self.flush()
            case fx.DropBlob(digest):
                self.blobs.pop(digest, None)
            case fx.Keep(row=ImageRow() as row):
                self._keep(row)
            case _:
                pass

    def _send(self, route: bytes, message: wire.Message, body: bytes) -> None:
        line = self.lines[route]
        if not line.open:
            self.pending.append(PeerGone(line.port, route))  # type: ignore[arg-type]
        elif line.full:
            self.pending.append(PeerFull(line.port, route))  # type: ignore[arg-type]
        else:
            line.inbox.append((message, body))

    def flush(self) -> None:
        """The disk answers."""
        puts, self.unstored = self.unstored, []
        for put in puts:
            if self.disk == "fails":
                self.pending.append(BlobFailed(put.digest, "no space left"))
            else:
                self.blobs[put.digest] = b"".join(put.parts)
                self.pending.append(BlobStored(put.digest))

    def _keep(self, keep: ImageRow) -> None:
        key = (keep.id, keep.index)
        # An image that has ended is kept again when its picture was seen, and never otherwise.
        ended = self.ends.get(key, keep.state)
        assert ended == keep.state, f"{key} was {ended} and is now {keep.state}"
        if keep.state in ("done", "failed", "cancelled"):
            self.ends[key] = keep.state
        if keep.result is not None and keep.kept:
            assert self.recorded.setdefault(key, keep.result.digest) == keep.result.digest
            assert keep.result.digest in self.blobs, "recorded before it was kept"


class Peer:
    """One end of a line, which can be replaced by a new one."""

    port = "client"

    def __init__(self, net: Net) -> None:
        self.net = net
        self.line = net.dial(self.port)
        #: Says no beats and reads nothing.
        self.silent = False
        #: Reads only when told to.
        self.lags = False
        self.welcome = False

    def says(self, message: wire.Message, body: bytes = b"") -> None:
        if self.line.open:
            self.net.event(MessageArrived(self.port, self.line.route, message, body))  # type: ignore[arg-type]

    def redials(self) -> None:
        """The old connection is gone, a new one stands."""
        self.line.open = False
        self.line = self.net.dial(self.port)
        self.loses_session()
        self.hello()

    def loses_session(self) -> None:
        self.welcome = False

    def hello(self) -> None:
        raise NotImplementedError

    def reads(self, most: int = 1000) -> None:
        """Take up to `most` messages, oldest first."""
        while self.line.inbox and most:
            most -= 1
            message, body = self.line.inbox.popleft()
            if isinstance(message, wire.Identify):
                self.loses_session()
                self.hello()
            elif isinstance(message, wire.Welcome):
                self.welcome = True
                self.begins()
            else:
                assert not isinstance(message, wire.Fault), message
                self.understands(message, body)

    def begins(self) -> None:
        raise NotImplementedError

    def goes_on(self) -> None:
        raise NotImplementedError

    def understands(self, message: wire.Message, body: bytes) -> None:
        raise NotImplementedError


class Client(Peer):
    """Submits again what has not ended whenever it is welcomed; sees each picture once."""

    def __init__(self, net: Net) -> None:
        super().__init__(net)
        self.bodies: dict[str, bytes] = {}
        self.cancels: set[str] = set()
        self.accepted: set[str] = set()
        self.refused: set[str] = set()
        self.finished: dict[str, wire.Finished] = {}
        self.pictures: dict[tuple[str, int], str] = {}
        self.arriving: dict[str, tuple[wire.Result, Incoming]] = {}
        self.unseen: list[tuple[str, int]] = []
        self.hello()

    def hello(self) -> None:
        self.says(wire.ClientHello(protocols=(1,), software="client"))

    def loses_session(self) -> None:
        super().loses_session()
        self.arriving.clear()

    def begins(self) -> None:
        for pid, body in self.bodies.items():
            if pid not in self.finished and pid not in self.refused:
                self.says(wire.Submit(id=pid), body)

    def submits(self, pid: str, **about: Any) -> None:
        self.bodies[pid] = encode_petition(petition(**about))
        self.says(wire.Submit(id=pid), self.bodies[pid])

    def understands(self, message: wire.Message, body: bytes) -> None:
        match message:
            case wire.Accepted():
                self.accepted.add(message.id)
            case wire.Refused():
                self.refused.add(message.id)
            case wire.Result():
                self._result(message, body)
            case wire.Chunk():
                self._chunk(message, body)
            case wire.Progress():
                self.says(wire.ProgressSeen(id=message.id))
            case wire.Finished():
                self._finished(message)

    def _result(self, result: wire.Result, body: bytes) -> None:
        incoming = Incoming(result.digest, result.size_bytes)
        assert result.digest not in self.arriving, "two transfers of one picture at once"
        if body:
            assert incoming.take(0, body)
            self._got(result)
        else:
            self.arriving[result.digest] = (result, incoming)

    def _chunk(self, chunk: wire.Chunk, body: bytes) -> None:
        result, incoming = self.arriving[chunk.digest]
        if incoming.take(chunk.offset, body):
            del self.arriving[chunk.digest]
            self._got(result)
        self.says(wire.ChunkSeen(digest=chunk.digest, offset=incoming.received))

    def _got(self, result: wire.Result) -> None:
        key = (result.attempt.id, result.attempt.index)
        assert self.net.delivered.setdefault(key, result.digest) == result.digest, "two digests"
        self.pictures[key] = result.digest
        assert result.seed == 100 + result.attempt.index
        self.unseen.append(key)

    def _finished(self, message: wire.Finished) -> None:
        # Once a picture was acknowledged by one who listened before, it is not sent again.
        had = self.net.delivered
        assert all((message.id, i) in had for i in message.done), "the end before the pictures"
        mine = {index for pid, index in self.pictures if pid == message.id}
        assert mine <= set(message.done), "a picture that is not part of the end"
        before = self.finished.setdefault(message.id, message)
        assert (before.state, before.done) == (message.state, message.done), "two ends"

    def goes_on(self) -> None:
        """Acknowledge what it has."""
        unseen, self.unseen = self.unseen, []
        for pid, index in unseen:
            self.says(wire.ResultSeen(id=pid, index=index))

    def cancels_one(self, pid: str) -> None:
        self.cancels.add(pid)
        self.says(wire.Cancel(id=pid))


class Worker(Peer):
    """Draws one image at a time, holds one behind it, and keeps results until they are taken."""

    port = "worker"

    def __init__(self, net: Net, name: str, instance: int, files: tuple[ModelFile, ...]) -> None:
        super().__init__(net)
        self.name = name
        self.instance = f"{instance:016x}"
        self.files = files
        self.queue: deque[wire.Attempt] = deque()
        self.running: wire.Attempt | None = None
        self.held: dict[wire.Attempt, tuple[wire.Result, bytes]] = {}
        self.sending: dict[str, Outgoing] = {}
        self.hello()

    def hello(self) -> None:
        running = (self.running,) if self.running else ()
        hello = wire.WorkerHello(
            protocols=(1,), software="worker", name=self.name, instance=self.instance,
            engine=ENGINE, running=running, holding=tuple(self.held),
        )  # fmt: skip
        self.says(hello, encode_inventory(self.files))

    def loses_session(self) -> None:
        super().loses_session()
        self.queue.clear()

    def begins(self) -> None:
        self.sending.clear()
        for attempt in list(self.held):
            self._offer(attempt)

    def understands(self, message: wire.Message, body: bytes) -> None:
        match message:
            case wire.Grant():
                self.queue.extend(message.attempts)
            case wire.Revoke(attempt=attempt):
                unbegun = attempt in self.queue
                if unbegun:
                    self.queue.remove(attempt)
                self.says((wire.Revoked if unbegun else wire.TooLate)(attempt=attempt))
            case wire.Abandon(attempt=attempt):
                self._forget(attempt)
            case wire.ResultRecorded(attempt=attempt) | wire.ResultRefused(attempt=attempt):
                self._forget(attempt)
            case wire.ChunkSeen(digest=digest, offset=offset):
                if digest in self.sending:
                    self.sending[digest].seen(offset)
                    self._send_pieces(digest)

    def _forget(self, attempt: wire.Attempt) -> None:
        if attempt in self.queue:
            self.queue.remove(attempt)
        if self.running == attempt:
            self.running = None
        if attempt in self.held:
            self.sending.pop(self.held.pop(attempt)[0].digest, None)

    def goes_on(self) -> None:
        if self.queue and self.running is None:
            self.running = self.queue.popleft()
            self.says(wire.Started(attempt=self.running))

    def makes(self, step: int) -> None:
        """A step of the running image."""
        if self.running and self.welcome:
            self.says(wire.Step(attempt=self.running, phase="sampling", step=step, steps=4))

    def announces(self) -> None:
        """Its files changed."""
        if self.welcome:
            self.says(wire.EngineState(state="idle", loaded="other"))
            self.says(wire.Inventory(), encode_inventory(self.files))

    def draws(self, size: int, *, plain: bool = False) -> None:
        """Finish the running image as a picture of `size` bytes, the same on any attempt here.

        Plain pictures are the same for all images.
        """
        attempt, self.running = self.running, None
        if attempt is None:
            return
        name = "" if plain else f"{self.name} {attempt.id} {attempt.index} "
        data = name.encode().ljust(size, b".")
        result = wire.Result(
            attempt=attempt, seed=100 + attempt.index, format="png", width=8, height=8,
            digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data), worker=self.name,
            fingerprint="f", context="c",
        )  # fmt: skip
        self.held[attempt] = (result, data)
        self._offer(attempt)

    def offers_again(self) -> None:
        """Nobody answered for a long time."""
        if self.welcome:
            self.begins()

    def _offer(self, attempt: wire.Attempt) -> None:
        result, data = self.held[attempt]
        if not self.welcome or result.digest in self.sending:
            return
        whole = len(data) <= limits.CHUNK_BYTES
        if not whole:
            self.sending[result.digest] = Outgoing(len(data))
        self.says(result, data if whole else b"")
        if not whole:
            self._send_pieces(result.digest)

    def _send_pieces(self, digest: str) -> None:
        data = next((d for r, d in self.held.values() if r.digest == digest), b"")
        for piece in self.sending[digest].ready():
            self.says(
                wire.Chunk(digest=digest, offset=piece.offset), data[piece.offset : piece.end]
            )

    def fails(self, code: str, *, started: bool = True) -> None:
        attempt, self.running = self.running, None
        if attempt is not None and self.welcome:
            error = ErrorInfo(code=code, message="it broke")  # type: ignore[arg-type]
            self.says(wire.Failed(attempt=attempt, error=error, started=started))
