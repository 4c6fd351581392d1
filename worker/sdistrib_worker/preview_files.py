"""Previews as small files, for the encoder's thread."""

import logging
from io import BytesIO
from typing import Literal, NamedTuple

from PIL import Image

from sdistrib import limits
from sdistrib.protocol.codec import Buffer
from sdistrib_worker.effects import EncodePreview
from sdistrib_worker.events import PreviewEncoded
from sdistrib_worker.supervisor import Glimpse

_LOG = logging.getLogger("sdistrib.worker")

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: Up to this side a preview stays as it is: latents projected to colours are no photographs.
_PNG_SIDE_MAX = 128
#: Of a JPEG; 512 x 512 pixels of pure noise have 280 KiB then.
_QUALITY = 80


class Encoded(NamedTuple):
    """A preview as a file."""

    #: Its bytes.
    data: bytes
    #: Its media format.
    format: Literal["png", "jpeg"]
    #: Its size in pixels.
    width: int
    height: int


def encode(order: EncodePreview) -> PreviewEncoded:
    """Carry out an order, and be done with its pixels."""
    glimpse: Glimpse = order.pixels
    frame = glimpse.previewed
    try:
        pixels = glimpse.pixels()
        encoded = encode_preview(pixels, frame.width, frame.height, frame.channels)
    except Exception:  # noqa: BLE001 - nothing depends on a preview, and another one may do
        _LOG.exception("a preview could not be encoded")
        return PreviewEncoded(order.attempt, b"")
    finally:
        glimpse.close()
    return PreviewEncoded(order.attempt, *encoded)


def encode_preview(pixels: Buffer, width: int, height: int, channels: int) -> Encoded:
    """A preview as a file of at most `limits.PREVIEW_SIDE_MAX` pixels a side, lossy unless tiny.

    Args:
        pixels: `height * width * channels` bytes, row by row from the top.
        width: pixels per row.
        height: rows.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).

    Raises:
        ValueError: the pixels are not what the numbers say, or the file is too large.
    """
    mode = _MODES.get(channels)
    if mode is None or len(pixels) != width * height * channels:
        raise ValueError(f"{len(pixels)} bytes for {width}x{height}x{channels}")
    image = Image.frombytes(mode, (width, height), bytes(pixels)).convert("RGB")
    most = limits.PREVIEW_SIDE_MAX
    if max(image.size) > most:
        image.thumbnail((most, most), Image.Resampling.BILINEAR)
    form: Literal["png", "jpeg"] = "png" if max(image.size) <= _PNG_SIDE_MAX else "jpeg"
    file = BytesIO()
    image.save(file, form, quality=_QUALITY, compress_level=1)
    if file.tell() > limits.PREVIEW_BYTES_MAX:
        raise ValueError(f"a preview of {file.tell()} bytes")
    return Encoded(file.getvalue(), form, *image.size)
