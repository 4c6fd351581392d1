"""A worker's process: the real loop and machine with simulated engine, encoder and connection."""

import math
from collections.abc import Callable
from typing import Any

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker import loop as product
from sdistrib_worker.machine import Worker
from sdistrib_worker.session import Settings
from sdistrib_worker.shelf import StoredFile
from tests.simulation.engine import SimEncoder, SimEngine
from tests.simulation.faults import Faults
from tests.simulation.inputs import SimInputs
from tests.simulation.ledger import Ledger
from tests.simulation.manager import short
from tests.simulation.network import Dealer, Host, Port
from tests.simulation.world import Process, World

TINY = StoredFile(ModelFile("stable-diffusion", "tiny.safetensors", 14_000_000, "a" * 64), "/t", 1)
OTHER = StoredFile(ModelFile("stable-diffusion", "other.safetensors", 9_000_000, "b" * 64), "/o", 2)


class WorkerBox(Process):
    """The machine that workers of one name run on, one after another."""

    def __init__(
        self, world: World, faults: Faults, ledger: Ledger, port: Port, name: str,
        files: tuple[StoredFile, ...],
    ) -> None:  # fmt: skip
        super().__init__(world, name)
        self.faults, self.ledger, self.port, self.files = faults, ledger, port, files
        self.host = Host(world)
        self.patience = world.rng.choice((0.03, 0.1))
        self.loop: product.Loop | None = None
        self.dealer: Dealer | None = None
        self.engine: SimEngine | None = None
        self._encoder: SimEncoder | None = None
        self._woke_at = self._planned_s = 0.0
        #: Whole input files on its disk.
        self.inputs_kept: dict[str, bytes] = {}

    def start(self) -> None:
        """A worker starts."""
        if self.alive:
            return
        settings = Settings(
            name=self.name, instance=f"{self.world.rng.getrandbits(64):016x}",
            address="manager:4134", version="test", patience=self.patience,
            unload_after_s=self.world.rng.choice((0.0, 0.0, 3.0)),
        )  # fmt: skip
        worker = Worker(settings, self.files)
        self._watch_over(worker)
        self.dealer = Dealer(self.world, self.host, self, self.port)
        self.engine = SimEngine(self.world, self.faults, self.wake, self._attempt, self._in_session)
        self.world.maker = self
        self.loop = product.Loop(worker, self.dealer, (), {}, None)  # type: ignore[arg-type]
        self.alive = True
        self.paused_until = 0.0
        self._woke_at, self._planned_s = self.world.now, 0.0
        self.world.tell(f"** {self.name} starts")
        self.wake()

    def encoder(self, notify: Callable[[events.Event], None]) -> SimEncoder:
        """What the loop makes in the place of `Encoder`."""

        def told(event: events.Event) -> None:
            notify(event)
            self.wake()

        self._encoder = SimEncoder(
            self.world, self.faults, self.name, self.ledger.spoilt, told, self._in_session
        )
        return self._encoder

    def inputs(self, _cache: object, notify: Callable[[events.Event], None]) -> SimInputs:
        """What the loop makes in the place of `InputKeeper`."""

        def told(event: events.Event) -> None:
            notify(event)
            self.wake()

        return SimInputs(self.world, self.inputs_kept, told)

    def _in_session(self) -> bool:
        return self.loop is not None and self.loop._worker._session.is_open

    def engine_ends(self) -> bool:
        """The idle engine ends; False when there is none."""
        return self.alive and self.engine is not None and self.engine.end_idle()

    def _attempt(self, fate: str, ticket: int) -> None:
        assert self.loop is not None
        call = self.loop._worker._making.drawing.call
        assert call is not None
        attempt = call.parts[ticket].job.attempt
        if fate == "begun":
            self.ledger.begun(attempt)
        elif fate == "spoilt":
            self.ledger.spoilt(attempt)
        elif self.dealer is not None and self.dealer.line is not None:
            self.dealer.line.end(0.0, 0.05)

    def take_turn(self) -> None:
        """What `Loop.run` does around each turn."""
        loop = self.loop
        assert loop is not None
        now = self.world.now
        late_s, self._woke_at = now - self._woke_at - self._planned_s, now
        if late_s > limits.LATE_TURN_S:
            loop._handle(events.TurnLate(late_s))
        loop.turn()
        if loop._exit_status is not None:
            self.end(linger=True)
            self.world.after(self.world.between(0.1, 8.0), self.start)
            return
        self._planned_s = loop._planned_s()
        self.wake(now + max(self._planned_s, 0.0 if loop._mailbox else 0.001))

    def publish(self, files: tuple[StoredFile, ...]) -> None:
        """The inventory changes."""
        self.files = files
        if self.loop is not None:
            self.loop.publish(files)
            self.wake()

    def shut(self, reason: str) -> None:
        """Its owner forbids work, or allows it."""
        if self.loop is not None:
            self.loop._mailbox.put(events.AvailabilityChanged("hours", reason))
            self.wake()

    def opens(self) -> None:
        """Nothing keeps it from work any more."""
        if self.loop is not None and not self.loop._worker._gate.is_open:
            self.shut("")
            resume = wire.Steer(number=0, wish="resume")
            self.loop._mailbox.put(events.MessageArrived(resume))

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self.loop is not None:
            self.loop._mailbox.put(events.StopRequested())
            self.wake()

    def end(self, *, linger: bool = False) -> None:
        """The process is gone, and its engine with it."""
        loop, self.loop = self.loop, None
        if loop is None or self.dealer is None or self.engine is None:
            return
        self.alive = False
        self.world.tell(f"** {self.name} ends")
        self.dealer.close(1.0 if linger else 0.0)
        self.engine.stop()
        loop._encoder.stop()
        loop._keeper.stop()
        loop._mailbox.close()

    # --- watching ---

    def _watch_over(self, worker: Worker) -> None:
        def handle(event: events.Event, now: float) -> list[fx.Effect]:
            self._note(worker, event)
            made = Worker.handle(worker, event, now)
            if worker._stops_asked < 2:  # at once: what it is at is given up, wherever that is
                check_worker(worker)
            leaves = worker._stops_asked >= 2 or _stops(made)
            if isinstance(event, events.TurnEnded) and not leaves:
                # A poll waits whole milliseconds, so that sums of floats need not be exact.
                due_at = worker.next_deadline()
                assert due_at > now - 1e-6, f"{self.name} would spin: {due_at} is due at {now}"
            return made

        worker.handle = handle  # type: ignore[method-assign]

    def _note(self, worker: Worker, event: events.Event) -> None:
        self.world.events += 1
        kind = type(event).__name__
        if isinstance(event, events.MessageArrived):
            kind = wire.verb(type(event.message))
        elif isinstance(event, events.EngineSpoke):
            kind = type(event.frame).__name__
        where = "session" if worker._session.is_open else "no session"
        drawing = worker._making.drawing
        doing = drawing.state if drawing.call is None else "drawing"
        self.world.met["worker", kind, f"{where}, {doing}"] += 1
        if self.world.told is not None and not isinstance(event, events.TurnEnded):
            said = short(event.message) if isinstance(event, events.MessageArrived) else str(event)
            self.world.tell(f"   {self.name} <- {said[:160]} [{where}, {doing}]")


def _stops(made: list[fx.Effect]) -> bool:
    return any(isinstance(effect, fx.Stop) for effect in made)


def check_worker(worker: Worker) -> None:
    """Raise AssertionError unless each attempt is in one place and limits are kept."""
    making, results = worker._making, worker._results
    call = making.drawing.call
    places: list[Any] = [job.attempt for job in making.queue]
    places += [part.job.attempt for part in call.parts.values()] if call is not None else []
    places += making._encoding
    places += results._held
    places += [failed.attempt for failed in results._untold]
    places += worker._given_back
    assert len(set(places)) == len(places), f"an attempt is in two places: {places}"
    held = len(results._held) + len(making._encoding)
    assert held <= limits.WORKER_RESULTS_HELD_MAX, f"{held} results are held"
    assert not math.isnan(worker.next_deadline())
