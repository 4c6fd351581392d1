"""The worker's shell: receive, decide, carry out. All decisions are in the machine."""

import logging
import signal
import time
from collections.abc import Iterator, Mapping, Sequence

from sdistrib import limits
from sdistrib.errors import ProtocolError
from sdistrib.protocol.codec import Buffer, Codec, encode
from sdistrib.protocol.messages import MANAGER_TO_WORKER
from sdistrib.transport import Dealer, Watch
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.autosave import Autosaver
from sdistrib_worker.cache import InputCache, InputKeeper
from sdistrib_worker.encoder import Encoder
from sdistrib_worker.hours import Hours
from sdistrib_worker.link import EngineLink
from sdistrib_worker.lookout import Lookout
from sdistrib_worker.machine import Worker
from sdistrib_worker.mailbox import Mailbox
from sdistrib_worker.shelf import StoredFile

_LOG = logging.getLogger("sdistrib.worker")

#: Messages taken in one turn; a flood must not keep timers and sends from their turn.
_MESSAGES_PER_TURN = 1000
#: A request that the child has not wholly taken is offered again this soon.
_FLUSH_S = 0.01
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Loop:
    """Runs one worker against one manager until it is told to stop.

    Args:
        worker: the decisions.
        dealer: the connection to the manager; closed at the end.
        command: of the engine child, see `supervisor.EngineChild`.
        environment: variables for the engine child.
        cache: where input files are kept; used by nobody else in this process.
        hours: when the worker may work; None is always.
        autosaver: keeps copies of pictures; closed at the end. None keeps none.
    """

    def __init__(
        self,
        worker: Worker,
        dealer: Dealer,
        command: Sequence[str],
        environment: Mapping[str, str],
        cache: InputCache,
        hours: Hours | None = None,
        autosaver: Autosaver | None = None,
    ) -> None:
        self._worker = worker
        self._autosaver = autosaver
        self._dealer = dealer
        self._codec = Codec(MANAGER_TO_WORKER)
        #: Filled by this thread, by signal handlers, by the encoder and by the librarian.
        self._mailbox = Mailbox()
        self._exit_status: int | None = None
        self._watch = Watch()
        self._watch.add(dealer)
        self._engine = EngineLink(command, environment, self._watch)
        self._watch.add(self._mailbox.fileno())
        self._encoder = Encoder(self._mailbox.put)
        self._keeper = InputKeeper(cache, self._mailbox.put)
        self._lookout = Lookout(self._mailbox.put, environment, hours)

    def publish(self, files: tuple[StoredFile, ...]) -> None:
        """The inventory changed; may be called from any thread."""
        self._mailbox.put(events.InventoryChanged(files))

    def stop_on(self, *signals: signal.Signals) -> None:
        """Ask the worker to stop whenever one of these signals comes."""
        self._mailbox.stop_on(*signals)

    def run(self) -> int:
        """Turn until stopped; gives the exit status.

        Raises:
            ConfigError: the engine's program cannot be started at all, or its device not watched.
        """
        try:
            woke_at = time.monotonic()
            while self._exit_status is None:
                planned_s = self._planned_s()
                self._watch.wait(planned_s)
                late_s, woke_at = time.monotonic() - woke_at - planned_s, time.monotonic()
                if late_s > limits.LATE_TURN_S:
                    self._handle(events.TurnLate(late_s))
                self.turn()
        finally:
            self._close()
        return self._exit_status

    def turn(self) -> None:
        """Handle everything that is readable, then what is due."""
        self._mailbox.settle()
        for event in self._readable():
            self._handle(event)
        self._handle(events.TurnEnded())
        self._engine.poll_what_is_open()

    def _planned_s(self) -> float:
        if self._mailbox:
            return 0.0
        most_s = _FLUSH_S if self._engine.wants_write else limits.BEAT_S
        return min(max(self._worker.next_deadline() - time.monotonic(), 0.0), most_s)

    def _readable(self) -> Iterator[events.Event]:
        yield from self._engine.receive()
        for _ in range(_MESSAGES_PER_TURN):
            frames = self._dealer.receive()
            if frames is None:
                break
            yield self._decode(frames)
        while (event := self._mailbox.take()) is not None:
            yield event

    def _decode(self, frames: list[Buffer]) -> events.Event:
        try:
            received = self._codec.decode(frames)
        except ProtocolError as error:
            return events.Malformed(str(error))
        return events.MessageArrived(received.message, received.body)

    def _handle(self, event: events.Event) -> None:
        for effect in self._worker.handle(event, time.monotonic()):
            self._carry_out(effect)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(message, body):
                if self._dealer.send(encode(message, body)) != "sent":
                    self._mailbox.put(events.SendFailed(message))
            case fx.EncodePicture() | fx.EncodePreview() | fx.SavePicture():
                self._order(effect)
            case fx.OpenInput() | fx.WriteInput() | fx.CloseInput() | fx.ForgetInputs():
                self._keeper.order(effect)
            case fx.WatchDevice(facts):
                self._lookout.watch(facts)
            case fx.Log(level, text):
                _LOG.log(_LEVELS[level], text)
            case fx.Stop(exit_status, reason):
                self._exit_status = exit_status
                if reason:
                    _LOG.error(reason)
            case _:
                vanished = self._engine.carry_out(effect)
                if vanished is not None:
                    self._mailbox.put(vanished)

    def _order(self, order: fx.EncodePicture | fx.EncodePreview | fx.SavePicture) -> None:
        """Have something done by a thread."""
        if not isinstance(order, fx.SavePicture):
            self._encoder.order(order)
        elif self._autosaver is not None:
            self._autosaver.order(order)

    def _close(self) -> None:
        # What was said last leaves while the engine ends.
        self._dealer.close(linger_s=1.0)
        self._engine.stop()
        self._encoder.stop()
        if self._autosaver is not None:
            self._autosaver.stop()
        self._keeper.stop()
        self._lookout.stop()
        self._mailbox.close()
