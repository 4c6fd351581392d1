"""Plays a scenario: commands to hand-moved peers, and the machine's effects in a compact form.

A scenario is text. `# …` tells the story, `$ …` is a command, and the indented lines behind it are
what the manager does about it. `1/0#2` is the second attempt at image 0 of petition 1.
"""

from collections.abc import Callable
from typing import Any

from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib_manager import effects as fx
from sdistrib_manager.rows import Forget, ImageRow, PetitionRow, PetitionStateRow, Row
from tests.support.farm import MODEL, Client, Farm, Peer, Worker, petition_id


def play(text: str) -> str:
    """The scenario with what really happens behind each command."""
    player, lines = Player(), []
    for line in text.splitlines():
        if line.startswith("$ "):
            lines += [line, *(f"  {effect}" for effect in player.command(line[2:]))]
        elif not line.startswith("  "):
            lines.append(line)
    return "\n".join(lines) + "\n"


def short(attempt: wire.Attempt) -> str:
    """`1/0#2`."""
    return f"{int(attempt.id, 16)}/{attempt.index}#{attempt.number}"


def attempt_of(text: str) -> wire.Attempt:
    """The attempt that `1/0#2` means."""
    number, _, rest = text.partition("/")
    index, _, attempt = rest.partition("#")
    return wire.Attempt(petition_id(int(number)), int(index), int(attempt))


class Player:
    """A farm whose peers are moved by words."""

    def __init__(self) -> None:
        self.farm = Farm()
        self.peers: dict[str, Peer] = {}

    def command(self, line: str) -> list[str]:
        """Do it; the effects, one line each."""
        words = line.split()
        before = len(self.farm.effects)
        if words[0] in ("worker", "client"):
            self._appears(*words)
        elif words[0] == "wait":
            self.farm.wait(float(words[1]), *(self.peers[name] for name in words[2:]))
        elif words[0] == "disk":
            self.farm.blob_failure = "" if words[1] == "works" else "no space left"
        else:
            self._acts(self.peers[words[0]], words[1], words[2:])
        found = (self._describe(effect) for effect in self.farm.effects[before:])
        return [text for text in found if text]

    def _appears(self, kind: str, name: str, *files: str) -> None:
        if kind == "client":
            self.peers[name] = Client(self.farm, name)
        else:
            models = tuple(ModelFile("stable-diffusion", file, 1) for file in files) or (MODEL,)
            self.peers[name] = Worker(self.farm, name, models)

    def _acts(self, peer: Peer, verb: str, words: list[str]) -> None:
        facts = {k: v for k, _, v in (word.partition("=") for word in words) if v}
        plain = [word for word in words if "=" not in word]
        acts: dict[str, Callable[[], object]] = {
            "beats": lambda: peer.says(wire.Beat()),
            "breaks": peer.breaks,
            "jams": peer.jams,
            "leaves": lambda: peer.says(wire.Goodbye(reason="told to stop")),
        }
        if verb in acts:
            acts[verb]()
        elif isinstance(peer, Client):
            self._client(peer, verb, plain, facts)
        elif isinstance(peer, Worker):
            self._worker(peer, verb, plain, facts)

    def _client(self, peer: Client, verb: str, words: list[str], facts: dict[str, str]) -> None:
        match verb:
            case "submits":
                about = {k: int(v) if v.isdecimal() else v for k, v in facts.items()}
                peer.submits(int(words[0]), **about)
            case "cancels":
                peer.says(wire.Cancel(id=petition_id(int(words[0]))))
            case "sees":
                for word in words:
                    number, _, index = word.partition("/")
                    peer.sees(petition_id(int(number)), int(index))
            case "has":
                digest = peer.last(wire.Chunk).digest
                peer.says(wire.ChunkSeen(digest=digest, offset=int(float(words[0]) * 2**20)))
            case _:
                raise ValueError(f"a client does not know {verb!r}")

    def _worker(self, peer: Worker, verb: str, words: list[str], facts: dict[str, str]) -> None:
        match verb:
            case "starts":
                peer.starts(attempt_of(words[0]))
            case "draws":
                self._draws(peer, attempt_of(words[0]), float(facts.get("mib", 0)))
            case "fails":
                peer.fails(attempt_of(words[0]), words[1])
            case "gives-back":
                peer.says(wire.Revoked(attempt=attempt_of(words[0])))
            case "returns":
                claims = {k: tuple(map(attempt_of, v.split(","))) for k, v in facts.items()}
                peer.reconnects(**claims)
            case _:
                raise ValueError(f"a worker does not know {verb!r}")

    def _draws(self, peer: Worker, attempt: wire.Attempt, mib: float) -> None:
        if not mib:
            peer.draws(attempt)
            return
        data = bytes(int(mib * 2**20))
        head = peer.result(attempt, data)
        peer.says(head)
        for at in range(0, len(data), 2**20):
            peer.says(wire.Chunk(digest=head.digest, offset=at), data[at : at + 2**20])

    def _describe(self, effect: fx.Effect) -> str:
        """One line; "" for a beat, which says nothing."""
        if isinstance(effect, fx.Send | fx.SendPicture):
            told = _told(effect.message)
            where = f" bytes {effect.start}..{effect.end}" if hasattr(effect, "start") else ""
            return f"{self._name(effect.route)} <- {told}{where}" if told else ""
        if isinstance(effect, fx.Keep):
            return _ROWS.get(type(effect.row), lambda row: "")(effect.row)
        return _EFFECTS.get(type(effect), lambda effect: type(effect).__name__.lower())(effect)

    def _name(self, route: bytes) -> str:
        return next((name for name, peer in self.peers.items() if peer.route == route), "nobody")


_ROWS: dict[type[Row], Callable[[Any], str]] = {
    ImageRow: lambda r: f"keep image {int(r.id, 16)}/{r.index} {r.state}",
    PetitionStateRow: lambda r: f"keep petition {int(r.id, 16)} {r.state}",
    PetitionRow: lambda r: f"keep petition {int(r.id, 16)}",
    Forget: lambda r: f"forget petition {int(r.id, 16)}",
}
_EFFECTS: dict[type[fx.Effect], Callable[[Any], str]] = {
    fx.PutBlob: lambda e: f"put picture of {sum(map(len, e.parts))} bytes",
    fx.DropBlob: lambda e: "drop picture",
    fx.Log: lambda e: f"{e.level}: {e.text.strip()}",
}


def _told(message: wire.Message) -> str:
    """A message in a few words."""
    if isinstance(message, wire.Beat):
        return ""
    words = _MESSAGES.get(type(message), lambda message: "")(message)
    return " ".join(f"{wire.verb(type(message))} {words}".split())


def _at(message: wire.Progress) -> str:
    running = " ".join(f"{at.index}:{at.phase}:{at.worker}" for at in message.running)
    return f"{message.state} {message.done}/{message.images} {running}"


def _bad(message: wire.Finished) -> str:
    return " ".join(f"{failure.index}:{failure.error.code}" for failure in message.failures)


_MESSAGES: dict[type[wire.Message], Callable[[Any], str]] = {
    wire.Grant: lambda m: " ".join(map(short, m.attempts)),
    wire.Progress: _at,
    wire.Accepted: lambda m: f"{m.state}, {m.ahead} ahead: {m.reason}",
    wire.Refused: lambda m: f"{m.error.code} closest={','.join(m.error.closest)}",
    wire.Finished: lambda m: f"{m.state} done={list(m.done)} {_bad(m)}",
    wire.Cancelled: lambda m: f"done={list(m.done)}",
    wire.Result: lambda m: short(m.attempt),
    wire.ResultRecorded: lambda m: short(m.attempt),
    wire.ResultRefused: lambda m: f"{short(m.attempt)}: {m.reason}",
    wire.Abandon: lambda m: short(m.attempt),
    wire.Revoke: lambda m: short(m.attempt),
    wire.ChunkSeen: lambda m: str(m.offset),
}
