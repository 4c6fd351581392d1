"""Petitions and images as the manager keeps them, and their order of arrival."""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from sdistrib.errors import ErrorInfo
from sdistrib.models import Wanted
from sdistrib.petitions import (
    PETITION_ENDS,
    ImageState,
    InputFile,
    OnOom,
    PetitionState,
    Relief,
    check_image_move,
    check_petition_move,
)
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Result
from sdistrib_manager.scheduler.work import Job

#: Everybody on the plain loopback port is this user.
LOCAL = "local"


@dataclass(slots=True)
class Issued:
    """An attempt that was once given out; its result counts while the image is undone."""

    #: The worker process it was given to.
    instance: str
    worker: str
    #: The lease still stands; a result is expected.
    live: bool = True
    #: It is drawn with less memory than the petition's parameters take.
    relief: Relief = ""


@dataclass(slots=True)
class Image:
    """One image that was granted at least once; a fresh one is only a number."""

    index: int
    state: ImageState = "waiting"
    #: Attempts by number, from 1.
    issued: dict[int, Issued] = field(default_factory=dict)
    #: Errors of attempts that count against the image.
    failures: list[ErrorInfo] = field(default_factory=list)
    #: Attempts lost with their worker.
    losses: int = 0
    result: Result | None = None
    #: The client has the picture.
    seen: bool = False
    #: The picture is in the blob store.
    kept: bool = False

    def move(self, state: ImageState) -> None:
        """Go to another state, by the table."""
        check_image_move(self.state, state, self)
        self.state = state


@dataclass(slots=True, eq=False)
class Entry:
    """One petition. A hundred thousand of them may wait, so each holds only what is needed."""

    id: str
    #: User that it belongs to.
    owner: str
    #: As the client sent it; forwarded to workers as it is.
    body: Buffer
    #: SHA-256 of the body as first submitted: tells a resend from a conflict.
    digest: str
    #: Name of its model, for lists.
    model: str
    wanted: tuple[Wanted, ...]
    #: As the scheduler sees it.
    job: Job
    seed: int
    #: Number of its images.
    size: int
    #: Order of arrival.
    number: int
    #: Wall-clock second of acceptance, for display.
    accepted_wall: float
    #: Monotonic time at which it expires; None when it has no limit.
    expires_at: float | None = None
    cancel_on_disconnect: bool = False
    #: All its images are drawn by engines of one fingerprint.
    exact: bool = False
    #: What may be done when an engine runs out of memory, and the ways in which images may be drawn
    #: then, the petition's own first.
    on_oom: OnOom = "retry"
    rungs: tuple[Relief, ...] = ("",)
    #: Context of images that are drawn with offloaded weights; empty before it was asked for.
    offload_context: str = ""
    #: Its input files; of one that is in the queue, those that are kept.
    inputs: tuple[InputFile, ...] = ()
    #: Connections that get its pictures and have not been told its end.
    listeners: tuple[bytes, ...] = ()
    state: PetitionState = "queued"
    #: Uptime counter when it ended.
    ended_uptime_s: float = 0.0
    #: Images from this one on were never granted, and wait.
    fresh: int = 0
    #: Images that were granted and wait again, ascending; they go out first.
    again: list[int] | None = None
    images: dict[int, Image] = field(default_factory=dict)
    #: Images that are neither done nor failed nor cancelled.
    open: int = 0
    #: Images that are done.
    done: int = 0
    #: When its end was first foreseen from what finished images cost, and the seconds that it would
    #: take from then.
    first_eta: tuple[float, float] | None = None
    #: Since when no known worker could do it; None while one can.
    orphaned_at: float | None = None
    #: Why nothing of it runs.
    reason: str = ""
    #: Images of others before it.
    ahead: int = 0
    #: Somebody was told its end, and nobody has attached since.
    finished_sent: bool = False

    def move(self, state: PetitionState) -> None:
        """Go to another state, by the table."""
        check_petition_move(self.state, state, self.id)
        self.state = state

    @property
    def ended(self) -> bool:
        """Nothing more will be drawn of it."""
        return self.state in PETITION_ENDS

    def adopt(self, edited: "Entry") -> None:
        """Its parameters were edited: what is said by them is as in `edited`."""
        self.body, self.wanted, self.model = edited.body, edited.wanted, edited.model
        self.job, self.exact = edited.job, edited.exact
        self.on_oom, self.rungs, self.offload_context = edited.on_oom, edited.rungs, ""
        self.cancel_on_disconnect = edited.cancel_on_disconnect

    def image(self, index: int) -> Image:
        """The record of one image, made when first asked for."""
        return self.images.setdefault(index, Image(index))

    def indices(self, state: ImageState) -> list[int]:
        """Indices of granted images in this state, ascending."""
        return sorted(image.index for image in self.images.values() if image.state == state)

    @property
    def waiting_count(self) -> int:
        """Images nobody works on."""
        return self.size - self.fresh + len(self.again or ())

    @property
    def leased_count(self) -> int:
        """Images that somebody works on."""
        return self.open - self.waiting_count

    def waiting(self) -> Iterator[int]:
        """Images nobody works on, in the order in which they go out."""
        yield from self.again or ()
        yield from range(self.fresh, self.size)

    def take(self, index: int) -> None:
        """The image waits no more. Of the fresh ones only the first may be taken."""
        if self.again and index in self.again:
            self.again.remove(index)
        elif index == self.fresh:
            self.fresh += 1
        else:
            raise ValueError(f"image {index} of {self.id} is not next")

    def take_all(self) -> list[int]:
        """No image waits any more; those that did."""
        taken = list(self.waiting())
        self.again, self.fresh = None, self.size
        return taken

    def put_back(self, index: int) -> None:
        """A granted image waits again."""
        if self.again is None:
            self.again = []
        insort(self.again, index)


@dataclass(slots=True)
class Share:
    """What one user has of the room that the manager has for all."""

    #: Petitions that have not ended.
    petitions: int = 0
    #: Images waiting or leased.
    images: int = 0
    #: Bytes of input files, and of pictures that no client has yet, equal ones counted each.
    picture_bytes: int = 0


class Queue:
    """All petitions, in order of arrival but for those restored."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        #: The last number.
        self.arrivals = 0
        #: Images waiting or leased in all petitions.
        self.open_images = 0
        self.ended_petitions = 0
        #: By user.
        self.shares: dict[str, Share] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    @property
    def open_petitions(self) -> int:
        """Petitions that have not ended."""
        return len(self.entries) - self.ended_petitions

    def share(self, owner: str) -> Share:
        """What this user has."""
        return self.shares.setdefault(owner, Share())

    def count_images(self, entry: Entry, more: int) -> None:
        """The petition has so many more images waiting or leased."""
        self.open_images += more
        self.share(entry.owner).images += more

    def count_ended(self, entry: Entry, more: int) -> None:
        """The petition has ended (1), or is open again (-1)."""
        self.ended_petitions += more
        self.share(entry.owner).petitions -= more

    def next_number(self) -> int:
        """A number for the next arrival."""
        self.arrivals += 1
        return self.arrivals

    def number_taken(self, number: int) -> None:
        """A petition of before has this number."""
        self.arrivals = max(self.arrivals, number)

    def add(self, entry: Entry) -> None:
        """A petition, new or restored; its images are as they are."""
        self.number_taken(entry.number)
        self.entries[entry.id] = entry
        self.count_images(entry, entry.open)
        self.share(entry.owner).petitions += 1
        self.count_ended(entry, int(entry.ended))

    def lined_up(self) -> list[Entry]:
        """All petitions with waiting images, in order of arrival."""
        waiting = (entry for entry in self.entries.values() if entry.waiting_count)
        return sorted(waiting, key=lambda entry: entry.number)

    def forget(self, entry: Entry) -> None:
        """The petition is purged."""
        if self.entries.pop(entry.id, None) is not None:
            self.ended_petitions -= entry.ended
