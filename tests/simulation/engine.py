"""The engine child and the encoder of a simulated worker.

Pixels follow from (prompt, seed) and nothing else, files also from who drew them, as real ones do:
they name their worker. So equal pixels are seen to be equal, and two results of one image to be
two.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sdistrib.errors import ErrorCode, ErrorInfo
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.messages import EngineFacts
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from tests.simulation.faults import Faults
from tests.simulation.world import World

#: An image whose prompt begins so ends every engine when its seed is a multiple of three.
POISON = "poison"
_FACTS = EngineFacts(version="0.4.7", backend="cpu", device="simulated", fingerprint="f" * 16)


class Stop(NamedTuple):
    """A place on the way through a call."""

    #: Of the image that the engine is at.
    ticket: int
    phase: wire.Phase
    step: int
    lasts_s: float


def pixels(prompt: str, seed: int) -> bytes:
    """The pixels of an image; 32 to 1,500 bytes."""
    seal = hashlib.sha256(f"{prompt}/{seed}".encode()).hexdigest().encode()
    return seal[:32] + seal * (seed * 7 % 23)


def is_poison(prompt: str, seed: int) -> bool:
    """The image ends every engine."""
    return prompt.startswith(POISON) and seed % 3 == 0


class SimEngine:
    """Stands for `EngineLink`: one child after another."""

    wants_write = False

    def __init__(
        self,
        world: World,
        faults: Faults,
        wake: Callable[[], None],
        attempt: Callable[[str, int], None],
        in_session: Callable[[], bool],
    ) -> None:
        self._world, self._faults, self._wake = world, faults, wake
        self._in_session = in_session
        #: Called with what becomes of an image under way, "begun", "spoilt", "cut", and its ticket.
        self._attempt = attempt
        self._said: deque[events.Event] = deque()
        #: Number of the child that is alive; what an earlier one would do does not happen.
        self._life = 0
        self._alive = False
        #: It is at a request.
        self._busy = False
        self._loaded = ""
        #: The worker has taken the last preview.
        self._room = True
        #: Seconds of a load, of a step, and from start to ready.
        self._load_s = world.between(0.05, 2.0)
        self._step_s = world.rng.choice((0.01, 0.05, 0.2, 1.0)) * world.between(0.5, 1.5)
        self._start_s = world.between(0.1, 2.5)

    def receive(self) -> Iterator[events.Event]:
        """Everything the child has said since."""
        while self._said:
            yield self._said.popleft()

    def poll_what_is_open(self) -> None:
        """There is nothing to poll."""

    def stop(self) -> None:
        """End the child."""
        self._life += 1

    def end_idle(self) -> bool:
        """A child that waits for a request ends by itself; False when there is none."""
        idle = self._alive and not self._busy
        if idle:
            self._die("The engine was ended by SIGSEGV.", "engine_crashed")
        return idle

    def carry_out(self, effect: fx.Effect) -> events.FileVanished | None:
        """Do what the machine wants of the child."""
        match effect:
            case fx.StartEngine():
                self._start()
            case fx.AskEngine(draw):
                if self._faults.roll("file vanished"):
                    return events.FileVanished(draw.ticket, next(iter(draw.files.values())))
                self._draw(draw)
            case fx.WantPreview():
                self._room = True
            case fx.KillEngine(reason, code):
                self._later(self._world.between(0.0, 0.05), self._die, reason, code, True)
            case _:
                pass
        return None

    def _later(self, delay_s: float, do: Callable[..., None], *what: object) -> None:
        self._world.after(delay_s, self._if_alive, self._life, do, what)

    def _if_alive(self, life: int, do: Callable[..., None], what: tuple[object, ...]) -> None:
        if life == self._life:
            do(*what)

    def _say(self, event: events.Event) -> None:
        self._said.append(event)
        self._wake()

    def _frame(self, frame: child.EngineFrame) -> None:
        self._say(events.EngineSpoke(frame))

    def _start(self) -> None:
        self._life += 1
        self._alive, self._busy, self._loaded = False, False, ""
        if self._faults.roll("engine does not start"):
            self._later(self._start_s, self._die, "The engine ended at once.", "engine_crashed")
        else:
            self._later(self._start_s, self._ready)

    def _ready(self) -> None:
        self._alive = self._room = True
        self._frame(child.Ready(facts=_FACTS))

    def _die(self, reason: str, code: ErrorCode, ours: bool = False) -> None:
        self._life += 1
        alive, self._alive = self._alive, False
        signal = "SIGKILL" if ours else "SIGSEGV"
        info = ErrorInfo(code=code, message=reason, signal=signal, log_tail=("last words",))
        self._say(events.EngineDied(info, ours=ours, was_ready=alive))

    def _draw(self, draw: child.Draw) -> None:
        if not self._alive:
            return  # its death is not seen yet; what is asked of it is lost
        self._busy = True
        ticket = draw.ticket
        load_s = 0.0 if self._loaded == draw.context else self._load_s
        self._loaded = draw.context
        self._attempt("begun", ticket)
        if self._faults.roll("connection breaks as an image is begun"):
            self._attempt("cut", ticket)
        stops = self._way(draw, load_s)
        doom, last = self._fate(draw, stops)
        began_s = self._world.between(0.001, 0.01)
        self._later(began_s, self._frame, child.Began(ticket=ticket))
        at_s = self._go(draw, stops[:last], began_s)
        if doom:
            at = stops[last - 1].ticket if last else ticket
            self._attempt("spoilt", at)
            for other in sorted({stop.ticket for stop in stops[:last]} - {at}):
                self._later(at_s, self._attempt, "spoilt", other)
            self._meet(doom, at_s, at, loading=bool(load_s) and last <= 1)
            return
        made = [
            child.Drawn(
                ticket=ticket + number, width=64, height=64, channels=3,
                load_s=0.0 if number else load_s, draw_s=(at_s - began_s - load_s) / draw.count,
            )
            for number in range(draw.count)
        ]  # fmt: skip
        self._later(at_s, self._done, draw, made)

    def _go(self, draw: child.Draw, stops: list[Stop], at_s: float) -> float:
        """Tell of these; gives when the last of them is over."""
        begun = draw.ticket
        for stop in stops:
            if stop.ticket > begun:
                begun = stop.ticket
                self._later(at_s, self._begin, begun)
            at = child.At(
                ticket=stop.ticket, phase=stop.phase, step=stop.step, steps=draw.params.steps,
                step_s=self._step_s,
            )  # fmt: skip
            self._later(at_s, self._frame, at)
            if stop.phase == "sampling" and draw.preview is not None:
                self._later(at_s, self._peek, stop.ticket, stop.step)
            at_s += stop.lasts_s
        return at_s

    def _way(self, draw: child.Draw, load_s: float) -> list[Stop]:
        """All images are sampled before the first is decoded."""
        first, steps = draw.ticket, draw.params.steps
        tickets = range(first, first + draw.count)
        stops = [Stop(first, "loading", 0, load_s)] if load_s else []
        stops += [Stop(first, "encoding", 0, 0.01)]
        stops += [
            Stop(ticket, "sampling", step, self._step_s)
            for ticket in tickets
            for step in range(steps + 1)
        ]
        return stops + [Stop(ticket, "decoding", steps, 0.02) for ticket in tickets]

    def _fate(self, draw: child.Draw, stops: list[Stop]) -> tuple[str, int]:
        """What becomes of the call, and before which stop; the first image that is doomed is it."""
        if draw.count > 1:
            self._world.faults["call of several"] += 1
        for number in range(draw.count):
            doom = self._doom(draw.params.prompt, draw.seed + number)
            if doom and draw.count == 1:
                return doom, self._world.rng.randrange(len(stops))
            if doom:
                self._world.faults["call of several ends early"] += 1
                own = [n for n, stop in enumerate(stops) if stop.ticket == draw.ticket + number]
                return doom, self._world.rng.choice(own) + 1
        return "", len(stops)

    def _begin(self, ticket: int) -> None:
        """The engine turns to another image of its call."""
        self._attempt("begun", ticket)
        self._frame(child.Began(ticket=ticket))

    def _peek(self, ticket: int, step: int) -> None:
        if self._room:
            self._room = False
            shown = child.Previewed(ticket=ticket, step=step, width=8, height=8, channels=3)
            self._say(events.PreviewDrawn(shown, b"pixels"))

    def _done(self, draw: child.Draw, made: list[child.Drawn]) -> None:
        self._busy = False
        if not self._in_session() and self._faults.roll("engine declines without a session"):
            for drawn in made:
                self._attempt("spoilt", drawn.ticket)
            self._decline(made[-1].ticket, "engine_error", loading=False)
            return
        for number, drawn in enumerate(made):
            self._say(events.PictureDrawn(drawn, pixels(draw.params.prompt, draw.seed + number)))

    def _decline(self, ticket: int, code: ErrorCode, loading: bool) -> None:
        self._busy = False
        no = child.Declined(ticket=ticket, code=code, message="It cannot be.", loading=loading)
        self._frame(no)

    def _doom(self, prompt: str, seed: int) -> str:
        if is_poison(prompt, seed):
            self._world.faults["poison drawn"] += 1
            return "engine crashes"
        kinds = ("engine crashes", "engine hangs", "engine declines", "engine out of memory")
        return next((kind for kind in kinds if self._faults.roll(kind)), "")

    def _meet(self, doom: str, at_s: float, ticket: int, *, loading: bool) -> None:
        if doom == "engine crashes":
            self._later(at_s, self._die, "The engine was ended by SIGSEGV.", "engine_crashed")
        elif doom != "engine hangs":
            code: ErrorCode = "engine_error" if doom == "engine declines" else "out_of_memory"
            if loading:
                self._loaded = ""
            self._later(at_s, self._decline, ticket, code, loading)


class SimEncoder:
    """Stands for `Encoder`: pixels to files, some time later."""

    def __init__(
        self,
        world: World,
        faults: Faults,
        worker: str,
        spoilt: Callable[[wire.Attempt], None],
        notify: Callable[[events.Event], None],
        in_session: Callable[[], bool],
    ) -> None:
        self._world, self._faults, self._worker = world, faults, worker
        self._spoilt, self._notify, self._in_session = spoilt, notify, in_session
        self._dead = False

    def order(self, effect: fx.EncodePicture | fx.EncodePreview) -> None:
        """Make a file."""
        if isinstance(effect, fx.EncodePreview):
            answer = events.PreviewEncoded(effect.attempt, b"preview", "png", 8, 8)
            self._world.after(self._world.between(0.001, 0.1), self._previewed, answer)
            return
        self._world.after(self._world.between(0.001, 0.1), self._done, effect)

    def _done(self, effect: fx.EncodePicture) -> None:
        if self._dead:
            return
        alone = not self._in_session()
        if self._faults.roll("encoding fails") or (
            alone and self._faults.roll("encoding fails without a session")
        ):
            error = ErrorInfo(code="internal", message="No memory for the file.")
            self._spoilt(effect.attempt)
            self._notify(events.EncodingFailed(effect.attempt, error))
        else:
            data = effect.picture + (b" by " + self._worker.encode() if effect.facts else b"")
            digest = hashlib.sha256(data).hexdigest()
            self._notify(events.PictureEncoded(effect.attempt, data, digest, 0.01))

    def _previewed(self, answer: events.PreviewEncoded) -> None:
        if not self._dead:
            self._notify(answer)

    def stop(self) -> None:
        """End."""
        self._dead = True
