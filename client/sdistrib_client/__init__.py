"""The client of sdistrib: pictures from a farm of unequal GPU boxes, as if from one.

`Client` is for ordinary code, `AsyncClient` for asyncio; both stand on one pure machine
(`requests`). Names are imported when they are first used, so that the command line stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdistrib.errors import ConfigError, PetitionError, SdistribError
    from sdistrib_client.aio import AsyncClient, AsyncDrawing
    from sdistrib_client.composing import compose
    from sdistrib_client.errors import OutputError, PicturesFailedError, Unreachable
    from sdistrib_client.pictures import Picture, Preview, Timings
    from sdistrib_client.sync import Client, Drawing

__all__ = [
    "AsyncClient",
    "AsyncDrawing",
    "Client",
    "ConfigError",
    "Drawing",
    "OutputError",
    "PetitionError",
    "Picture",
    "PicturesFailedError",
    "Preview",
    "SdistribError",
    "Timings",
    "Unreachable",
    "compose",
]

_HOMES = {
    "AsyncClient": "sdistrib_client.aio",
    "AsyncDrawing": "sdistrib_client.aio",
    "Client": "sdistrib_client.sync",
    "ConfigError": "sdistrib.errors",
    "Drawing": "sdistrib_client.sync",
    "OutputError": "sdistrib_client.errors",
    "PetitionError": "sdistrib.errors",
    "Picture": "sdistrib_client.pictures",
    "PicturesFailedError": "sdistrib_client.errors",
    "Preview": "sdistrib_client.pictures",
    "SdistribError": "sdistrib.errors",
    "Timings": "sdistrib_client.pictures",
    "Unreachable": "sdistrib_client.errors",
    "compose": "sdistrib_client.composing",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
