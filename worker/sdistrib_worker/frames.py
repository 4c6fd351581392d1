"""Frames of a video to one file: animated lossless WebP, which every frame comes back out of."""

import itertools
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

from PIL import Image

from sdistrib.protocol.codec import Buffer

#: Measured on photo-like 832 x 480: 21 ms a frame, against 104 ms for 10 % fewer bytes with
#: Pillow's own settings, and 70 ms for 44 % fewer with method 3.
_SETTINGS = {"lossless": True, "exact": True, "method": 0, "quality": 0}


def encode_film(
    pixels: Buffer, shape: tuple[int, int, int, int], fps: int, **metadata: Any
) -> bytes:
    """A film as an animated WebP that repeats.

    Args:
        pixels: `frames * height * width * channels` bytes, frame by frame.
        shape: width, height, channels (3 or 4) and frames.
        fps: frames per second.
        metadata: `exif` and `xmp` as Pillow takes them.
    """
    width, height, channels, frames = shape
    mode = "RGBA" if channels == 4 else "RGB"
    view, size = memoryview(pixels), width * height * channels

    def pictures() -> Iterator[Image.Image]:
        for number in range(frames):
            part = view[number * size : (number + 1) * size]
            yield Image.frombytes(mode, (width, height), part)

    film, file = pictures(), BytesIO()
    next(film).save(
        file,
        "WEBP",
        save_all=True,
        append_images=film,
        duration=durations_ms(frames, fps),
        loop=0,
        **_SETTINGS,
        **metadata,
    )
    return file.getvalue()


def durations_ms(frames: int, fps: int) -> Sequence[int]:
    """Whole milliseconds for each frame, so that no error adds up."""
    ends = [round(1000 * number / fps) for number in range(frames + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]
