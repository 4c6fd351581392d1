"""Figures of the worker with an engine: gaps, pictures per second, calls of several, memory."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.fakes import FakeClient
from bench.processes import Manager, Process, manager, rss_mib, running
from bench.stamped import Kind, gaps_s
from bench.stats import Figure, Sample
from sdistrib.params import Params
from sdistrib.transport import Dealer, zmq_context

_MODELS = Path(__file__).resolve().parents[1] / "models"
_MODEL = _MODELS / "stable-diffusion" / "tiny.safetensors"
#: One core draws; the other has manager, supervisor and encoder, as the CPU of a GPU box has.
_THREADS = 1
#: Half a second or more per image on a core of 2022.
PARAMS = Params(prompt="a red house", model="tiny", width=96, height=96, steps=4, cfg_scale=1.0)
#: The quickest picture there is: a gap does not depend on what is drawn.
_SMALL = Params(prompt="a red house", model="tiny", width=64, height=64, steps=1, cfg_scale=1.0)
#: What `bench.bare` can draw.
KINDS = {"usual": PARAMS, "quick": _SMALL}
#: Images in one call of the engine, and in as many calls.
_CALL = 8
_IMAGES = {"real": 20, "scripted": 60}
_RATE_IMAGES = 20


def models() -> Path:
    """The tiny models tree.

    Raises:
        SystemExit: it has not been made.
    """
    if not _MODEL.is_file():
        raise SystemExit(f"{_MODEL} is not there: run `make models`, then again")
    return _MODELS


@contextlib.contextmanager
def _farm(*worker: str, params: Params) -> Iterator[tuple[Manager, Process, FakeClient]]:
    """A manager, one worker (the words before its HOST), and a client that has drawn a picture."""
    with contextlib.ExitStack() as stack:
        farm = stack.enter_context(manager())
        options = (str(farm.workers), str(models()), "--threads", str(_THREADS))
        process = stack.enter_context(running(*worker, *options))
        farm.joined(1)
        context = stack.enter_context(zmq_context())
        client = FakeClient(Dealer(context, farm.clients), params)
        client.draw(1)
        yield farm, process, client


def _gaps(rounds: int, kind: Kind) -> Iterator[Sample]:
    """Milliseconds that the engine was idle between each two images of one petition."""
    with tempfile.NamedTemporaryFile(prefix="sdistrib-bench-") as stamps:
        worker = ("bench.stamped", "worker", kind, stamps.name)
        with _farm(*worker, params=_SMALL) as (_, _process, client):
            for _ in range(rounds):
                client.draw(_IMAGES[kind])
                for gap_s in gaps_s(Path(stamps.name), _IMAGES[kind]):
                    yield Sample(1000 * gap_s)


def _rates(rounds: int) -> Iterator[Sample]:
    """Pictures per second through manager and worker by those of the bare engine."""
    with (
        _farm("sdistrib_worker", params=PARAMS) as (_, _process, client),
        running("bench.bare", str(models() / _MODEL), str(_THREADS)) as bare,
    ):
        bare.hears("1")
        bare.prints()
        for _ in range(rounds):
            began_at = time.perf_counter()
            client.draw(_RATE_IMAGES)
            ours = _RATE_IMAGES / (time.perf_counter() - began_at)
            bare.hears(str(_RATE_IMAGES))
            yield Sample.ratio(ours, _RATE_IMAGES / float(bare.prints()))


def _calls(rounds: int, kind: str) -> Iterator[Sample]:
    """Seconds of the images of one call by those of as many calls."""
    with running("bench.bare", str(models() / _MODEL), str(_THREADS), kind) as bare:
        bare.hears("1")
        bare.prints()
        for _ in range(rounds):
            bare.hears(f"{_CALL} {_CALL}")
            together_s = float(bare.prints())
            bare.hears(f"{_CALL} 1")
            yield Sample.ratio(together_s, float(bare.prints()))


def _memory(rounds: int, *, of_manager: bool) -> Iterator[Sample]:
    """MiB in RAM of a manager or a supervisor that has made one picture and is idle."""
    for _ in range(rounds):
        with _farm("sdistrib_worker", params=_SMALL) as (farm, worker, _):
            yield Sample(rss_mib(farm.process.pid if of_manager else worker.pid))


FIGURES = (
    Figure(
        "gap", "engine idle between two images, real engine",
        5.0, "<=", "ms", "", 2, lambda rounds: _gaps(rounds, "real"),
    ),
    Figure(
        "gap-scripted", "engine idle between two images, scripted engine",
        5.0, "<=", "ms", "", 2, lambda rounds: _gaps(rounds, "scripted"),
    ),
    Figure(
        "rate", f"pictures/s, -b {_RATE_IMAGES} through manager and worker, by the bare engine's",
        0.95, ">=", "x", "/s", 3, _rates,
    ),
    Figure(
        "calls", f"{_CALL} images in one call of the engine, by {_CALL} calls; 4 steps, 96x96",
        1.0, "<=", "x", "s", 5, lambda rounds: _calls(rounds, "usual"),
    ),
    Figure(
        "calls-quick", f"{_CALL} images in one call of the engine, by {_CALL} calls; 1 step, 64x64",
        1.0, "<=", "x", "s", 10, lambda rounds: _calls(rounds, "quick"),
    ),
    Figure(
        "memory-manager", "memory of an idle manager",
        60.0, "<=", "MiB", "", 3, lambda rounds: _memory(rounds, of_manager=True),
    ),
    Figure(
        "memory-worker", "memory of an idle worker's supervisor",
        60.0, "<=", "MiB", "", 3, lambda rounds: _memory(rounds, of_manager=False),
    ),
)  # fmt: skip
