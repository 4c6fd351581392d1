"""The manager's process: the real loop, storage and machine on a simulated net and disk.

The loop is that of the product, with the simulated clock, ports and keeper in the place of what it
would open; so the order of a turn, and the recovery from a failed commit, are the product's own.
"""

import os
from collections.abc import Callable
from typing import Any

from sdistrib import limits
from sdistrib.errors import StoreError
from sdistrib.protocol import messages as wire
from sdistrib_manager import effects as fx
from sdistrib_manager import events, invariants
from sdistrib_manager import loop as product
from sdistrib_manager.machine import Manager
from sdistrib_manager.rows import ImageRow, PetitionStateRow
from sdistrib_manager.state import Settings, State
from sdistrib_manager.storage import Storage
from tests.simulation.disk import Disk, SimKeeper
from tests.simulation.faults import Faults
from tests.simulation.ledger import Ledger
from tests.simulation.network import Port, Router
from tests.simulation.world import Crash, Process, World


class _Storage(Storage):
    """The real one; whose managers are watched."""

    def __init__(self, watch: Callable[[Manager], None], settings: Settings, disk: Disk) -> None:
        super().__init__(settings, disk.store, disk.blobs)
        self._watch_over = watch

    def manager(self, *args: Any, **kwargs: Any) -> Manager:
        """A manager of what is kept."""
        made = super().manager(*args, **kwargs)
        self._watch_over(made)
        return made


class ManagerBox(Process):
    """The machine that managers run on, one after another."""

    def __init__(self, world: World, faults: Faults, ledger: Ledger, settings: Settings) -> None:
        super().__init__(world, "manager")
        self.faults, self.ledger, self.settings = faults, ledger, settings
        self.disk = Disk(world, faults, ledger)
        self.ports = {name: Port(name, ledger) for name in ("client", "worker")}
        self.loop: product.Loop | None = None
        self._keeper: SimKeeper | None = None
        self._boot = 0.0
        #: Events that managers took in here.
        self._events = 0
        #: Petitions whose retry came and was neither carried out nor refused yet.
        self._retrying: set[str] = set()
        self._woke_at = self._planned_s = 0.0

    @property
    def state(self) -> State | None:
        """What the manager that runs now knows."""
        return self.loop._manager.state if self.loop is not None else None

    def clock(self) -> float:
        """Monotonic seconds; each life has its own zero."""
        return self.world.now - self._boot

    def start(self) -> None:
        """A manager starts; one that cannot read what is kept tries again later."""
        if self.alive:
            return
        self._boot = self.world.now - self.world.between(0.0, 5000.0)
        self.faults_at_send(None)
        try:
            storage = _Storage(self._watch_over, self.settings, self.disk)
            routers = {name: Router(self.world, port, self) for name, port in self.ports.items()}
            self.world.maker = self
            self.loop = product.Loop(storage, routers, self.clock)  # type: ignore[arg-type]
        except StoreError:
            self.world.after(1.0, self.start)
            return
        for name, port in self.ports.items():
            port.router = routers[name]
        self.alive = True
        self.paused_until = 0.0
        self._woke_at, self._planned_s = self.clock(), 0.0
        self.faults_at_send(lambda: self.faults.roll("crash in the middle of sends"))
        self.world.tell("** the manager starts")
        self.wake()

    def faults_at_send(self, roll: Callable[[], bool] | None) -> None:
        """Decide whether the manager dies at a send."""
        for port in self.ports.values():
            port.dies_at_send = roll or (lambda: False)

    def keeper(self, _blobs: object, done: Callable[..., None]) -> SimKeeper:
        """What the loop makes in the place of `Keeper`."""
        self._keeper = SimKeeper(self.disk, done, self.wake)
        return self._keeper

    def take_turn(self) -> None:
        """What `Loop.run` does around each turn."""
        loop = self.loop
        assert loop is not None
        slept_s, self._woke_at = self.clock() - self._woke_at, self.clock()
        if slept_s - self._planned_s > limits.LATE_TURN_S:
            loop._manager.forgive(slept_s - self._planned_s)
        try:
            loop.turn()
        except Crash:
            self.end(0.1)
            self.world.after(self.world.between(0.1, 5.0), self.start)
            return
        finally:
            self.ledger.retried.clear()
        if not loop._running:
            self.end(0.05, linger=True)
            self.world.after(self.world.between(0.1, 3.0), self.start)
            return
        due_s = loop._manager.next_deadline() - self.clock()
        most_s = product._SOFT_S if loop._soft else limits.BEAT_S
        self._planned_s = 0.0 if loop._events else min(max(due_s, 0.0), most_s)
        self.wake(self.world.now + max(self._planned_s, 0.0 if loop._events else 0.001))

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self.loop is not None:
            self.loop._events.append(events.StopRequested())
            self.wake()

    def end(self, learn_s: float, *, linger: bool = False) -> None:
        """The process is gone; its peers learn of it within that time."""
        loop, self.loop = self.loop, None
        if loop is None:
            return
        self.alive = False
        self.world.tell("** the manager ends")
        os.close(loop._wake_read)
        os.close(loop._wake_write)
        if self._keeper is not None:
            self._keeper.die()
        for port in self.ports.values():
            if port.router is not None:
                port.router.close(learn_s, linger)
                port.router = None

    # --- watching ---

    def _watch_over(self, manager: Manager) -> None:
        def handle(event: events.Event, now: float, wall: float = 0.0) -> list[fx.Effect]:
            self._note(manager.state, event)
            made = Manager.handle(manager, event, now, wall)
            self._check(manager, event, made)
            return made

        manager.handle = handle  # type: ignore[method-assign]

    def _note(self, state: State, event: events.Event) -> None:
        """Count the event with the state of what it is about."""
        self.world.events += 1
        if isinstance(event, events.MessageArrived):
            message = event.message
            if isinstance(message, wire.Retry):
                self.ledger.retried.add(message.id)
            kind, where = wire.verb(type(message)), _standing(state, event)
        else:
            kind = type(event).__name__
            where = "in trouble" if state.store_trouble else "well"
        self.world.met["manager", kind, where] += 1
        if self.world.told is not None and not isinstance(event, events.TurnEnded):
            self.world.tell(f"   manager <- {_short(event)} [{where}]")

    def _check(self, manager: Manager, event: events.Event, made: list[fx.Effect]) -> None:
        touched = {getattr(getattr(event, "message", None), "id", "")}
        reopened = set()
        for effect in made:
            if isinstance(effect, fx.Keep) and isinstance(effect.row, ImageRow | PetitionStateRow):
                touched.add(effect.row.id)
                if isinstance(effect.row, PetitionStateRow) and effect.row.state == "queued":
                    reopened.add(effect.row.id)
        if isinstance(event, events.MessageArrived) and isinstance(event.message, wire.Retry):
            self._retrying.add(event.message.id)
        # One that waits for an input file is opened when that is kept, or never.
        over = self._retrying - set(manager.state.staged)
        self._retrying -= over
        self.ledger.retried = self.ledger.retried - over | over & reopened
        for petition_id in touched:
            entry = manager.state.queue.entries.get(petition_id)
            if entry is not None:
                invariants._check_entry(entry)
        invariants._check_leases(manager.state)
        self._events += 1
        if self._events % 10 == 0:
            invariants.check_invariants(manager)


def _standing(state: State, event: events.MessageArrived) -> str:
    """The state of the petition or image that a message is about."""
    message = event.message
    known = state.clients if event.port == "client" else state.roster._by_route
    if event.route not in known:
        return "no session"
    attempt = getattr(message, "attempt", None)
    if attempt is not None:
        found = state.find(attempt)
        return found[1].state if found is not None else "unknown image"
    petition_id = getattr(message, "id", None)
    if petition_id:
        entry = state.queue.entries.get(petition_id)
        if entry is not None:
            return entry.state
        return "tombstone" if petition_id in state.tombstones else "unknown petition"
    return "session"


def _short(event: events.Event) -> str:
    if isinstance(event, events.MessageArrived):
        return f"{event.port} {event.route[-2:].hex()} {short(event.message)}"
    return str(event)[:160]


def short(message: wire.Message) -> str:
    """A message on one line."""
    name = wire.verb(type(message))
    attempts = [getattr(message, "attempt", None), *getattr(message, "attempts", ())]
    about = [f"{a.id[-4:]}/{a.index}#{a.number}" for a in attempts if a is not None]
    if not about and getattr(message, "id", ""):
        about = [message.id[-4:]]  # type: ignore[attr-defined]
    for extra in ("index", "state", "done", "running", "holding", "error", "reason", "offset"):
        value = getattr(message, extra, None)
        if value not in (None, "", ()):
            about.append(f"{extra}={str(value)[:120]}")
    return " ".join([name, *about])
