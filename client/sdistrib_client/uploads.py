"""The input files of one petition on their way to the manager. Pure bookkeeping for `requests`."""

from collections.abc import Iterable, Iterator

from sdistrib.petitions import InputFile
from sdistrib.transfer import Outgoing, Piece


class Uploads:
    """Files that may be asked for, and how far those are that were.

    They go one after the other, each under its credit, so that what is under way at a time does not
    grow with their number.
    """

    def __init__(self, files: Iterable[InputFile]) -> None:
        self._files = {file.digest: Outgoing(file.size_bytes) for file in files}
        #: Digests that the manager asked for on this connection, in its order.
        self._needed: dict[str, None] = {}

    def begin_again(self) -> None:
        """The petition is said to a manager that may know nothing of it."""
        self._needed.clear()
        for file in self._files.values():
            file.resume(0)

    def need(self, digests: Iterable[str]) -> str:
        """The manager asks for these files; the first that is not here, or ""."""
        for digest in digests:
            if digest not in self._files:
                return digest
            self._needed[digest] = None
        return ""

    def seen(self, digest: str, offset: int) -> bool:
        """The manager has that much of a file; True when it is one that was asked for."""
        file = self._files.get(digest)
        if file is None:
            return False
        if digest in self._needed:
            file.seen(offset)
            return True
        # Said before it asks: part of it is there already.
        file.resume(offset)
        return False

    def ready(self) -> Iterator[tuple[str, Piece]]:
        """Take the pieces that may be sent now."""
        for digest in self._needed:
            file = self._files[digest]
            for piece in file.ready():
                yield digest, piece
            if file.acknowledged < file.size_bytes:
                return

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes that the manager has of the files it asked for, and all their bytes."""
        needed = [self._files[digest] for digest in self._needed]
        return sum(file.acknowledged for file in needed), sum(file.size_bytes for file in needed)
