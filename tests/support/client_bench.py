"""The client's machine with a hand-moved clock and a manager played by the test."""

import hashlib

from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode, encode_petition
from sdistrib_client import effects, events
from sdistrib_client.requests import Requests

ID = "a" * 32
OTHER = "b" * 32
BODY = encode_petition(Petition(params=Params(prompt="a house", model="m"), seed=7, images=2))


class Bench:
    """A machine, its time, and a manager played by the test."""

    def __init__(self, connect_timeout_s: float = 10.0) -> None:
        self.now = 1000.0
        self.machine = Requests("host:4133", "test", self.now, connect_timeout_s)

    def post(self, event: events.Event) -> list[effects.Effect]:
        return self.machine.handle(event, self.now)

    def say(self, message: wire.Message, body: bytes | None = None) -> list[effects.Effect]:
        return self.post(events.FramesReceived(encode(message, body)))

    def wait(self, seconds: float) -> list[effects.Effect]:
        """Ticks as a loop makes them: whenever the machine asks for one."""
        end, out = self.now + seconds, []
        while self.now < end:
            self.now = min(max(self.machine.next_deadline(), self.now + 0.001), end)
            out += self.post(events.Tick())
        return out

    def welcome(self) -> list[effects.Effect]:
        return self.say(wire.Welcome(protocol=wire.VERSION, software="manager"))

    def petition(
        self, images: int = 2, timeout_s: float = 0.0, id_: str = ID
    ) -> list[effects.Effect]:
        return self.post(events.PetitionMade(id_, BODY, images, timeout_s))


def opened() -> Bench:
    """A machine with an accepted petition of two images."""
    bench = Bench()
    bench.post(events.Tick())
    bench.petition()
    bench.welcome()
    bench.say(wire.Accepted(id=ID, state="queued"))
    return bench


def sent(out: list[effects.Effect]) -> list[wire.Message]:
    return [effect.message for effect in out if isinstance(effect, effects.Send)]


def ends(out: list[effects.Effect]) -> list[effects.End]:
    return [effect for effect in out if isinstance(effect, effects.End)]


def delivered(out: list[effects.Effect]) -> dict[int, bytes]:
    return {
        effect.result.attempt.index: b"".join(effect.parts)
        for effect in out
        if isinstance(effect, effects.Deliver)
    }


def notices(out: list[effects.Effect]) -> list[str]:
    return [effect.text for effect in out if isinstance(effect, effects.Notify)]


def result(index: int, data: bytes, id_: str = ID, digest: str = "") -> wire.Result:
    return wire.Result(
        attempt=wire.Attempt(id_, index, 1),
        seed=7 + index,
        digest=digest or hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        format="png",
        width=8,
        height=8,
        worker="gpu1",
        fingerprint="f" * 16,
        context="c",
    )
