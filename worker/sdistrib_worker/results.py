"""Finished pictures on their way to the manager, and failures that could not be told yet. Pure.

A result is kept until the manager says that it is recorded or refused. A picture of up to
`limits.CHUNK_BYTES` travels in the `Result` itself; a larger one in pieces after it, one picture at
a time, so that a beat never waits behind more than one picture's credit.
"""

import math
from dataclasses import dataclass

import msgspec

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.protocol.messages import Attempt, Chunk, ChunkSeen, Failed, Result
from sdistrib.transfer import Outgoing
from sdistrib_worker.session import Session, Turn

#: A result that is neither recorded nor refused for so long is offered again: the manager may not
#: have been able to store it.
OFFER_AGAIN_S = limits.GONE_S
#: Characters of one engine log line in an error, and of its message; the whole error must fit into
#: a message's header whatever the characters are.
_LINE_CHARS = 400
_MESSAGE_CHARS = 2000


def fit(error: ErrorInfo, worker: str, attempt: Attempt) -> ErrorInfo:
    """The error with where it happened, cut to what fits into a `Failed`."""
    return msgspec.structs.replace(
        error,
        message=error.message[:_MESSAGE_CHARS],
        worker=worker,
        attempt=attempt.number,
        log_tail=tuple(line[:_LINE_CHARS] for line in error.log_tail[-limits.LOG_TAIL_LINES :]),
    )


def fit_notes(notes: tuple[str, ...]) -> tuple[str, ...]:
    """The engine's notes, cut to what fits into a `Result`."""
    return tuple(note[:_LINE_CHARS] for note in notes[: limits.LOG_TAIL_LINES])


def seconds(value: float) -> float:
    """A duration that the wire takes, whatever an engine says."""
    return value if 0.0 <= value < math.inf else 0.0


@dataclass(slots=True)
class _Held:
    result: Result
    data: bytes
    #: None for a picture that travels in its `Result`.
    pieces: Outgoing | None
    #: The manager of this session was sent its `Result`.
    offered: bool = False
    #: When it was offered, or when the manager last took a piece of it.
    moved_at: float = 0.0

    def withdraw(self) -> None:
        """Forget what was sent of it."""
        self.offered = False
        if self.pieces is not None:
            self.pieces = Outgoing(len(self.data))


class Results:
    """What this worker owes the manager."""

    def __init__(self, session: Session, turn: Turn) -> None:
        self._session = session
        self._turn = turn
        self._held: dict[Attempt, _Held] = {}
        #: Failures that no session took, oldest first.
        self._untold: list[Failed] = []

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, attempt: Attempt) -> bool:
        return attempt in self._held

    def attempts(self) -> tuple[Attempt, ...]:
        """Attempts whose outcome waits here."""
        return (*self._held, *(failed.attempt for failed in self._untold))

    def keep(self, result: Result, data: bytes) -> None:
        """Keep a finished picture and offer it."""
        pieces = Outgoing(len(data)) if len(data) > limits.CHUNK_BYTES else None
        self._held[result.attempt] = _Held(result, data, pieces)
        self._offer()

    def fail(self, failed: Failed) -> None:
        """Report a failure now, or when there is a session."""
        if self._session.is_open:
            self._session.say(failed)
        else:
            self._untold.append(failed)

    def untold(self, failed: Failed) -> None:
        """A failure was not sent after all."""
        self._untold.append(failed)

    def forget(self, attempt: Attempt) -> None:
        """The manager has it or does not want it."""
        if self._held.pop(attempt, None):
            self._offer()

    def hand_in(self) -> None:
        """A session begins: tell everything again."""
        untold, self._untold = self._untold, []
        for failed in untold:
            self._session.say(failed)
        for held in self._held.values():
            held.withdraw()
        self._offer()

    def tick(self) -> None:
        """Offer again what has waited for too long."""
        if any(at <= self._turn.now for at in self.deadlines()):
            for held in self._held.values():
                if held.moved_at + OFFER_AGAIN_S <= self._turn.now:
                    held.withdraw()
            self._offer()

    def deadlines(self) -> list[float]:
        """When `tick` has something to do."""
        if not self._session.is_open:
            return []
        return [held.moved_at + OFFER_AGAIN_S for held in self._held.values() if held.offered]

    def seen(self, message: ChunkSeen) -> None:
        """The manager has this much of a picture, perhaps from an earlier connection."""
        held = self._in_transfer()
        if held is None or held.result.digest != message.digest:
            held = next((h for h in self._held.values() if h.result.digest == message.digest), None)
        if held is None or held.pieces is None:
            return
        # Offsets only grow within one connection: less means that the manager lost what it had.
        if message.offset < held.pieces.acknowledged:
            held.pieces.resume(message.offset)
        else:
            held.pieces.seen(message.offset)
        held.moved_at = self._turn.now
        self._offer()

    def unfinished(self) -> list[Attempt]:
        """Attempts whose picture has not wholly been handed to the socket."""
        return [
            attempt
            for attempt, held in self._held.items()
            if not held.offered or (held.pieces and held.pieces.sent < len(held.data))
        ]

    def _in_transfer(self) -> _Held | None:
        """The one large picture that may send pieces now."""
        for held in self._held.values():
            if held.pieces and held.pieces.acknowledged < len(held.data):
                return held
        return None

    def _offer(self) -> None:
        if not self._session.is_open:
            return
        moving = self._in_transfer()
        for held in self._held.values():
            if not held.offered and (held.pieces is None or held is moving):
                held.offered, held.moved_at = True, self._turn.now
                self._session.say(held.result, held.data if held.pieces is None else None)
        if moving is None or moving.pieces is None:
            return
        view = memoryview(moving.data)
        for piece in moving.pieces.ready():
            chunk = Chunk(digest=moving.result.digest, offset=piece.offset)
            self._session.say(chunk, view[piece.offset : piece.end])
