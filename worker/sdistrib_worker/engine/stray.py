"""What a child writes to its stdout and stderr, cut into lines, whatever it writes."""

import os

from sdistrib import limits

_READ_BYTES = 64 * limits.KIB
#: Read per turn, so that a flooding child cannot hold the worker's loop.
_TURN_BYTES = 1 * limits.MIB
#: Lines handed out per turn; what is more is read, so that the child goes on, and dropped.
LINES_PER_TURN = 200


class StrayOutput:
    """The reading end of the pipe that a child's stdout and stderr go to; owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._partial = b""

    def fileno(self) -> int:
        """The descriptor to poll, -1 once the pipe is at its end."""
        return self._descriptor

    def read(self) -> list[str]:
        """Whole lines that have come, at most `LINES_PER_TURN`, the newest; never blocks."""
        lines: list[str] = []
        dropped = 0
        for _ in range(_TURN_BYTES // _READ_BYTES):
            if self._descriptor < 0:
                break
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.close()
                lines += self.rest()
                break
            *whole, partial = (self._partial + data).split(b"\n")
            # A line without an end is cut, not gathered: memory stays bounded.
            self._partial = partial[: limits.TEXT_CHARS_MAX]
            lines += [_text(line) for line in whole if line.strip()]
            dropped += max(0, len(lines) - LINES_PER_TURN)
            del lines[:-LINES_PER_TURN]
        if dropped:
            lines.insert(0, f"({dropped} lines of the engine's output are left out)")
        return lines

    def rest(self) -> list[str]:
        """The last line when it has no end."""
        partial, self._partial = self._partial, b""
        return [_text(partial)] if partial.strip() else []

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _text(line: bytes) -> str:
    return line[: limits.TEXT_CHARS_MAX].decode("utf-8", "replace").rstrip("\r")
