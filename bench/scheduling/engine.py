"""Lets time pass on a simulated farm under a policy, and logs what happens.

Reports reach the policy at once, also of an image's first step; an order reaches its box
`latency_s` later, which so stands for both ways. A box draws what it was granted in that order. A
dead box is silent for `detect_s` before the policy hears of it, and grants of that time are lost
with the rest.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from bench.scheduling.farm import Box, Image, Job, Workload
from bench.scheduling.policy import Grant, Guesses, Order, Policy, Revoke, SeenBox

#: Turns of one run; a policy that needs more is asking to be woken for nothing.
TURNS_MAX = 1_000_000

What = Literal["arrived", "began", "finished", "dropped", "lost"]


class PolicyError(Exception):
    """The policy ordered what cannot be, or left work that nobody will ever do."""


class Entry(NamedTuple):
    """A line of the log."""

    at: float
    what: What
    #: "" when a petition arrives.
    box: str
    #: The first image when a petition arrives.
    image: Image
    #: Seconds of loading, of "began" and "finished".
    load_s: float = 0.0
    #: Seconds of drawing, of "finished".
    draw_s: float = 0.0


class _Drawing(NamedTuple):
    image: Image
    began_at: float
    load_s: float
    draw_s: float


class _Host:
    """A box while time passes."""

    def __init__(self, box: Box) -> None:
        self.box = box
        #: What it holds, the last used first.
        self.contexts = [] if box.loaded is None else [box.loaded]
        self.running: _Drawing | None = None
        self.queue: deque[Image] = deque()
        #: Granted, and not yet there.
        self.flying: list[Image] = []
        self.dead = False
        self.known_dead = False

    def held(self) -> list[Image]:
        """All that was granted and is not done, the running one first."""
        running = [self.running.image] if self.running else []
        return [*running, *self.queue, *self.flying]


def simulate(
    workload: Workload,
    policy: Policy,
    known: Guesses,
    *,
    jitter: float = 0.0,
    latency_s: float = 0.01,
    detect_s: float = 3.0,
) -> list[Entry]:
    """Run a workload until every picture is there; gives the log.

    Raises:
        PolicyError: see there.
    """
    run = _Run(workload, policy, jitter, latency_s, detect_s)
    run.go(known)
    return run.log


class _Run:
    def __init__(
        self, workload: Workload, policy: Policy, jitter: float, latency_s: float, detect_s: float
    ) -> None:
        self.workload = workload
        self.policy = policy
        self.jitter = jitter
        self.latency_s = latency_s
        self.detect_s = detect_s
        self.hosts = {box.name: _Host(box) for box in workload.boxes}
        self.log: list[Entry] = []
        self.now = 0.0
        self.arrived: set[Job] = set()
        self.done: set[Image] = set()
        self.undone = sum(job.images for job in workload.jobs)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def go(self, known: Guesses) -> None:
        """From the first petition to the last picture."""
        seen = [
            SeenBox(box.name, frozenset(box.load_s), box.pixels_max, box.loaded, box.keep)
            for box in self.workload.boxes
        ]
        self.policy.start(0.0, seen, known)
        for job in self.workload.jobs:
            self._at(job.arrives_at, self._arrive, job)
        for host in self.hosts.values():
            if host.box.dies_at is not None:
                self._at(host.box.dies_at, self._die, host)
        for _ in range(TURNS_MAX):
            if not self.undone and not self._awaited():
                return
            self._turn()
        raise PolicyError(f"{TURNS_MAX} turns, and {self.undone} images are not drawn")

    def _awaited(self) -> bool:
        """Whether pictures that nobody asked for hold up those that somebody did."""
        return self.policy.delivers_together and any(host.held() for host in self.hosts.values())

    def _at(self, at: float, do: Callable[..., None], *what: object) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, do, what))

    def _turn(self) -> None:
        at = self._heap[0][0] if self._heap else math.inf
        wake_at = self.policy.wake_at()
        if wake_at is not None and wake_at > self.now:
            at = min(at, wake_at)
        if at == math.inf:
            idle = [name for name, host in self.hosts.items() if not host.dead]
            raise PolicyError(f"{self.undone} images are left to idle boxes {idle} for ever")
        self.now = at
        while self._heap and self._heap[0][0] <= at:
            _, _, do, what = heapq.heappop(self._heap)
            do(*what)
        for order in self.policy.decide(at):
            self._obey(order)

    def _obey(self, order: Order) -> None:
        host = self.hosts[order.box]
        if isinstance(order, Grant):
            self._check(host, order.image)
            host.flying.append(order.image)
            self._at(self.now + self.latency_s, self._deliver, host, order.image)
        elif order.image not in host.held():
            raise PolicyError(f"{order.box} does not hold {order.image}: {order}")
        else:
            do = self._revoke if isinstance(order, Revoke) else self._abandon
            self._at(self.now + self.latency_s, do, host, order.image)

    def _check(self, host: _Host, image: Image) -> None:
        wrong = ""
        if host.known_dead:
            wrong = "the box is gone"
        elif image.job not in self.arrived:
            wrong = "the petition has not come"
        elif not host.box.can(image.job):
            wrong = "the box cannot draw it"
        elif image in self.done:
            wrong = "the picture is there"
        elif image in host.flying or image in host.queue:
            wrong = "the box has it"
        elif image.number >= image.job.images and not self.policy.delivers_together:
            wrong = "nobody asked for it"
        if wrong:
            raise PolicyError(f"{image} granted to {host.box.name}: {wrong}")

    def _note(
        self, what: What, host: _Host, image: Image, load_s: float = 0.0, draw_s: float = 0.0
    ) -> None:
        self.log.append(Entry(self.now, what, host.box.name, image, load_s, draw_s))

    def _arrive(self, job: Job) -> None:
        self.arrived.add(job)
        self.log.append(Entry(self.now, "arrived", "", Image(job, 0)))
        self.policy.arrived(self.now, job)

    def _deliver(self, host: _Host, image: Image) -> None:
        if host.dead:
            return
        host.flying.remove(image)
        host.queue.append(image)
        self._next(host)

    def _next(self, host: _Host) -> None:
        if host.running is not None or not host.queue:
            return
        image = host.queue.popleft()
        context = image.job.context
        load_s = 0.0 if context in host.contexts else host.box.load_s[context]
        others = [other for other in host.contexts if other != context]
        host.contexts = [context, *others][: host.box.keep]
        luck = self.workload.luck(image, host.box, self.jitter)
        draw_s = host.box.draw_s(image.job) * luck
        step_s = host.box.step_s[context] * image.job.squares * luck
        host.running = _Drawing(image, self.now, load_s, draw_s)
        for step in (0.0, step_s):
            self._at(self.now + load_s + step, self._step, host, host.running, step)
        self._at(self.now + load_s + draw_s, self._end, host, host.running)
        self._note("began", host, image, load_s)
        self.policy.began(self.now, host.box.name, image)

    def _free(self, host: _Host) -> None:
        host.running = None
        if self.policy.always_reloads:
            host.contexts = []

    def _step(self, host: _Host, drawing: _Drawing, step_s: float) -> None:
        if host.running is drawing and not host.dead:
            self.policy.stepped(self.now, host.box.name, drawing.image, step_s)

    def _end(self, host: _Host, drawing: _Drawing) -> None:
        if host.running is not drawing or host.dead:
            return
        self._free(host)
        image = drawing.image
        if image not in self.done:
            self.done.add(image)
            self.undone -= image.number < image.job.images
        self._note("finished", host, image, drawing.load_s, drawing.draw_s)
        self.policy.finished(self.now, host.box.name, image, drawing.load_s, drawing.draw_s)
        self._next(host)

    def _revoke(self, host: _Host, image: Image) -> None:
        if not host.dead and image in host.queue:
            host.queue.remove(image)
            self._note("dropped", host, image)
            self.policy.revoked(self.now, host.box.name, image)

    def _abandon(self, host: _Host, image: Image) -> None:
        drawing = host.running
        if drawing is None or drawing.image != image:
            self._revoke(host, image)
        else:
            loaded_at = drawing.began_at + drawing.load_s
            self._at(max(self.now, loaded_at), self._drop, host, drawing)

    def _drop(self, host: _Host, drawing: _Drawing) -> None:
        if host.running is drawing and not host.dead:
            self._free(host)
            self._note("dropped", host, drawing.image)
            self.policy.revoked(self.now, host.box.name, drawing.image)
            self._next(host)

    def _die(self, host: _Host) -> None:
        host.dead = True
        self._at(self.now + self.detect_s, self._gone, host)

    def _gone(self, host: _Host) -> None:
        host.known_dead = True
        lost = host.held()
        host.running = None
        host.queue.clear()
        host.flying.clear()
        for image in lost:
            self._note("lost", host, image)
        self.policy.gone(self.now, host.box.name, lost)
