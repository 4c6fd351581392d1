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
from sdistrib_manager import events
from sdistrib_manager.events import Event, Port
from sdistrib_manager.keeper import Keeper
from sdistrib_manager.machine import Manager
from sdistrib_manager.storage import Storage

_log = logging.getLogger("sdistrib.manager")

#: Messages taken in one turn; a flood must not keep timers and sends from their turn.
_MESSAGES_PER_TURN = 5000
#: What nothing depends on waits at most so long for the commit of something else.
_SOFT_S = 0.05
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


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


def _needs_commit(effect: fx.Effect) -> bool:
    """What was to be kept up to here must be before this takes place."""
    match effect:
        case fx.Keep(soft=soft):
            return not soft
        case fx.Checkpoint() | fx.Stop():
            return True
        case _:
            return False


class Loop:
    """Runs one manager over two ports until it is told to stop.

    Args:
        storage: what is kept; gives the manager too, anew after the store failed under one.
        ports: where clients and workers dial.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        storage: Storage,
        ports: dict[Port, Router],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._ports = ports
        self._codecs = {"client": Codec(CLIENT_TO_MANAGER), "worker": Codec(WORKER_TO_MANAGER)}
        self._clock = clock
        self._manager: Manager = storage.manager(clock(), time.time())
        self._events: deque[Event] = deque()
        self._running = True
        #: Why it cannot go on; raised when everything is closed.
        self._failure: StoreError | None = None
        #: What is still to be kept, and until when it may wait, see `_commit`.
        self._soft: list[fx.Keep] = []
        self._soft_until = 0.0
        #: Pictures to forget at the end of the turn, unless one of them is put again in it.
        self._doomed: set[str] = set()
        self._watch = Watch()
        for router in ports.values():
            self._watch.add(router)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._watch.add(self._wake_read)
        self._keeper = Keeper(storage.blobs, self._notify)

    def stop_on(self, *signals: signal.Signals) -> None:
        """End cleanly when one of these signals comes."""
        for number in signals:
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._events.append(events.StopRequested())

    def _notify(self, *found: Event) -> None:
        self._events.extend(found)
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop as well
            os.write(self._wake_write, b"\0")

    def run(self) -> None:
        """Turn until stopped.

        Raises:
            StoreError: what is kept can neither be written nor read back.
        """
        try:
            woke_at = self._clock()
            while self._running:
                due_s = self._manager.next_deadline() - self._clock()
                most_s = _SOFT_S if self._soft else limits.BEAT_S
                planned_s = 0.0 if self._events else min(max(due_s, 0.0), most_s)
                self._watch.wait(planned_s)
                slept_s, woke_at = self._clock() - woke_at, self._clock()
                if slept_s - planned_s > limits.LATE_TURN_S:
                    self._manager.forgive(slept_s - planned_s)
                self.turn()
        finally:
            signal.set_wakeup_fd(-1)
            self._keeper.close()
            self._storage.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
        if self._failure is not None:
            raise self._failure

    def turn(self) -> None:
        """Handle everything that is readable, then keep, commit and send what follows from it."""
        if self._storage.recovered(self._clock(), self._manager.is_held):
            self._events.append(events.StoreRecovered())
        outbox: list[fx.Effect] = []
        for event in self._readable():
            self._handle(event, outbox)
        self._handle(events.TurnEnded(), outbox)
        try:
            self._commit(outbox)
        except StoreError as error:
            self._start_over(error)
            return
        # Order matters only among the messages to one client, or to one worker about one attempt.
        for effect in sorted(outbox, key=_urgency):
            self._carry_out(effect)
        self._drop_doomed()

    def _commit(self, outbox: list[fx.Effect]) -> None:
        """Keep what this turn has brought, before anything follows from it.

        What nothing depends on, as a client's word that it has a picture, is worth no sync of its
        own: it waits a little for a turn that has more to keep.
        """
        if not self._soft:
            self._soft_until = self._clock() + _SOFT_S
        self._soft += (effect for effect in outbox if isinstance(effect, fx.Keep))
        if self._doomed or self._clock() >= self._soft_until or any(map(_needs_commit, outbox)):
            keeps, self._soft = self._soft, []
            self._storage.commit(keeps)

    def _drop_doomed(self) -> None:
        while self._doomed:
            self._storage.blobs.drop(self._doomed.pop())

    def _start_over(self, error: StoreError) -> None:
        """Nothing of this turn happened: what is kept is all that is known, and peers resync."""
        self._doomed.clear()
        self._soft.clear()
        try:
            self._manager = self._storage.manager(self._clock(), time.time(), trouble=str(error))
        except StoreError as worse:
            self._failure = StoreError(f"{error}; nor read it back: {worse}")
            self._running = False
        else:
            _log.error("%s; nothing new is accepted until writing works again", error)

    def _handle(self, event: Event, outbox: list[fx.Effect]) -> None:
        pending: list[Event] = [event]
        while pending:
            now, wall = self._clock(), time.time()
            for effect in self._manager.handle(pending.pop(), now, wall):
                # A picture must be kept before the commit of the row that names it.
                if isinstance(effect, fx.PutBlob):
                    self._doomed.discard(effect.digest)
                    self._storage.remember(effect.digest, effect.parts, now)
                    if answer := self._keeper.put(effect.digest, effect.parts):
                        pending.append(answer)
                elif isinstance(effect, fx.DropBlob):
                    self._doomed.add(effect.digest)
                else:
                    outbox.append(effect)

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
            return events.Malformed(port, route, str(error))
        return events.MessageArrived(port, route, received.message, received.body)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(port, route, message, body):
                self._sent(port, route, self._ports[port].send(route, encode(message, body)))
            case fx.SendPicture():
                self._send_picture(effect)
            case fx.Checkpoint():
                # Whoever is told next that it is forgotten may look.
                self._drop_doomed()
                self._storage.checkpoint(self._clock())
            case fx.Log(level, text):
                _log.log(_LEVELS[level], text)
            case fx.Stop():
                self._running = False
            case _:
                pass  # kept and committed before

    def _send_picture(self, send: fx.SendPicture) -> None:
        try:
            blob = self._storage.view(send.digest, self._clock())
        except StoreError as error:
            self._events.append(events.BlobMissing(send.digest, str(error)))
            return
        piece = memoryview(blob)[send.start : send.end]
        frames = encode(send.message, piece)
        self._sent(send.port, send.route, self._ports[send.port].send(send.route, frames))
        if send.end >= len(blob):
            self._storage.sent(send.digest)

    def _sent(self, port: Port, route: bytes, outcome: SendOutcome) -> None:
        if outcome == "gone":
            self._events.append(events.PeerGone(port, route))
        elif outcome == "full":
            self._events.append(events.PeerFull(port, route))
