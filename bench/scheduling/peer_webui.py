"""stable-diffusion-webui-distributed at 8fd65eb: a benchmark, a fixed layout, a barrier.

Requests are drawn one after another, each laid out over all boxes by images per minute. Its
benchmark is exact here. A box that takes longer than the fastest by `JOB_TIMEOUT_S` or more gets
less or nothing ("deferred"); unless `complement` is off it then draws images that nobody asked
for while the others are at it. What a dead box had is lost there; here the user asks again.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bench.scheduling.farm import STEPS, Image, Job
from bench.scheduling.peer_base import Peer
from bench.scheduling.policy import Grant, Order

JOB_TIMEOUT_S = 3.0
#: Errors of the estimate that are remembered per box. When they are that many, the oldest is
#: dropped and the new one is not kept, as in the original.
_ERRORS = 5
#: Percent; a larger error is taken for an accident.
_ERROR_MAX = 500

#: Seconds for so many images on a box.
Eta = Callable[[str, int], float]


class Share(NamedTuple):
    """What a box is to draw of a request."""

    asked: int
    #: On top of it.
    bonus: int


def layout(boxes: Sequence[str], batch: int, eta: Eta, *, complement: bool) -> dict[str, Share]:
    """Split `batch` images over boxes, in their order."""
    fastest = min(boxes, key=lambda box: eta(box, 1))

    def in_time(box: str, images: int) -> bool:
        late_s = 0.0 if box == fastest else eta(box, images) - eta(fastest, images)
        return late_s < JOB_TIMEOUT_S

    base = batch // len(boxes)
    realtime = [box for box in boxes if in_time(box, base)]
    shares = {box: base if box in realtime else 0 for box in boxes}
    deferred = base * (len(boxes) - len(realtime))
    while deferred:
        for box in boxes:
            if deferred and in_time(box, shares[box] + 1):
                shares[box] += 1
                deferred -= 1
    left = batch - sum(shares.values())
    while left:
        for box in sorted(realtime, key=shares.__getitem__)[:left]:
            shares[box] += 1
            left -= 1
    slack_s = eta(fastest, shares[fastest]) + JOB_TIMEOUT_S
    return {
        box: Share(
            images,
            int(slack_s // eta(box, 1))
            if complement and (box not in realtime or not images)
            else 0,
        )
        for box, images in shares.items()
    }


class Webui(Peer):
    """One request at a time over all boxes."""

    delivers_together = True

    def __init__(self, *, complement: bool) -> None:
        super().__init__()
        self.complement = complement
        self._errors: dict[str, list[float]] = {}
        #: Seconds that the share of each box was to take, and did so far.
        self._planned_s: dict[str, float] = {}
        self._drawn_s: dict[str, float] = {}
        self._bonus = 0

    def finished(self, now: float, box: str, image: Image, load_s: float, draw_s: float) -> None:
        """The last image of a share tells how wrong the estimate was."""
        super().finished(now, box, image, load_s, draw_s)
        self._drawn_s[box] += draw_s
        if self.holds[box]:
            return
        error = (self._planned_s[box] / self._drawn_s[box] - 1) * 100
        errors = self._errors.setdefault(box, [])
        if abs(error) >= _ERROR_MAX:
            return
        if len(errors) == _ERRORS:
            del errors[0]
        else:
            errors.append(error)

    def decide(self, now: float) -> Iterator[Order]:
        """Lay out the oldest request when all boxes have come to rest."""
        if not self.waiting or len(self.free()) < len(self.boxes):
            return
        job = next(iter(self.waiting)).job
        images = [image for image in self.waiting if image.job is job]
        boxes = [name for name, box in self.boxes.items() if box.can(job)]

        def eta(box: str, images: int) -> float:
            return self._eta(box, job, images)

        shares = layout(boxes, len(images), eta, complement=self.complement)
        for box, share in shares.items():
            self._planned_s[box] = eta(box, share.asked + share.bonus)
            self._drawn_s[box] = 0.0
            mine = [images.pop() for _ in range(share.asked)]
            for _ in range(share.bonus):
                self._bonus += 1
                mine.append(Image(job, job.images - 1 + self._bonus))
            for image in mine:
                self.take(box, image)
                yield Grant(box, image)

    def _eta(self, box: str, job: Job, images: int) -> float:
        """Linear in steps and in pixels, from the benchmark's 20 steps at 512 x 512."""
        benchmark_s = STEPS * self.known.step_s[box, job.context] + self.known.decode_s[box]
        eta_s = images * benchmark_s * job.steps / STEPS * job.squares
        errors = self._errors.get(box)
        return eta_s * (1 - sum(errors) / len(errors) / 100) if errors else eta_s
