"""The manager's disk: rows and pictures, and every way in which a disk fails.

A commit is durable when it has returned. It may fail and leave nothing, fail and have kept all the
same (an error of the sync behind the write), fail while the disk is full, and the process may die
on either side of it. A picture is put beside the loop and is durable when that is reported; with a
process that dies before, it is lost.
"""

from collections.abc import Callable, Iterator, Sequence

from sdistrib.errors import StoreError
from sdistrib.protocol.codec import Buffer
from sdistrib_manager import rows
from sdistrib_manager.events import BlobFailed, BlobStored
from sdistrib_manager.store.memory import MemoryStore
from tests.simulation.faults import Faults
from tests.simulation.ledger import Ledger
from tests.simulation.world import Crash, World


class Disk:
    """What outlives the manager's process."""

    def __init__(self, world: World, faults: Faults, ledger: Ledger) -> None:
        self.world, self.faults, self.ledger = world, faults, ledger
        self.full_until = 0.0
        #: Pictures that are being kept now.
        self.keeping = 0
        #: A commit has failed, and none has succeeded since.
        self.trouble = False
        #: Called when trouble begins.
        self.on_trouble: Callable[[], None] = lambda: None
        self.store = SimStore(self)
        self.blobs = SimBlobs(self)
        ledger.disk = self

    def check_space(self) -> None:
        """Raise StoreError while the disk is full."""
        if self.world.now < self.full_until:
            raise StoreError("cannot write: No space left on device (the disk is full)")


class SimStore(MemoryStore):
    """The rows, in memory that no crash of the simulated process touches."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def commit(self, changes: Sequence[rows.Row]) -> None:
        """Keep all of it, or none, or die."""
        try:
            self._commit(changes)
        except StoreError:
            if not self._disk.trouble:
                self._disk.trouble = True
                self._disk.on_trouble()
            raise
        self._disk.trouble = False

    def _commit(self, changes: Sequence[rows.Row]) -> None:
        disk, faults = self._disk, self._disk.faults
        disk.check_space()
        if disk.keeping and faults.roll("commit fails beside a picture"):
            disk.full_until = disk.world.now + disk.world.rng.choice((0.0, 2.0, 6.0))
            raise StoreError("cannot write: database or disk is locked")
        if faults.roll("commit fails"):
            raise StoreError("cannot write: database or disk is locked")
        if faults.roll("disk full"):
            disk.full_until = disk.world.now + disk.world.between(0.1, 8.0)
            disk.check_space()
        if faults.roll("crash before commit"):
            raise Crash
        if faults.roll("sync fails, nothing kept"):
            raise StoreError("cannot write: disk I/O error")
        disk.ledger.committing(changes)
        super().commit(changes)
        disk.ledger.committed(changes)
        if faults.roll("crash after commit"):
            raise Crash
        if faults.roll("sync fails, all kept"):
            raise StoreError("cannot write: disk I/O error")

    def load(self) -> rows.Snapshot:
        """Everything that is kept."""
        if self._disk.faults.roll("load fails"):
            raise StoreError("cannot read: I/O error")
        return super().load()

    def probe(self) -> None:
        """Find out whether keeping works."""
        self._disk.check_space()
        if self._disk.faults.roll("probe fails"):
            raise StoreError("cannot write: I/O error")
        self._disk.trouble = False

    def petition(self, petition_id: str) -> rows.PetitionStateRow | None:
        """How far a petition is, durably."""
        return self._states.get(petition_id)

    def image(self, petition_id: str, index: int) -> rows.ImageRow | None:
        """How far an image is, durably."""
        return self._images.get(petition_id, {}).get(index)

    def images(self, petition_id: str) -> dict[int, rows.ImageRow]:
        """All images of a petition that have a row."""
        return self._images.get(petition_id, {})

    def tombstone(self, petition_id: str) -> rows.Tombstone | None:
        """What is left of a petition."""
        return self._tombstones.get(petition_id)


class SimBlobs:
    """The pictures. Files, as `slow` says, but put by `SimKeeper` and not by threads."""

    slow = True

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.files: dict[str, bytes] = {}

    def put(self, digest: str, parts: Sequence[Buffer]) -> None:
        """Keep the bytes."""
        self._disk.check_space()
        if self._disk.faults.roll("picture not kept"):
            raise StoreError("cannot write the picture: I/O error")
        self.files[digest] = b"".join(parts)

    def view(self, digest: str) -> Buffer:
        """The bytes."""
        faults, occasion = self._disk.faults, 4.0 if self._disk.trouble else 1.0
        if digest in self.files and faults.roll("picture missing", occasion):
            self._lose(digest)
        elif digest in self.files and faults.roll("picture damaged"):
            # `files` finds the damage by the digest and says so.
            self._lose(digest)
        if digest not in self.files:
            raise StoreError(f"no picture of digest {digest[:16]} is kept")
        return self.files[digest]

    def _lose(self, digest: str) -> None:
        del self.files[digest]
        self._disk.ledger.picture_lost(digest)

    def drop(self, digest: str) -> None:
        """Forget the bytes."""
        self._disk.ledger.dropping(digest)
        self.files.pop(digest, None)

    def every(self) -> Iterator[tuple[str, int, float]]:
        """All pictures."""
        for digest, data in list(self.files.items()):
            yield digest, len(data), 0.0


class SimKeeper:
    """Puts pictures beside the loop, sooner or later, as `Keeper` does with threads."""

    def __init__(
        self, disk: Disk, done: Callable[[BlobStored | BlobFailed], None], wake: Callable[[], None]
    ) -> None:
        self._disk, self._done, self._wake = disk, done, wake
        self._dead = False

    def put(self, digest: str, parts: Sequence[Buffer]) -> None:
        """Order a picture."""
        world = self._disk.world
        delay_s = world.between(0.0005, 0.01)
        if self._disk.faults.roll("picture kept late"):
            delay_s = world.between(0.1, 5.0)
        self._disk.keeping += 1
        world.after(delay_s, self._put, digest, list(parts))

    def _put(self, digest: str, parts: list[Buffer]) -> None:
        if self._dead:
            self._disk.world.faults["crash before picture kept"] += 1
            return
        self._disk.keeping -= 1
        outcome: BlobStored | BlobFailed = BlobStored(digest)
        try:
            self._disk.blobs.put(digest, parts)
        except StoreError as error:
            outcome = BlobFailed(digest, str(error))
        self._done(outcome)
        self._wake()

    def die(self) -> None:
        """The process is gone; what it had not put is lost."""
        self._dead = True
        self._disk.keeping = 0
