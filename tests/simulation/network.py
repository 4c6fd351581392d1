"""Connections between peers and the manager's ports, and what may become of them.

A connection keeps messages in order or breaks and loses the last of them, as TCP does; between
connections there is no order. One side may learn of a break long after the other. A host may be cut
off in one direction or both: what is under way then waits, and arrives late or never.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from sdistrib.protocol.codec import Buffer
from sdistrib.transport import SendOutcome
from tests.simulation.world import Crash, Process, World

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger

#: Silence after which ZeroMQ's own heartbeat takes a connection for broken, seconds.
ZMTP_S = 15.0


class Host:
    """Where a peer runs: its wire to the manager."""

    def __init__(self, world: World) -> None:
        #: Shortest time that a message takes, and what is added by chance, seconds.
        self.latency_s = world.between(0.0005, 0.01)
        self.jitter_s = world.between(0.0, 0.02)
        self.cut_up = self.cut_down = False
        #: Until then sends of one side find the other not reading.
        self.jam_up_until = self.jam_down_until = 0.0

    def delay_s(self, world: World) -> float:
        """How long the next message takes."""
        return self.latency_s + self.jitter_s * world.rng.random()


class Line:
    """One connection."""

    __slots__ = (
        "dealer", "down_at", "down_lost_at", "host", "route", "router", "stuck_down", "stuck_up",
        "up_at", "up_lost_at", "world",
    )  # fmt: skip

    def __init__(self, world: World, dealer: "Dealer", router: "Router", route: bytes) -> None:
        self.world = world
        self.dealer, self.router, self.route, self.host = dealer, router, route, dealer.host
        #: When the last message of each direction arrives, and from when on they are lost.
        self.up_at = self.down_at = 0.0
        self.up_lost_at = self.down_lost_at = math.inf
        #: What waits for a cut to heal.
        self.stuck_up: list[list[Buffer]] = []
        self.stuck_down: list[list[Buffer]] = []

    def send_up(self, frames: list[Buffer]) -> None:
        """The peer says something."""
        late_s = self.world.late_s(self, frames)
        self.up_at = max(self.up_at, self.world.now + self.host.delay_s(self.world) + late_s)
        self.world.at(self.up_at, self._arrive_up, frames)

    def send_down(self, frames: list[Buffer]) -> None:
        """The manager says something."""
        late_s = self.world.late_s(self, frames)
        self.down_at = max(self.down_at, self.world.now + self.host.delay_s(self.world) + late_s)
        self.world.at(self.down_at, self._arrive_down, frames)

    def _arrive_up(self, frames: list[Buffer]) -> None:
        if self.world.now > self.up_lost_at:
            self.world.faults["message lost on its way to the manager"] += 1
        elif self.host.cut_up or self.stuck_up:
            self.stuck_up.append(frames)
        else:
            self.router.take_in(self.route, frames)

    def _arrive_down(self, frames: list[Buffer]) -> None:
        if self.world.now > self.down_lost_at:
            self.world.faults["message lost on its way to a peer"] += 1
        elif self.host.cut_down or self.stuck_down:
            self.stuck_down.append(frames)
        else:
            self.dealer.take_in(self, frames)

    def heal(self) -> None:
        """The cut is over: what waited arrives."""
        up, self.stuck_up = self.stuck_up, []
        down, self.stuck_down = self.stuck_down, []
        for frames in up:
            self._arrive_up(frames)
        for frames in down:
            self._arrive_down(frames)

    def end(self, peer_learns_s: float, manager_learns_s: float) -> None:
        """Break; each side learns of it later, and until then speaks into the void."""
        world = self.world
        self.stuck_up.clear()
        self.stuck_down.clear()
        self.up_lost_at = min(self.up_lost_at, world.now + world.between(0.0, 0.02))
        self.down_lost_at = min(self.down_lost_at, world.now + world.between(0.0, 0.02))
        world.after(peer_learns_s, self.dealer.lost, self)
        world.after(manager_learns_s, self.router.drop, self.route)


class Dealer:
    """A peer's side, as `sdistrib.transport.Dealer` is: dials for ever, sends or says why not."""

    def __init__(self, world: World, host: Host, owner: Process, port: "Port") -> None:
        self.world, self.host, self.owner, self.port = world, host, owner, port
        self.line: Line | None = None
        self.closed = False
        self._inbox: deque[list[Buffer]] = deque()
        self._tries = 0
        world.after(host.delay_s(world), self._connect)

    def _connect(self) -> None:
        if self.closed or self.line is not None:
            return
        cut = self.host.cut_up or self.host.cut_down
        if self.port.router is None or cut:
            self._tries += 1
            # The loop's granularity of such failures does not matter, only that they last.
            self.world.after(min(0.1 * 2**self._tries, 5.0), self._connect)
            return
        self._tries = 0
        self.line = self.port.router.accept(self)

    def send(self, frames: list[Buffer]) -> SendOutcome:
        """Send now, or say why not."""
        if self.line is None or self.world.now < self.host.jam_up_until:
            return "full"
        if self.world.refuses(frames):
            return "full"
        self.line.send_up(frames)
        return "sent"

    def receive(self) -> list[Buffer] | None:
        """The next message."""
        return self._inbox.popleft() if self._inbox else None

    def take_in(self, line: Line, frames: list[Buffer]) -> None:
        """A message arrives."""
        if self.line is line:
            self._inbox.append(frames)
            self.owner.wake()

    def lost(self, line: Line) -> None:
        """The connection is found broken; another one is dialled."""
        if self.line is line:
            self.line = None
            self.world.after(self.world.between(0.1, 0.5), self._connect)

    def close(self, linger_s: float = 0.0) -> None:
        """The process ends; what it said last leaves, or some of it."""
        self.closed = True
        if self.line is not None:
            line, self.line = self.line, None
            line.end(0.0, self.world.between(0.0, 0.2))
            if linger_s:
                line.up_lost_at = math.inf


class Router:
    """The manager's side of one port, for one life of the manager."""

    #: What `Watch.add` of the real loop looks at.
    socket = None

    def __init__(self, world: World, port: "Port", owner: Process) -> None:
        self.world, self.port, self.owner = world, port, owner
        self.lines: dict[bytes, Line] = {}
        self.inbox: deque[tuple[bytes, list[Buffer]]] = deque()
        self.closed = False

    def accept(self, dealer: Dealer) -> Line:
        """A peer dials."""
        route = b"\0" + next(self.port.routes).to_bytes(4, "big")
        line = self.lines[route] = Line(self.world, dealer, self, route)
        return line

    def drop(self, route: bytes) -> None:
        """A connection is found broken."""
        self.lines.pop(route, None)

    def take_in(self, route: bytes, frames: list[Buffer]) -> None:
        """A message arrives."""
        if not self.closed:
            self.inbox.append((route, frames))
            self.owner.wake()

    def receive(self) -> tuple[bytes, list[Buffer]] | None:
        """The next message and where it came from."""
        return self.inbox.popleft() if self.inbox else None

    def send(self, route: bytes, frames: list[Buffer]) -> SendOutcome:
        """Send now, or say why not. The manager may die at any send."""
        if self.port.dies_at_send():
            raise Crash
        line = self.lines.get(route)
        if line is None:
            return "gone"
        if self.world.now < line.host.jam_down_until:
            self.world.faults["peer full"] += 1
            return "full"
        self.port.ledger.manager_says(self.port.name, line.dealer.owner, frames)
        line.send_down(frames)
        return "sent"

    def close(self, learn_s: float, linger: bool) -> None:
        """The manager ends; its peers learn of it some time later."""
        self.closed = True
        for line in list(self.lines.values()):
            line.end(self.world.between(0.0, learn_s), 0.0)
            line.up_lost_at = self.world.now
            if linger:
                line.down_lost_at = math.inf
        self.lines.clear()


class Port:
    """A port of the manager's machine; behind it is a router while a manager lives."""

    def __init__(self, name: str, ledger: "Ledger") -> None:
        self.name = name
        self.ledger = ledger
        self.router: Router | None = None
        self.routes = itertools.count(1 if name == "client" else 1 << 24)
        #: Whether the manager dies at the send under way.
        self.dies_at_send: Callable[[], bool] = lambda: False
