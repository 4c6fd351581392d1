"""A finished picture, as the caller gets it, and previews of one under way."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sdistrib import limits
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Attempt, Result
from sdistrib_client.images import write_atomically
from sdistrib_client.reading import open_picture, texts

if TYPE_CHECKING:
    from PIL.Image import Image


class Timings(NamedTuple):
    """Wall time of one picture on its worker, in seconds."""

    #: Loading models; 0 when they were loaded already.
    load_s: float
    #: From prompt to pixels.
    draw_s: float
    #: Writing the file format.
    encode_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """One picture: the bytes of a file, verified against their digest, and their origin."""

    #: Index within its petition, from 0.
    index: int
    #: Its own seed: that of the petition plus the index.
    seed: int
    #: The file's bytes.
    data: bytes = dataclasses.field(repr=False)
    #: Size in pixels.
    width: int
    height: int
    #: Media format of `data`: "png", "jpeg" or "webp".
    format: str
    #: SHA-256 of `data`, in hex.
    sha256: str
    #: Name of the worker that drew it.
    worker: str
    #: What decides the bits: equal fingerprints and seeds give equal pixels.
    fingerprint: str
    timings: Timings
    #: What the engine did differently from what was asked, for example a size rounded up.
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: Result, parts: tuple[Buffer, ...]) -> "Picture":
        """Build from the manager's announcement and the bytes."""
        return cls(
            index=result.attempt.index,
            seed=result.seed,
            data=b"".join(parts),
            width=result.width,
            height=result.height,
            format=result.format,
            sha256=result.digest,
            worker=result.worker,
            fingerprint=result.fingerprint,
            timings=Timings(result.load_s, result.draw_s, result.encode_s),
            notes=result.notes,
        )

    def image(self) -> "Image":
        """The picture as Pillow has it, 8 bits per channel, fully decoded.

        Raises:
            ConfigError: Pillow is not installed.
        """
        picture = open_picture(self.data)
        picture.load()
        return picture

    @property
    def metadata(self) -> dict[str, str]:
        """The file's texts; A1111's generation data is under "parameters", ours "sdistrib".

        Raises:
            ConfigError: Pillow is not installed.
        """
        return texts(open_picture(self.data))

    def save(self, path: str | Path) -> None:
        """Write the file; it is there whole or not at all. Missing folders are made.

        Raises:
            OutputError: it cannot be written.
        """
        write_atomically(Path(path), self.data)


@dataclasses.dataclass(frozen=True, slots=True)
class Preview:
    """What one picture looks like while it is drawn: the bytes of a small PNG or JPEG file."""

    #: Index of the picture within its petition, from 0.
    index: int
    #: The sampling step that it shows, and how many there are.
    step: int
    steps: int
    #: The file's bytes.
    data: bytes = dataclasses.field(repr=False)
    #: Size of the preview in pixels; at most `limits.PREVIEW_SIDE_MAX` a side.
    width: int
    height: int
    #: Media format of `data`: "png" or "jpeg".
    format: str
    #: Name of the worker that draws the picture.
    worker: str
    #: It shows what the model was given, and not what it made of that.
    noisy: bool
    #: What the manager is told when this one is done with.
    attempt: Attempt = dataclasses.field(repr=False)

    @classmethod
    def of(cls, message: wire.Preview, data: bytes) -> "Preview":
        """Build from what the manager says and the bytes."""
        return cls(
            index=message.attempt.index,
            step=message.step,
            steps=message.steps,
            data=data,
            width=message.width,
            height=message.height,
            format=message.format,
            worker=message.worker,
            noisy=message.noisy,
            attempt=message.attempt,
        )

    def image(self) -> "Image":
        """The preview as Pillow has it, fully decoded.

        Raises:
            ConfigError: Pillow is not installed.
            OSError: the bytes are no such picture.
        """
        image = open_picture(self.data)
        # A header costs nothing, the pixels that it promises might.
        if max(image.size) > limits.PREVIEW_SIDE_MAX:
            raise OSError(f"a preview of {image.width}x{image.height} pixels")
        image.load()
        return image
