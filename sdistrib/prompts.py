"""What prompts name: LoRAs, `<lora:name:weight>` as A1111 and sd-cli write them, and embeddings.

An embedding (textual inversion) is named `embedding:name`, as ComfyUI writes it, or
`<embedding:name>` where the name has blanks or brackets. A plain word is never one: sd.cpp looks
for the names of all files of a folder anywhere in the prompt, inside of words too, so that a file
called `cat` would change what `category` means, on those workers that have it.
"""

import math
import re
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from sdistrib import limits
from sdistrib.errors import PetitionError

_TAG = re.compile(r"<lora:([^<>]*)>")
_HIGH_NOISE = "|high_noise|"
#: The plain form ends where a word or a weight does; a full stop behind it belongs to the sentence.
_EMBEDDING = re.compile(
    r"<embedding:(?P<quoted>[^<>]*)>"
    r"|(?<![\w:<])embedding:(?P<plain>[^\s,:;<>()\[\]{}|\"]*[^\s,:;<>()\[\]{}|\".!?])"
)
#: A tag is quoted in a refusal up to this length.
_QUOTE_CHARS = 100


class LoraTag(msgspec.Struct, frozen=True):
    """One `<lora:…>` of a prompt."""

    #: Name as written, to be looked up in the worker's catalogue.
    name: str
    #: Strength; 1.0 when the tag names none.
    weight: float
    #: The tag is for the high-noise expert (`<lora:|high_noise|name:weight>`).
    high_noise: bool = False


def split_loras(prompt: str) -> tuple[str, tuple[LoraTag, ...]]:
    """Take the LoRA tags out of a prompt.

    Returns:
        The prompt without tags, and the tags; a name that stands twice adds its weights, as sd-cli
        does.

    Raises:
        PetitionError: `invalid_params` for an empty or overlong name or a weight that is no finite
            number, `too_large` for more than `limits.LORAS_MAX` LoRAs.
    """
    weights: dict[tuple[str, bool], float] = {}
    for body in _TAG.findall(prompt):
        high_noise = body.startswith(_HIGH_NOISE)
        name, _, weight = body.removeprefix(_HIGH_NOISE).partition(":")
        name = name.strip()
        if not name or len(name) > limits.NAME_CHARS_MAX:
            what = f"has a name of more than {limits.NAME_CHARS_MAX} characters"
            _refuse(body, what if name else "names no LoRA")
        key = (name, high_noise)
        weights[key] = weights.get(key, 0.0) + _weight(weight, body)
        if not math.isfinite(weights[key]):
            _refuse(body, "has no finite weight in all")
    if len(weights) > limits.LORAS_MAX:
        raise PetitionError.of(
            "too_large", f"{len(weights)} LoRAs; at most {limits.LORAS_MAX}.", field="prompt"
        )
    tags = tuple(LoraTag(name, weight, high) for (name, high), weight in weights.items())
    return (_TAG.sub("", prompt) if tags else prompt), tags


def embedding_names(*prompts: str) -> tuple[str, ...]:
    """Names of the embeddings in these prompts, each once, as written.

    Raises:
        PetitionError: `invalid_params` for an empty or overlong name, `too_large` for more than
            `limits.EMBEDDINGS_MAX` embeddings.
    """
    names = dict.fromkeys(
        _embedding(found) for text in prompts for found in _EMBEDDING.finditer(_TAG.sub("", text))
    )
    if len(names) > limits.EMBEDDINGS_MAX:
        raise PetitionError.of(
            "too_large",
            f"{len(names)} embeddings; at most {limits.EMBEDDINGS_MAX}.",
            field="prompt",
        )
    return tuple(names)


def replace_embeddings(prompt: str, words: Mapping[str, str]) -> str:
    """Put a word in the place of each embedding; `words` has one for each of their names."""
    return _EMBEDDING.sub(lambda found: words[_embedding(found)], prompt)


def _embedding(found: re.Match[str]) -> str:
    name = (found["quoted"] or found["plain"] or "").strip()
    if not name or len(name) > limits.NAME_CHARS_MAX:
        what = f"has a name of more than {limits.NAME_CHARS_MAX} characters"
        text = f"{found[0][:_QUOTE_CHARS]} {what if name else 'names no embedding'}."
        raise PetitionError.of("invalid_params", text, field="prompt")
    return name


def _weight(text: str, body: str) -> float:
    if not text:
        return 1.0
    try:
        # A1111 allows `name:unet:text-encoder`; the engine has one weight, the first.
        weight = float(text.partition(":")[0])
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        _refuse(body, "has a weight that is no number")
    return weight


def _refuse(body: str, what: str) -> NoReturn:
    raise PetitionError.of(
        "invalid_params", f"<lora:{body[:_QUOTE_CHARS]}> {what}.", field="prompt"
    )
