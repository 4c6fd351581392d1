"""Who lives in a story, and everything that may befall them."""

from collections.abc import Callable

from sdistrib.params import Params
from sdistrib.petitions import PETITION_ENDS, OnOom, Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_manager.state import Settings
from tests.simulation.client import ClientBox, Visitor, Wish
from tests.simulation.faults import AT_MOMENTS, Faults
from tests.simulation.ledger import Ledger
from tests.simulation.manager import ManagerBox
from tests.simulation.meddler import Meddler
from tests.simulation.network import ZMTP_S, Host, Line
from tests.simulation.worker import OTHER, TINY, WorkerBox
from tests.simulation.world import Process, World
from tests.support.input_files import digest_of, with_files

_DAY_S = 86400.0
#: Input files, of one piece and of several; few, so that petitions share them.
INPUTS = tuple(bytes([number]) * size for number, size in enumerate((1900, 300, 3500, 700)))
#: What the workers have, one after another.
SHELVES = ((TINY, OTHER), (TINY,), (TINY,), (OTHER,))


#: What petitions allow when memory runs out, in turn.
_ON_OOM: tuple[OnOom, ...] = ("retry", "tile", "tile", "fail")


class Fates:
    """The cast, and what happens to it.

    Args:
        seed: decides everything.
        told: gets each line; None tells nothing.
    """

    def __init__(self, seed: int, told: Callable[[str], None] | None = None) -> None:
        self.world = world = World(seed, told)
        rng = world.rng
        self.faults = Faults(world)
        self.ledger = Ledger(world)
        settings = Settings(
            "sdistrib simulated",
            attempts_max=rng.choice((1, 2, 2, 3)),
            no_worker_timeout_s=30.0,
            retention_s=rng.choice((5.0, 86400.0, 86400.0)),
            retention_bytes=rng.choice((0, 600, 5_000_000)),
            petitions_max=rng.choice((3, 20_000, 20_000)),
        )
        self.manager = ManagerBox(world, self.faults, self.ledger, settings)
        ports = self.manager.ports
        self.workers = [
            WorkerBox(world, self.faults, self.ledger, ports["worker"], f"gpu{n}", SHELVES[n])
            for n in range(rng.choice((1, 1, 2, 2, 3, 4)))
        ]
        self.clients = [
            ClientBox(world, self.ledger, ports["client"], f"client{n}")
            for n in range(rng.choice((1, 1, 2, 3)))
        ]
        self.visitors: list[Visitor] = []
        self.wishes: list[Wish] = []
        #: Clients that do not come back.
        self.gone: set[str] = set()
        self.manager.disk.on_trouble = self._in_trouble
        meddler = Meddler(world, self.faults, self._visit_at_once)
        world.late_s, world.refuses = meddler.late_s, meddler.refuses
        self._acts = {**self._troubles(), **self._words()}

    def _troubles(self) -> dict[str, Callable[[], bool]]:
        """What happens to machines, links and clocks."""
        world = self.world
        return {
            "connection breaks": lambda: self._break(0.05),
            "connection breaks unnoticed": lambda: self._break(ZMTP_S),
            "cut off to the manager": lambda: self._cut(up=True),
            "cut off from the manager": lambda: self._cut(down=True),
            "cut off both ways": lambda: self._cut(up=True, down=True),
            "peer does not read": self._jam_down,
            "manager does not read": self._jam_up,
            "manager crashes": lambda: self._manager_dies(0.1),
            "manager's machine loses power": lambda: self._manager_dies(ZMTP_S),
            "manager is stopped": self._manager_stops,
            "manager pauses": lambda: self._pause(self.manager),
            "worker is killed": self._worker_killed,
            "worker is told to leave": lambda: self._worker_leaves(1),
            "worker is told to leave at once": lambda: self._worker_leaves(2),
            "worker pauses": lambda: self._pause(self.world.rng.choice(self.workers)),
            "idle engine ends": lambda: world.rng.choice(self.workers).engine_ends(),
            "all workers pause, and a petition comes": self._all_pause,
            "client is killed and comes back": lambda: self._client_killed(back=True),
            "client is killed for good": lambda: self._client_killed(back=False),
            "client pauses": lambda: self._pause(self.world.rng.choice(self.clients)),
            "wall clock a day forward": lambda: self._jump(_DAY_S),
            "wall clock a day back": lambda: self._jump(-_DAY_S),
        }

    def _words(self) -> dict[str, Callable[[], bool]]:
        """What people and workers say and do."""
        return {
            "cancel": self._cancel,
            "cancel by another": self._cancel_by_another,
            "cancel before submit": self._cancel_before_submit,
            "detach": self._detach,
            "detach by another": self._detach_by_another,
            "attach": lambda: self._visit_one(lambda pid: wire.Attach(id=pid)),
            "fetch again": lambda: self._visit_one(lambda pid: wire.Attach(id=pid, again=True)),
            "submit again elsewhere": self._submit_elsewhere,
            "retry": self._retry,
            "retry of anything": lambda: self._visit_one(lambda pid: wire.Retry(id=pid)),
            "purge": self._purge,
            "purge all": lambda: self._visit(wire.Purge()),
            "question": self._question,
            "inventory changes": self._inventory,
            "worker is shut for a while": self._shut,
            "wish about workers": self._wish_of_workers,
            "worker is drained": lambda: self._control(
                "drain", self.world.rng.choice(self.workers).name
            ),
        }

    def make_petitions(self) -> None:
        rng = self.world.rng
        for number in range(rng.choice((1, 2, 4, 6, 9))):
            self._submits_later(self._wish(number), rng.random() ** 2 * 15.0)

    def _submits_later(self, wish: Wish, delay_s: float) -> None:
        self.wishes.append(wish)
        self.ledger.limits_s[wish.id] = wish.timeout_s
        self.world.after(delay_s, self._wanted, self.world.rng.choice(self.clients), wish)

    def _wanted(self, client: ClientBox, wish: Wish) -> None:
        if client.name not in self.gone and wish.id not in client.wishes:
            client.wants(wish)

    def _wish(self, number: int) -> Wish:
        rng = self.world.rng
        kind = rng.choice(("a house", "a house", "a lake", "poison"))
        # Equal seeds, and files that name nobody, make pictures of one digest.
        prompt, bare = kind if rng.random() < 0.3 else f"{kind} {number}", rng.random() < 0.3
        petition = Petition(
            params=Params(
                prompt=prompt, model=rng.choice(("tiny", "tiny", "tiny", "other", "none")),
                steps=rng.choice((1, 2, 4)), metadata=not bare,
            ),
            seed=rng.choice((30, 31, rng.randrange(1000))),
            images=rng.choice((1, 1, 2, 3, 5, 8)),
            timeout_s=rng.choice((0.0, 0.0, 0.0, 0.0, 5.0, 20.0)),
            cancel_on_disconnect=rng.random() < 0.1,
            priority=rng.choice(("normal", "normal", "high", "low")),
            hedge=rng.random() < 0.7,
            exact=rng.random() < 0.2,
            on_oom=_ON_OOM[number % len(_ON_OOM)],
            preview="proj" if number % 2 else "none",
        )  # fmt: skip
        files = [INPUTS[0], rng.choice(INPUTS)] if rng.random() < 0.25 else []
        petition = with_files(petition, *files)
        petition_id = f"{rng.getrandbits(64):016x}{number:016x}"
        if not petition.hedge:
            self.ledger.unhedged.add(petition_id)
        return Wish(
            petition_id, encode_petition(petition), prompt,
            petition.seed, petition.images, petition.timeout_s,
            {digest_of(data): data for data in files},
        )  # fmt: skip

    def begin(self) -> None:
        """What befalls them at any moment: each kind of this seed in its own rhythm."""
        for kind in AT_MOMENTS:
            if kind in self.faults.kinds:
                self._next(kind)

    def _next(self, kind: str) -> None:
        self.world.after(self.world.rng.expovariate(AT_MOMENTS[kind] / 60.0), self._befall, kind)

    def _befall(self, kind: str) -> None:
        if self.faults.active:
            if self._acts[kind]():
                self.faults.happened(kind)
            self._next(kind)

    # --- wires ---

    @property
    def peers(self) -> list[WorkerBox | ClientBox]:
        """Everybody who dials the manager."""
        return [*self.workers, *self.clients]

    def _peer(self) -> WorkerBox | ClientBox:
        return self.world.rng.choice(self.peers)

    def _break(self, learn_s: float) -> bool:
        dealer = self._peer().dealer
        if dealer is None or dealer.line is None:
            return False
        between = self.world.between
        dealer.line.end(between(0.0, learn_s), between(0.0, learn_s))
        return True

    def _cut(self, *, up: bool = False, down: bool = False) -> bool:
        host = self._peer().host
        if host.cut_up or host.cut_down:
            return False
        host.cut_up, host.cut_down = up, down
        self.world.after(self.world.rng.choice((1.0, 5.0, 5.0, 12.0, 40.0)), self.mend, host)
        self.world.after(ZMTP_S, self._despair, host)
        return True

    def _lines(self, host: Host) -> list[Line]:
        routers = [port.router for port in self.manager.ports.values() if port.router is not None]
        return [
            line for router in routers for line in list(router.lines.values()) if line.host is host
        ]

    def _despair(self, host: Host) -> None:
        """Who hears nothing for that long takes the connection for broken."""
        if host.cut_up or host.cut_down:
            for line in self._lines(host):
                line.end(0.0, 0.0)

    def mend(self, host: Host) -> None:
        host.cut_up = host.cut_down = False
        for line in self._lines(host):
            line.heal()

    def _in_trouble(self) -> None:
        """The disk makes trouble; seldom is that all."""
        if self.faults.roll("trouble brings trouble"):
            also = [self._jam_down, self._jam_down, *[lambda: self._break(0.05)] * 3]
            also += [self._manager_stops] if self.world.chance(0.3) else []
            also += [lambda: self._visit_one(lambda pid: wire.Attach(id=pid, again=True))] * 2
            for act in also:
                self.world.after(self.world.between(0.3, 3.0), self._also, act)

    def _also(self, act: Callable[[], bool]) -> None:
        if act():
            # Each of them is a reason of its own for work that is done twice.
            self.faults.happened("trouble brings trouble")

    def _jam_down(self) -> bool:
        self._peer().host.jam_down_until = self.world.now + self.world.between(0.1, 4.0)
        return True

    def _jam_up(self) -> bool:
        self._peer().host.jam_up_until = self.world.now + self.world.between(0.1, 4.0)
        return True

    # --- processes ---

    def _manager_dies(self, learn_s: float) -> bool:
        if not self.manager.alive:
            return False
        self.manager.end(learn_s)
        self.world.after(self.world.between(0.1, 8.0), self.manager.start)
        return True

    def _manager_stops(self) -> bool:
        self.manager.ask_to_stop()
        return self.manager.alive

    def _pause(self, box: Process) -> bool:
        if not box.alive:
            return False
        box.paused_until = self.world.now + self.world.rng.choice((1.5, 5.0, 10.0, 35.0))
        return True

    def _all_pause(self) -> bool:
        for box in self.workers:
            box.paused_until = self.world.now + 5.0
        wish = self._wish(len(self.wishes))
        self._submits_later(wish, 4.0)
        return True

    def _worker_killed(self) -> bool:
        box = self.world.rng.choice(self.workers)
        if not box.alive:
            return False
        box.end()
        self.world.after(self.world.rng.choice((0.5, 5.0, 40.0)), box.start)
        return True

    def _worker_leaves(self, times: int) -> bool:
        box = self.world.rng.choice(self.workers)
        for _ in range(times):
            box.ask_to_stop()
        return box.alive

    def _client_killed(self, *, back: bool) -> bool:
        box = self.world.rng.choice(self.clients)
        if not box.alive:
            return False
        box.end(polite=self.world.chance(0.5))
        if back:
            self.world.after(self.world.rng.choice((0.2, 3.0, 35.0)), box.start)
        else:
            self.gone.add(box.name)
        return True

    def _jump(self, seconds: float) -> bool:
        self.world.wall_jump += seconds
        return True

    def _inventory(self) -> bool:
        box = self.world.rng.choice(self.workers)
        whole = SHELVES[self.workers.index(box)]
        box.publish(self.world.rng.choice(((), (TINY,), (OTHER,))))
        self.world.after(self.world.between(0.5, 10.0), box.publish, whole)
        return True

    def _shut(self) -> bool:
        box = self.world.rng.choice(self.workers)
        box.shut("outside its hours")
        self.world.after(self.world.between(0.5, 20.0), box.shut, "")
        return box.alive

    # --- people ---

    def _control(self, wish: wire.WorkerWish, *names: str) -> bool:
        return self._visit(wire.Control(number=1, wish=wish, workers=names), stays_s=3.0)

    def _wish_of_workers(self) -> bool:
        rng = self.world.rng
        names = (self.world.rng.choice(self.workers).name,) if rng.random() < 0.7 else ()
        return self._control(rng.choice(("pause", "pause", "resume", "resume", "unload")), *names)

    def _known(self) -> list[Wish]:
        return [wish for wish in self.wishes if wish.id in self.ledger.kept_at]

    def _cancel(self) -> bool:
        box = self.world.rng.choice(self.clients)
        open_ids = sorted(box.listens_for)
        if open_ids:
            box.cancels(self.world.rng.choice(open_ids))
        return bool(open_ids)

    def _detach(self) -> bool:
        box = self.world.rng.choice(self.clients)
        open_ids = sorted(box.listens_for)
        if open_ids:
            box.lets_go(self.world.rng.choice(open_ids))
        return bool(open_ids)

    def _detach_by_another(self) -> bool:
        # Its petition may never have come to the manager.
        return self._visit(wire.Detach(id=self.world.rng.choice(self.wishes).id))

    def _visit_at_once(self, *words: wire.Message) -> None:
        self._visit(*words, stays_s=2.0)

    def _visit(self, *words: wire.Message, stays_s: float = 0.0) -> bool:
        stays_s = stays_s or self.world.rng.choice((2.0, 10.0, 40.0))
        port = self.manager.ports["client"]
        self.visitors.append(Visitor(self.world, self.ledger, port, list(words), stays_s))
        return True

    def _visit_one(self, word: Callable[[str], wire.Message]) -> bool:
        known = self._known()
        return bool(known) and self._visit(word(self.world.rng.choice(known).id))

    def _cancel_by_another(self) -> bool:
        known = self._known()
        return bool(known) and self._visit(wire.Cancel(id=self.world.rng.choice(known).id))

    def _cancel_before_submit(self) -> bool:
        known = {wish.id for wish in self._known()}
        early = [wish for wish in self.wishes if wish.id not in known]
        return bool(early) and self._visit(wire.Cancel(id=self.world.rng.choice(early).id))

    def _retry(self) -> bool:
        states = self.ledger.disk.store
        known = [wish for wish in self._known() if states.petition(wish.id) is not None]
        bad = [w for w in known if states.petition(w.id).state in PETITION_ENDS - {"done"}]  # type: ignore[union-attr]
        if not bad:
            return False
        wish = self.world.rng.choice(bad)
        return self._visit(wire.Retry(id=wish.id))

    def _purge(self) -> bool:
        known = self._known()
        return bool(known) and self._visit(wire.Purge(id=self.world.rng.choice(known).id))

    def _question(self) -> bool:
        what = self.world.rng.choice(("models", "workers", "queue", "status"))
        return self._visit(wire.Ask(number=1, what=what), stays_s=3.0)

    def _submit_elsewhere(self) -> bool:
        known = self._known()
        others = [box for box in self.clients if box.alive]
        if not known or not others:
            return False
        wish, box = self.world.rng.choice(known), self.world.rng.choice(others)
        if wish.id in box.wishes:
            return False
        twin = Wish(
            wish.id, wish.body, wish.prompt, wish.seed, wish.images, wish.timeout_s, wish.files
        )
        box.wants(twin)
        return True
