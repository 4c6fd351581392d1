"""How images and petitions end, and why a petition waits."""

from typing import Literal

from sdistrib.errors import ErrorCode, ErrorInfo
from sdistrib.models import not_found
from sdistrib.protocol import messages as wire
from sdistrib_manager import delivery
from sdistrib_manager.effects import ForgetPetition
from sdistrib_manager.queue import Entry, Image
from sdistrib_manager.roster import Worker
from sdistrib_manager.state import State

#: Another try elsewhere cannot change these.
FINAL: frozenset[ErrorCode] = frozenset({"invalid_params", "unsupported", "too_large"})
#: These need a worker that has not failed yet: the same one would fail again.
ELSEWHERE: frozenset[ErrorCode] = frozenset(
    {"engine_error", "out_of_memory", "model_not_found", "lora_not_found"}
)
#: Attempts lost with their worker, none of them the image's fault as far as is known.
_LOSSES_MAX = 3


def attempt_failed(state: State, entry: Entry, image: Image, error: ErrorInfo) -> None:
    """An attempt that had begun ended badly: try again, or give the image up."""
    image.failures.append(error)
    if _may_retry(state, entry, image, error):
        _wait_again(state, entry, image)
    else:
        _give_up(state, entry, image)


def attempt_lost(state: State, entry: Entry, image: Image, worker: Worker, *, began: bool) -> None:
    """An attempt vanished with its worker, or was given back."""
    image.losses += began
    if any(issued.live for issued in image.issued.values()):
        return
    if image.losses >= _LOSSES_MAX:
        text = f"{image.losses} workers vanished while drawing image {image.index}."
        image.failures.append(state.error("worker_lost", text, worker=worker.name))
        _give_up(state, entry, image)
    else:
        _wait_again(state, entry, image)


def _may_retry(state: State, entry: Entry, image: Image, error: ErrorInfo) -> bool:
    if error.code in FINAL or len(image.failures) >= state.settings.attempts_max:
        return False
    return error.code not in ELSEWHERE or bool(_untried(state, entry, image))


def _untried(state: State, entry: Entry, image: Image) -> list[Worker]:
    tried = {failure.worker for failure in image.failures}
    return [w for w in state.roster.present() if w.name not in tried and w.has_all(entry.wanted)]


def avoids(state: State, entry: Entry, index: int, worker: Worker) -> bool:
    """The image failed on this worker, and another one could try."""
    image = entry.images.get(index)
    if image is None or all(failure.worker != worker.name for failure in image.failures):
        return False
    return bool(_untried(state, entry, image))


def _wait_again(state: State, entry: Entry, image: Image) -> None:
    if image.state != "leased" or any(issued.live for issued in image.issued.values()):
        return
    state.move_image(entry, image, "waiting")
    state.queue.put_back(entry, image.index)
    state.schedule_due = True
    if entry.state == "running" and not entry.indices("leased"):
        entry.move("queued")
        state.keep_state(entry)


def _give_up(state: State, entry: Entry, image: Image) -> None:
    if image.state == "waiting":
        entry.waiting.remove(image.index)
    state.move_image(entry, image, "failed")
    # A worker that was given up may still be at it.
    call_off(state, entry, image.index)
    state.log("warning", f"image {entry.id[:8]}/{image.index} failed: {image.failures[-1].code}")
    settle(state, entry)


def settle(state: State, entry: Entry) -> None:
    """End the petition when none of its images is open any more."""
    if entry.ended or entry.open:
        return
    failed = any(image.state == "failed" for image in entry.images.values())
    entry.move("failed" if failed else "done")
    _ended(state, entry)


def end(state: State, entry: Entry, how: Literal["cancelled", "expired"]) -> None:
    """Cut a petition short. What is recorded stays; everything else is dropped at once."""
    for index in entry.waiting:
        state.move_image(entry, entry.image(index), "cancelled")
    entry.waiting.clear()
    for image in list(entry.images.values()):
        if image.state == "leased":
            state.move_image(entry, image, "cancelled")
    call_off(state, entry)
    entry.move(how)
    _ended(state, entry)


def fail_waiting(state: State, entry: Entry, error: ErrorInfo) -> None:
    """Fail all images that nobody works on, with one error."""
    while entry.waiting:
        image = entry.image(entry.waiting.popleft())
        image.failures.append(error)
        state.move_image(entry, image, "failed")
        call_off(state, entry, image.index)
    settle(state, entry)


def call_off(state: State, entry: Entry, index: int | None = None) -> None:
    """Nobody wants the attempts at this petition, or at one image of it, any more."""
    for worker in state.roster:
        for attempt in [a for a in worker.leases if a.id == entry.id and index in (None, a.index)]:
            del worker.leases[attempt]
            entry.image(attempt.index).issued[attempt.number].live = False
            state.tell_worker(worker, wire.Abandon(attempt=attempt))
            state.schedule_due = True


def _ended(state: State, entry: Entry) -> None:
    entry.ended_at = state.now
    entry.reason = ""
    state.keep_state(entry)
    state.log("info", f"petition {entry.id[:8]}: {entry.state}")
    delivery.finish(state, entry)


def why_waiting(state: State, entry: Entry) -> str:
    """One line: why nothing of this petition runs."""
    if not len(state.roster):
        return "no worker is connected yet"
    holders = state.roster.holders(entry.wanted)
    here = [worker for worker in holders if worker.present]
    if here:
        busy = ", ".join(sorted(worker.name for worker in here)[:3])
        return f"waiting for a free worker ({busy})"
    if holders:
        worker = max(holders, key=lambda w: w.liveness.heard_at)
        seen_s = state.now - worker.liveness.heard_at
        return f"only on {worker.name}, last seen {seen_s:.0f} s ago"
    catalogues = [worker.catalogue for worker in state.roster]
    for want in entry.wanted:
        if all(files.find(want.kind, want.name) is None for files in catalogues):
            near = ", ".join(not_found(want, catalogues).closest)
            hint = f"; closest: {near}" if near else ""
            return f"none of {len(catalogues)} workers has {want.kind} {want.name!r}{hint}"
    return "no single worker has all the files it names"


def review(state: State) -> None:
    """Once a beat: deadlines, petitions nobody can do, places in the queue, old ends."""
    ahead = 0
    for entry in state.queue.lined_up():
        reason = "" if entry.state == "running" else why_waiting(state, entry)
        if (entry.ahead, entry.reason) != (ahead, reason):
            entry.ahead, entry.reason = ahead, reason
            state.touch(entry)
        ahead += len(entry.waiting)
        _review_orphan(state, entry)
    for entry in list(state.queue):
        timeout_s = entry.petition.timeout_s
        if not entry.ended and timeout_s and state.now - entry.accepted_at >= timeout_s:
            end(state, entry, "expired")
        elif _may_be_forgotten(state, entry):
            forget(state, entry)


def _may_be_forgotten(state: State, entry: Entry) -> bool:
    if not entry.ended or (entry.route is not None and not entry.finished_sent):
        return False
    return state.now - entry.ended_at >= state.settings.retention_s


def _review_orphan(state: State, entry: Entry) -> None:
    """A petition that no known worker can do does not wait for ever."""
    if not len(state.roster) or state.roster.holders(entry.wanted):
        entry.orphaned_at = None
    elif entry.orphaned_at is None:
        entry.orphaned_at = state.now
    elif state.now - entry.orphaned_at >= state.settings.no_worker_timeout_s:
        text = f"Waited {state.settings.no_worker_timeout_s:.0f} s: {why_waiting(state, entry)}."
        fail_waiting(state, entry, state.error("no_capable_worker", text))


def forget(state: State, entry: Entry) -> None:
    """Drop all that is known of a petition."""
    for image in entry.images.values():
        if image.result is not None and not image.seen:
            delivery.drop_picture(state, image.result)
    state.queue.forget(entry)
    state.outbox.append(ForgetPetition(entry.id))
