"""The work: what petitions come to which farm, and when, from a seed.

Seeds 0 to 9 are for tuning, 1000 to 1009 for figures; nothing is tuned on the latter.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from bench.scheduling.farm import Box, Job, Priority, Workload, box
from bench.scheduling.traces import CLIENTS, Mix, trace

TUNING = tuple(range(10))
HELD_OUT = tuple(range(1000, 1010))

#: Images per minute of the fleets that batches are drawn on.
FLEETS = ((5, 15, 20), (10, 10, 60), (2, 20, 20, 40), (4, 8, 12, 16, 30, 60))
_LOAD_S = (10.0, 30.0)

Family = Callable[[int], Iterable[Workload]]


def fleet(
    rng: random.Random, ipms: Sequence[float], contexts: Sequence[str], *, loaded: bool = False
) -> tuple[Box, ...]:
    """Boxes with all these contexts; a context's load time is 10 to 30 s, by box ± 20 %."""
    base = {context: rng.uniform(*_LOAD_S) for context in contexts}
    factors = {context: rng.choice((0.7, 1.0, 1.0, 1.5)) for context in contexts}
    if len(contexts) == 1:
        factors = dict.fromkeys(contexts, 1.0)
    boxes = []
    for number, ipm in enumerate(ipms):
        loads = {c: s * rng.uniform(0.8, 1.2) for c, s in base.items()}
        made = box(f"box{number}-{ipm:g}ipm", ipm, loads, factors)
        boxes.append(replace(made, loaded=contexts[0] if loaded else None))
    return tuple(boxes)


def plain(
    id_: int, images: int, arrives_at: float, client: str = "client0", context: str = "m0"
) -> Job:
    """A petition for images of 512 x 512 in 20 steps."""
    priority: Priority = "normal"
    return Job(id_, client, priority, context, images, 20, 512, 512, arrives_at)


def _batches(
    seed: int, name: str, sizes: Callable[[random.Random], list[int]], *, loaded: bool
) -> Iterable[Workload]:
    rng = random.Random(f"{name}/{seed}")
    for ipms in FLEETS:
        for images in sizes(rng):
            boxes = fleet(rng, ipms, ("m0",), loaded=loaded)
            yield Workload(name, rng.randrange(1 << 30), boxes, (plain(0, images, 0.0),))


def _small(rng: random.Random) -> list[int]:
    return [rng.randint(4, 12), rng.randint(13, 22), rng.randint(23, 32)]


def batch(seed: int) -> Iterable[Workload]:
    """One petition of 4 to 32 images, its model loaded everywhere."""
    return _batches(seed, "batch", _small, loaded=True)


def batch_unloaded(seed: int) -> Iterable[Workload]:
    """The same with nothing loaded."""
    return _batches(seed, "batch-unloaded", _small, loaded=False)


def batch_300(seed: int) -> Iterable[Workload]:
    """One petition of 300 images with nothing loaded."""
    return _batches(seed, "batch-300", lambda _: [300], loaded=False)


def slow_box(seed: int) -> Iterable[Workload]:
    """One petition of 3 to 24 images where one box is ten times slower than the others."""
    rng = random.Random(f"slow-box/{seed}")
    for ipms in ((20, 20, 2), (30, 3)):
        for low, high in ((3, 8), (9, 24)):
            boxes = fleet(rng, ipms, ("m0",), loaded=True)
            jobs = (plain(0, rng.randint(low, high), 0.0),)
            yield Workload("slow-box", rng.randrange(1 << 30), boxes, jobs)


def death(seed: int) -> Iterable[Workload]:
    """One petition of 24 to 60 images; one of the boxes dies midway."""
    rng = random.Random(f"death/{seed}")
    for ipms in ((5, 15, 20), (10, 10, 20, 30), (4, 8, 12, 16, 30, 60)):
        images = rng.randint(24, 60)
        about_s = images / sum(ipms) * 60
        boxes = list(fleet(rng, ipms, ("m0",), loaded=True))
        victim = rng.randrange(len(boxes))
        boxes[victim] = replace(boxes[victim], dies_at=rng.uniform(0.2, 0.8) * about_s)
        jobs = (plain(0, images, 0.0),)
        yield Workload("death", rng.randrange(1 << 30), tuple(boxes), jobs)


def mixed(seed: int) -> Iterable[Workload]:
    """A dozen petitions of all sizes and steps at once, of one model that is loaded."""
    rng = random.Random(f"mixed/{seed}")
    for ipms in FLEETS[:3]:
        boxes = fleet(rng, ipms, ("m0",), loaded=True)
        mix = Mix(petitions=12, load=0.0, contexts=("m0",))
        yield Workload("mixed", rng.randrange(1 << 30), boxes, trace(rng, boxes, mix), 0.1)


def alternating(seed: int) -> Iterable[Workload]:
    """Thirty petitions for two models in turn, on two boxes."""
    rng = random.Random(f"alternating/{seed}")
    boxes = fleet(rng, (15, 20), ("m0", "m1"))
    times = itertools.accumulate(rng.expovariate(1 / 8) for _ in range(30))
    jobs = tuple(
        plain(id_, rng.randint(1, 4), at, rng.choice(CLIENTS), f"m{id_ % 2}")
        for id_, at in enumerate(times)
    )
    yield Workload("alternating", rng.randrange(1 << 30), boxes, jobs, 0.1)


def newcomer(seed: int) -> Iterable[Workload]:
    """Three clients with a hundred images each; another now and then wants one."""
    rng = random.Random(f"newcomer/{seed}")
    for ipms in ((5, 15, 20), (10, 10, 20, 30)):
        boxes = fleet(rng, ipms, ("m0",), loaded=True)
        at = [(rng.uniform(0, 5), "heavy", 100) for _ in range(3)]
        at += [(rng.uniform(20, 250), "newcomer", 1) for _ in range(4)]
        jobs = tuple(
            plain(id_, images, arrives_at, f"{kind}{id_}" if kind == "heavy" else kind)
            for id_, (arrives_at, kind, images) in enumerate(sorted(at))
        )
        yield Workload("newcomer", rng.randrange(1 << 30), boxes, jobs, 0.1, newcomer="newcomer")


def _mix(name: str, ipms: Sequence[float], models: int, mix: Mix) -> Family:
    def family(seed: int) -> Iterable[Workload]:
        rng = random.Random(f"{name}/{seed}")
        contexts = tuple(f"m{number}" for number in range(models))
        boxes = fleet(rng, ipms, contexts)
        jobs = trace(rng, boxes, mix.of(contexts))
        yield Workload(name, rng.randrange(1 << 30), boxes, jobs, 0.1)

    family.__doc__ = f"{mix.petitions} petitions, {models} models, load {mix.load}"
    return family


_THREE = (5, 15, 20)
_EIGHT = (4, 6, 8, 10, 12, 15, 20, 30)

#: Workloads with more than one model, which targets on waiting are about.
MIXES: dict[str, Family] = {
    "mix-3x3-.4": _mix("mix-3x3-.4", _THREE, 3, Mix(300, 0.4)),
    "mix-8x6-.5": _mix("mix-8x6-.5", _EIGHT, 6, Mix(400, 0.5)),
    "mix-8x6-.8": _mix("mix-8x6-.8", _EIGHT, 6, Mix(400, 0.8)),
    "sessions-8x12-.6": _mix("sessions-8x12-.6", _EIGHT, 12, Mix(400, 0.6, session=8)),
    "sessions-3x6-.6": _mix("sessions-3x6-.6", _THREE, 6, Mix(300, 0.6, session=8)),
    "bursts-8x3-.5": _mix("bursts-8x3-.5", _EIGHT, 3, Mix(300, 0.5, burst=12)),
}
SINGLES: dict[str, Family] = {
    "single-3-.5": _mix("single-3-.5", _THREE, 1, Mix(300, 0.5)),
    "single-3-.8": _mix("single-3-.8", _THREE, 1, Mix(300, 0.8)),
    "single-8-.8": _mix("single-8-.8", _EIGHT, 1, Mix(400, 0.8)),
}
BATCHES: dict[str, Family] = {
    "batch": batch,
    "batch-unloaded": batch_unloaded,
    "batch-300": batch_300,
    "slow-box": slow_box,
    "death": death,
}
OTHERS: dict[str, Family] = {"mixed": mixed, "alternating": alternating, "newcomer": newcomer}


def _keeping(keep: int) -> Family:
    def family(seed: int) -> Iterable[Workload]:
        rng = random.Random(f"keep-3x4-.6/{seed}")
        contexts = tuple(f"m{number}" for number in range(4))
        boxes = tuple(replace(one, keep=keep) for one in fleet(rng, _THREE, contexts))
        jobs = trace(rng, boxes, Mix(300, 0.6).of(contexts))
        yield Workload(f"keep{keep}-3x4-.6", rng.randrange(1 << 30), boxes, jobs, 0.1)

    family.__doc__ = f"300 petitions, 4 models, load 0.6, {keep} loaded on each of 3 boxes"
    return family


#: The same petitions on boxes that keep one context, and two.
KEEPING: dict[str, Family] = {f"keep{keep}-3x4-.6": _keeping(keep) for keep in (1, 2)}
WORKLOADS: dict[str, Family] = BATCHES | OTHERS | SINGLES | MIXES | KEEPING
