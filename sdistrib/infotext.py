"""What stands in a picture about its making: the A1111 `parameters` text and our own chunk.

Pure. The form of the text is that of AUTOMATIC1111's web UI (`modules/infotext_utils.py`,
`processing.create_infotext`): prompt, negative prompt, one last line of `Key: value` pairs. Readers
split that line at commas, some of them inside quotes too, so names lose the characters that would
confuse them; the true names are in our own chunk.
"""

import json
import re
from typing import Annotated, Any

import msgspec

from sdistrib.params import BY_NAME, HIRES_UPSCALERS, Params
from sdistrib.protocol.messages import EngineFacts

#: Keyword of the PNG text chunk that A1111 and its readers know.
TEXT_KEY = "parameters"
#: Keyword of our own iTXt chunk; its content is JSON.
CHUNK_KEY = "sdistrib"

#: The engine's samplers by the names that A1111 and its forks show.
SAMPLERS: dict[str, str] = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpm++2s_a": "DPM++ 2S a",
    "dpm++2m": "DPM++ 2M",
    "dpm++2mv2": "DPM++ 2M v2",
    "ipndm": "IPNDM",
    "ipndm_v": "IPNDM_V",
    "lcm": "LCM",
    "ddim_trailing": "DDIM Trailing",
    "tcd": "TCD",
    "res_multistep": "Res Multistep",
    "res_2s": "Res 2S",
    "er_sde": "ER SDE",
}
#: The engine's sigma schedules likewise; `discrete` is what A1111 calls Uniform.
SCHEDULERS: dict[str, str] = {
    "discrete": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "ays": "Align Your Steps",
    "gits": "GITS",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "smoothstep": "Smoothstep",
    "kl_optimal": "KL Optimal",
    "lcm": "LCM",
    "bong_tangent": "Bong Tangent",
}

_UNSAFE = re.compile(r'[,:"\n\r]+')
_DISTILLED_DEFAULT = Params(prompt="x").guidance


class UsedFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model file that went into the picture."""

    #: Parameter that named it ("model", "vae", …; a prompt for a LoRA or an embedding).
    field: str
    #: Name in the worker's catalogue.
    name: str
    #: SHA-256 in hex; empty when the worker did not know it yet.
    digest: str = ""
    #: "lora" or "embeddings" for what a prompt named, else empty.
    kind: str = ""


class PictureFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a picture's metadata is made from. Equal facts give equal bytes.

    The petition's id and the image's index are not among them: the same picture, drawn again by the
    same worker, is the same file.
    """

    #: The image's own seed.
    seed: Annotated[int, msgspec.Meta(ge=0)]
    params: Params
    files: tuple[UsedFile, ...] = ()
    #: Sampler and scheduler that the engine really used, by its own names.
    sampling_method: str = ""
    scheduler: str = ""
    engine: EngineFacts
    #: Stable name of the worker.
    worker: str
    #: Digest over load-time parameters and model files.
    context: str
    #: Version of sdistrib.
    version: str


def build(facts: PictureFacts) -> str:
    """The A1111 `parameters` text, LoRA tags included, without a final newline."""
    params = facts.params
    lines = []
    pairs: list[tuple[str, Any]] = []
    if params.mode != "upscale":
        lines.append(params.prompt.rstrip("\n"))
        if params.negative_prompt:
            lines.append(f"Negative prompt: {params.negative_prompt}")
        pairs += [*_sampling(facts), *_models(facts), *_options(facts)]
    pairs += _postprocessing(facts)
    pairs.append(("Version", f"sdistrib {facts.version}"))
    lines.append(", ".join(f"{key}: {value}" for key, value in pairs))
    return "\n".join(lines)


def chunk(facts: PictureFacts) -> str:
    """Our own chunk: everything as JSON with sorted keys, parameters at their defaults left out."""
    plain = msgspec.to_builtins(facts)
    # msgspec leaves out only defaults that are the very same object, and a list that was read again
    # is none: equal facts would give other bytes.
    plain["params"] = {
        name: value
        for name, value in plain["params"].items()
        if getattr(facts.params, name) != BY_NAME[name].default
    }
    return json.dumps(plain, ensure_ascii=False, sort_keys=True)


def parse_chunk(text: str) -> PictureFacts:
    """Read `chunk`'s text back.

    Raises:
        ValueError: the text is not of this form.
    """
    return msgspec.json.decode(text.encode(), type=PictureFacts)


def _sampling(facts: PictureFacts) -> list[tuple[str, Any]]:
    params = facts.params
    sampler = facts.sampling_method or params.sampling_method or ""
    scheduler = facts.scheduler or params.scheduler or ""
    pairs: list[tuple[str, Any]] = [("Steps", params.steps)]
    if sampler:
        pairs.append(("Sampler", SAMPLERS.get(sampler, _plain(sampler))))
    if scheduler:
        pairs.append(("Schedule type", SCHEDULERS.get(scheduler, _plain(scheduler))))
    pairs.append(("CFG scale", params.cfg_scale))
    if params.guidance != _DISTILLED_DEFAULT:
        pairs.append(("Distilled CFG Scale", params.guidance))
    pairs += [("Seed", facts.seed), ("Size", f"{params.width}x{params.height}")]
    return pairs


def _models(facts: PictureFacts) -> list[tuple[str, str]]:
    """Hashes are A1111's: the first 10 hex digits of a file's SHA-256, 12 for those in prompts."""
    pairs: list[tuple[str, str]] = []
    used = {file.field: file for file in facts.files if not file.kind}
    model = used.get("model") or used.get("diffusion_model")
    if model:
        pairs += [*_hashed("Model hash", model), ("Model", _short(model.name))]
    if "vae" in used:
        # A1111 shows a VAE with its extension and a model without.
        pairs += [*_hashed("VAE hash", used["vae"]), ("VAE", _plain(_last(used["vae"].name)))]
    return pairs


def _options(facts: PictureFacts) -> list[tuple[str, Any]]:
    """Settings that A1111 writes only when they differ from its own defaults."""
    params = facts.params
    pairs: list[tuple[str, Any]] = []
    if params.init_image:
        pairs.append(("Denoising strength", params.strength))
    if params.clip_skip > 1:
        pairs.append(("Clip skip", params.clip_skip))
    if params.eta is not None:
        pairs.append(("Eta", params.eta))
    if params.hires:
        pairs += _hires(params)
    if params.circular or (params.circularx and params.circulary):
        pairs.append(("Tiling", True))
    if params.rng == "cpu":
        pairs.append(("RNG", "CPU"))
    pairs += _prompt_files("Lora hashes", "lora", facts)
    pairs += _prompt_files("TI hashes", "embeddings", facts)
    return pairs


def _prompt_files(key: str, kind: str, facts: PictureFacts) -> list[tuple[str, Any]]:
    files = [file for file in facts.files if file.kind == kind and file.digest]
    named = ", ".join(f"{_short(file.name)}: {file.digest[:12]}" for file in files)
    return [(key, json.dumps(named, ensure_ascii=False))] if named else []


def _hires(params: Params) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    if not params.init_image:
        # A1111 has one field for both, and no highres fix of a given picture.
        pairs.append(("Denoising strength", params.hires_denoising_strength))
    if params.hires_width and params.hires_height:
        pairs.append(("Hires resize", f"{params.hires_width}x{params.hires_height}"))
    else:
        pairs.append(("Hires upscale", params.hires_scale))
    if params.hires_steps:
        pairs.append(("Hires steps", params.hires_steps))
    built_in = params.hires_upscaler in HIRES_UPSCALERS
    upscaler = params.hires_upscaler if built_in else _short(params.hires_upscaler)
    pairs.append(("Hires upscaler", upscaler))
    return pairs


def _postprocessing(facts: PictureFacts) -> list[tuple[str, str]]:
    """The finished picture was made larger. Source: A1111's `postprocessing_upscale`."""
    used = [file for file in facts.files if file.field == "upscale_model"]
    return [("Postprocess upscaler", _short(file.name)) for file in used]


def _hashed(key: str, file: UsedFile) -> list[tuple[str, str]]:
    return [(key, file.digest[:10])] if file.digest else []


def _plain(text: str) -> str:
    return " ".join(_UNSAFE.sub(" ", text).split())


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _short(name: str) -> str:
    return _plain(_last(name).rpartition(".")[0] or _last(name))
