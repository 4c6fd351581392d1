"""Why a petition is not taken at the door: no room, or nobody who could ever draw it."""

from typing import cast

from sdistrib.errors import ErrorInfo
from sdistrib.models import not_found
from sdistrib.petitions import InputFile
from sdistrib_manager import blobs, waiting
from sdistrib_manager.jobs import Kind
from sdistrib_manager.queue import LOCAL, Entry
from sdistrib_manager.state import State


def no_room(state: State, entry: Entry, files: tuple[InputFile, ...] = ()) -> ErrorInfo | None:
    """`busy`, when one more petition, with these new input files, would pass a limit.

    Also when it could not be kept.
    """
    settings, queue = state.settings, state.queue
    if state.stopping:
        return state.error("busy", "The manager is stopping.", retry_after_s=10.0)
    if state.store_trouble:
        text = f"The manager cannot keep petitions now: {state.store_trouble}."
        return state.error("busy", text, retry_after_s=30.0)
    kept = state.blob_bytes - state.seen_bytes
    own = queue.share(entry.owner)
    share = _share(state, entry)
    petitions = len(state.staged) - (entry.id in state.staged) + 1
    new_bytes = _new_bytes(state, files)
    of_files = sum(file.size_bytes for file in files)
    facts = (
        (queue.open_petitions + petitions, own.petitions + petitions, settings.petitions_max,
         "petitions"),
        (queue.open_images + entry.size, own.images + entry.size, settings.images_max, "images"),
        (kept + new_bytes, own.picture_bytes + of_files, settings.blob_bytes_max,
         "bytes of input files and of pictures not fetched"),
    )  # fmt: skip
    for of_all, of_owner, most, what in facts:
        if of_all > most:
            text = f"The manager's queue is full: {most} {what} at most. Try again in 30 s."
            return state.error("busy", text, retry_after_s=30.0)
        if share < 1.0 and of_owner > int(most * share):
            text = f"You have all that one user may have: {int(most * share)} {what} at most."
            return state.error("busy", f"{text} Try again in 30 s.", retry_after_s=30.0)
    return None


def make(state: State, entry: Entry, files: tuple[InputFile, ...]) -> None:
    """Where these new input files would pass a limit, forget some of petitions that have ended.

    Those of petitions that are done serve nobody any more, and go first; whoever tries one of the
    others again is asked for them. Not while the store is in trouble: they would go before the rows
    that let them go are kept.
    """
    if not files or state.store_trouble or not _is_short(state, entry, files):
        return
    wanted = {file.digest for file in files}
    ended = [one for one in state.queue if one.ended and one.inputs and one.id != entry.id]
    for other in sorted(ended, key=lambda one: (one.state != "done", one.ended_uptime_s)):
        for file in other.inputs:
            if file.digest not in wanted:
                blobs.drop_input(state, other, file)
        if not _is_short(state, entry, files):
            return


def _is_short(state: State, entry: Entry, files: tuple[InputFile, ...]) -> bool:
    """These files would pass a limit of bytes."""
    most = state.settings.blob_bytes_max
    if state.blob_bytes - state.seen_bytes + _new_bytes(state, files) > most:
        return True
    own = state.queue.share(entry.owner).picture_bytes + sum(file.size_bytes for file in files)
    return own > int(most * _share(state, entry))


def _share(state: State, entry: Entry) -> float:
    """Part of every limit that one user may have."""
    # On the loopback port there is nobody else for whom room would have to be kept.
    return 1.0 if entry.owner == LOCAL else state.settings.owner_share


def _new_bytes(state: State, files: tuple[InputFile, ...]) -> int:
    """Bytes that will be kept beside what is now: these files, and those under way for others."""
    coming = {digest: up.incoming.size_bytes for (_, digest), up in state.uploads.items()}
    coming |= {file.digest: file.size_bytes for file in files}
    return sum(size for digest, size in coming.items() if digest not in state.blob_uses)


def nobody_can(state: State, entry: Entry) -> ErrorInfo | None:
    """The refusal for what no known worker has, or is allowed; None when none is known."""
    if not len(state.roster):
        return None
    if state.roster.holders(entry.wanted):
        return _too_large(state, entry)
    catalogues = [worker.catalogue for worker in state.roster]
    for want in entry.wanted:
        if all(files.find(want.kind, want.name) is None for files in catalogues):
            return not_found(want, catalogues)
    names = ", ".join(f"{want.kind} {want.name!r}" for want in entry.wanted)
    return state.error("no_capable_worker", f"No single worker has all of: {names}.")


def _too_large(state: State, entry: Entry) -> ErrorInfo | None:
    """Every owner allows less; what memory was found to suffice for may change, and is no part."""
    allowed = {worker.name: worker.declared.max_pixels for worker in state.roster}
    pixels = cast(Kind, entry.job.kind).pixels
    if not all(0 < most < pixels for most in allowed.values()):
        return None
    name = max(allowed, key=lambda name: allowed[name])
    text = (
        f"{waiting.size_words(entry)} is more than any worker here takes; {name} takes the most,"
        f" {allowed[name]} pixels. Ask for fewer."
    )
    return state.error("too_large", text, field="width")
