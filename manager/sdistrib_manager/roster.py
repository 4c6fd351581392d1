"""The workers: who is here, what each has, and what each was handed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sdistrib.liveness import Liveness
from sdistrib.models import Catalogue, Wanted
from sdistrib.protocol.messages import (
    Attempt,
    ControlAnswer,
    Declared,
    EngineFacts,
    EngineState,
    Standing,
    Step,
    WorkerWish,
)

#: Images that a worker may hold at once: one in the engine and one behind it, so that the engine
#: never waits for the network.
CREDIT = 2


@dataclass(slots=True)
class Lease:
    """One attempt in the hands of one worker."""

    attempt: Attempt
    granted_at: float
    #: The engine has begun it.
    started: bool = False
    #: A `Revoke` is under way.
    revoking: bool = False
    #: Newest progress, None before the first.
    step: Step | None = None


@dataclass(slots=True, eq=False)
class Worker:
    """One running worker process."""

    route: bytes
    #: Stable name, as its owner chose it.
    name: str
    #: Drawn at its start; what leases are bound to.
    instance: str
    engine: EngineFacts
    catalogue: Catalogue
    liveness: Liveness
    #: False between its connection's end and its next hello.
    present: bool = True
    leases: dict[Attempt, Lease] = field(default_factory=dict)
    state: EngineState = field(default_factory=lambda: EngineState(state="starting"))
    #: Whether it takes grants, as it says itself.
    standing: Standing = field(default_factory=lambda: Standing(state="open"))
    #: What its owner allows it.
    declared: Declared = field(default_factory=Declared)
    done: int = 0
    failed: int = 0
    #: Answers of `has_all`, kept until the inventory changes.
    _has: dict[tuple[Wanted, ...], bool] = field(default_factory=dict)

    def has_all(self, wanted: tuple[Wanted, ...]) -> bool:
        """The worker has every file named."""
        known = self._has.get(wanted)
        if known is None:
            known = self._has[wanted] = not self.catalogue.missing(wanted)
        return known

    def has_loaded(self, wanted: tuple[Wanted, ...]) -> bool:
        """The model that these files begin with is in its memory now."""
        model = self.catalogue.find(wanted[0].kind, wanted[0].name) if wanted else None
        return model is not None and model.name == self.state.loaded

    def set_catalogue(self, catalogue: Catalogue) -> None:
        """Its files changed."""
        self.catalogue = catalogue
        self._has.clear()

    @property
    def is_open(self) -> bool:
        """It takes grants."""
        return self.standing.state == "open"

    def credit(self, now: float) -> int:
        """Images that may be granted to it now; none while it is suspect, away or not open."""
        if not (self.present and self.is_open) or self.liveness.state(now) != "alive":
            return 0
        return CREDIT - len(self.leases)


@dataclass(slots=True, kw_only=True)
class Steering:
    """A client's wish about workers, until each has answered or will not."""

    #: Route of the client, and its number for the wish.
    route: bytes
    number: int
    wish: WorkerWish
    #: Workers that have not answered, by instance.
    waiting: dict[str, Worker]
    #: When no answer is waited for any more.
    deadline: float
    answers: list[ControlAnswer] = field(default_factory=list)


class Roster:
    """All workers that are here, and those remembered."""

    def __init__(self) -> None:
        self.by_instance: dict[str, Worker] = {}
        self._by_route: dict[bytes, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.by_instance.values())

    def __len__(self) -> int:
        return len(self.by_instance)

    def at(self, route: bytes) -> Worker | None:
        """The worker that speaks on this route."""
        return self._by_route.get(route)

    def present(self) -> Iterable[Worker]:
        """Workers with a session."""
        return (worker for worker in self if worker.present)

    def join(self, worker: Worker) -> None:
        """Add a worker. Away ones of the same name are forgotten: this is what became of them."""
        for other in list(self):
            if other.name == worker.name and not other.present and not other.leases:
                del self.by_instance[other.instance]
        self.by_instance[worker.instance] = worker
        self._by_route[worker.route] = worker

    def move(self, worker: Worker, route: bytes) -> None:
        """The worker speaks on another route now."""
        self._by_route.pop(worker.route, None)
        worker.route = route
        worker.present = True
        self._by_route[route] = worker

    def leave(self, worker: Worker) -> None:
        """The worker's session ended. What it has is remembered, so that petitions can wait."""
        self._by_route.pop(worker.route, None)
        worker.present = False

    def forget(self, worker: Worker) -> None:
        """The worker has been away for so long that nobody should wait for it."""
        self.by_instance.pop(worker.instance, None)

    def holders(self, wanted: tuple[Wanted, ...]) -> list[Worker]:
        """Workers, here or remembered, that have all files named."""
        return [worker for worker in self if worker.has_all(wanted)]
