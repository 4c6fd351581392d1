"""Lays named tensors out as a safetensors file: header length, JSON header, data."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

DType = Literal["F32", "F16", "F8_E4M3"]
TYPE_BYTES: dict[DType, int] = {"F32": 4, "F16": 2, "F8_E4M3": 1}

#: Stands in every header. Raise the revision with any change of values: old trees are then redone.
METADATA = {"maker": "sdistrib tools.tiny_models", "revision": "1"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor, its values made only when its file is written."""

    dtype: DType
    shape: tuple[int, ...]
    #: Gives the values, little-endian and of this dtype and shape.
    values: Callable[[], NDArray[Any]]
    #: Shared tensors of a file all start at one offset; the largest provides the bytes. The engine
    #: accepts that, strict readers do not.
    shared: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * TYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of one file: `head` at once, `body` on demand, both cut to `size`."""

    head: bytes
    size: int
    body: Callable[[], Iterable[bytes]] = tuple

    def is_in(self, path: Path) -> bool:
        """Whether `path` holds this already, judged by size and head."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return file.read(len(self.head)) == self.head

    def write(self, path: Path) -> None:
        """Writes beside `path` and renames: nobody, a parallel run included, meets half a file."""
        scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with scratch.open("wb") as file:
                file.write(self.head)
                for chunk in self.body():
                    file.write(chunk)
                    if file.tell() >= self.size:
                        break
                file.truncate(self.size)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def encode(tensors: Mapping[str, Tensor]) -> Blob:
    """Lays out own data in the order given, then the one range that all shared tensors start at."""
    header: dict[str, Any] = {"__metadata__": METADATA}
    end = shared_start = sum(tensor.nbytes for tensor in tensors.values() if not tensor.shared)
    cursor = 0
    for name, tensor in tensors.items():
        start = shared_start if tensor.shared else cursor
        offsets = [start, start + tensor.nbytes]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        end = max(end, offsets[1])
        cursor += 0 if tensor.shared else tensor.nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    head = len(raw).to_bytes(8, "little") + raw
    return Blob(head, len(head) + end, lambda: _data(tensors.values()))


def _data(tensors: Iterable[Tensor]) -> Iterator[bytes]:
    shared = []
    for tensor in tensors:
        if tensor.shared:
            shared.append(tensor)
        else:
            yield tensor.values().tobytes()
    if shared:
        yield max(shared, key=lambda tensor: tensor.nbytes).values().tobytes()
