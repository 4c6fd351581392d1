"""A tenth of the soak, and the plan that it follows."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.soak.plan import FULL, make
from tests.soak.run import Soak


def test_a_plan_has_all_images_and_all_faults_and_follows_from_its_seed() -> None:
    plan = make(FULL, 7)
    petitions = [one for some in plan.petitions for one in some]
    assert sum(one["images"] for one in petitions) == FULL.images == 10_000
    assert Counter(fault for _, fault in plan.faults) == {
        "worker": 1000, "engine": 300, "manager": 100, "client": 50,
    }  # fmt: skip
    assert plan.faults == sorted(plan.faults, key=lambda fault: fault[0])
    assert len({one["id"] for one in petitions}) == len(petitions)
    seeds = [one["seed"] + index for one in petitions for index in range(one["images"])]
    assert len(set(seeds)) == len(seeds), "each image can be told from all others by its seed"
    assert make(FULL, 7) == plan
    assert make(FULL, 8) != plan


@pytest.mark.process
@pytest.mark.timeout(600)
def test_a_tenth_of_the_soak(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}: python -m tests.soak --part 10 --seed {seed}")
    models = tmp_path / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    (models / "tiny.safetensors").write_bytes(b"the scripted engine is content with anything")
    report = Soak(FULL.part(10), seed, tmp_path / "soak", models.parent).run(limit_s=500.0)
    print(report)
    assert report.anomalies == []
    assert report.faults == {"worker": 100, "engine": 30, "manager": 10, "client": 5}
    assert report.images == 1000
