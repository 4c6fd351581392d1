"""What was promised to whom, written down beside the programs, and the complaint when it breaks.

The ledger sees three places: what becomes durable, what leaves the manager, and what reaches
callers. It knows nothing of how the machines decide.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sdistrib.petitions import IMAGE_ENDS, PETITION_ENDS
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, Codec
from sdistrib_manager import rows
from tests.simulation.world import Process, Violation, World

if TYPE_CHECKING:
    from tests.simulation.disk import Disk

Key = tuple[str, int]
TO_CLIENT = Codec(wire.MANAGER_TO_CLIENT)
_TO_WORKER = Codec(wire.MANAGER_TO_WORKER)
#: Only these promise something; the others are not even decoded here.
_PROMISES = {
    b"\1" + wire.verb(kind).encode()
    for kind in (
        wire.Accepted, wire.Result, wire.Finished, wire.Cancelled, wire.Purged, wire.Grant,
        wire.ResultRecorded, wire.Need,
    )
}  # fmt: skip


class Ledger:
    """All promises of one story."""

    disk: "Disk"

    def __init__(self, world: World) -> None:
        self._world = world
        #: Petitions of which a client heard `Accepted`, with the seconds that each may take.
        self.accepted: set[str] = set()
        #: Time limit of each petition and when it was first kept.
        self.limits_s: dict[str, float] = {}
        self.kept_at: dict[str, float] = {}
        #: Digests that were recorded for an image, and handed to callers.
        self.recorded: dict[Key, set[str]] = defaultdict(set)
        self.delivered: dict[Key, set[str]] = defaultdict(set)
        #: Images of which a recorded picture was lost by the disk.
        self.lost: set[Key] = set()
        #: Digests of all that the disk lost.
        self.lost_digests: set[str] = set()
        #: Petitions that somebody asked in this turn to be tried again.
        self.retried: set[str] = set()
        #: What `Cancelled` listed.
        self.cancelled: dict[str, frozenset[int]] = {}
        self.forgotten: set[str] = set()
        #: Who was granted which attempt; how often each image was begun, and how often in vain.
        self.grants: dict[wire.Attempt, Process] = {}
        self.executions: Counter[Key] = Counter()
        self.failures: Counter[Key] = Counter()
        #: How often the manager openly had an image drawn twice; petitions that forbid it.
        self.races: Counter[Key] = Counter()
        self.unhedged: set[str] = set()
        self._says: dict[type[wire.Message], Callable[[Any], None]] = {
            wire.Accepted: self._accepted,
            wire.Result: self._result,
            wire.Finished: self._finished,
            wire.Cancelled: self._cancelled,
            wire.Purged: self._purged,
            wire.ResultRecorded: self._result_recorded,
            wire.Need: self._need,
        }

    def check(self, holds: object, complaint: str) -> None:
        """Raise the complaint unless the promise holds."""
        if not holds:
            raise Violation(complaint)

    # --- what becomes durable ---

    def committing(self, changes: Sequence[rows.Row]) -> None:
        """These are about to become durable, after what is durable now."""
        store = self.disk.store
        fresh = {row.id for row in changes if isinstance(row, rows.PetitionRow)}
        images: dict[Key, rows.ImageRow] = {}
        states: dict[str, rows.PetitionStateRow] = {}
        for row in changes:
            match row:
                case rows.PetitionRow(id=pid):
                    self.check(store.petition(pid) is None, f"{pid[-4:]} is kept anew")
                    self.check(store.tombstone(pid) is None, f"{pid[-4:]} comes back from the dead")
                    self.check(
                        pid not in self.forgotten, f"{pid[-4:]} was forgotten and runs again"
                    )
                    self.kept_at.setdefault(pid, self._world.now)
                case rows.PetitionStateRow(id=pid):
                    known = states.get(pid) or store.petition(pid)
                    self.check(known or pid in fresh, f"{pid[-4:]} has a state and no row")
                    self._petition_moves(
                        known or rows.PetitionStateRow(id=pid, state="queued"), row
                    )
                    states[pid] = row
                case rows.ImageRow(id=pid):
                    known = store.petition(pid)
                    self.check(known or pid in fresh, f"{pid[-4:]} has an image and no row")
                    before = images.get((pid, row.index)) or store.image(pid, row.index)
                    self._image_moves(
                        before or rows.ImageRow(id=pid, index=row.index, state="waiting"), row
                    )
                    images[pid, row.index] = row
                case rows.InputRow(id=pid, digest=digest):
                    there = digest in self.disk.blobs.files or digest in self.lost_digests
                    self.check(there, f"{pid[-4:]} names an input file that is not on the disk")
                case _:
                    pass

    def committed(self, changes: Sequence[rows.Row]) -> None:
        """These are durable."""
        for row in changes:
            if isinstance(row, rows.Forget):
                self.forgotten.add(row.id)
                self.check(
                    self.disk.store.tombstone(row.id), f"{row.id[-4:]} is forgotten without a stone"
                )
            elif isinstance(row, rows.ImageRow) and row.result is not None and row.kept:
                self.check(
                    row.result.digest in self.disk.blobs.files or self._was_lost(row),
                    f"{row.id[-4:]}/{row.index} names a picture that is not on the disk",
                )

    def _was_lost(self, row: rows.ImageRow) -> bool:
        return (row.id, row.index) in self.lost

    def _petition_moves(self, before: rows.PetitionStateRow, row: rows.PetitionStateRow) -> None:
        if before.state in PETITION_ENDS and row.state != before.state:
            self.check(
                row.state == "queued" and row.id in self.retried,
                f"{row.id[-4:]} was {before.state} and is {row.state}",
            )
            self.cancelled.pop(row.id, None)
        if row.state == "expired" and before.state != "expired":
            lived_s = self._world.now - self.kept_at[row.id]
            limit_s = self.limits_s[row.id]
            self.check(
                0 < limit_s <= lived_s + 1e-6,
                f"{row.id[-4:]} expired after {lived_s} s of {limit_s}",
            )

    def _image_moves(self, before: rows.ImageRow, row: rows.ImageRow) -> None:
        key, name = (row.id, row.index), f"{row.id[-4:]}/{row.index}"
        undone = before.state in IMAGE_ENDS and row.state != before.state
        again = row.id in self.retried
        if undone:
            lost = before.state == "done" and row.state == "waiting" and key in self.lost
            self.check(
                lost or (again and before.state != "done"),
                f"{name} was {before.state} and is {row.state}",
            )
        if not again:
            fewer = len(row.failures) < len(before.failures) or row.losses < before.losses
            self.check(not fewer, f"{name}: failures or losses are forgotten")
        if row.seen:
            self.check(key in self.delivered, f"{name} is kept as seen, and nobody ever got it")
        was, now = before.result, row.result
        if row.state == "done":
            self.check(now is not None, f"{name} is done without result")
        if was is not None and now is not None:
            self.check(was.digest == now.digest, f"{name} has a second picture")
        if now is not None:
            digests = self.recorded[key]
            digests.add(now.digest)
            self.check(len(digests) == 1 or key in self.lost, f"{name} has two digests")
        issued = {one.number: one.instance for one in row.issued}
        for one in before.issued:
            same = issued.get(one.number) == one.instance
            self.check(same, f"{name}: attempt {one.number} is forgotten or another's")

    # --- what leaves the manager ---

    def manager_says(self, port: str, peer: Process, frames: list[Buffer]) -> None:
        """The manager sends something; it must be true by now."""
        if frames[0] not in _PROMISES:
            return
        message = (TO_CLIENT if port == "client" else _TO_WORKER).decode(frames).message
        if isinstance(message, wire.Grant):
            self._grant(message, peer)
        else:
            self._says[type(message)](message)

    def _durable_end(self, petition_id: str) -> str:
        store = self.disk.store
        known = store.petition(petition_id)
        stone = store.tombstone(petition_id)
        return known.state if known is not None else stone.state if stone is not None else ""

    def _accepted(self, said: wire.Accepted) -> None:
        known = self.disk.store.petition(said.id) or self.disk.store.tombstone(said.id)
        self.check(known, f"{said.id[-4:]} is accepted and not kept")
        for digest in self.disk.store._inputs.get(said.id, ()):
            there = digest in self.disk.blobs.files or digest in self.lost_digests
            self.check(there, f"{said.id[-4:]} is accepted, and an input file of it is not kept")
        self.accepted.add(said.id)

    def _need(self, said: wire.Need) -> None:
        named = {digest for files in self.disk.store._inputs.values() for digest in files}
        again = named.intersection(said.digests) - self.lost_digests
        self.check(not again, f"{said.id[-4:]} needs what was sent before: {again}")

    def _result(self, said: wire.Result) -> None:
        pid, index = said.attempt.id, said.attempt.index
        row = self.disk.store.image(pid, index)
        self.check(
            pid in self.forgotten
            or (row is not None and row.result is not None and row.result.digest == said.digest),
            f"{pid[-4:]}/{index} is delivered and not recorded",
        )
        listed = self.cancelled.get(pid)
        self.check(
            listed is None or index in listed, f"{pid[-4:]}/{index} is delivered after Cancelled"
        )

    def _finished(self, said: wire.Finished) -> None:
        end = self._durable_end(said.id)
        self.check(end == said.state, f"{said.id[-4:]} is said to be {said.state} and is {end}")

    def _cancelled(self, said: wire.Cancelled) -> None:
        end = self._durable_end(said.id)
        self.check(end in PETITION_ENDS, f"{said.id[-4:]} is Cancelled and not ended")
        if end == "cancelled" and said.id not in self.forgotten:
            before = self.cancelled.setdefault(said.id, frozenset(said.done))
            same = before == frozenset(said.done)
            self.check(same, f"{said.id[-4:]}: Cancelled lists {said.done}, before {before}")

    def _purged(self, said: wire.Purged) -> None:
        if said.id:
            gone = self.disk.store.petition(said.id) is None
            self.check(gone, f"{said.id[-4:]} is Purged and kept")

    def _result_recorded(self, said: wire.ResultRecorded) -> None:
        pid, index = said.attempt.id, said.attempt.index
        row = self.disk.store.image(pid, index)
        done = row is not None and row.state == "done" and row.result is not None
        mine = (
            done
            and row is not None
            and row.result is not None
            and row.result.attempt == said.attempt
        )
        self.check(
            mine or pid in self.forgotten, f"{pid[-4:]}/{index} is said to be recorded and is not"
        )

    def _grant(self, said: wire.Grant, peer: Process) -> None:
        for attempt in said.attempts:
            name = f"{attempt.id[-4:]}/{attempt.index} attempt {attempt.number}"
            row = self.disk.store.image(attempt.id, attempt.index)
            self.check(attempt.id not in self.forgotten, f"{name} is granted after a purge")
            kept = row is not None and attempt.number in {one.number for one in row.issued}
            self.check(kept, f"{name} is granted and not kept")
            self.check(attempt not in self.grants, f"{name} is granted twice")
            self.grants[attempt] = peer
            live = [one for one in row.issued if one.live] if row is not None else []
            if row is not None and len(live) > 1:
                self.check(len(live) == 2, f"{name} is the third at its image")
                self.check(attempt.id not in self.unhedged, f"{name} races, which nobody allowed")
                self.check(not row.failures, f"{name} races with what failed before")
                self.races[attempt.id, attempt.index] += 1

    # --- what else happens ---

    def begun(self, attempt: wire.Attempt) -> None:
        """An engine was asked to draw an attempt."""
        self.executions[attempt.id, attempt.index] += 1

    def spoilt(self, attempt: wire.Attempt) -> None:
        """The engine, or the encoder, will not make a picture of this attempt."""
        self.failures[attempt.id, attempt.index] += 1

    def dropping(self, digest: str) -> None:
        """The manager lets a picture go."""
        owed = digest in self.disk.store.used_blobs()
        self.check(not owed, f"picture {digest[:8]} goes while a row names it")

    def picture_lost(self, digest: str) -> None:
        """The disk lost a picture or an input file."""
        self.lost_digests.add(digest)
        for key, digests in self.recorded.items():
            if digest in digests:
                self.lost.add(key)

    def handed_out(self, key: Key, digest: str) -> None:
        """A caller got a picture."""
        self.delivered[key].add(digest)
        name = f"{key[0][-4:]}/{key[1]}"
        one = len(self.delivered[key]) == 1 or key in self.lost
        self.check(one, f"{name}: two pictures were delivered")
        self.check(digest in self.recorded[key], f"{name}: delivered what was never recorded")

    def somebody_has(self, petition_id: str, indices: Iterable[int]) -> None:
        """The end of a petition was told: these pictures reached a caller, here or elsewhere."""
        for index in indices:
            key = (petition_id, index)
            reached = key in self.delivered or key in self.lost
            self.check(reached, f"{petition_id[-4:]}/{index} is done, and nobody ever got it")

    def nothing_is_lost(self) -> None:
        """What was accepted is kept, or its end is."""
        for pid in self.accepted:
            known = self.disk.store.petition(pid) or self.disk.store.tombstone(pid)
            self.check(known, f"{pid[-4:]} was accepted and is lost")

    def executions_are_bounded(self, excuses: int, keys: Iterable[Key] | None = None) -> None:
        """An image is begun once, and once more for each race and for what went wrong with it."""
        for key in self.executions if keys is None else keys:
            most = 1 + self.failures[key] + self.races[key] + excuses
            count = self.executions[key]
            name = f"{key[0][-4:]}/{key[1]}"
            self.check(count <= most, f"{name} was begun {count} times, {most} is most")
