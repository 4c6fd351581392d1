"""Pixels on the supervisor's side: a `Drawn` or `Previewed` frame and its shared memory."""

import math
import os

from sdistrib import limits
from sdistrib.errors import EngineError, ErrorInfo, ProtocolError
from sdistrib.protocol.engine import Drawn, Previewed


class SharedPixels:
    """The pixels of a frame; hold them as long as you like, the child may be gone.

    Args:
        frame: tells their size.
        descriptor: the file that came with it; this object closes it, whatever happens.

    Raises:
        ProtocolError: the file has not the size that the frame tells.
    """

    def __init__(self, frame: Drawn | Previewed, descriptor: int) -> None:
        frames = frame.frames if isinstance(frame, Drawn) else 1
        shape = (frame.width, frame.height, frame.channels, frames)
        self._size = math.prod(shape)
        found = os.fstat(descriptor).st_size
        sound = min(shape) > 0 and found == self._size
        if not sound or found > limits.PIXEL_BYTES_MAX:
            os.close(descriptor)
            raise ProtocolError(
                f"the engine's stream is garbled: a picture of {frame.width}x{frame.height}x"
                f"{frame.channels}x{frames} with {found} bytes"
            )
        self._file = os.fdopen(descriptor, "rb", buffering=0)

    def pixels(self) -> bytes:
        """All `frames * height * width * channels` bytes, row by row from the top; only once.

        They are copied out and not mapped: a file that shrinks under a mapping kills by SIGBUS.

        Raises:
            EngineError: the file shrank since it was sent.
        """
        parts = []
        missing = self._size
        with self._file as file:
            file.seek(0)
            while missing and (part := file.read(missing)):
                parts.append(part)
                missing -= len(part)
        if missing:
            message = f"{missing} bytes of the picture's shared memory are gone."
            raise EngineError(ErrorInfo(code="engine_crashed", message=message))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give the memory back unread."""
        self._file.close()


class Picture(SharedPixels):
    """A finished picture."""

    def __init__(self, drawn: Drawn, descriptor: int) -> None:
        super().__init__(drawn, descriptor)
        #: The frame, with size, times and notes.
        self.drawn = drawn


class Glimpse(SharedPixels):
    """A preview of a picture under way."""

    def __init__(self, previewed: Previewed, descriptor: int) -> None:
        super().__init__(previewed, descriptor)
        #: The frame, with size and step.
        self.previewed = previewed
