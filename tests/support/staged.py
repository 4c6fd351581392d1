"""Petitions with input files at a manager: submitted, sent, asked for, dropped."""

from typing import Any

import msgspec

from sdistrib import limits
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_manager import effects as fx
from sdistrib_manager.state import State
from tests.support.farm import Client, Farm, petition, petition_id
from tests.support.input_files import FILE, digest_of, with_files

BIG = bytes(range(256)) * (10 * limits.KIB)
OTHER = b"another picture"


def submits(
    client: Client, number: int = 1, *files: bytes, detach: bool = False, **more: Any
) -> str:
    """Submit a petition that names files; its id."""
    body = encode_petition(with_files(petition(**more), *(files or (FILE,))))
    client.says(wire.Submit(id=petition_id(number), detach=detach), body)
    return petition_id(number)


def sends(client: Client, data: bytes = FILE, begin: int = 0, end: int | None = None) -> None:
    """Send the pieces of a file."""
    for offset in range(begin, len(data) if end is None else end, limits.CHUNK_BYTES):
        piece = data[offset : offset + limits.CHUNK_BYTES]
        client.says(wire.Chunk(digest=digest_of(data), offset=offset), piece)


def needed(client: Client) -> list[tuple[str, ...]]:
    """Which files the client was asked for, in turn."""
    return [need.digests for need in client.got(wire.Need)]


def state_of(farm: Farm) -> State:
    """What the manager knows."""
    return farm.manager.state


def nothing_is_staged(farm: Farm) -> bool:
    """No petition waits for files, and no file is half here."""
    return not (state_of(farm).staged or state_of(farm).uploads)


def dropped(farm: Farm) -> list[str]:
    """Files that were dropped from the disk."""
    return [effect.digest for effect in farm.kept(fx.DropBlob)]


def cancelled(client: Client, pid: str) -> None:
    """The client cancels it."""
    client.says(wire.Cancel(id=pid))


def replaced(struct: Any, **changes: Any) -> Any:
    """A copy with other values, unchecked."""
    return msgspec.structs.replace(struct, **changes)
