"""The worker's decisions: one door, `Worker.handle(event, now) -> effects`.

Theory of operation. Five parts share the work: `Session` (who speaks with us), `Making` (from a
granted attempt to a kept result), `Fetching` (the input files it needs), `Results` (what we owe)
and `Shelf` (the models); `Gate` says
whether grants are taken and `Rest` when the engine unloads. This module joins them: a session that
ends and a gate that shuts give the queue back, a request to stop drains. What is due by the clock
is done when the turn ends, not where an event makes it due. Nothing is waited for without a
deadline, see `next_deadline`.
"""

import math

from sdistrib import limits
from sdistrib.errors import ERROR_TABLE, EXIT_FAILED, EXIT_OK, ErrorInfo, PetitionError
from sdistrib.petitions import relieved
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, decode_petition, encode_inventory
from sdistrib.protocol.messages import Attempt, EngineState, Message, Standing
from sdistrib_worker import events
from sdistrib_worker.allowed import too_large
from sdistrib_worker.calls import Job, preview_wish
from sdistrib_worker.choices import overruled
from sdistrib_worker.effects import Effect, Stop
from sdistrib_worker.fetching import Fetching
from sdistrib_worker.making import Making
from sdistrib_worker.rest import Rest
from sdistrib_worker.results import Results
from sdistrib_worker.session import Session, Settings, Turn
from sdistrib_worker.shelf import Shelf, StoredFile
from sdistrib_worker.standing import Gate


class Worker:
    """One worker process's decisions. The first `TurnEnded` starts the engine."""

    def __init__(self, settings: Settings, files: tuple[StoredFile, ...] = ()) -> None:
        self._settings = settings
        self._choices = dict(settings.choices)
        if settings.threads:
            self._choices["threads"] = settings.threads
        self._turn = Turn()
        self._session = Session(settings, self._turn)
        self._results = Results(self._session, self._turn)
        self._fetching = Fetching(self._session, self._turn)
        shelf = Shelf(files)
        self._making = Making(
            settings, self._turn, self._session, self._results, self._fetching, shelf
        )
        self._gate = Gate()
        self._rest = Rest(self._turn, self._making, settings.unload_after_s)
        self._inventory = encode_inventory(shelf.catalogue.files)
        self._inventory_told = True
        #: How the gate stood when it was last looked at, and what the manager was last told.
        self._standing = self._standing_told = Standing(state="open")
        #: Attempts that were queued when a session ended: the next one hears that they are free.
        self._given_back: list[Attempt] = []
        self._announced: EngineState | None = None
        self._stops_asked = 0
        #: When draining stops to wait for the manager to take what is finished.
        self._leave_at: float | None = None

    def handle(self, event: events.Event, now: float) -> list[Effect]:
        """Take in one event at monotonic time `now`; gives what is to be done, in order."""
        self._turn.now = now
        self._turn.effects = []
        match event:
            case events.MessageArrived(message, body):
                self._session.heard()
                self._on_message(message, body)
            case events.Malformed(reason):
                self._on_malformed(reason)
            case events.SendFailed(message):
                self._on_send_failed(message)
            case events.InventoryChanged(files):
                self._on_inventory(files)
            case events.AvailabilityChanged(source, reason):
                self._gate.available(source, reason)
                self._gate_moved()
            case events.StopRequested():
                self._on_stop()
            case events.TurnLate(delay_s):
                self._session.forgive(delay_s)
                self._making.drawing.forgive(delay_s)
                self._fetching.forgive(delay_s)
            case events.TurnEnded():
                self._end_turn()
            case (
                events.InputReady()
                | events.InputOpened()
                | events.InputHeld()
                | events.InputBroken()
                | events.InputFailed()
            ):
                self._fetching.handle(event)
            case _:
                self._making.handle(event)
        return self._turn.effects

    def next_deadline(self) -> float:
        """Monotonic time at which a `TurnEnded` has something to do; infinity for never."""
        times = [*self._session.deadlines(), *self._making.drawing.deadlines()]
        times += [*self._results.deadlines(), *self._rest.deadlines(), *self._fetching.deadlines()]
        if self._leave_at is not None:
            times.append(self._leave_at)
        return min(times, default=math.inf)

    # --- the manager ------------------------------------------------------------------------

    def _on_message(self, message: Message, body: Buffer) -> None:
        match message:
            case wire.Welcome():
                self._on_welcome()
            case wire.Identify():
                self._session.lose("it does not know us")
            case wire.Goodbye(reason=reason):
                self._session.lose(f"it said goodbye ({reason})" if reason else "it said goodbye")
            case wire.Fault(error=error):
                self._on_fault(error)
            case _ if not self._session.is_open:
                # It was meant for a session that is over. Our next hello says what we have, and the
                # manager may have decided anew since: an image given up then may be wanted now.
                pass
            case wire.Grant():
                self._on_grant(message, body)
            case wire.Steer():
                self._on_steer(message)
            case wire.Chunk():
                self._fetching.chunk(message, body)
            case wire.Forget():
                self._fetching.forget(message)
            case _:
                self._on_attempt_message(message)

    def _on_attempt_message(self, message: Message) -> None:
        match message:
            case wire.Revoke(attempt=attempt):
                given_back = self._making.queue.remove(attempt)
                answer = wire.Revoked if given_back else wire.TooLate
                self._session.say(answer(attempt=attempt))
            case wire.Abandon(attempt=attempt):
                self._making.abandon(attempt)
            case wire.ResultRecorded(attempt=attempt):
                self._results.forget(attempt)
            case wire.ResultRefused(attempt=attempt, reason=reason):
                self._turn.log("info", f"A picture of {attempt.id[:8]} is refused: {reason}")
                self._results.forget(attempt)
            case wire.ChunkSeen():
                self._results.seen(message)
            case wire.PreviewSeen(attempt=attempt):
                self._making.previewing.seen(attempt)
            case _:  # a beat, which was counted
                pass

    def _on_welcome(self) -> None:
        # The answer to a hello that did not name what was granted before it: as a slow answer lets
        # us say hello twice, the manager took that for lost and has handed it out anew.
        for attempt in self._making.queue.clear():
            self._turn.log("debug", f"{attempt.id[:8]}/{attempt.index} was given to us twice.")
        self._session.welcomed()
        self._tell_standing()
        given_back, self._given_back = self._given_back, []
        for attempt in given_back:
            self._session.say(wire.Revoked(attempt=attempt))
        self._results.hand_in()
        self._making.previewing.session_began()
        self._announced = None
        if not self._inventory_told:
            self._tell_inventory()

    def _on_fault(self, error: ErrorInfo) -> None:
        text = f"The manager at {self._settings.address} says: {error.sentence()}"
        if error.code in ("protocol_error", "unauthorized") and not self._session.was_welcome:
            self._turn.effects.append(Stop(ERROR_TABLE[error.code].exit_status, text))
        else:
            self._session.complain(text)

    def _on_malformed(self, reason: str) -> None:
        self._session.heard()
        self._session.complain(f"What answers at {self._settings.address} is strange: {reason}.")
        self._session.say(wire.Fault(error=ErrorInfo(code="protocol_error", message=reason)))

    def _on_send_failed(self, message: Message) -> None:
        if isinstance(message, wire.Failed):
            self._results.untold(message)
        elif isinstance(message, wire.Revoked):
            self._given_back.append(message.attempt)
        if isinstance(message, wire.WorkerHello):
            self._session.hello_failed()
        else:
            self._session.lose("it cannot be reached")

    def _on_grant(self, grant: wire.Grant, body: Buffer) -> None:
        new = [attempt for attempt in grant.attempts if not self._making.knows(attempt)]
        try:
            petition = decode_petition(body)
        except PetitionError as error:
            for attempt in new:
                self._making.fail(attempt, error.info)
            return
        # What it needs to be drawn at all stands before what the owner decides.
        asked = relieved(petition.params, grant.relief)
        params, notes = overruled(petition.params, self._choices)
        params, notes = relieved(params, grant.relief), (*notes, *_relief_notes(grant))
        for attempt in new:
            seed = petition.seed + attempt.index
            shown = preview_wish(petition)
            job = Job(attempt, params, seed, asked, notes, shown, petition.inputs)
            fault = too_large(params, self._settings.declared)
            if fault is not None:
                self._making.fail(attempt, fault)
            elif not self._gate.is_open or not self._making.queue.add(job):
                self._session.say(wire.Revoked(attempt=attempt))

    # --- whether grants are taken -----------------------------------------------------------

    def _on_steer(self, steer: wire.Steer) -> None:
        if steer.wish == "unload":
            did = self._rest.wish()
        else:
            did = self._gate.steer(steer.wish, steer.by, busy=self._is_busy())
        self._session.say(wire.Steered(number=steer.number, did=did))
        self._turn.log("info", f"{steer.by or 'Somebody'} wished {steer.wish}; done: {did}.")
        self._gate_moved()

    def _gate_moved(self) -> None:
        """Tell the manager, and give back what has not begun: before it could be granted again."""
        standing = self._gate.standing()
        if standing == self._standing:
            return
        self._standing = standing
        self._tell_standing()
        if not self._gate.is_draining:
            self._leave_at = None
        if standing.state == "open":
            self._turn.log("info", "Grants are taken again.")
            return
        self._turn.log("info", f"No grants are taken now: {standing.reason}.")
        given_back = self._making.queue.clear()
        if not self._session.is_open:
            self._given_back += given_back
            return
        for attempt in given_back:
            self._session.say(wire.Revoked(attempt=attempt))

    def _tell_standing(self) -> None:
        if self._session.is_open and self._standing_told != self._standing:
            self._standing_told = self._standing
            self._session.say(self._standing)

    def _is_busy(self) -> bool:
        return bool(self._making.running() or self._making.encoding())

    # --- what is due ------------------------------------------------------------------------

    def _end_turn(self) -> None:
        making = self._making
        making.drawing.start_if_due()
        making.drawing.watch()
        self._session.tick()
        self._results.tick()
        if not self._session.is_open:
            self._given_back += making.queue.clear()
        self._fetching.tick()
        making.fetch()
        making.start_next()
        self._rest.tick()
        self._say_hello()
        making.tell_progress()
        state = making.drawing.summary()
        if self._session.is_open and state != self._announced:
            self._announced = state
            self._session.say(state)
        if self._gate.is_draining and self._stops_asked < 2:
            self._leave_if_done()

    def _say_hello(self) -> None:
        facts = self._making.drawing.facts
        if facts is not None and self._session.hello_due():
            holding = (*self._results.attempts(), *self._making.encoding())
            running = self._making.running()
            self._session.hello(facts, running, holding, self._standing, self._inventory)
            self._standing_told, self._inventory_told = self._standing, True

    def _on_inventory(self, files: tuple[StoredFile, ...]) -> None:
        self._making.shelf = Shelf(files)
        self._inventory = encode_inventory(self._making.shelf.catalogue.files)
        self._inventory_told = False
        if self._session.is_open:
            self._tell_inventory()

    def _tell_inventory(self) -> None:
        self._session.say(wire.Inventory(), self._inventory)
        self._inventory_told = True

    # --- leaving ----------------------------------------------------------------------------

    def _on_stop(self) -> None:
        self._stops_asked += 1
        if self._stops_asked == 1:
            self._turn.log("info", "Finishing the current image, then leaving. Again: at once.")
            self._gate.stop()
            self._gate_moved()
        elif self._stops_asked == 2:
            self._leave_now()

    def _leave_if_done(self) -> None:
        # The queue was given back; what is in it was begun, and its engine died.
        if self._is_busy() or self._making.queue:
            return
        owed = len(self._results.attempts())
        if not owed:
            self._leave(EXIT_OK)
        elif self._leave_at is None:
            self._leave_at = self._turn.now + limits.GONE_S
        elif self._turn.now >= self._leave_at:
            self._turn.log("warning", f"The manager did not take {owed} results; they are lost.")
            self._leave(EXIT_FAILED)

    def _leave_now(self) -> None:
        error = ErrorInfo(code="worker_lost", message="The worker was told to leave at once.")
        self._making.fail_all(error)
        self._leave(EXIT_OK)

    def _leave(self, exit_status: int) -> None:
        self._session.say(wire.Goodbye(reason=self._gate.standing().reason))
        self._turn.effects.append(Stop(exit_status))


def _relief_notes(grant: wire.Grant) -> tuple[str, ...]:
    """What was done for want of memory, for the user: it is not quite what was asked for."""
    if not grant.relief:
        return ()
    how = "VAE tiling" if grant.relief == "tile" else "VAE tiling and offloaded weights"
    where = f" on {', '.join(grant.ran_out)}" if grant.ran_out else ""
    return (f"drawn with {how} after running out of memory{where}",)
