"""The manager's machine and its wires, which lag, break and lose.

What the manager sends waits in the peer's inbox until the peer reads; what a peer says on a wire
that is broken is lost, whether the peer knows it or not.
"""

from collections import deque
from typing import Any

from sdistrib.protocol import messages as wire
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
