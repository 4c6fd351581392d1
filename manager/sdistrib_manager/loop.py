"""The manager's shell: receive, decide, keep, commit, send. All decisions are in the machine."""

import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType

from sdistrib import limits
from sdistrib.errors import ProtocolError, StoreError
from sdistrib.protocol.codec import Buffer, Codec, encode
from sdistrib.protocol.messages import CLIENT_TO_MANAGER, WORKER_TO_MANAGER, ResultRecorded
from sdistrib.transport import Router, SendOutcome, Watch
from sdistrib_manager import effects as fx
from sdistrib_manager.events import (
    BlobFailed,
    BlobStored,
    Event,
    Malformed,
    MessageArrived,
    PeerFull,
    PeerGone,
    Port,
    StopRequested,
    TurnEnded,
)
from sdistrib_manager.machine import Manager
from sdistrib_manager.store.base import Blobs, Store

_log = logging.getLogger("sdistrib.manager")

#: Messages taken in one turn; a flood must not keep timers and sends from their turn.
_MESSAGES_PER_TURN = 5000
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_KEEPS = (fx.KeepPetition, fx.KeepPetitionState, fx.KeepImage, fx.ForgetPetition)


def _urgency(effect: fx.Effect) -> int:
    """Engines first, then clients; nobody waits for a worker to hear that its result is kept."""
    match effect:
        case fx.Send(message=ResultRecorded()):
            return 2
        case fx.Send(port="worker"):
            return 0
        case fx.Log():
            return 3
        case _:
            return 1


class Loop:
    """Runs one manager over two ports until it is told to stop."""

    def __init__(
        self,
        manager: Manager,
        store: Store,
        blobs: Blobs,
        ports: dict[Port, Router],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._store = store
        self._blobs = blobs
        self._ports = ports
        self._codecs = {"client": Codec(CLIENT_TO_MANAGER), "worker": Codec(WORKER_TO_MANAGER)}
        self._clock = clock
        self._events: deque[Event] = deque()
        self._running = True
        #: Pictures to forget at the end of the turn, unless one of them is put again in it.
        self._doomed: set[str] = set()
        self._watch = Watch()
        for router in ports.values():
            self._watch.add(router)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._watch.add(self._wake_read)

    def stop_on(self, *signals: signal.Signals) -> None:
        """End cleanly when one of these signals comes."""
        for number in signals:
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._events.append(StopRequested())

    def run(self) -> None:
        """Turn until stopped."""
        try:
            woke_at = self._clock()
            while self._running:
                due_s = self._manager.next_deadline() - self._clock()
                planned_s = 0.0 if self._events else min(max(due_s, 0.0), limits.BEAT_S)
                self._watch.wait(planned_s)
                slept_s, woke_at = self._clock() - woke_at, self._clock()
                if slept_s - planned_s > limits.LATE_TURN_S:
                    self._manager.forgive(slept_s - planned_s)
                self.turn()
        finally:
            self._store.close()
            os.close(self._wake_read)
            signal.set_wakeup_fd(-1)
            os.close(self._wake_write)

    def turn(self) -> None:
        """Handle everything that is readable, then keep, commit and send what follows from it."""
        outbox: list[fx.Effect] = []
        for event in self._readable():
            self._handle(event, outbox)
        self._handle(TurnEnded(), outbox)
        try:
            self._store.commit([keep for keep in outbox if isinstance(keep, _KEEPS)])
        except StoreError:
            _log.exception("the store cannot keep this turn; stopping")
            self._running = False
            return
        # Order matters only among the messages to one client, or to one worker about one attempt.
        for effect in sorted(outbox, key=_urgency):
            self._carry_out(effect)
        while self._doomed:
            self._blobs.drop(self._doomed.pop())

    def _handle(self, event: Event, outbox: list[fx.Effect]) -> None:
        pending = [event]
        while pending:
            for effect in self._manager.handle(pending.pop(), self._clock()):
                # A picture must be kept before the commit of the row that names it.
                if isinstance(effect, fx.PutBlob):
                    pending.append(self._put(effect))
                elif isinstance(effect, fx.DropBlob):
                    self._doomed.add(effect.digest)
                else:
                    outbox.append(effect)

    def _put(self, put: fx.PutBlob) -> Event:
        self._doomed.discard(put.digest)
        try:
            self._blobs.put(put.digest, put.parts)
        except StoreError as error:
            return BlobFailed(put.digest, str(error))
        return BlobStored(put.digest)

    def _readable(self) -> Iterator[Event]:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while self._events:
            yield self._events.popleft()
        for port, router in self._ports.items():
            for _ in range(_MESSAGES_PER_TURN):
                received = router.receive()
                if received is None:
                    break
                yield self._decode(port, *received)

    def _decode(self, port: Port, route: bytes, frames: list[Buffer]) -> Event:
        try:
            received = self._codecs[port].decode(frames)
        except ProtocolError as error:
            return Malformed(port, route, str(error))
        return MessageArrived(port, route, received.message, received.body)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(port, route, message, body):
                self._sent(port, route, self._ports[port].send(route, encode(message, body)))
            case fx.SendPicture():
                self._send_picture(effect)
            case fx.Log(level, text):
                _log.log(_LEVELS[level], text)
            case fx.Stop():
                self._running = False
            case _:
                pass  # kept and committed before

    def _send_picture(self, send: fx.SendPicture) -> None:
        try:
            blob = self._blobs.view(send.digest)
        except StoreError as error:
            _log.error("a picture to be sent is lost: %s", error)
            return
        piece = memoryview(blob)[send.start : send.end]
        frames = encode(send.message, piece)
        self._sent("client", send.route, self._ports["client"].send(send.route, frames))

    def _sent(self, port: Port, route: bytes, outcome: SendOutcome) -> None:
        if outcome == "gone":
            self._events.append(PeerGone(port, route))
        elif outcome == "full":
            self._events.append(PeerFull(port, route))
