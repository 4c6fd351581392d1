"""Petitions and images as the manager keeps them, and their order of arrival."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from sdistrib.errors import ErrorInfo
from sdistrib.models import Wanted
from sdistrib.petitions import (
    PETITION_ENDS,
    ImageState,
    Petition,
    PetitionState,
    check_image_move,
    check_petition_move,
)
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Result


@dataclass(slots=True)
class Issued:
    """An attempt that was once given out; its result counts while the image is undone."""

    #: The worker process it was given to.
    instance: str
    worker: str
    #: The lease still stands; a result is expected.
    live: bool = True


@dataclass(slots=True)
class Image:
    """One image that was granted at least once; a fresh one is only a number in `waiting`."""

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

    def move(self, state: ImageState) -> None:
        """Go to another state, by the table."""
        check_image_move(self.state, state, self)
        self.state = state


@dataclass(slots=True, eq=False)
class Entry:
    """One petition."""

    id: str
    #: As the client sent it; forwarded to workers as it is.
    body: Buffer
    #: SHA-256 of the body: tells a resend from a conflict.
    digest: str
    petition: Petition
    wanted: tuple[Wanted, ...]
    #: Order of arrival.
    number: int
    accepted_at: float
    #: The connection that gets its pictures; None when nobody listens.
    route: bytes | None
    state: PetitionState = "queued"
    ended_at: float = 0.0
    #: Indices nobody works on, in the order in which they go out.
    waiting: deque[int] = field(default_factory=deque)
    images: dict[int, Image] = field(default_factory=dict)
    #: Images that are neither done nor failed nor cancelled.
    open: int = 0
    #: Images whose pictures are recorded, and those among them that the client has not yet seen.
    done: int = 0
    unseen: int = 0
    #: Sum of the seconds its finished images took to draw.
    draw_s: float = 0.0
    #: Since when no known worker could do it; None while one can.
    orphaned_at: float | None = None
    #: Why nothing of it runs.
    reason: str = ""
    #: Images of others before it.
    ahead: int = 0
    finished_sent: bool = False

    def move(self, state: PetitionState) -> None:
        """Go to another state, by the table."""
        check_petition_move(self.state, state, self.id)
        self.state = state

    @property
    def ended(self) -> bool:
        """Nothing more will be drawn of it."""
        return self.state in PETITION_ENDS

    def image(self, index: int) -> Image:
        """The record of one image, made when first asked for."""
        return self.images.setdefault(index, Image(index))

    def indices(self, state: ImageState) -> list[int]:
        """Indices of images in this state, ascending."""
        return sorted(image.index for image in self.images.values() if image.state == state)


class Queue:
    """All petitions, and those with waiting images in order of arrival for each set of files.

    Petitions that need the same files form one line, so that a free worker looks at the head of
    each line and not at every petition.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._lines: dict[tuple[Wanted, ...], deque[Entry]] = {}
        self._arrivals = 0
        #: Images waiting or leased in all petitions.
        self.open_images = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def next_number(self) -> int:
        """A number for the next arrival."""
        self._arrivals += 1
        return self._arrivals

    def add(self, entry: Entry) -> None:
        """A new petition."""
        self.entries[entry.id] = entry
        entry.waiting.extend(range(entry.petition.images))
        entry.open = entry.petition.images
        self.open_images += entry.petition.images
        self._lines.setdefault(entry.wanted, deque()).append(entry)

    def put_back(self, entry: Entry, index: int) -> None:
        """An image waits again, before the rest of its petition."""
        if not entry.waiting:
            line = self._lines.setdefault(entry.wanted, deque())
            if entry not in line:
                self._insert(line, entry)
        entry.waiting.appendleft(index)

    @staticmethod
    def _insert(line: deque[Entry], entry: Entry) -> None:
        place = next((i for i, other in enumerate(line) if other.number > entry.number), len(line))
        line.insert(place, entry)

    def heads(self) -> list[Entry]:
        """The first petition of each line that has a waiting image, oldest first."""
        found = []
        for wanted, line in list(self._lines.items()):
            while line and not line[0].waiting:
                line.popleft()
            if line:
                found.append(line[0])
            else:
                del self._lines[wanted]
        return sorted(found, key=lambda entry: entry.number)

    def lined_up(self) -> list[Entry]:
        """All petitions with waiting images, in order of arrival."""
        waiting = (entry for line in self._lines.values() for entry in line if entry.waiting)
        return sorted(waiting, key=lambda entry: entry.number)

    def forget(self, entry: Entry) -> None:
        """The petition is purged."""
        self.entries.pop(entry.id, None)
