"""LoRA tags in prompts: `<lora:name:weight>`, as A1111 and sd-cli write them."""

import math
import re
from typing import NoReturn

import msgspec

from sdistrib import limits
from sdistrib.errors import PetitionError

_TAG = re.compile(r"<lora:([^<>]*)>")
_HIGH_NOISE = "|high_noise|"
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
