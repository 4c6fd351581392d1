"""What a manager keeps, kept in memory: gone with the process, as `--store memory` says."""

import time
from collections.abc import Iterator, Sequence

from sdistrib.errors import StoreError
from sdistrib.protocol.codec import Buffer
from sdistrib_manager import rows


class MemoryStore:
    """Petitions and images in dictionaries."""

    def __init__(self) -> None:
        self._petitions: dict[str, rows.PetitionRow] = {}
        self._states: dict[str, rows.PetitionStateRow] = {}
        self._images: dict[str, dict[int, rows.ImageRow]] = {}
        self._tombstones: dict[str, rows.Tombstone] = {}
        self._workers: dict[str, rows.WorkerRow] = {}
        self._costs: dict[tuple[str, str], rows.CostRow] = {}
        self._ceilings: dict[str, rows.CeilingsRow] = {}
        self._pins: dict[str, rows.PinRow] = {}
        self._inputs: dict[str, dict[str, rows.InputRow]] = {}
        self._uptime_s = 0.0

    def commit(self, changes: Sequence[rows.Row]) -> None:
        """Keep all of it, or none.

        Raises:
            StoreError: a petition is there already, or an image's is not; none of it is kept.
        """
        self._check(changes)
        for change in changes:
            self._keep(change)

    def _check(self, changes: Sequence[rows.Row]) -> None:
        made: dict[str, bool] = {}
        for change in changes:
            match change:
                case rows.PetitionRow():
                    if made.get(change.id, change.id in self._petitions):
                        raise StoreError(f"petition {change.id} is kept already")
                    made[change.id] = True
                case rows.ImageRow():
                    if not made.get(change.id, change.id in self._petitions):
                        raise StoreError(f"no petition {change.id} is kept")
                case rows.Forget(petition_id):
                    made[petition_id] = False
                case _:
                    pass

    def _keep(self, change: rows.Row) -> None:
        match change:
            case rows.PetitionRow():
                self._petitions[change.id] = change
                self._states[change.id] = rows.PetitionStateRow(id=change.id, state="queued")
                self._images[change.id] = {}
            case rows.ImageRow():
                self._images[change.id][change.index] = change
            case rows.PetitionBodyRow() | rows.PetitionStateRow() | rows.PinRow() | rows.InputRow():
                if change.id in self._petitions:
                    self._keep_of_petition(change)
            case rows.Tombstone():
                self._tombstones[change.id] = change
            case rows.WorkerRow():
                self._workers[change.name] = change
            case rows.CostRow():
                self._costs[change.worker, change.context] = change
            case rows.CeilingsRow():
                self._ceilings[change.worker] = change
            case rows.Clock(uptime_s):
                self._uptime_s = uptime_s
            case _:
                self._forget(change)

    def _keep_of_petition(
        self,
        change: rows.PetitionBodyRow | rows.PetitionStateRow | rows.PinRow | rows.InputRow,
    ) -> None:
        match change:
            case rows.PetitionBodyRow():
                before = self._petitions[change.id]
                self._petitions[change.id] = rows.with_body(before, change.body)
            case rows.PetitionStateRow():
                self._states[change.id] = change
            case rows.PinRow():
                self._pins[change.id] = change
            case rows.InputRow():
                self._inputs.setdefault(change.id, {})[change.digest] = change

    def _forget(
        self,
        change: rows.Forget
        | rows.ForgetTombstone
        | rows.ForgetWorker
        | rows.ForgetCost
        | rows.ForgetInput,
    ) -> None:
        match change:
            case rows.Forget(petition_id):
                for table in (
                    self._petitions, self._states, self._images, self._pins, self._inputs,
                ):  # fmt: skip
                    table.pop(petition_id, None)
            case rows.ForgetTombstone(petition_id):
                self._tombstones.pop(petition_id, None)
            case rows.ForgetWorker(name):
                self._workers.pop(name, None)
            case rows.ForgetCost(worker, context):
                self._costs.pop((worker, context), None)
            case rows.ForgetInput(petition_id, digest):
                self._inputs.get(petition_id, {}).pop(digest, None)

    def load(self) -> rows.Snapshot:
        """Everything that is kept."""
        petitions = sorted(self._petitions.values(), key=lambda row: row.number)
        return rows.Snapshot(
            petitions=petitions,
            states=[self._states[row.id] for row in petitions],
            images=[
                image
                for petition_id in sorted(self._images)
                for _, image in sorted(self._images[petition_id].items())
            ],
            tombstones=sorted(self._tombstones.values(), key=lambda stone: stone.uptime_s),
            workers=sorted(self._workers.values(), key=lambda row: row.name),
            costs=[row for _, row in sorted(self._costs.items())],
            ceilings=[row for _, row in sorted(self._ceilings.items()) if row.ceilings],
            pins=[row for _, row in sorted(self._pins.items())],
            inputs=[
                row for _, files in sorted(self._inputs.items()) for _, row in sorted(files.items())
            ],
            uptime_s=self._uptime_s,
        )

    def probe(self) -> None:
        """Memory always works."""

    def used_blobs(self) -> set[str]:
        """Digests of the pictures and input files that are still to be kept."""
        images = (image for table in self._images.values() for image in table.values())
        pictures = {image.result.digest for image in images if image.result and image.kept}
        return pictures.union(*self._inputs.values())

    def checkpoint(self) -> None:
        """What is forgotten is gone."""

    def close(self) -> None:
        """Nothing is held."""


class MemoryBlobs:
    """Pictures in a dictionary. One that came in a single frame stays in ZeroMQ's memory."""

    slow = False

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[Buffer, float]] = {}

    def put(self, digest: str, parts: Sequence[Buffer]) -> None:
        """Keep the bytes."""
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        self._blobs[digest] = (whole, time.monotonic())

    def put_all(self, pictures: Sequence[tuple[str, Sequence[Buffer]]]) -> list[StoreError | None]:
        """Keep several; None for each."""
        for digest, parts in pictures:
            self.put(digest, parts)
        return [None] * len(pictures)

    def view(self, digest: str) -> Buffer:
        """The bytes.

        Raises:
            StoreError: there are none of this digest.
        """
        try:
            return self._blobs[digest][0]
        except KeyError:
            raise StoreError(f"no picture of digest {digest[:16]} is kept") from None

    def drop(self, digest: str) -> None:
        """Forget the bytes."""
        self._blobs.pop(digest, None)

    def every(self) -> Iterator[tuple[str, int, float]]:
        """All pictures: digest, bytes, seconds since it was kept."""
        now = time.monotonic()
        for digest, (data, kept_at) in list(self._blobs.items()):
            yield digest, len(data), now - kept_at
