"""The hours of the day at which a worker may work. Pure: the time of day is an argument."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from sdistrib.errors import ConfigError

_DAY_MIN = 24 * 60
_SPAN = re.compile(r"(\d{1,2})(?::(\d{2}))?-(\d{1,2})(?::(\d{2}))?")


class Span(NamedTuple):
    """From one minute of the day until before another; over midnight when the end is earlier."""

    begin: int
    end: int

    def has(self, minute: int) -> bool:
        """The minute of the day lies in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


class Hours(NamedTuple):
    """When the worker may work."""

    spans: tuple[Span, ...]
    #: As the owner wrote it.
    text: str

    def shut(self, minute: int) -> str:
        """Why it may not work at this minute of the local day; empty when it may."""
        if any(span.has(minute) for span in self.spans):
            return ""
        begin = min((span.begin for span in self.spans), key=lambda at: (at - minute) % _DAY_MIN)
        return f"outside its hours {self.text}, until {begin // 60:02}:{begin % 60:02} there"


def parse_hours(texts: Sequence[str]) -> Hours:
    """Hours from texts like "22-08" or "9:30-12,14-17".

    Raises:
        ConfigError: a text is none.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    return Hours(tuple(map(_span, parts)), ", ".join(parts))


def _span(text: str) -> Span:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--hours {text!r}: hours are FROM-TO, for example 22-08 or 9:30-17, several of them"
            " with commas."
        )
    begin_h, begin_m, end_h, end_m = (int(group or 0) for group in match.groups())
    begin, end = begin_h * 60 + begin_m, end_h * 60 + end_m
    if begin_m > 59 or end_m > 59 or begin >= _DAY_MIN or end > _DAY_MIN:
        raise ConfigError(f"--hours {text!r}: a day goes from 00:00 to 24:00.")
    if begin == end:
        raise ConfigError(f"--hours {text!r} begins where it ends; leave it out, or say 00-24.")
    return Span(begin, end)
