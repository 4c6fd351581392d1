"""What loading and drawing cost on each box, learned from finished work.

Times are kept per box and context as the median of the last few, so that one outlier changes
nothing and a lasting change is believed after the third image. Loading is measured apart and never
counts as drawing. What was never seen is guessed: from other boxes with the same context and how
this box compares to them elsewhere, else from other contexts of this box, else from a constant.
"""

from collections.abc import Hashable, Iterable
from itertools import islice
from statistics import median
from typing import NamedTuple

from sdistrib_manager.scheduler.work import Job

#: Samples that a median is taken of.
_SAMPLES = 5
#: Steps of one image that differ by less than this part are equally long.
_SAME = 0.1
#: Before anything was seen: seconds per step at 512 x 512, for the rest, and for a load.
_STEP_S, _REST_S, _LOAD_S = 0.1, 0.5, 10.0
_PIXELS = 512 * 512
#: No image is taken to be quicker.
_LEAST_S = 1e-3
#: Boxes and contexts that are remembered; the one not used for longest goes first.
PAIRS_MAX = 4096
#: Guesses about boxes and about contexts that each sample renews beside its own.
_RENEWED = 8

#: Seconds by pixels and steps.
_Table = dict[tuple[int, int], float]


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


class Speed(NamedTuple):
    """How fast a box is with one context, as last asked."""

    context: Hashable
    pixels: int
    step_s: float
    #: 0 when it is not known with how many steps.
    image_s: float
    #: 0 when it was never seen to load it.
    load_s: float


class _Times:
    """The newest samples of one figure, and their median."""

    __slots__ = ("running", "samples", "value")

    def __init__(self, samples: Iterable[float] = ()) -> None:
        self.samples = tuple(samples)
        #: What an image says that is not finished: one sample more until it is; 0 without.
        self.running = 0.0
        self.value = _median(self.samples)

    def add(self, sample: float) -> None:
        self.samples = (*self.samples, sample)[-_SAMPLES:]
        self.running, self.value = 0.0, median(self.samples)

    def run(self, sample: float) -> bool:
        """The running image says this; False when that is nothing new."""
        if abs(sample - self.running) <= _SAME * self.running:
            return False
        self.running = sample
        self.value = median((*self.samples, sample)[-_SAMPLES:])
        return True


class _Pair:
    """One box with one context."""

    __slots__ = ("load", "newest", "rest", "step")

    def __init__(self) -> None:
        #: Pixels and steps of the last image, 0 where these were not kept; None before one was
        #: finished here.
        self.newest: tuple[int, int] | None = None
        self.load: _Times | None = None
        self.step: dict[int, _Times] = {}
        self.rest: dict[int, _Times] = {}


class Costs:
    """Seconds that work takes, as far as anybody can know.

    Asked thousands of times for one choice, so all answers are kept until something they rest on
    changes. A guess rests on nearly everything: each sample renews the guesses about its own box
    and context, and the few oldest others.
    """

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, Hashable], _Pair] = {}
        self._by_context: dict[Hashable, dict[str, _Pair]] = {}
        self._by_box: dict[str, dict[Hashable, _Pair]] = {}
        #: Of pairs that were seen, by (pixels, steps).
        self._seen_s: dict[tuple[str, Hashable], _Table] = {}
        #: By box: how slow it is; and what a context takes there that nobody ever drew.
        self._speeds: dict[str, float] = {}
        self._elsewhere_s: dict[str, _Table] = {}
        #: By context: on a box of speed 1, and on any; 0 where nobody drew it.
        self._even_s: dict[Hashable, _Table] = {}
        self._typical_s: dict[Hashable, _Table] = {}
        self._load_s: dict[str, dict[Hashable, float]] = {}
        self._least_load_s: float | None = None

    # --- learning ---------------------------------------------------------------------------

    def learn(self, box: str, job: Job, sample: Sample) -> list[tuple[str, Hashable]]:
        """An image was finished. Boxes and contexts that are forgotten for it."""
        pair = self._pair(box, job.context)
        if sample.load_s > 0:
            pair.load = pair.load or _Times()
            pair.load.add(sample.load_s)
            self._load_changed(box, job.context)
        pair.newest = job.pixels, job.steps
        pair.step.setdefault(job.pixels, _Times()).add(sample.sampling_s / max(1, job.steps))
        pair.rest.setdefault(job.pixels, _Times()).add(sample.rest_s)
        self._speed_changed(box, job.context)
        return self._tidy()

    def step_seen(self, box: str, job: Job, step_s: float) -> list[tuple[str, Hashable]]:
        """A running image says how long its steps take: one sample more until it is finished.

        Boxes and contexts that are forgotten for it.
        """
        pair = self._pairs.get((box, job.context))
        known = pair.step.get(job.pixels) if pair is not None else None
        if step_s <= 0 or (known is not None and not known.run(step_s)):
            return []
        if known is None:
            self._pair(box, job.context).step[job.pixels] = times = _Times()
            times.run(step_s)
        self._speed_changed(box, job.context)
        return self._tidy()

    def _pair(self, box: str, context: Hashable) -> _Pair:
        pair = self._pairs.pop((box, context), None) or _Pair()
        self._pairs[box, context] = pair
        self._by_context.setdefault(context, {})[box] = pair
        here = self._by_box.setdefault(box, {})
        here.pop(context, None)
        here[context] = pair
        return pair

    def _tidy(self) -> list[tuple[str, Hashable]]:
        """Pairs beyond the limit go, those not used for longest first."""
        forgotten = list(islice(self._pairs, max(0, len(self._pairs) - PAIRS_MAX)))
        for box, context in forgotten:
            del self._pairs[box, context]
            del self._by_context[context][box], self._by_box[box][context]
            if not self._by_context[context]:
                del self._by_context[context]
            if not self._by_box[box]:
                del self._by_box[box]
        if forgotten:
            self._all_changed()
        return forgotten

    def _speed_changed(self, box: str, context: Hashable) -> None:
        self._speeds.pop(box, None)
        self._elsewhere_s.pop(box, None)
        self._seen_s.pop((box, context), None)
        self._even_s.pop(context, None)
        self._typical_s.pop(context, None)
        for name in list(islice(self._speeds, _RENEWED)):
            del self._speeds[name]
        for other in list(islice(self._even_s, _RENEWED)):
            del self._even_s[other]

    def _load_changed(self, box: str, context: Hashable) -> None:
        self._load_s.pop(box, None)
        for loads in self._load_s.values():
            loads.pop(context, None)
        self._least_load_s = None

    def _all_changed(self) -> None:
        self._elsewhere_s.clear()
        self._even_s.clear()
        self._typical_s.clear()
        self._load_s.clear()
        self._seen_s.clear()
        self._speeds.clear()
        self._least_load_s = None

    # --- asking -----------------------------------------------------------------------------

    def knows(self, box: str, job: Job) -> bool:
        """An image of this context was finished there."""
        pair = self._pairs.get((box, job.context))
        return pair is not None and bool(pair.rest)

    def seen(self, job: Job) -> bool:
        """Some box has drawn, or is drawing, with this context: times are no mere guess."""
        return any(pair.step for pair in self._by_context.get(job.context, {}).values())

    def drawn(self, job: Job) -> bool:
        """Some box has finished an image with this context: times are learned, and no estimate."""
        return any(pair.rest for pair in self._by_context.get(job.context, {}).values())

    def speeds(self, box: str, most: int) -> list[Speed]:
        """Of the contexts that the box drew last, the newest first."""
        drawn = ((c, p) for c, p in reversed(self._by_box.get(box, {}).items()) if p.newest)
        return [_speed(context, pair) for context, pair in islice(drawn, most)]

    def image_s(self, box: str, job: Job) -> float:
        """Expected seconds to draw one image of the job there, its context loaded."""
        place, size = (box, job.context), (job.pixels, job.steps)
        table = self._seen_s.get(place)
        if table is not None and size in table:
            return table[size]
        pair = self._pairs.get(place)
        if pair is None or not pair.step:
            return max(_LEAST_S, self._guess_image(box, job))
        seconds = max(_LEAST_S, _drawn_s(pair, job))
        self._seen_s.setdefault(place, {})[size] = seconds
        return seconds

    def rest_s(self, box: str, job: Job) -> float:
        """Expected seconds of one image there beside its steps; 0 when it was never seen."""
        pair = self._pairs.get((box, job.context))
        return _at(pair.rest, job.pixels) if pair is not None else 0.0

    def typical_s(self, job: Job) -> float:
        """Expected seconds of one image of the job on a box as any other, its context loaded."""
        table, size = self._typical_s.setdefault(job.context, {}), (job.pixels, job.steps)
        if size not in table:
            pairs = self._by_context.get(job.context, {}).values()
            table[size] = _median(_drawn_s(pair, job) for pair in pairs if pair.step)
        return table[size] or self._guess_image("", job)

    def load_s(self, box: str, job: Job) -> float:
        """Expected seconds to load the job's context there."""
        loads = self._load_s.get(box)
        if loads is None:
            loads = self._load_s[box] = {}
        known = loads.get(job.context)
        if known is None:
            known = loads[job.context] = self._guess_load(box, job)
        return known

    def typical_load_s(self, job: Job) -> float:
        """Expected seconds to load the job's context on a box as any other."""
        return self.load_s("", job)

    @property
    def least_load_s(self) -> float:
        """No load is expected to take less."""
        if self._least_load_s is None:
            seen = (pair.load.value for pair in self._pairs.values() if pair.load is not None)
            self._least_load_s = min(_LOAD_S, *seen, _LOAD_S)
        return self._least_load_s

    def slowness(self, box: str) -> float:
        """How slow a box is beside the others that drew the same; 1 when nothing is known."""
        speed = self._speeds.get(box)
        if speed is None:
            speed = self._speeds[box] = self._reckon_speed(box)
        return speed

    def _guess_image(self, box: str, job: Job) -> float:
        """For a pair that was not seen."""
        size = job.pixels, job.steps
        table = self._even_s.get(job.context)
        if table is None:
            table = self._even_s[job.context] = {}
        even_s = table.get(size)
        if even_s is None:
            pairs = self._by_context.get(job.context, {}).items()
            even_s = table[size] = _median(
                _drawn_s(pair, job) / self.slowness(name) for name, pair in pairs if pair.step
            )
        return even_s * self.slowness(box) or self._guess_here(box, job)

    def _guess_here(self, box: str, job: Job) -> float:
        """For a context that nobody ever drew."""
        table, size = self._elsewhere_s.setdefault(box, {}), (job.pixels, job.steps)
        if size not in table:
            pairs = self._by_box.get(box, {}).values()
            here_s = _median(_drawn_s(pair, job) for pair in pairs if pair.step)
            scale = job.pixels / _PIXELS
            table[size] = here_s or scale * (job.steps * _STEP_S + _REST_S)
        return table[size]

    def _reckon_speed(self, box: str) -> float:
        # It is one of them itself, so that two boxes are as far apart as their figures.
        ratios: list[float] = []
        for context, pair in self._by_box.get(box, {}).items():
            everybody = self._by_context[context].values()
            for pixels, times in pair.step.items():
                seen = [other.step[pixels].value for other in everybody if pixels in other.step]
                if len(seen) > 1 and min(seen) > 0:
                    ratios += [times.value / value for value in seen]
        return _median(ratios) or 1.0

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
            tuple((pixels, times.samples) for pixels, times in pair.step.items() if times.samples),
            tuple((pixels, times.samples) for pixels, times in pair.rest.items()),
        )

    def remember(self, known: Known) -> list[tuple[str, Hashable]]:
        """Take in what was kept. Boxes and contexts that are forgotten for it."""
        pair = self._pair(known.box, known.context)
        pair.load = _Times(known.load_s) if known.load_s else None
        pair.step = {pixels: _Times(samples) for pixels, samples in known.step_s}
        pair.rest = {pixels: _Times(samples) for pixels, samples in known.rest_s}
        pair.newest = (known.rest_s[-1][0], 0) if known.rest_s else None
        self._all_changed()
        return self._tidy()


def _median(figures: Iterable[float]) -> float:
    """0 of none."""
    found = list(figures)
    return median(found) if found else 0.0


def _speed(context: Hashable, pair: _Pair) -> Speed:
    assert pair.newest is not None  # noqa: S101 - asked only of what was drawn
    pixels, steps = pair.newest
    step_s = _at(pair.step, pixels)
    load_s = pair.load.value if pair.load else 0.0
    image_s = steps * step_s + _at(pair.rest, pixels) if steps else 0.0
    return Speed(context, pixels, step_s, image_s, load_s)


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
