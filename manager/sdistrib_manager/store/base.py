"""The contract of what a manager keeps. One conformance suite runs on every implementation."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from sdistrib.errors import StoreError
from sdistrib.protocol.codec import Buffer
from sdistrib_manager.rows import Row, Snapshot


class Store(Protocol):
    """Petitions and images."""

    def commit(self, changes: Sequence[Row]) -> None:
        """Keep all of it, or none.

        Raises:
            StoreError: none of it is kept.
        """
        ...

    def load(self) -> Snapshot:
        """Everything that is kept.

        Raises:
            StoreError: it cannot be read.
        """
        ...

    def probe(self) -> None:
        """Find out whether keeping works.

        Raises:
            StoreError: it does not.
        """
        ...

    def used_blobs(self) -> set[str]:
        """Digests of the pictures and input files that are still to be kept.

        Raises:
            StoreError: they cannot be read.
        """
        ...

    def checkpoint(self) -> None:
        """Make sure that what was forgotten is gone.

        Raises:
            StoreError: not now; it is tried again later.
        """
        ...

    def close(self) -> None:
        """Release what is held; idempotent."""
        ...


class Blobs(Protocol):
    """Pictures by the SHA-256 of their bytes, which the caller has verified."""

    #: `put` waits for a disk and belongs into a thread.
    slow: bool

    def put(self, digest: str, parts: Sequence[Buffer]) -> None:
        """Keep the bytes `parts` make up. A digest that is there already is fine.

        Raises:
            StoreError: nothing is kept.
        """
        ...

    def put_all(
        self, pictures: Sequence[tuple[str, Sequence[Buffer]]]
    ) -> Sequence[StoreError | None]:
        """Keep several, quicker than one by one.

        Returns:
            For each in its place: None, or why nothing of it is kept. One that fails takes no
            other with it.
        """
        ...

    def view(self, digest: str) -> Buffer:
        """The bytes.

        Raises:
            StoreError: there are none of this digest, or damaged ones.
        """
        ...

    def drop(self, digest: str) -> None:
        """Forget the bytes; unknown ones are fine."""
        ...

    def every(self) -> Iterator[tuple[str, int, float]]:
        """All pictures: digest, bytes, seconds since it was kept."""
        ...
