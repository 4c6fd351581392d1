"""What a worker's supervisor and its engine child say to each other.

Over a Unix stream socketpair: each frame is one MessagePack array `[name, map]`, cut from the
stream by `msgpack.Unpacker` under `limits.ENGINE_FRAME_BYTES_MAX` and then decoded typed. Pixels do
not travel in frames: the child writes them into an anonymous shared-memory file, and the `Drawn`
frame carries its descriptor (SCM_RIGHTS). Once sent, they outlive the child.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgpack
import msgspec
from msgspec import Meta

from sdistrib import limits
from sdistrib.errors import ErrorCode, ProtocolError
from sdistrib.params import Params
from sdistrib.protocol.messages import EngineFacts, Phase


class EngineFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all frames."""


# --- Supervisor to child --------------------------------------------------------------------


class LoraFile(msgspec.Struct, frozen=True):
    """A LoRA with its place on this machine."""

    path: str
    weight: float
    high_noise: bool = False


class EmbeddingFile(msgspec.Struct, frozen=True):
    """An embedding with its place on this machine."""

    #: As the prompts name it.
    name: str
    path: str


class PreviewWish(msgspec.Struct, frozen=True):
    """What is to be shown of an image while it is drawn; see `Petition`."""

    mode: Literal["proj", "tae", "vae"]
    interval: Annotated[int, Meta(ge=1)] = 1
    noisy: bool = False


class Draw(EngineFrame, frozen=True, kw_only=True):
    """Draw an image, or several in one call, after loading their context if another is loaded."""

    #: Number of this request, and of its first image; the other images have the numbers behind it.
    #: Every reply carries that of the image that it is about.
    ticket: int
    #: Images that are drawn together, each with the seed behind the one before. More than one only
    #: of plain pictures: no input files, no highres fix, no upscaler, no previews.
    count: Annotated[int, Meta(ge=1, le=limits.CALL_IMAGES_MAX)] = 1
    #: Context key: equal keys need no reload.
    context: str
    params: Params
    #: The first image's own.
    seed: int
    #: Absolute path for each field of `params` that names a model file (and "hires_upscaler").
    files: dict[str, str]
    loras: tuple[LoraFile, ...] = ()
    #: One for each name that stands in a prompt. They are part of the context.
    embeddings: tuple[EmbeddingFile, ...] = ()
    #: Absolute path of each input file, by its digest. Only the child ever decodes one.
    inputs: dict[str, str] = {}
    #: CPU threads that the worker's policy gives; the petition's own wish is in `params`.
    threads: int = 0
    #: None wants no previews.
    preview: PreviewWish | None = None
    #: Pixels that the worker's owner allows; 0 is no limit. An input file's are known only to
    #: the child.
    max_pixels: int = 0
    #: Size of all files that a load reads.
    load_bytes: int = 0
    #: How many contexts may stay loaded, this one included, and for how many bytes of files in
    #: all; 0 is no bound.
    keep: int = 1
    keep_bytes: int = 0


class Unload(EngineFrame, frozen=True, kw_only=True):
    """Free everything that is loaded."""


class PreviewWanted(EngineFrame, frozen=True, kw_only=True):
    """The last preview is done with: the child may send another. One is allowed from the start."""


class Interrupt(EngineFrame, frozen=True, kw_only=True):
    """End a request early, for a child whose `Ready` says that it can; answered by `Declined`."""

    #: The request, with all its images; one that is over is left alone.
    ticket: int


# --- Child to supervisor --------------------------------------------------------------------


class Ready(EngineFrame, frozen=True, kw_only=True):
    """The child has found its device and takes requests."""

    facts: EngineFacts
    #: It understands `Interrupt`.
    cancels: bool = False


class Began(EngineFrame, frozen=True, kw_only=True):
    """The child has taken up this request, or in its call come to another image of it."""

    ticket: int


class At(EngineFrame, frozen=True, kw_only=True):
    """Where the request is. Sent on each change of phase or image and at each step."""

    #: The image that the engine is at.
    ticket: int
    phase: Phase
    step: int = 0
    steps: int = 0
    #: Seconds that the last step took.
    step_s: float = 0.0


class Holds(EngineFrame, frozen=True, kw_only=True):
    """What is loaded now; sent after each change."""

    #: `Draw.context` of each, the last used first.
    contexts: tuple[str, ...] = ()


class Drawn(EngineFrame, frozen=True, kw_only=True):
    """The picture is finished; its pixels are in the file that comes with this frame.

    Those of a call of several come when it ends, in order. The file holds
    `frames * width * height * channels` bytes, frame by frame, row by row from the top, no padding.
    """

    ticket: int
    width: int
    height: int
    channels: int
    #: More than one in a video.
    frames: int = 1
    load_s: float
    #: In a call of several, its own part and an even one of what was done for all.
    draw_s: float
    #: All sampling steps together, by the child's clock; no more than `draw_s`.
    sampling_s: float = 0.0
    #: Sampler and scheduler that the engine really used.
    sampling_method: str = ""
    scheduler: str = ""
    notes: tuple[str, ...] = ()


class Previewed(EngineFrame, frozen=True, kw_only=True):
    """What the picture looks like now; its pixels are in the file that comes with this frame.

    They lie as those of `Drawn`. No other follows before `PreviewWanted`.
    """

    ticket: int
    #: The sampling step that it shows.
    step: int
    width: int
    height: int
    channels: int
    #: It shows what the model was given.
    noisy: bool = False


class Declined(EngineFrame, frozen=True, kw_only=True):
    """The request ended without a picture, of any of its images, and the child goes on."""

    #: The image that the engine was at.
    ticket: int
    code: ErrorCode
    message: str
    #: True when it failed while loading the context.
    loading: bool = False


class LogLine(EngineFrame, frozen=True, kw_only=True):
    """One line of the engine's log: level 0 debug, 1 info, 2 warning, 3 error."""

    level: int
    text: str


TO_CHILD: tuple[type[EngineFrame], ...] = (Draw, Unload, Interrupt, PreviewWanted)
FROM_CHILD: tuple[type[EngineFrame], ...] = (
    Ready, Began, At, Holds, Previewed, Drawn, Declined, LogLine,
)  # fmt: skip

_ENCODER = msgspec.msgpack.Encoder()


def encode_frame(frame: EngineFrame) -> bytes:
    """The bytes of one frame."""
    return _ENCODER.encode([type(frame).__name__, frame])


#: What one read of the stream brings.
_BUFFER_BYTES = 64 * limits.KIB


class FrameReader:
    """Cuts a byte stream into typed frames."""

    def __init__(self, kinds: tuple[type[EngineFrame], ...]) -> None:
        self._kinds = {kind.__name__: kind for kind in kinds}
        self._fed = self._framed = 0
        most = limits.ENGINE_FRAME_BYTES_MAX
        self._unpacker = msgpack.Unpacker(
            # Its buffer at first, used from end to end before it begins anew. The default of 1 MiB
            # becomes resident page by page, and looks like a leak for the first few hundred images.
            read_size=_BUFFER_BYTES,
            max_buffer_size=2 * most,
            max_str_len=most,
            max_bin_len=most,
            max_array_len=65536,
            max_map_len=1024,
            max_ext_len=0,
        )

    def feed(self, data: bytes) -> Iterator[EngineFrame]:
        """All frames that `data` completes; those before a garbled one are good.

        Raises:
            ProtocolError: the bytes are no frames; the stream cannot be trusted any more.
        """
        try:
            self._unpacker.feed(data)
            for value in self._unpacker:
                frame = self._typed(value)
                self._framed = self._unpacker.tell()
                yield frame
        except ProtocolError:
            raise
        except (ValueError, RecursionError, msgpack.UnpackException) as error:
            raise ProtocolError(f"the engine's stream is garbled: {error}") from None
        # The unpacker takes long lists apart as they come, and its buffer stays small all the time.
        self._fed += len(data)
        if self._fed - self._framed > 2 * limits.ENGINE_FRAME_BYTES_MAX:
            raise ProtocolError("the engine's stream is garbled: a frame has no end")

    def _typed(self, value: Any) -> EngineFrame:
        known = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        if not known or value[0] not in self._kinds:
            raise ProtocolError(f"the engine's stream is garbled: {str(value)[:80]!r}")
        try:
            return msgspec.convert(value[1], self._kinds[value[0]])
        except msgspec.ValidationError as error:
            raise ProtocolError(f"the engine's {value[0]} frame is garbled: {error}") from None
