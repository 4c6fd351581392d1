"""Random walks through the worker's machine: every granted attempt gets exactly one answer.

The world around the machine (manager, connection, engine child, encoder) is played with dice from
a seed, faults included; at the end everything is let finish. The seed is the test's name.
"""

import random
from collections import defaultdict

import pytest

from sdistrib.errors import ErrorInfo
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from tests.support.rig import FACTS, Rig, attempt, crash, digest

WALKS = 250
STEPS = 150


class World:
    """The machine with a manager, a connection, an engine child and an encoder of dice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.rig = Rig()
        self.connected = True
        #: The manager knows this worker; without that it answers nothing but hellos.
        self.known = False
        self.child = "none"
        self.draw: child.Draw | None = None
        #: Tickets of its images whose pictures have not been handed out.
        self.left: list[int] = []
        #: Images that calls of several were asked for; ends of engines and refusals of theirs.
        self.together = 0
        self.ends = {"engine_crashed": 0, "engine_error": 0}
        #: Attempts that failed, by the reason.
        self.failed: dict[str, set[wire.Attempt]] = defaultdict(set)
        self.encoding: list[wire.Attempt] = []
        self.granted: list[wire.Attempt] = []
        self.abandoned: set[wire.Attempt] = set()
        #: What the manager heard of each attempt.
        self.answers: dict[wire.Attempt, set[str]] = defaultdict(set)
        #: Attempts whose answer came to a manager that did not know this worker.
        self.unheard: set[wire.Attempt] = set()
        #: Attempts that the worker heard of in a session.
        self.taken: set[wire.Attempt] = set()
        #: Attempts that a hello rightly did not name: the manager waits for no answer of theirs.
        self.released: set[wire.Attempt] = set()
        #: What the manager has said and the worker has not heard, in order, with its bodies.
        self.inbox: list[tuple[wire.Message, bytes]] = []

    def turn(self, *happened: events.Event, after_s: float = 0.0) -> None:
        """One turn, and what its effects bring about, until nothing more follows."""
        waiting = list(happened)
        while True:
            made = self.rig.turn(*waiting, after_s=after_s)
            waiting, after_s = [], 0.0
            for effect in made:
                waiting += self.carry_out(effect)
            if not waiting:
                return

    def carry_out(self, effect: fx.Effect) -> list[events.Event]:
        """What the world does with an effect at once."""
        match effect:
            case fx.StartEngine():
                assert self.child == "none"
                self.child = "starting"
            case fx.AskEngine(draw):
                assert (self.child, self.draw) == ("ready", None), "one request at a time"
                self.draw = draw
                self.left = list(range(draw.ticket, draw.ticket + draw.count))
                self.together += draw.count if draw.count > 1 else 0
            case fx.KillEngine(reason, code):
                assert self.child != "none"
                self.child, self.draw = "none", None
                return [events.EngineDied(ErrorInfo(code=code, message=reason), ours=True)]
            case fx.EncodePicture(of, _, _):
                self.encoding.append(of)
            case fx.Send(message, body) if not self.connected:
                assert body is None or len(body) < 10_000
                return [events.SendFailed(message)]
            case fx.Send(message, _):
                self.hear(message)
        return []

    def hear(self, message: wire.Message) -> None:
        """The manager takes a message in."""
        if isinstance(message, wire.WorkerHello):
            lost = self.unheard | {one for one in self.granted if one not in self.taken}
            self.released |= lost - {*message.running, *message.holding}
            self.unheard.clear()
            self.known = True
            self.say(wire.Welcome(protocol=1, software="dice"))
        elif not self.known:
            self.say(wire.Identify())
            if isinstance(message, wire.Failed | wire.Revoked):
                self.unheard.add(message.attempt)
        elif isinstance(message, wire.Result | wire.Failed | wire.Revoked):
            self.answers[message.attempt].add(type(message).__name__)
            if isinstance(message, wire.Failed) and message.started:
                self.failed[message.error.code].add(message.attempt)
            if isinstance(message, wire.Result):
                self.say(self.verdict(message))

    def say(self, message: wire.Message, body: bytes = b"") -> None:
        """The manager says something; it arrives after what it said before."""
        self.inbox.append((message, body))

    def verdict(self, result: wire.Result) -> wire.Message:
        if self.dice.random() < 0.8:
            return wire.ResultRecorded(attempt=result.attempt)
        return wire.ResultRefused(attempt=result.attempt, reason="dice")

    def step(self) -> None:
        """Something happens."""
        happenings = [
            self.grant, self.grant, self.grant, self.revoke, self.abandon, self.deliver,
            self.deliver, self.progress, self.progress, self.finish, self.finish, self.encode,
            self.encode, self.crash,
            self.decline, self.cut, self.forget, self.wait,
        ]  # fmt: skip
        self.dice.choice(happenings)()

    def grant(self) -> None:
        if not (self.connected and self.known):
            return
        petition, count = len(self.granted) + 1, self.dice.randint(1, 6)
        attempts = [attempt(index, petition=petition) for index in range(count)]
        self.granted += attempts
        self.say(wire.Grant(attempts=tuple(attempts)), _body(self.dice))

    def revoke(self) -> None:
        if self.granted and self.connected and self.known:
            some = self.dice.choice(self.granted)
            self.say(wire.Revoke(attempt=some))

    def abandon(self) -> None:
        if self.granted and self.connected and self.known and self.dice.random() < 0.3:
            some = self.dice.choice(self.granted)
            if not self.answers[some]:
                self.abandoned.add(some)
            self.say(wire.Abandon(attempt=some))

    def deliver(self) -> None:
        if self.inbox and self.connected:
            message, body = self.inbox.pop(0)
            if isinstance(message, wire.Grant) and self.rig.worker._session.is_open:
                self.taken.update(message.attempts)
            self.turn(events.MessageArrived(message, body))

    def progress(self) -> None:
        if self.child == "starting":
            self.child = "ready"
            self.turn(events.EngineSpoke(child.Ready(facts=FACTS)))
        elif self.draw is not None:
            ticket = self.dice.choice(self.left)
            phase = self.dice.choice(["loading", "sampling", "decoding"])
            at = child.At(ticket=ticket, phase=phase, step=1, steps=4, step_s=self.dice.random())
            frame = self.dice.choice([child.Began(ticket=ticket), at])
            self.turn(events.EngineSpoke(frame))

    def finish(self) -> None:
        if self.draw is not None:
            # All at once, or some before the child ends.
            count = self.dice.choice([len(self.left), self.dice.randint(1, len(self.left))])
            tickets, self.left = self.left[:count], self.left[count:]
            draw_s = self.dice.choice([0.2, 0.5, 1.0, 3.0])
            for ticket in tickets:
                drawn = child.Drawn(
                    ticket=ticket, width=8, height=8, channels=3, load_s=0.1, draw_s=draw_s
                )
                if ticket == tickets[-1] and not self.left:
                    self.draw = None
                self.turn(events.PictureDrawn(drawn, "pixels"))

    def decline(self) -> None:
        if self.draw is not None and self.dice.random() < 0.3:
            ticket, self.draw = self.left[0], None
            self.ends["engine_error"] += 1
            frame = child.Declined(ticket=ticket, code="engine_error", message="dice")
            self.turn(events.EngineSpoke(frame))

    def encode(self) -> None:
        if self.encoding:
            of = self.encoding.pop(0)
            if self.dice.random() < 0.9:
                self.turn(events.PictureEncoded(of, b"png", digest(b"png"), 0.1))
            else:
                error = ErrorInfo(code="internal", message="dice")
                self.turn(events.EncodingFailed(of, error))

    def crash(self) -> None:
        if self.child != "none" and self.dice.random() < 0.4:
            ready = self.child == "ready"
            self.child, self.draw = "none", None
            # One that does not even start may cost all that waits.
            self.ends["engine_crashed"] += 1 if ready else len(self.rig.worker._making.queue)
            self.turn(crash(was_ready=ready))

    def cut(self) -> None:
        """The connection breaks, or is back; what was under way is lost, as with TCP."""
        self.connected = not self.connected
        self.inbox.clear()
        self.known = False

    def forget(self) -> None:
        """The manager restarts, or gave this worker up."""
        if self.dice.random() < 0.3:
            self.known = False

    def wait(self) -> None:
        self.turn(after_s=self.dice.choice([0.1, 1.0, 4.0]))

    def settle(self) -> None:
        """No more faults: everything ends."""
        self.connected = True
        for _ in range(400):
            self.progress()
            self.finish()
            self.encode()
            self.deliver()
            self.turn(after_s=0.7)


def _body(dice: random.Random) -> bytes:
    model = dice.choice(["tiny", "tiny", "tiny", "tiny", "other", "nothing"])
    return encode_petition(
        Petition(params=Params(prompt="x", model=model, steps=4), seed=1, images=9)
    )


def _walked(seed: int) -> World:
    world = World(seed)
    world.turn()
    world.progress()
    for _ in range(STEPS):
        world.step()
    world.settle()
    return world


@pytest.mark.parametrize("seed", range(WALKS))
def test_every_attempt_gets_one_answer(seed: int) -> None:
    world = _walked(seed)
    for one in world.granted:
        heard = world.answers[one]
        if one in world.abandoned or one in world.released:
            assert len(heard) <= 1, (one, heard)
        else:
            assert len(heard) == 1, (one, heard)
    assert world.draw is None
    assert not world.encoding
    # An end of the engine, or a refusal, costs one image an attempt, whatever else was in its call.
    for code, ends in world.ends.items():
        assert len(world.failed[code]) <= ends, code


def test_the_walks_meet_calls_of_several() -> None:
    assert sum(_walked(seed).together for seed in range(60)) > 100
