"""What an engine is to the child that holds it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from sdistrib.errors import ErrorCode, SdistribError
from sdistrib.protocol.engine import Draw
from sdistrib.protocol.messages import EngineFacts, Phase


class Painting(NamedTuple):
    """A finished picture inside the child."""

    #: `frames * height * width * channels` bytes, row by row from the top, no padding.
    pixels: bytes
    width: int
    height: int
    channels: int
    #: Seconds spent loading; 0.0 when the context was there.
    load_s: float
    #: Seconds from the prompt to the last pixel, upscaling included; in a call of several a share.
    draw_s: float
    #: All sampling steps together, those of highres fix too.
    sampling_s: float
    #: Sampler and scheduler that were really used.
    sampling_method: str
    scheduler: str
    #: What the user should know about this picture.
    notes: tuple[str, ...]
    #: More than one in a video.
    frames: int = 1


class Reporter(Protocol):
    """Where an engine says what it is doing; safe to call from any of its threads."""

    def at(
        self, phase: Phase, step: int = 0, steps: int = 0, step_s: float = 0.0, image: int = 0
    ) -> None:
        """The request under way has come this far, with this of its images (from 0)."""

    @property
    def takes_preview(self) -> bool:
        """The supervisor has taken the last preview; one given now leaves at once."""

    def when_room(self, then: Callable[[], None]) -> None:
        """Call this, from any thread, whenever `takes_preview` becomes true."""

    def preview(
        self, step: int, width: int, height: int, channels: int, pixels: bytes, *, noisy: bool
    ) -> None:
        """What the picture looks like at a step; its pixels as in `Painting`."""

    def holds(self, contexts: tuple[str, ...]) -> None:
        """What is loaded now: `Draw.context` of each, the last used first."""

    def log(self, level: int, text: str) -> None:
        """One line of the engine's log: level 0 debug, 1 info, 2 warning, 3 error."""


class Engine(Protocol):
    """Draws one request at a time and keeps contexts between them, as many as a request allows."""

    @property
    def facts(self) -> EngineFacts:
        """What this engine is and which device it has."""

    def draw(self, request: Draw) -> list[Painting]:
        """Draw the images of a request, after loading their context if that is not loaded.

        Gives as many as it has, in the order of their seeds; the seconds of a load stand with the
        first.

        Raises:
            RefusalError: no picture came of it; the engine can be used on.
        """

    @property
    def cancel(self) -> Callable[[bool], None] | None:
        """None where this version of the engine cannot end a picture early.

        Called from any thread. With True the request under way, or the one about to begin, ends
        soon as a refusal of code `cancelled`; False, said before each request, takes that back.
        """

    def unload(self) -> None:
        """Free everything that is loaded; nothing when nothing is."""


class RefusalError(SdistribError):
    """The engine says no to a request, in good order."""

    def __init__(self, code: ErrorCode, message: str, *, loading: bool = False) -> None:
        super().__init__(message)
        #: Stable code.
        self.code: ErrorCode = code
        #: It failed while loading the context.
        self.loading = loading


class DeviceError(SdistribError):
    """The device that was asked for is not there; the message says what there is instead."""
