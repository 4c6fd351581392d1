"""What a worker's owner decides of where and how its engine works, whatever petitions wish. Pure.

All of these leave the pixels as they are (measured for engine 0.4.7), so an owner may overrule what
a petition wishes; its user is told. Parts kept on the CPU beside a GPU are computed there, and two
backends differ in the last bit: who decides that has an engine of another fingerprint.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from sdistrib.params import BY_NAME, Params
from sdistrib.protocol.messages import EngineFacts

#: What is decided, by the parameter's name.
Choices = Mapping[str, bool | float]

#: Switches, and what a petition hears that wished for one which is decided to be off.
SWITCHES = {
    "clip_on_cpu": "keeps the text encoder on its device",
    "vae_on_cpu": "keeps the VAE on its device",
    "control_net_cpu": "keeps the ControlNet on its device",
    "offload_to_cpu": "keeps the weights on its device",
    "mmap": "reads model files instead of mapping them",
}
#: Those that move computations to another device.
_MOVING = ("clip_on_cpu", "vae_on_cpu", "control_net_cpu")


def overruled(params: Params, choices: Choices) -> tuple[Params, tuple[str, ...]]:
    """The parameters that are really used, and a note on each wish that is not followed.

    The number of threads is left out of them: the engine is told it beside, and contexts stay equal
    to those of workers whose owners say nothing.
    """
    used: dict[str, bool | float] = {}
    notes = []
    for name, value in choices.items():
        wish = getattr(params, name)
        used[name] = 0 if name == "threads" else value
        if wish not in (value, BY_NAME[name].default):
            notes.append(f"this worker {_instead(name, value)} (its owner's choice)")
    return msgspec.structs.replace(params, **used), tuple(notes)


def _instead(name: str, value: bool | float) -> str:
    if name == "threads":
        return f"uses {value} CPU threads"
    if name == "max_vram":
        return (
            f"bounds device memory at {value:g} GiB" if value else "sets no bound on device memory"
        )
    return SWITCHES[name]


def told(choices: Choices) -> tuple[str, ...]:
    """The choices as they are announced: "clip_on_cpu=false", "max_vram=6"."""
    return tuple(
        f"{name}={str(value).lower() if isinstance(value, bool) else format(value, 'g')}"
        for name, value in sorted(choices.items())
    )


def marked(facts: EngineFacts, choices: Choices) -> EngineFacts:
    """What the engine is, with choices that may change its bits in its fingerprint."""
    moving = told({name: value for name, value in choices.items() if name in _MOVING})
    if not moving or facts.backend == "cpu":
        return facts
    text = "\n".join((facts.fingerprint, *moving))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[: len(facts.fingerprint)]
    return msgspec.structs.replace(facts, fingerprint=fingerprint)
