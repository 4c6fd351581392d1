"""What was asked of the manager and is not answered yet: lists, and the wish to purge. Pure.

Each is said again at every welcome, since asking twice is harmless, and each has a deadline.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib_client.effects import Ending, Reply

#: A living manager that does not answer a question for this long has a bug.
ANSWER_TIMEOUT_S = 30.0


class _Asked(NamedTuple):
    message: wire.Ask | wire.Purge
    deadline: float


class Questions:
    """Open questions by number."""

    def __init__(self) -> None:
        self._open: dict[int, _Asked] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, number: int, message: wire.Ask | wire.Purge, now: float) -> None:
        """One more."""
        self._open[number] = _Asked(message, now + ANSWER_TIMEOUT_S)

    def messages(self) -> list[wire.Ask | wire.Purge]:
        """Everything that is to be said at a welcome."""
        return [asked.message for asked in self._open.values()]

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
                name = asked.message.what if isinstance(asked.message, wire.Ask) else "purge"
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
