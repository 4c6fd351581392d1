"""Several images in one call of the real engine: each is, bit for bit, what it is alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

from sdistrib.protocol.engine import Draw
from sdistrib_worker.supervisor import EngineChild, Event, Picture
from tests.support.cluster import cluster
from tests.support.direct import drawn, wishes
from tests.support.engines import outcome, receive_until, request, running

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

SEED, COUNT = 30, 3
STYLE = ("tiny-style.safetensors", 1.0)


@pytest.fixture(scope="module")
def child() -> Iterator[EngineChild]:
    with running() as started:
        yield started


def together(child: EngineChild, wanted: Draw) -> list[Picture]:
    """The pictures of one call, in the order of their seeds."""
    child.send(wanted)
    events: list[Event] = []
    while sum(isinstance(event, Picture) for event in events) < wanted.count:
        events += receive_until(child, lambda event: isinstance(event, Picture))
    return [event for event in events if isinstance(event, Picture)]


def both(child: EngineChild, models: Path, **wants: Any) -> tuple[list[bytes], list[Picture]]:
    """Pixels of images that were drawn singly, and the same in one call."""
    loras = wants.pop("loras", ())
    about = {"loras": loras, **wants}
    first, *_ = [request(models, seed=SEED, **about) for _ in range(COUNT)]
    called = together(child, replace(first, count=COUNT))
    singly = [outcome(child, request(models, seed=SEED + n, **about)) for n in range(COUNT)]
    for alone, one in zip(singly, called, strict=True):
        # What is said of a picture is the same as well.
        assert alone.picture is not None
        for fact in ("width", "height", "channels", "sampling_method", "scheduler", "notes"):
            assert getattr(alone.picture.drawn, fact) == getattr(one.drawn, fact)
    return [alone.pixels for alone in singly], called


@pytest.mark.parametrize("cfg_scale", [1.0, 7.0])
@pytest.mark.parametrize("method", ["euler", "euler_a", "dpm++2m", "lcm", "er_sde", "heun"])
def test_each_sampler_draws_the_same_in_one_call(
    child: EngineChild, models_dir: Path, method: str, cfg_scale: float
) -> None:
    alone, called = both(
        child, models_dir, sampling_method=method, cfg_scale=cfg_scale, steps=4,
        negative_prompt="blue",
    )  # fmt: skip
    assert [picture.pixels() for picture in called] == alone
    assert len(set(alone)) == COUNT


@pytest.mark.parametrize(
    "wants",
    [
        {"rng": "cpu"},
        {"rng": "std_default"},
        {"rng": "cuda", "sampler_rng": "cpu"},
        {"loras": [STYLE]},
        {"loras": [STYLE], "lora_apply_mode": "at_runtime"},
        {"loras": [STYLE], "lora_apply_mode": "immediately"},
        {"vae_tiling": True, "vae_tile_size": (4, 4), "width": 64, "height": 64},
        {"cache_mode": "easycache", "steps": 12},
        {"width": 72, "height": 40},
        {"scheduler": "karras", "eta": 0.5},
    ],
    ids=str,
)
def test_random_numbers_loras_and_all_else_are_the_same_in_one_call(
    child: EngineChild, models_dir: Path, wants: dict[str, Any]
) -> None:
    about = {"sampling_method": "euler_a", "steps": 4, "cfg_scale": 7.0, **wants}
    alone, called = both(child, models_dir, context=str(wants), **about)
    assert [picture.pixels() for picture in called] == alone
    assert len(set(alone)) == COUNT


def test_a_call_equals_direct_calls_of_the_engine(
    child: EngineChild, models_dir: Path, tmp_path: Path
) -> None:
    _, called = both(child, models_dir)
    model = models_dir / "stable-diffusion" / "tiny.safetensors"
    direct = drawn(tmp_path / "direct", [wishes(model, {"seed": SEED + n}) for n in range(COUNT)])
    assert [picture.pixels() for picture in called] == direct


def test_the_shares_of_a_call_are_of_one_size(child: EngineChild, models_dir: Path) -> None:
    outcome(child, request(models_dir, steps=8))
    first, *_ = [request(models_dir, seed=SEED, steps=8) for _ in range(COUNT)]
    pictures = together(child, replace(first, count=COUNT))
    for picture in pictures:
        assert 0 < picture.drawn.sampling_s < picture.drawn.draw_s
        assert picture.drawn.load_s == 0.0
        picture.close()


@pytest.mark.process
def test_pictures_of_a_petition_that_were_drawn_together_are_those_drawn_singly(
    models_dir: Path, tmp_path: Path
) -> None:
    words = ("-m", "tiny", "-p", "a red house", "-W", "64", "-H", "64", "--steps", "2")
    seeds = ("--cfg-scale", "1", "-s", "1000")
    with cluster() as running:
        worker = running.worker(models_dir, "--name", "box", "--threads", "1", "-v")
        # The first is drawn alone: then it is known how long such a picture takes.
        first = running.draw(*words, *seeds, "-o", str(tmp_path / "first.png"))
        assert first.ends() == 0, first.errors
        client = running.draw(*words, *seeds, "-b", "8", "-o", str(tmp_path / "out.png"))
        assert client.ends() == 0, client.errors
        assert "generating image: 2/" in worker.errors
    with cluster() as running:
        single = running.worker(
            models_dir, "--name", "box", "--threads", "1", "-v", "--max-batch", "1"
        )
        client = running.draw(*words, *seeds, "-b", "8", "-o", str(tmp_path / "one.png"))
        assert client.ends() == 0, client.errors
        assert "generating image: 1/1" in single.errors
        assert "generating image: 2/" not in single.errors
    for index in range(8):
        # Not only the pixels: all that the file says of its making.
        together_, alone = (tmp_path / f"{name}_{index}.png" for name in ("out", "one"))
        with Image.open(together_) as one, Image.open(alone) as other:
            assert one.tobytes() == other.tobytes()
            assert one.info == other.info
        assert together_.read_bytes() == alone.read_bytes()
