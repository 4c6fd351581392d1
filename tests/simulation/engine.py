"""The engine child and the encoder of a simulated worker.

Pixels follow from (prompt, seed) and nothing else, files also from who drew them, as real ones do:
they name their worker. So equal pixels are seen to be equal, and two results of one image to be
two.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator

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
_PHASES = ("loading", "encoding", "sampling", "decoding")


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
        attempt: Callable[[str], None],
        in_session: Callable[[], bool],
    ) -> None:
        self._world, self._faults, self._wake = world, faults, wake
        self._in_session = in_session
        #: Called with what becomes of the request under way: "begun", "spoilt", "cut".
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
        world, ticket, prompt = self._world, draw.ticket, draw.params.prompt
        steps = draw.params.steps
        load_s = 0.0 if self._loaded == draw.context else self._load_s
        self._loaded = draw.context
        doom = self._doom(prompt, draw.seed)
        self._attempt("begun")
        if doom:
            self._attempt("spoilt")
        if self._faults.roll("connection breaks as an image is begun"):
            self._attempt("cut")
        at_s = world.between(0.001, 0.01)
        self._later(at_s, self._frame, child.Began(ticket=ticket))
        stops = [("loading", 0, load_s)] if load_s else []
        stops += [("encoding", 0, 0.01)]
        stops += [("sampling", step, self._step_s) for step in range(steps + 1)]
        stops += [("decoding", steps, 0.02)]
        last = world.rng.randrange(len(stops)) if doom else len(stops)
        for phase, step, lasts_s in stops[:last]:
            at = child.At(ticket=ticket, phase=phase, step=step, steps=steps, step_s=self._step_s)  # type: ignore[arg-type]
            self._later(at_s, self._frame, at)
            if phase == "sampling" and draw.preview is not None:
                self._later(at_s, self._peek, ticket, step)
            at_s += lasts_s
        if doom:
            self._meet(doom, at_s, ticket, loading=bool(load_s) and last <= 1)
            return
        drawn = child.Drawn(
            ticket=ticket, width=64, height=64, channels=3, load_s=load_s, draw_s=at_s
        )
        self._later(at_s, self._done, events.PictureDrawn(drawn, pixels(prompt, draw.seed)))

    def _peek(self, ticket: int, step: int) -> None:
        if self._room:
            self._room = False
            shown = child.Previewed(ticket=ticket, step=step, width=8, height=8, channels=3)
            self._say(events.PreviewDrawn(shown, b"pixels"))

    def _done(self, event: events.Event) -> None:
        self._busy = False
        drawn = isinstance(event, events.PictureDrawn) and not self._in_session()
        if drawn and self._faults.roll("engine declines without a session"):
            self._attempt("spoilt")
            no = child.Declined(
                ticket=event.drawn.ticket,
                code="engine_error",
                message="It cannot be.",
                loading=False,
            )
            event = events.EngineSpoke(no)
        self._say(event)

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
            no = child.Declined(ticket=ticket, code=code, message="It cannot be.", loading=loading)
            self._later(at_s, self._done, events.EngineSpoke(no))


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
