"""A TCP link that can be cut, on one side or both, slowed, delayed and torn; for tests only.

A cut link is a black hole: both ends keep their connection and hear nothing, and what was on its
way arrives when it is healed, as TCP's retransmissions would have it.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

Way = Literal["up", "down"]

#: Small, so that what a sender believes to be sent is not far ahead of what has passed.
_BUFFER_BYTES = 64 * 1024


class Link:
    """Forwards connections made to `address` to another one. *Up* is towards that other one."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        #: What dials this dials the target.
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: dict[Way, threading.Event] = {
            "up": threading.Event(),
            "down": threading.Event(),
        }
        #: Seconds that every piece of data takes.
        self.delay_s = 0.0
        #: Bytes per second in each direction of each connection; 0 is no limit.
        self.bytes_per_s = 0.0
        #: Bytes that have passed, by direction.
        self.passed: dict[Way, int] = {"up": 0, "down": 0}
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.heal()
        self._run(self._accept)

    def cut(self, *ways: Way) -> None:
        """Let nothing through: in these directions, by default in both."""
        for way in ways or ("up", "down"):
            self._open[way].clear()

    def heal(self) -> None:
        """Let everything through again."""
        for gate in self._open.values():
            gate.set()

    def tear(self) -> None:
        """End all connections; new ones may be made."""
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._closed = True
        self.heal()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.tear()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a pump of the proxy does not end"
        for one in self._sockets:
            one.close()

    def _run(self, what: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(near)
            try:
                far = socket.create_connection(self._target)
            except OSError:  # nobody is there; whoever dialled will dial again
                near.shutdown(socket.SHUT_RDWR)
                continue
            self._sockets.append(far)
            for one in (near, far):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._run(self._pump, near, far, "up")
            self._run(self._pump, far, near, "down")

    def _pump(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BUFFER_BYTES):
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                if self.delay_s:
                    time.sleep(self.delay_s)
                self._open[way].wait()
                sink.sendall(data)
                self.passed[way] += len(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def link(target: str) -> Iterator[Link]:
    """A link for one test."""
    made = Link(target)
    try:
        yield made
    finally:
        made.close()
