"""The real engine child, with a witness at the C calls.

Each call of `new_sd_ctx`, `generate_image`, `preprocess_canny`, `new_upscaler_ctx` and `upscale`
first writes what it got as one JSON line "WITNESS …" to stderr, which the supervisor hands out as a
log line. With `--blind` the contexts are not really made: for parameters that no tiny model can
take. With `--film` the model is taken for one that makes videos, of which there is no tiny one:
what it would be asked is told, and frames are given back as the engine would. With `--heap` nothing
but the bytes in use on the heap is told, before each image; with `--heap=FILE` there, see `heap`.
With `--crowded=C` the C function of that name finds no memory while more than one context is
loaded, with `C!` never again from then on; nothing is told.
"""

import ctypes
import hashlib
import json
import sys
from typing import Any

from sdistrib_worker.engine import __main__ as program
from sdistrib_worker.engine import preview, sdcpp
from sdistrib_worker.engine.capi import api
from tests.support.heap import Notes, heap_bytes


def plain(struct: Any) -> dict[str, Any]:
    """A struct as JSON: nested structs, C strings, and the arrays that have a count beside them."""
    if isinstance(struct, api.sd_image_t):
        return picture(struct)
    result: dict[str, Any] = {}
    for name, kind in struct._fields_:
        value = getattr(struct, name)
        if isinstance(value, ctypes.Structure):
            result[name] = plain(value)
        elif isinstance(value, bytes):
            result[name] = value.decode()
        elif isinstance(value, ctypes._Pointer):
            count = _count(struct, name)
            items = [value[i] for i in range(count)] if value else []
            result[name] = [plain(i) if isinstance(i, ctypes.Structure) else i for i in items]
        elif kind is ctypes.c_float:
            result[name] = round(value, 6) if abs(value) < 1e30 else "inf"
        else:
            result[name] = value
    return result


def picture(image: Any) -> dict[str, Any]:
    """An `sd_image_t` by its size and the digest of its pixels."""
    size = image.width * image.height * image.channel
    pixels = ctypes.string_at(image.data, size) if image.data else b""
    return {
        "size": [image.width, image.height, image.channel],
        "pixels": hashlib.sha256(pixels).hexdigest(),
    }


def _count(struct: Any, name: str) -> int:
    for other in (f"{name}_count", f"{name.removesuffix('s')}_count", f"{name}_size"):
        if hasattr(struct, other):
            return int(getattr(struct, other))
    return 0


def _say(call: str, seen: object) -> None:
    sys.stderr.write(f"WITNESS {json.dumps([call, seen])}\n")
    sys.stderr.flush()


def _wrap(name: str, describe: Any, blind: bool = False) -> None:
    original = getattr(api, name)

    def witness(*arguments: Any) -> Any:
        _say(name, describe(*arguments))
        return None if blind else original(*arguments)

    setattr(api, name, witness)


def _wrap_heap(path: str) -> None:
    original, notes = api.generate_image, Notes("engine", path)

    def witness(*arguments: Any) -> Any:
        notes.note()
        return original(*arguments)

    api.generate_image = witness


def _crowd(name: str) -> None:
    """No memory for this call beside a second context; says so as ggml does."""
    name, for_ever, full = name.rstrip("!"), name.endswith("!"), False
    loaded: set[int] = set()
    new, free, original = api.new_sd_ctx, api.free_sd_ctx, getattr(api, name)

    def make(*arguments: Any) -> Any:
        context = new(*arguments)
        loaded.add(_address(context))
        return context

    def drop(context: Any) -> None:
        loaded.remove(_address(context))
        free(context)

    def refuse(*arguments: Any) -> Any:
        nonlocal full
        # What is being loaded counts as well.
        full = (full and for_ever) or len(loaded) + (name == "new_sd_ctx") > 1
        if full:
            assert sdcpp._ears.engine is not None
            sdcpp._ears.engine.hear_line(3, "ggml_aligned_malloc: insufficient memory")
            return None
        return make(*arguments) if name == "new_sd_ctx" else original(*arguments)

    api.new_sd_ctx, api.free_sd_ctx = make, drop
    setattr(api, name, refuse)


def _address(context: Any) -> int:
    return ctypes.cast(context, ctypes.c_void_p).value or 0


def _film(_: object, params: Any, count: Any) -> Any:
    """Frames in the engine's own memory: each one grey is a step lighter than the one before."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    frames, size = params.video_frames, params.width * params.height * 3
    kind = api.sd_image_t * frames
    images = kind.from_address(libc.malloc(ctypes.sizeof(kind)))
    for number in range(frames):
        data = libc.malloc(size)
        ctypes.memset(data, number + params.seed, size)
        pixels = ctypes.cast(data, ctypes.POINTER(ctypes.c_uint8))
        images[number] = api.sd_image_t(params.width, params.height, 3, pixels)
    count._obj.value = frames
    given = ctypes.cast(images, ctypes.POINTER(api.sd_image_t))
    _tell_film(params, frames, given)
    return given


def _tell_film(params: Any, frames: int, given: Any) -> None:
    """The lines and reports of `generate_video`, and a preview when step 1 is done."""
    engine, steps = sdcpp._ears.engine, params.sample_params.sample_steps
    assert engine is not None
    engine.hear_line(1, f"x.cpp:1 - generate_video {params.width}x{params.height}x{frames}")
    for step in range(steps + 1):
        engine.hear_progress(step, steps)
        if step == 0:
            preview._on_preview(1, frames, given, False, None)
    engine.hear_line(1, "x.cpp:1 - generating latent video completed, taking 0.01s")


def main() -> None:
    marked = sys.argv[-1].startswith(("--blind", "--heap", "--film", "--crowded="))
    option = sys.argv.pop() if marked else ""
    if option.startswith("--crowded="):
        _crowd(option.partition("=")[2])
        program.main()
    if option.startswith("--heap="):
        _wrap_heap(option.partition("=")[2])
        program.main()
    if option == "--heap":
        _wrap("generate_image", lambda *_: heap_bytes())
        program.main()
    if option == "--film":
        api.sd_ctx_supports_video_generation = lambda _: True
        api.sd_ctx_supports_image_generation = lambda _: False
        api.generate_video = _film
    blind = option == "--blind"
    _wrap("new_sd_ctx", plain, blind)
    _wrap("generate_image", lambda _, params: plain(params))
    _wrap("generate_video", lambda _, params, count: plain(params))
    _wrap("new_upscaler_ctx", lambda path, *rest: [path.decode(), *rest])
    _wrap("preprocess_canny", lambda image, *rest: [picture(image), *rest])
    _wrap("upscale", lambda _, image, factor: [image.width, image.height, factor])
    program.main()


if __name__ == "__main__":
    main()
