"""Peers that do no work, so that only what stands between them is measured.

`python -m bench.fakes worker|plain-worker|… WHERE BYTES` runs one; see `bench.processes`.
"""

import hashlib
import sys
import time
import uuid

import zmq

from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Codec, Received, encode, encode_inventory, encode_petition
from sdistrib.transfer import Incoming, Outgoing
from sdistrib.transport import Address, Dealer, Watch, zmq_context

_ENGINE = wire.EngineFacts(version="0", backend="fake", device="none", fingerprint="0" * 16)
_MODEL = ModelFile("stable-diffusion", "fake.safetensors", 1)
#: A request of 1.5 KB for what `worker` has.
FAKE_PARAMS = Params(prompt="x" * 1400, model="fake")
#: As the transport does it: larger frames are passed on without a copy.
COPY_BELOW_BYTES = 65536
#: No fake waits longer for anything.
_PATIENCE_S = 60.0


class FakePeer:
    """A Dealer with a codec, blocking and impatient."""

    def __init__(self, dealer: Dealer, kinds: tuple[type[wire.Message], ...]) -> None:
        self._dealer = dealer
        self._codec = Codec(kinds)
        self._watch = Watch()
        self._watch.add(dealer)
        self._beat_at = time.monotonic()

    def send(self, message: wire.Message, body: bytes | memoryview | None = None) -> None:
        """Send, waiting for room."""
        while self._dealer.send(encode(message, body)) != "sent":
            time.sleep(0.001)

    def receive(self) -> Received:
        """The next message; beats are answered and left out."""
        while True:
            frames = self._dealer.receive()
            if time.monotonic() - self._beat_at > 1.0:
                self._beat_at = time.monotonic()
                self.send(wire.Beat())
            if frames is None:
                self._watch.wait(1.0)
                continue
            received = self._codec.decode(frames)
            if not isinstance(received.message, wire.Beat):
                return received


def worker(
    address: Address, size_bytes: int, model: ModelFile = _MODEL, *, fresh: bool = False
) -> None:
    """Answer each grant with the same picture at once; if `fresh`, with one nobody else has."""
    data = bytes(size_bytes)
    digest = hashlib.sha256(data).hexdigest()
    with zmq_context() as context:
        dealer = Dealer(context, address)
        peer = FakePeer(dealer, wire.MANAGER_TO_WORKER)
        instance = uuid.uuid4().hex[:16]
        peer.send(
            wire.WorkerHello(
                protocols=(1,), software="fake", name=instance, instance=instance, engine=_ENGINE
            ),
            encode_inventory((model,)),
        )
        flights: dict[str, Outgoing] = {}
        while True:
            message = peer.receive().message
            if isinstance(message, wire.Grant):
                for attempt in message.attempts:
                    if fresh:
                        data = f"{attempt.id} {attempt.index} ".encode().ljust(size_bytes)
                        digest = hashlib.sha256(data).hexdigest()
                    peer.send(wire.Started(attempt=attempt))
                    result = wire.Result(
                        attempt=attempt, seed=attempt.index, digest=digest, size_bytes=size_bytes,
                        format="png", width=64, height=64, worker=instance, fingerprint="0" * 16,
                        context="0",
                    )  # fmt: skip
                    if size_bytes <= 1 << 20:
                        peer.send(result, data)
                    else:
                        peer.send(result)
                        flights[digest] = Outgoing(size_bytes)
            elif isinstance(message, wire.ChunkSeen) and message.digest in flights:
                flight = flights[message.digest]
                flight.seen(message.offset)
                for piece in flight.ready():
                    chunk = wire.Chunk(digest=digest, offset=piece.offset)
                    peer.send(chunk, memoryview(data)[piece.offset : piece.end])


class FakeClient:
    """Draws petitions and counts what comes. Whole pictures are not hashed, those in pieces are.

    Args:
        dealer: its connection.
        params: of all its petitions.
    """

    def __init__(self, dealer: Dealer, params: Params = FAKE_PARAMS) -> None:
        self._params = params
        self.peer = FakePeer(dealer, wire.MANAGER_TO_CLIENT)
        self.peer.send(wire.ClientHello(protocols=(1,), software="fake"))
        assert isinstance(self.peer.receive().message, wire.Welcome)

    def draw(self, images: int) -> list[float]:
        """One petition; seconds from its submit to each picture."""
        petition = Petition(params=self._params, seed=0, images=images)
        pid = uuid.uuid4().hex
        started = time.perf_counter()
        self.peer.send(wire.Submit(id=pid), encode_petition(petition))
        times: list[float] = []
        arriving: dict[str, tuple[Incoming, int]] = {}
        while True:
            received = self.peer.receive()
            match received.message:
                case wire.Result(attempt=attempt, digest=digest, size_bytes=size):
                    if len(received.body):
                        times.append(time.perf_counter() - started)
                        self.peer.send(wire.ResultSeen(id=pid, index=attempt.index))
                    else:
                        arriving[digest] = (Incoming(digest, size), attempt.index)
                case wire.Chunk(digest=digest, offset=offset):
                    incoming, index = arriving[digest]
                    if incoming.take(offset, received.body):
                        times.append(time.perf_counter() - started)
                        self.peer.send(wire.ResultSeen(id=pid, index=index))
                    else:
                        self.peer.send(wire.ChunkSeen(digest=digest, offset=incoming.received))
                case wire.Progress():
                    self.peer.send(wire.ProgressSeen(id=pid))
                case wire.Finished(state=state):
                    assert state == "done", received.message
                    return times
                case wire.Refused(error=error):
                    raise SystemExit(error.sentence())
                case _:
                    pass


def plain_worker(endpoint: str, size_bytes: int) -> None:
    """A worker of the bare broker, which must know that it is ready."""
    data = bytes(size_bytes)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    socket.send(b"ready")
    while True:
        client, _request = socket.recv_multipart()
        socket.send_multipart([client, data], copy=size_bytes < COPY_BELOW_BYTES)


def proxied_worker(endpoint: str, size_bytes: int) -> None:
    """A worker behind zmq_proxy."""
    data = bytes(size_bytes)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REP)
    socket.connect(endpoint)
    while True:
        socket.recv()
        socket.send(data, flags=0, copy=size_bytes < COPY_BELOW_BYTES)


class PlainClient:
    """Requests of 1.5 KB through whatever listens at `endpoint`.

    Args:
        context: closed by the caller.
        endpoint: where to dial.
        verify: compute the SHA-256 of each picture, as a receiver must that trusts nobody.
    """

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, *, verify: bool = False
    ) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.connect(endpoint)
        self._verify = verify
        self._prefix: tuple[bytes, ...] = ()

    def with_delimiter(self) -> "PlainClient":
        """Talk to REP sockets, which want an empty frame first."""
        self._prefix = (b"",)
        return self

    def draw(self, count: int, window: int) -> list[float]:
        """So many requests, `window` at a time; seconds from each to its picture."""
        sent_at: list[float] = []
        times: list[float] = []
        request = bytes(1500)
        while len(times) < count:
            while len(sent_at) < count and len(sent_at) - len(times) < window:
                sent_at.append(time.perf_counter())
                self._socket.send_multipart([*self._prefix, request])
            if not self._socket.poll(int(_PATIENCE_S * 1000)):
                raise SystemExit("the broker does not answer")
            picture = self._socket.recv_multipart(copy=False)[-1]
            if self._verify:
                hashlib.sha256(picture.buffer).digest()
            times.append(time.perf_counter() - sent_at[len(times)])
        return times


def main() -> None:
    """Run one fake until it is ended."""
    kind, where, size = sys.argv[1:4]
    if kind in ("worker", "fresh-worker"):
        host, _, port = where.rpartition(":")
        worker(Address(host, int(port)), int(size), fresh=kind == "fresh-worker")
    elif kind == "plain-worker":
        plain_worker(where, int(size))
    elif kind == "proxied-worker":
        proxied_worker(where, int(size))
    else:
        raise SystemExit(f"there is no fake called {kind}")


if __name__ == "__main__":
    main()
