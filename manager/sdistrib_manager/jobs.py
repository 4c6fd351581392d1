"""Petitions and workers as the scheduler sees them."""

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

from sdistrib.models import Wanted, wanted_files
from sdistrib.params import (
    BY_NAME,
    MODEL_FIELDS,
    ModelKind,
    Params,
    context_params,
    drawn_pixels,
    drawn_size,
)
from sdistrib.petitions import Petition, Relief
from sdistrib.prompts import split_loras
from sdistrib_manager.scheduler.work import PRIORITIES, Job

#: Samplers that evaluate the model twice in one step (sd.cpp `denoiser.hpp`).
_TWICE = frozenset({"heun", "dpm2", "dpm++2s_a", "res_2s"})
#: Hex digits of a context key.
_KEY_DIGITS = 32

#: The name under which some worker has a file, for a name as a client wrote it; None: nobody has.
Find = Callable[[ModelKind, str], str | None]


class Kind(NamedTuple):
    """What decides which workers can draw a petition, beside its size."""

    wanted: tuple[Wanted, ...]
    #: Of the picture that the engine makes, highres fix included; of all frames of a video. 0 where
    #: a given picture is made larger: only the engine sees its size.
    pixels: int
    #: What each of these files must be: its digest, empty where that is not known, and its size.
    #: Empty before the first grant.
    contents: tuple[tuple[str, int], ...] = ()
    #: Of the engines that may draw it; empty: any.
    fingerprint: str = ""
    #: Decoded in tiles, which takes less memory.
    tiled: bool = False
    #: In which other ways it may be drawn where memory is short. One that may must not wait behind
    #: one that may not.
    rungs: tuple[Relief, ...] = ("",)


def make_job(
    petition_id: str,
    client: str,
    petition: Petition,
    find: Find,
    decided: frozenset[str] = frozenset(),
) -> Job:
    """The petition for the scheduler, nothing of it waiting yet.

    `decided` are parameters that all workers' owners decide themselves, whatever it wishes.
    """
    params = petition.params
    return Job(
        id=petition_id,
        client=client,
        context=context_key(params, find, decided),
        pixels=params.width * params.height * params.video_frames,
        steps=evaluations(params),
        number=0,
        arrived_at=0.0,
        priority=PRIORITIES[petition.priority],
        kind=Kind(
            wanted_files(params),
            0 if params.mode == "upscale" else drawn_pixels(params),
            tiled=params.vae_tiling,
            rungs=rungs(petition),
        ),
        hedge=petition.hedge,
        beside=params.mode == "upscale",
    )


def rungs(petition: Petition) -> tuple[Relief, ...]:
    """The ways in which its images may be drawn, each with less memory than the one before."""
    if petition.on_oom != "tile":
        return ("",)
    ways: list[Relief] = [""]
    # An upscaler has no VAE.
    if not petition.params.vae_tiling and petition.params.mode != "upscale":
        ways.append("tile")
    if not petition.params.offload_to_cpu:
        ways.append("offload")
    return tuple(ways)


def evaluations(params: Params) -> int:
    """Evaluations of the diffusion model for one image, of its own size.

    Guidance evaluates it with and without the prompt; highres fix adds a pass over more pixels.
    From a picture only the last steps are drawn. An upscaler counts as one.
    """
    if params.mode == "upscale":
        return 1
    each = (2 if params.cfg_scale > 1.0 else 1) * (2 if params.sampling_method in _TWICE else 1)
    steps = params.steps * (params.strength if params.init_image else 1.0)
    steps += max(0, params.high_noise_steps)
    if params.hires:
        width, height = drawn_size(params)
        part = (params.hires_steps or params.steps) * params.hires_denoising_strength
        steps += part * width * height / (params.width * params.height)
    return max(1, round(steps * each))


def context_key(params: Params, find: Find, decided: frozenset[str] = frozenset()) -> str:
    """What an engine must have loaded for these parameters, as far as names can tell.

    The manager's own key: workers make theirs from the files' contents. Names that mean the same
    file on the workers there are give the same key, and so do wishes that none of them follows.
    """
    other = decided | MODEL_FIELDS.keys()
    load = {name: v for name, v in context_params(params).items() if name not in other}
    files: set[tuple[str, str]] = set()
    for want in wanted_files(params):
        if want.kind == "embeddings":
            files.add((want.kind, _name(want, find)))
            continue
        is_part = want.field in BY_NAME and BY_NAME[want.field].spec.stage == "load"
        if is_part and want.kind != "lora":
            files.add((want.field, _name(want, find)))
    loras: list[tuple[str, float, bool]] = []
    if params.lora_apply_mode != "at_runtime":
        for tag in split_loras(params.prompt)[1]:
            name = _name(Wanted("prompt", "lora", tag.name), find)
            loras.append((name, tag.weight, tag.high_noise))
    if params.mode == "upscale":
        # All that is loaded is the upscaler.
        files = {("upscale_model", _name(want, find)) for want in wanted_files(params)}
    text = json.dumps([load, sorted(files), loras], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def plain_context(model: str, find: Find) -> str:
    """The key of a checkpoint loaded with every parameter at its default."""
    return context_key(Params(prompt="", model=model), find)


def _name(want: Wanted, find: Find) -> str:
    return find(want.kind, want.name) or want.name.replace("\\", "/").lower()
