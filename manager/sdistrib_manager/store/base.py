"""The contract of what a manager keeps. One conformance suite runs on every implementation."""

from collections.abc import Sequence
from typing import Protocol

from sdistrib.protocol.codec import Buffer
from sdistrib_manager.effects import Keep


class Store(Protocol):
    """Petitions and images."""

    def commit(self, keeps: Sequence[Keep]) -> None:
        """Keep all of it, or none.

        Raises:
            StoreError: none of it is kept.
        """
        ...

    def close(self) -> None:
        """Release what is held; idempotent."""
        ...


class Blobs(Protocol):
    """Pictures by the SHA-256 of their bytes, which the caller has verified."""

    def put(self, digest: str, parts: Sequence[Buffer]) -> None:
        """Keep the bytes `parts` make up. A digest that is there already is fine.

        Raises:
            StoreError: nothing is kept.
        """
        ...

    def view(self, digest: str) -> Buffer:
        """The bytes.

        Raises:
            StoreError: there are none of this digest.
        """
        ...

    def drop(self, digest: str) -> None:
        """Forget the bytes; unknown ones are fine."""
        ...
