"""What a policy is told, what it may know of speeds, and what it may order."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from bench.scheduling.farm import Box, Image, Job, Workload

Knowledge = Literal["exact", "noisy", "vague", "cold"]
KNOWLEDGE: tuple[Knowledge, ...] = ("exact", "noisy", "vague", "cold")

#: A noisy speed is wrong by up to this part; what is vague is, and a load time by up to the other.
_SPEED_ERROR = 0.3
_LOAD_ERROR = 0.5
#: Relative deviation of image times that comes with anything but exact knowledge.
_JITTER = 0.1


class Grant(NamedTuple):
    """Draw this image on this box, after what it was granted before."""

    box: str
    image: Image


class Revoke(NamedTuple):
    """Take the image back, unless it has begun; `revoked` tells when it worked."""

    box: str
    image: Image


class Abandon(NamedTuple):
    """Take the image back, begun or not; a load under way is finished first."""

    box: str
    image: Image


Order = Grant | Revoke | Abandon


@dataclass(frozen=True, slots=True)
class SeenBox:
    """What a box says of itself when it joins."""

    name: str
    contexts: frozenset[str]
    pixels_max: int | None
    #: The context it holds.
    loaded: str | None
    #: How many it can hold.
    keep: int = 1

    def can(self, job: Job) -> bool:
        """Whether it has the files and the room."""
        return job.context in self.contexts and (
            self.pixels_max is None or job.pixels <= self.pixels_max
        )


@dataclass(frozen=True)
class Guesses:
    """Speeds that a policy may know beforehand; empty tables: it knows nothing."""

    #: Seconds per step at 512 x 512, by box and context.
    step_s: Mapping[tuple[str, str], float]
    #: Seconds to decode 512 x 512 pixels, by box.
    decode_s: Mapping[str, float]
    #: Seconds to load, by box and context.
    load_s: Mapping[tuple[str, str], float]

    def draw_s(self, box: str, job: Job) -> float:
        """Seconds for one image without loading. KeyError if nothing is known."""
        step_s = self.step_s[box, job.context]
        return (job.steps * step_s + self.decode_s[box]) * job.squares


def guesses(boxes: Iterable[Box], knowledge: Knowledge, seed: int) -> Guesses:
    """What is known of these boxes; an error of a box's speed is one for all its contexts."""
    if knowledge == "cold":
        return Guesses({}, {}, {})
    rng = random.Random(f"guesses/{seed}")
    speed = 0.0 if knowledge == "exact" else _SPEED_ERROR
    load = _LOAD_ERROR if knowledge == "vague" else 0.0
    step_s: dict[tuple[str, str], float] = {}
    decode_s: dict[str, float] = {}
    load_s: dict[tuple[str, str], float] = {}
    for box in boxes:
        error = rng.uniform(1 - speed, 1 + speed)
        decode_s[box.name] = box.decode_s * error
        for context, seconds in box.step_s.items():
            step_s[box.name, context] = seconds * error
        for context, seconds in box.load_s.items():
            load_s[box.name, context] = seconds * rng.uniform(1 - load, 1 + load)
    return Guesses(step_s, decode_s, load_s)


def jitter(workload: Workload, knowledge: Knowledge) -> float:
    """How unsteady image times are in a run with this knowledge."""
    return workload.jitter if knowledge == "exact" else max(workload.jitter, _JITTER)


class Policy(Protocol):
    """Decides which box draws what. All times are seconds since the start of the run."""

    #: The engine is freed after each image, so that each one costs a load.
    always_reloads: bool
    #: A petition's pictures reach the client together, when the last of it has ended, pictures
    #: that nobody asked for included. Only such a policy may grant those.
    delivers_together: bool

    def start(self, now: float, boxes: Sequence[SeenBox], known: Guesses) -> None:
        """The farm, before any petition."""

    def arrived(self, now: float, job: Job) -> None:
        """A petition came; its images are `Image(job, 0)` to `Image(job, job.images - 1)`."""

    def began(self, now: float, box: str, image: Image) -> None:
        """A box turned to an image, loading first if it holds another context."""

    def stepped(self, now: float, box: str, image: Image, step_s: float) -> None:
        """An image begins to sample (0 s), or its first step is done, and took so long."""

    def finished(self, now: float, box: str, image: Image, load_s: float, draw_s: float) -> None:
        """A picture came; the box goes on with what it was granted. Second copies come too."""

    def gone(self, now: float, box: str, lost: Sequence[Image]) -> None:
        """A box is known to be dead, and what it had been granted needs another."""

    def revoked(self, now: float, box: str, image: Image) -> None:
        """A revoke or an abandon took effect."""

    def decide(self, now: float) -> Iterable[Order]:
        """Asked after all events of an instant, and at `wake_at`."""

    def wake_at(self) -> float | None:
        """When to ask again though nothing happens; a time that is not later than now is void."""


#: Makes a policy for one run; the workload is for what an operator sets up beforehand, such as
#: which box serves which model.
Make = Callable[[Workload], Policy]
