"""What peers' policies have in common: a queue of images, and which boxes have something to do."""

from collections.abc import Iterable, Sequence

from bench.scheduling.farm import Image, Job
from bench.scheduling.policy import Guesses, Order, SeenBox


class Peer:
    """Keeps `waiting` images in order of arrival and what each living box `holds`."""

    always_reloads = False
    delivers_together = False

    def __init__(self) -> None:
        self.boxes: dict[str, SeenBox] = {}
        self.known = Guesses({}, {}, {})
        #: Images that no box has, in the order in which they are to go; lost ones come first.
        self.waiting: dict[Image, None] = {}
        #: What each box was granted and has not finished.
        self.holds: dict[str, list[Image]] = {}
        #: The context that each box has, or will have after what it holds.
        self.context: dict[str, str | None] = {}

    def start(self, now: float, boxes: Sequence[SeenBox], known: Guesses) -> None:
        """See `Policy.start`."""
        self.boxes = {box.name: box for box in boxes}
        self.known = known
        self.holds = {box.name: [] for box in boxes}
        self.context = {box.name: box.loaded for box in boxes}

    def arrived(self, now: float, job: Job) -> None:
        """All images of it wait."""
        self.waiting.update(dict.fromkeys(Image(job, index) for index in range(job.images)))

    def began(self, now: float, box: str, image: Image) -> None:
        """Nothing: what was granted counts as held."""

    def stepped(self, now: float, box: str, image: Image, step_s: float) -> None:
        """None of the peers looks at it."""

    def finished(self, now: float, box: str, image: Image, load_s: float, draw_s: float) -> None:
        """The box holds one less."""
        self.holds[box].remove(image)

    def gone(self, now: float, box: str, lost: Sequence[Image]) -> None:
        """What it held waits again, before all others."""
        del self.boxes[box], self.holds[box], self.context[box]
        asked = [image for image in lost if image.number < image.job.images]
        self.waiting = dict.fromkeys([*asked, *self.waiting])

    def revoked(self, now: float, box: str, image: Image) -> None:
        """Back to the front."""
        self.holds[box].remove(image)
        self.waiting = dict.fromkeys([image, *self.waiting])

    def decide(self, now: float) -> Iterable[Order]:
        """What the policy is."""
        raise NotImplementedError

    def wake_at(self) -> float | None:
        """Nothing depends on the clock alone."""
        return None

    def take(self, box: str, image: Image) -> None:
        """Note that a box is granted this image."""
        self.waiting.pop(image, None)
        self.holds[box].append(image)
        self.context[box] = image.job.context

    def free(self) -> list[str]:
        """Boxes that hold nothing, in order of joining."""
        return [name for name, images in self.holds.items() if not images]
