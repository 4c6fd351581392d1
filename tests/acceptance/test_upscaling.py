"""Highres fix and upscalers: pixel for pixel what direct calls of the engine make."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdistrib.params import HIRES_UPSCALERS
from sdistrib_worker.supervisor import EngineChild, Picture
from tests.support.cluster import cluster
from tests.support.direct import drawn, wishes
from tests.support.engines import Outcome, outcome, request, running

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

TAESD = "taesd/tiny-taesd.safetensors"
ESRGAN = "esrgan/tiny-x2.safetensors"
MODEL = "stable-diffusion/tiny.safetensors"
#: Enough denoising for the second pass to have steps of its own.
HIRES = {"hires": True, "hires_denoising_strength": 0.4, "steps": 4}
HIRES_MEMBERS = {
    "hires.enabled": True, "hires.denoising_strength": 0.4, "sample_params.sample_steps": 4,
}  # fmt: skip
#: Highres fix: what is wished beside `HIRES`, the same by the engine's members, the size.
SIZES: list[tuple[dict[str, Any], dict[str, Any], tuple[int, int]]] = [
    ({"hires_scale": 2.5}, {"hires.scale": 2.5}, (80, 80)),
    ({"hires_width": 48}, {"hires.target_width": 48}, (48, 48)),
    ({"hires_height": 64}, {"hires.target_height": 64}, (64, 64)),
    (
        {"hires_width": 64, "hires_height": 48, "hires_scale": 3.0},
        {"hires.target_width": 64, "hires.target_height": 48, "hires.scale": 3.0},
        (64, 48),
    ),
    ({"hires_steps": 7}, {"hires.steps": 7}, (64, 64)),
    ({"hires_denoising_strength": 1.0}, {"hires.denoising_strength": 1.0}, (64, 64)),
]


@pytest.fixture(scope="module")
def child() -> Iterator[EngineChild]:
    with running() as started:
        yield started


def _draw(child: EngineChild, models: Path, **more: Any) -> Outcome:
    result = outcome(child, request(models, **more))
    assert isinstance(result.end, Picture), result.end
    return result


def _upscaler(word: str) -> list[str]:
    return ["str_to_sd_hires_upscaler", word]


def test_every_upscaler_of_highres_fix_equals_a_direct_call(child, models_dir, tmp_path):
    ctx = {"taesd_path": str(models_dir / TAESD), "vae_decode_only": False}
    about = {**HIRES, "taesd": "t", "context": "taesd"}
    ours, images = [], []
    for word in HIRES_UPSCALERS:
        made = _draw(child, models_dir, files={"taesd": TAESD}, hires_upscaler=word, **about)
        ours.append(made.pixels)
        assert f"upscaler={word}," in made.log
        members = HIRES_MEMBERS | {"hires.upscaler": _upscaler(word)}
        images.append(wishes(models_dir / MODEL, members, ctx=ctx))
    made = _draw(
        child, models_dir, files={"taesd": TAESD, "hires_upscaler": ESRGAN}, hires_upscaler="x2",
        hires_upscale_tile_size=32, **about,
    )  # fmt: skip
    ours.append(made.pixels)
    members = HIRES_MEMBERS | {
        "hires.upscaler": _upscaler("Model"), "hires.model_path": str(models_dir / ESRGAN),
        "hires.upscale_tile_size": 32,
    }  # fmt: skip
    images.append(wishes(models_dir / MODEL, members, ctx=ctx))
    assert ours == drawn(tmp_path / "direct", images)
    none, *others = ours
    assert len(none) == 32 * 32 * 3
    assert {len(pixels) for pixels in others} == {64 * 64 * 3}
    # What is only made larger, and twice as large, needs no smoothing and leaves nearest no choice.
    alike = {"Latent (antialiased)", "Latent (bicubic antialiased)", "Latent (nearest-exact)"}
    assert alike < set(HIRES_UPSCALERS)
    assert len(set(ours)) == len(HIRES_UPSCALERS) + 1 - len(alike)


def test_sizes_steps_and_strength_of_highres_fix_equal_direct_calls(child, models_dir, tmp_path):
    ours, images = [], []
    for wished, members, size in SIZES:
        made = _draw(child, models_dir, **HIRES | wished)
        assert made.picture is not None
        assert (made.picture.drawn.width, made.picture.drawn.height) == size
        ours.append(made.pixels)
        images.append(wishes(models_dir / MODEL, HIRES_MEMBERS | members))
    assert ours == drawn(tmp_path / "direct", images)
    assert len(set(ours)) == len(ours)


def test_upscaling_once_twice_and_in_tiles_equals_direct_calls(child, models_dir, tmp_path):
    cases = [(1, 128), (2, 128), (1, 16), (2, 24)]
    ours, images = [], []
    for repeats, tile in cases:
        made = _draw(
            child, models_dir, files={"upscale_model": ESRGAN}, upscale_model="x2",
            upscale_repeats=repeats, upscale_tile_size=tile,
        )  # fmt: skip
        ours.append(made.pixels)
        upscale = {"path": str(models_dir / ESRGAN), "tile_size": tile, "repeats": repeats}
        images.append(wishes(models_dir / MODEL, {}, upscale=upscale))
    assert ours == drawn(tmp_path / "direct", images)
    assert [len(pixels) for pixels in ours] == [64 * 64 * 3, 128 * 128 * 3] * 2
    # The tile's size was really another one.
    assert ours[0] != ours[2]


@pytest.mark.process
def test_highres_fix_with_a_model_and_an_upscaler_through_manager_and_worker(models_dir, tmp_path):
    small = ("-m", "tiny", "-W", "32", "-H", "32", "--cfg-scale", "1", "-s", "3", "-p", "a cat")
    hires = ("--hires", "--hires-upscaler", "tiny-x2", "--hires-width", "48", "--steps", "4")
    cases = {
        "model": (*hires, "--hires-denoising-strength", "0.4", "--taesd", "tiny-taesd"),
        "upscaled": (
            "--steps", "2", "--upscale-model", "tiny-x2", "--upscale-repeats", "2",
            "--upscale-tile-size", "24",
        ),
    }  # fmt: skip
    ours = []
    with cluster() as farm:
        farm.worker(models_dir, "--threads", "1")
        for name, words in cases.items():
            out = tmp_path / f"{name}.png"
            client = farm.draw(*small, *words, "-o", str(out))
            assert client.ends() == 0, client.errors
            with Image.open(out) as picture:
                ours.append(picture.convert("RGB").tobytes())
        large = ("-W", "4096", "-H", "4096", "--hires", "--hires-scale", "4")
        client = farm.draw(*small[:2], "-p", "x", *large, "-o", str(tmp_path / "no.png"))
        assert client.ends() == 7
        assert "too_large" in client.errors
    ctx = {"taesd_path": str(models_dir / TAESD), "vae_decode_only": False}
    members = HIRES_MEMBERS | {
        "hires.upscaler": _upscaler("Model"), "hires.model_path": str(models_dir / ESRGAN),
        "hires.target_width": 48,
    }  # fmt: skip
    upscale = {"path": str(models_dir / ESRGAN), "tile_size": 24, "repeats": 2}
    assert ours == drawn(
        tmp_path / "direct",
        [
            wishes(models_dir / MODEL, members, ctx=ctx),
            wishes(models_dir / MODEL, {}, upscale=upscale),
        ],
    )
