"""Honest but unreliable peers of a manager's machine, on the wires of `net`."""

import hashlib
from collections import deque
from typing import Any

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.petitions import InputFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import decode_petition, encode_inventory, encode_petition
from sdistrib.transfer import Incoming, Outgoing
from tests.property.net import Net, Peer
from tests.support.farm import ENGINE, petition
from tests.support.input_files import digest_of, with_files


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
        #: Input files by digest, those on their way, and from where on they are wanted.
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, Outgoing] = {}
        self.have: dict[str, int] = {}
        #: Previews that wait to be acknowledged, by petition.
        self.shown: dict[str, wire.Attempt] = {}
        self.hello()

    def hello(self) -> None:
        self.says(wire.ClientHello(protocols=(1,), software="client"))

    def loses_session(self) -> None:
        super().loses_session()
        self.arriving.clear()
        self.uploads.clear()
        self.have.clear()
        self.shown.clear()

    def begins(self) -> None:
        for pid, body in self.bodies.items():
            if pid not in self.finished and pid not in self.refused:
                self.says(wire.Submit(id=pid, previews=True), body)

    def submits(self, pid: str, *files: bytes, **about: Any) -> None:
        self.files |= {digest_of(data): data for data in files}
        wanted = petition(**about)
        self.bodies[pid] = encode_petition(with_files(wanted, *files) if files else wanted)
        self.says(wire.Submit(id=pid, previews=True), self.bodies[pid])

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
            case wire.Need():
                self._need(message)
            case wire.ChunkSeen():
                self._piece_seen(message)
            case wire.Progress():
                self.says(wire.ProgressSeen(id=message.id))
            case wire.Preview(attempt=attempt):
                assert attempt.id not in self.shown, "a second preview before the first was seen"
                self.shown[attempt.id] = attempt
            case wire.Finished():
                self._finished(message)

    def _need(self, need: wire.Need) -> None:
        for digest in need.digests:
            pieces = self.uploads[digest] = Outgoing(len(self.files[digest]))
            pieces.resume(self.have.pop(digest, 0))
            self._upload(digest)

    def _piece_seen(self, seen: wire.ChunkSeen) -> None:
        if seen.digest in self.uploads:
            self.uploads[seen.digest].seen(seen.offset)
            self._upload(seen.digest)
        else:
            self.have[seen.digest] = seen.offset

    def _upload(self, digest: str) -> None:
        data, pieces = self.files[digest], self.uploads[digest]
        for piece in pieces.ready():
            chunk = wire.Chunk(digest=digest, offset=piece.offset)
            self.says(chunk, data[piece.offset : piece.end])
        if pieces.acknowledged == len(data):
            del self.uploads[digest]

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
        shown, self.shown = self.shown, {}
        for attempt in shown.values():
            self.says(wire.PreviewSeen(attempt=attempt))

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
        #: Input files that an attempt names, those on their way, and the whole ones.
        self.named: dict[wire.Attempt, tuple[InputFile, ...]] = {}
        self.fetches: dict[str, Incoming] = {}
        self.inputs: set[str] = set()
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
        self.fetches.clear()

    def begins(self) -> None:
        self.sending.clear()
        for attempt in list(self.held):
            self._offer(attempt)

    def understands(self, message: wire.Message, body: bytes) -> None:
        match message:
            case wire.Grant():
                self.queue.extend(message.attempts)
                files = decode_petition(body).inputs
                self.named |= dict.fromkeys(message.attempts, files)
            case wire.Revoke(attempt=attempt):
                self._revoke(attempt)
            case wire.Abandon(attempt=attempt):
                self._forget(attempt)
            case wire.ResultRecorded(attempt=attempt) | wire.ResultRefused(attempt=attempt):
                self._forget(attempt)
            case wire.Chunk():
                self._input(message, body)
            case wire.Forget(digests=digests):
                self._forget_inputs(digests)
            case wire.ChunkSeen(digest=digest, offset=offset) if digest in self.sending:
                self.sending[digest].seen(offset)
                self._send_pieces(digest)

    def _revoke(self, attempt: wire.Attempt) -> None:
        unbegun = attempt in self.queue
        if unbegun:
            self.queue.remove(attempt)
        self.says((wire.Revoked if unbegun else wire.TooLate)(attempt=attempt))

    def _forget_inputs(self, digests: tuple[str, ...]) -> None:
        self.inputs -= set(digests)
        for digest in digests:
            self.fetches.pop(digest, None)

    def _forget(self, attempt: wire.Attempt) -> None:
        if attempt in self.queue:
            self.queue.remove(attempt)
        if self.running == attempt:
            self.running = None
        if attempt in self.held:
            self.sending.pop(self.held.pop(attempt)[0].digest, None)

    def _input(self, chunk: wire.Chunk, body: bytes) -> None:
        incoming = self.fetches.get(chunk.digest)
        if incoming is None or chunk.offset != incoming.received:
            return
        if incoming.take(chunk.offset, body):
            del self.fetches[chunk.digest]
            self.inputs.add(chunk.digest)
        self.says(wire.ChunkSeen(digest=chunk.digest, offset=incoming.received))

    def goes_on(self) -> None:
        """Begin the next image, or fetch what it needs."""
        if not self.queue or self.running is not None:
            return
        absent = [file for file in self.named[self.queue[0]] if file.digest not in self.inputs]
        for file in absent:
            if file.digest not in self.fetches and self.welcome:
                self.fetches[file.digest] = Incoming(file.digest, file.size_bytes)
                self.says(wire.Fetch(digest=file.digest))
        if not absent:
            self.running = self.queue.popleft()
            self.says(wire.Started(attempt=self.running))

    def makes(self, step: int) -> None:
        """A step of the running image, with a preview of it."""
        if self.running and self.welcome:
            shown = wire.Preview(
                attempt=self.running, step=step, steps=4, width=8, height=8, format="png",
                worker=self.name,
            )  # fmt: skip
            self.says(shown, b"a preview")
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
