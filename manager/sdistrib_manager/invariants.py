"""What is true of a manager between any two events. Tests check it after every one."""

from collections.abc import Iterator

from sdistrib import limits
from sdistrib.petitions import IMAGE_ENDS
from sdistrib_manager.clients import Client
from sdistrib_manager.machine import Manager
from sdistrib_manager.queue import Entry, Image, Share
from sdistrib_manager.scheduler.outlook import HOLD_MAX
from sdistrib_manager.state import Staged, State


def check_invariants(manager: Manager) -> None:
    """Raise AssertionError, saying what does not hold."""
    state = manager.state
    for entry in state.queue:
        _check_entry(entry)
    _check_counters(state)
    _check_leases(state)
    _check_pictures(state)
    _check_inputs(state)
    _check_shares(state)
    _check_clients(state)


def _check_entry(entry: Entry) -> None:
    waiting = list(entry.waiting())
    assert len(set(waiting)) == len(waiting), f"{entry.id}: an image waits twice"
    assert len(waiting) == entry.waiting_count, f"{entry.id}: the count of waiting ones is wrong"
    for index in waiting:
        image = entry.images.get(index)
        assert image is None or image.state == "waiting", f"{entry.id}/{index} waits, {image}"
    for image in entry.images.values():
        _check_image(entry, image, waiting)
    fresh = set(range(entry.fresh, entry.size))
    assert not fresh & entry.images.keys(), f"{entry.id}: a fresh image has a record"
    if not entry.ended:
        known = fresh | entry.images.keys()
        assert known == set(range(entry.size)), f"{entry.id}: images are missing"
    assert entry.job.waiting == len(waiting), f"{entry.id}: the scheduler sees {entry.job.waiting}"
    assert entry.done == len(entry.indices("done")), f"{entry.id}: done is {entry.done}"
    undone = [i for i in entry.images.values() if i.state not in IMAGE_ENDS]
    assert entry.open == len(undone) + len(fresh), f"{entry.id}: open is {entry.open}"
    leased = len(entry.indices("leased"))
    assert entry.ended or entry.leased_count == leased, f"{entry.id}: {leased} are leased"
    assert entry.state != "running" or leased, f"{entry.id}: nothing of it runs"
    assert entry.ended == (entry.open == 0), f"{entry.id}: {entry.state} with {entry.open} open"


def _check_image(entry: Entry, image: Image, waiting: list[int]) -> None:
    where = f"{entry.id}/{image.index}"
    live = [issued for issued in image.issued.values() if issued.live]
    assert len(live) <= 2, f"{where}: {len(live)} live attempts"
    assert (image.state == "leased") <= bool(live), f"{where}: leased to nobody"
    assert (image.state == "waiting") == (image.index in waiting), f"{where}: lost"
    assert (image.state == "done") == (image.result is not None), f"{where}: done without result"
    assert (image.state == "failed") <= bool(image.failures), f"{where}: failed without reason"
    assert sorted(image.issued) == list(range(1, len(image.issued) + 1)), f"{where}: numbers"


def _check_counters(state: State) -> None:
    waiting = sum(entry.waiting_count for entry in state.queue)
    leased = sum(len(entry.indices("leased")) for entry in state.queue)
    assert state.counters.waiting_images == waiting, "the count of waiting images is wrong"
    assert state.counters.running_images == leased, "the count of running images is wrong"
    assert state.queue.open_images == waiting + leased, "the count of open images is wrong"


def _check_leases(state: State) -> None:
    for worker in state.roster:
        # Begun ones may be more: a hello claims results of images that are undone again.
        fresh = sum(not lease.started for lease in worker.leases.values())
        assert fresh <= HOLD_MAX, f"{worker.name} holds {fresh} leases that it has not begun"
        most = HOLD_MAX + limits.WORKER_RESULTS_HELD_MAX
        assert len(worker.leases) <= most, f"{worker.name} holds {len(worker.leases)} leases"
        for attempt in worker.leases:
            found = state.find(attempt)
            assert found is not None, f"{worker.name} holds {attempt}, which nobody knows"
            assert found[1].issued[attempt.number].instance == worker.instance
            assert found[1].state not in IMAGE_ENDS, f"{worker.name} draws what has ended"


def _check_pictures(state: State) -> None:
    for digest, uses in state.blob_uses.items():
        assert uses > 0, f"picture {digest[:8]} is kept for nobody"
    kept: dict[str, int] = {}
    for digest in _input_uses(state):
        kept[digest] = kept.get(digest, 0) + 1
    for entry in state.queue:
        for image in entry.images.values():
            if image.kept:
                assert image.result is not None, f"{entry.id}/{image.index}: kept without result"
                kept[image.result.digest] = kept.get(image.result.digest, 0) + 1
    assert kept == state.blob_uses, "pictures kept and pictures owed differ"
    owners: dict[str, int] = {}
    for (_, digest), uses in state.blob_owners.items():
        owners[digest] = owners.get(digest, 0) + uses
    assert owners == kept, "pictures kept and those of their owners differ"
    assert state.blob_sizes.keys() == kept.keys(), "bytes are counted of what is not kept"
    assert state.blob_bytes == sum(state.blob_sizes.values()), "the count of bytes kept is wrong"


def _input_uses(state: State) -> Iterator[str]:
    for entry in state.queue:
        yield from (file.digest for file in entry.inputs)
    for staged in state.staged.values():
        yield from staged.held


def _check_inputs(state: State) -> None:
    named = {(file.digest, entry.id) for entry in state.queue for file in entry.inputs}
    listed = {(digest, pid) for digest, pids in state.input_names.items() for pid in pids}
    assert named == listed, "input files and the petitions that keep them differ"
    for staged in state.staged.values():
        name = f"{staged.id} waits for input files"
        assert staged.held.keys() <= {file.digest for file in staged.files}, f"{name} not its own"
        assert staged.waiters.keys() <= state.clients.keys(), f"{name} for somebody who left"
        assert bool(staged.waiters) == (staged.lost_at is None), f"{name}, its clock is wrong"
        for file in staged.files:
            upload = state.uploads.get((staged.owner, file.digest))
            assert (upload is None) == (file.digest in staged.held), f"{name} that do not come"
            if upload is not None and staged.waiters and not upload.storing:
                assert upload.sender is not None, f"{name} that nobody was asked for"
    fresh = {(s.owner, d, size) for s in state.staged.values() for d, size in s.fresh.items()}
    assert fresh == state.fresh_uses.keys(), "files under way and their count differ"
    for owner, count in state.fresh_bytes.items():
        assert count == sum(size for whose, _, size in fresh if whose == owner), "bytes under way"
    for key, upload in state.uploads.items():
        waiting = {pid for pid, s in state.staged.items() if _waits_for(s, *key)}
        assert upload.petitions.keys() == waiting, "who waits for a file and who is told differ"
        if upload.sender is not None and not upload.storing:
            route, petition_id = upload.sender
            assert route in state.staged[petition_id].waiters, "a file comes from nobody"


def _waits_for(staged: Staged, owner: str, digest: str) -> bool:
    missing = {file.digest for file in staged.files} - staged.held.keys()
    return staged.owner == owner and digest in missing


def _check_shares(state: State) -> None:
    shares: dict[str, Share] = {}
    seen_bytes = 0
    for entry in state.queue:
        share = shares.setdefault(entry.owner, Share())
        share.petitions += not entry.ended
        share.images += entry.open
        share.picture_bytes += sum(file.size_bytes for file in entry.inputs)
        for image in entry.images.values():
            if image.kept and image.result is not None:
                seen_bytes += image.result.size_bytes if image.seen else 0
                share.picture_bytes += 0 if image.seen else image.result.size_bytes
    for owner, share in state.queue.shares.items():
        assert share == shares.get(owner, Share()), f"the share of {owner} is wrong: {share}"
    assert shares.keys() <= state.queue.shares.keys(), "somebody's share is not counted"
    assert state.seen_bytes == seen_bytes, "the count of bytes seen is wrong"


def _check_listeners(state: State) -> None:
    pairs = [(entry.id, route) for entry in state.queue for route in entry.listeners]
    assert len(set(pairs)) == len(pairs), "a client listens twice"
    slots = {(pid, client.route) for client in state.clients.values() for pid in client.slots}
    assert set(pairs) == slots, "who listens and who is told differ"


def _check_clients(state: State) -> None:
    _check_listeners(state)
    for client in state.clients.values():
        count = len(client.flying)
        assert count <= limits.CLIENT_RESULTS_IN_FLIGHT_MAX, f"{count} pictures under way"
        sizes = [delivery.size_bytes for delivery in client.flying.values()]
        assert client.bytes_flying == sum(sizes), "the count of bytes under way is wrong"
        assert count <= 1 or sum(sizes) <= limits.CLIENT_BYTES_IN_FLIGHT_MAX
        _check_previews(client)
    waiting = [b for c in state.clients.values() for _, b in c.previews_waiting.values()]
    assert state.preview_bytes == sum(map(len, waiting)), "the count of preview bytes is wrong"
    assert state.preview_bytes <= limits.PREVIEWS_BYTES_MAX, "too many previews wait"


def _check_previews(client: Client) -> None:
    wanted = {petition_id for petition_id, slot in client.slots.items() if slot.previews}
    assert client.previews_waiting.keys() <= wanted, "a preview waits that nobody wants"
    count = len(client.previews_flying)
    assert count <= limits.CLIENT_PREVIEWS_IN_FLIGHT_MAX, f"{count} previews under way"
