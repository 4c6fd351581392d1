"""Texts for people: errors with what, where and what next; names that cannot play tricks."""

import unicodedata
from collections.abc import Iterator

from sdistrib.errors import (
    ERROR_TABLE,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ConfigError,
    ErrorInfo,
    PetitionError,
    SdistribError,
)
from sdistrib_client.effects import Ending
from sdistrib_client.errors import Unreachable

#: Lines of an engine's log that are shown without -v.
_TAIL_LINES = 3
#: Categories of characters that steer a terminal or reverse its reading order.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(text: str) -> str:
    """Text from elsewhere, fit for a terminal."""
    return "".join(" " if unicodedata.category(c) in _STEERING else c for c in text)


def explain(info: ErrorInfo, *, verbose: bool) -> Iterator[str]:
    """An error in lines: what and where, the engine's last words, close names, next step."""
    where = ""
    if info.worker:
        attempt = f", attempt {info.attempt}" if info.attempt else ""
        where = f" (on {info.worker}{attempt})"
    signal = f" [{info.signal}]" if info.signal and info.signal not in info.message else ""
    yield clean(f"{info.message}{where}{signal} [{info.code}]")
    tail = info.log_tail if verbose else info.log_tail[-_TAIL_LINES:]
    yield from (f"  | {clean(line)}" for line in tail)
    if info.closest:
        yield clean(f"  closest: {', '.join(info.closest)}")
    if info.retry_after_s:
        yield f"  try again in {info.retry_after_s:.0f} s"
    yield f"  {ERROR_TABLE[info.code].next_step}"


def explain_error(error: SdistribError, *, verbose: bool) -> list[str]:
    """Any error of ours in lines."""
    if isinstance(error, PetitionError):
        return list(explain(error.info, verbose=verbose))
    return [clean(str(error))]


def status_of(ending: Ending) -> int:
    """The exit status that an ending is."""
    if ending.outcome == "unreachable":
        return EXIT_UNREACHABLE
    if ending.outcome == "unfinished":
        return EXIT_FAILED
    if ending.error is not None:
        return ERROR_TABLE[ending.error.code].exit_status
    return EXIT_OK


def status_of_error(error: SdistribError) -> int:
    """The exit status that an exception is, where no petition was under way."""
    if isinstance(error, PetitionError):
        return ERROR_TABLE[error.code].exit_status
    if isinstance(error, Unreachable):
        return EXIT_UNREACHABLE
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
