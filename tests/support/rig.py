"""A worker's machine with a hand-moved clock, manager and engine: no socket, no sleep.

After every turn it is checked that the machine is not due at once again: a loop would spin.
"""

import itertools
from typing import Any, TypeVar

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.machine import Worker
from sdistrib_worker.session import Settings
from sdistrib_worker.shelf import Shelf, StoredFile, make_plan

T = TypeVar("T")

FACTS = wire.EngineFacts(version="0.4.7", backend="cpu", device="test", fingerprint="f" * 16)
MODEL = StoredFile(
    ModelFile("stable-diffusion", "tiny.safetensors", 14_000_000, "a" * 64), "/m/t", 1
)
OTHER = StoredFile(ModelFile("stable-diffusion", "other.safetensors", 9_000_000), "/m/o", 2)
LORA = StoredFile(ModelFile("lora", "style.safetensors", 15_000, "b" * 64), "/m/l", 3)
FILES = (MODEL, OTHER, LORA)


def petition_id(number: int) -> str:
    """A recognisable petition id."""
    return f"{number:032x}"


def attempt(index: int = 0, number: int = 1, petition: int = 1) -> wire.Attempt:
    """A recognisable attempt."""
    return wire.Attempt(petition_id(petition), index, number)


def crash(**more: Any) -> events.EngineDied:
    """The engine child died of a segmentation fault."""
    info = ErrorInfo(
        code="engine_crashed",
        message="The engine was ended by SIGSEGV (while sampling).",
        signal="SIGSEGV",
        log_tail=("a line",),
    )
    return events.EngineDied(info, **more)


class Rig:
    """The machine, its clock, and all that it wanted done."""

    def __init__(self, files: tuple[StoredFile, ...] = FILES, **settings: Any) -> None:
        self.now = 1000.0
        known = {
            "name": "box",
            "instance": "0" * 16,
            "address": "10.0.0.9:4134",
            "version": "0.1.0",
        }
        self.worker = Worker(Settings(**{**known, **settings}), files)
        self.effects: list[fx.Effect] = []
        self._pictures = itertools.count()

    def turn(self, *happened: events.Event, after_s: float = 0.0) -> list[fx.Effect]:
        """Let time pass, then one turn of the loop; gives what the turn wanted done."""
        self.now += after_s
        made: list[fx.Effect] = []
        for event in (*happened, events.TurnEnded()):
            made += self.worker.handle(event, self.now)
        if not any(isinstance(effect, fx.Stop) for effect in made):
            assert self.worker.next_deadline() > self.now, "the loop would spin"
        self.effects += made
        return made

    def hear(
        self, message: wire.Message, body: bytes = b"", after_s: float = 0.0
    ) -> list[fx.Effect]:
        """The manager says something."""
        return self.turn(events.MessageArrived(message, body), after_s=after_s)

    def engine(self, *frames: child.EngineFrame, after_s: float = 0.0) -> list[fx.Effect]:
        """The engine child says something."""
        return self.turn(*(events.EngineSpoke(frame) for frame in frames), after_s=after_s)

    def ready(self) -> list[fx.Effect]:
        """The engine child starts and is ready."""
        self.turn()
        return self.engine(child.Ready(facts=FACTS))

    def connect(self) -> list[fx.Effect]:
        """Engine ready, manager's welcome heard."""
        self.ready()
        return self.welcome()

    def welcome(self) -> list[fx.Effect]:
        """The manager answers a hello."""
        return self.hear(wire.Welcome(protocol=1, software="sdistrib test"))

    def grant(
        self,
        *attempts: wire.Attempt,
        seed: int = 100,
        inputs: tuple[InputFile, ...] = (),
        **params: Any,
    ) -> list[fx.Effect]:
        """The manager grants attempts at images of one petition."""
        if inputs:
            params["ref_images"] = tuple(file.digest for file in inputs)
        wishes = {"prompt": "a lighthouse", "model": "tiny", "steps": 4, **params}
        most = max(one.index for one in attempts) + 1
        petition = Petition(params=Params(**wishes), seed=seed, images=most, inputs=inputs)
        body = encode_petition(petition)
        return self.hear(wire.Grant(attempts=attempts), body)

    def begin(self, *attempts: wire.Attempt, **params: Any) -> int:
        """Grant, and let the engine begin the first; gives its ticket."""
        ticket = one(asked(self.grant(*attempts, **params))).ticket
        self.engine(child.Began(ticket=ticket))
        return ticket

    def draw(self, ticket: int, load_s: float = 0.0, **facts: Any) -> list[fx.Effect]:
        """The engine finishes a picture."""
        sizes = {"width": 64, "height": 64, "channels": 3, "load_s": load_s, "draw_s": 2.0}
        drawn = child.Drawn(ticket=ticket, **{**sizes, **facts})
        return self.turn(events.PictureDrawn(drawn, f"pixels {next(self._pictures)}"))

    def encoded(self, of: wire.Attempt, data: bytes = b"png") -> list[fx.Effect]:
        """The encoder finishes a file."""
        return self.turn(events.PictureEncoded(of, data, digest(data), 0.01))


def digest(data: bytes) -> str:
    """A recognisable digest."""
    return f"{len(data):064x}"


def one(found: list[T]) -> T:
    """The only element."""
    assert len(found) == 1, found
    return found[0]


def said(made: list[fx.Effect], kind: type[Any] = wire.Message) -> list[Any]:
    """Messages of a kind among effects."""
    sends = [effect.message for effect in made if isinstance(effect, fx.Send)]
    return [message for message in sends if isinstance(message, kind)]


def of(made: list[fx.Effect], kind: type[T]) -> list[T]:
    """Effects of a kind."""
    return [effect for effect in made if isinstance(effect, kind)]


def asked(made: list[fx.Effect]) -> list[child.Draw]:
    """Requests for the engine among effects."""
    return [effect.draw for effect in of(made, fx.AskEngine)]


def log_of(made: list[fx.Effect], level: str = "") -> str:
    """All log lines, or those of a level."""
    lines = of(made, fx.Log)
    return "\n".join(line.text for line in lines if level in ("", line.level))


def tiny_context() -> str:
    """What is loaded when a plain petition for the tiny model is drawn."""
    plan = make_plan(Params(prompt="x", model="tiny"), Shelf(FILES), "box")
    return plan.context


def big(rig: Rig, index: int, mib: int) -> list[fx.Effect]:
    """A picture of so many MiB is drawn and encoded."""
    ticket = rig.begin(attempt(index))
    rig.draw(ticket)
    return rig.encoded(attempt(index), bytes(mib * limits.MIB + index))
