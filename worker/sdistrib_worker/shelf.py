"""What this worker has on disk, and what a petition needs of it. Pure.

A plan is made when an image's turn in the engine comes, not when it is granted: files come and go.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from sdistrib.errors import ErrorInfo, PetitionError
from sdistrib.infotext import UsedFile
from sdistrib.models import Catalogue, ModelFile, Wanted, not_found, wanted_files
from sdistrib.params import BY_NAME, MODEL_FIELDS, ModelKind, Params, context_params
from sdistrib.prompts import split_loras
from sdistrib.protocol.engine import EmbeddingFile, LoraFile


class StoredFile(msgspec.Struct, frozen=True):
    """One model file with its place on this machine."""

    #: As the manager hears of it.
    file: ModelFile
    #: Absolute path.
    path: str
    #: Time of the last change, nanoseconds since 1970.
    mtime_ns: int


class Shelf:
    """The files of this worker, found by every spelling that `Catalogue` knows."""

    def __init__(self, stored: Iterable[StoredFile] = ()) -> None:
        self.stored = tuple(stored)
        self.catalogue = Catalogue(entry.file for entry in self.stored)
        self._by_name = {(entry.file.kind, entry.file.name): entry for entry in self.stored}
        self._by_path = {entry.path: entry for entry in self.stored}

    def find(self, kind: ModelKind, name: str) -> StoredFile | None:
        """The file that `name` means, or None when there is none or more than one."""
        file = self.catalogue.find(kind, name)
        return self._by_name[file.kind, file.name] if file else None

    def used(self, plan: "Plan") -> tuple[UsedFile, ...]:
        """What a plan's files are called, with digests that may have become known since."""
        return tuple(
            UsedFile(want.field, entry.file.name, self._digest(entry), _kind(want))
            for want, entry in plan.found
        )

    def _digest(self, entry: StoredFile) -> str:
        now = self._by_path.get(entry.path, entry)
        return now.file.digest if _place(now) == _place(entry) else entry.file.digest


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine is given to draw with, and how that is told to others."""

    #: Absolute path for each parameter that names a file.
    files: dict[str, str]
    loras: tuple[LoraFile, ...]
    embeddings: tuple[EmbeddingFile, ...]
    #: What was wanted, and the file that it was found to mean.
    found: tuple[tuple[Wanted, StoredFile], ...]
    #: Context key for our own engine: it does not change when a digest becomes known.
    key: str
    #: Context digest as others see it: equal on all workers that know their files' digests.
    context: str
    #: Catalogue name of the model.
    model: str
    #: Size of all files that a load reads.
    load_bytes: int
    #: Only a given picture is made larger: whatever context is loaded stays.
    upscales: bool = False


def make_plan(params: Params, shelf: Shelf, worker: str) -> Plan:
    """Find every file that `params` names.

    Raises:
        PetitionError: `model_not_found` or `lora_not_found`; or a name in a prompt is malformed.
    """
    found: list[tuple[Wanted, StoredFile]] = []
    for want in wanted_files(params):
        entry = shelf.find(want.kind, want.name)
        if entry is None:
            raise PetitionError(missing(want, shelf, worker))
        found.append((want, entry))
    by_field = {want.field: entry for want, entry in found if want.kind not in _IN_PROMPTS}
    loras = _loras(params, {want.name: entry for want, entry in found if want.kind == "lora"})
    upscales = params.mode == "upscale"
    load = {
        field: entry
        for field, entry in by_field.items()
        if field in MODEL_FIELDS and (upscales or BY_NAME[field].spec.stage == "load")
    }
    model = load.get("upscale_model" if upscales else "model") or load.get("diffusion_model")
    embeddings = {want.name: entry for want, entry in found if want.kind == "embeddings"}
    # An embedding is registered while loading, and known to the engine by its file alone.
    named = load | {f"embedding {e.file.name}": e for e in embeddings.values()}
    return Plan(
        files={field: entry.path for field, entry in by_field.items()},
        loras=tuple(lora for lora, _ in loras),
        embeddings=tuple(EmbeddingFile(n, e.path) for n, e in embeddings.items()),
        found=tuple(found),
        key=_digest(params, {f: _place(e) for f, e in named.items()}, _places(loras, params)),
        context=_digest(
            params, {f: _content(e) for f, e in named.items()}, _contents(loras, params)
        ),
        model=model.file.name if model else "",
        load_bytes=sum(entry.file.size_bytes for entry in load.values()),
        upscales=upscales,
    )


#: Kinds that are named inside of a prompt, not by a parameter of their own.
_IN_PROMPTS = ("lora", "embeddings")


def _kind(want: Wanted) -> str:
    return want.kind if want.kind in _IN_PROMPTS else ""


def missing(want: Wanted, shelf: Shelf, worker: str) -> ErrorInfo:
    """The error for a file that is not here (any more)."""
    return msgspec.structs.replace(
        not_found(want, [shelf.catalogue]),
        message=f"The {want.kind} file {want.name!r} is not on this worker.",
        worker=worker,
    )


def _loras(params: Params, entries: dict[str, StoredFile]) -> list[tuple[LoraFile, StoredFile]]:
    pairs = []
    for tag in split_loras(params.prompt)[1]:
        entry = entries[tag.name]
        pairs.append((LoraFile(entry.path, tag.weight, tag.high_noise), entry))
    return pairs


def _applied(
    loras: list[tuple[LoraFile, StoredFile]], params: Params
) -> list[tuple[LoraFile, StoredFile]]:
    """LoRAs that change the loaded weights themselves.

    Only `at_runtime` leaves the weights as they were; otherwise half-precision weights drift when
    a LoRA is taken out again, so that such a context serves no other set of LoRAs.
    """
    return [] if params.lora_apply_mode == "at_runtime" else loras


def _places(loras: list[tuple[LoraFile, StoredFile]], params: Params) -> list[Any]:
    return [[_place(e), lora.weight, lora.high_noise] for lora, e in _applied(loras, params)]


def _contents(loras: list[tuple[LoraFile, StoredFile]], params: Params) -> list[Any]:
    return [[_content(e), lora.weight, lora.high_noise] for lora, e in _applied(loras, params)]


def _place(entry: StoredFile) -> list[Any]:
    return [entry.path, entry.file.size_bytes, entry.mtime_ns]


def _content(entry: StoredFile) -> Any:
    return entry.file.digest or [entry.file.size_bytes, entry.mtime_ns]


def _digest(params: Params, files: dict[str, Any], loras: list[Any]) -> str:
    load = {name: v for name, v in context_params(params).items() if name not in MODEL_FIELDS}
    text = json.dumps([load, files, loras], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
