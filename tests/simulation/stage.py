"""Puts the simulated world in the place of what the programs' loops would open themselves."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from sdistrib import limits
from sdistrib_manager import loop as manager_loop
from sdistrib_manager import storage
from sdistrib_worker import loop as worker_loop
from tests.simulation.world import World

#: Small enough that most pictures travel in pieces and meet the clients' credit.
CHUNK_BYTES = 400
CREDIT_BYTES = 2500


class _Watch:
    """There is nothing to wait for: the agenda wakes everybody."""

    def add(self, source: object) -> None:
        """Nothing."""

    def remove(self, source: object) -> None:
        """Nothing."""


class Stage:
    """The world that is played now; stands for the module `time` too.

    A loop that is made asks for its parts here, and gets those of the process that makes it.
    """

    world: World

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return self.world.now

    def time(self) -> float:
        """Seconds since 1970, as the wall clock has it."""
        return self.world.wall

    def keeper(self, *given: Any) -> Any:
        """In the place of `Keeper`."""
        return self.world.maker.keeper(*given)

    def engine(self, *_given: Any) -> Any:
        """In the place of `EngineLink`."""
        return self.world.maker.engine

    def encoder(self, *given: Any) -> Any:
        """In the place of `Encoder`."""
        return self.world.maker.encoder(*given)

    def inputs(self, *given: Any) -> Any:
        """In the place of `InputKeeper`."""
        return self.world.maker.inputs(*given)


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """For the length of the block, loops that are made live in the simulated world."""
    stage = Stage()
    with contextlib.ExitStack() as stack:
        for module, name, value in (
            (manager_loop, "time", stage),
            (manager_loop, "Keeper", stage.keeper),
            (manager_loop, "Watch", _Watch),
            # Pictures are read from the disk, where the faults are, and seldom from memory.
            (storage, "_VIEWS_BYTES_MAX", 0),
            (worker_loop, "time", stage),
            (worker_loop, "Watch", _Watch),
            (worker_loop, "EngineLink", stage.engine),
            (worker_loop, "Encoder", stage.encoder),
            (worker_loop, "InputKeeper", stage.inputs),
            (limits, "CHUNK_BYTES", CHUNK_BYTES),
            (limits, "CLIENT_BYTES_IN_FLIGHT_MAX", CREDIT_BYTES),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        yield stage
