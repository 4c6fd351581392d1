"""For how long a petition is overtaken against the fair order of our own scheduler.

An image handed to a box overtakes a petition that stands before it in fair order and waits, if the
box could have drawn that one, and would have been done with its next image sooner than it then was,
as is known afterwards. What a slow box draws of others costs nobody anything whose next image comes
from a fast one first.
"""

from collections.abc import Iterable
from typing import NamedTuple

from bench.scheduling.farm import Image, Job


class _Pass(NamedTuple):
    at: float
    #: When the box would have finished an image of the petition that was passed.
    would_end: float


class Fairness:
    """Told by the policy what it hands out, and whom that passes."""

    def __init__(self) -> None:
        #: Longest time from the first to the last image that overtook one and the same petition
        #: while none of its own was handed out, in seconds.
        self.worst_s = 0.0
        self._passed: dict[Job, list[_Pass]] = {}
        #: Of images that are handed out: when, and what passed their petition before.
        self._before: dict[Image, tuple[float, list[_Pass]]] = {}
        #: When an image of a petition was last handed out, or begun.
        self._last: dict[Job, float] = {}

    def handed(self, now: float, image: Image, passed: Iterable[tuple[Job, float]]) -> None:
        """An image is handed out; it passes these petitions, whose next one would end then."""
        for job, would_end in passed:
            self._passed.setdefault(job, []).append(_Pass(now, would_end))
        self._before[image] = now, self._passed.pop(image.job, [])
        self._last[image.job] = now

    def began(self, now: float, image: Image) -> None:
        """A box turned to it."""
        self._last[image.job] = now

    def back(self, image: Image) -> None:
        """It was taken back, or lost: its petition waits on as before it was handed out, unless
        another image of it was handed out since, or begun."""
        at, before = self._before.pop(image, (0.0, []))
        if at == self._last[image.job]:
            self._passed[image.job] = before

    def finished(self, now: float, image: Image) -> None:
        """Its picture is there."""
        _, before = self._before.pop(image, (0.0, []))
        costly = [one.at for one in before if one.would_end < now]
        if costly:
            self.worst_s = max(self.worst_s, costly[-1] - costly[0])
