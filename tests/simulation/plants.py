"""Faults that are planted in the product to see that the simulation finds them.

Each is what a hurried change might do. A plant names a function of the product and gives what
stands in its place; `planted` puts it there for the length of a block.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

from sdistrib.errors import StoreError
from sdistrib.petitions import IMAGE_ENDS
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib_client.requests import Requests
from sdistrib_manager import (
    arrival,
    blobs,
    delivery,
    dispatch,
    door,
    inputs,
    machine,
    outcome,
    restore,
)
from sdistrib_manager.clients import Client
from sdistrib_manager.effects import Keep
from sdistrib_manager.loop import Loop
from sdistrib_manager.machine import Manager
from sdistrib_manager.queue import Entry, Image
from sdistrib_manager.roster import Lease, Worker
from sdistrib_manager.rows import ImageRow, Snapshot, Tombstone
from sdistrib_manager.scheduler.takeover import Takeover
from sdistrib_manager.scheduler.work import Held
from sdistrib_manager.state import Arrival, State, Upload
from sdistrib_manager.storage import Storage
from sdistrib_worker.results import Results
from sdistrib_worker.session import Session


class Plant(NamedTuple):
    """A function of the product, and what stands in its place."""

    owner: Any
    name: str
    replacement: Callable[..., Any]


# --- results ---

_fence, _record = arrival._fence, arrival._record


def _any_result(state: State, worker: Worker, message: wire.Result) -> str:
    reason = _fence(state, worker, message)
    return "" if state.find(message.attempt) else reason


def _overwrite(state: State, worker: Worker | None, message: wire.Result) -> None:
    found = state.find(message.attempt)
    if found is None or found[1].state not in IMAGE_ENDS or worker is None:
        _record(state, worker, message)
        return
    entry, image = found
    delivery.drop_picture(state, entry, image)
    image.state, image.result, image.kept = "done", message, True
    blobs.use(state, entry.owner, message.digest, message.size_bytes)
    state.keep_image(entry, image)
    state.tell_worker(worker, wire.ResultRecorded(attempt=message.attempt))


def _unless_done(state: State, worker: Worker, message: wire.Result) -> str:
    reason = _fence(state, worker, message)
    return "" if reason == "the image is cancelled" else reason


def _take_at_once(state: State, worker: Worker, here: Arrival, offset: int, piece: Buffer) -> None:
    _take(state, worker, here, offset, piece)
    if here.storing:
        arrival.stored(state, here.incoming.digest)


_take = arrival._take


# --- input files ---

_store = inputs._store


def _accept_at_once(state: State, upload: Upload) -> None:
    _store(state, upload)
    for staged in inputs.stored(state, upload.incoming.digest):
        door.take_staged(state, staged)


# --- the store ---

_commit, _start_over, _retire = Storage.commit, Loop._start_over, delivery.retire


def _commit_later(self: Storage, keeps: Sequence[Keep]) -> None:
    late: list[Keep] = self.__dict__.setdefault("_late", [])
    before = late[:]
    late[:] = keeps
    _commit(self, before)


def _go_on(self: Loop, error: StoreError) -> None:
    """What the failed turn decided stays decided."""


def _retire_always(state: State) -> None:
    trouble, state.store_trouble = state.store_trouble, ""
    _retire(state)
    state.store_trouble = trouble


def _bury_lightly(state: State, petition_id: str, owner: str, digest: str, end_state: Any) -> None:
    state.tombstones[petition_id] = Tombstone(
        id=petition_id, owner=owner, digest=digest, state=end_state, uptime_s=state.uptime_s
    )


# --- restarts ---

_image, _restore = restore._image, restore.restore


def _image_without_past(row: ImageRow) -> Image:
    image = _image(row)
    image.failures, image.losses = [], 0
    return image


def _restore_without_grace(state: State, kept: Snapshot) -> None:
    _restore(state, kept)
    state.grace_until = min(state.grace_until, state.now)


# --- attempts and time ---

_handle, _issue = Manager.handle, dispatch._issue


def _handle_by_wall(self: Manager, event: Any, now: float, wall: float = 0.0) -> list[Any]:
    began = self.__dict__.setdefault("_began", wall - now)
    return _handle(self, event, wall - began, wall)


def _issue_old_numbers(state: State, worker: Worker, entry: Entry, image: Image) -> Lease:
    for number in [number for number, one in image.issued.items() if not one.live]:
        del image.issued[number]
    return _issue(state, worker, entry, image)


def _fits_always(state: State, worker: Worker, held: Held) -> bool:
    return True


def _may_race_always(self: Any, held: Held) -> bool:
    return True


# --- delivery ---

_launch = delivery._launch


def _launch_as_seen(state: State, client: Client, entry: Entry, result: wire.Result) -> None:
    _launch(state, client, entry, result)
    delivery.mark_seen(state, entry, entry.image(result.attempt.index))


# --- peers ---

_hand_in, _hello, _result = Results.hand_in, Session.hello, Requests._result


def _hand_in_nothing(self: Results) -> None:
    self._held.clear()
    _hand_in(self)


def _hello_idle(self: Session, engine: Any, running: Any, *more: Any) -> None:
    _hello(self, engine, (), *more)


def _result_again(self: Requests, result: wire.Result, body: Buffer) -> None:
    petition = self._petitions.get(result.attempt.id)
    if petition is not None:
        petition.given.discard(result.attempt.index)
        petition.taken.discard(result.attempt.index)
    _result(self, result, body)


PLANTS: dict[str, tuple[Plant, ...]] = {
    "results are not fenced": (
        Plant(arrival, "_fence", _any_result),
        Plant(arrival, "_record", _overwrite),
    ),
    "a cancel loses to a late result": (
        Plant(arrival, "_fence", _unless_done),
        Plant(arrival, "_record", _overwrite),
    ),
    "replies leave before the commit": (Plant(Storage, "commit", _commit_later),),
    "a row before its picture": (Plant(arrival, "_take", _take_at_once),),
    "accepted before the input file is durable": (Plant(inputs, "_store", _accept_at_once),),
    "a failed commit is ignored": (Plant(Loop, "_start_over", _go_on),),
    "pictures go before their rows": (Plant(delivery, "retire", _retire_always),),
    "tombstones are not kept": (Plant(outcome, "bury", _bury_lightly),),
    "failures are forgotten at a restart": (Plant(restore, "_image", _image_without_past),),
    "a restart knows no grace": (Plant(machine, "restore", _restore_without_grace),),
    "deadlines by the wall clock": (
        Plant(Manager, "handle", _handle_by_wall),
        Plant(Manager, "next_deadline", lambda _: math.inf),
    ),
    "attempt numbers are used again": (Plant(dispatch, "_issue", _issue_old_numbers),),
    "images that failed, or that two are at, are raced": (Plant(dispatch, "_fits", _fits_always),),
    "a race that nobody allowed": (Plant(Takeover, "_may_race", _may_race_always),),
    "a picture counts as seen when it is sent": (Plant(delivery, "_launch", _launch_as_seen),),
    "what a new hello missed stays under way": (Plant(Client, "unsend", lambda _: None),),
    "results are dropped at a reconnect": (Plant(Results, "hand_in", _hand_in_nothing),),
    "a hello hides what is running": (Plant(Session, "hello", _hello_idle),),
    "a picture is handed out twice": (Plant(Requests, "_result", _result_again),),
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """The product with a fault, or as it is when `name` is empty."""
    with contextlib.ExitStack() as stack:
        for plant in PLANTS.get(name, ()):
            stack.enter_context(mock.patch.object(plant.owner, plant.name, plant.replacement))
        yield
