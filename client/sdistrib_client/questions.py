"""What was asked of the manager and is not answered yet: lists, wishes to purge or control. Pure.

Each is said again at every welcome, since asking twice is harmless, and each has a deadline.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib_client import events
from sdistrib_client.effects import Ending, Reply

#: A living manager that does not answer a question for this long has a bug.
ANSWER_TIMEOUT_S = 30.0


#: What is asked. Asking twice is harmless.
Asking = wire.Ask | wire.Purge | wire.Control | wire.Plan


class _Asked(NamedTuple):
    message: Asking
    deadline: float
    #: The message's body, where it has one.
    body: bytes | None


def asking_of(
    event: events.QuestionAsked | events.PurgeWished | events.ControlWished | events.PlanWished,
) -> Asking:
    """How it is said to the manager."""
    match event:
        case events.QuestionAsked(number, what, every, start, kind, name):
            return wire.Ask(number=number, what=what, all=every, id=start, kind=kind, name=name)
        case events.PurgeWished(_, petition_id):
            return wire.Purge(id=petition_id)
        case events.ControlWished(number, wish, workers):
            return wire.Control(number=number, wish=wish, workers=workers)
        case events.PlanWished(number):
            return wire.Plan(number=number)


class Questions:
    """Open questions by number."""

    def __init__(self) -> None:
        self._open: dict[int, _Asked] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, number: int, message: Asking, now: float, body: bytes | None) -> None:
        """One more."""
        self._open[number] = _Asked(message, now + ANSWER_TIMEOUT_S, body)

    def messages(self) -> list[tuple[Asking, bytes | None]]:
        """Everything that is to be said at a welcome, with the bodies."""
        return [(asked.message, asked.body) for asked in self._open.values()]

    def deadlines(self) -> list[float]:
        """Times at which `overdue` may have something to say."""
        return [asked.deadline for asked in self._open.values()]

    def answered(self, answer: wire.Answer, body: bytes) -> Iterator[Reply]:
        """The manager's answer, if somebody waits for it."""
        if self._open.pop(answer.number, None) is not None:
            yield Reply(answer.number, answer, body=body)

    def purged(self, message: wire.Purged) -> Iterator[Reply]:
        """The manager has forgotten."""
        for number in self._purges(message.id):
            del self._open[number]
            yield Reply(number, purged=message)

    def controlled(self, message: wire.Controlled) -> Iterator[Reply]:
        """Workers have done what was wished, or the manager knows no such workers."""
        if self._open.pop(message.number, None) is None:
            return
        if message.error is not None:
            ending = Ending(outcome="refused", error=message.error)
            yield Reply(message.number, ending=ending)
        else:
            yield Reply(message.number, controlled=message)

    def planned(self, message: wire.Planned) -> Iterator[Reply]:
        """The manager says what would become of a petition, if somebody waits for it."""
        if self._open.pop(message.number, None) is not None:
            yield Reply(message.number, planned=message)

    def refused(self, message: wire.Refused) -> Iterator[Reply]:
        """The manager does not forget that petition."""
        for number in self._purges(message.id):
            del self._open[number]
            yield Reply(number, ending=Ending(outcome="refused", error=message.error))

    def overdue(self, now: float) -> Iterator[Reply]:
        """Those that have waited for too long."""
        for number, asked in list(self._open.items()):
            if now >= asked.deadline:
                del self._open[number]
                name = _name(asked.message)
                text = f"The manager did not answer {name!r} for {ANSWER_TIMEOUT_S:.0f} s."
                error = ErrorInfo(code="internal", message=text)
                yield Reply(number, ending=Ending(outcome="refused", error=error))

    def end_all(self, ending: Ending) -> Iterator[Reply]:
        """Nobody will answer."""
        for number in list(self._open):
            del self._open[number]
            yield Reply(number, ending=ending)

    def _purges(self, petition_id: str) -> list[int]:
        return [
            number
            for number, asked in self._open.items()
            if isinstance(asked.message, wire.Purge) and asked.message.id == petition_id
        ]


def _name(asked: Asking) -> str:
    if isinstance(asked, wire.Ask):
        return asked.what
    if isinstance(asked, wire.Control):
        return asked.wish
    return "plan" if isinstance(asked, wire.Plan) else "purge"
