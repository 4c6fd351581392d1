"""A worker that draws on and on, and changes its context again and again: nothing grows.

Resident memory is coarse: it goes up and down by 20 MB with what the engine needs for a moment and
the holes that the allocator keeps, and a thousand lost pictures are 12 MB. So where images are
counted, both processes count the bytes in use on their heaps; resident memory tells whole contexts.
"""

import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.cluster import Cluster, Process, cluster, wait_for
from tests.support.engines import outcome, request, running
from tests.support.heap import EVERY, noted
from tests.support.processes import children, descriptors, resident_bytes

pytestmark = [
    pytest.mark.engine,
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

SIDE = 64
#: What the engine allocates for one picture.
PICTURE_BYTES = SIDE * SIDE * 3


class Sample(NamedTuple):
    """A process at one moment."""

    memory: int
    #: Open descriptors but for pictures on their way, and those.
    others: Counter[str]
    pictures: int


def _sample(pid: int) -> Sample:
    kinds = descriptors(pid)
    pictures = kinds.pop("memfd", 0)
    return Sample(resident_bytes(pid), kinds, pictures)


@pytest.fixture
def farm() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def _watched(worker: Process, client: Process) -> Iterator[tuple[Sample, Sample]]:
    """Worker and child behind each picture, as far as they are seen one by one."""
    (child,) = children(worker.pid)
    seen = 0

    def another() -> bool:
        return _drawn(worker) > seen or client.popen.poll() is not None

    while client.popen.poll() is None:
        wait_for(another, f"picture {seen + 1}; {worker.errors[-500:]}")
        seen = _drawn(worker)
        if client.popen.poll() is None:
            yield _sample(worker.pid), _sample(child)
    assert children(worker.pid) == [child], "the engine died on the way"


def _drawn(worker: Process) -> int:
    return worker.errors.count(": drawn in ")


def _no_more_open(samples: list[Sample], images: int) -> None:
    """The last third has no more open than the first, and pictures are let go of."""
    third = len(samples) // 3
    assert third >= images // 6, "too few pictures were seen one by one"
    most = max(sum(one.others.values()) for one in samples[:third])
    assert max(sum(one.others.values()) for one in samples[-third:]) <= most
    assert max(one.pictures for one in samples) <= 3


def _heap_flat(heap: list[int], images: int) -> None:
    """Not even half a picture is kept of each image, nor as much of anything else."""
    assert len(heap) == images // EVERY
    fifth = len(heap) // 5
    grown = statistics.median(heap[-fifth:]) - statistics.median(heap[fifth : 2 * fifth])
    # Three fifths of all images lie between the middles of these two.
    assert grown < 0.6 * images * PICTURE_BYTES / 2, f"{grown} bytes more"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "images", [100, pytest.param(1000, marks=pytest.mark.slow)]
)  # fmt: skip
def test_images_leave_neither_memory_nor_descriptors_behind(
    images: int, farm: Cluster, models_dir: Path, tmp_path: Path
) -> None:
    log = tmp_path / "heaps"
    exact = {"PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1", "SDISTRIB_HEAP_LOG": str(log)}
    # Who measures coverage in there keeps more and more himself.
    exact |= dict.fromkeys(("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"), "")
    command = ("tests.support.heap_worker", farm.workers_at, str(models_dir), "--threads", "1")
    # In calls of several they would not be seen one by one.
    worker = farm.start(*command, "--max-batch", "1", env=exact)
    farm.manager.says(" joins: ")
    small = ("-W", str(SIDE), "-H", str(SIDE), "--steps", "1", "--cfg-scale", "1")
    client = farm.client(
        "-m", "tiny", "-p", "a lamp", *small, "-b", str(images),
        "-o", str(tmp_path / "out.png"),
    )  # fmt: skip
    samples = list(_watched(worker, client))
    assert client.ends() == 0, client.errors
    assert len(list(tmp_path.glob("*.png"))) == images
    for part in zip(*samples, strict=True):
        _no_more_open(list(part), images)
    for who in ("worker", "engine"):
        _heap_flat(noted(who, log), images)


#: Models in turn, and how many are kept: each image needs a load.
CHANGES = {"keep-1": (("a", "b"), 1), "keep-2": (("a", "b", "c"), 2)}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("keep", CHANGES)
@pytest.mark.parametrize("changes", [9, pytest.param(100, marks=pytest.mark.slow)])
def test_changes_of_the_context_give_the_memory_back(
    changes: int, keep: str, models_dir: Path
) -> None:
    models, most = CHANGES[keep]
    memory, loads = [], 0
    with running() as child:
        empty = _sample(child.pid).memory
        for number in range(changes):
            wanted = request(models_dir, context=models[number % len(models)], steps=1, keep=most)
            result = outcome(child, wanted)
            assert result.picture is not None
            loads += result.picture.drawn.load_s > 0
            memory.append(_sample(child.pid))
    assert loads == changes
    one = memory[0].memory - empty
    settled, third = memory[len(models)], memory[-changes // 3 :]
    # Not even one of the contexts that were unloaded is still there.
    assert statistics.median(sample.memory for sample in third) - settled.memory < one
    assert memory[-1].others == settled.others
