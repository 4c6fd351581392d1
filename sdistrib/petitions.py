"""The states of petitions and images, and the only moves between them.

A petition is one set of parameters and N images; an image is the unit of work. Image `i` is the
picture of one single run with seed + i, whatever the cluster.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sdistrib import limits
from sdistrib.errors import PetitionError, SdistribError
from sdistrib.params import Params, input_digests

PetitionState = Literal["queued", "running", "done", "failed", "cancelled", "expired"]
Priority = Literal["high", "normal", "low"]
#: What may be done when an engine runs out of memory: try another worker, also draw with less
#: memory, or nothing.
OnOom = Literal["retry", "tile", "fail"]
#: How an image is drawn with less memory than its petition's parameters take: as they are, with VAE
#: tiling, or with weights kept in RAM besides.
Relief = Literal["", "tile", "offload"]
#: How the engine shows what it has so far: latents projected to colours (an eighth of the size),
#: or decoded by the context's tiny autoencoder or VAE, whichever it has.
PreviewMode = Literal["none", "proj", "tae", "vae"]
ImageState = Literal["waiting", "leased", "done", "failed", "cancelled"]

PETITION_ENDS: frozenset[PetitionState] = frozenset({"done", "failed", "cancelled", "expired"})
IMAGE_ENDS: frozenset[ImageState] = frozenset({"done", "failed", "cancelled"})

PETITION_MOVES: frozenset[tuple[PetitionState, PetitionState]] = frozenset(
    {
        ("queued", "running"),
        ("running", "queued"),  # its only attempts were lost
        ("queued", "failed"),
        ("queued", "cancelled"),
        ("queued", "expired"),
        ("running", "done"),
        ("running", "failed"),
        ("running", "cancelled"),
        ("running", "expired"),
        ("failed", "queued"),  # a retry
        ("cancelled", "queued"),
        ("expired", "queued"),
        ("queued", "done"),  # a late result of a worker that had been given up
    }
)
IMAGE_MOVES: frozenset[tuple[ImageState, ImageState]] = frozenset(
    {
        ("waiting", "leased"),
        ("leased", "waiting"),
        ("leased", "done"),
        ("waiting", "done"),  # a late result again
        ("leased", "failed"),
        ("waiting", "failed"),
        ("leased", "cancelled"),
        ("waiting", "cancelled"),
        ("done", "waiting"),  # its picture was lost before anybody had it
        ("failed", "waiting"),  # a retry
        ("cancelled", "waiting"),
    }
)

PetitionId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class InputFile(msgspec.Struct, frozen=True):
    """A file of the client that its petition names by digest; the bytes travel as `Chunk`s."""

    #: SHA-256 in hex.
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size_bytes: Annotated[int, Meta(ge=1, le=limits.INPUT_BYTES_MAX)]


class Petition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client asks for. Its encoded bytes are kept and forwarded as they are."""

    params: Params
    #: Seed of image 0; the client draws one where its user gave none.
    seed: Annotated[int, Meta(ge=0, le=limits.SEED_MAX)]
    #: Number of images; image i has seed + i.
    images: Annotated[int, Meta(ge=1, le=limits.IMAGES_PER_PETITION_MAX)] = 1
    #: Seconds from acceptance after which the petition ends as `expired`; 0 is never.
    timeout_s: Annotated[float, Meta(ge=0.0, le=limits.DEADLINE_S_MAX)] = 0.0
    #: The petition ends as `cancelled` when its client's connection is gone.
    cancel_on_disconnect: bool = False
    #: How urgent it is beside others.
    priority: Priority = "normal"
    #: Its last images may be raced on an idle worker; the first picture counts.
    hedge: bool = True
    #: All images are drawn by engines of one fingerprint.
    exact: bool = False
    #: After running out of memory an image is tried on another worker with room ("retry"), then
    #: with VAE tiling and then with offloaded weights ("tile"), or not again ("fail").
    on_oom: OnOom = "retry"
    #: What is shown of an image while it is drawn; changes no pixel of it.
    preview: PreviewMode = "none"
    #: Sampling steps from one preview to the next.
    preview_interval: Annotated[int, Meta(ge=1, le=limits.STEPS_MAX)] = 1
    #: Previews of what the model is given, and not of what it makes of that.
    preview_noisy: bool = False
    #: The input files that `params` names, each once.
    inputs: Annotated[tuple[InputFile, ...], Meta(max_length=limits.INPUTS_MAX)] = ()


def check_inputs(petition: Petition) -> None:
    """Check that `inputs` lists exactly the files that `params` names.

    Raises:
        PetitionError: `invalid_params`.
    """
    listed = [file.digest for file in petition.inputs]
    if len(set(listed)) < len(listed) or set(listed) != set(input_digests(petition.params)):
        raise PetitionError.of(
            "invalid_params",
            "The petition must list each input file that its parameters name, once.",
            field="inputs",
        )


class InvalidTransitionError(SdistribError):
    """A state machine was asked for a move that its table does not have: a bug of ours."""


def check_petition_move(before: PetitionState, after: PetitionState, story: object = "") -> None:
    """Raise `InvalidTransitionError` unless the table has the move; `story` says what led to it."""
    if (before, after) not in PETITION_MOVES:
        raise InvalidTransitionError(f"petition {before} -> {after}: {story}")


def check_image_move(before: ImageState, after: ImageState, story: object = "") -> None:
    """Raise `InvalidTransitionError` unless the table has the move; `story` says what led to it."""
    if (before, after) not in IMAGE_MOVES:
        raise InvalidTransitionError(f"image {before} -> {after}: {story}")


def relieved(params: Params, relief: Relief) -> Params:
    """The parameters that are really drawn with when memory is short."""
    if not relief:
        return params
    offload = params.offload_to_cpu or relief == "offload"
    return msgspec.structs.replace(params, vae_tiling=True, offload_to_cpu=offload)
