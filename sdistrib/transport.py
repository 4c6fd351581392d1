"""ZeroMQ sockets as sdistrib uses them; the only module that imports zmq.

All sends are non-blocking and mandatory: a full or vanished peer is an answer, never a wait and
never silence. Peers do not set routing ids; one that libzmq did not make is refused.
"""

import contextlib
import errno
import ipaddress
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import zmq

from sdistrib import limits
from sdistrib.errors import ConfigError
from sdistrib.protocol.codec import Buffer

#: Default ports, those of the original.
CLIENT_PORT = 4133
WORKER_PORT = 4134

SendOutcome = Literal["sent", "full", "gone"]

#: Frames from this size on are passed to ZeroMQ without a copy; below, a copy is cheaper.
_COPY_BELOW_BYTES = 64 * limits.KIB

#: As plain numbers: pyzmq's flags are enums, and joining two of those costs more than a send.
_LAST = int(zmq.DONTWAIT)
_MORE = int(zmq.DONTWAIT) | int(zmq.SNDMORE)

#: A v6 address without brackets has two colons at least, and no port.
_ADDRESS = re.compile(
    r"(?:tcp://)?"
    r"(?:\[(?P<v6>[^][\s/\0]+)\]|(?P<host>[^][\s/*:\0]+)|(?P<bare>[0-9a-fA-F]*:[\w.%]*:[\w.%:]*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


class Address(NamedTuple):
    """Where a manager listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """The ZeroMQ form, `tcp://host:port`."""
        # Managers bind 127.0.0.1, and with IPv6 on "localhost" may mean ::1.
        return f"tcp://127.0.0.1:{self.port}" if self.host == "localhost" else f"tcp://{self}"

    @property
    def is_loopback(self) -> bool:
        """The address never leaves this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str, default_port: int) -> Address:
    """Read `host`, `host:port`, `[v6]:port` or `tcp://host:port`.

    Raises:
        ConfigError: the text is none of these.
    """
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"] or default_port) if found else 0
    if found is None or not 0 < port < 65536:
        raise ConfigError(f"{text!r} is no HOST; write host, host:port or [v6]:port.")
    return Address(found["v6"] or found["host"] or found["bare"], port)


def _harden(socket: "zmq.Socket[bytes]") -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, limits.HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, limits.HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(limits.ZMTP_HEARTBEAT_TIMEOUT_S * 1000))


def _send(socket: "zmq.Socket[bytes]", frames: list[Buffer]) -> SendOutcome:
    try:
        for frame in frames[:-1]:
            socket.send(frame, _MORE, len(frame) < _COPY_BELOW_BYTES)
        socket.send(frames[-1], _LAST, len(frames[-1]) < _COPY_BELOW_BYTES)
    except zmq.Again:
        return "full"
    except zmq.ZMQError as error:
        if error.errno in (errno.EHOSTUNREACH, errno.ECONNRESET):
            return "gone"
        raise
    return "sent"


def _receive(socket: "zmq.Socket[bytes]") -> list[Buffer] | None:
    """All frames of one message; big ones as views on ZeroMQ's own memory."""
    try:
        first = socket.recv(zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return None
    frames: list[Buffer] = [_own(first)]
    more = first.more
    while more:
        frame = socket.recv(zmq.DONTWAIT, copy=False)
        more = frame.more
        # A peer that sends frames without end must not fill our memory with a list of them.
        if len(frames) <= limits.FRAMES_MAX:
            frames.append(_own(frame))
    return frames


def _own(frame: "zmq.Frame") -> Buffer:
    return frame.bytes if len(frame) < _COPY_BELOW_BYTES else frame.buffer


class Router:
    """The manager's side of a port: many peers, each with a route."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: Address) -> None:
        """Bind.

        Raises:
            ConfigError: the address cannot be bound; the message says why and what to do.
        """
        self.socket = context.socket(zmq.ROUTER)
        _harden(self.socket)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self.socket.bind(address.endpoint)
        except zmq.ZMQError as error:
            self.socket.close()
            raise ConfigError(
                f"Cannot listen on {address}: {error.strerror}."
                " Is another manager running there? Choose other ports or another --bind."
            ) from None

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for when that was 0."""
        endpoint = self.socket.getsockopt(zmq.LAST_ENDPOINT)
        return int(bytes(endpoint).rstrip(b"\0").rsplit(b":", 1)[1])

    def receive(self) -> tuple[bytes, list[Buffer]] | None:
        """Next message as (route, frames), or None when there is none.

        Messages of peers that set a routing id of their own are dropped: such a peer could take
        over another one's session.
        """
        while (frames := _receive(self.socket)) is not None:
            route = bytes(frames[0])
            if len(route) == 5 and route[0] == 0:
                return route, frames[1:]
        return None

    def send(self, route: bytes, frames: list[Buffer]) -> SendOutcome:
        """Send now, or say why not."""
        return _send(self.socket, [route, *frames])

    def close(self) -> None:
        """Close at once; nothing is waited for."""
        self.socket.close()


class Dealer:
    """A client's or worker's side: one manager, dialled out to, reconnected for ever."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: Address) -> None:
        """Dial. Whether anybody answers shows only later."""
        self.address = address
        self.socket = context.socket(zmq.DEALER)
        _harden(self.socket)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, int(limits.RECONNECT_S_MAX * 1000))
        # Nothing queues for a manager that is not there: a session starts with our hello.
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        try:
            self.socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            self.socket.close()
            raise ConfigError(f"Cannot dial {address}: {error.strerror}.") from None

    def receive(self) -> list[Buffer] | None:
        """Frames of the next message, or None when there is none."""
        return _receive(self.socket)

    def send(self, frames: list[Buffer]) -> SendOutcome:
        """Send now, or say why not ("full" also means: not connected)."""
        return _send(self.socket, frames)

    def close(self, linger_s: float = 0.0) -> None:
        """Close; with `linger_s` what is queued has that long to leave."""
        self.socket.close(linger=int(linger_s * 1000))


class Watch:
    """Waits for sockets and file descriptors."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()

    def add(self, source: "Router | Dealer | int") -> None:
        """Wake up when `source` (a socket of ours or a file descriptor) is readable."""
        self._poller.register(source if isinstance(source, int) else source.socket, zmq.POLLIN)

    def remove(self, source: "Router | Dealer | int") -> None:
        """Do not look at `source` any more."""
        with contextlib.suppress(KeyError):
            self._poller.unregister(source if isinstance(source, int) else source.socket)

    def wait(self, timeout_s: float) -> None:
        """Sleep until something is readable or the time is over."""
        self._poller.poll(max(0, int(timeout_s * 1000)))


@contextlib.contextmanager
def zmq_context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    """A ZeroMQ context that is closed, sockets included, however the block ends."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield context
    finally:
        context.destroy(linger=500)
