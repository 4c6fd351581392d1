"""What loading and drawing cost on each box, learned from finished work.

Times are kept per box and context as the median of the last few, so that one outlier changes
nothing and a lasting change is believed after the third image. Loading is measured apart and never
counts as drawing. What was never seen is guessed: from other boxes with the same context and how
this box compares to them elsewhere, else from other contexts of this box, else from a constant.
"""

from collections.abc import Hashable, Iterable
from statistics import median
from typing import NamedTuple

from sdistrib_manager.scheduler.work import Job

#: Samples that a median is taken of.
_SAMPLES = 5
#: Before anything was seen: seconds per step at 512 x 512, for the rest, and for a load.
_STEP_S, _REST_S, _LOAD_S = 0.1, 0.5, 10.0
_PIXELS = 512 * 512
#: No image is taken to be quicker.
_LEAST_S = 1e-3
#: Boxes and contexts that are remembered; the one not used for longest goes first.
PAIRS_MAX = 4096


class Sample(NamedTuple):
    """Where the time of one finished image went, in seconds."""

    load_s: float
    #: All sampling steps together.
    sampling_s: float
    #: Encoding the prompt and decoding the picture.
    rest_s: float


class Known(NamedTuple):
    """What is remembered of one box and context: the newest samples, oldest first."""

    box: str
    context: Hashable
    load_s: tuple[float, ...]
    #: Seconds per step, by pixels.
    step_s: tuple[tuple[int, tuple[float, ...]], ...]
    #: Seconds beside the steps, by pixels.
    rest_s: tuple[tuple[int, tuple[float, ...]], ...]


class _Times:
    """The newest samples of one figure, and their median."""

    __slots__ = ("samples", "value")

    def __init__(self, samples: Iterable[float] = ()) -> None:
        self.samples = tuple(samples)
        self.value = median(self.samples) if self.samples else 0.0

    def add(self, sample: float) -> None:
        self.samples = (*self.samples, sample)[-_SAMPLES:]
        self.value = median(self.samples)


class _Pair:
    """One box with one context."""

    __slots__ = ("load", "rest", "step")

    def __init__(self) -> None:
        self.load: _Times | None = None
        self.step: dict[int, _Times] = {}
        self.rest: dict[int, _Times] = {}


class Costs:
    """Seconds that work takes, as far as anybody can know."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, Hashable], _Pair] = {}
        self._by_context: dict[Hashable, dict[str, _Pair]] = {}
        self._by_box: dict[str, dict[Hashable, _Pair]] = {}
        self._image_s: dict[tuple[str, Hashable, int, int], float] = {}
        self._load_s: dict[tuple[str, Hashable], float] = {}

    # --- learning ---------------------------------------------------------------------------

    def learn(self, box: str, job: Job, sample: Sample) -> None:
        """An image was finished."""
        pair = self._pair(box, job.context)
        if sample.load_s > 0:
            pair.load = pair.load or _Times()
            pair.load.add(sample.load_s)
        pair.step.setdefault(job.pixels, _Times()).add(sample.sampling_s / max(1, job.steps))
        pair.rest.setdefault(job.pixels, _Times()).add(sample.rest_s)
        self._forget_guesses()

    def step_seen(self, box: str, job: Job, step_s: float) -> None:
        """A running image says how long its steps take; counts while nothing better is known."""
        pair = self._pairs.get((box, job.context))
        if step_s > 0 and (pair is None or job.pixels not in pair.step):
            self._pair(box, job.context).step[job.pixels] = _Times([step_s])
            self._forget_guesses()

    def _pair(self, box: str, context: Hashable) -> _Pair:
        pair = self._pairs.pop((box, context), None) or _Pair()
        self._pairs[box, context] = pair
        self._by_context.setdefault(context, {})[box] = pair
        self._by_box.setdefault(box, {})[context] = pair
        while len(self._pairs) > PAIRS_MAX:
            old_box, old_context = next(iter(self._pairs))
            del self._pairs[old_box, old_context]
            del self._by_context[old_context][old_box], self._by_box[old_box][old_context]
        return pair

    def _forget_guesses(self) -> None:
        self._image_s.clear()
        self._load_s.clear()

    # --- asking -----------------------------------------------------------------------------

    def knows(self, box: str, job: Job) -> bool:
        """An image of this context was finished there."""
        pair = self._pairs.get((box, job.context))
        return pair is not None and bool(pair.rest)

    def image_s(self, box: str, job: Job) -> float:
        """Expected seconds to draw one image of the job there, its context loaded."""
        key = (box, job.context, job.pixels, job.steps)
        known = self._image_s.get(key)
        if known is None:
            known = self._image_s[key] = max(_LEAST_S, self._guess_image(box, job))
        return known

    def typical_s(self, job: Job) -> float:
        """Expected seconds of one image of the job on a box as any other, its context loaded."""
        pairs = self._by_context.get(job.context, {}).values()
        seen = [_drawn_s(pair, job) for pair in pairs if pair.step]
        return median(seen) if seen else self._guess_image("", job)

    def load_s(self, box: str, job: Job) -> float:
        """Expected seconds to load the job's context there."""
        key = (box, job.context)
        known = self._load_s.get(key)
        if known is None:
            known = self._load_s[key] = self._guess_load(box, job)
        return known

    def _guess_image(self, box: str, job: Job) -> float:
        pair = self._pairs.get((box, job.context))
        if pair is not None and pair.step:
            return _drawn_s(pair, job)
        factor = self._speed(box)
        others = [
            _drawn_s(other, job) * factor / self._speed(name)
            for name, other in self._by_context.get(job.context, {}).items()
            if other.step
        ]
        if others:
            return median(others)
        here = [_drawn_s(p, job) for p in self._by_box.get(box, {}).values() if p.step]
        if here:
            return median(here)
        scale = job.pixels / _PIXELS
        return factor * scale * (job.steps * _STEP_S + _REST_S)

    def _speed(self, box: str) -> float:
        """How slow a box is beside the others that drew the same; 1 when nothing is known."""
        ratios = []
        for context, pair in self._by_box.get(box, {}).items():
            for name, other in self._by_context[context].items():
                shared = pair.step.keys() & other.step.keys() if name != box else ()
                ratios += [
                    pair.step[pixels].value / other.step[pixels].value
                    for pixels in shared
                    if other.step[pixels].value > 0
                ]
        return median(ratios) if ratios else 1.0

    def _guess_load(self, box: str, job: Job) -> float:
        pair = self._pairs.get((box, job.context))
        if pair is not None and pair.load is not None:
            return pair.load.value
        here = [p.load.value for p in self._by_box.get(box, {}).values() if p.load is not None]
        others = [p.load.value for p in self._by_context.get(job.context, {}).values() if p.load]
        both = here + others
        return median(both) if both else _LOAD_S

    # --- keeping ----------------------------------------------------------------------------

    def known(self, box: str, context: Hashable) -> Known | None:
        """What is remembered of one box and context, to be kept."""
        pair = self._pairs.get((box, context))
        if pair is None:
            return None
        return Known(
            box,
            context,
            pair.load.samples if pair.load else (),
            tuple((pixels, times.samples) for pixels, times in pair.step.items()),
            tuple((pixels, times.samples) for pixels, times in pair.rest.items()),
        )

    def remember(self, known: Known) -> None:
        """Take in what was kept."""
        pair = self._pair(known.box, known.context)
        pair.load = _Times(known.load_s) if known.load_s else None
        pair.step = {pixels: _Times(samples) for pixels, samples in known.step_s}
        pair.rest = {pixels: _Times(samples) for pixels, samples in known.rest_s}
        self._forget_guesses()


def _drawn_s(pair: _Pair, job: Job) -> float:
    return job.steps * _at(pair.step, job.pixels) + _at(pair.rest, job.pixels)


def _at(times: dict[int, _Times], pixels: int) -> float:
    """The figure at this size; at an unseen one in proportion to the nearest that was seen."""
    found = times.get(pixels)
    if found is not None:
        return found.value
    if not times:
        return 0.0
    nearest = min(times, key=lambda seen: max(seen, pixels) / min(seen, pixels))
    return times[nearest].value * pixels / nearest
