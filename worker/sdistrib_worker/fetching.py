"""Input files of granted jobs: from the manager's chunks to a path for the engine. Pure.

Theory of operation. Each turn tells `need` which files the queue and the engine name. A file that
is new is opened in the cache, which answers `InputReady` when it has it, or `InputOpened` with how
much it has. Then it is asked for with `Fetch`, and every `Chunk` goes to the cache; what the cache
has written is acknowledged with `ChunkSeen`, so that a slow disk slows its sender and no memory
fills. A file that nobody names any more is closed; what has come of it stays for the next time.

Several files may be under way at once, each by its own digest, and each once: a slow one holds up
only the jobs that name it. Nothing is waited for without a bound: a manager that sends nothing is
asked again, and after `_TRIES_MAX` such times, or at the second transfer with wrong bytes, the jobs
fail.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.petitions import InputFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib_worker import events
from sdistrib_worker.effects import CloseInput, ForgetInputs, OpenInput, WriteInput
from sdistrib_worker.session import Session, Turn

#: A piece is due within this time; a manager busy with its disk may need some of it.
_PIECE_S = limits.GONE_S
#: Times in a row that the manager is asked for a file and sends nothing.
_TRIES_MAX = 3
#: Transfers of one file whose bytes are wrong.
_BROKEN_MAX = 2
#: Files under way at once; each has pieces worth one credit in memory.
_TRANSFERS_MAX = 4
#: Digests remembered because they failed here.
_FAILED_MAX = 256


@dataclass(slots=True)
class _File:
    """One file that somebody here needs."""

    size_bytes: int
    #: "opening": the cache was asked. "partial": not whole. "here": whole. "failed": given up.
    state: Literal["opening", "partial", "here", "failed"] = "opening"
    #: Bytes that the cache has been given.
    received: int = 0
    #: This session's manager was asked for it.
    asked: bool = False
    #: When it was asked or last sent a piece.
    moved_at: float = 0.0
    #: Times it was asked since it last sent a piece.
    tries: int = 0
    #: Transfers that ended with wrong bytes.
    broken: int = 0
    path: str = ""
    error: ErrorInfo | None = None


class Fetching:
    """The input files that jobs here need."""

    def __init__(self, session: Session, turn: Turn) -> None:
        self._session = session
        self._turn = turn
        self._files: dict[str, _File] = {}
        #: Digests that failed here before, oldest first.
        self._failed: deque[str] = deque(maxlen=_FAILED_MAX)

    def need(self, wanted: Iterable[InputFile]) -> None:
        """These files are needed now, the first of them first; open, ask and close accordingly."""
        sizes = {file.digest: file.size_bytes for file in wanted}
        for digest in [digest for digest in self._files if digest not in sizes]:
            del self._files[digest]
            self._turn.effects.append(CloseInput(digest))
        for digest, size_bytes in sizes.items():
            if digest not in self._files:
                self._files[digest] = _File(size_bytes)
                self._turn.effects.append(OpenInput(digest, size_bytes))
        self._ask(sizes)

    def have(self, inputs: tuple[InputFile, ...]) -> bool:
        """All these files are here."""
        return all(self._state(file.digest) == "here" for file in inputs)

    def paths(self, inputs: tuple[InputFile, ...]) -> dict[str, str]:
        """Where they are, by digest; only for files that `have` finds here."""
        return {file.digest: self._files[file.digest].path for file in inputs}

    def fault(self, inputs: tuple[InputFile, ...]) -> ErrorInfo | None:
        """Why one of these files will not come, if that is so."""
        for file in inputs:
            found = self._files.get(file.digest)
            if found is not None and found.error is not None:
                return found.error
        return None

    def counts(self, inputs: tuple[InputFile, ...]) -> bool:
        """A failure for want of these files counts: one of them has failed here before as well.

        The first is no fault of the image. But where a disk is full or a link garbles, the same
        image must not be handed out for ever.
        """
        return any(self._failed.count(file.digest) > 1 for file in inputs)

    def vanished(self, path: str) -> ErrorInfo | None:
        """The error for a path that is not there any more; None when it is no input file's."""
        for digest, file in self._files.items():
            if file.path == path:
                self._fail(digest, file, "it has vanished from this worker's cache")
                return file.error
        return None

    def handle(self, event: events.InputEvent) -> None:
        """The cache did something."""
        file = self._files.get(event.digest)
        if file is None or file.state in ("here", "failed"):
            return  # it was closed meanwhile, and perhaps opened again: an older answer
        match event:
            case events.InputReady(path=path):
                file.state, file.path = "here", path
                if file.asked:
                    self._seen(event.digest, file.size_bytes)
            case events.InputOpened(offset=offset):
                file.state, file.received = "partial", offset
            case events.InputHeld(offset=offset):
                if file.asked:
                    file.moved_at = self._turn.now
                    self._seen(event.digest, offset)
            case events.InputBroken():
                file.asked, file.received, file.tries = False, 0, 0
                file.broken += 1
                if file.broken >= _BROKEN_MAX:
                    self._fail(event.digest, file, "its bytes came wrong twice")
            case events.InputFailed(reason=reason):
                self._fail(event.digest, file, reason)
            case _:
                assert_never(event)

    def chunk(self, message: wire.Chunk, data: Buffer) -> None:
        """The manager sent a piece."""
        file = self._files.get(message.digest)
        if file is None or file.state != "partial" or not file.asked:
            return
        if message.offset < file.received or not data:
            return  # said twice, or meant for an older request
        if message.offset > file.received or len(data) > file.size_bytes - file.received:
            file.asked = False  # pieces are missing or strange: from where we are
            return
        file.received += len(data)
        file.moved_at, file.tries = self._turn.now, 0
        self._turn.effects.append(WriteInput(message.digest, message.offset, data))

    def forget(self, message: wire.Forget) -> None:
        """The manager says that no petition names these files any more."""
        self._turn.effects.append(ForgetInputs(message.digests))

    def tick(self) -> None:
        """Notice a manager that sends nothing. With a session its queue ends, and all it needs."""
        for digest, file in self._files.items():
            if self._session.is_open and self._is_due(file):
                file.asked = False
                if file.tries >= _TRIES_MAX:
                    self._fail(digest, file, "the manager does not send it")

    def forgive(self, delay_s: float) -> None:
        """Move the limits by a delay that was this machine's own fault."""
        for file in self._files.values():
            file.moved_at += delay_s

    def deadlines(self) -> list[float]:
        """When `tick` has something to do."""
        if not self._session.is_open:
            return []
        return [file.moved_at + _PIECE_S for file in self._files.values() if _awaits(file)]

    def _is_due(self, file: _File) -> bool:
        return _awaits(file) and self._turn.now >= file.moved_at + _PIECE_S

    def _state(self, digest: str) -> str:
        return self._files[digest].state if digest in self._files else ""

    def _ask(self, order: Iterable[str]) -> None:
        if not self._session.is_open:
            return
        files = [(digest, self._files[digest]) for digest in order]
        free = _TRANSFERS_MAX - sum(file.asked and file.state == "partial" for _, file in files)
        for digest, file in files:
            if free > 0 and file.state == "partial" and not file.asked:
                free -= 1
                file.asked, file.moved_at = True, self._turn.now
                file.tries += 1
                self._session.say(wire.Fetch(digest=digest, offset=file.received))

    def _seen(self, digest: str, offset: int) -> None:
        self._session.say(wire.ChunkSeen(digest=digest, offset=offset))

    def _fail(self, digest: str, file: _File, reason: str) -> None:
        file.state = "failed"
        file.error = ErrorInfo(
            code="internal", message=f"The input file {digest[:8]} is not to be had: {reason}."
        )
        self._failed.append(digest)


def _awaits(file: _File) -> bool:
    """The next piece is the manager's to send, not the cache's to write."""
    return file.state == "partial" and file.asked and file.received < file.size_bytes
