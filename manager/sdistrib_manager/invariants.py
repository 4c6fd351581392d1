"""What is true of a manager between any two events. Tests check it after every one."""

from sdistrib import limits
from sdistrib.petitions import IMAGE_ENDS
from sdistrib_manager.machine import Manager
from sdistrib_manager.queue import Entry, Image
from sdistrib_manager.roster import CREDIT
from sdistrib_manager.state import State


def check_invariants(manager: Manager) -> None:
    """Raise AssertionError, saying what does not hold."""
    state = manager.state
    for entry in state.queue:
        _check_entry(entry)
    _check_counters(state)
    _check_leases(state)
    _check_pictures(state)
    _check_clients(state)


def _check_entry(entry: Entry) -> None:
    assert len(set(entry.waiting)) == len(entry.waiting), f"{entry.id}: an image waits twice"
    fresh = set(entry.waiting) - entry.images.keys()
    for index in entry.waiting:
        image = entry.images.get(index)
        assert image is None or image.state == "waiting", f"{entry.id}/{index} waits, {image}"
    for image in entry.images.values():
        _check_image(entry, image)
    known = fresh | entry.images.keys()
    assert known == set(range(entry.petition.images)), f"{entry.id}: images are missing"
    undone = [i for i in entry.images.values() if i.state not in IMAGE_ENDS]
    assert entry.open == len(undone) + len(fresh), f"{entry.id}: open is {entry.open}"
    done = [image for image in entry.images.values() if image.state == "done"]
    assert entry.done == len(done), f"{entry.id}: the count of pictures is {entry.done}"
    unseen = sum(not image.seen for image in done)
    assert entry.unseen == unseen, f"{entry.id}: the count of unseen pictures is {entry.unseen}"
    assert entry.ended == (entry.open == 0), f"{entry.id}: {entry.state} with {entry.open} open"


def _check_image(entry: Entry, image: Image) -> None:
    where = f"{entry.id}/{image.index}"
    live = [issued for issued in image.issued.values() if issued.live]
    assert len(live) <= 2, f"{where}: {len(live)} live attempts"
    assert (image.state == "leased") <= bool(live), f"{where}: leased to nobody"
    assert (image.state == "waiting") == (image.index in entry.waiting), f"{where}: lost"
    assert (image.state == "done") == (image.result is not None), f"{where}: done without result"
    assert (image.state == "failed") <= bool(image.failures), f"{where}: failed without reason"
    assert sorted(image.issued) == list(range(1, len(image.issued) + 1)), f"{where}: numbers"


def _check_counters(state: State) -> None:
    waiting = sum(len(entry.waiting) for entry in state.queue)
    leased = sum(len(entry.indices("leased")) for entry in state.queue)
    assert state.counters.waiting_images == waiting, "the count of waiting images is wrong"
    assert state.counters.running_images == leased, "the count of running images is wrong"
    assert state.queue.open_images == waiting + leased, "the count of open images is wrong"


def _check_leases(state: State) -> None:
    for worker in state.roster:
        assert len(worker.leases) <= CREDIT, f"{worker.name} holds {len(worker.leases)} leases"
        for attempt in worker.leases:
            found = state.find(attempt)
            assert found is not None, f"{worker.name} holds {attempt}, which nobody knows"
            assert found[1].issued[attempt.number].instance == worker.instance
            assert found[1].state not in IMAGE_ENDS, f"{worker.name} draws what has ended"


def _check_pictures(state: State) -> None:
    for digest, uses in state.blob_uses.items():
        assert uses > 0, f"picture {digest[:8]} is kept for nobody"
    kept = {
        image.result.digest
        for entry in state.queue
        for image in entry.images.values()
        if image.result is not None and not image.seen
    }
    assert kept == state.blob_uses.keys(), "pictures kept and pictures owed differ"


def _check_clients(state: State) -> None:
    for client in state.clients.values():
        count = len(client.flying)
        assert count <= limits.CLIENT_RESULTS_IN_FLIGHT_MAX, f"{count} pictures under way"
        sizes = [delivery.size_bytes for delivery in client.flying.values()]
        assert client.bytes_flying == sum(sizes), "the count of bytes under way is wrong"
        assert count <= 1 or sum(sizes) <= limits.CLIENT_BYTES_IN_FLIGHT_MAX
