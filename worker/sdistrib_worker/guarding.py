"""The guardian's shell: starts the workers, passes their words and the signals on.

Each worker leads a process group of its own, so that a Ctrl-C of the terminal reaches it once,
through the guardian. Should the guardian be killed, the kernel tells each worker to stop (Linux).
"""

import contextlib
import ctypes
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from sdistrib_worker.effects import Log
from sdistrib_worker.guardian import (
    Effect,
    Ended,
    Event,
    Guardian,
    Leave,
    StartWorker,
    StopAsked,
    StopWorker,
    Ticked,
)

_LOG = logging.getLogger("sdistrib.worker")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PR_SET_PDEATHSIG = 1
#: Read at once of a log; a line that is longer comes in pieces.
_READ_BYTES = 65536
#: At most so long between two looks for dead workers, should their signal have been missed.
_LOOK_S = 1.0

#: Makes the command of one device's worker.
WorkerCommand = Callable[[str], Sequence[str]]


def guard(devices: Sequence[str], command: WorkerCommand) -> int:
    """Keep one worker for each device until all have ended; gives the worst exit status.

    Must be called from the main thread: Linux tells a process of its parent's death when the thread
    that started it ends.
    """
    keeper = _Keeper(devices, command)
    try:
        return keeper.run()
    finally:
        keeper.close()


def labelled(device: str, line: bytes) -> bytes:
    """One line of a worker's log with its device in front, within the object where it is JSON."""
    if line.startswith(b'{"'):
        return b'{"device": "%s", ' % device.encode() + line[1:]
    return b"[%s] " % device.encode() + line


class _Keeper:
    def __init__(self, devices: Sequence[str], command: WorkerCommand) -> None:
        self._guardian = Guardian(devices)
        self._command = command
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._selector = selectors.DefaultSelector()
        #: What is left of each open log's last line.
        self._parts: dict[str, bytes] = {}
        self._stops = 0
        self._status: int | None = None
        self._wake, self._wakes = os.pipe()
        for end in (self._wake, self._wakes):
            os.set_blocking(end, False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, _on_child)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)

    def run(self) -> int:
        """Turn until all have ended."""
        while self._status is None:
            for _ in range(self._taken_stops()):
                self._handle(StopAsked())
            self._handle(Ticked())
            if self._status is None:
                self._listen()
                self._bury()
        return self._status

    def close(self) -> None:
        """End what still runs, without ceremony, and close everything."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for worker in self._workers.values():
            worker.kill()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
        self._selector.close()
        os.close(self._wake)
        os.close(self._wakes)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1

    def _taken_stops(self) -> int:
        taken, self._stops = self._stops, 0
        return taken

    def _handle(self, event: Event) -> None:
        for effect in self._guardian.handle(event, time.monotonic()):
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case StartWorker(device):
                self._start(device)
            case StopWorker(device):
                self._workers[device].terminate()
            case Log(level, text):
                _LOG.log(_LEVELS[level], text)
            case Leave(status):
                self._status = status

    def _start(self, device: str) -> None:
        worker = subprocess.Popen(
            self._command(device),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_tied_to(os.getpid()),  # noqa: PLW1509 - this process has one thread
        )
        self._workers[device], self._parts[device] = worker, b""
        if worker.stdout is not None:
            os.set_blocking(worker.stdout.fileno(), False)
            self._selector.register(worker.stdout, selectors.EVENT_READ, device)

    def _listen(self) -> None:
        """Wait for something to happen, and pass on what was said."""
        late_s = max(0.0, self._guardian.next_deadline() - time.monotonic())
        for key, _ in self._selector.select(min(late_s, _LOOK_S)):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            else:
                self._pass_on(key.data)

    def _pass_on(self, device: str) -> bool:
        """Pass on what a worker has said; False when there is nothing more for now."""
        stream = self._workers[device].stdout
        if stream is None or stream.closed:
            return False
        try:
            data = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        *lines, rest = (self._parts[device] + data).split(b"\n")
        if not data or len(rest) > _READ_BYTES:
            lines, rest = [*lines, *([rest] if rest else [])], b""
        self._parts[device] = rest
        # Whoever read this log may have gone; the workers go on without.
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.write(
                "".join(labelled(device, line).decode("utf-8", "replace") + "\n" for line in lines)
            )
            sys.stderr.flush()
        if not data:
            self._selector.unregister(stream)
            stream.close()
        return bool(data)

    def _bury(self) -> None:
        for device, worker in list(self._workers.items()):
            status = worker.poll()
            if status is None:
                continue
            while self._pass_on(device):  # its last words are in the pipe
                pass
            if worker.stdout is not None and not worker.stdout.closed:
                self._selector.unregister(worker.stdout)
                worker.stdout.close()
            del self._workers[device]
            self._handle(Ended(device, status))


def _on_child(number: int, frame: FrameType | None) -> None:
    """Wakes the loop by being a signal at all."""


def _tied_to(guardian: int) -> Callable[[], None] | None:
    """What a worker does before it begins: order to be told to stop when its guardian dies."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)

    def tie() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guardian:  # it died before the signal was ordered
            os._exit(0)

    return tie
