"""What the scheduler sees of petitions and workers: jobs, boxes, and what a box holds.

The scheduler knows nothing of messages, sessions or attempts. A petition is a `Job`, a worker is
anything that looks like a `Box`. So the same code runs in the manager and in the simulation of
`bench/scheduling`.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from sdistrib.petitions import Priority

#: What an engine has loaded, the last used first: that is the order in which it stays.
Contexts = tuple[Hashable, ...]

#: Priorities by name; the smaller number goes first.
PRIORITIES: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


@dataclass(slots=True, eq=False)
class Job:
    """A petition as the scheduler sees it: equal images, some of which wait."""

    id: str
    #: Whose it is: shares are counted by this.
    client: str
    #: What an engine must have loaded. Equal contexts need no reload.
    context: Hashable
    #: Pixels of one image.
    pixels: int
    #: Evaluations of the diffusion model for one image.
    steps: int
    #: Order of arrival.
    number: int
    arrived_at: float
    priority: int = PRIORITIES["normal"]
    #: What decides which boxes can do it, beside its size: petitions that differ here never stand
    #: in one line.
    kind: Hashable = None
    #: What it needs stays loaded beside the contexts and takes the place of none: an upscaler.
    beside: bool = False
    #: Its last images may be raced on an idle box.
    hedge: bool = True
    #: Its place among petitions of equal right, see `lines`; set when it first waits.
    due: float = 0.0
    #: Images that nobody works on.
    waiting: int = 0
    #: Its client had nothing waiting, and nothing of it has begun: its first image goes before all
    #: of equal priority.
    new: bool = False
    #: Its client had nothing drawn for a while: that image waits for no loaded context either.
    newcomer: bool = False
    #: Images that waited when it came.
    images: int = 0
    #: What its first image was drawn by: boxes of this pixel class are preferred to others that are
    #: hardly sooner. None before there was one.
    prefers: Hashable = None
    #: When an image of a petition of worse right was first handed out, since one of its own was, to
    #: a box that could draw it; None before that. See `lines`.
    passed_at: float | None = None
    #: The same before the last one of its own was, until that begins: it may come back.
    passed_before: float | None = None


def used(contexts: Contexts, context: Hashable, keep: int) -> Contexts:
    """What an engine that keeps so many has loaded after an image of this context."""
    return (context, *(other for other in contexts if other != context))[:keep]


def left_by(contexts: Contexts, job: Job, keep: int) -> Contexts:
    """The same after an image of this job."""
    return contexts if job.beside else used(contexts, job.context, keep)


class Held(Protocol):
    """One image in the hands of a box, not drawn yet."""

    @property
    def job(self) -> Job:
        """The petition it is of."""

    @property
    def begun_at(self) -> float | None:
        """When the engine began it; None while it can still be taken back."""

    @property
    def expected_s(self) -> float:
        """Seconds it was expected to take when it began, loading included."""

    @property
    def sampling_at(self) -> float | None:
        """When it began to sample, while the first step is not done."""

    @property
    def revoking(self) -> bool:
        """It is being taken back."""

    @property
    def alone(self) -> bool:
        """No second attempt may be made: there is one, or it is not safe."""


class Box(Protocol):
    """A worker that takes work now."""

    @property
    def name(self) -> str:
        """Costs are remembered by it."""

    @property
    def contexts(self) -> Contexts:
        """What its engine has loaded; empty when nothing, or unknown."""

    @property
    def keep(self) -> int:
        """How many contexts its engine keeps loaded; 1 or more."""

    @property
    def pixel_class(self) -> Hashable:
        """Boxes that are equal in this draw the same bits."""

    @property
    def is_down(self) -> bool:
        """Its engine is not there now: it begins nothing before it is."""

    @property
    def holds(self) -> Iterable[Held]:
        """What it was handed and has not drawn, in order; the first may have begun."""

    def most(self, job: Job) -> int:
        """Images like these that its owner lets it have in hand; 0 is no limit of his."""
