"""What an idle box may take over from a slower one, or race it for."""

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple

from sdistrib_manager.scheduler.costs import Costs
from sdistrib_manager.scheduler.outlook import B, Outlooks, left
from sdistrib_manager.scheduler.work import Held, Job

#: A race or a taking back must win at least this part of the image's time.
_GAIN = 0.1
#: Less is not worth a second attempt: a message that was late looks like that.
_GAIN_S = 0.25


class _Prize(NamedTuple, Generic[B]):
    """An image in the hands of a box."""

    #: Which it is among all: the first of equal ones is taken.
    place: tuple[int, int]
    #: When its box would be done with it.
    end_at: float
    box: B
    held: Held


class Takeover(Generic[B]):
    """All images that may be had, by what an idle box must have loaded for them."""

    def __init__(
        self,
        now: float,
        costs: Costs,
        outlooks: Outlooks[B],
        able: Callable[[B, Job], bool],
        fits: Callable[[B, Held], bool],
    ) -> None:
        self._now = now
        self._costs = costs
        self._outlooks = outlooks
        self._able = able
        self._fits = fits
        #: Not begun: any box may have them.
        self._waiting: list[_Prize[B]] = []
        #: Begun, by context: they are raced where it is loaded, or has space.
        self._begun: dict[Hashable, list[_Prize[B]]] = {}
        for box in outlooks.boxes:
            self.add(box)

    def add(self, box: B) -> None:
        """What the box holds may be had."""
        at = self._now
        for number, held in enumerate(box.holds):
            at += left(box, held, self._now, self._costs)
            if not number and held.begun_at is None and not box.is_down:
                # Its engine turns to it now: taken back again and again, it would begin nowhere.
                continue
            prize = _Prize((self._outlooks.place(box), number), at, box, held)
            if held.begun_at is None:
                self._waiting.append(prize)
            else:
                self._begun.setdefault(held.job.context, []).append(prize)

    def best(self, box: B) -> tuple[B, Held] | None:
        """Where this box wins most; None where it wins too little."""
        contexts = box.contexts if len(box.contexts) >= box.keep else self._begun
        begun = [prize for context in contexts for prize in self._begun.get(context, [])]
        best: tuple[float, _Prize[B]] | None = None
        for prize in sorted(self._waiting + begun):
            # No more can be won than the time until it would be there anyway.
            if best is not None and prize.end_at - self._now <= best[0]:
                continue
            gain = self._gain(box, prize)
            if gain is not None and (best is None or gain > best[0]):
                best = gain, prize
        return None if best is None else (best[1].box, best[1].held)

    def feed(self, held: Held, free: list[B]) -> None:
        """An image is coming back: the one of these idle boxes that would be done with it soonest
        waits for it, and leaves the list."""
        able = [box for box in free if self._able(box, held.job) and self._fits(box, held)]
        if able:
            free.remove(min(able, key=lambda box: self._outlooks.reckoned(box, held.job)))

    def _gain(self, box: B, prize: _Prize[B]) -> float | None:
        """Seconds by which the box would be sooner; None where it may not, or hardly is."""
        held = prize.held
        if prize.box is box or held.revoking:
            return None
        if held.begun_at is not None and not self._may_race(held):
            return None
        gain = prize.end_at - self._outlooks.reckoned(box, held.job)
        least_s = _GAIN * self._costs.image_s(box.name, held.job)
        if gain <= (least_s if held.begun_at is None else max(least_s, _GAIN_S)):
            return None
        return gain if self._able(box, held.job) and self._fits(box, held) else None

    def _may_race(self, held: Held) -> bool:
        """Nobody else does, and whoever asked for it has nothing against it."""
        return held.job.hedge and not held.alone
