"""A worker's side of input files, for workers that draw nothing from them.

It stands between a worker and its connection: of each petition granted it fetches the input files
it has not, checks them, and forgets what it is told to forget. What is drawn does not wait for it.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer, Codec, decode_petition, encode
from sdistrib.transfer import Incoming
from sdistrib.transport import Dealer

_CODEC = Codec(wire.MANAGER_TO_WORKER)
_READ = {b"\1" + wire.verb(kind).encode() for kind in (
    wire.Grant, wire.Chunk, wire.Forget, wire.Welcome,
)}  # fmt: skip


class Fetcher:
    """Which input files are here, and which are coming.

    Args:
        say: sends a message to the manager.
        tell: is told "fetched" or "forgotten", and the digest.
    """

    def __init__(
        self, say: Callable[[wire.Message], Any], tell: Callable[[str, str], None]
    ) -> None:
        self._say, self._tell = say, tell
        self.here: set[str] = set()
        self._coming: dict[str, Incoming] = {}

    def hear(self, frames: list[Buffer]) -> None:
        """Look at what the manager says."""
        if bytes(frames[0]) not in _READ:
            return
        received = _CODEC.decode(frames)
        match received.message:
            case wire.Grant():
                self._granted(received.body)
            case wire.Chunk(digest=digest, offset=offset):
                self._piece(digest, offset, received.body)
            case wire.Forget(digests=digests):
                for digest in self.here.intersection(digests):
                    self.here.remove(digest)
                    self._tell("forgotten", digest)
            case _:  # a new connection
                for digest, coming in self._coming.items():
                    self._say(wire.Fetch(digest=digest, offset=coming.received))

    def _granted(self, body: Buffer) -> None:
        for file in decode_petition(body).inputs:
            if file.digest not in self.here | self._coming.keys():
                self._coming[file.digest] = Incoming(file.digest, file.size_bytes)
                self._say(wire.Fetch(digest=file.digest))

    def _piece(self, digest: str, offset: int, piece: Buffer) -> None:
        coming = self._coming.get(digest)
        if coming is None or offset > coming.received:
            return
        complete = coming.take(offset, piece)
        self._say(wire.ChunkSeen(digest=digest, offset=coming.received))
        if complete:
            del self._coming[digest]
            self.here.add(digest)
            self._tell("fetched", digest)


class FetchingDealer(Dealer):
    """A worker's connection that fetches; `SDISTRIB_SCRIPTED_LOG` gets a line for each file."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self._fetcher = Fetcher(lambda message: self.send(encode(message)), _write)

    def receive(self) -> list[Buffer] | None:
        """The next message, after a look at it."""
        frames = super().receive()
        if frames is not None:
            self._fetcher.hear(frames)
        return frames


def _write(event: str, digest: str) -> None:
    path = os.environ.get("SDISTRIB_SCRIPTED_LOG")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "seed": -1, "digest": digest}) + "\n")
