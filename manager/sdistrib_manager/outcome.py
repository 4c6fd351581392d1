"""How images and petitions end, and why a petition waits."""

from collections.abc import Hashable
from typing import Literal

from sdistrib import limits
from sdistrib.errors import ErrorCode, ErrorInfo
from sdistrib.petitions import PetitionState
from sdistrib.protocol import messages as wire
from sdistrib_manager import blobs, delivery, limited, relief
from sdistrib_manager.effects import Checkpoint
from sdistrib_manager.queue import Entry, Image
from sdistrib_manager.roster import Worker
from sdistrib_manager.rows import Clock, Forget, ForgetTombstone, Tombstone
from sdistrib_manager.state import State
from sdistrib_manager.waiting import engine_is_gone, why_waiting

#: Another try elsewhere cannot change these.
FINAL: frozenset[ErrorCode] = frozenset({"invalid_params", "unsupported", "too_large"})
#: These need a worker that has not failed yet: the same one would fail again.
ELSEWHERE: frozenset[ErrorCode] = frozenset(
    {"engine_error", "out_of_memory", "model_not_found", "lora_not_found"}
)
#: These count also of an attempt that did not begin: the worker found out before.
NOT_BEGUN = FINAL | ELSEWHERE - {"out_of_memory"}

#: Lines of each dead engine's log that a quarantine shows.
_TAIL_LINES = 8
#: So many quarantined images, and none drawn, end a petition: the fault is not in one seed.
_QUARANTINED_MAX = 3


def attempt_failed(state: State, entry: Entry, image: Image, error: ErrorInfo) -> None:
    """An attempt that had begun ended badly: try again, or give the image up."""
    image.failures.append(error)
    if error.code not in FINAL and any(issued.live for issued in image.issued.values()):
        state.keep_image(entry, image)
        return  # another worker is at it
    if _may_retry(state, entry, image, error):
        wait_again(state, entry, image)
    else:
        _give_up(state, entry, image)


def attempt_lost(state: State, entry: Entry, image: Image, worker: Worker, *, began: bool) -> None:
    """An attempt vanished with its worker, or was given back."""
    image.losses += began
    if any(issued.live for issued in image.issued.values()):
        state.keep_image(entry, image)
        return
    if image.losses >= state.settings.losses_max:
        text = f"{image.losses} workers vanished while drawing image {image.index}."
        image.failures.append(state.error("worker_lost", text, worker=worker.name))
        _give_up(state, entry, image)
    else:
        wait_again(state, entry, image)


def _may_retry(state: State, entry: Entry, image: Image, error: ErrorInfo) -> bool:
    if error.code == "out_of_memory":
        return relief.may_go_on(state, entry, image)
    if error.code == "too_large":
        return relief.may_be_larger(state, entry, image)
    way = relief.rung(state, entry, image)
    if error.code in FINAL or relief.strikes(image, way) >= state.settings.attempts_max:
        return False
    return error.code not in ELSEWHERE or bool(relief.takers(state, entry, image, way))


def avoids(state: State, entry: Entry, index: int, worker: Worker) -> bool:
    """The image failed on this worker, and another one could try."""
    image = entry.images.get(index)
    if image is None or all(failure.worker != worker.name for failure in image.failures):
        return False
    able = relief.takers(state, entry, image, relief.rung(state, entry, image))
    return bool(able) and worker not in able


def wait_again(state: State, entry: Entry, image: Image) -> None:
    """Nobody draws this image any more: it is free for others."""
    if image.state != "leased" or any(issued.live for issued in image.issued.values()):
        return
    state.move_image(entry, image, "waiting")
    state.put_back(entry, image.index)
    state.schedule_due = True
    _queue_idle(state, entry)
    _end_without_room(state, entry)


def _queue_idle(state: State, entry: Entry) -> None:
    """A petition of which nothing is leased any more does not run."""
    if entry.state == "running" and not entry.leased_count:
        entry.move("queued")
        state.keep_state(entry)


def _give_up(state: State, entry: Entry, image: Image) -> None:
    if image.failures[-1].code == "out_of_memory":
        told = relief.summary(state, entry, image)
        image.failures += [told] if told is not None else []
    _quarantine(image)
    if image.state == "waiting":
        state.take(entry, image.index)
    state.move_image(entry, image, "failed")
    call_off(state, entry, image)
    state.log("warning", f"image {entry.id[:8]}/{image.index} failed: {image.failures[-1].code}")
    if _hopeless(entry):
        fail_waiting(state, entry, image.failures[-1])
    _end_without_room(state, entry)
    settle(state, entry)


def _hopeless(entry: Entry) -> bool:
    if any(image.state == "done" for image in entry.images.values()):
        return False
    ends = [i.failures[-1].code for i in entry.images.values() if i.state == "failed"]
    return ends.count("quarantined") >= _QUARANTINED_MAX


def _end_without_room(state: State, entry: Entry) -> None:
    """Where one image ended for want of memory its siblings do not wait for a wonder."""
    if any(relief.can_somehow(state, entry, worker) for worker in state.roster):
        return
    for image in entry.images.values():
        if image.state == "failed" and image.failures[-1].code == "out_of_memory":
            fail_waiting(state, entry, image.failures[-1])
            return


def undo(state: State, entry: Entry, image: Image) -> None:
    """A recorded picture was lost before its client had it: the image is undone again."""
    image.result = None
    state.move_image(entry, image, "waiting")
    entry.open += 1
    state.queue.count_images(entry, 1)
    state.put_back(entry, image.index)
    state.schedule_due = True


def _quarantine(image: Image) -> None:
    """An image that killed several engines is named for it, with the last words of each."""
    # Lack of memory has a code and an end of its own, see `relief`.
    codes = ("engine_crashed", "engine_hung")
    deaths = [
        f for f in image.failures if f.code in codes or (f.code == "out_of_memory" and f.signal)
    ]
    if len(deaths) < 2 or all(death.code == "out_of_memory" for death in deaths):
        return
    tried = "; ".join(f"{d.worker}: {d.code} {d.signal}".rstrip() for d in deaths)
    tails = [f"[{d.worker}] {line}" for d in deaths for line in d.log_tail[-_TAIL_LINES:]]
    last = deaths[-1]
    image.failures.append(
        ErrorInfo(
            code="quarantined",
            message=f"The image ended {len(deaths)} engines ({tried}). {last.message}",
            worker=last.worker,
            attempt=last.attempt,
            signal=last.signal,
            log_tail=tuple(tails),
        )
    )


def settle(state: State, entry: Entry) -> None:
    """End the petition when none of its images is open any more."""
    if entry.ended or entry.open:
        _queue_idle(state, entry)
        return
    failed = any(image.state == "failed" for image in entry.images.values())
    entry.move("failed" if failed else "done")
    _ended(state, entry)


def end(state: State, entry: Entry, how: Literal["cancelled", "expired"]) -> None:
    """Cut a petition short. What is recorded stays; everything else is dropped at once."""
    # Images that were never granted have no record, and the petition's end is theirs too.
    fresh = entry.size - entry.fresh
    entry.open -= fresh
    state.queue.count_images(entry, -fresh)
    state.counters.waiting_images -= fresh
    state.take_all(entry)
    for image in entry.images.values():
        if image.state in ("waiting", "leased"):
            state.move_image(entry, image, "cancelled")
    abandon_leases(state, entry)
    entry.move(how)
    _ended(state, entry)


def fail_waiting(state: State, entry: Entry, error: ErrorInfo) -> None:
    """Fail all images that nobody works on, with one error."""
    for index in state.take_all(entry):
        image = entry.image(index)
        image.failures.append(error)
        state.move_image(entry, image, "failed")
        call_off(state, entry, image)
    settle(state, entry)


def fail(state: State, entry: Entry, error: ErrorInfo) -> None:
    """Fail all images that are not done, also those that somebody works on, with one error."""
    for index in entry.indices("leased"):
        image = entry.image(index)
        image.failures.append(error)
        state.move_image(entry, image, "failed")
        call_off(state, entry, image)
    fail_waiting(state, entry, error)


def call_off(state: State, entry: Entry, image: Image) -> None:
    """Nobody needs to draw this image any more, neither present nor suspect nor away."""
    for worker in state.roster:
        for attempt in [a for a in worker.leases if (a.id, a.index) == (entry.id, image.index)]:
            del worker.leases[attempt]
            state.tell_worker(worker, wire.Abandon(attempt=attempt))
            state.schedule_due = True
    for issued in image.issued.values():
        # Also of workers that have not come back since this manager started. Should the picture be
        # lost, they would count as being at it.
        issued.live = False


def abandon_leases(state: State, entry: Entry) -> None:
    """Nobody needs to draw anything of this petition any more."""
    for worker in state.roster:
        for attempt in [a for a in worker.leases if a.id == entry.id]:
            del worker.leases[attempt]
            state.tell_worker(worker, wire.Abandon(attempt=attempt))
            state.schedule_due = True


def _ended(state: State, entry: Entry) -> None:
    entry.ended_uptime_s = state.uptime_s
    state.queue.count_ended(entry, 1)
    entry.reason = ""
    if entry.state == "done" and entry.first_eta is not None:
        foreseen_at, eta_s = entry.first_eta
        took_s = state.now - foreseen_at
        if took_s > 0:
            state.eta_errors.append(abs(eta_s - took_s) / took_s)
    state.keep_state(entry)
    state.log("info", f"petition {entry.id[:8]}: {entry.state}")
    delivery.finish(state, entry)


def review(state: State) -> None:
    """Once a beat: deadlines, petitions nobody can do, places in the queue, old ends."""
    ahead = 0
    reasons: dict[Hashable, str] = {}
    for entry in state.queue.lined_up():
        reason = ""
        if entry.state != "running":
            # Petitions that fit the same workers wait for the same.
            full = limited.is_full(state, entry)
            key = entry.job.context, entry.job.kind, entry.rungs, full
            if key not in reasons:
                reasons[key] = why_waiting(state, entry)
            reason = reasons[key]
        if (entry.ahead, entry.reason) != (ahead, reason):
            entry.ahead, entry.reason = ahead, reason
            state.touch(entry)
        ahead += entry.waiting_count
        _review_orphan(state, entry)
    forgotten = False
    for entry in list(state.queue):
        if not entry.ended and entry.expires_at is not None and state.now >= entry.expires_at:
            end(state, entry, "expired")
        elif _may_be_forgotten(state, entry):
            forget(state, entry)
            forgotten = True
    if forgotten:
        state.outbox.append(Checkpoint())
    _keep_clock(state)


def _keep_clock(state: State) -> None:
    """Remaining times are kept now and then: time with the manager down does not count."""
    if state.now < state.clock_due_at or state.store_trouble:
        return
    state.clock_due_at = state.now + limits.CLOCK_KEEP_S
    state.keep(Clock(state.uptime_s), soft=True)
    for entry in state.queue:
        if entry.expires_at is not None and not entry.ended:
            state.keep_state(entry)
    for petition_id, stone in list(state.tombstones.items()):
        if petition_id in state.damaged:
            continue
        too_many = len(state.tombstones) > limits.TOMBSTONES_MAX
        if not too_many and state.uptime_s - stone.uptime_s < limits.TOMBSTONE_S:
            break
        del state.tombstones[petition_id]
        state.keep(ForgetTombstone(petition_id))


def _may_be_forgotten(state: State, entry: Entry) -> bool:
    if not entry.ended or entry.listeners:
        return False
    return state.uptime_s - entry.ended_uptime_s >= state.settings.retention_s


def _review_orphan(state: State, entry: Entry) -> None:
    """A petition that no known worker can do does not wait for ever."""
    if not len(state.roster) or any(relief.can_somehow(state, entry, w) for w in state.roster):
        entry.orphaned_at = None
    elif engine_is_gone(state, entry):
        entry.orphaned_at = None  # whoever said --exact waits, to its own time limit
    elif entry.orphaned_at is None:
        entry.orphaned_at = state.now
    elif state.now - entry.orphaned_at >= state.settings.no_worker_timeout_s:
        text = f"Waited {state.settings.no_worker_timeout_s:.0f} s: {why_waiting(state, entry)}."
        fail_waiting(state, entry, state.error("no_capable_worker", text))


def forget(state: State, entry: Entry) -> None:
    """Drop all that is known of a petition but its id and end; who listens is told."""
    text = f"Petition {entry.id[:8]} was forgotten."
    for client in state.listening(entry):
        state.part(client, entry)
        refused = wire.Refused(id=entry.id, error=state.error("not_found", text))
        state.say("client", client.route, refused)
    for image in entry.images.values():
        delivery.drop_picture(state, entry, image)
    for file in entry.inputs:
        blobs.drop_input(state, entry, file)
    state.queue.forget(entry)
    state.keep(Forget(entry.id))
    bury(state, entry.id, entry.owner, entry.digest, entry.state)


def forget_damaged(state: State, petition_id: str) -> None:
    """Drop what is kept of a petition that cannot be read back; its tombstone stays."""
    for digest in sorted(state.damaged.pop(petition_id)):
        blobs.drop_unused(state, digest)
    state.keep(Forget(petition_id))
    state.keep(state.tombstones[petition_id])


def bury(state: State, petition_id: str, owner: str, digest: str, end_state: PetitionState) -> None:
    """Remember how a petition ended, so that a resend never runs again."""
    stone = Tombstone(
        id=petition_id, owner=owner, digest=digest, state=end_state, uptime_s=state.uptime_s
    )
    state.tombstones[petition_id] = stone
    state.keep(stone)
