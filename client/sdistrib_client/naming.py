"""LoRAs and embeddings wished for beside the prompts, written into them. Pure.

A petition names them in its prompts alone: so A1111's text in a picture has them, who reads them
from there draws them again, and there is one place where anybody looks for them.
"""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from sdistrib.errors import PetitionError
from sdistrib.models import EXTENSIONS
from sdistrib.params import Params
from sdistrib.prompts import embedding_names

#: Wishes that are no parameters, but end up in the prompts.
IN_PROMPTS = ("loras", "embeddings")
_HIGH_NOISE = "|high_noise|"
_PROMPTS = ("prompt", "negative_prompt")


def write_names(given: dict[str, Any], before: Params | None = None) -> None:
    """Take `loras` and `embeddings` out of `given`, and write them into its prompts.

    Args:
        given: fields of `Params`; `loras` are "name", "name:weight" or "|high_noise|name:weight",
            `embeddings` are names whose word in a prompt, or in the negative one, means the file.
        before: has the prompts that `given` leaves out.

    Raises:
        PetitionError: `invalid_params` for a name that cannot be written, or an embedding whose
            word stands in neither prompt.
    """
    loras, embeddings = (_listed(name, given.pop(name, None)) for name in IN_PROMPTS)
    if not loras and not embeddings:
        return
    for field in _PROMPTS:
        if given.get(field) is None:
            given[field] = getattr(before, field) if before is not None else ""
    for name in embeddings:
        _mark(given, name)
    # No blank: the tags are taken out again, and a blank left behind would change the picture.
    given["prompt"] += "".join(map(_lora_tag, loras))


def _listed(name: str, wished: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(wished, str):
        _refuse(f"{name} is a list of names, not {wished!r}.")
    return tuple(wished or ())


def _lora_tag(wish: str) -> str:
    if "<" in wish or ">" in wish:
        _refuse(f"--lora {wish!r}: a name has no < or >.")
    high_noise = _HIGH_NOISE if wish.startswith(_HIGH_NOISE) else ""
    name, _, weight = wish.removeprefix(high_noise).partition(":")
    return f"<lora:{high_noise}{name}:{weight or '1'}>"


def _mark(given: dict[str, Any], name: str) -> None:
    """Make the word that means this embedding say so, wherever it stands as a word."""
    if "<" in name or ">" in name or not name.strip():
        _refuse(f"--embedding {name!r} is no name of a file.")
    tag = f"embedding:{name}"
    if embedding_names(tag) != (name,):
        tag = f"<embedding:{name}>"
    word = re.escape(_word(name))
    pattern = re.compile(rf"<[^<>]*>|(?<![\w:/\\.-]){word}(?![\w/\\-]|\.\w)", re.IGNORECASE)
    named = name in embedding_names(*(given[field] for field in _PROMPTS))
    for field in _PROMPTS:
        marked = pattern.sub(lambda m: m[0] if m[0].startswith("<") else tag, given[field])
        named = named or marked != given[field]
        given[field] = marked
    if not named:
        _refuse(f"--embedding {name}: write {_word(name)!r} in the prompt where it belongs.")


def _word(name: str) -> str:
    """What A1111 calls the embedding: the file's name without folder and extension."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    extension = next((e for e in EXTENSIONS if last.lower().endswith(e)), "")
    return last[: len(last) - len(extension)]


def _refuse(message: str) -> NoReturn:
    raise PetitionError.of("invalid_params", message, field="prompt")
