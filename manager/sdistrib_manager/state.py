"""What a manager knows, and the small verbs that its parts share."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from sdistrib import limits
from sdistrib.errors import ErrorCode, ErrorInfo
from sdistrib.liveness import Liveness
from sdistrib.params import ModelKind
from sdistrib.petitions import IMAGE_ENDS, ImageState, InputFile
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Attempt, Message, Result, ResultRefused, Retry, Submit
from sdistrib.transfer import Incoming
from sdistrib_manager.clients import Client
from sdistrib_manager.effects import Effect, Keep, Log, Send
from sdistrib_manager.jobs import Kind
from sdistrib_manager.queue import Entry, Image, Queue
from sdistrib_manager.roster import Roster, Steering, Worker
from sdistrib_manager.rows import ImageRow, IssuedRow, PetitionStateRow, Row, Tombstone
from sdistrib_manager.scheduler.policy import OVERTAKEN_S, Scheduler

#: Ends of petitions from which the error of ETAs is told.
_ETA_ERRORS = 100


class Foreseen(NamedTuple):
    """A forecast of the first waiting petitions."""

    #: When it is to be made anew.
    until: float
    #: When each petition will be done, as far as that can be known.
    ends: dict[str, float]


@dataclass(slots=True)
class Settings:
    """What an operator may choose."""

    software: str
    #: Failures (crash, hang, error) of one image before it fails for good; at least 1.
    attempts_max: int = limits.ATTEMPTS_MAX
    #: Attempts lost with their worker before the image fails.
    losses_max: int = limits.LOSSES_MAX
    petitions_max: int = limits.PETITIONS_MAX
    images_max: int = limits.IMAGES_MAX
    blob_bytes_max: int = limits.BLOB_BYTES_MAX
    #: Part of each of these three that one of several users may have.
    owner_share: float = limits.OWNER_SHARE
    #: Images of one client in workers' hands at a time; 0 is no limit.
    client_running_max: int = 0
    no_worker_timeout_s: float = limits.NO_WORKER_TIMEOUT_S
    #: Ended petitions are kept this long, counted while a manager runs.
    retention_s: float = limits.RETENTION_S
    #: Pictures that clients have seen are kept up to this many bytes, the newest longest.
    retention_bytes: int = 0
    #: Nobody is overtaken for longer for the sake of what a worker has loaded.
    overtaken_s: float = OVERTAKEN_S
    #: After a start, images leased before it wait this long for their worker to report.
    restart_grace_s: float = limits.RESTART_GRACE_S
    #: After this silence a worker's images may be given to others.
    suspect_s: float = limits.SUSPECT_S
    #: After this silence a worker is given up; more than `suspect_s`.
    gone_s: float = limits.GONE_S


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    done_images: int = 0
    waiting_images: int = 0
    running_images: int = 0


@dataclass(slots=True)
class Arrival:
    """A picture on its way from a worker into the store."""

    result: Result
    incoming: Incoming
    #: All of it is here and `PutBlob` is under way.
    storing: bool = False


@dataclass(slots=True)
class Upload:
    """An input file on its way from a client into the store."""

    incoming: Incoming
    #: The connection that sends it, and the petition it was asked for; None while nobody does.
    sender: tuple[bytes, str] | None = None
    #: Petitions that wait for it.
    petitions: dict[str, None] = field(default_factory=dict)
    #: All of it is here and `PutBlob` is under way.
    storing: bool = False


@dataclass(slots=True)
class Staged:
    """A petition that is not accepted yet, since input files of it are to come."""

    id: str
    #: User that it belongs to.
    owner: str
    #: As the client sent it.
    body: bytes
    #: Its input files.
    files: tuple[InputFile, ...]
    #: Those that were not here when it came, with their bytes.
    fresh: dict[str, int]
    #: Digests of those that are kept for it.
    held: dict[str, None] = field(default_factory=dict)
    #: Connections that wait for its acceptance, with what each said.
    waiters: dict[bytes, Submit | Retry] = field(default_factory=dict)
    #: Since when no connection waits for it.
    lost_at: float | None = None


@dataclass(slots=True)
class State:
    """Everything the manager's parts work on, and the effects of the event under way."""

    settings: Settings
    started_at: float
    #: Monotonic time of the event under way.
    now: float
    #: Wall-clock time of the event under way; for display only.
    wall: float = 0.0
    #: Uptime counter at the start.
    uptime_base_s: float = 0.0
    queue: Queue = field(default_factory=Queue)
    scheduler: Scheduler = field(default_factory=Scheduler)
    #: The manager's own keys of contexts, by those that workers name them with.
    contexts: dict[str, str] = field(default_factory=dict)
    #: Names of models as workers call them, by the manager's keys of contexts.
    models: dict[str, str] = field(default_factory=dict)
    roster: Roster = field(default_factory=Roster)
    clients: dict[bytes, Client] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    outbox: list[Effect] = field(default_factory=list)
    #: Petitions whose progress changed.
    dirty: dict[str, None] = field(default_factory=dict)
    #: Pictures that are arriving or being kept, by worker process and attempt.
    arriving: dict[tuple[str, Attempt], Arrival] = field(default_factory=dict)
    #: What is left of petitions that were forgotten, oldest first.
    tombstones: dict[str, Tombstone] = field(default_factory=dict)
    #: Petitions that are kept and cannot be read back, with the digests of their pictures. Each has
    #: a tombstone here, which is kept only when they are purged.
    damaged: dict[str, frozenset[str]] = field(default_factory=dict)
    #: Pictures that clients have seen and that are still kept, oldest first.
    seen_pictures: deque[tuple[str, int]] = field(default_factory=deque)
    #: Their bytes.
    seen_bytes: int = 0
    #: Until then images leased before the start wait for their worker.
    grace_until: float = 0.0
    #: When the uptime counter is to be kept next.
    clock_due_at: float = 0.0
    #: The store failed: nothing new is accepted until a probe succeeds.
    store_trouble: str = ""
    #: Images of which a soft row was left out while the store was in trouble, oldest first.
    left_out: dict[tuple[str, int], None] = field(default_factory=dict)
    #: How many images and petitions each kept picture or input file serves.
    blob_uses: dict[str, int] = field(default_factory=dict)
    #: The same for each user: whose it is, he need not send again.
    blob_owners: dict[tuple[str, str], int] = field(default_factory=dict)
    #: Bytes of each of them, and of all.
    blob_sizes: dict[str, int] = field(default_factory=dict)
    blob_bytes: int = 0
    #: Bytes of previews that wait for clients to see those before, equal ones counted each.
    preview_bytes: int = 0
    #: Petitions that keep an input file, by its digest.
    input_names: dict[str, dict[str, None]] = field(default_factory=dict)
    #: Input files that no petition keeps since this turn.
    unnamed: dict[str, None] = field(default_factory=dict)
    #: Those before, the oldest first: workers that come back are told.
    forgotten: dict[str, None] = field(default_factory=dict)
    #: Petitions that wait for input files, by id, and these files, by user and digest.
    staged: dict[str, Staged] = field(default_factory=dict)
    uploads: dict[tuple[str, str], Upload] = field(default_factory=dict)
    #: How many of these petitions brought each of their files, by user, digest and bytes; and the
    #: bytes of these files by user.
    fresh_uses: dict[tuple[str, str, int], int] = field(default_factory=dict)
    fresh_bytes: Counter[str] = field(default_factory=Counter)
    #: Wishes about workers that are under way, by the number that the workers know.
    steering: dict[int, Steering] = field(default_factory=dict)
    #: The last such number.
    steered: int = 0
    #: Names that mean different files on two workers, and who was warned of.
    conflicts: set[tuple[ModelKind, str, str, str]] = field(default_factory=set)
    #: When petitions will be done, as last reckoned.
    foreseen: Foreseen | None = None
    #: Relative errors of the first ETA of petitions that are done, the newest.
    eta_errors: deque[float] = field(default_factory=lambda: deque(maxlen=_ETA_ERRORS))
    #: Images in workers' hands by client, as `held_by` names them; only while these are limited.
    held: Counter[str] = field(default_factory=Counter)
    #: Something changed that may let an image go out.
    schedule_due: bool = False
    stopping: bool = False
    #: Petitions that wait for a capable worker or have a deadline are looked at when this comes.
    next_review_at: float = 0.0

    def say(self, port: str, route: bytes, message: Message, body: Buffer | None = None) -> None:
        """Send a message to a peer."""
        side = "client" if port == "client" else "worker"
        peer = self.pulse(port, route)
        if peer is not None:
            peer.sent(self.now)
        self.outbox.append(Send(side, route, message, body))  # type: ignore[arg-type]

    def pulse(self, port: str, route: bytes) -> Liveness | None:
        """The liveness of the peer on this route, if there is one."""
        if port == "client":
            client = self.clients.get(route)
            return client.liveness if client else None
        worker = self.roster.at(route)
        return worker.liveness if worker else None

    def tell_worker(self, worker: Worker, message: Message, body: Buffer | None = None) -> None:
        """Send to a worker that is here; one that is away hears it not."""
        if worker.present:
            self.say("worker", worker.route, message, body)

    def log(self, level: str, text: str) -> None:
        """Tell the operator."""
        self.outbox.append(Log(level, text))  # type: ignore[arg-type]

    @property
    def uptime_s(self) -> float:
        """Seconds that managers of this store have run, all together."""
        return self.uptime_base_s + self.now - self.started_at

    def keep(self, row: Row, *, soft: bool = False) -> None:
        """Have something kept before this turn's messages leave."""
        self.outbox.append(Keep(row, soft))

    def keep_state(self, entry: Entry) -> None:
        """Keep a petition's state and let its client know."""
        left_s = max(entry.expires_at - self.now, 0.001) if entry.expires_at is not None else 0.0
        ended_s = entry.ended_uptime_s
        self.keep(
            PetitionStateRow(id=entry.id, state=entry.state, left_s=left_s, ended_uptime_s=ended_s)
        )
        self.touch(entry)

    def keep_image(self, entry: Entry, image: Image, *, soft: bool = False) -> None:
        """Keep an image as it is."""
        if soft and self.store_trouble:
            self.left_out[entry.id, image.index] = None
        issued = tuple(
            IssuedRow(number, one.instance, one.worker, one.live, one.relief)
            for number, one in image.issued.items()
        )
        self.keep(
            ImageRow(
                id=entry.id,
                index=image.index,
                state=image.state,
                issued=issued,
                failures=tuple(image.failures),
                losses=image.losses,
                result=image.result,
                seen=image.seen,
                kept=image.kept,
            ),
            soft=soft,
        )

    def line_up(self, entry: Entry) -> None:
        """The petition is new, or back: its images wait in the scheduler's lines."""
        # The wall clock decides nothing but this place among petitions that waited over a restart.
        age_s = min(max(0.0, self.wall - entry.accepted_wall), limits.REMEMBER_WORKER_S)
        entry.job.arrived_at = self.now - age_s
        self.scheduler.arrive(entry.job, entry.waiting_count)
        context = cast(str, entry.job.context)
        if context not in self.models:
            named = next(want for want in entry.wanted if want.name == entry.model)
            self.name_model(context, self.roster.name_of(named.kind, named.name) or entry.model)

    def name_context(self, named: str, context: str) -> None:
        """What a worker calls a context."""
        self.contexts.pop(named, None)
        self.contexts[named] = context
        while len(self.contexts) > limits.KINDS_MAX:
            del self.contexts[next(iter(self.contexts))]

    def name_model(self, context: str, name: str) -> None:
        """What the model of a context is called."""
        self.models.pop(context, None)
        self.models[context] = name
        while len(self.models) > limits.KINDS_MAX:
            del self.models[next(iter(self.models))]

    def take(self, entry: Entry, index: int) -> None:
        """The image waits no more."""
        entry.take(index)
        self.scheduler.lines.change(entry.job, -1)

    def take_all(self, entry: Entry) -> list[int]:
        """No image of the petition waits any more; those that did."""
        taken = entry.take_all()
        self.scheduler.lines.change(entry.job, -len(taken))
        return taken

    def put_back(self, entry: Entry, index: int) -> None:
        """A granted image waits again."""
        entry.put_back(index)
        self.scheduler.lines.change(entry.job, 1)

    def change_kind(self, entry: Entry, kind: Kind) -> None:
        """Other workers than before can draw the petition."""
        waiting = entry.job.waiting
        self.scheduler.lines.change(entry.job, -waiting)
        entry.job.kind = kind
        self.scheduler.lines.change(entry.job, waiting)

    def touch(self, entry: Entry) -> None:
        """The petition's progress changed."""
        if entry.listeners:
            self.dirty[entry.id] = None

    def drop_preview(self, client: Client, petition_id: str) -> None:
        """What waited for the client to see the preview before is not sent any more."""
        waiting = client.previews_waiting.pop(petition_id, None)
        if waiting is not None:
            self.preview_bytes -= len(waiting[1])

    def listening(self, entry: Entry) -> list[Client]:
        """The clients that get what the petition yields."""
        return [self.clients[route] for route in entry.listeners]

    def part(self, client: Client, entry: Entry) -> None:
        """The client does not listen to the petition any more."""
        self.drop_preview(client, entry.id)
        client.drop(entry.id)
        entry.listeners = tuple(route for route in entry.listeners if route != client.route)

    def move_image(self, entry: Entry, image: Image, to: ImageState) -> None:
        """Take an image to another state, keep that, and count."""
        counters = self.counters
        counters.waiting_images -= image.state == "waiting"
        counters.running_images -= image.state == "leased"
        entry.done += (to == "done") - (image.state == "done")
        image.move(to)
        counters.waiting_images += to == "waiting"
        counters.running_images += to == "leased"
        if to in IMAGE_ENDS:
            entry.open -= 1
            self.queue.count_images(entry, -1)
            counters.done_images += to == "done"
            self._drop_arrivals(entry, image)
            self._drop_previews(entry, image)
        self.keep_image(entry, image)
        self.touch(entry)

    def _drop_arrivals(self, entry: Entry, image: Image) -> None:
        """Half pictures of an image that has ended: the rest is not wanted, and may never come."""
        for key, here in list(self.arriving.items()):
            attempt = here.result.attempt
            if (attempt.id, attempt.index) != (entry.id, image.index) or here.storing:
                continue
            del self.arriving[key]
            if (worker := self.roster.by_instance.get(key[0])) is not None:
                reason = f"the image is {image.state}"
                self.tell_worker(worker, ResultRefused(attempt=attempt, reason=reason))

    def _drop_previews(self, entry: Entry, image: Image) -> None:
        """Nobody wants to see an image grow that has ended."""
        for client in self.listening(entry):
            waiting = client.previews_waiting.get(entry.id)
            if waiting is not None and waiting[0].attempt.index == image.index:
                self.drop_preview(client, entry.id)

    def error(self, code: ErrorCode, message: str, **facts: object) -> ErrorInfo:
        """An error that happened here."""
        return ErrorInfo(code=code, message=message, **facts)  # type: ignore[arg-type]

    def find(self, attempt: Attempt) -> tuple[Entry, Image] | None:
        """The petition and image of an attempt, when both are known."""
        entry = self.queue.entries.get(attempt.id)
        image = entry.images.get(attempt.index) if entry else None
        return (entry, image) if entry is not None and image is not None else None
