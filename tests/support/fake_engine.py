"""The engine child's own loop around an engine that only pretends: `python -m … FD [HABIT]`."""

import ctypes
import socket
import sys
import threading

from sdistrib.protocol.engine import Draw
from sdistrib.protocol.messages import EngineFacts
from sdistrib_worker.engine.__main__ import _guard
from sdistrib_worker.engine.base import Painting, RefusalError
from sdistrib_worker.engine.child import Inbox, Link, serve
from sdistrib_worker.engine.contexts import Contexts


class FakeEngine:
    """Paints one colour, the seed; a prompt that is one of its habits makes it misbehave.

    "segv@7" does so at the image of seed 7 only.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._contexts = Contexts[str](lambda _: None, link.holds)
        self._end = threading.Event()

    def cancel(self, wanted: bool) -> None:
        (self._end.set if wanted else self._end.clear)()

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(version="0", backend="cpu", device="none", fingerprint="0" * 16)

    def draw(self, request: Draw) -> list[Painting]:
        load_s = 0.0
        if self._contexts.use(request.context) is None:
            size_bytes, keep = request.load_bytes, request.keep
            self._contexts.make_room(request.context, size_bytes, keep, request.keep_bytes)
            self._link.at("loading")
            self._contexts.add(request.context, size_bytes, request.context)
            load_s = 0.5
        self._link.at("encoding")
        for image in range(request.count):
            self._sample(request, image)
        paintings = []
        width, height = request.params.width, request.params.height
        for image in range(request.count):
            self._link.at("decoding", image=image)
            pixels = bytes([(request.seed + image) % 256]) * (width * height * 3)
            times = (0.0 if image else load_s, 0.1, 0.05)
            painting = Painting(pixels, width, height, 3, *times, "euler", "discrete", ("a note",))
            paintings.append(painting)
        return paintings

    def _sample(self, request: Draw, image: int) -> None:
        steps = request.params.steps
        habit, _, only = request.params.prompt.partition("@")
        for step in range(steps + 1):
            self._link.at("sampling", step, steps, image=image)
            self._peek(request, step)
            match habit if not only or int(only) == request.seed + image else "":
                case "segv" if step == 1:
                    ctypes.string_at(0)
                case "sleep" if step == 1:
                    if self._end.wait(600):
                        raise RefusalError("cancelled", "nobody wants it")
                case "refuse":
                    raise RefusalError("engine_error", "not this one")

    def _peek(self, request: Draw, step: int) -> None:
        wish = request.preview
        if wish is not None and step and step % wish.interval == 0 and self._link.takes_preview:
            width, height = request.params.width, request.params.height
            if wish.mode == "proj":
                width, height = width // 8, height // 8
            pixels = bytes([step % 256]) * (width * height * 3)
            self._link.preview(step, width, height, 3, pixels, noisy=wish.noisy)

    def unload(self) -> None:
        self._contexts.free_all()


def main() -> None:
    _guard()
    sock = socket.socket(fileno=int(sys.argv[1]))
    link = Link(sock)
    serve(link, Inbox(sock, link), FakeEngine(link))


if __name__ == "__main__":
    main()
