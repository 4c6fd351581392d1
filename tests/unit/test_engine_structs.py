"""Structs filled from the table, on the engine's own library. Nothing is drawn here."""

import gc
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdistrib.params import PARAMETERS, Params

pytest.importorskip("stable_diffusion_cpp", reason="the engine's binding is not installed")

from sdistrib_worker.engine import capi
from sdistrib_worker.engine.embedding import word_of
from sdistrib_worker.engine.structs import Filled, asked_size, needs_encoder
from tests.support.engines import request

pytestmark = pytest.mark.engine
MODELS = Path("/models")


def filled(**wishes: Any) -> Filled:
    return Filled(request(MODELS, **wishes))


def test_what_is_left_out_stays_as_the_engine_has_it() -> None:
    made = Filled(request(MODELS, threads=0, width=512, height=512, steps=20, cfg_scale=7.0))
    ctx, img = capi.ctx_params(), capi.img_gen_params()
    ours = capi.ctx_params_text(made.ctx).splitlines()
    theirs = capi.ctx_params_text(ctx).splitlines()
    changed = [line for line, other in zip(ours, theirs, strict=True) if line != other]
    assert changed == [
        "model_path: /models/stable-diffusion/tiny.safetensors",
        "free_params_immediately: false",
    ]
    ours = capi.img_gen_params_text(made.img).splitlines()
    theirs = capi.img_gen_params_text(img).splitlines()
    changed = [line for line, other in zip(ours, theirs, strict=True) if line != other]
    names = [line.partition(":")[0] for line in changed]
    # sd-cli resizes reference pictures unless told not to; the library does not.
    assert names == ["prompt", "sample_params", "seed", "auto_resize_ref_image"]
    # sd-cli's layers stand there as well; without a scale they do nothing.
    assert "slg.layer_count: 3" in changed[1]
    sample = made.img.sample_params
    assert math.isinf(sample.eta)
    assert math.isinf(sample.flow_shift)
    assert math.isinf(sample.guidance.img_cfg)
    assert sample.sample_method == capi.COUNTS["sample_method"]
    assert sample.scheduler == capi.COUNTS["scheduler"]
    assert made.ctx.lora_apply_mode == capi.enum_value("lora_apply_mode", "at_runtime")


def test_every_word_of_the_table_is_known_to_the_engine() -> None:
    words = 0
    for row in PARAMETERS:
        member = row.spec.engine.rpartition(".")[2]
        for word in row.choices if capi.is_enum(member) else ():
            assert capi.enum_name(member, capi.enum_value(member, word)).lower() == word.lower()
            words += 1
    assert words > 50
    with pytest.raises(ValueError, match="no scheduler 'newest'"):
        capi.enum_value("scheduler", "newest")


@pytest.mark.parametrize(
    ("wishes", "x", "y"),
    [
        ({}, False, False),
        ({"circularx": True}, True, False),
        ({"circulary": True}, False, True),
        ({"circular": True}, True, True),
        ({"circular": True, "circulary": True}, True, True),
    ],
)
def test_two_flags_for_one_member_add_up(wishes: dict[str, bool], x: bool, y: bool) -> None:
    ctx = filled(**wishes).ctx
    assert (ctx.circular_x, ctx.circular_y) == (x, y)


@pytest.mark.parametrize(("wish", "policy", "expected"), [(3, 2, 3), (0, 2, 2)])
def test_the_petitions_threads_come_before_the_workers(
    wish: int, policy: int, expected: int
) -> None:
    wanted = msgspec.structs.replace(request(MODELS, threads=wish), threads=policy)
    assert Filled(wanted).ctx.n_threads == expected
    assert filled(threads=0).ctx.n_threads == capi.ctx_params().n_threads > 0


def test_loras_come_resolved_and_leave_the_prompt() -> None:
    made = filled(
        prompt="a <lora:style:0.5>cat", loras=[("style.safetensors", 0.5), ("b.gguf", -1.0)]
    )
    assert made.img.prompt == b"a cat"
    assert made.img.lora_count == 2
    assert made.img.loras[0].path == b"/models/lora/style.safetensors"
    assert made.img.loras[1].multiplier == -1.0
    assert not made.img.loras[0].is_high_noise
    assert filled().img.lora_count == 0
    assert not filled().img.loras


def test_embeddings_get_words_of_their_own_in_both_prompts(tmp_path: Path) -> None:
    for name in ("ink.pt", "bad.pt"):
        (tmp_path / name).write_bytes(b"FloatStorage")
    ink, bad = (tmp_path / name for name in ("ink.pt", "bad.pt"))
    made = filled(
        prompt="a embedding:ink pot of ink<lora:style:1>, embedding:ink.pt",
        negative_prompt="<embedding:bad> and bad",
        embeddings=[("ink", str(ink)), ("ink.pt", str(ink)), ("bad", str(bad))],
        loras=[("style.safetensors", 1.0)],
    )
    word, other = word_of(str(ink)), word_of(str(bad))
    assert made.img.prompt.decode() == f"a {word} pot of ink, {word}"
    assert made.img.negative_prompt.decode() == f"{other} and bad"
    listed = [made.ctx.embeddings[i] for i in range(made.ctx.embedding_count)]
    found = {one.name.decode(): one.path.decode() for one in listed}
    assert found == {word: str(ink), other: str(bad)}
    assert len(listed) == 2
    assert filled().ctx.embedding_count == 0
    assert not filled().ctx.embeddings


def test_arrays_and_texts_that_are_empty_are_null() -> None:
    made = filled(skip_layers=())
    assert not made.img.sample_params.guidance.slg.layers
    assert made.img.sample_params.guidance.slg.layer_count == 0
    assert not made.img.sample_params.custom_sigmas
    assert made.img.cache.scm_mask is None
    assert made.ctx.vae_path is None


def test_arrays_outlive_their_making() -> None:
    made = filled(sigmas=(3.0, 2.0, 1.0), skip_layers=(4, 5), loras=[("a.gguf", 1.0)])
    gc.collect()
    assert made.img.sample_params.custom_sigmas[:3] == [3.0, 2.0, 1.0]
    assert made.img.sample_params.guidance.slg.layers[:2] == [4, 5]
    assert made.img.loras[0].path == b"/models/lora/a.gguf"


@pytest.mark.parametrize(
    ("wanted", "number", "encoder"),
    [
        ("Latent", 1, False),
        ("latent (bicubic antialiased)", 6, False),
        ("LANCZOS", 7, True),
        ("nearest", 8, True),
        ("x2.gguf", 9, True),
    ],
)
def test_an_upscaler_of_highres_fix_is_a_word_or_a_model(
    wanted: str, number: int, encoder: bool
) -> None:
    made = filled(hires=True, hires_upscaler=wanted, files={"hires_upscaler": "esrgan/x2.gguf"})
    assert made.img.hires.enabled
    assert made.img.hires.upscaler == number
    assert made.ctx.vae_decode_only is not encoder
    model = b"/models/esrgan/x2.gguf" if number == 9 else None
    assert made.img.hires.model_path == model


def test_the_upscaler_none_switches_highres_fix_off() -> None:
    made = filled(hires=True, hires_upscaler="none")
    assert not made.img.hires.enabled
    assert made.ctx.vae_decode_only


def test_an_encoder_is_needed_by_highres_fix_only() -> None:
    params = Params(prompt="x", hires_upscaler="Lanczos")
    assert not needs_encoder(params)


@pytest.mark.parametrize(
    ("wishes", "size"),
    [
        ({}, (64, 32)),
        ({"hires": True}, (128, 64)),
        ({"hires": True, "hires_scale": 1.3}, (83, 42)),
        ({"hires": True, "hires_width": 96}, (96, 96)),
        ({"hires": True, "hires_height": 96}, (96, 96)),
        ({"hires": True, "hires_width": 96, "hires_height": 48}, (96, 48)),
        ({"hires": True, "hires_upscaler": "None"}, (64, 32)),
    ],
)
def test_the_size_asked_for_includes_highres_fix(
    wishes: dict[str, Any], size: tuple[int, int]
) -> None:
    assert asked_size(Params(prompt="x", width=64, height=32, **wishes)) == size


@pytest.mark.parametrize(
    "mode", ["easycache", "ucache", "dbcache", "taylorseer", "cache-dit", "spectrum"]
)
def test_cache_modes_have_the_engines_numbers(mode: str) -> None:
    number = int(capi.api.SDCacheMode[f"SD_CACHE_{mode.upper().replace('-', '_')}"])
    cache = filled(cache_mode=mode, cache_option="threshold=0.5,warmup=2,relative=0").img.cache
    assert cache.mode == number
    assert not cache.use_relative_threshold
    if mode in ("easycache", "ucache"):
        assert cache.reuse_threshold == 0.5
    else:
        assert cache.residual_diff_threshold == 0.5
    assert (cache.spectrum_warmup_steps if mode == "spectrum" else cache.max_warmup_steps) == 2


def test_the_library_lists_its_devices_and_itself() -> None:
    found = capi.devices()
    assert [one for one in found if one.kind == "cpu"]
    assert all(one.name and one.memory_bytes >= one.memory_bytes_free for one in found)
    assert len(capi.library_digest()) == 64
    assert "AVX" in capi.system_info() or "NEON" in capi.system_info()
    assert "sample_steps" in capi.img_gen_params_text(capi.img_gen_params())
    assert capi.sample_params().sample_steps == 20
