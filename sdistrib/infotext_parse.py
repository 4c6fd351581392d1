"""Reading the text that A1111 and its kin write into pictures; `infotext` writes it. Pure.

The form: the prompt over any number of lines, the negative one from a line that begins with
`Negative prompt:`, and a line of `Key: value` pairs. A value with commas in it is quoted as in
JSON; sd-cli and some forks write lists in brackets and objects in braces instead. Extensions put
lines of their own behind the pairs.
"""

import json
import re
from typing import NamedTuple

_BETWEEN = re.compile(r"[ ,]*")
_KEY = re.compile(r"(\w[\w \-/]{0,99}):[ ]*")
_NEGATIVE = "Negative prompt:"
#: Fewer pairs are a line of the prompt; A1111's own rule.
_PAIRS_MIN = 3
#: A line with more pairs was not written to be read.
_PAIRS_MAX = 500
_DECODER = json.JSONDecoder()


class Text(NamedTuple):
    """The parts of a `parameters` text."""

    prompt: str
    negative_prompt: str
    #: Keys and values as they stand there, quotes taken off.
    pairs: tuple[tuple[str, str], ...]
    #: Lines behind the pairs.
    rest: tuple[str, ...] = ()


def parse(text: str) -> Text:
    """Take a `parameters` text apart.

    Raises:
        ValueError: it has no line of pairs, so it is no such text.
    """
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    lines = text.rstrip().split("\n")
    for at in range(len(lines) - 1, -1, -1):
        pairs = read_pairs(lines[at])
        if len(pairs) >= _PAIRS_MIN and any(key.casefold() == "steps" for key, _ in pairs):
            prompt, negative_prompt = _prompts(lines[:at])
            rest = tuple(line for line in lines[at + 1 :] if line.strip())
            return Text(prompt, negative_prompt, pairs, rest)
    raise ValueError("it has no line of settings as A1111 writes it")


def _prompts(lines: list[str]) -> tuple[str, str]:
    for at, line in enumerate(lines):
        if line.startswith(_NEGATIVE):
            first = line.removeprefix(_NEGATIVE).removeprefix(" ")
            return "\n".join(lines[:at]), "\n".join([first, *lines[at + 1 :]])
    return "\n".join(lines), ""


def read_pairs(line: str) -> tuple[tuple[str, str], ...]:
    """The `Key: value` pairs of a line; what is none of them is passed over."""
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(line) and len(pairs) < _PAIRS_MAX:
        at = _BETWEEN.match(line, at).end()  # type: ignore[union-attr] # it matches nothing too
        found = _KEY.match(line, at)
        if found is None:
            comma = line.find(",", at)
            at = comma if comma >= at else len(line)
            continue
        value, at = _value(line, found.end())
        pairs.append((found[1].strip(), value))
    return tuple(pairs)


def _value(line: str, at: int) -> tuple[str, int]:
    """The value that begins there, and where it ends."""
    if line[at : at + 1] in ('"', "{"):
        try:
            found, end = _DECODER.raw_decode(line, at)
        except (ValueError, RecursionError):
            pass
        else:
            return found if isinstance(found, str) else line[at:end], end
    elif line[at : at + 1] == "[" and (end := line.find("]", at)) > 0:
        return line[at : end + 1], end + 1
    comma = line.find(",", at)
    end = comma if comma >= 0 else len(line)
    return line[at:end].strip(), end
