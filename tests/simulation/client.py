"""A client's process: the real requests machine in a shell as small as the product's.

A caller takes each picture after a while, and knows which petitions it wants: a process that comes
back submits the same ids and the same bytes again.
"""

import hashlib
from collections import deque
from dataclasses import dataclass, field

from sdistrib.petitions import InputFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, encode
from sdistrib_client import effects, events
from sdistrib_client.requests import Requests
from tests.simulation.engine import pixels
from tests.simulation.ledger import TO_CLIENT, Ledger
from tests.simulation.manager import short
from tests.simulation.network import Dealer, Host, Port
from tests.simulation.world import Process, World


@dataclass
class Wish:
    """A petition that the caller wants."""

    id: str
    body: bytes
    prompt: str
    seed: int
    images: int
    timeout_s: float
    #: Its input files, by digest.
    files: dict[str, bytes] = field(default_factory=dict)
    #: How it ended for this caller; None while it goes on.
    ending: effects.Ending | None = None
    #: Indices that this process was handed.
    given: set[int] = field(default_factory=set)
    #: The caller has asked for a cancel.
    cancelling: bool = False


class ClientBox(Process):
    """The machine that client processes of one caller run on, one after another."""

    def __init__(self, world: World, ledger: Ledger, port: Port, name: str) -> None:
        super().__init__(world, name)
        self.ledger, self.port = ledger, port
        self.host = Host(world)
        self.wishes: dict[str, Wish] = {}
        #: Seconds until the caller is done with a picture.
        self.slowness_s = world.rng.choice((0.001, 0.1, 0.1, 1.0, 10.0))
        self.requests: Requests | None = None
        self.dealer: Dealer | None = None
        self.life = 0

    def start(self) -> None:
        """A client starts, and wants again what did not end."""
        if self.alive:
            return
        self.life += 1
        self.requests = Requests("manager:4133", "client test", self.world.now)
        self.dealer = Dealer(self.world, self.host, self, self.port)
        self.alive = True
        self.paused_until = 0.0
        self.world.tell(f"** {self.name} starts")
        for wish in self.wishes.values():
            if wish.ending is None:
                wish.given = set()
                wish.cancelling = False
                self._submit(wish)
        self.wake()

    def wants(self, wish: Wish) -> None:
        """The caller wants a petition."""
        self.wishes[wish.id] = wish
        if self.alive:
            self._submit(wish)
            self.wake()

    def _submit(self, wish: Wish) -> None:
        files = tuple(InputFile(digest, len(data)) for digest, data in wish.files.items())
        self.post(
            events.PetitionMade(
                wish.id, wish.body, wish.images, wish.timeout_s, previews=True, inputs=files
            )
        )

    def cancels(self, petition_id: str) -> None:
        """The caller wants it no more, or that of another."""
        if self.alive and petition_id in self.wishes:
            self.wishes[petition_id].cancelling = True
            self.post(events.CancelWished(petition_id))
            self.wake()

    def lets_go(self, petition_id: str) -> None:
        """The caller leaves it to itself."""
        self.post(events.PetitionLeft(petition_id))
        self.wake()

    def take_turn(self) -> None:
        """What `Session.turn` does, and the wait after it."""
        if self.requests is None or self.dealer is None:
            return
        while (frames := self.dealer.receive()) is not None:
            self.post(events.FramesReceived(frames))
        self.post(events.Tick())
        self.wake(max(self.requests.next_deadline(), self.world.now + 0.001))

    def post(self, event: events.Event) -> None:
        """What `Session.post` does."""
        requests, dealer = self.requests, self.dealer
        if requests is None or dealer is None:
            return
        self.world.events += 1
        where = "welcome" if requests._link.welcomed else "unknown"
        kind = type(event).__name__
        if isinstance(event, events.FramesReceived):
            kind = bytes(event.frames[0][1:]).decode()
        self.world.met["client", kind, where] += 1
        if self.world.told is not None and kind != "Tick":
            about = f"{kind} {getattr(event, 'id', '')[-4:]}"
            if isinstance(event, events.FramesReceived):
                about = short(TO_CLIENT.decode(event.frames).message)
            self.world.tell(f"   {self.name} <- {about} [{where}]")
        todo = deque(requests.handle(event, self.world.now))
        while todo:
            effect = todo.popleft()
            if isinstance(effect, effects.Send):
                if dealer.send(encode(effect.message, effect.body)) != "sent":
                    todo.extend(requests.handle(events.SendFailed(), self.world.now))
            elif isinstance(effect, effects.SendPiece):
                piece = self.wishes[effect.id].files[effect.digest][effect.start : effect.end]
                chunk = wire.Chunk(digest=effect.digest, offset=effect.start)
                if dealer.send(encode(chunk, piece)) != "sent":
                    todo.extend(requests.handle(events.SendFailed(), self.world.now))
            else:
                self._show(effect)

    def _show(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Deliver):
            self._deliver(effect)
        elif isinstance(effect, effects.ShowPreview):
            attempt = effect.message.attempt
            known = attempt.index not in self.wishes[attempt.id].given
            self.ledger.check(known, f"{attempt.id[-4:]}/{attempt.index} is shown when it is here")
            self.world.after(self.slowness_s, self._looked, self.life, attempt)
        elif isinstance(effect, effects.End):
            wish = self.wishes[effect.id]
            wish.ending = effect.ending
            self.world.tell(f"   {self.name}: {effect.id[-4:]} ended: {str(effect.ending)[:200]}")
            self._check_the_end(wish, effect.ending)

    def _check_the_end(self, wish: Wish, ending: effects.Ending) -> None:
        if ending.outcome == "done":
            all_there = wish.given == set(range(wish.images))
            self.ledger.check(all_there, f"{wish.id[-4:]} is done with {sorted(wish.given)}")
        error = ending.error
        lost = wish.id in {key[0] for key in self.ledger.lost}
        ours = error is not None and error.code in ("internal", "protocol_error")
        fault = ours and not lost and not ending.failures
        self.ledger.check(not fault, f"{wish.id[-4:]} ends with a fault of ours: {error}")
        if ending.outcome in ("done", "failed", "expired") and ending.confirmed:
            self.ledger.somebody_has(wish.id, ending.done)

    def _deliver(self, effect: effects.Deliver) -> None:
        wish, index = self.wishes[effect.id], effect.result.attempt.index
        name = f"{effect.id[-4:]}/{index}"
        self.ledger.check(index not in wish.given, f"{name} is handed out twice by {self.name}")
        wish.given.add(index)
        data = b"".join(effect.parts)
        drawn = pixels(wish.prompt, wish.seed + index)
        self.ledger.check(data.startswith(drawn), f"{name} is another picture")
        self.ledger.handed_out((effect.id, index), hashlib.sha256(data).hexdigest())
        self.world.after(self.slowness_s, self._taken, self.life, effect.id, index)

    def _looked(self, life: int, attempt: wire.Attempt) -> None:
        if self.alive and life == self.life:
            self.post(events.PreviewTaken(attempt))

    def _taken(self, life: int, petition_id: str, index: int) -> None:
        if self.alive and life == self.life and self.world.now < self.paused_until:
            self.world.at(self.paused_until, self._taken, life, petition_id, index)
        elif self.alive and life == self.life:
            self.post(events.PictureTaken(petition_id, index))

    def end(self, *, polite: bool = False) -> None:
        """The process is gone."""
        if not self.alive or self.dealer is None:
            return
        if polite:
            self.post(events.UserLeft())
        self.alive = False
        self.world.tell(f"** {self.name} ends")
        self.dealer.close(0.2 if polite else 0.0)
        self.requests = None

    @property
    def listens_for(self) -> set[str]:
        """Petitions that this process waits for."""
        if not self.alive:
            return set()
        return {wish.id for wish in self.wishes.values() if wish.ending is None}


class Visitor(Process):
    """A peer that says a few words on the client port, takes what comes, and goes.

    Stands for the verbs of the command line that attach, fetch, retry, purge, cancel and ask.
    """

    def __init__(
        self, world: World, ledger: Ledger, port: Port, words: list[wire.Message], stays_s: float
    ) -> None:
        super().__init__(world, "visitor")
        self._ledger = ledger
        self.host = Host(world)
        self.words = words
        self.alive = True
        self._leave_at = world.now + stays_s
        #: Pictures that come in pieces, by digest.
        self._coming: dict[str, wire.Result] = {}
        self.dealer = Dealer(world, self.host, self, port)
        self._hello_at = world.now
        self._welcome = False
        self.wake(world.now)

    def take_turn(self) -> None:
        """Take what came, greet, beat, go."""
        while (frames := self.dealer.receive()) is not None:
            self._hear(frames)
        now = self.world.now
        if now >= self._leave_at:
            self._say(wire.Goodbye(reason="done"))
            self.alive = False
            self.dealer.close(0.2)
            return
        if not self._welcome and now >= self._hello_at:
            self._hello_at = now + 1.0
            self._say(wire.ClientHello(protocols=(1,), software="visitor"))
        elif self._welcome:
            self._say(wire.Beat())
        self.wake(now + 1.0)

    def _say(self, message: wire.Message) -> None:
        if self.dealer.send(encode(message)) != "sent":
            self._welcome, self._hello_at = False, self.world.now

    def _hear(self, frames: list[Buffer]) -> None:
        received = TO_CLIENT.decode(frames)
        message = received.message
        self.world.met["visitor", wire.verb(type(message)), "welcome"] += 1
        if self.world.told is not None:
            self.world.tell(f"   {self.name} <- {short(message)}")
        match message:
            case wire.Welcome():
                self._welcome = True
                words, self.words = self.words, []
                for word in words:
                    self._say(word)
            case wire.Identify():
                self._welcome, self._hello_at = False, self.world.now
            case wire.Progress(id=pid):
                self._say(wire.ProgressSeen(id=pid))
            case wire.Result():
                self._coming[message.digest] = message
                if len(received.body):
                    self._has(message)
            case wire.Chunk(digest=digest, offset=offset):
                self._piece(digest, offset + len(received.body))
            case wire.Finished() | wire.Refused():
                self._leave_at = self.world.now + 0.5
            case _:
                pass

    def _piece(self, digest: str, end: int) -> None:
        self._say(wire.ChunkSeen(digest=digest, offset=end))
        coming = self._coming.get(digest)
        if coming is not None and end >= coming.size_bytes:
            self._has(coming)

    def _has(self, picture: wire.Result) -> None:
        del self._coming[picture.digest]
        key = (picture.attempt.id, picture.attempt.index)
        self._ledger.handed_out(key, picture.digest)
        self._say(wire.ResultSeen(id=key[0], index=key[1]))
