"""Input files of a petition: read from where the caller has them, named by their digest.

What is read when a petition is composed is what is sent. The bytes are held until the manager has
accepted it; should they be needed once more after that, they are read again, and must be the same.
"""

import hashlib
import importlib
import io
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sdistrib import limits
from sdistrib.errors import ConfigError, PetitionError
from sdistrib.params import BY_NAME, INPUT_FIELDS
from sdistrib.petitions import InputFile

#: An input file as a caller gives it: its path, or its bytes.
Given = str | os.PathLike[str] | bytes | bytearray | memoryview

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Fields whose file is no picture.
_OTHER_FILES = frozenset({"pm_id_embed"})
#: Fields that take a folder, and what counts as a picture in it, as sd-cli has it.
_FOLDERS = frozenset({"pm_id_images", "control_frames"})
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


class InputSource:
    """The bytes of one input file, and where they come from."""

    def __init__(self, name: str, data: bytes | memoryview, path: Path | None = None) -> None:
        #: How messages call it: its path, if it has one.
        self.name = name
        self.file = InputFile(hashlib.sha256(data).hexdigest(), len(data))
        self._path = path
        self._data: bytes | memoryview | None = data

    def piece(self, start: int, end: int) -> memoryview:
        """Bytes `start … end`.

        Raises:
            PetitionError: `invalid_params`: they cannot be read any more, or are others now.
        """
        if self._data is None:
            self._data = self._read_again()
        return memoryview(self._data)[start:end]

    def release(self) -> None:
        """The bytes are with the manager; a file can be read again if need be."""
        if self._path is not None:
            self._data = None

    def _read_again(self) -> bytes:
        try:
            data = (self._path or Path()).read_bytes()
        except OSError as error:
            raise _refused(
                "inputs", self.name, f"cannot be read any more: {error.strerror}"
            ) from None
        if hashlib.sha256(data).hexdigest() != self.file.digest:
            raise _refused("inputs", self.name, "was changed while it was being sent")
        return data


class Read(NamedTuple):
    """Parameters whose input files were read."""

    #: The parameters, with digests in the place of files.
    params: dict[str, Any]
    #: The files, by digest.
    sources: dict[str, InputSource]

    @property
    def files(self) -> list[InputFile]:
        """Digest and size of each file."""
        return [source.file for source in self.sources.values()]


def read_inputs(params: Mapping[str, Any], *, sized: bool = False) -> Read:
    """Read the files that `params` has in the place of digests.

    Args:
        params: fields of `Params`; of an input file the path, or the bytes.
        sized: a width or height that is not given is that of the picture to start from, rounded up
            to what the engine takes.

    Raises:
        PetitionError: `invalid_params`: one cannot be read, is too large, or is no picture.
        ConfigError: Pillow is not installed.
    """
    found = Read(dict(params), {})
    for field in INPUT_FIELDS:
        value = found.params.get(field)
        if field not in found.params:
            continue
        if BY_NAME[field].type is str:
            found.params[field] = "" if value is None else _taken(found, field, value)
        else:
            many = _listed(field, value)
            found.params[field] = tuple(_taken(found, field, one) for one in many)
    total = sum(file.size_bytes for file in found.files)
    if total > limits.STAGED_BYTES_MAX:
        text = f"{total} bytes together; at most {limits.STAGED_BYTES_MAX} are taken"
        raise _refused("inputs", "The input files", f"have {text}")
    if sized and found.params.get("mode") in (None, "img_gen", "vid_gen"):
        _take_size(found)
    return found


def read_all(inputs: Iterable[Given] | Mapping[str, InputSource]) -> Mapping[str, InputSource]:
    """Files of a petition that was composed before, by digest. Raises as `read_inputs`."""
    if isinstance(inputs, Mapping):
        return inputs
    sources = [_source("inputs", given) for given in inputs]
    return {source.file.digest: source for source in sources}


def _taken(found: Read, field: str, value: Given) -> str:
    """The digest of one file, which is read unless the value is its digest already."""
    if isinstance(value, str) and (not value or _DIGEST.fullmatch(value)):
        return value
    source = _source(field, value)
    if field not in _OTHER_FILES:
        _picture_size(field, source)
    found.sources[source.file.digest] = source
    return source.file.digest


def _listed(field: str, value: Any) -> list[Given]:
    if value is None:
        return []
    if not isinstance(value, str | os.PathLike | bytes | bytearray | memoryview):
        return list(value)
    if field not in _FOLDERS or not isinstance(value, str | os.PathLike):
        return [value]
    folder = Path(value)
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    except OSError as error:
        raise _refused(field, str(folder), f"cannot be read: {error.strerror}") from None
    if not paths:
        raise _refused(field, str(folder), "has no picture in it")
    return list(paths)


def _source(field: str, given: Given) -> InputSource:
    if not isinstance(given, str | os.PathLike):
        return _checked(field, "what was given", bytes(given))
    path = Path(given)
    try:
        with path.open("rb") as file:
            data = file.read(limits.INPUT_BYTES_MAX + 1)
    except OSError as error:
        raise _refused(field, str(path), f"cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise _refused(field, repr(str(path)), "is no file name") from None
    # What is no regular file, a pipe for example, gives its bytes only once.
    return _checked(field, str(path), data, path if path.is_file() else None)


def _checked(field: str, name: str, data: bytes, path: Path | None = None) -> InputSource:
    if not data:
        raise _refused(field, name, "is empty")
    if len(data) > limits.INPUT_BYTES_MAX:
        most = limits.INPUT_BYTES_MAX // limits.MIB
        raise _refused(field, name, f"is too large; at most {most} MiB are taken")
    return InputSource(name, data, path)


def _picture_size(field: str, source: InputSource) -> tuple[int, int]:
    """Width and height, from the file's header; nothing is decoded."""
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError:
        raise ConfigError("Pillow is not installed; run pip install 'sdistrib[client]'.") from None
    try:
        # What is too large to be decoded safely is not decoded here.
        with (
            warnings.catch_warnings(action="ignore"),
            pillow.open(io.BytesIO(source.piece(0, source.file.size_bytes))) as picture,
        ):
            size: tuple[int, int] = picture.size
    except Exception as error:  # noqa: BLE001 - whatever a reader of some format makes of bad bytes
        reason = "is no picture that can be read"
        if isinstance(error, pillow.DecompressionBombError):
            reason = "has too many pixels"
        raise _refused(field, source.name, reason) from None
    return size


def _take_size(found: Read) -> None:
    source = found.sources.get(found.params.get("init_image", ""))
    if source is None:
        return
    for name, pixels in zip(("width", "height"), _picture_size("init_image", source), strict=True):
        if found.params.get(name) is None:
            steps = -(-pixels // limits.SIDE_STEP)
            found.params[name] = max(limits.SIDE_MIN, steps * limits.SIDE_STEP)


def _refused(field: str, name: str, what: str) -> PetitionError:
    row = BY_NAME.get(field)
    where = f"{row.spec.flags[0]}: " if row is not None else ""
    return PetitionError.of("invalid_params", f"{where}{name} {what}.", field=field)
