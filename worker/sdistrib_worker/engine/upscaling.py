"""The upscaler that is loaded, and making pictures larger with it."""

import ctypes
from typing import Any, NamedTuple

from sdistrib import limits
from sdistrib.protocol.engine import Draw
from sdistrib_worker.engine import capi
from sdistrib_worker.engine.base import RefusalError
from sdistrib_worker.engine.capi import api
from sdistrib_worker.engine.structs import Filled
from sdistrib_worker.engine.telling import Telling


class Upscaler(NamedTuple):
    """An upscaler that is loaded, and what it was loaded from."""

    handle: Any
    key: tuple[object, ...]
    #: How much it enlarges each side; its own property, not ours to choose.
    factor: int


class Upscaling:
    """Keeps the last upscaler. It is small, so it does not count among the contexts."""

    def __init__(self, telling: Telling) -> None:
        self._telling = telling
        #: None where none is loaded.
        self.loaded: Upscaler | None = None

    def load(self, request: Draw, filled: Filled, size: tuple[int, int]) -> Upscaler | None:
        """Have the right upscaler for a picture of this size, or None where none is wanted.

        Source: `main` of sd-cli.

        Raises:
            RefusalError: it cannot be loaded, or would make the picture too large.
        """
        params, ctx = request.params, filled.ctx
        if not params.upscale_model:
            return None
        path = request.files["upscale_model"]
        key = (
            path, ctx.offload_params_to_cpu, ctx.diffusion_conv_direct, ctx.n_threads,
            params.upscale_tile_size,
        )  # fmt: skip
        if self.loaded is None or self.loaded.key != key:
            self.free()
            handle = api.new_upscaler_ctx(path.encode(), *key[1:])
            if not handle:
                # The context is loaded and stays.
                raise self._telling.refusal("The engine could not load the upscaler")
            self.loaded = Upscaler(handle, key, int(api.get_upscale_factor(handle)))
        _check_size(request, size, self.loaded.factor)
        return self.loaded

    def enlarge(
        self, image: Any, upscaler: Upscaler | None, repeats: int, kept: Any = None
    ) -> None:
        """Enlarge `image` in place, freeing what it was unless that is `kept`."""
        if upscaler is None:
            return
        self._telling.enter("upscaling")
        for _ in range(repeats):
            larger = api.upscale(upscaler.handle, image, upscaler.factor)
            if not larger.data:
                raise self._telling.refusal("The engine could not enlarge the picture")
            free_unless(kept, image)
            image.width, image.height = larger.width, larger.height
            image.channel, image.data = larger.channel, larger.data

    def free(self) -> bool:
        """Free it; False where there is none."""
        upscaler, self.loaded = self.loaded, None
        if upscaler is not None:
            api.free_upscaler_ctx(upscaler.handle)
        return upscaler is not None


def free_unless(kept: Any, image: Any) -> None:
    """Free a picture of the engine, unless its pixels are those of `kept`."""
    if kept is None or ctypes.addressof(kept.data.contents) != ctypes.addressof(
        image.data.contents
    ):
        capi.free_image(image)


def _check_size(request: Draw, size: tuple[int, int], factor: int) -> None:
    width, height = size
    times = factor**request.params.upscale_repeats
    frames = request.params.video_frames
    most = limits.PICTURE_BYTES_MAX if frames == 1 else limits.PIXEL_BYTES_MAX
    if width * height * 3 * times**2 * frames > most:
        message = (
            f"Enlarging {width}x{height} by {times} makes {width * times}x{height * times}"
            f" pixels, more than sdistrib sends."
        )
        raise RefusalError("too_large", message)
