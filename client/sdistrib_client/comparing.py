"""A picture and the farm that is to draw it again: files of the same content, the engine. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sdistrib.infotext import PictureFacts
from sdistrib.models import Catalogue, ModelFile
from sdistrib.prompts import embedding_names, replace_embeddings, split_loras
from sdistrib.protocol.messages import EngineFacts, FoundModel
from sdistrib_client.recipes import Content

#: As many digits of a digest as people compare; A1111 shows as many.
_SHOWN = 10


class Match(NamedTuple):
    """What the farm's names for the same contents mean for the parameters."""

    #: Fields to be changed, so that they name the same content as before.
    changes: dict[str, Any]
    #: What is to be known about it, for people.
    notes: tuple[str, ...]


def match(
    params: Mapping[str, Any], contents: Iterable[Content], farm: Iterable[FoundModel]
) -> Match:
    """Find each recorded content on the farm, under whatever name it has there.

    A file whose name is here and whose content is not is only told: its picture is another one, but
    perhaps near enough. One that is not here at all is left to the manager, which refuses it best.
    """
    files = [found.file for found in farm]
    changes: dict[str, Any] = {}
    notes: list[str] = []
    for content in contents:
        wanted = _wanted({**params, **changes}, content)
        if wanted is None:
            continue
        name, note = _name_here(content, wanted, [f for f in files if f.kind == content.kind])
        if note:
            notes.append(note)
        if name == wanted:
            continue
        if content.kind == "embeddings":
            for field in ("prompt", "negative_prompt"):
                changes[field] = _rename_embedding({**params, **changes}[field], wanted, name)
        elif content.kind == "lora":
            changes["prompt"] = _rename({**params, **changes}["prompt"], wanted, name)
        else:
            changes[content.field] = name
    return Match(changes, tuple(notes))


def _wanted(params: Mapping[str, Any], content: Content) -> str | None:
    """The name by which the parameters mean this content; None when they do not."""
    if content.kind not in ("lora", "embeddings"):
        return str(params.get(content.field) or "")
    used = Catalogue([ModelFile(content.kind, content.name, 0)]) if content.name else Catalogue()
    prompts = [str(params.get(field) or "") for field in ("prompt", "negative_prompt")]
    if content.kind == "lora":
        names = tuple(tag.name for tag in split_loras(prompts[0])[1])
    else:
        names = embedding_names(*prompts)
    return next((name for name in names if used.find(content.kind, name) is not None), None)


def _name_here(content: Content, wanted: str, files: list[ModelFile]) -> tuple[str, str]:
    """The name to ask for, and what is to be known about it."""
    by_name = Catalogue({file.name: ModelFile(file.kind, file.name, 0) for file in files}.values())
    found = by_name.find(content.kind, wanted) if wanted else None
    held = [file.digest for file in files if found is not None and file.name == found.name]
    if any(digest.startswith(content.digest) for digest in held):
        if all(digest.startswith(content.digest) for digest in held):
            return wanted, ""
        # Workers disagree about this name: its hash says which of them is meant.
        return f"{wanted} [{content.digest[:_SHOWN]}]", ""
    shown = content.digest[:_SHOWN]
    same = sorted({file.name for file in files if file.digest.startswith(content.digest)})
    if same:
        was = f"{content.kind} {wanted!r}" if wanted else f"Its {content.kind} file"
        return same[0], f"{was} ({shown}) is called {same[0]!r} here."
    if found is None:
        return wanted, ""
    known = sorted({digest[:_SHOWN] for digest in held if digest})
    if not known or not content.whole:
        return wanted, f"Whether {content.kind} {wanted!r} has the same content is not known."
    return wanted, (
        f"{content.kind} {wanted!r} has other content here ({', '.join(known)}) than in the picture"
        f" ({shown}): same name, other file."
    )


def _rename(prompt: str, before: str, after: str) -> str:
    tag = re.compile(rf"<lora:(\|high_noise\|)?\s*{re.escape(before)}\s*(?=[:>])")
    return tag.sub(lambda found: f"<lora:{found[1] or ''}{after}", prompt)


def _rename_embedding(prompt: str, before: str, after: str) -> str:
    words = {name: f"<embedding:{name}>" for name in embedding_names(prompt)}
    return replace_embeddings(prompt, words | {before: f"<embedding:{after}>"})


def differences(
    before: PictureFacts, after: PictureFacts, typed: Collection[str] = ()
) -> Iterator[str]:
    """What made a picture differently from the one it should equal, in sentences.

    Fields in `typed` were meant to be different.
    """
    yield from engines(before.engine, after.engine)
    for used in before.files:
        now = [file for file in after.files if file.field == used.field]
        if used.field in typed or not used.digest or any(not file.digest for file in now):
            continue
        if used.digest not in {file.digest for file in now}:
            drawn = ", ".join(f"{file.name} ({file.digest[:_SHOWN]})" for file in now) or "nothing"
            yield f"Drawn with {drawn} instead of {used.name} ({used.digest[:_SHOWN]})."


def engines(before: EngineFacts, after: EngineFacts) -> Iterator[str]:
    """How two engines differ that did not draw with equal fingerprints."""
    if before.fingerprint == after.fingerprint:
        return
    parts = [
        f"{what} {new} instead of {old}"
        for what, old, new in (
            ("engine", before.version, after.version),
            ("backend", before.backend, after.backend),
            ("device", before.device, after.device),
        )
        if old != new
    ]
    how = f" ({', '.join(parts)})" if parts else ""
    yield (
        f"Drawn with fingerprint {after.fingerprint}, the original with"
        f" {before.fingerprint}{how}: pixels may differ."
    )
