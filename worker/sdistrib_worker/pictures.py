"""Pixels to picture files. Equal pixels, facts and forms give equal bytes."""

import zlib
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdistrib import exiftext, infotext
from sdistrib.errors import EngineError, ErrorInfo
from sdistrib.infotext import PictureFacts
from sdistrib.protocol.codec import Buffer
from sdistrib_worker.effects import FileForm

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: Measured on photo-like 1024 x 1024 RGB, CPU time and size: Pillow's default (level 6) 155 ms and
#: 2023 KiB, level 1 172 ms and 2189 KiB, level 1 with run lengths only 80 ms and 2022 KiB; on flat
#: drawings the last is as quick and 20 % larger than the default. After PNG's row filters long
#: matches are rare, so that looking for them costs more than it saves.
_LEVEL = 1
_STRATEGY = zlib.Z_RLE
#: The longest side that a format can say; PNG's is beyond anything drawn.
SIDE_MAX = {"jpeg": 65_500, "webp": 16_383}
#: What one segment of a JPEG file holds, after its length and its kind.
_SEGMENT_BYTES_MAX = 65_533
_XMP_BYTES_MAX = _SEGMENT_BYTES_MAX - len(b"http://ns.adobe.com/xap/1.0/\0")
#: Above it JPEG keeps the colours at full size, as sd-cli's writer does.
_HALF_COLOURS_UP_TO = 90


def encode(
    pixels: Buffer,
    width: int,
    height: int,
    channels: int,
    facts: PictureFacts | None,
    form: FileForm,
) -> tuple[bytes, tuple[str, ...]]:
    """The picture as a file, and what it had no room for.

    Args:
        pixels: `height * width * channels` bytes, row by row from the top.
        width: pixels per row.
        height: rows.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA; JPEG drops the last).
        facts: written as A1111's `parameters` text and our own chunk; None leaves nothing.
        form: the format and its settings.

    Raises:
        EngineError: the pixels are not what the numbers say, or more than the format can hold.
    """
    mode = _MODES.get(channels)
    if mode is None or len(pixels) != width * height * channels or not len(pixels):
        message = (
            f"The engine's picture of {width}x{height}x{channels} has {len(pixels)} bytes;"
            f" {width * height * channels} with 1, 3 or 4 channels are expected."
        )
        raise EngineError(ErrorInfo(code="engine_error", message=message))
    side_max = SIDE_MAX.get(form.format, max(width, height))
    if max(width, height) > side_max:
        message = f"{width}x{height}: a {form.format} file has at most {side_max} pixels a side."
        raise EngineError(ErrorInfo(code="too_large", message=message, field="format"))
    image = Image.frombytes(mode, (width, height), bytes(pixels))
    file = BytesIO()
    if form.format == "png":
        _save_png(image, file, facts)
        return file.getvalue(), ()
    room = _SEGMENT_BYTES_MAX if form.format == "jpeg" else None
    metadata, notes = metadata_of(facts, room)
    if form.format == "jpeg":
        _save_jpeg(image, file, form, metadata)
    else:
        # Losslessly, "quality" is how hard it tries; that is Pillow's own choice then.
        loss = {"lossless": True} if form.lossless else {"quality": form.quality}
        image.save(file, "WEBP", **loss, **metadata)
    return file.getvalue(), notes


def _save_png(image: Image.Image, file: BytesIO, facts: PictureFacts | None) -> None:
    text = PngInfo()
    if facts is not None:
        text.add_text(infotext.TEXT_KEY, infotext.build(facts))
        text.add_itxt(infotext.CHUNK_KEY, infotext.chunk(facts))
    image.save(file, "PNG", compress_level=_LEVEL, compress_type=_STRATEGY, pnginfo=text)


def _save_jpeg(image: Image.Image, file: BytesIO, form: FileForm, metadata: dict[str, Any]) -> None:
    if image.mode == "RGBA":
        image = image.convert("RGB")
    subsampling = "4:2:0" if form.quality <= _HALF_COLOURS_UP_TO else "4:4:4"
    image.save(file, "JPEG", quality=form.quality, subsampling=subsampling, **metadata)


def metadata_of(
    facts: PictureFacts | None, room: int | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Pillow's arguments for the metadata, and notes on what did not fit into `room` bytes."""
    if facts is None:
        return {}, ()
    exif = Image.Exif()
    exif.get_ifd(exiftext.EXIF_IFD)[exiftext.USER_COMMENT] = exiftext.user_comment(
        infotext.build(facts)
    )
    found: dict[str, Any] = {"exif": exif.tobytes()}
    packet = exiftext.packet(infotext.chunk(facts))
    notes = []
    if room is not None and len(found["exif"]) > room:
        del found["exif"]
        notes.append("The JPEG file has no room for A1111's parameters text: the prompts are long.")
    if room is None or len(packet) <= _XMP_BYTES_MAX:
        found["xmp"] = packet
    else:
        notes.append("The JPEG file has no room for our chunk, so --from cannot draw it again.")
    return found, tuple(notes)
