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
        #: Of images that are handed out: what passed their petition before.
        self._before: dict[Image, list[_Pass]] = {}

    def handed(self, now: float, image: Image, passed: Iterable[tuple[Job, float]]) -> None:
        """An image is handed out; it passes these petitions, whose next one would end then."""
        for job, would_end in passed:
            self._passed.setdefault(job, []).append(_Pass(now, would_end))
        before = self._passed.pop(image.job, None)
        if before:
            self._before[image] = before

    def back(self, image: Image) -> None:
        """It was taken back, or lost: its petition has waited all the time."""
        before = self._before.pop(image, None)
        if before:
            self._passed[image.job] = before + self._passed.get(image.job, [])

    def finished(self, now: float, image: Image) -> None:
        """Its picture is there."""
        costly = [one.at for one in self._before.pop(image, ()) if one.would_end < now]
        if costly:
            self.worst_s = max(self.worst_s, costly[-1] - costly[0])
