"""One seed, one story: how it goes, and how it must end."""

from sdistrib.petitions import PETITION_ENDS
from sdistrib_manager import invariants
from sdistrib_manager.machine import Manager
from sdistrib_manager.state import State
from tests.simulation.fates import SHELVES, Fates
from tests.simulation.world import Violation

#: Fewest events of a story, and the longest time in which everything must end once faults stop.
EVENTS_MIN = 200
QUIET_S = 400.0


class Story(Fates):
    """The plot."""

    def play(self) -> None:
        """Tell the story to its end.

        Raises:
            Violation: a promise was broken.
        """
        world = self.world
        self.manager.start()
        for box in self.peers:
            world.after(world.between(0.0, 1.0), box.start)
        try:
            self.make_petitions()
            self.begin()
            end = world.now + world.between(8.0, 40.0)
            world.run_until(end)
            while world.events < EVENTS_MIN:
                world.run_until(world.now + 5.0)
            self._heal()
            self._wait_for_the_end()
            self._check_the_end()
        finally:
            self._curtain()

    def _heal(self) -> None:
        """Nothing goes wrong any more, and everybody who is to come back does."""
        self.world.tell("== nothing goes wrong any more")
        self.faults.active = False
        self.manager.disk.full_until = 0.0
        self.manager.start()
        for box in self.peers:
            self.mend(box.host)
            box.host.jam_down_until = box.host.jam_up_until = 0.0
            if box.name not in self.gone:
                box.start()
        for box, files in zip(self.workers, SHELVES, strict=False):
            if box.files != files:
                box.publish(files)

    def _wait_for_the_end(self) -> None:
        world = self.world
        quiet_since = world.now
        while world.now < quiet_since + QUIET_S:
            world.run_until(world.now + 2.0)
            for box in self.peers:
                if box.name not in self.gone and not box.alive:
                    box.start()
            for worker in self.workers:
                worker.opens()
            if not self._left_over():
                return
        raise Violation(f"{QUIET_S:.0f} s after the last fault: {'; '.join(self._left_over())}")

    def _left_over(self) -> list[str]:
        """What has not come to its end."""
        state = self.manager.state
        if state is None:
            return ["no manager"]
        left = [f"{e.id[-4:]} is {e.state}: {e.reason}" for e in state.queue if not e.ended]
        left += [f"half a picture from {key[0]}" for key in state.arriving]
        left += [f"{one.name} has leases" for one in state.roster if one.leases]
        if self.manager.loop is not None and self.manager.loop._soft:
            left.append("something is still to be kept")
        for box in self.clients:
            left += [f"{box.name} was not told of {pid[-4:]}" for pid in sorted(box.listens_for)]
        for worker in self.workers:
            if worker.loop is not None and len(worker.loop._worker._results):
                left.append(f"{worker.name} holds {worker.loop._worker._results.attempts()}")
        left += [visitor.name for visitor in self.visitors if visitor.alive]
        return left

    def _check_the_end(self) -> None:
        loop = self.manager.loop
        assert loop is not None
        invariants.check_invariants(loop._manager)
        ledger, store = self.ledger, self.ledger.disk.store
        ledger.nothing_is_lost()
        ledger.executions_are_bounded(self.faults.excuses())
        for pid in ledger.kept_at:
            known = store.petition(pid)
            ended = known is None or known.state in PETITION_ENDS
            ledger.check(ended, f"{pid[-4:]} is {known} on the disk")
        self.check_what_is_kept(loop._manager.state)

    def check_what_is_kept(self, state: State) -> None:
        """A manager that started now would know what this one knows."""
        kept = Manager(self.manager.settings, state.now, state.wall, self.ledger.disk.store.load())
        self.ledger.check(
            kept.state.queue.entries.keys() == state.queue.entries.keys(),
            "other petitions are kept",
        )
        for entry in state.queue:
            other = kept.state.queue.entries[entry.id]
            same = (entry.state, entry.open, entry.size) == (other.state, other.open, other.size)
            self.ledger.check(
                same, f"{entry.id[-4:]} is kept as {other.state}, and is {entry.state}"
            )
            for image in entry.images.values():
                twin = other.images.get(image.index)
                name = f"{entry.id[-4:]}/{image.index}"
                self.ledger.check(twin is not None, f"{name} is not kept")
                if twin is not None:
                    pairs = [
                        (getattr(image, what), getattr(twin, what))
                        for what in ("state", "losses", "failures", "result", "kept", "seen")
                    ]
                    pairs.append((image.issued.keys(), twin.issued.keys()))
                    wrong = [pair for pair in pairs if pair[0] != pair[1]]
                    self.ledger.check(not wrong, f"{name}: known and kept differ: {wrong}")
        self.ledger.check(
            kept.state.tombstones.keys() == state.tombstones.keys(), "tombstones differ"
        )

    def _curtain(self) -> None:
        self.manager.end(0.0)
        for box in self.peers:
            box.end()
