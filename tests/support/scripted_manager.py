"""The manager's end of a client's socket: it does what a test says, in a thread of the test.

It welcomes, accepts, draws small PNGs by itself and finishes when all were seen. A test that wants
something else replaces the answer to one kind of message.
"""

import hashlib
import queue
import struct
import threading
import time
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from zmq.utils.garbage import gc as zmq_garbage

from sdistrib import limits, transport
from sdistrib.errors import ErrorInfo, ProtocolError
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, Codec, decode_petition, encode
from sdistrib.transfer import Outgoing

#: Nothing that a test waits for takes longer.
PATIENCE_S = 30.0

# pyzmq opens a thread, a context and a socket of its own with the first frame that is sent without
# a copy, and keeps them: now, rather than inside a test that is watched for leaks.
zmq_garbage.start()
assert zmq_garbage._push_socket

Answer = Callable[["ScriptedManager", bytes, Any, bytes], None]


def png(seed: int, size_bytes: int = 0, side: int = 8) -> bytes:
    """A grey PNG that is another one for each seed, padded to at least `size_bytes`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, checksum = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return length + kind + data + checksum

    rows = b"".join(b"\0" + bytes([(seed + y) % 256] * side) for y in range(side))
    text = f"parameters\0a picture\nSteps: 1, Seed: {seed}, Size: {side}x{side}"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"tEXt", text.encode())
        + (chunk(b"puFf", bytes(size_bytes)) if size_bytes else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class ScriptedManager:
    """Listens on 127.0.0.1, by default on a free port, from `__enter__` to `__exit__`."""

    def __init__(
        self, answers: dict[type[wire.Message], Answer] | None = None, port: int = 0
    ) -> None:
        self.port = port
        self.answers: dict[type[wire.Message], Answer] = {
            wire.ClientHello: lambda m, route, _msg, _body: m.say(
                route, wire.Welcome(protocol=wire.VERSION, software="scripted")
            ),
            wire.Submit: lambda m, route, message, body: m.draw(route, message.id, body),
            wire.Plan: ScriptedManager._plan,
            wire.Cancel: lambda m, route, message, _body: m.say(
                route, wire.Cancelled(id=message.id)
            ),
            wire.Beat: lambda m, route, _msg, _body: m.say(route, wire.Beat()),
            wire.ResultSeen: ScriptedManager._seen,
            wire.ChunkSeen: ScriptedManager._piece_seen,
            **(answers or {}),
        }
        #: Everything that was said, as (route, message, body).
        self.heard: list[tuple[bytes, wire.Message, bytes]] = []
        #: Padding of the pictures drawn.
        self.size_bytes = 0
        self.petitions: dict[str, Petition] = {}
        self._routes: set[bytes] = set()
        self._seen_indices: dict[str, set[int]] = {}
        self._sending: dict[str, tuple[bytes, Outgoing]] = {}
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def __enter__(self) -> Self:
        """Listen."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        assert ready.wait(PATIENCE_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and let an error of the thread be one of the test."""
        self._stop.set()
        self._thread.join(PATIENCE_S)
        if self._errors:
            raise self._errors[0]

    @property
    def host(self) -> str:
        """What a client dials."""
        return f"127.0.0.1:{self.port}"

    def raw(self, route: bytes, frames: list[Buffer]) -> None:
        """Send frames of whatever kind; only from the thread itself."""
        self._router.send(route, frames)

    def say(self, route: bytes, message: wire.Message, body: Buffer | None = None) -> None:
        """Send; only from the thread itself."""
        self._router.send(route, encode(message, body))

    def do(self, what: Callable[[], None]) -> None:
        """Run something in the thread."""
        self._todo.put(what)

    def of(self, kind: type[Any]) -> list[Any]:
        """What was said of one kind."""
        return [message for _, message, _ in list(self.heard) if isinstance(message, kind)]

    def wait_for(self, kind: type[wire.Message], count: int = 1) -> list[Any]:
        """Wait until that many messages of a kind have come."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.of(kind)) < count:
            assert time.monotonic() < deadline, f"no {kind.__name__}; heard {self.heard}"
            self._stop.wait(0.01)
        return self.of(kind)

    def result(self, petition_id: str, index: int, data: bytes) -> wire.Result:
        """The announcement of a picture."""
        return wire.Result(
            attempt=wire.Attempt(petition_id, index, 1),
            seed=self.petitions[petition_id].seed + index,
            digest=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            format="png",
            width=8,
            height=8,
            worker="gpu1",
            fingerprint="0123456789abcdef",
            context="c",
            load_s=1.0,
            draw_s=2.0,
            encode_s=0.25,
            notes=("the size was rounded up",),
        )

    def accept(self, route: bytes, petition_id: str, body: bytes) -> Petition:
        """Understand and accept a petition."""
        petition = self.petitions[petition_id] = decode_petition(body)
        self._seen_indices[petition_id] = set()
        self.say(route, wire.Accepted(id=petition_id, state="queued", ahead=2))
        return petition

    def draw(self, route: bytes, petition_id: str, body: bytes) -> None:
        """Accept, show progress, and send all pictures, the last one first."""
        petition = self.accept(route, petition_id, body)
        at = wire.ImageProgress(0, "gpu1", "sampling", 3, 20, 0.5)
        self.say(
            route,
            wire.Progress(
                id=petition_id,
                state="running",
                images=petition.images,
                running=(at,),
                eta_s=9.0,
            ),
        )
        for index in reversed(range(petition.images)):
            self.send_picture(route, petition_id, index)

    def send_picture(self, route: bytes, petition_id: str, index: int) -> None:
        """Send one picture, in pieces when it is large."""
        data = png(self.petitions[petition_id].seed + index, self.size_bytes)
        head = self.result(petition_id, index, data)
        if len(data) <= limits.CHUNK_BYTES:
            self.say(route, head, data)
            return
        self._sending[head.digest] = (data, Outgoing(len(data)))
        self.say(route, head)
        self._send_pieces(route, head.digest)

    def _send_pieces(self, route: bytes, digest: str) -> None:
        data, outgoing = self._sending[digest]
        for piece in outgoing.ready():
            chunk = wire.Chunk(digest=digest, offset=piece.offset)
            self.say(route, chunk, data[piece.offset : piece.end])

    def _plan(self, route: bytes, message: wire.Plan, body: bytes) -> None:
        images = decode_petition(body).images
        worker = wire.PlannedWorker(worker="gpu1", images=images, image_s=2.0, known=True)
        planned = wire.Planned(number=message.number, eta_s=2.0 * images, workers=(worker,))
        self.say(route, planned)

    def _piece_seen(self, route: bytes, message: wire.ChunkSeen, _body: bytes) -> None:
        self._sending[message.digest][1].seen(message.offset)
        self._send_pieces(route, message.digest)

    def _seen(self, route: bytes, message: wire.ResultSeen, _body: bytes) -> None:
        seen = self._seen_indices[message.id]
        seen.add(message.index)
        images = self.petitions[message.id].images
        if len(seen) == images:
            done = tuple(range(images))
            self.say(route, wire.Finished(id=message.id, state="done", done=done))

    def _run(self, ready: threading.Event) -> None:
        codec = Codec(wire.CLIENT_TO_MANAGER)
        try:
            with transport.zmq_context() as context:
                address = transport.Address("127.0.0.1", self.port)
                self._router = transport.Router(context, address)
                self.port = self._router.port
                watch = transport.Watch()
                watch.add(self._router)
                ready.set()
                while not self._stop.is_set():
                    watch.wait(0.02)
                    while not self._todo.empty():
                        self._todo.get()()
                    while (received := self._router.receive()) is not None:
                        self._hear(codec, *received)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the test
            self._errors.append(error)
            ready.set()

    def _hear(self, codec: Codec, route: bytes, frames: list[Buffer]) -> None:
        try:
            received = codec.decode(frames)
        except ProtocolError as error:
            info = ErrorInfo(code="protocol_error", message=str(error))
            self.say(route, wire.Fault(error=info))
            return
        body = bytes(received.body)
        self.heard.append((route, received.message, body))
        if isinstance(received.message, wire.ClientHello):
            self._routes.add(route)
        elif route not in self._routes:
            self.say(route, wire.Identify())
            return
        answer = self.answers.get(type(received.message))
        if answer is not None:
            answer(self, route, received.message, body)
