"""Model files by kind and relative name, and how a wanted name finds one.

No name from the wire ever becomes a path: a name is looked up in an inventory that a worker made by
walking its own folder, and only what stands there can be opened.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec

from sdistrib import limits
from sdistrib.errors import ErrorCode, ErrorInfo
from sdistrib.params import HIRES_UPSCALERS, MODEL_FIELDS, ModelKind, Params
from sdistrib.prompts import embedding_names, split_loras

#: Extensions that stable-diffusion.cpp reads.
EXTENSIONS: tuple[str, ...] = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".sft")

#: Folder names, lower case, and the kinds that files in them serve. A1111's first, then ComfyUI's.
FOLDERS: dict[str, tuple[ModelKind, ...]] = {
    "stable-diffusion": ("stable-diffusion",),
    "checkpoints": ("stable-diffusion",),
    "diffusion": ("diffusion",),
    "diffusion_models": ("diffusion",),
    "unet": ("diffusion",),
    "vae": ("vae",),
    "clip": ("clip",),
    "clip_vision": ("clip",),
    "text_encoders": ("clip", "t5"),
    "text_encoder": ("clip", "t5"),
    "t5": ("t5",),
    "taesd": ("taesd",),
    "vae_approx": ("taesd",),
    "vae-approx": ("taesd",),
    "esrgan": ("esrgan",),
    "realesrgan": ("esrgan",),
    "upscale_models": ("esrgan",),
    "controlnet": ("controlnet",),
    "embeddings": ("embeddings",),
    "lora": ("lora",),
    "loras": ("lora",),
    "photomaker": ("photomaker",),
}

_HASH_SUFFIX = re.compile(r"\s*\[([0-9a-fA-F]{8,64})\]\s*$")


class ModelFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file that a worker has."""

    kind: ModelKind
    #: Path below the kind's folder, with `/` between parts and with its extension.
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    #: SHA-256 in hex; empty until the worker has computed it.
    digest: str = ""


class Wanted(msgspec.Struct, frozen=True):
    """One file that a petition names."""

    #: Parameter that names it ("model", "vae", …; a prompt for a LoRA or an embedding).
    field: str
    kind: ModelKind
    name: str


class Catalogue:
    """The files of one worker, findable by every spelling that a user may choose.

    A name is found, in this order, as written; without regard to case and to `\\` or `/`; without
    its extension; by its last path part. Each step counts only when it leaves one file. A trailing
    `[hash]`, as A1111 shows it, must be the beginning of the file's digest when that is known.
    """

    def __init__(self, files: Iterable[ModelFile] = ()) -> None:
        self.files: tuple[ModelFile, ...] = tuple(files)
        self._by_key: dict[tuple[str, str], list[ModelFile]] = {}
        for file in self.files:
            for key in _keys(file.name):
                self._by_key.setdefault((file.kind, key), []).append(file)

    def find(self, kind: ModelKind, wanted: str) -> ModelFile | None:
        """The file that `wanted` means, or None when there is none or more than one."""
        match = _HASH_SUFFIX.search(wanted)
        short_hash = match.group(1).lower() if match else ""
        plain = (wanted[: match.start()] if match else wanted).strip()
        for key in _keys(plain):
            found = self._by_key.get((kind, key), [])
            distinct = {file.name: file for file in found}
            file = next(iter(distinct.values())) if len(distinct) == 1 else distinct.get(plain)
            if file is not None:
                return file if not file.digest or file.digest.startswith(short_hash) else None
        return None

    def missing(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """Those of `wanted` that this catalogue does not have."""
        return [want for want in wanted if self.find(want.kind, want.name) is None]


def _keys(name: str) -> Iterator[str]:
    """Spellings of a name from the most to the least exact."""
    yield name
    slashed = name.replace("\\", "/").lower()
    yield slashed
    stem = _stem(slashed)
    yield stem
    yield stem.rsplit("/", 1)[-1]


def _stem(name: str) -> str:
    for extension in EXTENSIONS:
        if name.endswith(extension):
            return name.removesuffix(extension)
    return name


def wanted_files(params: Params) -> tuple[Wanted, ...]:
    """All model files that a petition names: fields, LoRAs, embeddings, a hires upscaler.

    Raises:
        PetitionError: a LoRA tag or the name of an embedding is malformed.
    """
    named = [
        Wanted(field, kind, getattr(params, field))
        for field, kind in MODEL_FIELDS.items()
        if getattr(params, field)
    ]
    tags = split_loras(params.prompt)[1]
    named += [Wanted("prompt", "lora", tag.name) for tag in tags]
    in_prompt = embedding_names(params.prompt)
    for name in embedding_names(params.prompt, params.negative_prompt):
        field = "prompt" if name in in_prompt else "negative_prompt"
        named.append(Wanted(field, "embeddings", name))
    if params.hires and hires_model(params):
        named.append(Wanted("hires_upscaler", "esrgan", params.hires_upscaler))
    return tuple(named)


def hires_model(params: Params) -> str:
    """Name of the upscaler file that highres fix needs, or "" for a built-in one."""
    built_in = {name.lower() for name in HIRES_UPSCALERS}
    return "" if params.hires_upscaler.lower() in built_in else params.hires_upscaler


def not_found(want: Wanted, catalogues: Iterable[Catalogue]) -> ErrorInfo:
    """The error for a file that nobody has, with the closest names of its kind."""
    names = {file.name for files in catalogues for file in files.files if file.kind == want.kind}
    closest = closest_names(want.name, names)
    code: ErrorCode = "lora_not_found" if want.kind == "lora" else "model_not_found"
    known = "1 file of that kind is" if len(names) == 1 else f"{len(names)} files of that kind are"
    return ErrorInfo(
        code=code,
        message=f"No worker has the {want.kind} file {want.name!r}; {known} known.",
        field=want.field,
        closest=tuple(closest),
    )


def closest_names(wanted: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of `names` that look like `wanted`, best first."""
    folded = {_stem(name.lower()): name for name in sorted(names)}
    plain = _stem(_HASH_SUFFIX.sub("", wanted).replace("\\", "/").lower())
    near = difflib.get_close_matches(plain, folded, n=count, cutoff=0.3)
    return [folded[key] for key in near]


def name_fits(pattern: str, name: str) -> bool:
    """A file's name contains the pattern in any case, or fits it as a whole with `*` and `?`."""
    wanted, folded = pattern.lower(), name.lower()
    if "*" in wanted or "?" in wanted:
        return fnmatchcase(folded, wanted.replace("[", "[[]"))
    return wanted in folded


def resolve_all(catalogue: Catalogue, wanted: Iterable[Wanted]) -> Mapping[Wanted, ModelFile]:
    """The file for each of `wanted` in one catalogue; those that are missing are left out."""
    found = {want: catalogue.find(want.kind, want.name) for want in wanted}
    return {want: file for want, file in found.items() if file is not None}
