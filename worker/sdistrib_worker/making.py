"""From a granted attempt to a kept result: queue, engine, encoding. Pure.

Granted attempts wait in a queue here, where they can be revoked; one at a time is asked of the
engine child, or several quick ones in one call, and their pictures are made into files beside the
loop while the engine draws the next. An engine that dies fails the image it was at and nothing
else: what else was in its call waits again.

Invariant: an attempt is in exactly one place (queue, engine, being encoded, kept) until it has got
its one answer (Result, Failed or Revoked; none when it was abandoned).
"""

from dataclasses import replace
from typing import assert_never

from sdistrib import limits
from sdistrib.errors import EXIT_FAILED, EXIT_USAGE, ErrorInfo, PetitionError
from sdistrib.protocol import messages as wire
from sdistrib.protocol.engine import At, Began, Declined, Drawn, EngineFrame, Holds, Ready
from sdistrib.protocol.messages import Attempt, EngineFacts
from sdistrib_worker import events
from sdistrib_worker.calls import Call, Job
from sdistrib_worker.choices import marked
from sdistrib_worker.drawing import STEP_S, Drawing
from sdistrib_worker.effects import (
    DropPicture,
    EncodePicture,
    SavePicture,
    Stop,
    WatchDevice,
    form_of,
)
from sdistrib_worker.fetching import Fetching
from sdistrib_worker.finished import Finished
from sdistrib_worker.previewing import Previewing
from sdistrib_worker.queue import Queue
from sdistrib_worker.results import Results, fit
from sdistrib_worker.session import Session, Settings, Turn
from sdistrib_worker.shelf import Plan, Shelf, make_plan, missing

#: A first engine child that dies this often before it was ever ready will not do better.
START_TRIES = 3
#: Said with a picture whose first engine died of what else it kept.
_ALONE = "memory ran out beside other loaded contexts; drawn by a new engine without them"


class Making:
    """The queue, the engine child and the encoder, as far as decisions go."""

    def __init__(
        self,
        settings: Settings,
        turn: Turn,
        session: Session,
        results: Results,
        fetching: Fetching,
        shelf: Shelf,
    ) -> None:
        self._settings = settings
        self._turn = turn
        self._session = session
        self._results = results
        self._fetching = fetching
        #: The files there are now.
        self.shelf = shelf
        self.drawing = Drawing(turn, settings)
        self.previewing = Previewing(settings.name, turn, session, self.drawing)
        self.queue = Queue()
        self._encoding: dict[Attempt, Finished] = {}
        self._full = False

    # --- the queue --------------------------------------------------------------------------

    def knows(self, attempt: Attempt) -> bool:
        """The attempt is somewhere between grant and answer."""
        call = self.drawing.call
        return (
            (call is not None and call.part(attempt) is not None)
            or attempt in self._encoding
            or attempt in self._results
            or attempt in self.queue
        )

    def abandon(self, attempt: Attempt) -> None:
        """Nobody wants this attempt any more; it gets no answer."""
        call = self.drawing.call
        part = call.part(attempt) if call is not None else None
        if call is not None and part is not None:
            self.drawing.abandon(call, part, context_wanted=self._wants_context(call))
        elif attempt in self._encoding:
            self._encoding[attempt].abandoned = True
        elif not self.queue.remove(attempt):
            self._results.forget(attempt)

    def _wants_context(self, call: Call) -> bool:
        """An image in the queue needs what the engine loads."""
        return self.drawing.is_loading(call) and any(
            self._key(job) == call.plan.key for job in self.queue
        )

    def _key(self, job: Job) -> str:
        try:
            return make_plan(job.params, self.shelf, self._settings.name).key
        except PetitionError:  # it will be told so when its turn comes
            return ""

    def start_next(self) -> None:
        """Give the idle engine its next call, unless too many results wait for the manager."""
        room = limits.WORKER_RESULTS_HELD_MAX - len(self._results) - len(self._encoding)
        if room <= 0 and not self._full:
            self._turn.log("warning", "The manager takes no results; no new image is begun.")
        self._full = room <= 0
        while self.drawing.is_idle and room > 0 and (job := self.queue.next(self._can_begin)):
            try:
                plan = make_plan(job.params, self.shelf, self._settings.name)
            except PetitionError as error:
                self.queue.remove(job.attempt)
                self.fail(job.attempt, error.info)
                continue
            jobs = self._take(job, plan, room)
            self.drawing.ask(jobs, plan, self._fetching.paths(job.inputs))

    def _can_begin(self, job: Job) -> bool:
        """Its input files are here."""
        return self._fetching.have(job.inputs)

    def _take(self, first: Job, plan: Plan, room: int) -> list[Job]:
        """What the next call of the engine draws."""
        declared = self._settings.declared.max_batch
        most = min(room, declared) if declared else room
        return self.queue.take(first, self.drawing.image_s(first, plan), most)

    def fetch(self) -> None:
        """Have the input files of all that is queued or running; fail what will not get its own."""
        for job in list(self.queue):
            fault = self._fetching.fault(job.inputs)
            if fault is not None:
                self.queue.remove(job.attempt)
                self.fail(job.attempt, fault, started=self._fetching.counts(job.inputs))
        # Only then: a file that failed is closed with its last job, and opened anew for the next.
        call = self.drawing.call
        jobs = [*([call.at.job] if call else ()), *self.queue]
        self._fetching.need(file for job in jobs for file in job.inputs)

    # --- what is where ----------------------------------------------------------------------

    def running(self) -> tuple[Attempt, ...]:
        """The attempts in the engine, those that somebody wants."""
        return self.drawing.call.wanted if self.drawing.call is not None else ()

    def encoding(self) -> tuple[Attempt, ...]:
        """Attempts whose pictures are being made into files, those that somebody wants."""
        return tuple(attempt for attempt, made in self._encoding.items() if not made.abandoned)

    def fail(self, attempt: Attempt, error: ErrorInfo, started: bool = True) -> None:
        """Report that an attempt ended without a picture.

        `started` is False only for what is given back untouched. What this worker cannot draw, for
        want of a file or of an engine, is an outcome too: the manager must count it, else it would
        hand the same image out for ever.
        """
        fitted = fit(error, self._settings.name, attempt)
        self._turn.log("warning", f"{_name(attempt)}: {fitted.message}")
        self._results.fail(wire.Failed(attempt=attempt, error=fitted, started=started))

    def fail_all(self, error: ErrorInfo) -> None:
        """Report the end of everything that is begun and not handed in."""
        call = self.drawing.call
        for part in call.parts.values() if call is not None else ():
            if not part.abandoned:
                self.fail(part.job.attempt, error, started=part.began)
        for attempt in (*self.encoding(), *self._results.unfinished()):
            self.fail(attempt, error)

    def tell_progress(self, at_once: bool = False) -> None:
        """Send the newest progress if it is due."""
        call = self.drawing.call
        if call is None or call.pending is None:
            return
        if at_once or self._turn.now >= call.step_sent_at + STEP_S:
            self._session.say(call.pending)
            call.pending, call.step_sent_at = None, self._turn.now

    # --- the engine -------------------------------------------------------------------------

    def handle(self, event: events.EngineEvent) -> None:
        """Take in one event of the engine or the encoder."""
        match event:
            case events.EngineSpoke(frame):
                self._on_frame(frame)
            case events.PictureDrawn(drawn, picture):
                self._on_drawn(drawn, picture)
            case events.PreviewDrawn() | events.PreviewEncoded():
                self.previewing.handle(event)
            case events.EngineDied():
                self.previewing.engine_ended()
                self._on_died(event)
            case events.FileVanished(ticket, path):
                self._on_vanished(ticket, path)
            case events.PictureEncoded():
                self._on_encoded(event)
            case events.EncodingFailed(attempt, error):
                if not self._encoding.pop(attempt).abandoned:
                    self.fail(attempt, error)
            case _:
                assert_never(event)

    def _on_frame(self, frame: EngineFrame) -> None:
        match frame:
            case Ready(facts=facts, cancels=cancels):
                facts = marked(facts, self._settings.choices)
                if self.drawing.became_ready(facts, cancels):
                    self._introduce(facts)
                    if self._settings.yield_when_busy:
                        self._turn.effects.append(WatchDevice(facts))
                    self._session.lose("the engine is another one now")
                self._session.begin()
            case Began(ticket=ticket):
                self._on_began(ticket)
            case At():
                self._on_progress(frame)
            case Holds(contexts=contexts):
                self.drawing.loaded.told(contexts)
            case Declined():
                self._on_declined(frame)
            case _:  # a log line, which the loop has written down
                pass

    def _on_began(self, ticket: int) -> None:
        call = self.drawing.about(ticket)
        if call is not None:
            part = self.drawing.began(call, ticket)
            if not part.abandoned:
                self._session.say(wire.Started(attempt=part.job.attempt))

    def _on_progress(self, at: At) -> None:
        call = self.drawing.about(at.ticket)
        if call is None:
            return
        changed = self.drawing.moved(call, at)
        if not call.wanted:
            self.drawing.weigh_abandoned(call, context_wanted=self._wants_context(call))
        if call.at.abandoned:
            return
        call.pending = wire.Step(
            attempt=call.at.job.attempt,
            phase=at.phase,
            step=call.step,
            steps=call.steps,
            step_s=call.step_s,
        )
        if changed:
            self.tell_progress(at_once=True)

    def _on_declined(self, frame: Declined) -> None:
        call = self.drawing.about(frame.ticket)
        if call is not None:
            self.drawing.declined(frame.loading)
            self._give_up(call, ErrorInfo(code=frame.code, message=frame.message))

    def _on_vanished(self, ticket: int, path: str) -> None:
        call = self.drawing.about(ticket)
        if call is not None:
            self.drawing.declined(loading=False)
            fault = self._fetching.vanished(path)
            if fault is not None:
                counts = self._fetching.counts(call.at.job.inputs)
                self._give_up(call, fault, started=counts)
                return
            want = next(want for want, entry in call.plan.found if entry.path == path)
            self._give_up(call, missing(want, self.shelf, self._settings.name))

    def _give_up(self, call: Call, error: ErrorInfo, started: bool = True) -> None:
        """A call ended early: the image that it was at has failed, the others wait again."""
        self.queue.put_back(call.again())
        if not call.at.abandoned:
            self.fail(call.at.job.attempt, error, started=started)

    def _on_drawn(self, drawn: Drawn, picture: object) -> None:
        call, engine = self.drawing.about(drawn.ticket), self.drawing.facts
        part = self.drawing.drawn(call, drawn) if call is not None else None
        if call is None or part is None or part.abandoned or engine is None:
            self._turn.effects.append(DropPicture(picture))
            return
        made = Finished(part.job, call.plan, drawn, engine)
        attempt = part.job.attempt
        self._encoding[attempt] = made
        # The engine first: encoding overlaps its next image.
        self.start_next()
        params = made.job.params
        facts = made.facts(self.shelf, self._settings) if params.metadata else None
        self._turn.effects.append(EncodePicture(attempt, picture, facts, form_of(params)))

    def _on_encoded(self, event: events.PictureEncoded) -> None:
        made = self._encoding.pop(event.attempt)
        if made.abandoned:
            return
        self._turn.log("info", f"{_name(event.attempt)}: drawn in {made.drawn.draw_s:.2f} s")
        result = made.result(event, self._settings.name)
        self._results.keep(result, event.data)
        if self._settings.autosave:
            self._turn.effects.append(SavePicture(made.saved(result), event.data))

    def _on_died(self, event: events.EngineDied) -> None:
        cancelled = event.ours and event.info.code == "cancelled"
        call, again = self.drawing.call, self._alone(event)
        self.drawing.died(counts=not cancelled)
        if call is not None and again is not None:
            self._turn.log("warning", f"{event.info.message} It is drawn again, alone.")
            self.queue.put_back(call.again(again))
            return
        if call is not None:
            # One that died idle may be asked before its death is seen: the image had no part in it.
            # But an engine that dies again and again before it begins must not keep an image for
            # ever.
            counts = call.at.began or event.ours or self.drawing.deaths > START_TRIES
            self._give_up(call, event.info, started=counts)
        if cancelled:
            return
        if self.drawing.facts is None and event.refused:
            self._turn.effects.append(Stop(EXIT_USAGE, event.info.message))
            return
        self._turn.log("error", event.info.message)
        if self.drawing.facts is None and self.drawing.deaths >= START_TRIES:
            self._turn.effects.append(Stop(EXIT_FAILED, _hopeless(event.info)))
        elif not event.was_ready:
            # Nobody knows whether another child will start; others may draw these meanwhile. They
            # had no part in it either.
            for attempt in self.queue.clear():
                self.fail(attempt, event.info, started=self.drawing.deaths > START_TRIES)

    def _alone(self, event: events.EngineDied) -> Job | None:
        """What is drawn once more after an engine died for want of memory: not this image but the
        contexts kept beside its own may have been too much. So it tells nobody of a death yet."""
        call = self.drawing.call
        if call is None or call.at.abandoned or not call.at.began or event.ours:
            return None
        job = call.at.job
        if event.info.code != "out_of_memory" or _ALONE in job.notes:
            return None
        crowded = self.drawing.loaded.has_others(call.plan)
        return replace(job, notes=(*job.notes, _ALONE), single=True) if crowded else None

    # --- small verbs ------------------------------------------------------------------------

    def _introduce(self, facts: EngineFacts) -> None:
        self._turn.log(
            "info",
            f"Worker {self._settings.name}: engine {facts.version} on {facts.backend}"
            f" ({facts.device}), fingerprint {facts.fingerprint};"
            f" {len(self.shelf.stored)} model files; manager at {self._settings.address}.",
        )


def _name(attempt: Attempt) -> str:
    return f"petition {attempt.id[:8]} image {attempt.index} attempt {attempt.number}"


def _hopeless(info: ErrorInfo) -> str:
    hint = (
        " It was built for another CPU: rebuild it on this machine."
        if info.signal == "SIGILL"
        else " Its last words: " + " | ".join(info.log_tail[-3:])
    )
    return f"The engine does not start: {info.message}{hint}"
