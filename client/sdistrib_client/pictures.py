"""A finished picture, as the caller gets it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Result
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
