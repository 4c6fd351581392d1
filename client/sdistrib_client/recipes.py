"""What a picture says of its making, as a petition can take it. Pure.

Our own chunk says everything and is taken as it stands. A1111's text says what its program
recorded; what cannot be followed here is told by name, in a sentence each, and never dropped.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import msgspec

from sdistrib import infotext
from sdistrib.errors import PetitionError
from sdistrib.infotext import PictureFacts, UsedFile
from sdistrib.infotext_parse import Text, parse, read_pairs
from sdistrib.params import HIRES_UPSCALERS, MODEL_FIELDS, ModelKind, Rng
from sdistrib_client.samplers import read_sampler, read_scheduler


class Content(NamedTuple):
    """A model file that went into a picture, and what it held."""

    #: Parameter that names it; a prompt for a LoRA or an embedding.
    field: str
    kind: ModelKind
    #: Name as the picture has it.
    name: str
    #: SHA-256 in hex, or its beginning.
    digest: str
    #: The digest is one of the whole file, so that another one means another file.
    whole: bool = True


class Recipe(NamedTuple):
    """How a picture was made."""

    #: Fields of `sdistrib.params.Params`.
    params: dict[str, Any]
    #: The picture's own; None when it does not say.
    seed: int | None
    contents: tuple[Content, ...] = ()
    #: All that our own chunk says; None for pictures of other programs.
    facts: PictureFacts | None = None
    #: What could not be taken over, for people.
    notes: tuple[str, ...] = ()


def from_chunk(text: str) -> Recipe:
    """The recipe in our own chunk.

    Raises:
        ValueError: it is damaged, or of a version that knew more than this one.
    """
    try:
        facts = infotext.parse_chunk(text)
        others = sorted(set(msgspec.json.decode(text.encode())) - set(facts.__struct_fields__))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Chunks of before, and nothing that decides a picture.
    told = [key for key in others if key not in ("id", "index")]
    notes = [f"{key!r} of its sdistrib data is not known to this version." for key in told]
    contents = [
        Content(used.field, kind, used.name, used.digest)
        for used in facts.files
        if (kind := _kind_of(used)) is not None and used.digest
    ]
    params = msgspec.structs.asdict(facts.params)
    return Recipe(params, facts.seed, tuple(contents), facts, tuple(notes))


def _kind_of(used: UsedFile) -> ModelKind | None:
    if used.kind == "embeddings":
        return "embeddings"
    more: dict[str, ModelKind] = {"prompt": "lora", "hires_upscaler": "esrgan"}
    return more.get(used.field) or MODEL_FIELDS.get(used.field)


def from_text(text: str) -> Recipe:
    """The recipe in A1111's `parameters` text, or in one that is written in its way.

    Raises:
        ValueError: it is no such text.
    """
    return _Reader(parse(text)).recipe()


class _Reader:
    """Goes through the pairs once, each to its field or into a sentence."""

    def __init__(self, text: Text) -> None:
        self._text = text
        #: Of keys that stand there twice the last one counts, as in A1111.
        self._pairs = {key.casefold(): (key, value) for key, value in text.pairs}
        self._params: dict[str, Any] = {"prompt": text.prompt}
        if text.negative_prompt:
            self._params["negative_prompt"] = text.negative_prompt
        self._seed: int | None = None
        self._contents: list[Content] = []
        self._notes: list[str] = []

    def recipe(self) -> Recipe:
        """All of it."""
        for folded, (key, value) in self._pairs.items():
            if folded in _SILENT or not value:
                continue
            reader = _READERS.get(folded)
            try:
                if reader is None:
                    raise ValueError  # noqa: TRY301 - told as any other pair that has no meaning
                reader(self, value)
            except (ValueError, OverflowError) as error:
                why = f": {error}" if str(error) else ""
                self._notes.append(f"{key}: {value[:80]} is not taken over{why}")
        self._after()
        self._notes += [f"A line is not taken over: {line[:80]}" for line in self._text.rest]
        params = {name: value for name, value in self._params.items() if value is not None}
        return Recipe(params, self._seed, tuple(self._contents), None, tuple(self._notes))

    def _after(self) -> None:
        strength = self._pairs.get("denoising strength")
        if any(key.startswith("hires ") and key in _READERS for key in self._pairs):
            self._params["hires"] = True
        elif strength is not None:
            self._params.pop("hires_denoising_strength", None)
            self._notes.append(
                f"Denoising strength: {strength[1][:20]} means that it was made from another"
                " picture, which cannot be recovered from this one: it is drawn from noise instead"
            )
        if "<hypernet:" in self._text.prompt:
            self._notes.append("<hypernet:…> in the prompt is not known to the engine")
        self._hash("model", "stable-diffusion", "model hash")
        self._hash("vae", "vae", "vae hash")

    def _hash(self, field: str, kind: ModelKind, key: str) -> None:
        found = self._pairs.get(key, ("", ""))[1].lower()
        # Eight digits are A1111's hash of before, which is not of the whole file.
        if re.fullmatch(r"[0-9a-f]{10,64}", found):
            name = self._params.get(field, "")
            if field == "model" and not name and "diffusion_model" not in self._params:
                # Its file may be here all the same; until then this is what it is called.
                name = self._params[field] = found
            self._contents.append(Content(field, kind, name, found))

    # --- one method for each kind of value ----------------------------------------------------

    def put(self, field: str, value: Any) -> None:
        """A field, once its value is read."""
        self._params[field] = value

    def seed(self, value: str) -> None:
        """The picture's own seed."""
        number = int(value)
        if number < 0:
            raise ValueError
        self._seed = number

    def sampler(self, value: str) -> None:
        """A sampler, with the schedule in its name if there is one."""
        method, scheduler = read_sampler(value)
        self._params["sampling_method"] = method
        if scheduler:
            self._params.setdefault("scheduler", scheduler)

    def size(self, value: str, fields: tuple[str, str]) -> None:
        """Two sides."""
        width, cross, height = value.partition("x")
        if not cross:
            raise ValueError
        self._params |= {fields[0]: int(width), fields[1]: int(height)}

    def loras(self, value: str) -> None:
        """Names and hashes; those of A1111 leave the file's header out, ours do not."""
        version = self._pairs.get("version", ("", ""))[1]
        pairs = read_pairs(value)
        if not pairs:
            raise ValueError
        self._contents += [
            Content("prompt", "lora", name, digest.lower(), version.startswith("sdistrib"))
            for name, digest in pairs
            if re.fullmatch(r"[0-9a-fA-F]{10,64}", digest)
        ]


_Read = Callable[[_Reader, str], None]


def _whole(field: str) -> _Read:
    return lambda reader, value: reader.put(field, int(value))


def _real(field: str) -> _Read:
    def read(reader: _Reader, value: str) -> None:
        number = float(value)
        # sd-cli writes an infinite eta for the sampler's own.
        if math.isinf(number) and field == "eta":
            return
        if not math.isfinite(number):
            raise ValueError
        reader.put(field, number)

    return read


def _name(field: str) -> _Read:
    def read(reader: _Reader, value: str) -> None:
        if value.casefold() not in ("none", "automatic"):
            reader.put(field, value)

    return read


def _schedule(reader: _Reader, value: str) -> None:
    reader.put("scheduler", read_scheduler(value) or None)


def _sides(*fields: str) -> _Read:
    return lambda reader, value: reader.size(value, (fields[0], fields[1]))


def _numbers(field: str, kind: type) -> _Read:
    def read(reader: _Reader, value: str) -> None:
        words = re.split(r"[,\s]+", value.strip("[] "))
        reader.put(field, tuple(kind(word) for word in words if word))

    return read


def _rng(field: str) -> _Read:
    # NV makes on the CPU what a card of NVIDIA would, as the engine's `cuda` does.
    known = {"gpu": "cuda", "nv": "cuda"} | {word: word for word in get_args(Rng)}

    def read(reader: _Reader, value: str) -> None:
        found = known.get(value.casefold())
        if found is None:
            raise ValueError
        reader.put(field, found)

    return read


def _upscaler(reader: _Reader, value: str) -> None:
    built_in = {name.casefold(): name for name in HIRES_UPSCALERS}
    reader.put("hires_upscaler", built_in.get(value.casefold(), value))


def _tiling(reader: _Reader, value: str) -> None:
    if value.casefold() == "true":
        reader.put("circular", value=True)


#: Keys, folded -> what reads their values.
_READERS: Mapping[str, _Read] = {
    "steps": _whole("steps"),
    "sampler": _Reader.sampler,
    "schedule type": _schedule,
    "cfg scale": _real("cfg_scale"),
    "distilled cfg scale": _real("guidance"),
    "guidance": _real("guidance"),
    "seed": _Reader.seed,
    "size": _sides("width", "height"),
    "model": _name("model"),
    "unet": _name("diffusion_model"),
    "vae": _name("vae"),
    "clip skip": _whole("clip_skip"),
    "eta": _real("eta"),
    "rng": _rng("rng"),
    "sampler rng": _rng("sampler_rng"),
    "tiling": _tiling,
    "denoising strength": _real("hires_denoising_strength"),
    "hires upscale": _real("hires_scale"),
    "hires resize": _sides("hires_width", "hires_height"),
    "hires steps": _whole("hires_steps"),
    "hires upscaler": _upscaler,
    "slg scale": _real("slg_scale"),
    "skip layers": _numbers("skip_layers", int),
    "skip layer start": _real("skip_layer_start"),
    "skip layer end": _real("skip_layer_end"),
    "custom sigmas": _numbers("sigmas", float),
    "lora hashes": _Reader.loras,
}
#: They decide nothing by themselves: hashes are compared, `hashes` holds the same ones again.
_SILENT = frozenset({"version", "model hash", "vae hash", "hashes"})

#: Where other programs keep theirs: keys of PNG text chunks -> the program.
_OTHERS = {
    "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI",
    "fooocus_scheme": "Fooocus",
    "prompt": "ComfyUI",
}


def recipe_of(texts: Mapping[str, str], file: str) -> Recipe:
    """The recipe in a picture's texts, by key; ours before A1111's.

    Raises:
        PetitionError: `invalid_params` when there is none or it is damaged, `unsupported` when it
            is one of a program whose pictures are not read.
    """
    try:
        if infotext.CHUNK_KEY in texts:
            return from_chunk(texts[infotext.CHUNK_KEY])
        if infotext.TEXT_KEY in texts:
            return from_text(texts[infotext.TEXT_KEY])
    except ValueError as error:
        message = f"{file}: its generation data cannot be used: {error}."
        raise PetitionError.of("invalid_params", message) from None
    if texts.get("Software") == "NovelAI":
        program: str | None = "NovelAI"
    else:
        program = next((name for key, name in _OTHERS.items() if key in texts), None)
    if program is None:
        message = f"{file} says nothing of how it was made; give -m, -p and the other flags."
        raise PetitionError.of("invalid_params", message)
    message = (
        f"{file} was made by {program}, whose data is not read; those of sdistrib, A1111 and"
        " programs that write as A1111 does are. Give -m, -p and the other flags."
    )
    raise PetitionError.of("unsupported", message)
