"""What a worker's owner allows it to draw: which models, how large. Pure."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from sdistrib.errors import ConfigError, ErrorInfo
from sdistrib.params import Params, drawn_pixels, drawn_size
from sdistrib.protocol.messages import Declared
from sdistrib_worker.shelf import StoredFile

#: Kinds of files that are models; the others are parts, and stay.
_MODELS = ("stable-diffusion", "diffusion")


def allowed_files(files: Iterable[StoredFile], globs: Sequence[str]) -> tuple[StoredFile, ...]:
    """The files without those models that no pattern allows; all of them without patterns.

    A pattern is a shell's (`*`, `?`, `[…]`), in any case, for the name below its folder or its last
    part, with or without extension.
    """
    if not globs:
        return tuple(files)
    wanted = [glob.lower() for glob in globs]
    return tuple(entry for entry in files if not is_model(entry) or _fits(entry.file.name, wanted))


def is_model(entry: StoredFile) -> bool:
    """It is a model, and no part of one."""
    return entry.file.kind in _MODELS


def _fits(name: str, globs: Sequence[str]) -> bool:
    whole = name.lower()
    spellings = {whole, whole.rpartition(".")[0]}
    spellings |= {spelling.rpartition("/")[2] for spelling in spellings}
    return any(fnmatchcase(spelling, glob) for spelling in spellings for glob in globs)


def parse_pixels(text: str) -> int:
    """A number of pixels: "1048576" or "1024x1024".

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,5}))?", text.strip().lower())
    pixels = int(match[1]) * int(match[2] or 1) if match else 0
    if not pixels:
        raise ConfigError(f"--max-pixels {text!r}: write a number, or WIDTHxHEIGHT.")
    return pixels


def parse_size(option: str, text: str) -> int:
    """A number of bytes: "8G", "500M", "123456", "1.5 GiB"; K, M, G and T are powers of 1024.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    size = int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " ")) if match else 0
    if not size:
        raise ConfigError(f"{option} {text!r}: write a size such as 8G or 500M.")
    return size


def too_large(params: Params, declared: Declared) -> ErrorInfo | None:
    """Why a picture is too large for this worker, if it is; another one may draw it.

    The size of one that is only to be enlarged is known to the engine child, which checks it.
    """
    if params.mode == "upscale":
        return None
    width, height = drawn_size(params)
    pixels = drawn_pixels(params)
    if not declared.max_pixels or pixels <= declared.max_pixels:
        return None
    what = f"{params.video_frames} x " if params.video_frames > 1 else ""
    return ErrorInfo(
        code="too_large",
        message=f"{what}{width}x{height} is more than the {declared.max_pixels} pixels"
        " (--max-pixels) of this worker.",
    )
