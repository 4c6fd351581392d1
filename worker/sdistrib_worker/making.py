"""From a granted attempt to a kept result: queue, engine, encoding. Pure.

Granted attempts wait in a queue here, where they can be revoked; one at a time is asked of the
engine child, and its picture is made into a file beside the loop while the engine draws the next.
An engine that dies fails what it was at and nothing else.

Invariant: an attempt is in exactly one place (queue, engine, being encoded, kept) until it has got
its one answer (Result, Failed or Revoked; none when it was abandoned).
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import assert_never

from sdistrib import limits
from sdistrib.errors import EXIT_FAILED, EXIT_USAGE, ErrorInfo, PetitionError
from sdistrib.infotext import PictureFacts
from sdistrib.protocol import messages as wire
from sdistrib.protocol.engine import At, Began, Declined, Drawn, EngineFrame, Holds, Ready
from sdistrib.protocol.messages import Attempt, EngineFacts
from sdistrib_worker import events
from sdistrib_worker.choices import marked
from sdistrib_worker.drawing import STEP_S, Drawing, Job, Running
from sdistrib_worker.effects import (
    DropPicture,
    EncodePicture,
    SavePicture,
    Stop,
    WatchDevice,
    form_of,
)
from sdistrib_worker.fetching import Fetching
from sdistrib_worker.naming import SavedFacts
from sdistrib_worker.previewing import Previewing
from sdistrib_worker.results import Results, fit, fit_notes, seconds
from sdistrib_worker.session import Session, Settings, Turn
from sdistrib_worker.shelf import Plan, Shelf, make_plan, missing

#: Attempts that may wait here. A manager grants a handful; the list of those given back when its
#: session ends must fit the header of one message.
QUEUE_MAX = 256
#: A first engine child that dies this often before it was ever ready will not do better.
START_TRIES = 3
#: Said with a picture whose first engine died of what else it kept.
_ALONE = "memory ran out beside other loaded contexts; drawn by a new engine without them"


@dataclass(slots=True)
class _Encoding:
    """A picture between the engine and its file."""

    job: Job
    plan: Plan
    drawn: Drawn
    #: The engine that drew it.
    engine: EngineFacts
    abandoned: bool = False


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
        self._queue: deque[Job] = deque()
        self._encoding: dict[Attempt, _Encoding] = {}
        self._full = False

    # --- the queue --------------------------------------------------------------------------

    def enqueue(self, job: Job) -> bool:
        """Take an attempt; False when there is no room."""
        if len(self._queue) >= QUEUE_MAX:
            return False
        self._queue.append(job)
        return True

    def knows(self, attempt: Attempt) -> bool:
        """The attempt is somewhere between grant and answer."""
        running = self.drawing.running
        return (
            (running is not None and running.job.attempt == attempt)
            or attempt in self._encoding
            or attempt in self._results
            or any(job.attempt == attempt for job in self._queue)
        )

    def unqueue(self, attempt: Attempt) -> bool:
        """Take an attempt out of the queue; False when it is not there."""
        kept = deque(job for job in self._queue if job.attempt != attempt)
        found = len(kept) < len(self._queue)
        self._queue = kept
        return found

    def unqueue_all(self) -> list[Attempt]:
        """Empty the queue."""
        attempts = [job.attempt for job in self._queue]
        self._queue.clear()
        return attempts

    def abandon(self, attempt: Attempt) -> None:
        """Nobody wants this attempt any more; it gets no answer."""
        running = self.drawing.running
        if running is not None and running.job.attempt == attempt:
            self.drawing.abandon(running, context_wanted=self._wants_context(running))
        elif attempt in self._encoding:
            self._encoding[attempt].abandoned = True
        elif not self.unqueue(attempt):
            self._results.forget(attempt)

    def _wants_context(self, running: Running) -> bool:
        """An image in the queue needs what the engine loads."""
        return self.drawing.is_loading(running) and any(
            self._key(job) == running.plan.key for job in self._queue
        )

    def _key(self, job: Job) -> str:
        try:
            return make_plan(job.params, self.shelf, self._settings.name).key
        except PetitionError:  # it will be told so when its turn comes
            return ""

    def start_next(self) -> None:
        """Give the idle engine the next image, unless too many results wait for the manager."""
        full = len(self._results) + len(self._encoding) >= limits.WORKER_RESULTS_HELD_MAX
        if full and not self._full:
            self._turn.log("warning", "The manager takes no results; no new image is begun.")
        self._full = full
        while self.drawing.is_idle and not full and (job := self._next()):
            self._queue.remove(job)
            try:
                plan = make_plan(job.params, self.shelf, self._settings.name)
            except PetitionError as error:
                self.fail(job.attempt, error.info)
                continue
            self.drawing.ask(job, plan, self._fetching.paths(job.inputs))

    def fetch(self) -> None:
        """Have the input files of all that is queued or running; fail what will not get its own."""
        for job in list(self._queue):
            fault = self._fetching.fault(job.inputs)
            if fault is not None:
                self._queue.remove(job)
                self.fail(job.attempt, fault, started=self._fetching.counts(job.inputs))
        # Only then: a file that failed is closed with its last job, and opened anew for the next.
        running = self.drawing.running
        jobs = [*([running.job] if running else ()), *self._queue]
        self._fetching.need(file for job in jobs for file in job.inputs)

    def _next(self) -> Job | None:
        """The first job whose input files are here; one that waits for its own stops no other."""
        return next((job for job in self._queue if self._fetching.have(job.inputs)), None)

    # --- what is where ----------------------------------------------------------------------

    def running(self) -> tuple[Attempt, ...]:
        """The attempt in the engine, if somebody wants it."""
        running = self.drawing.running
        return (running.job.attempt,) if running is not None and not running.abandoned else ()

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
        running = self.drawing.running
        for attempt in self.running():
            self.fail(attempt, error, started=running is not None and running.began)
        for attempt in (*self.encoding(), *self._results.unfinished()):
            self.fail(attempt, error)

    def tell_progress(self, at_once: bool = False) -> None:
        """Send the newest progress if it is due."""
        running = self.drawing.running
        if running is None or running.pending is None:
            return
        if at_once or self._turn.now >= running.step_sent_at + STEP_S:
            self._session.say(running.pending)
            running.pending, running.step_sent_at = None, self._turn.now

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
                running = self.drawing.about(ticket)
                if running is not None:
                    running.began = True
                    for attempt in self.running():
                        self._session.say(wire.Started(attempt=attempt))
            case At():
                self._on_progress(frame)
            case Holds(contexts=contexts):
                self.drawing.loaded.told(contexts)
            case Declined():
                self._on_declined(frame)
            case _:  # a log line, which the loop has written down
                pass

    def _on_progress(self, at: At) -> None:
        running = self.drawing.about(at.ticket)
        if running is None:
            return
        changed = self.drawing.moved(running, at)
        if running.abandoned:
            wanted = self._wants_context(running)
            self.drawing.weigh_abandoned(running, context_wanted=wanted)
            return
        running.pending = wire.Step(
            attempt=running.job.attempt,
            phase=at.phase,
            step=running.step,
            steps=running.steps,
            step_s=running.step_s,
        )
        if changed:
            self.tell_progress(at_once=True)

    def _on_declined(self, frame: Declined) -> None:
        running = self.drawing.about(frame.ticket)
        if running is None:
            return
        wanted = self.running()
        self.drawing.declined(frame.loading)
        for attempt in wanted:
            error = ErrorInfo(code=frame.code, message=frame.message)
            self.fail(attempt, error)

    def _on_vanished(self, ticket: int, path: str) -> None:
        running = self.drawing.about(ticket)
        if running is not None:
            self.drawing.declined(loading=False)
            fault = self._fetching.vanished(path)
            if fault is not None:
                counts = self._fetching.counts(running.job.inputs)
                self.fail(running.job.attempt, fault, started=counts)
                return
            want = next(want for want, entry in running.plan.found if entry.path == path)
            error = missing(want, self.shelf, self._settings.name)
            self.fail(running.job.attempt, error)

    def _on_drawn(self, drawn: Drawn, picture: object) -> None:
        running, engine = self.drawing.about(drawn.ticket), self.drawing.facts
        if running is not None:
            self.drawing.drawn(running, seconds(drawn.load_s))
        if running is None or running.abandoned or engine is None:
            self._turn.effects.append(DropPicture(picture))
            return
        made = _Encoding(running.job, running.plan, drawn, engine)
        attempt = running.job.attempt
        self._encoding[attempt] = made
        # The engine first: encoding overlaps its next image.
        self.start_next()
        params = made.job.params
        facts = self._facts(made) if params.metadata else None
        self._turn.effects.append(EncodePicture(attempt, picture, facts, form_of(params)))

    def _on_encoded(self, event: events.PictureEncoded) -> None:
        made = self._encoding.pop(event.attempt)
        if made.abandoned:
            return
        drawn = made.drawn
        self._turn.log("info", f"{_name(event.attempt)}: drawn in {drawn.draw_s:.2f} s")
        result = wire.Result(
            attempt=event.attempt,
            seed=made.job.seed,
            digest=event.digest,
            size_bytes=len(event.data),
            format=made.job.params.format,
            width=drawn.width,
            height=drawn.height,
            worker=self._settings.name,
            fingerprint=made.engine.fingerprint,
            context=made.plan.context,
            load_s=seconds(drawn.load_s),
            draw_s=seconds(drawn.draw_s),
            encode_s=seconds(event.encode_s),
            sampling_s=min(seconds(drawn.sampling_s), seconds(drawn.draw_s)),
            notes=fit_notes((*made.job.notes, *drawn.notes, *event.notes)),
        )
        self._results.keep(result, event.data)
        if self._settings.autosave:
            self._turn.effects.append(SavePicture(_saved(made, result), event.data))

    def _on_died(self, event: events.EngineDied) -> None:
        cancelled = event.ours and event.info.code == "cancelled"
        wanted, running = self.running(), self.drawing.running
        began = running is not None and running.began
        again = self._alone(event)
        self.drawing.died(counts=not cancelled)
        if again is not None:
            self._turn.log("warning", f"{event.info.message} It is drawn again, alone.")
            self._queue.appendleft(again)
            return
        # One that died idle may be asked before its death is seen: the image had no part in it. But
        # an engine that dies again and again before it begins must not keep an image for ever.
        counts = began or event.ours or self.drawing.deaths > START_TRIES
        for attempt in wanted:
            self.fail(attempt, event.info, started=counts)
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
            for attempt in self.unqueue_all():
                self.fail(attempt, event.info, started=self.drawing.deaths > START_TRIES)

    def _alone(self, event: events.EngineDied) -> Job | None:
        """What is drawn once more after an engine died for want of memory: not this image but the
        contexts kept beside its own may have been too much. So it tells nobody of a death yet."""
        running = self.drawing.running
        if running is None or running.abandoned or not running.began or event.ours:
            return None
        job = running.job
        if event.info.code != "out_of_memory" or _ALONE in job.notes:
            return None
        crowded = self.drawing.loaded.has_others(running.plan)
        return replace(job, notes=(*job.notes, _ALONE)) if crowded else None

    @property
    def is_queued(self) -> bool:
        """Something waits for the engine."""
        return bool(self._queue)

    # --- small verbs ------------------------------------------------------------------------

    def _introduce(self, facts: EngineFacts) -> None:
        self._turn.log(
            "info",
            f"Worker {self._settings.name}: engine {facts.version} on {facts.backend}"
            f" ({facts.device}), fingerprint {facts.fingerprint};"
            f" {len(self.shelf.stored)} model files; manager at {self._settings.address}.",
        )

    def _facts(self, made: _Encoding) -> PictureFacts:
        return PictureFacts(
            seed=made.job.seed,
            params=made.job.asked or made.job.params,
            files=self.shelf.used(made.plan),
            sampling_method=made.drawn.sampling_method,
            scheduler=made.drawn.scheduler,
            engine=made.engine,
            worker=self._settings.name,
            context=made.plan.context,
            version=self._settings.version,
        )


def _saved(made: _Encoding, result: wire.Result) -> SavedFacts:
    return SavedFacts(
        id=result.attempt.id,
        index=result.attempt.index,
        seed=result.seed,
        model=made.plan.model,
        width=result.width,
        height=result.height,
        steps=made.job.params.steps,
        sampler=made.drawn.sampling_method,
        scheduler=made.drawn.scheduler,
        worker=result.worker,
        format=result.format,
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
