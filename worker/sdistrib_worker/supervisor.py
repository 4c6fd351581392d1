"""Starts, feeds, watches and ends one engine child. Nothing here imports the engine.

Theory of operation. The child is a fresh interpreter. It hears and speaks frames of
`sdistrib.protocol.engine` on one end of a Unix socketpair and writes everything else (its own
stdout and stderr, the engine's C++ output, faulthandler's dump) into one pipe. The owner polls
`filenos()` and calls `receive()` when one is readable; `receive()` never blocks, drains both, and
hands out frames, pictures with their pixels, log lines, and at the end exactly one `Died`.

Pixels lie in an anonymous shared-memory file whose descriptor came with the `Drawn` frame: they are
ours as soon as they were sent, whatever becomes of the child.

One thread uses an `EngineChild`, and it must be the main thread: Linux sends PR_SET_PDEATHSIG when
the *thread* that spawned the child ends, not the process.
"""

import array
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from sdistrib import limits
from sdistrib.errors import ConfigError, EngineError, ErrorCode, ErrorInfo, ProtocolError
from sdistrib.protocol.engine import (
    FROM_CHILD,
    At,
    Began,
    Declined,
    Drawn,
    EngineFrame,
    FrameReader,
    LogLine,
    Previewed,
    Ready,
    encode_frame,
)
from sdistrib_worker.engine.death import OomKills, signal_name, tail, verdict
from sdistrib_worker.engine.device import device_environment
from sdistrib_worker.engine.picture import Glimpse, Picture
from sdistrib_worker.engine.stray import StrayOutput

__all__ = [
    "FD", "Died", "EngineChild", "Event", "Glimpse", "Picture", "device_environment",
    "engine_command",
]  # fmt: skip

#: Word of the command that `start` replaces by the number of the child's socket.
FD = "{fd}"
_READ_BYTES = 64 * limits.KIB
#: Read per call of `receive`, so that a flooding child cannot hold the worker's loop.
_TURN_BYTES = 1 * limits.MIB
#: A child whose socket has closed is a zombie within microseconds; if not, it is ended.
_REAP_S = 0.25
#: Descriptors that one message may carry; a picture brings one.
_FDS_PER_MESSAGE = 4
#: Requests are a few KiB and a child has at most two: a longer backlog is a bug of ours.
_OUTBOX_BYTES_MAX = 4 * limits.ENGINE_FRAME_BYTES_MAX


class Died(msgspec.Struct, frozen=True, kw_only=True):
    """The child is gone and reaped; the last event of an `EngineChild`."""

    #: The reason as it may cross the wire: code, message, signal and the last log lines.
    info: ErrorInfo
    #: Exit status, or None when a signal ended it.
    exit_status: int | None
    #: "SIGSEGV", …; "" when it exited.
    signal_name: str
    #: It had said `Ready`; a child that dies before that will hardly do better when started again.
    was_ready: bool
    #: We ended it (`kill`): no fault of the image.
    ours: bool
    #: It refused its device before `Ready`: a reason not to start, never to try again.
    refused: bool


#: What `receive` hands out. A `Drawn` frame only ever comes inside its `Picture`, a `Previewed`
#: inside its `Glimpse`.
Event = EngineFrame | Picture | Glimpse | Died


def engine_command(device: str = "auto") -> tuple[str, ...]:
    """The command of the real engine; goes with `device_environment(device, os.environ)`.

    `-P` keeps a module that lies in the folder the worker was started from out of the child.
    """
    module = ("-P", "-m", "sdistrib_worker.engine")
    return (sys.executable, *module, FD, "--device", device)


class EngineChild:
    """One engine child from its start to its death; make a new one for the next.

    Args:
        command: program and arguments; the argument `FD` ("{fd}") becomes the number of the
            inherited socket.
        environment: variables added to this process's own.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        if FD not in command:
            raise ValueError(f"the engine's command has no {FD!r}: {command}")
        self._command = tuple(command)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._stray: StrayOutput | None = None
        self._reader = FrameReader(FROM_CHILD)
        self._descriptors: deque[int] = deque()
        self._outbox = bytearray()
        self._log: deque[str] = deque(maxlen=3 * limits.LOG_TAIL_LINES)
        self._ready: Ready | None = None
        self._refusal = ""
        self._doing = "while starting"
        self._ended_by_us: ErrorInfo | None = None
        self._oom_kills: OomKills | None = None

    @property
    def pid(self) -> int:
        """Process id of the running child; 0 before `start` and after its death."""
        return self._process.pid if self._process else 0

    @property
    def ready(self) -> Ready | None:
        """The child's `Ready` frame, once it has come."""
        return self._ready

    @property
    def wants_write(self) -> bool:
        """A request is not wholly sent: poll the socket, `filenos()[0]`, for writing as well."""
        return bool(self._outbox)

    def start(self) -> None:
        """Spawn the child.

        Raises:
            ConfigError: the program cannot be started at all.
            RuntimeError: not called from the main thread, or called twice.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the engine child must be started from the main thread")
        if self._process or self._socket:
            raise RuntimeError("this engine child was started before")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        log_read, log_write = os.pipe()
        try:
            self._process = subprocess.Popen(
                [str(theirs.fileno()) if word == FD else word for word in self._command],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log_write,
                stderr=log_write,
                pass_fds=(theirs.fileno(),),
            )
        except OSError as error:
            ours.close()
            os.close(log_read)
            raise ConfigError(f"cannot start the engine {self._command[0]!r}: {error}") from error
        finally:
            theirs.close()
            os.close(log_write)
        ours.setblocking(False)
        self._socket, self._stray = ours, StrayOutput(log_read)
        self._oom_kills = OomKills(self._process.pid)

    def filenos(self) -> tuple[int, ...]:
        """Descriptors to poll for reading: the socket first, then the log pipe; none when dead."""
        if self._socket is None:
            return ()
        stray = self._stray.fileno() if self._stray else -1
        return (self._socket.fileno(), stray) if stray >= 0 else (self._socket.fileno(),)

    def send(self, frame: EngineFrame) -> None:
        """Hand a request to the child; never blocks. To a dead child it says nothing: `Died` does.

        Raises:
            EngineError: the child has left 4 MiB of requests unread.
        """
        if self._socket is None:
            return
        self._outbox += encode_frame(frame)
        if len(self._outbox) > _OUTBOX_BYTES_MAX:
            message = f"The engine left {len(self._outbox)} bytes of requests unread."
            raise EngineError(ErrorInfo(code="engine_hung", message=message))
        self._flush()

    def receive(self) -> list[Event]:
        """Everything that has come since the last call, in order; never blocks.

        After the `Died` it returns nothing more, and `filenos()` is empty.
        """
        if self._socket is None:
            return []
        self._flush()
        events: list[Event] = []
        fault = ""
        try:
            gone = self._read_frames(self._socket, events)
        except ProtocolError as error:
            fault, gone = str(error), True
        status = _reap(self._process, kill=bool(fault)) if gone and self._process else 0
        # Stray output after the frames: at a death it holds the last words.
        events += self._read_stray()
        if gone:
            events.append(self._bury(status, fault))
        return events

    def kill(self, reason: str, code: ErrorCode = "engine_hung") -> None:
        """End the child at once (a hang, a cancel); the `Died` that follows says `ours`.

        Args:
            reason: one sentence for the error's message.
            code: the error's code, "engine_hung" or "cancelled".
        """
        if self._process is None:
            return
        if self._ended_by_us is None:
            self._ended_by_us = ErrorInfo(code=code, message=reason, signal="SIGKILL")
        self._process.kill()

    def stop(self, grace_s: float = limits.ENGINE_STOP_S) -> None:
        """End the child for good: politely, then by SIGKILL; reap it and close everything.

        Blocks up to `grace_s`. No `Died` follows. What it had sent and was not received is lost.
        """
        if self._process is None or self._socket is None:
            return
        with contextlib.suppress(OSError):  # the child may have closed its end just now
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def await_ready(self, timeout_s: float = limits.ENGINE_START_S) -> Ready:
        """Block until the child says `Ready`; for a program's start, outside its loop.

        Raises:
            ConfigError: the child refused its device; the message says what there is.
            EngineError: it died or stayed silent.
        """
        if self._ready is not None:
            return self._ready
        deadline = time.monotonic() + timeout_s
        while True:
            poller = select.poll()
            for descriptor in self.filenos():
                poller.register(descriptor, select.POLLIN)
            poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            for event in self.receive():
                if isinstance(event, Ready):
                    return event
                if isinstance(event, Died):
                    if event.refused:
                        raise ConfigError(event.info.message)
                    raise EngineError(event.info)
            if time.monotonic() > deadline:
                self.kill(f"The engine was not ready within {timeout_s:g} s.")

    # --- reading ----------------------------------------------------------------------------

    def _read_frames(self, sock: socket.socket, events: list[Event]) -> bool:
        """Append what came on the socket to `events`; True when the child closed it."""
        space = socket.CMSG_SPACE(_FDS_PER_MESSAGE * array.array("i").itemsize)
        for _ in range(_TURN_BYTES // _READ_BYTES):
            try:
                data, extra, flags, _ = sock.recvmsg(_READ_BYTES, space, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True
            self._keep_descriptors(extra)
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError("the engine's stream is garbled: too many descriptors")
            if not data:
                return True
            for frame in self._reader.feed(data):
                # One by one: what came before a garbled frame counts.
                events.append(self._noted(frame))  # noqa: PERF401
        return False

    def _keep_descriptors(self, extra: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._descriptors.extend(fds)

    def _noted(self, frame: EngineFrame) -> Event:
        """Remember what a death would have to be told with; join a `Drawn` with its pixels."""
        match frame:
            case Ready():
                self._ready, self._doing = frame, "while idle"
            case Began():
                # Older lines are other images' stories; a death is judged by this one's.
                self._log.clear()
                self._doing = "while beginning"
            case At(phase=phase, step=step, steps=steps):
                self._doing = f"while {phase}" + (f", step {step} of {steps}" if steps else "")
            case Declined(ticket=0, message=message) if self._ready is None:
                self._refusal = message
            case Declined():
                self._doing = "while idle"
            case LogLine(level=level, text=text) if level > 0:
                self._log.append(text)
            case Drawn():
                self._doing = "while idle"
                return Picture(frame, self._next_descriptor())
            case Previewed():
                return Glimpse(frame, self._next_descriptor())
            case _:
                pass
        return frame

    def _next_descriptor(self) -> int:
        if not self._descriptors:
            raise ProtocolError("the engine's stream is garbled: a picture without pixels")
        return self._descriptors.popleft()

    def _read_stray(self) -> list[LogLine]:
        lines = self._stray.read() if self._stray else []
        self._log.extend(lines)
        return [LogLine(level=1, text=line) for line in lines]

    # --- writing and ending -----------------------------------------------------------------

    def _flush(self) -> None:
        while self._outbox and self._socket is not None:
            try:
                sent = self._socket.send(self._outbox)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                # Its death shows on the reading side, behind what it still sent.
                self._outbox.clear()
                return
            del self._outbox[:sent]

    def _bury(self, status: int, fault: str) -> Died:
        self._log.extend(self._stray.rest() if self._stray else [])
        # A child that crashed just before our signal came did so on its own account.
        ours = self._ended_by_us if status == -signal.SIGKILL else None
        refused = bool(self._refusal) and ours is None
        if ours is not None:
            info = msgspec.structs.replace(ours, log_tail=tail(self._log))
        elif refused:
            info = ErrorInfo(code="unsupported", message=self._refusal, log_tail=tail(self._log))
        else:
            oom_kill = self._oom_kills.risen() if self._oom_kills else ""
            info = verdict(status, self._log, self._doing, oom_kill, fault)
        self._close()
        return Died(
            info=info,
            exit_status=status if status >= 0 else None,
            signal_name=signal_name(status),
            was_ready=self._ready is not None,
            ours=ours is not None,
            refused=refused,
        )

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())
        if self._stray is not None:
            self._stray.close()
            self._stray = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._process = None
        self._outbox.clear()


def _reap(process: subprocess.Popen[bytes], kill: bool) -> int:
    """Wait status of a child whose socket is closed: a zombie, or about to be one."""
    if not kill:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_REAP_S)
    process.kill()
    return process.wait()
