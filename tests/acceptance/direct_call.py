"""Draw through the engine's C API, and with nothing of sdistrib: the pixels to be equal to.

`python direct_call.py OUT_DIR < wishes.json` writes raw RGB, one file per image: 0.rgb, 1.rgb …
The wishes are a list of images; each has members of the C structs by their path:

    {"ctx": {"model_path": "…"}, "img": {"prompt": "a cat", "hires.enabled": true},
     "embeddings": [["word", "path"]], "loras": [["path", 0.5]],
     "upscale": {"path": "…", "tile_size": 128, "repeats": 2}}

A text is a C string, an enum's word stands as
["str_to_scheduler", "karras"], an array as ["float", 0.5, 0.0], its length is another member.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from stable_diffusion_cpp import stable_diffusion_cpp as api


def _fill(struct: Any, wishes: dict[str, Any], kept: list[Any]) -> None:
    for path, value in wishes.items():
        *between, member = path.split(".")
        holder = struct
        for name in between:
            holder = getattr(holder, name)
        setattr(holder, member, _c_value(value, kept))


def _c_value(value: Any, kept: list[Any]) -> Any:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, list):
        return value
    kind, *rest = value
    if kind != "float":
        return getattr(api._lib, kind)(rest[0].encode())
    kept.append((ctypes.c_float * len(rest))(*rest))
    return kept[-1]


def _bytes(image: Any) -> bytes:
    return ctypes.string_at(image.data, image.width * image.height * image.channel)


class Contexts:
    """The context drawn with last, kept for the next image that wants the same."""

    def __init__(self) -> None:
        self._wanted: Any = None
        self._context: Any = None

    def get(self, wishes: dict[str, Any]) -> Any:
        wanted = (wishes["ctx"], wishes.get("embeddings"))
        # Merged LoRAs leave traces in the weights.
        if wanted != self._wanted or "lora_apply_mode" in wishes["ctx"]:
            self.free()
            self._wanted, self._context = wanted, load(wishes)
        return self._context

    def free(self) -> None:
        if self._context:
            api.free_sd_ctx(self._context)


def load(wishes: dict[str, Any]) -> Any:
    kept: list[Any] = []
    ctx = api.sd_ctx_params_t()
    api._lib.sd_ctx_params_init(ctypes.byref(ctx))
    ctx.n_threads, ctx.vae_decode_only, ctx.free_params_immediately = 1, True, False
    ctx.lora_apply_mode = 2
    _fill(ctx, wishes["ctx"], kept)
    embeddings = [
        api.sd_embedding_t(word.encode(), path.encode())
        for word, path in wishes.get("embeddings", ())
    ]
    if embeddings:
        ctx.embeddings = (api.sd_embedding_t * len(embeddings))(*embeddings)
        ctx.embedding_count = len(embeddings)
    context = api.new_sd_ctx(ctx)
    assert context
    return context


def draw(wishes: dict[str, Any], context: Any) -> bytes:
    kept: list[Any] = []
    img = api.sd_img_gen_params_t()
    api._lib.sd_img_gen_params_init(ctypes.byref(img))
    img.batch_count = 1
    _fill(img, wishes["img"], kept)
    loras = [
        api.sd_lora_t(False, weight, path.encode()) for path, weight in wishes.get("loras", ())
    ]
    if loras:
        img.loras = (api.sd_lora_t * len(loras))(*loras)
        img.lora_count = len(loras)
    sample = img.sample_params
    if sample.scheduler == api.Scheduler.SCHEDULER_COUNT:
        # As sd-cli does: the second pass of highres fix takes what stands here.
        if sample.sample_method == api.SampleMethod.SAMPLE_METHOD_COUNT:
            sample.sample_method = api.sd_get_default_sample_method(context)
        sample.scheduler = api.sd_get_default_scheduler(context, sample.sample_method)
    image = api.generate_image(context, img)[0]
    if wanted := wishes.get("upscale"):
        upscaler = api.new_upscaler_ctx(
            wanted["path"].encode(), False, False, 1, wanted["tile_size"]
        )
        for _ in range(wanted["repeats"]):
            image = api.upscale(upscaler, image, api.get_upscale_factor(upscaler))
        api.free_upscaler_ctx(upscaler)
    return _bytes(image)


def main() -> None:
    contexts = Contexts()
    for number, image in enumerate(json.load(sys.stdin)):
        Path(sys.argv[1], f"{number}.rgb").write_bytes(draw(image, contexts.get(image)))
    contexts.free()


if __name__ == "__main__":
    main()
