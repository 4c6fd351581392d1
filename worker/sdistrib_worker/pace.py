"""How fast this worker's engine is, learned from its work; and how long is too long. Pure.

All times are seconds. `patience` multiplies the limits on loading and drawing, for slow disks and
slow devices; the time to start an interpreter and to answer at all is not a matter of patience.
"""

from collections.abc import Hashable
from typing import TypeVar

from sdistrib import limits

_K = TypeVar("_K")

#: (context key, width, height): what a step's length depends on.
SizeKey = tuple[str, int, int]
#: Contexts and sizes remembered; the oldest goes first.
_REMEMBERED_MAX = 512


class Pace:
    """Learned times, and limits made from them."""

    def __init__(self, patience: float = 1.0) -> None:
        self._patience = patience
        self._step_s: dict[SizeKey, float] = {}
        self._image_s: dict[Hashable, float] = {}
        self._load_s: dict[str, float] = {}
        #: Seconds that a byte took at the last load.
        self._byte_s = 0.0
        #: Time from the start of a child to its being ready; 0 when not known.
        self.start_s = 0.0

    def stepped(self, key: SizeKey, step_s: float) -> None:
        """A step of this length was seen."""
        _remember(self._step_s, key, step_s)

    def drew(self, likeness: Hashable, image_s: float) -> None:
        """An image of this likeness took that long, from the prompt to the last pixel."""
        if image_s > 0:
            _remember(self._image_s, likeness, image_s)

    def image_s(self, likeness: Hashable) -> float:
        """Seconds that the last such image took; 0 when none was drawn."""
        return self._image_s.get(likeness, 0.0)

    def loaded(self, context: str, load_s: float, load_bytes: int) -> None:
        """This context, of files of this size, took that long to load."""
        if load_s > 0:
            _remember(self._load_s, context, load_s)
            self._byte_s = load_s / max(1, load_bytes)

    def step_s(self, key: SizeKey) -> float:
        """Seconds per step as last seen; 0 when not known."""
        return self._step_s.get(key, 0.0)

    def load_left_s(self, context: str, load_bytes: int, since_s: float) -> float:
        """Expected rest of a load that has taken so long already.

        What was never loaded takes as long for each byte as the last load did, and what takes
        longer than expected, or what nothing is known of, as long again as it has taken.
        """
        expected_s = self._load_s.get(context, self._byte_s * load_bytes)
        return expected_s - since_s if expected_s > since_s else since_s

    def reload_s(self, context: str) -> float:
        """Expected time until a fresh child has this context again."""
        return self.start_s + self._load_s.get(context, 0.0)

    def start_limit_s(self) -> float:
        """Longest time from the start of a child to its being ready."""
        return limits.ENGINE_START_S

    def answer_limit_s(self) -> float:
        """Longest silence of an idle child after a request."""
        return limits.STEP_SILENCE_S_MIN

    def load_limit_s(self, load_bytes: int) -> float:
        """Longest loading of files of this size."""
        s = limits.LOAD_S_BASE + limits.LOAD_S_PER_GIB * load_bytes / limits.GIB
        return s * self._patience

    def step_limit_s(self, key: SizeKey) -> float:
        """Longest silence inside a step."""
        learned = self._step_s.get(key)
        if learned is None:
            return self.phase_limit_s(key[1] * key[2])
        s = max(limits.STEP_SILENCE_S_MIN, learned * limits.STEP_SILENCE_FACTOR)
        return s * self._patience

    def phase_limit_s(self, pixels: int) -> float:
        """Longest silence in any phase whose speed is not known, for a picture of this size."""
        # A VAE says nothing until the whole picture is decoded.
        scale = max(1.0, pixels / limits.STEP_SILENCE_PIXELS)
        return limits.STEP_SILENCE_S * scale * self._patience


def _remember(known: dict[_K, float], key: _K, value: float) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > _REMEMBERED_MAX:
        del known[next(iter(known))]
