"""Calls of the engine: one image, or several quick ones of a petition. Pure.

The engine reads the prompt once for a call, samples all its images, then decodes them all, and only
then hands them out. Each is the picture of a single run with its own seed, so that nobody sees in a
picture what it was drawn with (decision 0015). But a call cannot be left, and with its engine all
of it is lost: so only quick images are drawn together.

When a call ends early, it is the image that the engine was at that has failed. The others have had
no part in it: they wait again, and are drawn singly, so that an image can cost others their call
only once.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

import msgspec

from sdistrib import limits
from sdistrib.params import INPUT_FIELDS, Params, drawn_size
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol.engine import PreviewWish
from sdistrib.protocol.messages import Attempt, Phase, Step
from sdistrib_worker.pace import SizeKey
from sdistrib_worker.shelf import Plan


@dataclass(frozen=True, slots=True)
class Job:
    """One granted attempt."""

    attempt: Attempt
    params: Params
    #: The image's own seed.
    seed: int
    #: As the petition has them, where the owner of this worker overrules some.
    asked: Params | None = None
    #: What the user is to be told beside what the engine says.
    notes: tuple[str, ...] = ()
    #: None wants no previews.
    preview: PreviewWish | None = None
    #: Input files that must be here before it can be drawn.
    inputs: tuple[InputFile, ...] = ()
    #: It was in a call of several that ended early: it is drawn singly.
    single: bool = False


def preview_wish(petition: Petition) -> PreviewWish | None:
    """What a petition wants shown of its images while they are drawn."""
    if petition.preview == "none":
        return None
    return PreviewWish(petition.preview, petition.preview_interval, petition.preview_noisy)


def likeness(plan: Plan, params: Params) -> Hashable:
    """Equal for images that take about the same time: the words of the prompts apart, all is."""
    return plan.key, plan.loras, msgspec.structs.replace(params, prompt="", negative_prompt="")


def together(first: Job, behind: Iterable[Job], image_s: float, most: int) -> list[Job]:
    """What one call of the engine draws: the first image, and what may go with it.

    Args:
        first: whose turn it is.
        behind: what waits behind it, in order.
        image_s: expected seconds of one such image; 0 when not known, as of the first of its kind.
        most: images that there is room for.
    """
    found = [first]
    if image_s <= 0.0 or not _goes_with_others(first):
        return found
    most = min(most, limits.CALL_IMAGES_MAX, math.floor(limits.CALL_S_MAX / image_s))
    for job in behind:
        if len(found) >= most or not _follows(job, found[-1]):
            break
        found.append(job)
    return found


def _goes_with_others(job: Job) -> bool:
    """In a call with others it is bit for bit what it is alone, and nobody sees it being drawn.

    The engine encodes pictures by chance, with the seed of a call's first image; so an image that
    starts from one is another picture in a call that begins before it.
    """
    params = job.params
    return (
        params.mode == "img_gen"
        and not (params.hires or params.upscale_model or params.photo_maker)
        and not (job.inputs or any(getattr(params, name) for name in INPUT_FIELDS))
        and job.preview is None
        and not job.single
    )


def _follows(job: Job, last: Job) -> bool:
    """The engine makes its seed from that of the last one, and all else is the same."""
    return (
        job.attempt.id == last.attempt.id
        and job.seed == last.seed + 1
        and job.params == last.params
        and _goes_with_others(job)
    )


@dataclass(slots=True)
class Part:
    """One image of a call."""

    job: Job
    began: bool = False
    #: Nobody wants it any more; its picture is dropped.
    abandoned: bool = False


@dataclass(slots=True)
class Call:
    """The request that the engine has."""

    #: Images whose pictures have not come, by ticket and in order; at least one.
    parts: dict[int, Part]
    plan: Plan
    #: Number of the request; that of its first image.
    number: int
    #: Ticket of the image that the engine is at.
    ticket: int
    #: When the child last said something about it; at first, when it was asked.
    heard_at: float
    began: bool = False
    phase: Phase | None = None
    #: When it came to this phase.
    phase_at: float = 0.0
    #: How often it came to sampling.
    passes: int = 0
    step: int = 0
    steps: int = 0
    step_s: float = 0.0
    #: Its end was asked for.
    cancelled: bool = False
    #: Progress that waits for its turn.
    pending: Step | None = None
    step_sent_at: float = -math.inf

    @property
    def at(self) -> Part:
        """The image that the engine is at: it answers for an end of the call."""
        return self.parts[self.ticket]

    @property
    def params(self) -> Params:
        """Those of all its images."""
        return self.at.job.params

    @property
    def wanted(self) -> tuple[Attempt, ...]:
        """The attempts that somebody wants."""
        return tuple(part.job.attempt for part in self.parts.values() if not part.abandoned)

    def part(self, attempt: Attempt) -> Part | None:
        """The image of this attempt."""
        return next((part for part in self.parts.values() if part.job.attempt == attempt), None)

    def again(self, at: Job | None = None) -> list[Job]:
        """What waits again when the call ends early, in order.

        That is what is wanted of it but for the image that it was at, in the place of which stands
        `at` if that is tried again.
        """
        lost, jobs = self.at, []
        for part in self.parts.values():
            job = at if part is lost else replace(part.job, single=True)
            if job is not None and not part.abandoned:
                jobs.append(job)
        return jobs

    @property
    def size_key(self) -> SizeKey:
        """What its speed depends on: the second pass of highres fix has more pixels."""
        params = self.params
        width, height = (params.width, params.height) if self.passes < 2 else drawn_size(params)
        return (self.plan.key, width, height)

    @property
    def pixels(self) -> int:
        """Of the picture that is decoded in the end."""
        width, height = drawn_size(self.params)
        return width * height

    @property
    def steps_left(self) -> int:
        """Steps of all its images that are not sampled yet."""
        if self.phase in ("decoding", "upscaling", "finishing"):
            return 0
        steps = self.steps or self.params.steps
        untouched = sum(ticket > self.ticket for ticket in self.parts)
        return max(0, steps - self.step) + untouched * steps
