"""What a soak does, drawn from its seed: petitions, and which fault comes after how many images."""

import random
from dataclasses import dataclass
from typing import Any, Literal

Fault = Literal["worker", "engine", "manager", "client"]

#: Petitions are of 1 to so many images.
_IMAGES_MAX = 20
#: One petition in so many is cancelled on its way.
_CANCEL_ONE_IN = 20
#: Room between the seeds of two petitions, so that each image's seed is its own.
_SEEDS_APART = 100


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    images: int
    workers: int
    clients: int
    worker_kills: int
    engine_deaths: int
    manager_kills: int
    client_kills: int

    def part(self, divisor: int) -> "Scale":
        """The same with fewer images and faults."""
        return Scale(
            images=self.images // divisor,
            workers=self.workers,
            clients=self.clients,
            worker_kills=self.worker_kills // divisor,
            engine_deaths=self.engine_deaths // divisor,
            manager_kills=self.manager_kills // divisor,
            client_kills=self.client_kills // divisor,
        )


FULL = Scale(
    images=10_000, workers=8, clients=5,
    worker_kills=1000, engine_deaths=300, manager_kills=100, client_kills=50,
)  # fmt: skip


@dataclass(frozen=True)
class SoakPlan:
    """Everything that is decided before the first process starts."""

    #: Petitions of each client.
    petitions: list[list[dict[str, Any]]]
    #: (images handed out before it, what dies), in order.
    faults: list[tuple[int, Fault]]


def make(scale: Scale, seed: int) -> SoakPlan:
    """Draw a plan."""
    chance = random.Random(seed)
    petitions: list[list[dict[str, Any]]] = [[] for _ in range(scale.clients)]
    left, number = scale.images, 0
    while left:
        images = min(left, chance.randint(1, _IMAGES_MAX))
        cancelled = images > 2 and chance.randrange(_CANCEL_ONE_IN) == 0
        petitions[number % scale.clients].append(
            {
                "id": f"{chance.getrandbits(128):032x}",
                "images": images,
                "seed": 1000 + number * _SEEDS_APART,
                "cancel": chance.randint(1, images - 1) if cancelled else None,
            }
        )
        left, number = left - images, number + 1
    faults: list[Fault] = []
    faults += ["worker"] * scale.worker_kills + ["engine"] * scale.engine_deaths
    faults += ["manager"] * scale.manager_kills + ["client"] * scale.client_kills
    chance.shuffle(faults)
    # The last tenth of the images is free of faults, so that each fault has its consequences.
    last = scale.images * 9 // 10
    return SoakPlan(petitions, [(last * n // len(faults), one) for n, one in enumerate(faults)])
