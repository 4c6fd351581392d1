"""Where videos go: one file, or one file a frame."""

import io
from pathlib import Path

from sdistrib_client import video
from sdistrib_client.errors import OutputError
from sdistrib_client.images import EXTENSIONS, Outputs, write_atomically

#: What Pillow calls the formats of frames, and how it writes them.
_FRAMES = {"png": ("PNG", {}), "jpeg": ("JPEG", {"quality": 90})}


class FilmOutputs(Outputs):
    """The files of one petition's videos.

    An extension of `video.EXTENSIONS` makes one file of a video, one of a picture as many as it has
    frames: `stem_000.png`, or as a `%03d` says. With neither the video becomes a .webp.
    """

    def __init__(self, output: str, images: int, begin_index: int, fps: int) -> None:
        """Decide all names. Raises as `Outputs` does, and when PyAV is missing."""
        suffix = Path(output).suffix.lower()
        self._fps = fps
        self._film = "" if output == "-" else suffix if suffix in video.EXTENSIONS else ""
        self._frames = "" if self._film else EXTENSIONS.get(suffix, "")
        video.check(self._film)
        if self._film and self._film != ".webp":
            # To the names a video is a file without an extension of theirs.
            super().__init__(output[: -len(suffix)] + ".webp", images, begin_index, "webp")
            self._suffix = output[-len(suffix) :]
        elif self._frames:
            super().__init__(output, images, begin_index, self._frames)  # type: ignore[arg-type]
            if self._numbered and images > 1:
                text = f"-o {output} numbers the frames of one video; draw one at a time."
                raise OutputError(text)
        else:
            super().__init__(output, images, begin_index, "webp")

    def write(self, index: int, data: bytes, format_: str = "") -> Path | None:
        """Write one video; returns its file, or that of its first frame.

        Raises:
            OutputError: it could not be made or written.
        """
        if not self._frames:
            return super().write(index, video.convert(data, self._film, self._fps), "")
        first: Path | None = None
        kind, options = _FRAMES[self._frames]
        for number, frame in enumerate(video.frames(data, self._fps)):
            file = io.BytesIO()
            frame.save(file, kind, **options)
            path = self._frame_path(index, number)
            write_atomically(path, file.getvalue())
            first = first or path
        return first

    def _frame_path(self, index: int, number: int) -> Path:
        """File of one frame; the names of pictures know frames as if each were a picture."""
        if self._numbered:
            return super().path(number) or Path()
        tail = f"_{self._begin_index + index}" if self.images > 1 else ""
        return Path(f"{self._base}{tail}_{number:03d}{self._suffix}")

    def path(self, index: int, format_: str = "") -> Path | None:
        """File of a video, or of its first frame."""
        if self._frames and not self.to_stdout:
            return self._frame_path(index, 0)
        return super().path(index, "")
