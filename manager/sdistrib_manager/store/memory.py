"""What a manager keeps, kept in memory: gone with the process."""

from collections.abc import Sequence

from sdistrib.errors import StoreError
from sdistrib.petitions import ImageState, PetitionState
from sdistrib.protocol.codec import Buffer
from sdistrib_manager.effects import (
    ForgetPetition,
    Keep,
    KeepImage,
    KeepPetition,
    KeepPetitionState,
)


class MemoryStore:
    """Petitions and images in dictionaries."""

    def __init__(self) -> None:
        self.bodies: dict[str, Buffer] = {}
        self.states: dict[str, PetitionState] = {}
        self.images: dict[str, dict[int, KeepImage]] = {}

    def commit(self, keeps: Sequence[Keep]) -> None:
        """Keep all of it."""
        for keep in keeps:
            match keep:
                case KeepPetition(petition_id, body):
                    self.bodies[petition_id] = body
                    self.states[petition_id] = "queued"
                    self.images[petition_id] = {}
                case KeepPetitionState(petition_id, state):
                    self.states[petition_id] = state
                case KeepImage():
                    self.images[keep.id][keep.index] = keep
                case ForgetPetition(petition_id):
                    for table in (self.bodies, self.states, self.images):
                        table.pop(petition_id, None)

    def image_state(self, petition_id: str, index: int) -> ImageState:
        """How far an image is."""
        kept = self.images[petition_id].get(index)
        return kept.state if kept else "waiting"

    def close(self) -> None:
        """Nothing is held."""


class MemoryBlobs:
    """Pictures in a dictionary. One that came in a single frame stays in ZeroMQ's memory."""

    def __init__(self) -> None:
        self._blobs: dict[str, Buffer] = {}

    def put(self, digest: str, parts: Sequence[Buffer]) -> None:
        """Keep the bytes."""
        self._blobs[digest] = parts[0] if len(parts) == 1 else b"".join(parts)

    def view(self, digest: str) -> Buffer:
        """The bytes.

        Raises:
            StoreError: there are none of this digest.
        """
        try:
            return self._blobs[digest]
        except KeyError:
            raise StoreError(f"no picture of digest {digest[:16]} is kept") from None

    def drop(self, digest: str) -> None:
        """Forget the bytes."""
        self._blobs.pop(digest, None)
