"""What is told of the request under way: its place, its parameters, why it is refused."""

import time

from sdistrib import limits
from sdistrib.protocol.messages import Phase
from sdistrib_worker.engine.base import RefusalError, Reporter
from sdistrib_worker.engine.shares import Shares
from sdistrib_worker.engine.story import Story, Where


class Telling:
    """The story of one request after another, and who hears it.

    Args:
        reporter: hears the log, and where the request is.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        #: That of the request under way.
        self.story = Story("loading", time.monotonic())
        #: What its images take, from the moment that all is loaded.
        self.shares = Shares(1, time.monotonic())

    def begin(self) -> None:
        """Another request begins."""
        self.story = Story("loading", time.monotonic())

    def draws(self, count: int) -> None:
        """All is loaded; so many images are drawn now."""
        self.shares = Shares(count, time.monotonic())

    def enter(self, phase: Phase) -> None:
        """The caller itself begins something else."""
        self._tell(self.story.enter(phase))

    def line(self, level: int, text: str) -> None:
        """One line of the engine's log."""
        for line in filter(str.strip, text.splitlines()):
            self.reporter.log(level, line)
        if where := self.story.line(level, text):
            self._tell(where)

    def progress(self, step: int, steps: int) -> Where | None:
        """One report on the engine's progress channel; gives what was told."""
        where = self.story.step(step, steps, time.monotonic())
        if where is not None:
            self._tell(where)
        return where

    def dump(self, name: str, text: str) -> None:
        """The parameters as the engine itself sees them; only the debug level ever shows them."""
        for line in text.splitlines():
            self.reporter.log(0, f"{name} {line}")

    def refusal(self, what: str, *, loading: bool = False) -> RefusalError:
        """What failed, and what the engine's log says of it."""
        message = f"{what}: {self.story.reason()}."[: limits.TEXT_CHARS_MAX]
        if self.story.out_of_memory():
            return RefusalError("out_of_memory", message, loading=loading)
        return RefusalError("engine_error", message, loading=loading)

    def _tell(self, where: Where) -> None:
        self.shares.moved(where, time.monotonic())
        self.reporter.at(*where)
