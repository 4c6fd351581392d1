"""What flags other than -p and -n add to the prompts: files, LoRAs, embeddings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from sdistrib import limits

#: Field of the petition's parameters -> flag that names a file with its text.
_FILES = {"prompt": "prompt_file", "negative_prompt": "negative_prompt_file"}
#: Wish of `compose` -> flag.
_NAMES = {"loras": "lora", "embeddings": "embedding"}
#: A byte order mark and a line's end do not count.
_READ_BYTES = limits.PROMPT_BYTES_MAX + 8


def prompts_of(values: Mapping[str, Any], *, typed_only: bool = False) -> dict[str, Any]:
    """The wishes that these flags utter; `typed_only` leaves out what variables say.

    Raises:
        click.UsageError: a text is given twice, or its file cannot be read.
    """
    source = click.get_current_context().get_parameter_source
    wishes: dict[str, Any] = {}
    for field, flag in _FILES.items():
        if not values[flag] or (typed_only and not _is_typed(flag)):
            continue
        if values[field] is not None and source(field) is source(flag):
            short = "-p" if field == "prompt" else "-n"
            raise click.UsageError(
                f"{short} and --{flag.replace('_', '-')} are the same; give one."
            )
        if values[field] is None or _is_typed(flag):
            wishes[field] = _read(Path(values[flag]), flag)
    for wish, flag in _NAMES.items():
        if values[flag] and (_is_typed(flag) or not typed_only):
            wishes[wish] = values[flag]
    return wishes


def _is_typed(flag: str) -> bool:
    source = click.get_current_context().get_parameter_source(flag)
    return source is ParameterSource.COMMANDLINE


def _read(path: Path, flag: str) -> str:
    name = f"--{flag.replace('_', '-')} {path}"
    try:
        with path.open("rb") as file:
            data = file.read(_READ_BYTES)
    except OSError as error:
        raise click.UsageError(f"{name}: {error.strerror}.") from None
    try:
        # What was cut off may have been in the middle of a character.
        text = "" if len(data) == _READ_BYTES else data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError(f"{name} is not valid UTF-8.") from None
    if len(data) == _READ_BYTES or len(text.encode()) > limits.PROMPT_BYTES_MAX:
        raise click.UsageError(f"{name} has more than {limits.PROMPT_BYTES_MAX} bytes.")
    return text
