"""The simulated world: one clock, one agenda, one source of chance.

Everything that happens is an entry of the agenda; chance comes from one generator, so that a seed
is a whole story and tells itself again, event for event.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

#: Monotonic seconds at the beginning.
BEGINNING = 1000.0
#: Seconds since 1970 at the beginning.
_WALL = 1.7e9


class Violation(AssertionError):  # noqa: N818 - reads as what it is
    """A promise was broken."""


class Crash(BaseException):
    """The process that was just doing something dies here; no handler of a program catches it."""


class World:
    """Time, chance, and what happened so far.

    Args:
        seed: decides everything.
        told: gets each line of the story; None tells nothing.
    """

    def __init__(self, seed: int, told: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = BEGINNING
        #: What the wall clock was set forward or back by, seconds.
        self.wall_jump = 0.0
        #: Events that the machines took in.
        self.events = 0
        #: How often each fault happened, and each event in each state.
        self.faults: Counter[str] = Counter()
        self.met: Counter[tuple[str, str, str]] = Counter()
        self.told = told
        #: The process whose loop is being made.
        self.maker: Any = None
        #: Seconds that a message on a line takes beyond what that line takes for all.
        self.late_s: Callable[[Any, list[Any]], float] = lambda _line, _frames: 0.0
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        #: Whether a peer's send is refused.
        self.refuses: Callable[[list[Any]], bool] = lambda _frames: False

    @property
    def wall(self) -> float:
        """What the wall clock shows."""
        return _WALL + self.now + self.wall_jump

    def at(self, when: float, do: Callable[..., None], *what: Any) -> None:
        """Have something happen at a time."""
        heapq.heappush(self._agenda, (when, next(self._numbers), do, what))

    def after(self, delay_s: float, do: Callable[..., None], *what: Any) -> None:
        """Have something happen some time from now."""
        self.at(self.now + delay_s, do, *what)

    def run_until(self, when: float) -> None:
        """Let everything happen that is due by then."""
        while self._agenda and self._agenda[0][0] <= when:
            due, _, do, what = heapq.heappop(self._agenda)
            self.now = max(self.now, due)
            do(*what)
        self.now = when

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.rng.random() < probability

    def between(self, least: float, most: float) -> float:
        """Any number between two."""
        return least + (most - least) * self.rng.random()

    def tell(self, text: str) -> None:
        """A line of the story."""
        if self.told is not None:
            self.told(f"{self.now - BEGINNING:9.3f}  {text}")


class Process:
    """Something that takes turns: when it is woken, and when its own deadline has come."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = False
        #: It is stopped (SIGSTOP, a paused machine) until then.
        self.paused_until = 0.0
        self._wake_at: float | None = None

    def wake(self, when: float | None = None) -> None:
        """Take a turn at that time, or now."""
        when = self.world.now if when is None else when
        if self._wake_at is None or when < self._wake_at:
            self._wake_at = when
            self.world.at(when, self._due, when)

    def _due(self, when: float) -> None:
        if self._wake_at != when:
            return
        self._wake_at = None
        if not self.alive:
            return
        if self.world.now < self.paused_until:
            self.wake(self.paused_until)
            return
        self.take_turn()

    def take_turn(self) -> None:
        """Do what is to be done now, and wake again when something is due."""
        raise NotImplementedError
