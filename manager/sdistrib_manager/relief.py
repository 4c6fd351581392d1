"""What is tried when engines run out of memory on an image: a ladder, as far as its petition goes.

The rungs: as the petition asks, on every worker with room; then decoded in tiles; then with weights
kept in RAM besides. On each rung all workers have a chance, the one that ran out of memory before
included. Nothing is kept of where an image is: it follows from what its attempts ended with, which
is kept with the image, and from the sizes that workers are known to have no memory for, which are
kept too. So a petition's other images go where the first one had to, without running out again.
"""

import dataclasses
from collections.abc import Iterator
from typing import cast

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.petitions import Relief, relieved
from sdistrib.protocol.codec import decode_petition
from sdistrib_manager.jobs import Kind, context_key
from sdistrib_manager.queue import Entry, Image
from sdistrib_manager.roster import Worker
from sdistrib_manager.scheduler.work import Job
from sdistrib_manager.state import State

#: Each way of drawing, for people.
WORDS: dict[Relief, str] = {
    "": "as asked",
    "tile": "with VAE tiling",
    "offload": "with VAE tiling and offloaded weights",
}
#: Workers named in a grant.
_NAMES_MAX = 8


def job_for(state: State, entry: Entry, relief: Relief) -> Job:
    """The petition as the scheduler sees it when it is drawn so."""
    job = entry.job
    if not relief:
        return job
    context = cast(str, job.context)
    if relief == "offload":
        if not entry.offload_context:
            params = relieved(decode_petition(entry.body).params, relief)
            entry.offload_context = context_key(params, state.roster.name_of)
        context = entry.offload_context
    kind = cast(Kind, job.kind)._replace(tiled=True)
    # Its client was served when its first attempt began.
    return dataclasses.replace(job, context=context, kind=kind, new=False)


def can_somehow(state: State, entry: Entry, worker: Worker) -> bool:
    """The worker can draw the petition, in one of the ways that it allows."""
    return any(worker.can(job_for(state, entry, relief)) for relief in entry.rungs)


def rung(state: State, entry: Entry, image: Image | None) -> Relief:
    """How the next attempt at an image (None: one that was never granted) is to be made.

    The first way in which any worker here can; the petition's own when none can in any.
    """
    if len(entry.rungs) == 1:
        return ""
    for relief in entry.rungs:
        if image is None or not _spent(state, image, relief):
            job = job_for(state, entry, relief)
            had = _had_their_chance(entry, image, relief)
            if any(worker.can(job) for worker in _open(state) if worker.name not in had):
                return relief
    return ""


def _had_their_chance(entry: Entry, image: Image | None, relief: Relief) -> set[str]:
    """Workers that ran out of memory on this image where no ceiling can say so."""
    if image is None or cast(Kind, entry.job.kind).pixels:
        return set()
    failures = [one for one in image.failures if one.code == "out_of_memory"]
    return {one.worker for one in failures if _how(image, one) == relief}


def takers(state: State, entry: Entry, image: Image, relief: Relief) -> list[Worker]:
    """Workers that could make an attempt in this way and have not failed at one."""
    tried = {failure.worker for failure in image.failures if _how(image, failure) == relief}
    job = job_for(state, entry, relief)
    return [w for w in _open(state) if w.name not in tried and w.can(job)]


def may_go_on(state: State, entry: Entry, image: Image) -> bool:
    """There is another chance for an image on which an engine ran out of memory."""
    if entry.on_oom == "fail" or state.settings.attempts_max == 1:
        return False
    return any(
        not _spent(state, image, relief) and takers(state, entry, image, relief)
        for relief in entry.rungs
    )


def strikes(image: Image, relief: Relief) -> int:
    """What counts against an image at a rung: each failure that was no lack of memory, and of the
    engines that died for lack of it those on this rung. With less to hold, it is another image.
    What a worker's owner does not allow is no failure of the image."""
    return sum(
        failure.code not in ("out_of_memory", "too_large")
        or (_died(failure) and _how(image, failure) == relief)
        for failure in image.failures
    )


def may_be_larger(state: State, entry: Entry, image: Image) -> bool:
    """A worker's owner allows no picture as large, and another one's does.

    Where the manager knows the size it grants accordingly. That of a picture to be enlarged only
    an engine sees.
    """
    names = {failure.worker for failure in image.failures if failure.code == "too_large"}
    allowed = [worker.declared.max_pixels for worker in state.roster if worker.name in names]
    if cast(Kind, entry.job.kind).pixels or not all(allowed):
        return False
    others = takers(state, entry, image, rung(state, entry, image))
    return any(other.declared.max_pixels not in range(1, max(allowed) + 1) for other in others)


def ran_out(state: State, entry: Entry) -> tuple[str, ...]:
    """Workers that have no memory for the petition as it asks."""
    names = sorted({worker.name for worker in state.roster if worker.ceiling(entry.job)})
    return tuple(names[:_NAMES_MAX])


def summary(state: State, entry: Entry, image: Image) -> ErrorInfo | None:
    """The end of an image for want of memory, with what was tried where; None where its last error
    says it all."""
    last = image.failures[-1]
    failures = [one for one in image.failures if one.code == "out_of_memory"]
    tried = dict.fromkeys(f"{one.worker} {WORDS[_how(image, one)]}" for one in failures)
    known = [name for name in ran_out(state, entry) if all(name != f.worker for f in failures)]
    if len(failures) == 1 and not known:
        return None
    text = f"The image ran out of memory: {', '.join(tried)}"
    others = f"; others had before: {', '.join(known)}" if known else ""
    message = f"{text}{others}. {last.message}"[: limits.TEXT_CHARS_MAX]
    return ErrorInfo(
        code=last.code, message=message, worker=last.worker, attempt=last.attempt,
        signal=last.signal, log_tail=last.log_tail,
    )  # fmt: skip


def _spent(state: State, image: Image, relief: Relief) -> bool:
    failures = [one for one in image.failures if one.code == "out_of_memory"]
    tries = sum(_how(image, failure) == relief for failure in failures)
    most = limits.OOM_TRIES_MAX
    return tries >= most or strikes(image, relief) >= state.settings.attempts_max


def _how(image: Image, failure: ErrorInfo) -> Relief:
    issued = image.issued.get(failure.attempt)
    return issued.relief if issued is not None else ""


def _died(failure: ErrorInfo) -> bool:
    return bool(failure.signal)


def _open(state: State) -> Iterator[Worker]:
    return (worker for worker in state.roster.present() if worker.is_open)
