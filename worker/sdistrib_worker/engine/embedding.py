"""Embeddings (textual inversions) as engine 0.4.7 can read them.

The engine copies an embedding's numbers as they lie in the file and then reads them as F32,
whatever they are (`FrozenCLIPEmbedderWithCustomWords::load_embedding`): half-precision numbers
become others, and it reads beyond their end. So it gets a copy with F32 where one can be made.
"""

import hashlib
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from sdistrib import limits

#: 75 words for the widest text encoder are 0.4 MiB; what is larger is something else.
BYTES_MAX = 64 * limits.MIB
#: What PyTorch's pickles call half-precision numbers.
_HALF_PICKLES = (b"HalfStorage", b"BFloat16Storage")
#: What stands for each file (path, size, time). Copies live as long as the process: a context opens
#: its files whenever it meets their word.
_copies: dict[tuple[str, int, int], str] = {}


class UnreadableError(ValueError):
    """The engine would misread the file; the message says why and what would help."""


def word_of(path: str) -> str:
    """The word that stands for an embedding in the prompts that the engine gets.

    The engine finds its embeddings' words anywhere in a prompt, so it must be one that nobody
    writes. It is in lower case, as the engine's tokenizer makes everything.
    """
    return "embedding" + hashlib.sha256(path.encode()).hexdigest()[:24]


def readable(path: str) -> str:
    """`path`, or that of a copy of the file that holds F32.

    Raises:
        UnreadableError: the file cannot be read, or its numbers are no F32 and cannot become it.
    """
    try:
        status = Path(path).stat()
        key = path, status.st_size, status.st_mtime_ns
        if key not in _copies:
            _copies[key] = _converted(path, status.st_size)
    except OSError as error:
        raise UnreadableError(f"embedding {Path(path).name}: {error.strerror}") from None
    except UnreadableError as error:
        raise UnreadableError(f"embedding {Path(path).name} {error}") from None
    return _copies[key]


def _converted(path: str, size_bytes: int) -> str:
    if size_bytes > BYTES_MAX:
        raise UnreadableError(f"is larger than {BYTES_MAX // limits.MIB} MiB")
    data = Path(path).read_bytes()
    head = _head(data)
    if head is None:
        if any(word in data for word in _HALF_PICKLES):
            raise UnreadableError("holds half-precision numbers; save it as safetensors")
        return path
    types = {entry["dtype"] for name, entry in head.items() if name != "__metadata__"}
    if types <= {"F32"}:
        return path
    if not types <= {"F32", "F16", "BF16"} or not hasattr(os, "memfd_create"):
        raise UnreadableError(f"holds {', '.join(sorted(types))}; the engine reads F32")
    return _kept(_widened(data, head))


def _head(data: bytes) -> dict[str, Any] | None:
    """The header of a safetensors file, None for any other."""
    if len(data) < 8:
        return None
    (size,) = struct.unpack("<Q", data[:8])
    try:
        head = json.loads(data[8 : 8 + size]) if size < len(data) else None
        return head if isinstance(head, dict) and all(map(_is_tensor, head.items())) else None
    except ValueError:
        return None


def _is_tensor(item: tuple[str, Any]) -> bool:
    name, entry = item
    return name == "__metadata__" or (
        isinstance(entry, dict) and {"dtype", "shape", "data_offsets"} <= set(entry)
    )


def _widened(data: bytes, head: dict[str, Any]) -> bytes:
    (size,) = struct.unpack("<Q", data[:8])
    new_head: dict[str, Any] = {}
    body = bytearray()
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        raw = data[8 + size + start : 8 + size + end]
        if len(raw) != math.prod(entry["shape"]) * (4 if entry["dtype"] == "F32" else 2):
            raise UnreadableError("is damaged: its header does not fit its data")
        offset = len(body)
        body += _as_f32(raw, entry["dtype"])
        new_head[name] = entry | {"dtype": "F32", "data_offsets": [offset, len(body)]}
    text = json.dumps(new_head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def _as_f32(raw: bytes, dtype: str) -> bytes:
    if dtype == "F32":
        return raw
    if dtype == "BF16":
        # The upper half of an F32.
        wide = bytearray(2 * len(raw))
        wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
        return bytes(wide)
    count = len(raw) // 2
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", raw))


def _kept(data: bytes) -> str:
    descriptor = os.memfd_create("embedding")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    return f"/proc/self/fd/{descriptor}"
