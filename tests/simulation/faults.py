"""What may go wrong, and how often. Each seed chooses its own few kinds, so that they mix."""

from tests.simulation.world import World

#: Chance per occasion of what happens at a certain point of a program, by kind.
AT_POINTS: dict[str, float] = {
    "crash before commit": 0.018,
    "crash after commit": 0.015,
    "crash in the middle of sends": 0.002,
    "commit fails": 0.015,
    "commit fails beside a picture": 0.5,
    "disk full": 0.018,
    "sync fails, nothing kept": 0.016,
    "sync fails, all kept": 0.016,
    "load fails": 0.1,
    "probe fails": 0.7,
    "trouble brings trouble": 0.7,
    "picture not kept": 0.2,
    "picture kept late": 0.5,
    "picture missing": 0.45,
    "picture damaged": 0.5,
    "engine crashes": 0.1,
    "engine hangs": 0.06,
    "engine declines": 0.08,
    "engine out of memory": 0.09,
    "engine does not start": 0.15,
    "file vanished": 0.06,
    "encoding fails": 0.18,
    "encoding fails without a session": 0.5,
    "engine declines without a session": 0.7,
    "connection breaks as an image is begun": 0.25,
    # Of the chance that each word has, see `meddler`.
    "a cancel overtakes a word": 0.5,
    "a purge overtakes a word": 0.5,
    "a worker's word is late": 0.9,
    "a revoke is late": 0.9,
    "a receipt is not taken": 0.15,
}
#: Times per simulated minute of what happens at any moment, by kind.
AT_MOMENTS: dict[str, float] = {
    "connection breaks": 6.0,
    "connection breaks unnoticed": 4.0,
    "cut off to the manager": 1.5,
    "cut off from the manager": 1.5,
    "cut off both ways": 1.5,
    "peer does not read": 2.0,
    "manager does not read": 6.0,
    "manager crashes": 2.6,
    "manager's machine loses power": 1.4,
    "manager is stopped": 1.5,
    "manager pauses": 1.5,
    "worker is killed": 2.0,
    "worker is told to leave": 6.0,
    "worker is told to leave at once": 1.0,
    "worker pauses": 1.5,
    "idle engine ends": 4.0,
    "all workers pause, and a petition comes": 6.0,
    "client is killed and comes back": 2.0,
    "client is killed for good": 1.0,
    "client pauses": 1.5,
    "wall clock a day forward": 2.0,
    "wall clock a day back": 2.0,
    "cancel": 7.0,
    "cancel by another": 5.0,
    "cancel before submit": 2.0,
    "detach": 9.0,
    "detach by another": 5.0,
    "attach": 5.0,
    "fetch again": 2.0,
    "submit again elsewhere": 4.0,
    "retry": 10.0,
    "retry of anything": 6.0,
    "purge": 6.0,
    "purge all": 1.0,
    "question": 2.0,
    "inventory changes": 2.5,
    "worker is shut for a while": 3.0,
    "wish about workers": 5.0,
    "worker is drained": 1.5,
}
#: Kinds after which work may be done twice. Nothing else excuses a second execution.
EXCUSES: frozenset[str] = frozenset(
    {
        "connection breaks", "connection breaks unnoticed", "cut off to the manager",
        "cut off from the manager", "cut off both ways", "peer does not read",
        "manager does not read", "manager pauses", "worker is killed",
        "worker is told to leave at once", "worker pauses", "picture missing", "picture damaged",
        "manager's machine loses power", "retry", "worker is told to leave",
        "worker is drained",
        "all workers pause, and a petition comes", "a worker's word is late",
        "retry of anything", "trouble brings trouble", "connection breaks as an image is begun",
    }
)  # fmt: skip
#: Kinds that have few occasions: every other seed has them.
_SELDOM = (
    "trouble brings trouble", "commit fails beside a picture", "a cancel overtakes a word",
    "a purge overtakes a word", "a worker's word is late", "a revoke is late",
    "engine declines without a session", "encoding fails without a session",
    "connection breaks as an image is begun", "a receipt is not taken",
)  # fmt: skip
#: The manager's own ends, after which nothing is drawn again.
_RESTARTS = frozenset({"manager crashes", "manager is stopped", "crash after commit"})


class Faults:
    """The kinds of one seed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.active = True
        calm = world.chance(0.06)
        share = 0.0 if calm else world.rng.choice((0.08, 0.2, 0.4, 0.7))
        kinds = [*AT_POINTS, *AT_MOMENTS]
        self.kinds = {kind for kind in kinds if world.rng.random() < share}
        if not calm:
            self.kinds |= {kind for kind in _SELDOM if world.chance(0.6)}
        if world.chance(0.3):
            # Where nothing excuses it, a second execution of an image is seen at once.
            self.kinds -= EXCUSES
            if not calm and world.chance(0.5):
                self.kinds |= _RESTARTS

    def roll(self, kind: str, occasion: float = 1.0) -> bool:
        """Whether it goes wrong here, at an occasion of this weight."""
        if not self.active or kind not in self.kinds:
            return False
        if self._world.rng.random() >= AT_POINTS[kind] * occasion:
            return False
        self.happened(kind)
        return True

    def happened(self, kind: str) -> None:
        """Count it."""
        self._world.faults[kind] += 1
        if self._world.told is not None:
            self._world.tell(f"!! {kind}")

    def excuses(self) -> int:
        """How often something happened after which work may be done twice."""
        return sum(count for kind, count in self._world.faults.items() if kind in EXCUSES)
