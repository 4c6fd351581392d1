"""Several contexts in one real engine: the pictures of fresh ones, and what goes without memory."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdistrib.protocol.engine import At, Declined, Holds
from sdistrib_worker.supervisor import EngineChild
from tests.support.engines import Outcome, outcome, request, running

pytestmark = pytest.mark.engine

#: Wishes of contexts that differ in what is loaded.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alt": {"files": {"model": "stable-diffusion/tiny-alt.safetensors"}},
    "flash": {"diffusion_fa": True},
}


@pytest.fixture
def child() -> Iterator[EngineChild]:
    with running() as made:
        yield made


def _draws(child: EngineChild, models: Path, kind: str, seed: int, **more: Any) -> Outcome:
    wishes = {**KINDS.get(kind, {}), **more}
    wishes["files"] = {**KINDS.get(kind, {}).get("files", {}), **more.get("files", {})}
    return outcome(child, request(models, context=kind, seed=seed, **wishes))


def _loads(result: Outcome) -> bool:
    return any(at.phase == "loading" for at in result.of(At))


def _held(result: Outcome) -> list[tuple[str, ...]]:
    return [frame.contexts for frame in result.of(Holds)]


def test_contexts_in_turn_draw_what_fresh_ones_draw(child: EngineChild, models_dir: Path) -> None:
    fresh = {
        (kind, seed): _draws(child, models_dir, kind, seed) for kind in KINDS for seed in (1, 2)
    }
    assert all(_loads(fresh[kind, 1]) for kind in KINDS)
    assert fresh["plain", 1].pixels != fresh["alt", 1].pixels
    with running() as other:
        loads = 0
        for seed in (1, 2, 1):
            for kind in KINDS:
                result = _draws(other, models_dir, kind, seed, keep=3)
                assert result.pixels == fresh[kind, seed].pixels, (kind, seed)
                loads += _loads(result)
        assert loads == len(KINDS)


def test_what_is_unloaded_spoils_nothing_that_stays(child: EngineChild, models_dir: Path) -> None:
    base = _draws(child, models_dir, "plain", 1, keep=2).pixels
    for kind in ("alt", "flash", "alt"):
        other = _held(_draws(child, models_dir, kind, 1, keep=2))
        assert other[-1] == (kind, "plain")
        result = _draws(child, models_dir, "plain", 1, keep=2)
        assert not _loads(result)
        assert result.pixels == base


def test_a_context_without_the_encoder_is_loaded_anew_in_its_place(
    child: EngineChild, models_dir: Path
) -> None:
    part = {"model": "", "diffusion_model": "some", "llm": "some", "taesd": "some"}
    files = {
        "diffusion_model": "diffusion/tiny-dit.safetensors",
        "llm": "clip/tiny-qwen3.safetensors",
        "taesd": "taesd/tiny-taesd.safetensors",
    }
    _draws(child, models_dir, "plain", 1, keep=2)
    small = _draws(child, models_dir, "split", 1, keep=2, files=files, **part)
    hires = {"hires": True, "hires_upscaler": "Lanczos", "hires_scale": 2.0}
    result = _draws(child, models_dir, "split", 1, keep=2, files=files, **part, **hires)
    assert _held(result) == [("plain",), ("split", "plain")]
    assert result.picture is not None
    assert result.picture.drawn.width == 64
    # With the encoder it serves both.
    again = _draws(child, models_dir, "split", 1, keep=2, files=files, **part)
    assert not _loads(again)
    assert again.pixels == small.pixels


@pytest.mark.parametrize("call", ["new_sd_ctx", "generate_image"])
def test_without_memory_the_others_go_and_it_is_tried_again(call: str, models_dir: Path) -> None:
    with running() as plenty:
        wanted = _draws(plenty, models_dir, "alt", 1)
    probe = (sys.executable, "-m", "tests.support.engine_probe", "{fd}", f"--crowded={call}")
    with running(probe) as child:
        _draws(child, models_dir, "plain", 1, keep=3)
        result = _draws(child, models_dir, "alt", 1, keep=3)
        assert result.pixels == wanted.pixels
        assert _held(result)[-1] == ("alt",)
        note = "memory ran out, and was freed of what else was loaded"
        assert result.picture is not None
        assert result.picture.drawn.notes == (*wanted.picture.drawn.notes, note)  # type: ignore[union-attr]
        assert f"2 {note}; drawing again" in result.log


def test_without_memory_for_one_it_is_an_error_and_nothing_stays(models_dir: Path) -> None:
    probe = (sys.executable, "-m", "tests.support.engine_probe", "{fd}", "--crowded=new_sd_ctx!")
    with running(probe) as child:
        _draws(child, models_dir, "plain", 1, keep=3)
        result = _draws(child, models_dir, "alt", 1, keep=3)
        assert isinstance(result.end, Declined)
        assert (result.end.code, result.end.loading) == ("out_of_memory", True)
        assert _held(result) == [()]


def test_the_last_upscaler_stays_beside_the_contexts_and_goes_when_memory_is_out(
    models_dir: Path,
) -> None:
    upscale = {"upscale_model": "some", "upscale_repeats": 1}
    files = {"upscale_model": "esrgan/tiny-x2.safetensors"}
    probe = (sys.executable, "-m", "tests.support.engine_probe", "{fd}")
    with running(probe) as child:
        for kind in ("plain", "alt", "plain"):
            result = _draws(child, models_dir, kind, 1, keep=2, files=files, **upscale)
            assert result.picture is not None
            assert result.picture.drawn.width == 64
            assert result.log.count('"new_upscaler_ctx"') == (kind == "plain" and _loads(result))
