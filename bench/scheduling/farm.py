"""What is true of a simulated farm: its boxes, the petitions that come, and how long they take."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Priority = Literal["high", "normal", "low"]

#: Pixels that `step_s` and `decode_s` are given for.
SQUARE = 512 * 512
#: The image that "images per minute" counts, as webui-distributed's benchmark does.
STEPS = 20
#: Share of such an image's time that is decoding.
_DECODE = 0.05
#: No image takes less than this part of its nominal time, however lucky.
_LUCK = 0.5


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    """One petition. Two are the same only if they are the same object."""

    #: Counts petitions of one workload in order of arrival.
    id: int
    client: str
    priority: Priority
    context: str
    images: int
    steps: int
    width: int
    height: int
    arrives_at: float

    @property
    def pixels(self) -> int:
        """Of one image."""
        return self.width * self.height

    @property
    def squares(self) -> float:
        """Pixels, in 512 x 512."""
        return self.width * self.height / SQUARE


class Image(NamedTuple):
    """One picture of a petition; a number beyond `job.images - 1` is one that nobody asked for."""

    job: Job
    number: int


@dataclass(frozen=True, eq=False, slots=True)
class Box:
    """One machine with one engine, which holds so many contexts at a time."""

    name: str
    #: Seconds per step at 512 x 512, by context.
    step_s: Mapping[str, float]
    #: Seconds to decode 512 x 512 pixels.
    decode_s: float
    #: Seconds to load each context that the box has files for; no other can be drawn here.
    load_s: Mapping[str, float]
    #: What the engine holds at the start.
    loaded: str | None = None
    #: Images with more pixels are not for this box; None: no limit.
    pixels_max: int | None = None
    #: When the box stops without a word.
    dies_at: float | None = None
    #: Contexts that it holds; that which it used least lately goes for another.
    keep: int = 1

    def can(self, job: Job) -> bool:
        """Whether it has the files and the room."""
        return job.context in self.load_s and (
            self.pixels_max is None or job.pixels <= self.pixels_max
        )

    def draw_s(self, job: Job) -> float:
        """Nominal seconds for one image, without loading; given for contexts it lacks too."""
        return (job.steps * self.step_s[job.context] + self.decode_s) * job.squares


def box(
    name: str, ipm: float, loads: Mapping[str, float], factors: Mapping[str, float] | None = None
) -> Box:
    """A box that draws `ipm` images a minute of `STEPS` steps at 512 x 512.

    Args:
        name: its name.
        ipm: images per minute in a context of factor 1.
        loads: seconds to load each context that it has.
        factors: how many times longer a step takes in a context, also in those it lacks.
    """
    image_s = 60 / ipm
    step_s = image_s * (1 - _DECODE) / STEPS
    known = dict.fromkeys(loads, 1.0) | dict(factors or {})
    steps = {context: step_s * factor for context, factor in known.items()}
    return Box(name, steps, image_s * _DECODE, dict(loads))


@dataclass(frozen=True, eq=False)
class Workload:
    """A farm and everything that will be asked of it."""

    #: Which workload, and which of its instances.
    name: str
    seed: int
    boxes: tuple[Box, ...]
    #: In order of arrival.
    jobs: tuple[Job, ...]
    #: Relative standard deviation of an image's time.
    jitter: float = 0.0
    #: Whose wait for a first picture is of interest; "" for nobody's.
    newcomer: str = ""
    _jitters: dict[tuple[int, int, str], float] = field(default_factory=dict, repr=False)

    def luck(self, image: Image, box: Box, jitter: float) -> float:
        """The factor on this image's time on this box; the same whatever the policy does."""
        if not jitter:
            return 1.0
        key = (image.job.id, image.number, box.name)
        deviation = self._jitters.get(key)
        if deviation is None:
            deviation = random.Random(f"{self.seed}/{key}").gauss(0, 1)
            self._jitters[key] = deviation
        return max(_LUCK, 1 + jitter * deviation)
