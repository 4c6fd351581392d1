"""Pictures in pieces: the same two small machines on both hops, worker to manager to client.

The sender keeps at most `limits.CHUNK_CREDIT` pieces unacknowledged, so that a picture of 30 MB on
a slow link never stands before a beat, and a broken connection resumes where the receiver says.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from sdistrib import limits
from sdistrib.errors import ProtocolError


class Piece(NamedTuple):
    """Bytes `offset … end` of a picture."""

    offset: int
    end: int


class Outgoing:
    """Which pieces of one picture of `size_bytes` may be sent now."""

    __slots__ = ("acknowledged", "sent", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.acknowledged = 0
        self.sent = 0

    def ready(self) -> Iterator[Piece]:
        """Take the pieces that the credit allows; each counts as sent."""
        window_end = self.acknowledged + limits.CHUNK_CREDIT * limits.CHUNK_BYTES
        while self.sent < min(self.size_bytes, window_end):
            end = min(self.sent + limits.CHUNK_BYTES, self.size_bytes)
            piece = Piece(self.sent, end)
            self.sent = end
            yield piece

    def seen(self, offset: int) -> None:
        """The receiver has everything before `offset`."""
        self.acknowledged = max(self.acknowledged, min(offset, self.size_bytes))
        # A receiver that kept pieces of an older connection is ahead of us: go on from there.
        self.sent = max(self.sent, self.acknowledged)

    def resume(self, offset: int) -> None:
        """Start again from what the receiver of a new connection says it has."""
        self.acknowledged = self.sent = min(offset, self.size_bytes)


class Incoming:
    """One picture being put together, hashed as it comes."""

    __slots__ = ("_hash", "_parts", "digest", "received", "size_bytes")

    def __init__(self, digest: str, size_bytes: int) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.received = 0
        self._parts: list[bytes | memoryview] = []
        self._hash = hashlib.sha256()

    def take(self, offset: int, piece: bytes | memoryview) -> bool:
        """Add a piece; True when the picture is complete. A repeated piece is harmless.

        Raises:
            ProtocolError: a gap, too many bytes, or content that is not what the digest says.
        """
        if offset < self.received:
            return False
        if offset > self.received:
            raise ProtocolError(f"a piece at {offset} where {self.received} was due")
        if self.received + len(piece) > self.size_bytes or not len(piece):
            raise ProtocolError(f"a piece of {len(piece)} bytes at {offset} of {self.size_bytes}")
        self._parts.append(piece)
        self._hash.update(piece)
        self.received += len(piece)
        if self.received < self.size_bytes:
            return False
        if self._hash.hexdigest() != self.digest:
            raise ProtocolError("the picture's bytes are not those of its digest")
        return True

    def parts(self) -> list[bytes | memoryview]:
        """The pieces, in order."""
        return self._parts
