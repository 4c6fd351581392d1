"""A manager's machine with hand-moved peers and clock: no socket, no sleep.

After every event the machine's invariants are checked, so that each test is also a test of them.
"""

import hashlib
from collections import defaultdict
from typing import Any

from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_inventory, encode_petition
from sdistrib_manager import effects as fx
from sdistrib_manager.events import (
    BlobFailed,
    BlobStored,
    Event,
    MessageArrived,
    PeerFull,
    PeerGone,
    StopRequested,
    TurnEnded,
)
from sdistrib_manager.invariants import check_invariants
from sdistrib_manager.machine import Manager
from sdistrib_manager.rows import Row
from sdistrib_manager.state import Settings
from sdistrib_manager.store.memory import MemoryStore

MODEL = ModelFile("stable-diffusion", "tiny.safetensors", 14_000_000, "a" * 64)
ENGINE = wire.EngineFacts(version="0.4.7", backend="cpu", device="test", fingerprint="f" * 16)


def petition(images: int = 1, seed: int = 100, **more: Any) -> Petition:
    """A petition for the model that farm workers have."""
    about = (
        "timeout_s", "cancel_on_disconnect", "priority", "hedge", "exact", "on_oom", "preview",
    )  # fmt: skip
    envelope = {k: more.pop(k) for k in about if k in more}
    params = Params(**{"prompt": "a lighthouse", "model": "tiny", **more})
    return Petition(params=params, seed=seed, images=images, **envelope)


def petition_id(number: int) -> str:
    """A recognisable petition id."""
    return f"{number:032x}"


class Farm:
    """The machine, its clock, and everything it sent, by route."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.settings = Settings("sdistrib test", **settings)
        self.store = MemoryStore()
        self._uncommitted: list[Row] = []
        self.manager = Manager(self.settings, self.now, self.wall)
        self.sent: dict[bytes, list[wire.Message]] = defaultdict(list)
        self.effects: list[fx.Effect] = []
        self.blob_failure = ""
        #: Storing takes its time: a test says when a picture is kept.
        self.slow_disk = False
        self.redials = 0

    @property
    def wall(self) -> float:
        """Wall-clock time: something else than the monotonic one."""
        return self.now + 1e9

    def restart(self, after_s: float = 1.0) -> None:
        """The manager dies between two turns and another starts from what was committed."""
        self._uncommitted.clear()
        self.now += after_s
        self.manager = Manager(self.settings, self.now, self.wall, self.store.load())
        check_invariants(self.manager)
        self.turn()

    def happen(self, event: Event) -> list[fx.Effect]:
        """One event, pictures kept at once, invariants checked."""
        made = self.manager.handle(event, self.now, self.wall)
        check_invariants(self.manager)
        self._uncommitted += [effect.row for effect in made if isinstance(effect, fx.Keep)]
        self.effects += made
        for effect in made:
            if isinstance(effect, fx.Send | fx.SendPicture):
                self.sent[effect.route].append(effect.message)
        out = list(made)
        for effect in made:
            if isinstance(effect, fx.PutBlob) and not self.slow_disk:
                kept = BlobStored(effect.digest)
                lost = BlobFailed(effect.digest, self.blob_failure)
                out += self.happen(lost if self.blob_failure else kept)
        if isinstance(event, TurnEnded):
            self.store.commit(self._uncommitted)
            self._uncommitted.clear()
        return out

    def turn(self, after_s: float = 0.0) -> None:
        """The end of a turn, some time later."""
        self.now += after_s
        self.happen(TurnEnded())

    def wait(self, seconds: float, *alive: "Peer") -> None:
        """Let time pass in beats; the peers named beat."""
        for _ in range(round(seconds)):
            for peer in alive:
                peer.says(wire.Beat())
            self.turn(1.0)

    def stop(self) -> None:
        """SIGTERM."""
        self.happen(StopRequested())

    @property
    def logs(self) -> list[str]:
        """Everything logged."""
        return [effect.text for effect in self.effects if isinstance(effect, fx.Log)]

    def rows(self, kind: type[Any]) -> list[Any]:
        """All rows of one kind that were kept."""
        return [keep.row for keep in self.kept(fx.Keep) if isinstance(keep.row, kind)]

    def kept(self, kind: type[fx.Effect]) -> list[Any]:
        """All effects of one kind."""
        return [effect for effect in self.effects if isinstance(effect, kind)]


class Peer:
    """One connection."""

    port = "client"

    def __init__(self, farm: Farm, name: str) -> None:
        self.farm = farm
        self.route = b"\0" + name.encode().ljust(4, b".")[:4]

    def says(self, message: wire.Message, body: bytes = b"") -> list[fx.Effect]:
        """The peer sends something; the turn ends."""
        out = self.farm.happen(MessageArrived(self.port, self.route, message, body))  # type: ignore[arg-type]
        self.farm.turn()
        return out

    def breaks(self) -> None:
        """Sends to the peer find no connection."""
        self.farm.happen(PeerGone(self.port, self.route))  # type: ignore[arg-type]
        self.farm.turn()

    def jams(self) -> None:
        """The peer does not read."""
        self.farm.happen(PeerFull(self.port, self.route))  # type: ignore[arg-type]
        self.farm.turn()

    def got(self, kind: type[wire.Message]) -> list[Any]:
        """Everything of one kind that was sent to the peer."""
        return [message for message in self.farm.sent[self.route] if type(message) is kind]

    def last(self, kind: type[wire.Message]) -> Any:
        """The newest of one kind."""
        return self.got(kind)[-1]


class Client(Peer):
    """A client that has said hello."""

    def __init__(self, farm: Farm, name: str = "cli") -> None:
        super().__init__(farm, name)
        self.says(wire.ClientHello(protocols=(1,), software="client test"))

    def submits(self, number: int = 1, **about: Any) -> str:
        """Submit a petition; its id."""
        body = encode_petition(petition(**about))
        self.says(wire.Submit(id=petition_id(number)), body)
        return petition_id(number)

    def sees(self, pid: str, *indices: int) -> None:
        """Acknowledge pictures."""
        for index in indices:
            self.says(wire.ResultSeen(id=pid, index=index))

    @property
    def pictures(self) -> list[int]:
        """Indices of all pictures sent to it, in order."""
        return [result.attempt.index for result in self.got(wire.Result)]


class Worker(Peer):
    """A worker that has said hello."""

    port = "worker"

    def __init__(
        self, farm: Farm, name: str = "gpu1", files: tuple[ModelFile, ...] = (MODEL,), **about: Any
    ) -> None:
        super().__init__(farm, name)
        self.name = name
        self.files = files
        self.instance = hashlib.sha256(name.encode()).hexdigest()[:16]
        #: What it says of itself in each hello.
        self.about = {"engine": ENGINE, **about}
        self.hello()

    def hello(self, **more: Any) -> None:
        """Say hello (again)."""
        hello = wire.WorkerHello(
            protocols=(1,), software="worker test", name=self.name, instance=self.instance,
            **{**self.about, **more},
        )  # fmt: skip
        self.says(hello, encode_inventory(self.files))

    def reconnects(self, **more: Any) -> None:
        """The same process on a new connection."""
        self.farm.redials += 1
        self.route = b"\0new" + bytes([self.farm.redials])
        self.hello(**more)

    def restarts(self, **about: Any) -> None:
        """Its process ends, and another of the same name comes."""
        self.says(wire.Goodbye())
        self.instance = hashlib.sha256(self.instance.encode()).hexdigest()[:16]
        self.about |= about
        self.reconnects()

    @property
    def attempts(self) -> list[wire.Attempt]:
        """Everything granted to it, in order."""
        return [attempt for grant in self.got(wire.Grant) for attempt in grant.attempts]

    def starts(self, attempt: wire.Attempt | None = None) -> wire.Attempt:
        """Begin an attempt, by default the newest."""
        attempt = attempt or self.attempts[-1]
        self.says(wire.Started(attempt=attempt))
        return attempt

    def draws(self, attempt: wire.Attempt, *, data: bytes | None = None, **more: Any) -> bytes:
        """Hand in a picture; its bytes."""
        data = data if data is not None else f"picture {attempt.id} {attempt.index}".encode()
        self.says(self.result(attempt, data, **more), data)
        return data

    def result(self, attempt: wire.Attempt, data: bytes, **more: Any) -> wire.Result:
        """The head of a picture."""
        facts: dict[str, Any] = {
            "attempt": attempt, "seed": 100 + attempt.index, "format": "png", "width": 64,
            "digest": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), "height": 64,
            "worker": self.name, "fingerprint": "f" * 16, "context": "c", "draw_s": 2.0,
        }  # fmt: skip
        return wire.Result(**{**facts, **more})

    def fails(self, attempt: wire.Attempt, code: str = "engine_crashed", **more: Any) -> None:
        """Report a failure."""
        error = wire.ErrorInfo(code=code, message="it broke", **more.pop("error", {}))  # type: ignore[arg-type]
        self.says(wire.Failed(attempt=attempt, error=error, **more))
