"""Picture files that others wrote, read with suspicion: what they say of their making, and pixels.

Pillow parses them, in the three formats that sdistrib writes and no other, and bounds what a
compressed chunk may unfold to. Whatever is wrong with a file ends as one typed error.
"""

import hashlib
import importlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdistrib import exiftext, limits
from sdistrib.errors import ConfigError, PetitionError
from sdistrib.infotext import CHUNK_KEY, TEXT_KEY

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
#: What Pillow's parsers raise on files that are not what they say, beside its own errors.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError,
    struct.error, zlib.error, MemoryError,
)  # fmt: skip


def read_bytes(path: Path) -> bytes:
    """A whole picture file.

    Raises:
        PetitionError: `invalid_params` when it cannot be read, `too_large`.
    """
    try:
        if not path.is_file():
            raise PetitionError.of("invalid_params", f"{path} is no file.")
        with path.open("rb") as file:
            data = file.read(limits.PICTURE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PetitionError.of("invalid_params", f"Cannot read {path}: {reason}.") from None
    if len(data) > limits.PICTURE_BYTES_MAX:
        message = f"{path} has more than {limits.PICTURE_BYTES_MAX} bytes."
        raise PetitionError.of("too_large", message)
    return data


def open_picture(data: bytes) -> "Image":
    """The picture as Pillow has it; its pixels are not decoded yet. Raises what Pillow does.

    Raises:
        ConfigError: Pillow is not installed.
    """
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError:
        raise ConfigError("Pillow is not installed; run pip install 'sdistrib[client]'.") from None
    image: Image = pillow.open(io.BytesIO(data), formats=FORMATS)
    return image


def texts_of(data: bytes, file: str) -> dict[str, str]:
    """What a picture says, by key: the text chunks of a PNG; else A1111's text and our chunk.

    Raises:
        PetitionError: `invalid_params`: it is none of the formats, or damaged.
        ConfigError: Pillow is not installed.
    """
    with _suspicion(file):
        image = open_picture(data)
        return texts(image)


def texts(image: "Image") -> dict[str, str]:
    """The texts of an open picture, as `texts_of`. Raises what Pillow does."""
    if image.format == "PNG":
        found: dict[str, str] = image.text  # type: ignore[attr-defined] # of PngImageFile
        return {key: str(text) for key, text in found.items()}
    return _exif_texts(image)


def _exif_texts(image: "Image") -> dict[str, str]:
    found: dict[str, str] = {}
    comment = image.getexif().get_ifd(exiftext.EXIF_IFD).get(exiftext.USER_COMMENT)
    if comment:
        raw = comment.encode() if isinstance(comment, str) else bytes(comment)
        found[TEXT_KEY] = exiftext.read_user_comment(raw)
    xmp = image.info.get("xmp")
    if isinstance(xmp, bytes):
        for key, name in ((TEXT_KEY, "sdcpp:parameters"), (CHUNK_KEY, "sdistrib:facts")):
            text = exiftext.read_packet(xmp, name)
            if text is not None:
                found[key] = text
    return found


def pictures_of(data: bytes, file: str, most: int) -> "Iterator[Image]":
    """The frames of a video, decoded, at most so many; of a picture that one. Raises as `texts_of`.

    Each is good until the next one is asked for.
    """
    with _suspicion(file):
        image = open_picture(data)
        count = getattr(image, "n_frames", 1)
    for number in range(min(count, most)):
        # What is done with a frame outside is none of our suspicions.
        with _suspicion(file):
            image.seek(number)
            image.load()
        yield image


def pixels_of(data: bytes, file: str) -> tuple[tuple[int, int], int, str]:
    """Size, number of frames, and a digest of red, green, blue of each pixel of all of them.

    Raises as `texts_of`.
    """
    size, count, digest = (0, 0), 0, hashlib.sha256()
    for picture in pictures_of(data, file, limits.VIDEO_FRAMES_MAX):
        size, count = picture.size, count + 1
        digest.update(picture.convert("RGB").tobytes())
    return size, count, digest.hexdigest()


@contextmanager
def _suspicion(file: str) -> Iterator[None]:
    """Anything that a file can be wrong in becomes `invalid_params`."""
    bombs: tuple[Any, ...] = ()
    try:
        pillow = importlib.import_module("PIL.Image")
        bombs = (pillow.DecompressionBombError, pillow.DecompressionBombWarning)
        with warnings.catch_warnings():
            # Pillow complains of damaged EXIF in warnings, and of large pictures before it refuses.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            yield
    except ImportError:
        raise ConfigError("Pillow is not installed; run pip install 'sdistrib[client]'.") from None
    except (*_BROKEN, *bombs) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        unknown = type(error).__name__ == "UnidentifiedImageError"
        why = "is no PNG, JPEG or WebP file" if unknown else f"is damaged: {reason}"
        raise PetitionError.of("invalid_params", f"{file} {why}.") from None
