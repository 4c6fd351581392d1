"""The engine child as the machine sees it: what it draws, how long that may take, when it is back.

Pure. One call at a time goes to the child; the rest waits with the machine, where it can still be
revoked.
"""

import math
from collections.abc import Sequence
from typing import Literal

from sdistrib import limits
from sdistrib.errors import ErrorCode
from sdistrib.protocol.engine import At, Draw, Drawn
from sdistrib.protocol.messages import EngineFacts, EngineState, Kept
from sdistrib_worker.calls import Call, Job, Part, likeness
from sdistrib_worker.effects import AskEngine, CancelDrawing, KillEngine, StartEngine
from sdistrib_worker.loaded import Loaded
from sdistrib_worker.pace import Pace
from sdistrib_worker.results import seconds
from sdistrib_worker.session import Settings, Turn
from sdistrib_worker.shelf import Plan

#: Progress goes to the manager at most this often, changes of phase apart.
STEP_S = 0.1


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
        self.call: Call | None = None
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
        return self.state == "ready" and self.call is None and not self._killing

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

    def image_s(self, job: Job, plan: Plan) -> float:
        """Expected seconds of drawing such an image; 0 when not known."""
        return self.pace.image_s(likeness(plan, job.params))

    def ask(self, jobs: Sequence[Job], plan: Plan, inputs: dict[str, str]) -> None:
        """Hand a call to the idle child; `inputs` are paths by digest."""
        first, now, number = jobs[0], self._turn.now, self._ticket + 1
        self._ticket += len(jobs)
        parts = {number + place: Part(job) for place, job in enumerate(jobs)}
        self.call = Call(parts, plan, number, number, now, phase_at=now)
        self.loaded.asked(plan)
        draw = Draw(
            ticket=number,
            count=len(jobs),
            context=plan.key,
            params=first.params,
            seed=first.seed,
            files=plan.files,
            loras=plan.loras,
            embeddings=plan.embeddings,
            preview=first.preview,
            inputs=inputs,
            threads=self._settings.threads,
            max_pixels=self._settings.declared.max_pixels,
            load_bytes=plan.load_bytes,
            keep=self._settings.declared.keep,
            keep_bytes=self._settings.keep_bytes,
        )
        self._turn.effects.append(AskEngine(draw))

    def about(self, ticket: int) -> Call | None:
        """The call under way, if `ticket` means an image of it; its child was heard."""
        call = self.call
        if call is None or ticket not in call.parts:
            return None
        call.heard_at = self._turn.now
        return call

    def began(self, call: Call, ticket: int) -> Part:
        """The child turned to an image; gives that."""
        call.began, call.ticket, call.step = True, ticket, 0
        # Progress of another image is told at once.
        call.step_sent_at = -math.inf
        part = call.parts[ticket]
        part.began = True
        return part

    def moved(self, call: Call, at: At) -> bool:
        """The call went on; True when its phase changed, or its image."""
        changed = call.phase != at.phase
        if changed and at.phase == "loading":
            self.loaded.loads(call.plan)
        elif at.phase != "loading":
            self.loaded.has(call.plan)
        if changed:
            call.phase_at = self._turn.now
            call.passes += at.phase == "sampling"
        elsewhere, call.ticket = call.ticket != at.ticket, at.ticket
        call.phase = at.phase
        call.step, call.steps = max(0, at.step), max(0, at.steps)
        if at.phase == "sampling" and 0.0 < at.step_s < math.inf:
            call.step_s = at.step_s
            self.pace.stepped(call.size_key, at.step_s)
        return changed or elsewhere

    def drawn(self, call: Call, drawn: Drawn) -> Part:
        """An image ended with a picture; gives that. The call ends with the last of them."""
        part = call.parts[drawn.ticket]
        plan = call.plan
        self.loaded.has(plan)
        self.pace.loaded(plan.key, seconds(drawn.load_s), plan.load_bytes)
        self.pace.drew(likeness(plan, part.job.params), seconds(drawn.draw_s))
        self.deaths = 0
        if len(call.parts) == 1:
            self.call = None
        else:
            del call.parts[drawn.ticket]
            call.ticket = next(iter(call.parts))
        return part

    def declined(self, loading: bool) -> None:
        """The call ended without a picture; with `loading`, its context is not loaded."""
        if loading and self.call is not None:
            self.loaded.loads(self.call.plan)
        self.call = None

    def died(self, counts: bool) -> None:
        """The child is gone, and what it was at with it; the next starts after a back-off."""
        delay_s = 0.0
        if counts:
            last = len(limits.RESTART_BACKOFF_S) - 1
            delay_s = limits.RESTART_BACKOFF_S[min(self.deaths, last)]
            self.deaths += 1
        self.state, self._restart_at = "down", self._turn.now + delay_s
        self.call = None
        self.loaded.clear()

    def kill(self, reason: str, code: ErrorCode) -> None:
        """End the child, once."""
        if not self._killing:
            self._killing = True
            self._turn.effects.append(KillEngine(reason, code))

    def abandon(self, call: Call, part: Part, *, context_wanted: bool) -> None:
        """Nobody wants this image of the call; with the last one that was wanted, it may end."""
        part.abandoned = True
        if call.pending is not None and call.pending.attempt == part.job.attempt:
            call.pending = None
        if not call.wanted:
            self.weigh_abandoned(call, context_wanted=context_wanted)

    def is_loading(self, call: Call) -> bool:
        """Its context is being loaded, or will be."""
        if call.phase is None:
            return call.plan not in self.loaded
        return call.phase == "loading"

    def weigh_abandoned(self, call: Call, *, context_wanted: bool) -> None:
        """End it the cheapest way.

        That is the engine's own cancel where it has one, else to let it finish, unless a new child
        is there sooner. What is late is expected to be late again: that is why others race it.

        Args:
            call: what nobody wants.
            context_wanted: something else here wants what it loads.
        """
        if self.cancels:
            if not call.cancelled:
                call.cancelled = True
                self._turn.effects.append(CancelDrawing(call.number))
        elif self.is_loading(call):
            # What it loads is lost with the child, and nothing else is.
            if not context_wanted and self._load_left_s(call) > self.pace.start_s:
                self.kill("What it loads is not wanted any more.", "cancelled")
        elif self._steps_left_s(call) > self.pace.reload_s(call.plan.key):
            self.kill("Its picture is not wanted any more.", "cancelled")

    def _load_left_s(self, call: Call) -> float:
        """Expected seconds until the child would be free, of a request that is loading."""
        plan, since_s = call.plan, self._turn.now - call.phase_at
        return self.pace.load_left_s(plan.key, plan.load_bytes, since_s)

    def _steps_left_s(self, call: Call) -> float:
        """The same of one that draws."""
        step_s = call.step_s or self.pace.step_s(call.size_key)
        step_s = max(step_s, self._turn.now - call.heard_at)
        return call.steps_left * step_s

    def watch(self) -> None:
        """End a child that has been silent for too long."""
        due_at, reason = self._patience_ends()
        if not self._killing and self._turn.now >= due_at:
            self._turn.log("error", f"{reason} Ending the engine.")
            self.kill(reason, "engine_hung")

    def forgive(self, delay_s: float) -> None:
        """Move the limits by a delay that was this machine's own fault."""
        self._started_at += delay_s
        if self.call is not None:
            self.call.heard_at += delay_s

    def deadlines(self) -> list[float]:
        """When `watch`, `start_if_due` or waiting progress has something to do."""
        times = [] if self._killing else [self._patience_ends()[0]]
        if self.state == "down":
            times.append(self._restart_at)
        if self.call is not None and self.call.pending is not None:
            times.append(self.call.step_sent_at + STEP_S)
        return times

    def summary(self) -> EngineState:
        """What the manager hears of the engine."""
        if self.state != "ready":
            return EngineState(state="starting")
        doing: Literal["idle", "loading", "drawing"] = "idle"
        if self.call is not None:
            plan = self.call.plan
            doing = "drawing" if plan in self.loaded or plan.upscales else "loading"
        last, *others = self.loaded.kept() or [Kept("", "")]
        return EngineState(state=doing, loaded=last.model, context=last.context, kept=tuple(others))

    def _patience_ends(self) -> tuple[float, str]:
        """When silence becomes a hang, and how that is told."""
        if self.state == "starting":
            limit_s = self.pace.start_limit_s()
            return self._started_at + limit_s, f"The engine was not ready within {limit_s:g} s."
        call = self.call
        if call is None:
            return math.inf, ""
        if not call.began:
            limit_s = self.pace.answer_limit_s()
            reason = f"The engine did not begin within {limit_s:g} s of being asked."
        elif call.phase in (None, "loading"):
            limit_s = self.pace.load_limit_s(call.plan.load_bytes)
            reason = f"The engine was silent for {limit_s:g} s while loading {call.plan.model}."
        elif call.phase == "sampling":
            limit_s = self.pace.step_limit_s(call.size_key)
            reason = (
                f"The engine was silent for {limit_s:g} s while sampling,"
                f" after step {call.step} of {call.steps}."
            )
        else:
            limit_s = self.pace.phase_limit_s(call.pixels)
            reason = f"The engine was silent for {limit_s:g} s while {call.phase}."
        return call.heard_at + limit_s, reason
