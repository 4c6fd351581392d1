"""What each image of one call of the engine took. Pure.

An image's own are the sampling and the decoding of it. What the call does for all of them, above
all reading the prompt, is shared evenly: so the shares of a call add up to the whole of it.
"""

from sdistrib_worker.engine.story import Where


class Shares:
    """Seconds of one call, by image.

    Args:
        count: images of the call.
        now: when it begins.
    """

    def __init__(self, count: int, now: float) -> None:
        self._own_s = [0.0] * count
        self._sampling_s = [0.0] * count
        self._common_s = 0.0
        #: Whose the time since then is; None is everybody's.
        self._whose: int | None = None
        self._since = now

    def moved(self, where: Where, now: float) -> None:
        """The engine says where it is."""
        self._count(now)
        own = where.phase in ("sampling", "decoding") and where.image < len(self._own_s)
        self._whose = where.image if own else None
        if self._whose is not None and where.phase == "sampling":
            self._sampling_s[self._whose] += where.step_s

    def ended(self, now: float) -> None:
        """The call is over."""
        self._count(now)
        self._whose = None

    def draw_s(self, image: int) -> float:
        """From the prompt to the last pixel."""
        return self._own_s[image] + self._common_s / len(self._own_s)

    def sampling_s(self, image: int) -> float:
        """All sampling steps together, those of highres fix too."""
        return self._sampling_s[image]

    def _count(self, now: float) -> None:
        passed_s, self._since = now - self._since, now
        if self._whose is None:
            self._common_s += passed_s
        else:
            self._own_s[self._whose] += passed_s
