"""Input files to pixels, as sd-cli makes them of a user's pictures.

This runs in the engine child and nowhere else: whatever a hostile file does to a decoder, it does
to a process that may die. Source of the rules: `load_image_common` of sd-cli, which reads with
stb_image and resizes with stb_image_resize: no EXIF orientation, alpha dropped, 16 bits cut to the
upper 8, the middle cut out when the shape differs, then an average over areas in linear light.
Differences: grey pictures are taken (sd-cli refuses them), and Pillow's JPEG and WebP decoders may
be a grey level or two away from its decoders.
"""

import math
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from PIL import Image, ImageMath, UnidentifiedImageError

from sdistrib import limits
from sdistrib.params import Parameter, Params
from sdistrib_worker.engine.base import RefusalError

#: What stb_image and sd-cli's WebP read and people have; each more is one more parser.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM")
#: Levels of linear light between its floating point and the final lookup.
_LEVELS = 65536


class Pixels(NamedTuple):
    """A decoded picture."""

    width: int
    height: int
    #: 1 or 3.
    channels: int
    #: `height * width * channels` bytes, row by row from the top, no padding.
    data: bytes


def read_picture(
    path: str, row: Parameter, size: tuple[int, int] | None = None, channels: int = 3
) -> Pixels:
    """Decode an input file.

    Args:
        path: the file.
        row: the parameter that names it, for the error.
        size: width and height wanted; None keeps its own.
        channels: 3 for RGB, 1 for grey.

    Raises:
        RefusalError: `invalid_params`, naming the flag.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                _check_pixels(image.size, row)
                plain = _grey(image) if channels == 1 else _rgb(image)
    except (RefusalError, MemoryError):
        raise
    except Image.DecompressionBombError:
        what = f"has more than the {limits.PIXELS_MAX} pixels that are taken"
        raise _refusal(row, what) from None
    except Exception as error:  # noqa: BLE001 - decoders fail on broken files in every way
        formats = ", ".join(_FORMATS)
        said = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise _refusal(row, f"is no picture that can be read{said}; {formats} can") from None
    if size is not None and plain.size != size:
        plain = resized(cropped(plain, size), size)
    return Pixels(plain.width, plain.height, channels, plain.tobytes())


def check_reference(row: Parameter, size: tuple[int, int], params: Params) -> None:
    """Refuse a reference picture that the engine would resize to nothing, and die of it.

    Source: `prepare_image_generation_latents`.

    Raises:
        RefusalError: `invalid_params`.
    """
    if not params.auto_resize_ref_image:
        return
    width, height = size
    wide = math.sqrt(min(1024 * 1024, params.width * params.height) * width // height)
    # Rounded to the coarsest grid that any model has, 32, less than half of it is nothing.
    if min(wide, wide * height / width) < 16:
        raise _refusal(row, f"of {width}x{height} is too narrow for this size of picture")


def _refusal(row: Parameter, what: str) -> RefusalError:
    return RefusalError("invalid_params", f"The file of {row.spec.flags[-1]} {what}.")


def _check_pixels(size: tuple[int, int], row: Parameter) -> None:
    if size[0] * size[1] > limits.PIXELS_MAX:
        raise _refusal(
            row, f"has {size[0]}x{size[1]} pixels, more than the {limits.PIXELS_MAX} that are taken"
        )


def _rgb(image: Image.Image) -> Image.Image:
    """RGB without alpha, unblended: what lies under transparency counts, as in stb_image."""
    if image.mode.startswith("I"):
        image = _upper_bytes(image)
    if image.mode in ("LA", "La", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """One channel, weighted as stb_image does."""
    if image.mode.startswith("I"):
        return _upper_bytes(image)
    if image.mode in ("L", "1"):
        return image.convert("L")
    red, green, blue = _rgb(image).split()
    return _evaluated(
        lambda of: of["convert"]((of["r"] * 77 + of["g"] * 150 + of["b"] * 29) >> 8, "L"),
        r=red, g=green, b=blue,
    )  # fmt: skip


def _upper_bytes(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 by leaving the lower byte out; Pillow would clip at 255."""
    wide = image if image.mode == "I;16" else image.convert("I;16")
    return Image.frombytes("L", wide.size, wide.tobytes()[1::2])


def cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest part in the middle that has the shape of `size`."""
    width, height = image.size
    wanted, given = size[0] / size[1], width / height
    if given > wanted:
        wide = max(1, int(height * wanted))
        left = (width - wide) // 2
        return image.crop((left, 0, left + wide, height))
    if given < wanted:
        high = max(1, int(width / wanted))
        top = (height - high) // 2
        return image.crop((0, top, width, top + high))
    return image


# --- resizing ---------------------------------------------------------------------------------


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image` (L or RGB) in another size: each pixel is the mean light of the area it covers.

    What stb_image_resize makes with its box filter and sRGB colours, to within a grey level.
    Whole rows are weighed at a time, since Pillow has no such filter: milliseconds per 100 rows.
    """
    if image.size == size:
        return image
    bands = [band.point(_to_linear(), "F") for band in image.split()]
    bands = _rows_resized(bands, size[1])
    bands = [band.transpose(Image.Transpose.TRANSPOSE) for band in bands]
    bands = _rows_resized(bands, size[0])
    bands = [_from_linear(band.transpose(Image.Transpose.TRANSPOSE)) for band in bands]
    return Image.merge(image.mode, bands)


def _rows_resized(bands: list[Image.Image], count: int) -> list[Image.Image]:
    """The bands (F) with `count` rows each."""
    width, height = bands[0].size
    if height == count:
        return bands
    # Side by side, so that one operation weighs a row of all.
    source = Image.new("F", (width * len(bands), height))
    target = Image.new("F", (width * len(bands), count))
    for index, band in enumerate(bands):
        source.paste(band, (index * width, 0))
    for index in range(count):
        target.paste(_mean(source, index, height, count), (0, index))
    return [
        target.crop((index * width, 0, (index + 1) * width, count)) for index in range(len(bands))
    ]


def _mean(source: Image.Image, index: int, height: int, count: int) -> Image.Image:
    """The row that covers `index … index + 1` of `count` parts of the height."""
    width = source.width
    parts = list(_coverage(index, height, count))
    if len(parts) == 1:
        return source.crop((0, parts[0][0], width, parts[0][1]))
    total = None
    for top, bottom, weight in parts:
        row = source.resize((width, 1), Image.Resampling.BOX, box=(0, top, width, bottom))
        weighed = _times(row, weight)
        total = weighed if total is None else _plus(total, weighed)
    assert total is not None  # noqa: S101 - every part of the height covers something
    return total


def _coverage(index: int, height: int, count: int) -> Iterator[tuple[int, int, float]]:
    """Runs of source rows and their weights, which add up to 1; in exact arithmetic."""
    first, last = index * height, (index + 1) * height
    top, bottom = first // count, -(-last // count)
    begin = min((top + 1) * count, last) - first
    if bottom - top == 1:
        yield top, bottom, 1.0
        return
    end = last - (bottom - 1) * count
    yield top, top + 1, begin / height
    if bottom - top > 2:
        yield top + 1, bottom - 1, (bottom - top - 2) * count / height
    yield bottom - 1, bottom, end / height


def _times(row: Image.Image, weight: float) -> Image.Image:
    return _evaluated(lambda of: of["a"] * weight, a=row)


def _plus(one: Image.Image, other: Image.Image) -> Image.Image:
    return _evaluated(lambda of: of["a"] + of["b"], a=one, b=other)


def _evaluated(expression: Any, **images: Image.Image) -> Image.Image:
    result = ImageMath.lambda_eval(expression, **images)
    assert isinstance(result, Image.Image)  # noqa: S101 - a number only without images
    return result


@cache
def _to_linear() -> list[float]:
    """Linear light of the 256 sRGB levels. Source: IEC 61966-2-1."""
    levels = [level / 255 for level in range(256)]
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]


@cache
def _to_levels() -> list[int]:
    """sRGB levels of 65536 steps of linear light."""
    lights = [step / (_LEVELS - 1) for step in range(_LEVELS)]
    return [
        round(255 * (v * 12.92 if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055))
        for v in lights
    ]


def _from_linear(band: Image.Image) -> Image.Image:
    steps = _evaluated(lambda of: of["convert"](of["a"] * float(_LEVELS - 1) + 0.5, "I"), a=band)
    return steps.point(_to_levels(), "L")
