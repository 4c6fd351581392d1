"""Petitions as people send them: few images mostly, in a handful of sizes, to popular models."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from bench.scheduling.farm import Box, Job

CLIENTS = tuple(f"client{number}" for number in range(8))

#: Images per petition, each drawn uniformly from a range, with its weight.
_IMAGES = (((1, 1), 40), ((2, 2), 15), ((4, 4), 30), ((5, 8), 12), ((30, 40), 3))
_STEPS = ((15, 2), (20, 4), (25, 2), (30, 3), (50, 1))
_SIZES = (((512, 512), 5), ((512, 768), 3), ((768, 768), 2), ((1024, 1024), 1))


class Mix(NamedTuple):
    """What a trace is made of."""

    petitions: int
    #: Drawing time asked for by drawing time there is, without loads; 0: all come at once.
    load: float
    #: The most popular first; the n-th is wanted 1/n times as often.
    contexts: tuple[str, ...] = ()
    #: Mean number of petitions that a client sends for one model before choosing anew.
    session: float = 1.0
    #: Petitions that come within seconds of each other.
    burst: int = 1

    def of(self, contexts: tuple[str, ...]) -> "Mix":
        """The same with these models."""
        return self._replace(contexts=contexts)


def trace(rng: random.Random, boxes: Sequence[Box], mix: Mix) -> tuple[Job, ...]:
    """Petitions whose drawing takes the given part of the farm's time, on average."""
    wanted = list(_wanted(rng, mix))
    if mix.load:
        farm_s = sum(job.images / sum(1 / box.draw_s(job) for box in boxes) for job in wanted)
        between_s = farm_s / len(wanted) / mix.load
    else:
        between_s = 0.0
    times = _times(rng, len(wanted), between_s, mix.burst)
    return tuple(replace(job, arrives_at=at) for job, at in zip(wanted, times, strict=True))


def _times(rng: random.Random, count: int, between_s: float, burst: int) -> list[float]:
    """Arrivals in order; those of a burst are half a second apart."""
    times: list[float] = []
    start = 0.0
    for number in range(count):
        if number % burst == 0 and between_s:
            start += rng.expovariate(1 / (between_s * burst))
        times.append(start + number % burst * 0.5)
    return sorted(times)


def _wanted(rng: random.Random, mix: Mix) -> Iterator[Job]:
    weights = [1 / rank for rank in range(1, len(mix.contexts) + 1)]
    favourites: dict[str, str] = {}
    for number in range(mix.petitions):
        client = rng.choice(CLIENTS)
        if client not in favourites or rng.random() < 1 / mix.session:
            favourites[client] = rng.choices(mix.contexts, weights)[0]
        images = rng.randint(*_one_of(rng, _IMAGES))
        width, height = _one_of(rng, _SIZES)
        steps = rng.choices([s for s, _ in _STEPS], [w for _, w in _STEPS])[0]
        yield Job(number, client, "normal", favourites[client], images, steps, width, height, 0.0)


def _one_of(rng: random.Random, weighted: Sequence[tuple[tuple[int, int], int]]) -> tuple[int, int]:
    return rng.choices([pair for pair, _ in weighted], [weight for _, weight in weighted])[0]
