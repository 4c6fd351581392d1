"""Petitions of before: found by the beginning of their id, and edited for another try."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from sdistrib.errors import PetitionError
from sdistrib.models import name_fits
from sdistrib.petitions import PETITION_ENDS, InputFile, Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import decode_petition
from sdistrib_client.composing import edit
from sdistrib_client.effects import Reply
from sdistrib_client.errors import error_of

_DIGITS = 32
#: Ids shown when several begin alike.
_SHOWN = 5


class Found(NamedTuple):
    """A petition that the manager knows."""

    #: How far it is.
    row: wire.QueuedPetition
    #: What it asks for.
    petition: Petition


def id_start(text: str) -> str:
    """A petition's id, or the beginning of one, as the wire has it.

    Raises:
        PetitionError: `invalid_params`: it can be none.
    """
    start = text.strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{1,{_DIGITS}}}", start):
        message = (
            f"{text[:80]!r} is no petition id, nor the beginning of one:"
            f" those are {_DIGITS} digits 0-9 and a-f."
        )
        raise PetitionError.of("invalid_params", message)
    return start


def is_whole(start: str) -> bool:
    """It is a whole id, and not only the beginning of one."""
    return len(start) == _DIGITS


def only_row(answer: wire.Answer, start: str) -> wire.QueuedPetition:
    """The one petition whose id begins so.

    Raises:
        PetitionError: `not_found`: there is none, or more than one.
    """
    if len(answer.queue) == 1:
        return answer.queue[0]
    if not answer.queue:
        raise PetitionError.of("not_found", f"No petition's id begins with {start}.")
    shown = ", ".join(row.id[: len(start) + 8] for row in answer.queue[:_SHOWN])
    more = " and more" if len(answer.queue) > _SHOWN else ""
    message = f"Several petitions' ids begin with {start}: {shown}{more}. Give more digits."
    raise PetitionError.of("not_found", message)


def found_in(answer: wire.Answer, body: bytes, start: str) -> Found:
    """The one petition whose id begins so, with what it asks for.

    Raises:
        PetitionError: `not_found`, as `only_row`.
    """
    return Found(only_row(answer, start), decode_petition(body))


def retry_of(
    found: Found,
    changes: Mapping[str, Any],
    timeout_s: float | None,
    files: Iterable[InputFile] = (),
) -> Petition | None:
    """What is to be drawn instead; None leaves it as it is. `files` are as for `edit`.

    Raises:
        PetitionError: it has no image to try again, or the changes do not pass.
    """
    row = found.row
    if row.state not in PETITION_ENDS or row.done == row.images:
        what = "attach to it" if row.state not in PETITION_ENDS else "fetch it"
        message = f"Petition {row.id[:8]} is {row.state}: there is nothing to try again; {what}."
        raise PetitionError.of("invalid_params", message)
    limit = {} if timeout_s is None else {"timeout_s": timeout_s}
    edited = edit(found.petition, {**changes, **limit}, files)
    return None if edited == found.petition else edited


def fitting(
    models: Iterable[wire.FoundModel], kind: str | None, name: str
) -> tuple[wire.FoundModel, ...]:
    """Those of a kind, None is any, whose names fit; a manager of before sends all."""
    return tuple(
        model
        for model in models
        if kind in (None, model.file.kind) and name_fits(name, model.file.name)
    )


def answer_of(reply: Reply) -> wire.Answer:
    """The answer in a reply.

    Raises:
        PetitionError: the manager refuses to answer.
        Unreachable: nobody answers.
    """
    if reply.answer is None:
        raise _error_in(reply)
    return reply.answer


def count_of(reply: Reply) -> int:
    """How many petitions a purge has forgotten. Raises as `answer_of`."""
    if reply.purged is None:
        raise _error_in(reply)
    return reply.purged.petitions


def answers_of(reply: Reply) -> tuple[wire.ControlAnswer, ...]:
    """What each worker did. Raises as `answer_of`."""
    if reply.controlled is None:
        raise _error_in(reply)
    return reply.controlled.answers


def planned_of(reply: Reply) -> wire.Planned:
    """What would become of a petition. Raises as `answer_of`."""
    if reply.planned is None:
        raise _error_in(reply)
    return reply.planned


def checked_workers(workers: tuple[str, ...]) -> None:
    """Refuse names of workers that the wire does not take.

    Raises:
        PetitionError: `invalid_params`: one is too long, or they are too many.
    """
    try:
        msgspec.convert({"number": 0, "wish": "pause", "workers": workers}, wire.Control)
    except msgspec.ValidationError as error:
        raise PetitionError.of("invalid_params", f"Names of workers: {error}.") from None


def _error_in(reply: Reply) -> Exception:
    error = error_of(reply.ending) if reply.ending is not None else None
    return error or AssertionError("a reply without answer has an error")
