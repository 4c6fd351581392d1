"""The workers: who is here, what each has, and what each was handed."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

import msgspec

from sdistrib import limits
from sdistrib.liveness import Liveness
from sdistrib.models import Catalogue, ModelFile, Wanted
from sdistrib.params import ModelKind
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
from sdistrib.transfer import Outgoing
from sdistrib_manager.jobs import Kind
from sdistrib_manager.scheduler.work import Job

#: AI Horde gives a worker its whole batch up to this part of its largest picture.
_FULL_PART = 3.5
#: A ceiling that no picture is below: the context itself is too large.
LOADING = 1


@dataclass(slots=True, eq=False)
class Lease:
    """One attempt in the hands of one worker."""

    attempt: Attempt
    #: The petition, as the scheduler sees it.
    job: Job
    granted_at: float
    #: When the engine began it.
    begun_at: float | None = None
    #: Seconds it was expected to take, loading included.
    expected_s: float = 0.0
    #: When it began to sample, until the first step is done.
    sampling_at: float | None = None
    #: Its picture is drawn and on its way here: the engine is at something else.
    drawn: bool = False
    #: A `Revoke` is under way.
    revoking: bool = False
    #: Nobody may race it: somebody does.
    alone: bool = False
    #: Newest progress, None before the first.
    step: Step | None = None

    @property
    def started(self) -> bool:
        """The engine has begun it."""
        return self.begun_at is not None


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
    #: What its engine has loaded, by the manager's own keys, the last used first; empty when
    #: nothing, or unknown.
    contexts: tuple[Hashable, ...] = ()
    #: Digest of engine and limits: what it ran out of memory with counts while this is the same.
    settings: str = ""
    #: By context and whether the picture was decoded in tiles: pixels at which it ran out of
    #: memory, the newest last.
    ceilings: dict[tuple[str, bool], int] = field(default_factory=dict)
    done: int = 0
    failed: int = 0
    #: Input files that are going out to it, by digest.
    fetches: dict[str, Outgoing] = field(default_factory=dict)
    #: Answers of `has_all` and `can`, kept until something changes.
    _has: dict[tuple[Wanted, ...], bool] = field(default_factory=dict)
    _can: dict[tuple[Hashable, Hashable], bool] = field(default_factory=dict)

    def has_all(self, wanted: tuple[Wanted, ...]) -> bool:
        """The worker has every file named."""
        known = self._has.get(wanted)
        if known is None:
            known = not self.catalogue.missing(wanted)
            _remember(self._has, wanted, known)
        return known

    def contents(self, wanted: tuple[Wanted, ...]) -> tuple[tuple[str, int], ...]:
        """Digest, empty where not known yet, and size of its files that these names mean."""
        files = [self.catalogue.find(want.kind, want.name) for want in wanted]
        return tuple((file.digest, file.size_bytes) if file else ("", -1) for file in files)

    def pinned(self, kind: Kind, *, exact: bool) -> Kind:
        """The same bound to what this worker has: its files, and if `exact` its engine."""
        fingerprint = self.engine.fingerprint if exact else ""
        return kind._replace(contents=self.contents(kind.wanted), fingerprint=fingerprint)

    def can(self, job: Job) -> bool:
        """It has the right files and engine for the petition, and the room."""
        key = job.kind, job.context
        known = self._can.get(key)
        if known is None:
            known = not self.lacks(job)
            _remember(self._can, key, known)
        return known

    def lacks(self, job: Job) -> str:
        """Why it cannot draw the petition, for people; empty when it can."""
        kind = cast(Kind, job.kind)
        if missing := self.catalogue.missing(kind.wanted):
            return f"it has no {missing[0].kind} {missing[0].name!r}"
        have = self.contents(kind.wanted) if kind.contents else ()
        if not all(map(_same, kind.contents, have)):
            return "its files of these names are not those that the petition began with"
        # Of a worker that has not been here since the start no fingerprint is known.
        known = self.present or self.engine.fingerprint
        if kind.fingerprint and known and kind.fingerprint != self.engine.fingerprint:
            return f"its engine's fingerprint is not {kind.fingerprint}"
        if 0 < self.declared.max_pixels < kind.pixels:
            return f"{kind.pixels} pixels are more than the {self.declared.max_pixels} it allows"
        ceiling = self.ceiling(job)
        if ceiling == LOADING:
            return "it ran out of memory while loading it"
        return f"it ran out of memory at {ceiling} pixels" if ceiling else ""

    def ceiling(self, job: Job) -> int:
        """Pixels at which it ran out of memory, if the job has as many; else 0."""
        kind, context = cast(Kind, job.kind), cast(str, job.context)
        # Where tiles were too much the whole is too.
        learned = [self.ceilings.get((context, True), 0)]
        if not kind.tiled:
            learned.append(self.ceilings.get((context, False), 0))
        return min((pixels for pixels in learned if 0 < pixels <= kind.pixels), default=0)

    def most(self, job: Job) -> int:
        """Images in its hands, by what it declared: the fewer the larger (AI Horde's rule)."""
        most, pixels_max = self.declared.max_batch, self.declared.max_pixels
        if not most or not pixels_max:
            return most
        return max(1, min(most, round(pixels_max / _FULL_PART * most / job.pixels)))

    @property
    def pixel_class(self) -> str:
        """Workers that are equal in this draw the same bits."""
        return self.engine.fingerprint

    @property
    def is_down(self) -> bool:
        """Its engine is not there now: it begins nothing before it is."""
        return self.state.state == "starting"

    @property
    def holds(self) -> Iterable[Lease]:
        """What it was handed and has not drawn, what is under way first."""
        return sorted(
            (lease for lease in self.leases.values() if not lease.drawn),
            key=lambda lease: not lease.started,
        )

    def lower_ceiling(self, job: Job, *, loading: bool) -> None:
        """It ran out of memory drawing this, or before, which no smaller picture helps.

        Of a picture whose size is not known nothing can be learned for others.
        """
        kind, context = cast(Kind, job.kind), cast(str, job.context)
        if not kind.pixels:
            return
        key = context, kind.tiled or loading
        pixels = LOADING if loading else kind.pixels
        self.ceilings[key] = min(self.ceilings.pop(key, pixels), pixels)
        self._trim()

    def recall(self, ceilings: dict[tuple[str, bool], int]) -> None:
        """What it ran out of memory with as another process."""
        for key, pixels in ceilings.items():
            self.ceilings[key] = min(self.ceilings.pop(key, pixels), pixels)
        self._trim()

    def _trim(self) -> None:
        while len(self.ceilings) > limits.CEILINGS_MAX:
            del self.ceilings[next(iter(self.ceilings))]
        self._can.clear()

    def settle(self, engine: EngineFacts, declared: Declared) -> None:
        """It is this, from its hello; what another engine ran out of memory with is forgotten."""
        self.engine, self.declared = engine, declared
        settings = _settings(engine, declared)
        if self.settings != settings:
            self.ceilings.clear()
        self.settings = settings
        self._can.clear()

    @property
    def pixels_learned(self) -> int:
        """Pixels below every size at which it ran out of memory; 0 when it never did."""
        sizes = (pixels for pixels in self.ceilings.values() if pixels != LOADING)
        return max(0, min(sizes, default=1) - 1)

    def set_catalogue(self, catalogue: Catalogue) -> None:
        """Its files changed."""
        self.catalogue = catalogue
        self._has.clear()
        self._can.clear()

    @property
    def keep(self) -> int:
        """How many contexts its engine keeps."""
        return self.declared.keep

    @property
    def is_open(self) -> bool:
        """It takes grants."""
        return self.standing.state == "open"


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
            if other.name != worker.name or other.present:
                continue
            if other.settings == worker.settings:
                worker.recall(other.ceilings)
            if not other.leases:
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

    def decided(self) -> frozenset[str]:
        """Parameters of which no worker that is here follows a petition's wish."""
        each = [
            frozenset(choice.partition("=")[0] for choice in worker.declared.placement)
            for worker in self.present()
        ]
        return frozenset.intersection(*each) if each else frozenset()

    def name_of(self, kind: ModelKind, name: str) -> str | None:
        """What the workers call the file that a client means; None when none has it."""
        for worker in self:
            file = worker.catalogue.find(kind, name)
            if file is not None:
                return file.name
        return None


_K = TypeVar("_K")


def _remember(answers: dict[_K, bool], key: _K, answer: bool) -> None:
    """Keep an answer; with too many distinct questions all are asked anew."""
    if len(answers) >= limits.KINDS_MAX:
        answers.clear()
    answers[key] = answer


def _settings(engine: EngineFacts, declared: Declared) -> str:
    return hashlib.sha256(msgspec.msgpack.encode((engine, declared))).hexdigest()[:32]


def same_file(one: ModelFile, other: ModelFile) -> bool:
    """Whether two files have equal contents, as far as both are known."""
    return _same((one.digest, one.size_bytes), (other.digest, other.size_bytes))


def _same(wanted: tuple[str, int], have: tuple[str, int]) -> bool:
    """Whether two files are the same, as far as both are known."""
    if wanted[0] and have[0]:
        return wanted[0] == have[0]
    return wanted[1] == have[1]
