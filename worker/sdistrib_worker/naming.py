"""File names for pictures that a worker keeps on its own disk. Pure.

The owner writes a template; what comes from outside fills its fields and is made harmless first: no
field can hold a separator, lead out of the folder, or be a name that some system reserves. The
template's own slashes make folders.
"""

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sdistrib.errors import ConfigError

DEFAULT_TEMPLATE = "{date}/{model}-{seed}.{ext}"
#: Characters of one field, and bytes of one name: most file systems take 255, and a number and an
#: extension must find room.
_FIELD_CHARS = 100
_NAME_BYTES = 200
#: What some system or shell would not take as part of a name.
_BAD = re.compile(r'[/\\:*?"<>|]')
#: Names that Windows keeps for itself, with any extension; a disk may be read there one day.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_EXTENSIONS = {"jpeg": "jpg"}


@dataclass(frozen=True, slots=True)
class SavedFacts:
    """What a name may tell of a picture."""

    #: Petition.
    id: str
    #: The image in it, and its own seed.
    index: int
    seed: int
    #: Catalogue name of the model.
    model: str
    width: int
    height: int
    steps: int
    #: As the engine used them.
    sampler: str
    scheduler: str
    #: Name of this worker.
    worker: str
    #: Media format: "png", "jpeg", …
    format: str


def _fields(facts: SavedFacts, date: str, time: str) -> dict[str, str]:
    stem = PurePosixPath(facts.model.replace("\\", "/")).name.rpartition(".")
    return {
        "date": date,
        "time": time,
        "id": facts.id[:8],
        "index": str(facts.index),
        "seed": str(facts.seed),
        "model": stem[0] or stem[2],
        "width": str(facts.width),
        "height": str(facts.height),
        "steps": str(facts.steps),
        "sampler": facts.sampler,
        "scheduler": facts.scheduler,
        "worker": facts.worker,
        "ext": _EXTENSIONS.get(facts.format, facts.format),
    }


#: The fields of a template, in the order in which they are shown.
FIELDS = tuple(_fields(SavedFacts("", 0, 0, "", 0, 0, 0, "", "", "", ""), "", ""))


def check_template(template: str) -> str:
    """The template, with the extension that it may have left out.

    Raises:
        ConfigError: a field is unknown, or the name would lead out of the folder.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"--autosave-name {template!r}: {error}.") from None
    for _, field, form, conversion in parsed:
        if field is not None and (field not in FIELDS or form or conversion):
            raise ConfigError(
                f"--autosave-name {template!r}: {{{field}}} is unknown; there are"
                f" {', '.join(FIELDS)}, without anything more in the brackets."
            )
    parts = template.split("/")
    if any(part.strip() in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise ConfigError(
            f"--autosave-name {template!r}: write a name below the folder, / between its parts."
        )
    return template if template.endswith(".{ext}") else template + ".{ext}"


def name_of(template: str, facts: SavedFacts, date: str, time: str) -> str:
    """The name of a picture below the folder, `/` between its parts.

    Args:
        template: as `check_template` gives it.
        facts: what fills its fields.
        date: "2026-11-22", and
        time: "17-05-09", both local.
    """
    fields = {key: _harmless(value) for key, value in _fields(facts, date, time).items()}
    *folders, last = [part.format_map(fields) for part in template.split("/")]
    stem, _, extension = last.rpartition(".")
    return "/".join([*map(_part, folders), f"{_part(stem)}.{extension}"])


def alternatives(name: str) -> Iterator[str]:
    """The name, then those with a number before the extension: `-1`, `-2`, …"""
    yield name
    stem, _, extension = name.rpartition(".")
    number = 1
    while True:
        yield f"{stem}-{number}.{extension}"
        number += 1


def _harmless(value: Any) -> str:
    """One field as part of a file name."""
    printable = "".join(c if c.isprintable() else "_" for c in str(value))
    return _BAD.sub("_", printable)[:_FIELD_CHARS].strip(" .")


def _part(text: str) -> str:
    """One part of a path: never empty, hidden, reserved or too long."""
    short = text.encode("utf-8", "replace")[:_NAME_BYTES].decode("utf-8", "ignore").strip(" .")
    if _RESERVED.fullmatch(short):
        return f"_{short}"
    return short or "_"
