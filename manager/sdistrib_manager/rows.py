"""What is kept of a manager's knowledge, and what it is rebuilt from."""

import msgspec

from sdistrib.errors import ErrorInfo
from sdistrib.petitions import ImageState, PetitionState, Relief
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import Result
from sdistrib_manager.scheduler.costs import Known


class PetitionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A petition as it was accepted."""

    id: str
    #: User that it belongs to.
    owner: str
    #: Order of arrival.
    number: int
    #: The client's own bytes.
    body: Buffer
    #: SHA-256 of `body`.
    digest: str
    #: Wall-clock second of acceptance, for display only.
    accepted_wall: float


class PetitionBodyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A petition's parameters were edited."""

    id: str
    body: Buffer


class PetitionStateRow(msgspec.Struct, frozen=True, kw_only=True):
    """How far a petition is."""

    id: str
    state: PetitionState
    #: Seconds left of its time limit while the manager runs; 0 when it has none.
    left_s: float = 0.0
    #: Uptime counter when it ended; 0 while it has not.
    ended_uptime_s: float = 0.0


class IssuedRow(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that was issued."""

    number: int
    instance: str
    worker: str
    live: bool
    relief: Relief = ""


class ImageRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image that was granted at least once; a fresh one has no row."""

    id: str
    index: int
    state: ImageState
    issued: tuple[IssuedRow, ...] = ()
    failures: tuple[ErrorInfo, ...] = ()
    losses: int = 0
    result: Result | None = None
    #: The client has acknowledged the picture.
    seen: bool = False
    #: The picture is in the blob store.
    kept: bool = False


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a petition that was forgotten: enough to answer a resend."""

    id: str
    owner: str
    #: SHA-256 of the body; empty when the petition was cancelled before it came.
    digest: str
    state: PetitionState
    #: Uptime counter when it was made.
    uptime_s: float


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that was here, so that petitions can wait for what it has."""

    name: str
    #: Its encoded inventory.
    inventory: bytes
    #: Wall-clock second when it was last heard, for display, and uptime counter, for forgetting.
    seen_wall: float
    seen_uptime_s: float


class Forget(msgspec.Struct, frozen=True):
    """Forget a petition and its images."""

    id: str


class ForgetTombstone(msgspec.Struct, frozen=True):
    """Forget that a petition ever was."""

    id: str


class ForgetWorker(msgspec.Struct, frozen=True):
    """Forget a worker."""

    name: str


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """What work of one context cost one worker: the newest samples in seconds, oldest first."""

    worker: str
    context: str
    load_s: tuple[float, ...] = ()
    #: Seconds per step, and beside the steps, by pixels.
    step_s: tuple[tuple[int, tuple[float, ...]], ...] = ()
    rest_s: tuple[tuple[int, tuple[float, ...]], ...] = ()

    @classmethod
    def of(cls, known: Known) -> "CostRow":
        """What the scheduler knows, to be kept."""
        return cls(
            worker=known.box,
            context=str(known.context),
            load_s=known.load_s,
            step_s=known.step_s,
            rest_s=known.rest_s,
        )

    def known(self) -> Known:
        """What was kept, for the scheduler."""
        return Known(self.worker, self.context, self.load_s, self.step_s, self.rest_s)


class ForgetCost(msgspec.Struct, frozen=True):
    """Forget what work of this context cost this worker."""

    worker: str
    context: str


class CeilingRow(msgspec.Struct, frozen=True, array_like=True):
    """A size at which a worker ran out of memory."""

    context: str
    #: Decoded in tiles.
    tiled: bool
    pixels: int


class CeilingsRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker ran out of memory with, the newest last; none: forget it."""

    worker: str
    #: Digest of what it was then; with another engine or other limits it may do better.
    settings: str = ""
    ceilings: tuple[CeilingRow, ...] = ()


class PinRow(msgspec.Struct, frozen=True, kw_only=True):
    """From which files, and on which engines, a petition began to be drawn."""

    id: str
    #: Digest, empty where it was not known, and size of each file it names.
    contents: tuple[tuple[str, int], ...] = ()
    #: Of the engines that may draw it; empty: any.
    fingerprint: str = ""
    #: Of the engine that its first image was granted to; empty: it was not kept.
    first: str = ""


class InputRow(msgspec.Struct, frozen=True):
    """A petition names this input file."""

    id: str
    #: SHA-256 in hex.
    digest: str
    size_bytes: int


class ForgetInput(msgspec.Struct, frozen=True):
    """A petition names this input file no more."""

    id: str
    digest: str


class Clock(msgspec.Struct, frozen=True):
    """The uptime counter: seconds that managers of this state folder have run, all together."""

    uptime_s: float


Row = (
    PetitionRow
    | PetitionBodyRow
    | PetitionStateRow
    | ImageRow
    | Tombstone
    | WorkerRow
    | Forget
    | ForgetTombstone
    | ForgetWorker
    | CostRow
    | ForgetCost
    | CeilingsRow
    | PinRow
    | InputRow
    | ForgetInput
    | Clock
)


def with_body(row: PetitionRow, body: Buffer) -> PetitionRow:
    """The same petition with other parameters."""
    return msgspec.structs.replace(row, body=body)


class Snapshot(msgspec.Struct, kw_only=True):
    """Everything that is kept."""

    petitions: list[PetitionRow] = []
    states: list[PetitionStateRow] = []
    images: list[ImageRow] = []
    tombstones: list[Tombstone] = []
    workers: list[WorkerRow] = []
    costs: list[CostRow] = []
    ceilings: list[CeilingsRow] = []
    pins: list[PinRow] = []
    #: In the order of petitions and digests.
    inputs: list[InputRow] = []
    uptime_s: float = 0.0
