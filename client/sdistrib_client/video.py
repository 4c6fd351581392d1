"""Videos as they come, animated lossless WebP, made into what a user wants to have.

`.webp` is written as it came. `.avi` (Motion JPEG) and `.webm` (VP9) are made with PyAV, FFmpeg's
libraries, which `pip install 'sdistrib[video]'` brings; any picture format means one file a frame.
"""

import importlib
import importlib.util
import io
import itertools
from collections.abc import Iterator
from typing import Any

from PIL import Image, UnidentifiedImageError

from sdistrib import limits
from sdistrib_client.errors import OutputError

#: Extension, and what FFmpeg calls the container, the codec and its pixels. Motion JPEG at the
#: quality that sd-cli has (90); VP9 nearly without loss.
_CONTAINERS = {
    ".avi": ("avi", "mjpeg", "yuvj444p", {"q:v": "3"}),
    ".webm": ("webm", "libvpx-vp9", "yuv444p", {"crf": "15", "b:v": "0"}),
}
#: Extensions that make one file of all frames.
EXTENSIONS = (".webp", *_CONTAINERS)


def check(suffix: str) -> None:
    """Find out before anything is drawn whether such a file can be made here.

    Raises:
        OutputError: PyAV is missing.
    """
    if suffix in _CONTAINERS and importlib.util.find_spec("av") is None:
        raise OutputError(
            f"{suffix} needs PyAV: pip install 'sdistrib[video]', or write a .webp, or frames"
            " with -o 'frame_%03d.png'."
        )


def convert(data: bytes, suffix: str, fps: int) -> bytes:
    """The video as a file with this extension, one of `EXTENSIONS`.

    Raises:
        OutputError: PyAV is missing or cannot do it, or the bytes are no video.
    """
    if suffix not in _CONTAINERS:
        return data
    check(suffix)
    # An extra; everything else works without it.
    av: Any = importlib.import_module("av")
    container, codec, pixels, options = _CONTAINERS[suffix]
    pictures = frames(data, fps)
    first = next(pictures)
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=container) as out:
            stream = out.add_stream(codec, rate=fps, options=options)
            stream.width, stream.height = first.size
            stream.pix_fmt = pixels
            for picture in itertools.chain([first], pictures):
                out.mux(stream.encode(av.VideoFrame.from_image(picture)))
            out.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise OutputError(f"The video cannot be made into {suffix}: {error}.") from None
    return file.getvalue()


def frames(data: bytes, fps: int) -> Iterator[Image.Image]:
    """All frames, RGB, in order, at least one.

    WebP joins equal neighbours into a longer one; here they are apart again. Of a video that does
    not move at all nothing but its one picture is left.

    Raises:
        OutputError: the bytes are no video.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as film:
            shown_ms, given = 0.0, 0
            for number in range(min(getattr(film, "n_frames", 1), limits.VIDEO_FRAMES_MAX)):
                film.seek(number)
                film.load()
                shown_ms += film.info.get("duration", 0) or 1000 / fps
                picture = film.convert("RGB")
                most = min(max(given + 1, round(shown_ms * fps / 1000)), limits.VIDEO_FRAMES_MAX)
                while given < most:
                    given += 1
                    yield picture
    except (UnidentifiedImageError, OSError, EOFError, ValueError) as error:
        raise OutputError(f"What came is no video that can be read: {error}.") from None
