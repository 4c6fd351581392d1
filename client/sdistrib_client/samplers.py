"""Sampler and schedule names as people know them, turned into the engine's.

Accepted are sd-cli's own names, those that A1111 and its forks show ("Euler a", "DPM++ 2M Karras":
a schedule at the end of a sampler's name is one, as in A1111 before 1.9), and the k-diffusion names
that sd-server maps.
"""

from typing import NamedTuple

from sdistrib.infotext import SAMPLERS, SCHEDULERS

#: Samplers and schedules of sd-cli 97d29908 that engine 0.4.7 does not have yet.
NEWER_SAMPLERS = (
    "euler_cfg_pp",
    "euler_a_cfg_pp",
    "euler_ge",
    "dpm++2m_sde",
    "dpm++2m_sde_bt",
    "lms",
)
NEWER_SCHEDULERS = ("ltx2", "logit_normal", "flux2", "flux", "beta")

_OTHER_SAMPLERS = {
    "k_euler": "euler",
    "k_euler_a": "euler_a",
    "k_heun": "heun",
    "k_dpm_2": "dpm2",
    "k_dpmpp_2s_a": "dpm++2s_a",
    "k_dpmpp_2m": "dpm++2m",
    "ddim": "ddim_trailing",
}
#: `default` is the C++ client's word for the model's own; `normal` is newer sd-cli's `discrete`.
_OTHER_SCHEDULERS = {"automatic": "", "default": "", "normal": "discrete"}


class Sampling(NamedTuple):
    """What a sampler's name says; "" leaves the choice to the model."""

    method: str
    scheduler: str = ""


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


_SAMPLERS = {
    _fold(spelling): method for method, shown in SAMPLERS.items() for spelling in (method, shown)
} | {_fold(spelling): method for spelling, method in _OTHER_SAMPLERS.items()}
_SCHEDULERS = {
    _fold(spelling): scheduler
    for scheduler, shown in SCHEDULERS.items()
    for spelling in (scheduler, shown)
} | {_fold(spelling): scheduler for spelling, scheduler in _OTHER_SCHEDULERS.items()}


def read_sampler(name: str) -> Sampling:
    """The engine's name for a sampler.

    Raises:
        ValueError: there is none; the message says which are allowed.
    """
    folded = _fold(name)
    if folded in _SAMPLERS:
        return Sampling(_SAMPLERS[folded])
    words = folded.split()
    for at in range(len(words) - 1, 0, -1):
        method, scheduler = " ".join(words[:at]), " ".join(words[at:])
        if method in _SAMPLERS and scheduler in _SCHEDULERS:
            return Sampling(_SAMPLERS[method], _SCHEDULERS[scheduler])
    raise ValueError(_unknown(name, NEWER_SAMPLERS, tuple(SAMPLERS)))


def read_scheduler(name: str) -> str:
    """The engine's name for a schedule; "" leaves the choice to the model.

    Raises:
        ValueError: there is none; the message says which are allowed.
    """
    found = _SCHEDULERS.get(_fold(name))
    if found is None:
        raise ValueError(_unknown(name, NEWER_SCHEDULERS, tuple(SCHEDULERS)))
    return found


def _unknown(name: str, newer: tuple[str, ...], known: tuple[str, ...]) -> str:
    allowed = ", ".join(known)
    if name in newer:
        return f"{name!r} needs an engine newer than 0.4.7; it has {allowed}."
    return f"{name!r} is none of {allowed}."
