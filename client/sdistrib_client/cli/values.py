"""Values on the command line: read strictly, refused in one line that says what is allowed."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click
import msgspec
from click.shell_completion import CompletionItem

from sdistrib.params import Parameter
from sdistrib_client.cli.refused import REFUSED_MODES

# Newer versions of click have a generic class here, the oldest one we allow has not.
if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType


#: sd-cli's older words that need a picture to start from.
IMG2IMG, IMG2VID = "img2img", "img2vid"
#: Its older words for modes, and those of today.
OLD_MODES = {"txt2img": "img_gen", IMG2IMG: "img_gen", IMG2VID: "vid_gen"}


class Number(_Type):
    """A whole or real number within bounds."""

    def __init__(self, kind: type[int] | type[float], bounds: Sequence[msgspec.Meta]) -> None:
        self.name = "N" if kind is int else "X"
        self._kind = kind
        self._low = max((m.ge for m in bounds if m.ge is not None), default=None)
        self._above = max((m.gt for m in bounds if m.gt is not None), default=None)
        self._high = min((m.le for m in bounds if m.le is not None), default=None)
        self._step = next((m.multiple_of for m in bounds if m.multiple_of is not None), None)

    @property
    def allowed(self) -> str:
        """What may stand here, in words."""
        words = ["a whole number" if self._kind is int else "a number"]
        if self._low is not None:
            words.append(f"from {self._low:g}" if abs(self._low) < 1e6 else f"from {self._low}")
        if self._above is not None:
            words.append(f"above {self._above:g}")
        if self._high is not None:
            words.append(f"to {self._high:g}" if self._high < 1e6 else f"to {self._high}")
        if self._step is not None:
            words.append(f"in steps of {self._step}")
        return " ".join(words)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        """The number that `value` says."""
        try:
            # Python reads 1_000 as a number; nobody means that in a shell.
            number = None if "_" in str(value) else self._kind(value)
        except (ValueError, OverflowError):
            number = None
        if number is None or not self._fits(number):
            self.fail(f"{value!r}; allowed is {self.allowed}.", param, ctx)
        return number

    def _fits(self, number: float) -> bool:
        return not (
            not math.isfinite(number)
            or (self._low is not None and number < self._low)
            or (self._above is not None and number <= self._above)
            or (self._high is not None and number > self._high)
            or (self._step is not None and number % self._step)
        )


class Threads(Number):
    """A number of threads; sd-cli's -1 leaves it to the worker, as 0 does."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        """The number, with all below 0 as 0."""
        negative = isinstance(value, str) and re.fullmatch(r"-\d+", value.strip())
        return 0 if negative else super().convert(value, param, ctx)


class Word(_Type):
    """One of a list of words, in any case."""

    name = "WORD"

    def __init__(self, words: Sequence[str], refused: dict[str, str] | None = None) -> None:
        self.words = tuple(words)
        self._refused = refused or {}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word as the table spells it."""
        for word in self.words:
            if word.casefold() == str(value).casefold():
                return word
        known = self._refused.get(value)
        why = f": {known}." if known else f"; allowed is {', '.join(self.words)}."
        return self.fail(f"{value!r}{why}", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The words that begin as typed."""
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


class Named(Word):
    """A sampler or a schedule, by any name that people use."""

    def __init__(self, words: Sequence[str], function: str) -> None:
        super().__init__(words)
        self._function = function

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as typed, once it is known to be one; `compose` translates it."""
        from sdistrib_client import samplers  # noqa: PLC0415 - not needed for --help

        read: Callable[[str], object] = getattr(samplers, self._function)
        try:
            read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Numbers(_Type):
    """Numbers with commas or spaces between them, in square brackets or not."""

    name = "N,N,…"

    def __init__(self, element: Number, most: int) -> None:
        self._element = element
        self._most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | float, ...]:
        """The numbers."""
        text = str(value).strip()
        if text.startswith("[") != text.endswith("]"):
            self.fail(f"{value!r} has only one bracket.", param, ctx)
        text = text.removeprefix("[").removesuffix("]")
        parts = [part for part in re.split(r"[,\s]+", text) if part]
        if len(parts) > self._most:
            self.fail(f"{len(parts)} numbers; at most {self._most} are allowed.", param, ctx)
        return tuple(self._element.convert(part, param, ctx) for part in parts)


class Pair(_Type):
    """Two numbers as `32x32`; a single one stands for both."""

    name = "XxY"

    def __init__(self, element: Number) -> None:
        self._element = element

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | float, int | float]:
        """Both numbers."""
        first, separator, second = str(value).strip().lower().partition("x")
        x = self._element.convert(first, param, ctx)
        return x, self._element.convert(second, param, ctx) if separator else x


#: Parameters whose names people spell in many ways -> the function of `samplers` that reads them.
_NAMED = {"sampling_method": "read_sampler", "scheduler": "read_scheduler"}


def type_of(row: Parameter) -> _Type:
    """The reader of one parameter's values."""
    if row.spec.input:
        # What is wrong with a file, whoever reads it says.
        return click.Path(path_type=Path, allow_dash=True)
    if row.choices:
        return _word(row)
    if get_origin(row.type) is tuple:
        elements = [part for part in get_args(row.type) if part is not ...]
        number = _number(elements[0], ())
        if len(elements) == 2:
            return Pair(number)
        most = next(meta.max_length for meta in row.bounds if meta.max_length is not None)
        return Numbers(number, most)
    if row.type is str:
        return _Text()
    kind = Threads if row.name == "threads" else Number
    return _number(row.type, row.bounds, kind)


def _word(row: Parameter) -> Word:
    if row.name == "mode":
        return Word((*row.choices, *OLD_MODES), REFUSED_MODES)
    function = _NAMED.get(row.name)
    return Named(row.choices, function) if function else Word(row.choices)


class _Text(_Type):
    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


def _number(hint: Any, bounds: Sequence[msgspec.Meta], kind: type[Number] = Number) -> Number:
    """A reader from an annotated type; an alternative of None is left out."""
    metas = list(bounds)
    while get_args(hint):
        metas += getattr(hint, "__metadata__", ())
        hint = next(part for part in get_args(hint) if part is not type(None))
    return kind(hint, metas)
