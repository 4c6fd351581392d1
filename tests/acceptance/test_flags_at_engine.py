"""Every parameter of the table, seen at the engine.

For each one an image is drawn with and without it, by the real engine child with a witness at the
C calls. The value must stand in the struct that the engine is called with, in the engine's own
dump of its parameters where that has the member, and, where a tiny model can show it, in other
pixels or in the engine's log.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdistrib.params import BY_NAME, PARAMETERS, Params, context_params
from sdistrib.protocol.engine import Declined
from sdistrib_worker.supervisor import EngineChild, Picture
from tests.support import samples
from tests.support.engines import Outcome, outcome, request, running

pytestmark = pytest.mark.engine

PROBE = (sys.executable, "-m", "tests.support.engine_probe", "{fd}")
SLG = {
    "slg_scale": 4.0,
    "skip_layers": (0,),
    "skip_layer_start": 0.0,
    "skip_layer_end": 1.0,
    "steps": 5,
}
HIRES = {"hires": True, "hires_denoising_strength": 0.4, "steps": 4}
TILED = {"vae_tiling": True, "vae_tile_size": (4, 4), "width": 64, "height": 64}
SPLIT = {"model": "", "diffusion_model": "dit", "llm": "qwen", "vae": "vae"}
SPLIT_FILES = {
    "diffusion_model": "diffusion/tiny-dit.safetensors",
    "llm": "clip/tiny-qwen3.safetensors",
    "vae": "vae/tiny-vae.safetensors",
}
TAESD = {"taesd": "taesd"}
TAESD_FILE = {"taesd": "taesd/tiny-taesd.safetensors"}
ESRGAN = "esrgan/tiny-x2.safetensors"
UPSCALE = {"upscale_model": "x2"}

#: Input files by name; what petitions name is their digest.
INPUTS = {name: samples.png(*size) for name, size in {"one": (32, 32), "two": (48, 32)}.items()}
INPUTS["mask"] = samples.half_mask(32, 32)
INPUTS["embedding"] = b"an embedding that no tiny model reads"
DIGESTS = {name: hashlib.sha256(data).hexdigest() for name, data in INPUTS.items()}
ONE, TWO = DIGESTS["one"], DIGESTS["two"]
START = {**TAESD, "init_image": ONE, "steps": 5}
EDIT = {**TAESD, "ref_images": (TWO, ONE)}
PERSON = {"prompt": "a cat img", "pm_id_images": (ONE, TWO)}


def at_call(name: str, channels: int = 3) -> dict[str, Any]:
    """A picture as it is when the engine gets it in its own size."""
    with Image.open(BytesIO(INPUTS[name])) as image:
        pixels = image.convert("RGB" if channels == 3 else "L").tobytes()
        size = [*image.size, channels]
    return {"size": size, "pixels": hashlib.sha256(pixels).hexdigest()}


@dataclass(frozen=True)
class Case:
    """How one parameter shows."""

    #: The parameter with another value than its default, and what must go with it.
    wishes: dict[str, Any]
    #: Members at the C call: "ctx.…", "img.…", or "new_upscaler_ctx.N".
    seen: dict[str, Any]
    #: A line of the engine's own dump.
    dump: str = ""
    #: "changed" or "same" pixels; "any" where this model cannot show it; "blind": no tiny model of
    #: this kind exists, the context is not really made; "refused": the engine refuses it.
    pixels: str = "changed"
    #: In the engine's log, a regular expression.
    log: str = ""
    #: Wishes that the image without the parameter has as well.
    beside: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def load(name: str, value: Any, member: str, at_engine: Any, **more: Any) -> Case:
    """A load-time parameter with one member."""
    more.setdefault("dump", f"sd_ctx_params_t {member}: {_shown(value)}")
    return Case({name: value}, {f"ctx.{member}": at_engine}, **more)


def blind(name: str, member: str) -> Case:
    """A file of a model family that has no tiny member."""
    file = "clip/tiny-qwen3.safetensors"
    return Case(
        {name: "some"},
        {f"ctx.{member}": f"MODELS/{file}"},
        dump=f"sd_ctx_params_t {member}: MODELS/{file}",
        pixels="blind",
        files={name: file},
    )


def draw(name: str, value: Any, member: str, at_engine: Any = None, **more: Any) -> Case:
    """A per-image parameter with one member."""
    at_engine = value if at_engine is None else at_engine
    return Case({name: value}, {f"img.{member}": at_engine}, **more)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


CASES: dict[str, Case] = {
    "model": Case(
        {"model": "alt"},
        {"ctx.model_path": "MODELS/stable-diffusion/tiny-alt.safetensors"},
        dump="sd_ctx_params_t model_path: MODELS/stable-diffusion/tiny-alt.safetensors",
        files={"model": "stable-diffusion/tiny-alt.safetensors"},
    ),
    "diffusion_model": Case(
        SPLIT,
        {
            "ctx.diffusion_model_path": "MODELS/diffusion/tiny-dit.safetensors",
            "ctx.model_path": None,
        },
        dump="sd_ctx_params_t diffusion_model_path: MODELS/diffusion/tiny-dit.safetensors",
        pixels="same",  # the split files hold the checkpoint's weights
        log="loading diffusion model from",
        files=SPLIT_FILES,
    ),
    "llm": Case(
        SPLIT,
        {"ctx.llm_path": "MODELS/clip/tiny-qwen3.safetensors"},
        dump="sd_ctx_params_t llm_path: MODELS/clip/tiny-qwen3.safetensors",
        pixels="same",
        log="loading llm from",
        files=SPLIT_FILES,
    ),
    "vae": Case(
        SPLIT,
        {"ctx.vae_path": "MODELS/vae/tiny-vae.safetensors"},
        dump="sd_ctx_params_t vae_path: MODELS/vae/tiny-vae.safetensors",
        pixels="same",
        log="loading vae from",
        files=SPLIT_FILES,
    ),
    "taesd": Case(
        TAESD,
        {"ctx.taesd_path": "MODELS/taesd/tiny-taesd.safetensors"},
        dump="sd_ctx_params_t taesd_path: MODELS/taesd/tiny-taesd.safetensors",
        log="using TAE for encoding / decoding",
        files=TAESD_FILE,
    ),
    "high_noise_diffusion_model": blind(
        "high_noise_diffusion_model", "high_noise_diffusion_model_path"
    ),
    "clip_l": blind("clip_l", "clip_l_path"),
    "clip_g": blind("clip_g", "clip_g_path"),
    "clip_vision": blind("clip_vision", "clip_vision_path"),
    "t5xxl": blind("t5xxl", "t5xxl_path"),
    "llm_vision": blind("llm_vision", "llm_vision_path"),
    "control_net": blind("control_net", "control_net_path"),
    "photo_maker": blind("photo_maker", "photo_maker_path"),
    "mode": Case(
        {"mode": "upscale", **UPSCALE, "init_image": TWO, "prompt": ""},
        {"new_upscaler_ctx.0": f"MODELS/{ESRGAN}", "upscale": [48, 32, 2]},
        log=r"upscaling from \(48 x 32\) to \(96 x 64\)", files={"upscale_model": ESRGAN},
    ),
    "init_image": Case(
        {"init_image": ONE}, {"img.init_image": at_call("one"), "ctx.vae_decode_only": False},
        log="IMG2IMG", beside={**TAESD, "steps": 5, "strength": 0.5}, files=TAESD_FILE,
    ),
    "mask": Case(
        {"mask": DIGESTS["mask"]}, {"img.mask_image": at_call("mask", 1)},
        beside=START, files=TAESD_FILE,
    ),
    "strength": draw(
        "strength", 0.375, "strength", dump="sd_img_gen_params_t strength: 0.38",
        log="target t_enc is 1 steps", beside=START, files=TAESD_FILE,
    ),
    "ref_images": Case(
        {"ref_images": (ONE, TWO)},
        {"img.ref_images": [at_call("one"), at_call("two")], "img.ref_images_count": 2},
        log="EDIT mode", beside=TAESD, files=TAESD_FILE,
    ),
    "increase_ref_index": draw(
        "increase_ref_index", True, "increase_ref_index", beside=EDIT, files=TAESD_FILE,
        dump="sd_img_gen_params_t increase_ref_index: true",
    ),
    "auto_resize_ref_image": draw(
        "auto_resize_ref_image", False, "auto_resize_ref_image", beside=EDIT, files=TAESD_FILE,
        dump="sd_img_gen_params_t auto_resize_ref_image: false",
    ),
    # ControlNets and PhotoMaker are for SD1 and SDXL: test_controlnet draws with one.
    "control_image": Case(
        {"control_image": ONE}, {"img.control_image": at_call("one")}, pixels="same",
    ),
    "control_strength": draw(
        "control_strength", 0.25, "control_strength", pixels="same",
        dump="sd_img_gen_params_t control_strength: 0.25",
    ),
    "canny": Case(
        {"canny": True},
        {"preprocess_canny": [at_call("one"), 0.08, 0.08, 0.8, 1.0, False]},
        pixels="same", beside={"control_image": ONE},
    ),
    "pm_id_images": Case(
        {"pm_id_images": (TWO, ONE)},
        {
            "img.pm_params.id_images": [at_call("two"), at_call("one")],
            "img.pm_params.id_images_count": 2,
        },
        pixels="same", beside={"prompt": "a cat img"},
    ),
    "pm_id_embed": Case(
        {"pm_id_embed": DIGESTS["embedding"]},
        {"img.pm_params.id_embed_path": "INPUTS/embedding"}, pixels="same", beside=PERSON,
    ),
    "pm_style_strength": draw(
        "pm_style_strength", 35.0, "pm_params.style_strength", pixels="same", beside=PERSON
    ),
    "wtype": load("wtype", "q8_0", "wtype", 8),
    "tensor_type_rules": load(
        "tensor_type_rules", "model=q4_0", "tensor_type_rules", "model=q4_0"
    ),
    "rng": load("rng", "cpu", "rng_type", 2),
    "sampler_rng": load(
        "sampler_rng", "cpu", "sampler_rng_type", 2, beside={"sampling_method": "euler_a"}
    ),
    "prediction": load("prediction", "sd3_flow", "prediction", 3, log="running in FLOW mode"),
    "lora_apply_mode": load(
        "lora_apply_mode", "immediately", "lora_apply_mode", 1, dump="", pixels="any",
        log="apply lora immediately", beside={"prompt": "a cat <lora:style:1>"},
    ),
    "threads": load(
        "threads", 2, "n_threads", 2, pixels="same", log="using 2 threads for model loading"
    ),
    "offload_to_cpu": load("offload_to_cpu", True, "offload_params_to_cpu", True, pixels="same"),
    "mmap": load(
        "mmap", True, "enable_mmap", True, dump="", pixels="same", log="using mmap for I/O"
    ),
    "max_vram": Case(
        {"max_vram": 2.5}, {"ctx.max_vram": 2.5}, dump="sd_ctx_params_t max_vram: 2.500",
        pixels="same",
    ),
    "clip_on_cpu": load("clip_on_cpu", True, "keep_clip_on_cpu", True, pixels="same"),
    "taesd_preview_only": Case(
        {**TAESD, "taesd_preview_only": True},
        {"ctx.tae_preview_only": True},
        pixels="same",
        log="using TAE for preview",
        files=TAESD_FILE,
    ),
    "vae_on_cpu": load("vae_on_cpu", True, "keep_vae_on_cpu", True, pixels="same"),
    "control_net_cpu": load(
        "control_net_cpu", True, "keep_control_net_on_cpu", True, pixels="same"
    ),
    "fa": load("fa", True, "flash_attn", True, log="Using flash attention"),
    "diffusion_fa": load(
        "diffusion_fa", True, "diffusion_flash_attn", True,
        log="Using flash attention in the diffusion model",
    ),
    "diffusion_conv_direct": load(
        "diffusion_conv_direct", True, "diffusion_conv_direct", True, dump="", pixels="same",
    ),
    "vae_conv_direct": load(
        "vae_conv_direct", True, "vae_conv_direct", True, dump="", pixels="any",
        log="Using Conv2d direct in the vae model",
    ),
    "circular": Case(
        {"circular": True}, {"ctx.circular_x": True, "ctx.circular_y": True},
        dump="sd_ctx_params_t circular_x: true\nsd_ctx_params_t circular_y: true",
        log="Using circular padding",
    ),
    "circularx": load("circularx", True, "circular_x", True),
    "circulary": load("circulary", True, "circular_y", True),
    "force_sdxl_vae_conv_scale": load(
        "force_sdxl_vae_conv_scale", True, "force_sdxl_vae_conv_scale", True, dump="", pixels="any"
    ),
    "chroma_dit_mask": load("chroma_dit_mask", False, "chroma_use_dit_mask", False, pixels="same"),
    "chroma_t5_mask": load("chroma_t5_mask", True, "chroma_use_t5_mask", True, pixels="same"),
    "chroma_t5_mask_pad": load("chroma_t5_mask_pad", 7, "chroma_t5_mask_pad", 7, pixels="same"),
    "qwen_image_zero_cond_t": load(
        "qwen_image_zero_cond_t", True, "qwen_image_zero_cond_t", True, dump="", pixels="same"
    ),
    "prompt": draw("prompt", "a dog", "prompt", dump="sd_img_gen_params_t prompt: a dog"),
    "negative_prompt": draw(
        "negative_prompt", "deep fried", "negative_prompt",
        dump="sd_img_gen_params_t negative_prompt: deep fried", beside={"cfg_scale": 7.0},
    ),
    "width": draw("width", 64, "width", dump="sd_img_gen_params_t width: 64"),
    "height": draw("height", 64, "height", dump="sd_img_gen_params_t height: 64"),
    "steps": draw("steps", 4, "sample_params.sample_steps", dump="sample_steps: 4"),
    "cfg_scale": draw(
        "cfg_scale", 4.5, "sample_params.guidance.txt_cfg", dump="txt_cfg: 4.50",
        beside={"negative_prompt": "fried"},
    ),
    "img_cfg_scale": draw(
        "img_cfg_scale", 2.25, "sample_params.guidance.img_cfg", dump="img_cfg: 2.25",
        pixels="same",  # inpaint and edit models only
    ),
    "guidance": draw(
        "guidance", 9.5, "sample_params.guidance.distilled_guidance",
        dump="distilled_guidance: 9.50", pixels="same",  # the tiny model has no such input
    ),
    "sampling_method": draw(
        "sampling_method", "heun", "sample_params.sample_method", 2, dump="sample_method: heun",
        log="sampling using Heun",
    ),
    "scheduler": draw(
        "scheduler", "karras", "sample_params.scheduler", 1, dump="scheduler: karras",
        log="get_sigmas with Karras", beside={"steps": 5},
    ),
    "sigmas": Case(
        {"sigmas": (0.75, 0.5, 0.0)},
        {
            "img.sample_params.custom_sigmas": [0.75, 0.5, 0.0],
            "img.sample_params.custom_sigmas_count": 3,
        },
    ),
    "eta": draw(
        "eta", 0.25, "sample_params.eta", dump="eta: 0.25", beside={"sampling_method": "euler_a"}
    ),
    "flow_shift": draw("flow_shift", 5.0, "sample_params.flow_shift", dump="flow_shift: 5.00"),
    "timestep_shift": draw(
        "timestep_shift", 250, "sample_params.shifted_timestep", dump="shifted_timestep: 250",
        pixels="same", log="timestep shifting is only supported",
    ),
    "slg_scale": draw(
        "slg_scale", 2.0, "sample_params.guidance.slg.scale", dump="slg.scale: 2.00",
        beside={**SLG, "slg_scale": 0.0}, log="Skipping layers at step",
    ),
    "skip_layers": Case(
        {"skip_layers": (1, 0)},
        {
            "img.sample_params.guidance.slg.layers": [1, 0],
            "img.sample_params.guidance.slg.layer_count": 2,
        },
        dump="slg.layer_count: 2", beside={**SLG, "skip_layers": (7, 8, 9)},
    ),
    "skip_layer_start": draw(
        "skip_layer_start", 0.5, "sample_params.guidance.slg.layer_start",
        dump="slg.layer_start: 0.50", beside=SLG,
    ),
    "skip_layer_end": draw(
        "skip_layer_end", 0.5, "sample_params.guidance.slg.layer_end", dump="slg.layer_end: 0.50",
        beside=SLG,
    ),
    "clip_skip": draw(
        "clip_skip", 2, "clip_skip", dump="sd_img_gen_params_t clip_skip: 2", pixels="same"
    ),
    "vae_tiling": draw(
        "vae_tiling", True, "vae_tiling_params.enabled",
        dump="sd_img_gen_params_t VAE tiling: true", beside={**TILED, "vae_tiling": False},
        log="processing 9 tiles",
    ),
    "vae_tile_size": Case(
        {"vae_tile_size": (5, 6)},
        {"img.vae_tiling_params.tile_size_x": 5, "img.vae_tiling_params.tile_size_y": 6},
        beside=TILED, log="VAE Tile size: 5x6",
    ),
    "vae_relative_tile_size": Case(
        {"vae_relative_tile_size": (0.75, 1.0)},
        {"img.vae_tiling_params.rel_size_x": 0.75, "img.vae_tiling_params.rel_size_y": 1.0},
        beside=TILED, log="VAE Tile size: 6x8",
    ),
    "vae_tile_overlap": draw(
        "vae_tile_overlap", 0.0, "vae_tiling_params.target_overlap", beside=TILED,
        log=r"targeting 0\.0000.*\n.*processing 4 tiles",
    ),
    "cache_mode": draw(
        "cache_mode", "easycache", "cache.mode", 1, dump="cache: easycache",
        log="EasyCache enabled",
        beside={"steps": 8, "cache_option": "threshold=100,start=0,end=1"},
    ),
    "cache_option": Case(
        {"cache_option": "threshold=100,start=0.25,decay=0.5"},
        {
            "img.cache.reuse_threshold": 100.0,
            "img.cache.start_percent": 0.25,
            "img.cache.error_decay_rate": 0.5,
        },
        dump="cache: easycache (threshold=100.000, start=0.25, end=0.95)",
        log=r"EasyCache enabled - threshold: 100\.000, start: 0\.25(.*\n)*.*EasyCache skipped",
        beside={"steps": 8, "cache_mode": "easycache"},
    ),
    "scm_mask": draw(
        "scm_mask", "1,0,1,0", "cache.scm_mask", pixels="any",
        beside={"steps": 4, "cache_mode": "cache-dit"}, log="CacheDIT enabled",
    ),
    "scm_policy": draw(
        "scm_policy", "static", "cache.scm_policy_dynamic", False, pixels="any",
        beside={"steps": 4, "cache_mode": "cache-dit", "scm_mask": "1,0,1,0"},
        log="CacheDIT enabled",
    ),
    "hires": draw(
        "hires", True, "hires.enabled", dump="hires: {enabled=true",
        log="hires fix: upscaling to 64x64",
    ),
    "hires_upscaler": draw(
        "hires_upscaler", "latent (NEAREST)", "hires.upscaler", 2, beside=HIRES,
        dump="upscaler=Latent (nearest)", log=r"hires Latent \(nearest\) upscale",
    ),
    "hires_scale": draw(
        "hires_scale", 3.0, "hires.scale", beside=HIRES, dump="scale=3.00",
        log="hires fix: upscaling to 96x96",
    ),
    "hires_width": draw(
        "hires_width", 48, "hires.target_width", beside=HIRES, dump="target=48x0",
        log="hires fix: upscaling to 48x48",
    ),
    "hires_height": draw(
        "hires_height", 48, "hires.target_height", beside=HIRES, dump="target=0x48",
        log="hires fix: upscaling to 48x48",
    ),
    "hires_steps": draw(
        "hires_steps", 5, "hires.steps", beside=HIRES, dump="steps=5", log="hires fix: 12 steps"
    ),
    "hires_denoising_strength": draw(
        "hires_denoising_strength", 0.5, "hires.denoising_strength", beside=HIRES,
        dump="denoising_strength=0.50", log=r"denoising_strength=0\.50",
    ),
    "hires_upscale_tile_size": draw(
        "hires_upscale_tile_size", 16, "hires.upscale_tile_size",
        beside={**HIRES, **TAESD, "hires_upscaler": "x2"}, log="processing 9 tiles",
        files={**TAESD_FILE, "hires_upscaler": ESRGAN},
    ),
    "upscale_model": Case(
        UPSCALE, {"new_upscaler_ctx.0": f"MODELS/{ESRGAN}"},
        log=r"upscaling from \(32 x 32\) to \(64 x 64\)",
        files={"upscale_model": ESRGAN},
    ),
    "upscale_repeats": Case(
        {"upscale_repeats": 2}, {}, beside=UPSCALE,
        log=r"upscaling from \(64 x 64\) to \(128 x 128\)",
        files={"upscale_model": ESRGAN},
    ),
    "upscale_tile_size": Case(
        {"upscale_tile_size": 16}, {"new_upscaler_ctx.4": 16}, beside=UPSCALE,
        log="processing 9 tiles", files={"upscale_model": ESRGAN},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def probe() -> Iterator[EngineChild]:
    with running(PROBE) as child:
        yield child


@pytest.fixture(scope="module")
def blind_probe() -> Iterator[EngineChild]:
    with running((*PROBE, "--blind")) as child:
        yield child


@pytest.fixture(scope="module", autouse=True)
def inputs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name, data in INPUTS.items():
        (_inputs(tmp_path_factory.getbasetemp()) / name).write_bytes(data)
    return _inputs(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def drawn(probe: EngineChild, models_dir: Path) -> Any:
    """Draws an image; one without the parameter serves many cases and is drawn once."""

    def run(context: str, wishes: str, files: str) -> Outcome:
        return _draw(probe, models_dir, context, json.loads(wishes), json.loads(files))

    return cache(run)


def _draw(
    child: EngineChild, models_dir: Path, label: str, wishes: dict[str, Any], files: dict[str, str]
) -> Outcome:
    wishes = {name: tuple(v) if isinstance(v, list) else v for name, v in wishes.items()}
    params = Params(**{"prompt": "a cat", "model": "tiny"} | wishes)
    loras = [("tiny-style.safetensors", 1.0)] if "<lora:" in params.prompt else []
    context = repr((label, sorted(context_params(params).items()), files.get("model")))
    inputs = {DIGESTS[name]: str(_inputs(models_dir.parent) / name) for name in INPUTS}
    draw = request(models_dir, context=context, files=files, loras=loras, inputs=inputs, **wishes)
    return outcome(child, draw)


def _inputs(base: Path) -> Path:
    folder = base / "flag-inputs"
    folder.mkdir(exist_ok=True)
    return folder


def _witnessed(result: Outcome, call: str) -> Any:
    """The last thing that was seen at a C call, None when it was not called."""
    found = re.findall(rf'^1 WITNESS (\["{call}".*)$', result.log, re.MULTILINE)
    return json.loads(found[-1])[1] if found else None


def _members(result: Outcome, paths: dict[str, Any], models_dir: Path) -> dict[str, Any]:
    found = {}
    for path in paths:
        root, *names = path.split(".")
        call = {"ctx": "new_sd_ctx", "img": "generate_image"}.get(root, root)
        value = _witnessed(result, call)
        for name in names:
            value = value[int(name)] if isinstance(value, list) else (value or {}).get(name)
        if isinstance(value, str):
            value = value.replace(str(models_dir), "MODELS")
            value = value.replace(str(_inputs(models_dir.parent)), "INPUTS")
        found[path] = value
    return found


def test_every_parameter_has_a_case_with_another_value_than_its_default() -> None:
    # Those of videos have theirs in test_video.py.
    at_engine = {
        row.name for row in PARAMETERS if row.spec.engine.startswith(("ctx.", "img."))
    }  # fmt: skip
    others = {"mode", "canny", "upscale_model", "upscale_repeats", "upscale_tile_size"}
    # These are about the file, which the engine never sees: tests/unit/test_pictures.py.
    of_the_file = {"metadata", "format", "quality", "lossless", "fps"}
    of_videos = {row.name for row in PARAMETERS if row.spec.engine.startswith("vid.")}
    assert at_engine | others == set(BY_NAME) - of_the_file - of_videos == set(CASES)
    for name, case in CASES.items():
        assert case.wishes[name] != BY_NAME[name].default, name


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pixels != "blind"])
def test_seen_at_the_engine(name: str, drawn: Any, probe: EngineChild, models_dir: Path) -> None:
    case = CASES[name]
    files = {field: file for field, file in case.files.items() if field in case.beside}
    # What acts while loading is only seen while loading: then each image has its own context.
    loads = BY_NAME[name].spec.stage != "draw"
    before = drawn("before" if loads else "", json.dumps(case.beside), json.dumps(files))
    assert isinstance(before.end, Picture), before.end
    if any(path.startswith("new_upscaler_ctx.") for path in case.seen):
        # The one that the case before has left would serve, and none be loaded: leave another.
        other = {**UPSCALE, "upscale_tile_size": 64}
        _draw(probe, models_dir, "", other, {"upscale_model": ESRGAN})
    with_it = _draw(probe, models_dir, name if loads else "", case.beside | case.wishes, case.files)
    assert isinstance(with_it.end, Picture), with_it.end

    assert _members(with_it, case.seen, models_dir) == case.seen
    for path, value in _members(before, case.seen, models_dir).items():
        assert value != case.seen[path], f"{path} is {value} without the parameter as well"
    log = with_it.log.replace(str(models_dir), "MODELS")
    for line in case.dump.splitlines():
        assert line in log
        assert line not in before.log.replace(str(models_dir), "MODELS")
    if case.log:
        assert re.search(case.log, log), log[-2000:]
    if case.pixels != "any":
        same = with_it.pixels == before.pixels
        assert same == (case.pixels == "same")


#: What the engine says of each caching mode, and whether it changes the picture of a small DiT.
CACHES: dict[str, tuple[str, str, bool]] = {
    "disabled": ("", "", False),
    "easycache": ("threshold=100", "EasyCache skipped", True),
    "ucache": ("", "UCache requested but not supported for this model type", False),
    "dbcache": ("fn=1,threshold=100,warmup=1", "CacheDIT enabled - mode: DBCache, Fn: 1,", True),
    "taylorseer": ("", "CacheDIT enabled - mode: TaylorSeer,", False),
    "cache-dit": ("", r"CacheDIT enabled - mode: DBCache\+TaylorSeer,", False),
    "spectrum": ("w=0.5,warmup=3", "Spectrum enabled - w: 0.50, .*warmup: 3", True),
}


def test_every_caching_mode_is_the_engines(
    drawn: Any, probe: EngineChild, models_dir: Path
) -> None:
    assert set(CACHES) == set(BY_NAME["cache_mode"].choices)
    before = drawn("", json.dumps({"steps": 12}), "{}")
    for mode, (option, log, changes) in CACHES.items():
        wishes = {"steps": 12, "cache_mode": mode, "cache_option": option}
        result = _draw(probe, models_dir, "", wishes, {})
        assert re.search(log, result.log), mode
        assert (result.pixels != before.pixels) == changes, mode
        assert any("--cache-mode" in note for note in result.picture.drawn.notes) == (
            mode == "ucache"
        )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pixels == "blind"])
def test_seen_in_the_call_where_no_tiny_model_exists(
    name: str, blind_probe: EngineChild, models_dir: Path
) -> None:
    case = CASES[name]
    result = _draw(blind_probe, models_dir, name, case.wishes, case.files)
    assert isinstance(result.end, Declined)
    assert _members(result, case.seen, models_dir) == case.seen
    assert case.dump in result.log.replace(str(models_dir), "MODELS")
