"""Which pictures and input files are kept, for how many uses and owners, and when no more."""

from sdistrib.petitions import InputFile
from sdistrib_manager.effects import DropBlob
from sdistrib_manager.queue import Entry
from sdistrib_manager.rows import ForgetInput, InputRow
from sdistrib_manager.state import Arrival, State, Upload


def use(state: State, owner: str, digest: str, size_bytes: int) -> None:
    """One more image, petition or petition to be needs these bytes, which are kept."""
    if digest not in state.blob_uses:
        state.blob_sizes[digest] = size_bytes
        state.blob_bytes += size_bytes
    state.blob_uses[digest] = state.blob_uses.get(digest, 0) + 1
    state.blob_owners[owner, digest] = state.blob_owners.get((owner, digest), 0) + 1


def release(state: State, owner: str, digest: str) -> None:
    """One fewer needs them; the last one lets them go."""
    state.blob_owners[owner, digest] -= 1
    if not state.blob_owners[owner, digest]:
        del state.blob_owners[owner, digest]
    state.blob_uses[digest] -= 1
    if not state.blob_uses[digest]:
        del state.blob_uses[digest]
        state.blob_bytes -= state.blob_sizes.pop(digest)
        drop_unused(state, digest)


def is_owned(state: State, owner: str, digest: str) -> bool:
    """The bytes are kept, and this owner has sent or received them himself."""
    return (owner, digest) in state.blob_owners


def drop_unused(state: State, digest: str) -> None:
    """Nobody needs these bytes. Those that are being kept anew are looked at when that is done."""
    if digest in state.blob_uses:
        return
    coming: list[Arrival | Upload] = [*state.arriving.values(), *state.uploads.values()]
    storing = any(here.storing and here.incoming.digest == digest for here in coming)
    if not storing and all(digest not in pictures for pictures in state.damaged.values()):
        state.outbox.append(DropBlob(digest))


def name_input(state: State, entry: Entry, file: InputFile, *, keep: bool = True) -> None:
    """From now on the petition keeps this input file."""
    use(state, entry.owner, file.digest, file.size_bytes)
    state.queue.share(entry.owner).picture_bytes += file.size_bytes
    state.input_names.setdefault(file.digest, {})[entry.id] = None
    state.unnamed.pop(file.digest, None)
    state.forgotten.pop(file.digest, None)
    if keep:
        state.keep(InputRow(id=entry.id, digest=file.digest, size_bytes=file.size_bytes))


def drop_input(state: State, entry: Entry, file: InputFile) -> None:
    """The petition needs this input file no more, or has lost it."""
    entry.inputs = tuple(one for one in entry.inputs if one.digest != file.digest)
    state.queue.share(entry.owner).picture_bytes -= file.size_bytes
    names = state.input_names[file.digest]
    del names[entry.id]
    if not names:
        del state.input_names[file.digest]
        state.unnamed[file.digest] = None
    state.keep(ForgetInput(entry.id, file.digest))
    release(state, entry.owner, file.digest)
