"""A client's decisions, as one pure machine.

Theory of operation. `Requests.handle` takes an event and the monotonic time and gives back effects.
One machine serves one connection and any number of petitions and questions on it. Until the
manager's `Welcome`, nothing but a hello leaves; with each welcome everything that is open is said
again: the same id, the same bytes. That makes a lost message, a new connection and a restarted
manager one case. What cannot be sent is dropped for the same reason.

A picture is handed out once, when all its bytes are here and have the digest announced. It counts
as seen, and its credit returns to the manager, only when the caller is done with it
(`PictureTaken`); a repeat of one that was seen is answered and dropped. So a client that dies with
a picture in its hands has not lost it.

Everything ends: by the manager's word, by a silence that is too long, by the petition's own time
limit, or by a cancel that is not confirmed in time. A gap between two events that no loop of ours
would leave (a paused program, a suspended machine) does not count as anybody's silence.

There is no clock, socket, disk, thread or chance in here.
"""

from typing import assert_never

from sdistrib import limits
from sdistrib.errors import ErrorInfo, ProtocolError
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, Codec
from sdistrib_client import effects, events
from sdistrib_client.effects import Effect, Ending
from sdistrib_client.link import CONNECT_TIMEOUT_S, Link
from sdistrib_client.questions import ANSWER_TIMEOUT_S, Asking, Questions, asking_of
from sdistrib_client.tracker import Tracked, Transfer

__all__ = ["ANSWER_TIMEOUT_S", "Requests"]

_CODEC = Codec(wire.MANAGER_TO_CLIENT)


class Requests:
    """Takes events and the time, gives back effects."""

    def __init__(
        self,
        address: str,
        software: str,
        now: float,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._software = software
        #: Time, less the gaps that were this machine's own fault.
        self._now = now
        self._forgiven_s = 0.0
        self._link = Link(address, now, connect_timeout_s)
        self._petitions: dict[str, Tracked] = {}
        self._questions = Questions()
        self._transfers: dict[str, Transfer] = {}
        self._out: list[Effect] = []

    @property
    def busy(self) -> bool:
        """Somebody waits for something."""
        return bool(self._petitions or self._questions)

    def handle(self, event: events.Event, now: float) -> list[Effect]:
        """What is to be done about one event, in order."""
        self._advance(now)
        match event:
            case events.FramesReceived(frames):
                self._receive(frames)
            case events.SendFailed():
                self._link.unsent(self._now)
            case events.InputLost(petition_id, error):
                self._input_lost(petition_id, error)
            case events.Tick():
                self._tick()
            case _:
                self._wish(event)
        out, self._out = self._out, []
        return out

    def _wish(self, event: events.Wish) -> None:
        match event:
            case events.PetitionMade():
                opening = wire.Submit(id=event.id, detach=event.detach, previews=event.previews)
                self._open(
                    Tracked(opening, event.body, event.images, event.timeout_s, event.inputs)
                )
            case events.PetitionSought(petition_id, images, again, wait, previews):
                attach = wire.Attach(id=petition_id, again=again, wait=wait, previews=previews)
                self._open(Tracked(attach, b"", images))
            case events.RetryWished():
                retry = wire.Retry(id=event.id, detach=event.detach, previews=event.previews)
                self._open(Tracked(retry, event.body, event.images, inputs=event.inputs))
            case events.PetitionLeft(petition_id):
                self._left(petition_id)
            case events.PictureTaken() | events.PreviewTaken():
                self._taken(event)
            case events.CancelWished(petition_id):
                self._cancel_wished(petition_id)
            case events.QuestionAsked() | events.PurgeWished() | events.ControlWished():
                self._ask(event.number, asking_of(event))
            case events.PlanWished(number, body):
                self._ask(number, asking_of(event), body)
            case events.UserLeft():
                self._send(wire.Goodbye(reason="the client is done"))
            case _:
                assert_never(event)

    def next_deadline(self) -> float:
        """Time at which a `Tick` is due even if nothing happens."""
        due = [self._now + limits.BEAT_S]
        if self._link.welcomed:
            due.append(self._link.pulse.sent_at + limits.BEAT_S)
        else:
            due.append(self._link.hello_at)
        if self.busy:
            due.append(self._link.deadline())
        due += self._questions.deadlines()
        due += [at for petition in self._petitions.values() for at in petition.deadlines()]
        return max(min(due), self._now) + self._forgiven_s

    def _advance(self, now: float) -> None:
        gap_s = now - self._forgiven_s - self._now
        if gap_s > limits.BEAT_S + limits.LATE_TURN_S:
            self._forgiven_s += gap_s - limits.BEAT_S
        self._now = max(self._now, now - self._forgiven_s)

    def _send(self, message: wire.Message, body: bytes | None = None) -> None:
        """Say something to a manager that knows us; what it misses is said again at a welcome."""
        if self._link.welcomed:
            self._link.pulse.sent(self._now)
            self._out.append(effects.Send(message, body))

    # What the manager says.

    def _receive(self, frames: list[Buffer]) -> None:
        try:
            received = _CODEC.decode(frames)
        except ProtocolError as error:
            text = f"The manager at {self._link.address} is not understood: {error}."
            self._end_all(_refusal(ErrorInfo(code="protocol_error", message=text)))
            return
        self._link.heard(self._now)
        if isinstance(received.message, wire.Result):
            self._result(received.message, received.body)
        elif isinstance(received.message, wire.Chunk):
            self._chunk(received.message, received.body)
        elif isinstance(received.message, wire.Preview):
            self._preview(received.message, bytes(received.body))
        elif isinstance(received.message, wire.Answer):
            self._out += self._questions.answered(received.message, bytes(received.body))
        else:
            self._understand(received.message)

    def _understand(self, said: wire.Message) -> None:
        match said:
            case wire.Welcome() as message:
                self._welcome(message)
            case wire.Identify():
                self._link.forgotten(self._now)
                self._greet_if_due()
            case wire.Goodbye(reason=reason):
                self._link.left(self._now)
                self._notify(f"The manager at {self._link.address} says goodbye: {reason}.")
            case wire.Fault(error=fault):
                self._end_all(_refusal(fault))
            case wire.Purged() as purged:
                self._out += self._questions.purged(purged)
            case wire.Controlled() as controlled:
                self._out += self._questions.controlled(controlled)
            case wire.Planned() as planned:
                self._out += self._questions.planned(planned)
            case wire.ChunkSeen() as seen:
                self._input_seen(seen)
            case wire.Beat():
                pass
            case _:
                self._about_petition(said)

    def _about_petition(self, message: wire.Message) -> None:
        petition = self._petitions.get(getattr(message, "id", ""))
        if isinstance(message, wire.Refused) and (petition is None or petition.accepted):
            # Either a purge is refused, or what was accepted is forgotten.
            refused = list(self._questions.refused(message))
            self._out += refused
            petition = None if refused else petition
        if petition is not None:
            self._about(petition, message)

    def _about(self, petition: Tracked, message: wire.Message) -> None:
        match message:
            case wire.Accepted():
                self._accepted(petition, message)
            case wire.Need(digests=digests):
                self._need(petition, digests)
            case wire.Progress():
                self._out.append(effects.ShowProgress(message))
                self._send(wire.ProgressSeen(id=petition.id))
            case wire.Refused(error=error):
                self._end(petition, _refusal(error))
            case wire.Finished():
                if petition.asks_again(message):
                    self._say(petition)
                else:
                    self._end(petition, petition.finished(message))
            case wire.Cancelled(done=done, state=state):
                petition.withdrawn = frozenset(done)
                if petition.cancel_by is not None or petition.drained:
                    self._end(petition, petition.cancelled(confirmed=True, done=done, state=state))
            case _:
                raise AssertionError("only messages that name a petition by id come here")

    def _accepted(self, petition: Tracked, message: wire.Accepted) -> None:
        if petition.accepted:
            return
        petition.was_accepted()
        petition.start_clock(self._now)
        self._out.append(effects.ShowAccepted(message))
        if petition.detached:
            self._end(petition, Ending(outcome="detached"))

    def _welcome(self, message: wire.Welcome) -> None:
        if message.protocol != wire.VERSION:
            text = (
                f"The manager at {self._link.address} ({message.software}) chose protocol"
                f" {message.protocol}; only {wire.VERSION} is spoken here."
            )
            self._end_all(_refusal(ErrorInfo(code="protocol_error", message=text)))
            return
        if self._link.welcomed:
            return
        self._notify(self._link.welcome(self._now))
        for petition in self._petitions.values():
            self._say(petition)
        for question in self._questions.messages():
            self._send(*question)

    def _result(self, result: wire.Result, body: Buffer) -> None:
        key = (result.attempt.id, result.attempt.index)
        petition = self._petitions.get(key[0])
        if petition is None:
            # We have given it up; the picture stays due for others.
            self._send(wire.Detach(id=key[0]))
            return
        if key[1] >= petition.images or key[1] in petition.taken:
            self._send(wire.ResultSeen(id=key[0], index=key[1]))
            return
        if key[1] in petition.given:
            # The caller still holds it; the answer goes out when he is done.
            return
        transfer = self._transfers.get(result.digest)
        if transfer is None or len(body) or transfer.incoming.size_bytes != result.size_bytes:
            waiting = transfer.wanted if transfer is not None else {}
            transfer = self._transfers[result.digest] = Transfer(result, waiting)
        transfer.wanted[key] = result
        if len(body) or not result.size_bytes:
            self._take(transfer, 0, body)
        elif transfer.incoming.received:
            # Pieces of an older connection are here: the manager may go on behind them.
            self._piece_seen(result.digest, transfer.incoming.received)

    def _chunk(self, chunk: wire.Chunk, body: Buffer) -> None:
        transfer = self._transfers.get(chunk.digest)
        if transfer is None:
            # Nobody waits for it any more; unanswered it would hold the manager's credit.
            self._piece_seen(chunk.digest, chunk.offset + len(body))
            return
        self._take(transfer, chunk.offset, body)
        self._piece_seen(chunk.digest, transfer.incoming.received)

    def _preview(self, preview: wire.Preview, data: bytes) -> None:
        petition = self._petitions.get(preview.attempt.id)
        index = preview.attempt.index
        if petition is None or index >= petition.images or index in petition.given:
            # The picture itself is here, or nobody waits for it any more.
            self._send(wire.PreviewSeen(attempt=preview.attempt))
            return
        self._out.append(effects.ShowPreview(preview, data))

    def _piece_seen(self, digest: str, offset: int) -> None:
        self._send(wire.ChunkSeen(digest=digest, offset=min(offset, limits.PICTURE_BYTES_MAX)))

    def _take(self, transfer: Transfer, offset: int, piece: Buffer) -> None:
        incoming = transfer.incoming
        try:
            complete = incoming.take(offset, piece)
        except ProtocolError as error:
            self._damaged(transfer, str(error))
            return
        if complete:
            del self._transfers[incoming.digest]
            for (petition_id, index), result in transfer.wanted.items():
                given = self._petitions[petition_id].given
                if index in given:
                    continue  # drawn anew since the first was lost; pieces of that were here
                given.add(index)
                parts = tuple(incoming.parts())
                self._out.append(effects.Deliver(petition_id, result, parts))

    def _damaged(self, transfer: Transfer, reason: str) -> None:
        """TCP keeps bytes whole, so this is a bug or a broken store: another try would not help."""
        error = ErrorInfo(code="protocol_error", message=f"A picture arrived damaged: {reason}.")
        for petition_id in dict.fromkeys(key[0] for key in transfer.wanted):
            petition = self._petitions[petition_id]
            leave = wire.Cancel if petition.owned else wire.Detach
            self._send(leave(id=petition_id))
            self._end(petition, Ending(outcome="failed", error=error))

    # Input files.

    def _need(self, petition: Tracked, digests: tuple[str, ...]) -> None:
        error = petition.needs(digests)
        if error is not None:
            self._input_lost(petition.id, error)
        elif petition.cancel_by is None:
            self._push(petition)

    def _input_seen(self, seen: wire.ChunkSeen) -> None:
        for petition in self._petitions.values():
            if petition.uploads.seen(seen.digest, seen.offset):
                self._push(petition)

    def _push(self, petition: Tracked) -> None:
        """Send what may be sent of its files. Its time limit begins when all are there."""
        petition.start_clock(self._now)
        self._out.append(effects.ShowSending(petition.id, *petition.uploads.progress))
        for digest, piece in petition.uploads.ready():
            self._out.append(effects.SendPiece(petition.id, digest, piece.offset, piece.end))

    def _input_lost(self, petition_id: str, error: ErrorInfo) -> None:
        petition = self._petitions.get(petition_id)
        if petition is not None:
            self._send(wire.Cancel(id=petition_id))
            self._end(petition, _refusal(error))

    # What the user wants.

    def _begin(self) -> None:
        if not self.busy:
            self._link.begin_waiting(self._now)

    def _open(self, petition: Tracked) -> None:
        self._begin()
        petition.start_clock(self._now)
        self._petitions[petition.id] = petition
        self._say(petition)

    def _left(self, petition_id: str) -> None:
        petition = self._petitions.get(petition_id)
        if petition is not None:
            self._send(wire.Detach(id=petition_id))
            self._end(petition, Ending(outcome="detached"))

    def _say(self, petition: Tracked) -> None:
        if petition.cancel_by is not None:
            self._send(wire.Cancel(id=petition.id))
        elif self._link.welcomed:
            self._send(petition.opening, petition.said())

    def _taken(self, event: events.PictureTaken | events.PreviewTaken) -> None:
        if isinstance(event, events.PreviewTaken):
            self._send(wire.PreviewSeen(attempt=event.attempt))
        else:
            self._picture_taken(event.id, event.index)

    def _picture_taken(self, petition_id: str, index: int) -> None:
        self._send(wire.ResultSeen(id=petition_id, index=index))
        petition = self._petitions.get(petition_id)
        if petition is None:
            return
        petition.take(index, self._now)
        if petition.drained:
            self._end(petition, petition.cancelled(confirmed=True))

    def _cancel_wished(self, petition_id: str) -> None:
        petition = self._petitions.get(petition_id)
        if petition is None:
            self._begin()
            petition = Tracked(wire.Submit(id=petition_id), b"", 0)
            self._petitions[petition_id] = petition
        elif petition.cancel_by is not None or petition.closes_at is not None:
            return
        elif not petition.submitted:
            self._end(petition, petition.cancelled(confirmed=True))
            return
        petition.wish_cancel(self._now)
        self._say(petition)

    def _ask(self, number: int, message: Asking, body: bytes | None = None) -> None:
        self._begin()
        self._questions.ask(number, message, self._now, body)
        self._send(message, body)

    # What the clock brings.

    def _tick(self) -> None:
        if self._link.welcomed and self._link.pulse.beat_due(self._now):
            self._send(wire.Beat())
        self._greet_if_due()
        if self.busy:
            self._notify(self._link.silence_notice(self._now))
            reason = self._link.unreachable(self._now)
            if reason:
                self._end_all(Ending(outcome="unreachable", reason=reason, confirmed=False))
        for petition in list(self._petitions.values()):
            ending = petition.overdue(self._now)
            if ending is not None:
                if ending.outcome == "expired":
                    self._send(wire.Cancel(id=petition.id))
                self._end(petition, ending)
        self._out += self._questions.overdue(self._now)

    def _greet_if_due(self) -> None:
        if not self._link.welcomed and self._now >= self._link.hello_at:
            self._link.greeted(self._now)
            hello = wire.ClientHello(protocols=(wire.VERSION,), software=self._software)
            self._out.append(effects.Send(hello))

    def _notify(self, text: str) -> None:
        if text:
            self._out.append(effects.Notify(text))

    def _end(self, petition: Tracked, ending: Ending) -> None:
        del self._petitions[petition.id]
        for digest, transfer in list(self._transfers.items()):
            for key in [key for key in transfer.wanted if key[0] == petition.id]:
                del transfer.wanted[key]
            if not transfer.wanted:
                del self._transfers[digest]
        self._out.append(effects.End(petition.id, ending))

    def _end_all(self, ending: Ending) -> None:
        """The connection is of no use to anybody who waits now; a later wish starts afresh."""
        self._link.forgotten(self._now)
        for petition in list(self._petitions.values()):
            self._end(petition, ending)
        self._out += self._questions.end_all(ending)


def _refusal(error: ErrorInfo) -> Ending:
    return Ending(outcome="refused", error=error)
