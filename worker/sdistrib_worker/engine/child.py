"""The loop of the engine child: requests in, frames and pixels out. Knows no particular engine."""

import os
import queue
import socket
import sys
import tempfile
import threading
from collections.abc import Callable

from sdistrib import limits
from sdistrib.errors import ProtocolError
from sdistrib.protocol.engine import (
    TO_CHILD,
    At,
    Began,
    Declined,
    Draw,
    Drawn,
    EngineFrame,
    FrameReader,
    Holds,
    Interrupt,
    LogLine,
    Previewed,
    PreviewWanted,
    Ready,
    Unload,
    encode_frame,
)
from sdistrib.protocol.messages import Phase
from sdistrib_worker.engine.base import Engine, Painting, RefusalError

#: Exit statuses of the child.
EXIT_WORKER_GONE = 0
EXIT_REFUSED = 2
EXIT_GARBLED = 3
_READ_BYTES = 64 * limits.KIB


class Link:
    """The child's end of the socket; the engine's `Reporter`. Safe from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        #: Number of the image under way, and of the first of its request.
        self.ticket = 0
        self._first = 0
        #: Images of the request that have begun.
        self._begun = 0
        #: The supervisor has taken the last preview.
        self.takes_preview = True
        self._then: Callable[[], None] = _nothing

    def send(self, frame: EngineFrame, descriptor: int | None = None) -> None:
        """Send a whole frame, and a descriptor with its first byte. Ends the process on EPIPE."""
        data = encode_frame(frame)
        try:
            with self._lock:
                if descriptor is not None:
                    data = data[socket.send_fds(self._socket, [data], [descriptor]) :]
                self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(EXIT_WORKER_GONE)

    def begin(self, ticket: int) -> None:
        """A request is taken up, with its first image."""
        self.ticket = self._first = ticket
        self._begun = 1
        self.send(Began(ticket=ticket))

    def at(
        self, phase: Phase, step: int = 0, steps: int = 0, step_s: float = 0.0, image: int = 0
    ) -> None:
        """The request under way has come this far, with this of its images (from 0)."""
        self.ticket = self._first + image
        if image >= self._begun:
            self._begun = image + 1
            self.send(Began(ticket=self.ticket))
        self.send(At(ticket=self.ticket, phase=phase, step=step, steps=steps, step_s=step_s))

    def when_room(self, then: Callable[[], None]) -> None:
        """Call this, from the inbox's thread, whenever `takes_preview` becomes true."""
        self._then = then

    def has_room(self) -> None:
        """The supervisor is done with the last preview."""
        self.takes_preview = True
        self._then()

    def preview(
        self, step: int, width: int, height: int, channels: int, pixels: bytes, *, noisy: bool
    ) -> None:
        """What the picture looks like at a step; the next one waits for `takes_preview`."""
        self.takes_preview = False
        shown = Previewed(
            ticket=self.ticket, step=step, width=width, height=height, channels=channels,
            noisy=noisy,
        )  # fmt: skip
        self.send_pixels(shown, pixels)

    def send_pixels(self, frame: EngineFrame, pixels: bytes) -> None:
        """Send a frame with the descriptor of a file that holds these bytes."""
        descriptor = _shared(pixels)
        try:
            self.send(frame, descriptor)
        finally:
            os.close(descriptor)

    def holds(self, contexts: tuple[str, ...]) -> None:
        """What is loaded now, the last used first."""
        self.send(Holds(contexts=contexts))

    def log(self, level: int, text: str) -> None:
        """One line of the engine's log."""
        self.send(LogLine(level=level, text=text[: limits.TEXT_CHARS_MAX]))


class Inbox:
    """Requests in the order of their coming, read beside the engine.

    The reading thread ends the process as soon as the worker's end of the socket is closed, even
    in the middle of an image: this child never outlives its worker.
    """

    def __init__(self, sock: socket.socket, link: Link) -> None:
        self._socket = sock
        self._link = link
        self._frames: queue.SimpleQueue[EngineFrame] = queue.SimpleQueue()
        self._lock = threading.Lock()
        #: The request under way and how to end it early; the newest that shall end.
        self._under_way = 0
        self._cancel: Callable[[bool], None] | None = None
        self._cancelled = 0
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> EngineFrame:
        """Wait for the next request."""
        return self._frames.get()

    def begins(self, ticket: int, cancel: Callable[[bool], None] | None) -> bool:
        """From now on `cancel` ends this request early; False when it is cancelled already."""
        with self._lock:
            self._under_way, self._cancel = ticket, cancel
            if cancel is not None:
                cancel(False)
            return self._cancelled != ticket

    def ends(self) -> None:
        """The request is over; a cancel that comes now is too late."""
        with self._lock:
            self._under_way, self._cancel = 0, None

    def _cancels(self, ticket: int) -> None:
        with self._lock:
            self._cancelled = ticket
            if self._under_way == ticket and self._cancel is not None:
                self._cancel(True)

    def _read(self) -> None:
        # Without this thread the process could outlive its worker: whatever ends it, ends both.
        reader = FrameReader(TO_CHILD)
        try:
            while data := self._socket.recv(_READ_BYTES):
                for frame in reader.feed(data):
                    if isinstance(frame, Interrupt):
                        self._cancels(frame.ticket)
                    elif isinstance(frame, PreviewWanted):
                        self._link.has_room()
                    else:
                        self._frames.put(frame)
        except ProtocolError as error:
            print(error, file=sys.stderr, flush=True)  # noqa: T201 - the supervisor's log pipe
            os._exit(EXIT_GARBLED)
        finally:
            os._exit(EXIT_WORKER_GONE)


def serve(link: Link, inbox: Inbox, engine: Engine) -> None:
    """Serve requests until the process ends."""
    link.send(Ready(facts=engine.facts, cancels=engine.cancel is not None))
    while True:
        match inbox.next():
            case Draw() as request:
                _draw(link, inbox, engine, request)
            case Unload():
                engine.unload()
            case other:
                raise AssertionError(f"the inbox let {other!r} through")


def _draw(link: Link, inbox: Inbox, engine: Engine, request: Draw) -> None:
    link.begin(request.ticket)
    try:
        paintings = _painted(inbox, engine, request)
    except RefusalError as refusal:
        link.send(
            Declined(
                ticket=link.ticket,
                code=refusal.code,
                message=str(refusal),
                loading=refusal.loading,
            )
        )
        return
    finally:
        inbox.ends()
    if request.count > 1:
        # From here on the supervisor holds the first that it has not for the one that is at fault.
        link.at("finishing")
    for number, painting in enumerate(paintings):
        link.send_pixels(_drawn(request.ticket + number, painting), painting.pixels)


def _painted(inbox: Inbox, engine: Engine, request: Draw) -> list[Painting]:
    if not inbox.begins(request.ticket, engine.cancel):
        raise RefusalError("cancelled", "It was not begun.")
    return engine.draw(request)


def _drawn(ticket: int, painting: Painting) -> Drawn:
    return Drawn(
        ticket=ticket,
        width=painting.width,
        height=painting.height,
        channels=painting.channels,
        frames=painting.frames,
        load_s=painting.load_s,
        draw_s=painting.draw_s,
        sampling_s=painting.sampling_s,
        sampling_method=painting.sampling_method,
        scheduler=painting.scheduler,
        notes=painting.notes,
    )


def _shared(pixels: bytes) -> int:
    """A descriptor of an anonymous file with these bytes."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("picture")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    left = memoryview(pixels)
    while left:
        left = left[os.write(descriptor, left) :]
    return descriptor


def _nothing() -> None:
    pass
