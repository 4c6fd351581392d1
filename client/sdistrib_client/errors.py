"""What the client adds to the family of `sdistrib.errors`.

PetitionError              refused, failed, cancelled or expired; `code` is stable
└── PicturesFailedError      some images failed for good; `failures` lists them by index
Unreachable                nobody answers at that address
OutputError                a picture cannot be written where it should go
"""

from sdistrib.errors import ErrorInfo, PetitionError, SdistribError
from sdistrib.protocol.messages import ImageFailure
from sdistrib_client.effects import Ending


class Unreachable(SdistribError):  # noqa: N818 - reads as what it says in an except clause
    """The manager cannot be reached; the message says where and for how long it was tried."""


class OutputError(SdistribError):
    """A picture cannot be written where it should go; the message names the file and the reason."""


class PicturesFailedError(PetitionError):
    """The petition ended with images that failed for good; the others were delivered."""

    def __init__(
        self, info: ErrorInfo, failures: tuple[ImageFailure, ...], done: tuple[int, ...]
    ) -> None:
        super().__init__(info)
        self.failures = failures
        self.done = done


def error_of(ending: Ending) -> SdistribError | None:
    """The exception that an ending is to its caller; None when all went well."""
    if ending.outcome == "unreachable":
        return Unreachable(ending.reason)
    if ending.error is None:
        return None
    if ending.failures:
        return PicturesFailedError(ending.error, ending.failures, ending.done)
    return PetitionError(ending.error)
