"""Many seeds, in several processes; what was found, and what was met on the way."""

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.simulation import coverage
from tests.simulation.plants import planted
from tests.simulation.stage import staged
from tests.simulation.story import EVENTS_MIN, Story

#: Seeds that one process takes at a time.
_PORTION = 20


@dataclass
class Outcome:
    """What some seeds came to."""

    seeds: int = 0
    events: int = 0
    #: Fewest events of one seed.
    events_least: int = 1 << 60
    seconds: float = 0.0
    #: What was broken, by seed.
    broken: dict[int, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    met: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, other: "Outcome") -> None:
        """Join two."""
        self.seeds += other.seeds
        self.events += other.events
        self.events_least = min(self.events_least, other.events_least)
        self.broken |= other.broken
        self.faults += other.faults
        self.met += other.met

    def report(self) -> str:
        """A few lines for people."""
        rate = self.seeds / self.seconds if self.seconds else 0.0
        lines = [f"seed {seed}: {what}" for seed, what in sorted(self.broken.items())]
        lines += [
            f"{self.seeds} seeds, {len(self.broken)} broken; {self.events} events,"
            f" {self.events_least} at least; {self.seconds:.1f} s, {rate:.1f} seeds/s"
        ]
        return "\n".join(lines)

    def coverage(self) -> str:
        """How often each fault happened, and each event in each state, rarest first."""
        lines = [f"{count:9}  {kind}" for kind, count in sorted(self.faults.items(), key=_count)]
        lines += [
            f"{count:9}  {coverage.name(pair)}{coverage.remark(pair)}"
            for pair, count in sorted(coverage.states(self.met).items(), key=_count)
        ]
        return "\n".join(lines)

    def seldom(self) -> list[str]:
        """What a whole run should have met often, and did not."""
        return coverage.missing(self.faults, coverage.states(self.met))


def _count(item: tuple[object, int]) -> int:
    return item[1]


def play(seed: int, told: Callable[[str], None] | None = None, plant: str = "") -> Outcome:
    """One seed, with a fault planted in the product if one is named."""
    logging.disable(logging.CRITICAL)  # the programs complain all the time, and rightly
    with planted(plant), staged() as stage:
        story = Story(seed, told)
        stage.world = story.world
        outcome = Outcome(seeds=1)
        try:
            story.play()
        except Exception as error:  # noqa: BLE001 - whatever breaks is what is looked for
            outcome.broken[seed] = f"{type(error).__name__}: {str(error)[:500]}"
        world = story.world
    logging.disable(logging.NOTSET)
    outcome.events = outcome.events_least = world.events
    outcome.faults, outcome.met = world.faults, world.met
    assert outcome.broken or world.events >= EVENTS_MIN
    return outcome


def _portion(seeds: Iterable[int], plant: str, first_only: bool) -> Outcome:
    total = Outcome()
    for seed in seeds:
        total.add(play(seed, plant=plant))
        if first_only and total.broken:
            break
    return total


def run(
    seeds: range, jobs: int, *, plant: str = "", progress: Callable[[Outcome], None] | None = None
) -> Outcome:
    """All seeds; with a plant only until one finds it."""
    began = time.monotonic()
    total = Outcome()
    portions = [seeds[at : at + _PORTION] for at in range(0, len(seeds), _PORTION)]
    work = functools.partial(_portion, plant=plant, first_only=bool(plant))
    if jobs == 1:
        for portion in portions:
            total.add(work(portion))
            if plant and total.broken:
                break
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
            for part in pool.map(work, portions):
                total.add(part)
                total.seconds = time.monotonic() - began
                if progress is not None:
                    progress(total)
    total.seconds = time.monotonic() - began
    return total
