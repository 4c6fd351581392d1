"""The engine child as the machine sees it: what it draws, how long that may take, when it is back.

Pure. One request at a time goes to the child; the rest waits with the machine, where it can still
be revoked.
"""

import math
from dataclasses import dataclass
from typing import Literal

from sdistrib import limits
from sdistrib.errors import ErrorCode
from sdistrib.params import Params, drawn_size
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol.engine import At, Draw, PreviewWish
from sdistrib.protocol.messages import Attempt, EngineFacts, EngineState, Kept, Phase, Step
from sdistrib_worker.effects import AskEngine, CancelDrawing, KillEngine, StartEngine
from sdistrib_worker.loaded import Loaded
from sdistrib_worker.pace import Pace, SizeKey
from sdistrib_worker.session import Settings, Turn
from sdistrib_worker.shelf import Plan

#: Progress goes to the manager at most this often, changes of phase apart.
STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """One granted attempt."""

    attempt: Attempt
    params: Params
    #: The image's own seed.
    seed: int
    #: As the petition has them, where the owner of this worker overrules some.
    asked: Params | None = None
    #: What the user is to be told beside what the engine says.
    notes: tuple[str, ...] = ()
    #: None wants no previews.
    preview: PreviewWish | None = None
    #: Input files that must be here before it can be drawn.
    inputs: tuple[InputFile, ...] = ()


def preview_wish(petition: Petition) -> PreviewWish | None:
    """What a petition wants shown of its images while they are drawn."""
    if petition.preview == "none":
        return None
    return PreviewWish(petition.preview, petition.preview_interval, petition.preview_noisy)


@dataclass(slots=True)
class Running:
    """The request that the engine has."""

    job: Job
    plan: Plan
    ticket: int
    #: When the child last said something about it; at first, when it was asked.
    heard_at: float
    began: bool = False
    phase: Phase | None = None
    #: When it came to this phase.
    phase_at: float = 0.0
    #: How often it came to sampling.
    passes: int = 0
    step: int = 0
    steps: int = 0
    step_s: float = 0.0
    #: Nobody wants it any more; it ends unseen.
    abandoned: bool = False
    #: Its end was asked for.
    cancelled: bool = False
    #: Progress that waits for its turn.
    pending: Step | None = None
    step_sent_at: float = -math.inf

    @property
    def size_key(self) -> SizeKey:
        """What its speed depends on: the second pass of highres fix has more pixels."""
        params = self.job.params
        width, height = (params.width, params.height) if self.passes < 2 else drawn_size(params)
        return (self.plan.key, width, height)

    @property
    def pixels(self) -> int:
        """Of the picture that is decoded in the end."""
        width, height = drawn_size(self.job.params)
        return width * height


class Drawing:
    """The engine child: down, starting, or ready and perhaps at work."""

    def __init__(self, turn: Turn, settings: Settings) -> None:
        self._turn = turn
        self._settings = settings
        self.pace = Pace(settings.patience)
        self.state: Literal["down", "starting", "ready"] = "down"
        #: What the engine is; None before the first child was ready.
        self.facts: EngineFacts | None = None
        #: The child can end a request early.
        self.cancels = False
        self.running: Running | None = None
        self.loaded = Loaded(turn, settings.declared.keep)
        #: Deaths in a row without a picture between them.
        self.deaths = 0
        self._killing = False
        self._ticket = 0
        self._started_at = 0.0
        self._restart_at = 0.0

    @property
    def is_idle(self) -> bool:
        """The child waits for a request."""
        return self.state == "ready" and self.running is None and not self._killing

    def start_if_due(self) -> None:
        """Start a child if there is none and its time has come."""
        if self.state == "down" and self._turn.now >= self._restart_at:
            self.state, self._started_at, self._killing = "starting", self._turn.now, False
            self._turn.effects.append(StartEngine())

    def became_ready(self, facts: EngineFacts, cancels: bool) -> bool:
        """The child takes requests; True when it is not what it was before."""
        self.state, self.cancels = "ready", cancels
        self.pace.start_s = self._turn.now - self._started_at
        changed = self.facts != facts
        self.facts = facts
        return changed

    def ask(self, job: Job, plan: Plan, inputs: dict[str, str]) -> None:
        """Hand a request to the idle child; `inputs` are paths by digest."""
        self._ticket += 1
        now = self._turn.now
        self.running = Running(job, plan, self._ticket, now, phase_at=now)
        self.loaded.asked(plan)
        draw = Draw(
            ticket=self._ticket,
            context=plan.key,
            params=job.params,
            seed=job.seed,
            files=plan.files,
            loras=plan.loras,
            embeddings=plan.embeddings,
            preview=job.preview,
            inputs=inputs,
            threads=self._settings.threads,
            max_pixels=self._settings.declared.max_pixels,
            load_bytes=plan.load_bytes,
            keep=self._settings.declared.keep,
            keep_bytes=self._settings.keep_bytes,
        )
        self._turn.effects.append(AskEngine(draw))

    def about(self, ticket: int) -> Running | None:
        """The running request, if that is what `ticket` means; its child was heard."""
        running = self.running
        if running is None or running.ticket != ticket:
            return None
        running.heard_at = self._turn.now
        return running

    def moved(self, running: Running, at: At) -> bool:
        """The request went on; True when its phase changed."""
        changed = running.phase != at.phase
        if changed and at.phase == "loading":
            self.loaded.loads(running.plan)
        elif at.phase != "loading":
            self.loaded.has(running.plan)
        if changed:
            running.phase_at = self._turn.now
            running.passes += at.phase == "sampling"
        running.phase = at.phase
        running.step, running.steps = max(0, at.step), max(0, at.steps)
        if at.phase == "sampling" and 0.0 < at.step_s < math.inf:
            running.step_s = at.step_s
            self.pace.stepped(running.size_key, at.step_s)
        return changed

    def drawn(self, running: Running, load_s: float) -> None:
        """The request ended with a picture."""
        self.loaded.has(running.plan)
        self.pace.loaded(running.plan.key, load_s, running.plan.load_bytes)
        self.running, self.deaths = None, 0

    def declined(self, loading: bool) -> None:
        """The request ended without a picture; with `loading`, its context is not loaded."""
        if loading and self.running is not None:
            self.loaded.loads(self.running.plan)
        self.running = None

    def died(self, counts: bool) -> None:
        """The child is gone, and what it was at with it; the next starts after a back-off."""
        delay_s = 0.0
        if counts:
            last = len(limits.RESTART_BACKOFF_S) - 1
            delay_s = limits.RESTART_BACKOFF_S[min(self.deaths, last)]
            self.deaths += 1
        self.state, self._restart_at = "down", self._turn.now + delay_s
        self.running = None
        self.loaded.clear()

    def kill(self, reason: str, code: ErrorCode) -> None:
        """End the child, once."""
        if not self._killing:
            self._killing = True
            self._turn.effects.append(KillEngine(reason, code))

    def abandon(self, running: Running, *, context_wanted: bool) -> None:
        """Nobody wants the running picture."""
        running.abandoned, running.pending = True, None
        self.weigh_abandoned(running, context_wanted=context_wanted)

    def is_loading(self, running: Running) -> bool:
        """Its context is being loaded, or will be."""
        if running.phase is None:
            return running.plan not in self.loaded
        return running.phase == "loading"

    def weigh_abandoned(self, running: Running, *, context_wanted: bool) -> None:
        """End it the cheapest way.

        That is the engine's own cancel where it has one, else to let it finish, unless a new child
        is there sooner. What is late is expected to be late again: that is why others race it.

        Args:
            running: what nobody wants.
            context_wanted: something else here wants what it loads.
        """
        if self.cancels:
            if not running.cancelled:
                running.cancelled = True
                self._turn.effects.append(CancelDrawing(running.ticket))
        elif self.is_loading(running):
            # What it loads is lost with the child, and nothing else is.
            if not context_wanted and self._load_left_s(running) > self.pace.start_s:
                self.kill("What it loads is not wanted any more.", "cancelled")
        elif self._steps_left_s(running) > self.pace.reload_s(running.plan.key):
            self.kill("Its picture is not wanted any more.", "cancelled")

    def _load_left_s(self, running: Running) -> float:
        """Expected seconds until the child would be free, of a request that is loading."""
        plan, since_s = running.plan, self._turn.now - running.phase_at
        return self.pace.load_left_s(plan.key, plan.load_bytes, since_s)

    def _steps_left_s(self, running: Running) -> float:
        """The same of one that draws."""
        step_s = running.step_s or self.pace.step_s(running.size_key)
        step_s = max(step_s, self._turn.now - running.heard_at)
        steps = running.steps or running.job.params.steps
        past_steps = running.phase in ("decoding", "upscaling", "finishing")
        return 0.0 if past_steps else max(0, steps - running.step) * step_s

    def watch(self) -> None:
        """End a child that has been silent for too long."""
        due_at, reason = self._patience_ends()
        if not self._killing and self._turn.now >= due_at:
            self._turn.log("error", f"{reason} Ending the engine.")
            self.kill(reason, "engine_hung")

    def forgive(self, delay_s: float) -> None:
        """Move the limits by a delay that was this machine's own fault."""
        self._started_at += delay_s
        if self.running is not None:
            self.running.heard_at += delay_s

    def deadlines(self) -> list[float]:
        """When `watch`, `start_if_due` or waiting progress has something to do."""
        times = [] if self._killing else [self._patience_ends()[0]]
        if self.state == "down":
            times.append(self._restart_at)
        if self.running is not None and self.running.pending is not None:
            times.append(self.running.step_sent_at + STEP_S)
        return times

    def summary(self) -> EngineState:
        """What the manager hears of the engine."""
        if self.state != "ready":
            return EngineState(state="starting")
        doing: Literal["idle", "loading", "drawing"] = "idle"
        if self.running is not None:
            plan = self.running.plan
            doing = "drawing" if plan in self.loaded or plan.upscales else "loading"
        last, *others = self.loaded.kept() or [Kept("", "")]
        return EngineState(state=doing, loaded=last.model, context=last.context, kept=tuple(others))

    def _patience_ends(self) -> tuple[float, str]:
        """When silence becomes a hang, and how that is told."""
        if self.state == "starting":
            limit_s = self.pace.start_limit_s()
            return self._started_at + limit_s, f"The engine was not ready within {limit_s:g} s."
        running = self.running
        if running is None:
            return math.inf, ""
        if not running.began:
            limit_s = self.pace.answer_limit_s()
            reason = f"The engine did not begin within {limit_s:g} s of being asked."
        elif running.phase in (None, "loading"):
            limit_s = self.pace.load_limit_s(running.plan.load_bytes)
            reason = f"The engine was silent for {limit_s:g} s while loading {running.plan.model}."
        elif running.phase == "sampling":
            limit_s = self.pace.step_limit_s(running.size_key)
            reason = (
                f"The engine was silent for {limit_s:g} s while sampling,"
                f" after step {running.step} of {running.steps}."
            )
        else:
            limit_s = self.pace.phase_limit_s(running.pixels)
            reason = f"The engine was silent for {limit_s:g} s while {running.phase}."
        return running.heard_at + limit_s, reason
