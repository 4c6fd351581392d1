"""Fills the engine's C structs from the table of parameters.

Which member takes which parameter stands in `sdistrib.params`; how a value becomes a C value
stands here. Nothing else in this package writes a struct member that a user can choose.
Source: `SDContextParams::to_sd_ctx_params_t`, `SDGenerationParams::to_sd_img_gen_params_t`.
"""

import ctypes
import re
from collections.abc import Callable, Iterator
from typing import Any

from sdistrib.models import hires_model
from sdistrib.params import HIRES_UPSCALERS, PARAMETERS, Parameter, Params, cache_settings
from sdistrib.prompts import replace_embeddings, split_loras
from sdistrib.protocol.engine import Draw
from sdistrib_worker.engine import capi, embedding
from sdistrib_worker.engine.base import RefusalError
from sdistrib_worker.engine.capi import api
from sdistrib_worker.engine.inputs import Pixels, check_reference, read_picture

#: Upscalers of highres fix that look at pixels and so need the VAE's encoder (and any model does).
_PIXEL_UPSCALERS = ("lanczos", "nearest")
#: The word that PhotoMaker replaces. Source: `FrozenCLIPEmbedderWithCustomWords::trigger_word`.
_TRIGGER = re.compile(r"\bimg\b", re.IGNORECASE)


class Filled:
    """The structs of one request, and everything they point to, kept alive together.

    Raises:
        RefusalError: `invalid_params` for an input file that is no picture, naming its flag.
        PetitionError, ValueError: a value that this engine does not take.
    """

    def __init__(self, request: Draw) -> None:
        #: `sd_ctx_params_t`.
        self.ctx = capi.ctx_params()
        #: `sd_img_gen_params_t`.
        self.img = capi.img_gen_params()
        #: The word for each embedding in the engine's prompts, by its name in the petition's.
        self.words = {one.name: embedding.word_of(one.path) for one in request.embeddings}
        #: `sd_vid_gen_params_t`.
        self.vid = capi.vid_gen_params()
        #: The one of the two that is drawn with.
        self.drawn = self.vid if request.params.mode == "vid_gen" else self.img
        self._request = request
        self._written: set[str] = set()
        self._kept: list[Any] = []
        for row in PARAMETERS:
            if row.spec.engine and self._takes(row):
                self._fill(row, getattr(request.params, row.name))
        self._fill_rest()

    def _takes(self, row: Parameter) -> bool:
        """The struct that is drawn with has this member; `check` saw to it that none is missed."""
        root, *members = row.spec.engine.split(".")
        return root == "ctx" or hasattr(self.drawn, members[0].split("+")[0])

    def _fill(self, row: Parameter, value: Any) -> None:
        if row.spec.input:
            if value:
                _INPUTS[row.name](self, row, value)
            return
        if special := _SPECIAL.get(row.spec.engine):
            special(self, value)
            return
        for path, part in _members(row.spec.engine, value):
            self._set(row, path, part)

    def _set(self, row: Parameter, path: str, value: Any) -> None:
        holder, member = self._holder(path)
        if row.spec.kind is not None:
            value = self._request.files[row.name].encode() if value else None
        elif isinstance(value, str):
            value = capi.enum_value(member, value) if capi.is_enum(member) else value.encode()
        elif value is False and path in self._written:
            # Two flags may stand for one member (--circular, --circularx): either switches it on.
            value = getattr(holder, member)
        if value is not None:
            setattr(holder, member, value)
            self._written.add(path)

    def _holder(self, path: str) -> tuple[Any, str]:
        root, *between, member = path.split(".")
        holder = self.ctx if root == "ctx" else self.drawn
        for name in between:
            holder = getattr(holder, name)
        return holder, member

    def fill_cache(self, _: str) -> None:
        """The settings that belong to the mode; those not named stay the engine's own."""
        for member, number in cache_settings(self._request.params).items():
            setattr(self.drawn.cache, member, number)

    def fill_cache_mode(self, word: str) -> None:
        """The only words that the engine has no `str_to_*` for."""
        name = "SD_CACHE_" + word.upper().replace("-", "_")
        self.drawn.cache.mode = int(api.SDCacheMode[name])

    def fill_scm_mask(self, mask: str) -> None:
        """No mask is NULL, not an empty one."""
        self.drawn.cache.scm_mask = mask.encode() or None

    def fill_scm_policy(self, word: str) -> None:
        """A word for people, a switch for the engine."""
        self.drawn.cache.scm_policy_dynamic = word == "dynamic"

    def fill_upscaler(self, wanted: str) -> None:
        """A built-in upscaler in any case, or a model's file; "None" switches highres fix off."""
        hires, params = self.img.hires, self._request.params
        if hires_model(params):
            hires.upscaler = capi.enum_value("upscaler", "Model")
            if params.hires:
                hires.model_path = self._request.files["hires_upscaler"].encode()
            return
        word = next(name for name in HIRES_UPSCALERS if name.lower() == wanted.lower())
        hires.upscaler = capi.enum_value("upscaler", word)
        if word == "None":
            hires.enabled = False

    def fill_layers(self, layers: tuple[int, ...]) -> None:
        """An array and its length."""
        slg = self.drawn.sample_params.guidance.slg
        slg.layers, slg.layer_count = self._array(ctypes.c_int, layers), len(layers)

    def fill_high_noise_layers(self, layers: tuple[int, ...]) -> None:
        """An array and its length."""
        slg = self.vid.high_noise_sample_params.guidance.slg
        slg.layers, slg.layer_count = self._array(ctypes.c_int, layers), len(layers)

    def fill_high_noise_steps(self, steps: int) -> None:
        """None at all means the same as -1. Source: `SDGenerationParams::resolve`."""
        self.vid.high_noise_sample_params.sample_steps = steps if steps > 0 else -1

    def fill_sigmas(self, sigmas: tuple[float, ...]) -> None:
        """An array and its length."""
        sample = self.drawn.sample_params
        sample.custom_sigmas = self._array(ctypes.c_float, sigmas)
        sample.custom_sigmas_count = len(sigmas)

    def fill_threads(self, wish: int) -> None:
        """The petition's wish, else the worker's policy, else the engine's own count."""
        if threads := wish or self._request.threads:
            self.ctx.n_threads = threads

    def fill_prompt(self, prompt: str) -> None:
        """LoRAs travel resolved, in the request; their tags must not be read as words."""
        self.drawn.prompt = replace_embeddings(split_loras(prompt)[0], self.words).encode()

    def fill_negative_prompt(self, prompt: str) -> None:
        """Embeddings have other names for the engine."""
        self.drawn.negative_prompt = replace_embeddings(prompt, self.words).encode()

    def fill_init(self, row: Parameter, digest: str) -> None:
        """The picture to start from in the request's size; one to be enlarged in its own."""
        params = self._request.params
        size = None if params.mode == "upscale" else (params.width, params.height)
        self.drawn.init_image = self._image(row, digest, size)

    def fill_mask(self, row: Parameter, digest: str) -> None:
        """One channel. Without a mask the engine takes a white one, which sd-cli makes itself."""
        params = self._request.params
        self.img.mask_image = self._image(row, digest, (params.width, params.height), channels=1)

    def fill_control(self, row: Parameter, digest: str) -> None:
        """The control picture, or its edges with the thresholds that sd-cli has."""
        params = self._request.params
        image = self._image(row, digest, (params.width, params.height))
        if params.canny and not api.preprocess_canny(image, 0.08, 0.08, 0.8, 1.0, False):
            raise RefusalError("engine_error", "The engine found no edges for --canny.")
        self.img.control_image = image

    def fill_references(self, row: Parameter, digests: tuple[str, ...]) -> None:
        """Reference pictures keep their size; the engine resizes them unless that is off."""
        images = [self._image(row, digest) for digest in digests]
        for image in images:
            check_reference(row, (image.width, image.height), self._request.params)
        self.img.ref_images = self._array(api.sd_image_t, images)
        self.img.ref_images_count = len(images)

    def fill_persons(self, row: Parameter, digests: tuple[str, ...]) -> None:
        """Pictures of a person in their own size; the engine crops them."""
        if not _TRIGGER.search(self._request.params.prompt):
            # The engine asserts that it is there.
            message = "PhotoMaker puts the person where the prompt says 'img'; write it there."
            raise RefusalError("invalid_params", message)
        images = [self._image(row, digest) for digest in digests]
        self.img.pm_params.id_images = self._array(api.sd_image_t, images)
        self.img.pm_params.id_images_count = len(images)

    def fill_end(self, row: Parameter, digest: str) -> None:
        """The last frame, in the request's size."""
        params = self._request.params
        self.vid.end_image = self._image(row, digest, (params.width, params.height))

    def fill_frames(self, row: Parameter, digests: tuple[str, ...]) -> None:
        """Frames to follow, in the request's size, no more than the video has."""
        params = self._request.params
        size = (params.width, params.height)
        frames = [self._image(row, digest, size) for digest in digests[: params.video_frames]]
        self.vid.control_frames = self._array(api.sd_image_t, frames)
        self.vid.control_frames_size = len(frames)

    def fill_embedding(self, _: Parameter, digest: str) -> None:
        """The one input file that the engine reads itself."""
        self.img.pm_params.id_embed_path = self._request.inputs[digest].encode()

    def _image(
        self, row: Parameter, digest: str, size: tuple[int, int] | None = None, channels: int = 3
    ) -> Any:
        """An `sd_image_t` of an input file, whose pixels live as long as this object."""
        pixels = read_picture(self._request.inputs[digest], row, size, channels)
        return _as_image(pixels, self._kept)

    def _fill_rest(self) -> None:
        request = self._request
        # Weights stay: the next image of this context needs them again.
        self.ctx.free_params_immediately = False
        self.ctx.vae_decode_only = not needs_encoder(request.params)
        self.drawn.seed = request.seed
        # It seeds each image anew, with the seed behind the one before.
        self.img.batch_count = request.count
        loras = [
            api.sd_lora_t(one.high_noise, one.weight, one.path.encode()) for one in request.loras
        ]
        self.drawn.loras = self._array(api.sd_lora_t, loras)
        self.drawn.lora_count = len(loras)
        self._fill_embeddings()

    def _fill_embeddings(self) -> None:
        # Several names may mean one file.
        paths = dict(sorted({self.words[e.name]: e.path for e in self._request.embeddings}.items()))
        files = [
            api.sd_embedding_t(word.encode(), embedding.readable(path).encode())
            for word, path in paths.items()
        ]
        self.ctx.embeddings = self._array(api.sd_embedding_t, files)
        self.ctx.embedding_count = len(files)

    def _array(self, kind: Any, values: Any) -> Any:
        """A C array that lives as long as this object; NULL for no values."""
        if not values:
            return None
        array = (kind * len(values))(*values)
        self._kept.append(array)
        return array


#: Members whose C value is more than the parameter's own.
_SPECIAL: dict[str, Callable[[Filled, Any], None]] = {
    "ctx.n_threads": Filled.fill_threads,
    "img.prompt": Filled.fill_prompt,
    "img.negative_prompt": Filled.fill_negative_prompt,
    "img.sample_params.guidance.slg.layers": Filled.fill_layers,
    "img.sample_params.custom_sigmas": Filled.fill_sigmas,
    "vid.high_noise_sample_params.sample_steps": Filled.fill_high_noise_steps,
    "vid.high_noise_sample_params.guidance.slg.layers": Filled.fill_high_noise_layers,
    "img.cache": Filled.fill_cache,
    "img.cache.mode": Filled.fill_cache_mode,
    "img.cache.scm_mask": Filled.fill_scm_mask,
    "img.cache.scm_policy_dynamic": Filled.fill_scm_policy,
    "img.hires.upscaler": Filled.fill_upscaler,
}


#: Parameters that name input files.
_INPUTS: dict[str, Callable[[Filled, Parameter, Any], None]] = {
    "init_image": Filled.fill_init,
    "mask": Filled.fill_mask,
    "control_image": Filled.fill_control,
    "ref_images": Filled.fill_references,
    "pm_id_images": Filled.fill_persons,
    "end_image": Filled.fill_end,
    "control_frames": Filled.fill_frames,
    "pm_id_embed": Filled.fill_embedding,
}


def _as_image(pixels: Pixels, kept: list[Any]) -> Any:
    """The engine may write into its input: `preprocess_canny` does."""
    buffer = (ctypes.c_uint8 * len(pixels.data)).from_buffer_copy(pixels.data)
    kept.append(buffer)
    data = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint8))
    return api.sd_image_t(pixels.width, pixels.height, pixels.channels, data)


def _members(paths: str, value: Any) -> Iterator[tuple[str, Any]]:
    """ "ctx.a+b" with a pair gives a its first and b its second part; else both get the value."""
    root, _, rest = paths.partition(".")
    names = rest.split("+")
    values = value if isinstance(value, tuple) else (value,) * len(names)
    for name, part in zip(names, values, strict=True):
        yield f"{root}.{name}", part


def needs_encoder(params: Params) -> bool:
    """True when drawing encodes pixels, so that the context needs the VAE's encoder too.

    Source: `main` of sd-cli.
    """
    pixels = bool(hires_model(params)) or params.hires_upscaler.lower() in _PIXEL_UPSCALERS
    wanted = params.mode == "vid_gen" or params.init_image or params.ref_images
    return bool(wanted) or (params.hires and pixels)


def asked_size(params: Params) -> tuple[int, int]:
    """Width and height that the petition asks the engine for, highres fix included.

    Source: `GenerationRequest::resolve_hires`; one target side given means a square.
    """
    if not params.hires or params.hires_upscaler.lower() == "none":
        return params.width, params.height
    width, height = params.hires_width, params.hires_height
    if width or height:
        return width or height, height or width
    return round(params.width * params.hires_scale), round(params.height * params.hires_scale)
