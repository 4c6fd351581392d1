"""The engine's C API where the binding does not declare it, on the binding's own library.

Everything here is a thin typed call; what it means is decided in `structs` and `sdcpp`.
Source: `include/stable-diffusion.h` and ggml's `ggml-backend.h`, as vendored by engine 0.4.7.
"""

import ctypes
import hashlib
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import stable_diffusion_cpp
from stable_diffusion_cpp import stable_diffusion_cpp as api

from sdistrib_worker.engine.device import Device, DeviceKind

__all__ = ["api"]

#: Version of the binding, for example "0.4.7".
VERSION: str = stable_diffusion_cpp.__version__

_lib: Any = api._lib  # noqa: SLF001 - the functions missing from the binding are in here only
_libc = ctypes.CDLL(None)


def _declare(name: str, arguments: list[Any], result: Any = None) -> Any:
    function = getattr(_lib, name)
    function.argtypes = arguments
    function.restype = result
    return function


_libc.free.argtypes = [c_void_p]
_libc.free.restype = None
_malloc_trim = getattr(_libc, "malloc_trim", None)
_ctx_params_init = _declare("sd_ctx_params_init", [POINTER(api.sd_ctx_params_t)])
_img_gen_params_init = _declare("sd_img_gen_params_init", [POINTER(api.sd_img_gen_params_t)])
_vid_gen_params_init = _declare("sd_vid_gen_params_init", [POINTER(api.sd_vid_gen_params_t)])
_sample_params_init = _declare("sd_sample_params_init", [POINTER(api.sd_sample_params_t)])
# The texts come back as plain pointers: as c_char_p ctypes would copy them and lose what to free.
_ctx_params_to_str = _declare("sd_ctx_params_to_str", [POINTER(api.sd_ctx_params_t)], c_void_p)
_img_gen_params_to_str = _declare(
    "sd_img_gen_params_to_str", [POINTER(api.sd_img_gen_params_t)], c_void_p
)
_sample_params_to_str = _declare(
    "sd_sample_params_to_str", [POINTER(api.sd_sample_params_t)], c_void_p
)
#: Words to numbers, by the last part of the member's name.
_WORDS: dict[str, Any] = {
    "wtype": _declare("str_to_sd_type", [c_char_p], c_int),
    "rng_type": _declare("str_to_rng_type", [c_char_p], c_int),
    "sampler_rng_type": _declare("str_to_rng_type", [c_char_p], c_int),
    "prediction": _declare("str_to_prediction", [c_char_p], c_int),
    "lora_apply_mode": _declare("str_to_lora_apply_mode", [c_char_p], c_int),
    "sample_method": _declare("str_to_sample_method", [c_char_p], c_int),
    "scheduler": _declare("str_to_scheduler", [c_char_p], c_int),
    "upscaler": _declare("str_to_sd_hires_upscaler", [c_char_p], c_int),
}
#: What the functions above give for a word they do not know, and what "not chosen" is.
COUNTS: dict[str, int] = {
    "wtype": int(api.GGMLType.SD_TYPE_COUNT),
    "rng_type": int(api.RNGType.RNG_TYPE_COUNT),
    "sampler_rng_type": int(api.RNGType.RNG_TYPE_COUNT),
    "prediction": int(api.Prediction.PREDICTION_COUNT),
    "lora_apply_mode": int(api.LoraApplyMode.LORA_APPLY_MODE_COUNT),
    "sample_method": int(api.SampleMethod.SAMPLE_METHOD_COUNT),
    "scheduler": int(api.Scheduler.SCHEDULER_COUNT),
    "upscaler": int(api.SDHiresUpscaler.SD_HIRES_UPSCALER_COUNT),
}
_NAMES: dict[str, Any] = {
    "wtype": _declare("sd_type_name", [c_int], c_char_p),
    "rng_type": _declare("sd_rng_type_name", [c_int], c_char_p),
    "sampler_rng_type": _declare("sd_rng_type_name", [c_int], c_char_p),
    "prediction": _declare("sd_prediction_name", [c_int], c_char_p),
    "lora_apply_mode": _declare("sd_lora_apply_mode_name", [c_int], c_char_p),
    "sample_method": _declare("sd_sample_method_name", [c_int], c_char_p),
    "scheduler": _declare("sd_scheduler_name", [c_int], c_char_p),
    "upscaler": _declare("sd_hires_upscaler_name", [c_int], c_char_p),
}
_dev_count = _declare("ggml_backend_dev_count", [], c_size_t)
_dev_get = _declare("ggml_backend_dev_get", [c_size_t], c_void_p)
_dev_name = _declare("ggml_backend_dev_name", [c_void_p], c_char_p)
_dev_description = _declare("ggml_backend_dev_description", [c_void_p], c_char_p)
_dev_type = _declare("ggml_backend_dev_type", [c_void_p], c_int)
_dev_memory = _declare("ggml_backend_dev_memory", [c_void_p, POINTER(c_size_t), POINTER(c_size_t)])
#: `enum ggml_backend_dev_type`.
_KINDS: tuple[DeviceKind, ...] = ("cpu", "gpu", "igpu", "accel")


def ctx_params() -> Any:
    """A fresh `sd_ctx_params_t` with the engine's own defaults."""
    params = api.sd_ctx_params_t()
    _ctx_params_init(params)
    return params


def img_gen_params() -> Any:
    """A fresh `sd_img_gen_params_t` with the engine's own defaults."""
    params = api.sd_img_gen_params_t()
    _img_gen_params_init(params)
    return params


def vid_gen_params() -> Any:
    """A fresh `sd_vid_gen_params_t` with the engine's own defaults."""
    params = api.sd_vid_gen_params_t()
    _vid_gen_params_init(params)
    return params


def sample_params() -> Any:
    """A fresh `sd_sample_params_t` with the engine's own defaults."""
    params = api.sd_sample_params_t()
    _sample_params_init(params)
    return params


def ctx_params_text(params: Any) -> str:
    """`params` as the engine itself prints them, one member per line."""
    return _taken_text(_ctx_params_to_str(params))


def img_gen_params_text(params: Any) -> str:
    """`params` as the engine itself prints them; its buffer ends at 4 KiB, long prompts cut it."""
    return _taken_text(_img_gen_params_to_str(params))


def vid_gen_params_text(params: Any) -> str:
    """The parts of `params` that the engine can print: how both models sample."""
    parts = (params.sample_params, params.high_noise_sample_params)
    return "\n".join(_taken_text(_sample_params_to_str(part)) for part in parts)


def _taken_text(pointer: int | None) -> str:
    if not pointer:
        raise MemoryError("the engine could not print its parameters")
    try:
        return ctypes.string_at(pointer).decode("utf-8", "replace")
    finally:
        _libc.free(pointer)


def enum_value(member: str, word: str) -> int:
    """The number of a word, through the engine's own `str_to_*`.

    Args:
        member: last part of the struct member's name, for example "scheduler".
        word: as sd-cli spells it.

    Raises:
        ValueError: this engine does not know the word.
    """
    number = int(_WORDS[member](word.encode()))
    if number == COUNTS[member]:
        raise ValueError(f"engine {VERSION} has no {member} {word!r}")
    return number


def enum_name(member: str, number: int) -> str:
    """The word of a number, through the engine's own `*_name`."""
    return str(_NAMES[member](number).decode())


def is_enum(member: str) -> bool:
    """True for members that hold the number of a word."""
    return member in _WORDS


def free_image(image: Any) -> None:
    """Free the pixels of one `sd_image_t` that the engine made."""
    _libc.free(ctypes.cast(image.data, c_void_p))
    image.data = None


def free_images(images: Any) -> None:
    """Free the array that `generate_image` gave back; its pixels are freed one by one."""
    _libc.free(ctypes.cast(images, c_void_p))


def trim() -> None:
    """Give free memory of the C heap back to the system, where the C library (glibc) can.

    What several contexts leave between them it would keep: two kept ones grew from 290 to 390 MB.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def devices() -> list[Device]:
    """Every device that the library was built for and sees now."""
    found = []
    for index in range(_dev_count()):
        handle = _dev_get(index)
        free, total = c_size_t(), c_size_t()
        _dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        found.append(
            Device(
                name=_dev_name(handle).decode(),
                description=_dev_description(handle).decode("utf-8", "replace"),
                kind=_KINDS[_dev_type(handle)],
                memory_bytes_free=free.value,
                memory_bytes=total.value,
            )
        )
    return found


def system_info() -> str:
    """The engine's own line on the CPU features it uses, blanks folded."""
    return " ".join(api.sd_get_system_info().decode().split()).strip(" |")


@cache
def library_digest() -> str:
    """SHA-256 of the library file, in hex."""
    with Path(_lib._name).open("rb") as file:  # noqa: SLF001 - ctypes has no public word for it
        return hashlib.file_digest(file, "sha256").hexdigest()
