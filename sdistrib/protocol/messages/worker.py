"""What is said between workers and the manager."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.petitions import Relief
from sdistrib.protocol.messages.shared import (
    BOTH,
    Attempt,
    Count,
    Declared,
    Digest,
    EngineFacts,
    Identify,
    Message,
    Name,
    Phase,
    Preview,
    PreviewSeen,
    Result,
    Seconds,
    Size,
    StandingState,
    Text,
    Welcome,
    WorkerWish,
)

# --- Worker to manager ----------------------------------------------------------------------


class WorkerHello(Message, frozen=True, kw_only=True):
    """First message of a worker's connection, and again after each reconnect. Body: inventory."""

    BODY = "inventory"
    protocols: tuple[int, ...]
    software: Name
    #: Stable name, by default the host's.
    name: Name
    #: Drawn at start; tells a reconnect from a second worker of the same name.
    instance: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    engine: EngineFacts
    #: Attempts under way in the engine.
    running: tuple[Attempt, ...] = ()
    #: Attempts whose results wait here to be recorded.
    holding: tuple[Attempt, ...] = ()
    #: As in `Standing`.
    standing: StandingState = "open"
    reason: Text = ""
    declared: Declared = Declared()


class Inventory(Message, frozen=True, kw_only=True):
    """The files changed, or their digests became known. Body: the whole inventory."""

    BODY = "inventory"


class Started(Message, frozen=True, kw_only=True):
    """The engine has begun this attempt; from now on its loss counts against the image."""

    attempt: Attempt


class Step(Message, frozen=True, kw_only=True):
    """Where the running attempt is; conflated by the worker, the newest wins."""

    attempt: Attempt
    phase: Phase
    step: Count = 0
    steps: Count = 0
    step_s: Seconds = 0.0


class Failed(Message, frozen=True, kw_only=True):
    """The attempt ended without a picture."""

    attempt: Attempt
    error: ErrorInfo
    #: The engine had begun it.
    started: bool = True


class Revoked(Message, frozen=True, kw_only=True):
    """The attempt was given back before it began."""

    attempt: Attempt


class TooLate(Message, frozen=True, kw_only=True):
    """The attempt to be revoked has begun, or is over."""

    attempt: Attempt


class Fetch(Message, frozen=True, kw_only=True):
    """Send this input file of a petition that was granted here, as `Chunk`s from `offset` on.

    Pieces are acknowledged with `ChunkSeen`. Said again, it moves the offset. A manager that cannot
    read the file ends the petition and says `Abandon`.
    """

    digest: Digest
    offset: Size = 0


class Kept(msgspec.Struct, frozen=True):
    """A context that the engine holds."""

    #: Digest of the whole context.
    context: Name
    #: Name of its model.
    model: Name


class EngineState(Message, frozen=True, kw_only=True):
    """What the engine holds now."""

    state: Literal["starting", "idle", "loading", "drawing"]
    #: Name of the model that was used last, and digest of the whole context.
    loaded: Name = ""
    context: Name = ""
    #: What is loaded beside that, the last used first.
    kept: Annotated[tuple[Kept, ...], Meta(max_length=limits.CONTEXTS_KEPT_MAX)] = ()


class Standing(Message, frozen=True, kw_only=True):
    """Whether the worker takes grants from now on; the worker alone decides."""

    state: StandingState
    #: Why it takes none, for people: "paused by ana".
    reason: Text = ""


class Steered(Message, frozen=True, kw_only=True):
    """The answer to `Steer`: the wish is carried out, or will be."""

    number: Count
    #: What it did, for people.
    did: Text


# --- Manager to worker ----------------------------------------------------------------------


class Grant(Message, frozen=True, kw_only=True):
    """Draw these images of one petition. Body: the petition's own bytes."""

    BODY = "petition"
    attempts: Annotated[tuple[Attempt, ...], Meta(min_length=1, max_length=256)]
    #: With less memory than the petition's parameters take: "tile" draws with `vae_tiling`,
    #: "offload" with `offload_to_cpu` besides.
    relief: Relief = ""
    #: With `relief`: the workers that ran out of memory, for the result's notes.
    ran_out: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()


class Revoke(Message, frozen=True, kw_only=True):
    """Give this attempt back if it has not begun."""

    attempt: Attempt


class Abandon(Message, frozen=True, kw_only=True):
    """Nobody wants this attempt any more, begun or not; its result will be refused."""

    attempt: Attempt


class Steer(Message, frozen=True, kw_only=True):
    """A client's wish about this worker; answered by `Steered` of the same number."""

    number: Count
    wish: WorkerWish
    #: User whose wish it is.
    by: Name = ""


class Forget(Message, frozen=True, kw_only=True):
    """Input files that no petition names any more: drop them from the cache."""

    digests: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=256)]


class ResultRecorded(Message, frozen=True, kw_only=True):
    """The result is kept; the worker may forget it."""

    attempt: Attempt


class ResultRefused(Message, frozen=True, kw_only=True):
    """The result is not wanted; the worker may forget it."""

    attempt: Attempt
    reason: Text


WORKER_TO_MANAGER: tuple[type[Message], ...] = (
    *BOTH, WorkerHello, Inventory, Started, Step, Preview, Result, Failed, Revoked, TooLate,
    Fetch, EngineState, Standing, Steered,
)  # fmt: skip
MANAGER_TO_WORKER: tuple[type[Message], ...] = (
    *BOTH, Identify, Welcome, Grant, Revoke, Abandon, ResultRecorded, ResultRefused, Steer,
    PreviewSeen, Forget,
)  # fmt: skip
