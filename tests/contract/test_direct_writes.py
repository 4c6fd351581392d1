"""Large pictures on the disk: written past the system's cache where that can be done."""

import errno
import fcntl
import hashlib
import os
import threading
from pathlib import Path

import pytest

from sdistrib.errors import StoreError
from sdistrib_manager.store import files as product
from sdistrib_manager.store.files import FileBlobs

MIB = 1 << 20
#: Where blocks, pages and pieces end, and one byte beside.
SIZES = [
    product._DIRECT_FROM_BYTES - 1, product._DIRECT_FROM_BYTES, MIB - 4096, MIB - 1, MIB, MIB + 1,
    2 * MIB + 4097, 3 * MIB,
]  # fmt: skip


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "pictures")


def pieces(data: bytes, *lengths: int) -> list[memoryview]:
    found, begin = [], 0
    for length in (*lengths, len(data)):
        found.append(memoryview(data)[begin : begin + length])
        begin += length
    return [piece for piece in found if piece]


def put(blobs: FileBlobs, data: bytes, *lengths: int) -> str:
    digest = hashlib.sha256(data).hexdigest()
    blobs.put(digest, pieces(data, *lengths))
    return digest


def scratch(blobs: FileBlobs) -> list[Path]:
    return list(blobs._scratch.iterdir())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lengths", [(), (7, MIB, 4095)])
def test_every_size_in_every_cut_comes_back_whole(
    blobs: FileBlobs, size: int, lengths: tuple[int, ...]
) -> None:
    data = os.urandom(size)
    digest = put(blobs, data, *lengths)
    assert blobs.view(digest) == data
    assert blobs._path(digest).stat().st_size == size
    assert scratch(blobs) == []


def test_many_threads_do_not_write_into_each_others_buffers(blobs: FileBlobs) -> None:
    pictures = [os.urandom(MIB + number) for number in range(12)]
    threads = [threading.Thread(target=put, args=(blobs, data, 5)) for data in pictures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for data in pictures:
        assert blobs.view(hashlib.sha256(data).hexdigest()) == data


@pytest.mark.parametrize("where", ["asked", "written", "written on"])
def test_a_file_system_that_cannot_gets_it_the_usual_way(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls = []
    if where == "asked":

        def no(*_: object) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(fcntl, "fcntl", no)
    else:
        write, good = os.write, int(where == "written on")

        def refuse(fd: int, data: bytes) -> int:
            calls.append(fd)
            if len(calls) == good + 1:
                raise OSError(errno.EINVAL, "Invalid argument")
            return write(fd, data)

        monkeypatch.setattr(product.os, "write", refuse)
    data = os.urandom(2 * MIB + 1)
    assert blobs.view(put(blobs, data)) == data
    assert scratch(blobs) == []


def test_a_full_disk_leaves_nothing_behind(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(product.os, "write", full)
    data = os.urandom(2 * MIB)
    with pytest.raises(StoreError, match="the disk is full"):
        put(blobs, data)
    monkeypatch.undo()
    assert scratch(blobs) == []
    with pytest.raises(StoreError):
        blobs.view(hashlib.sha256(data).hexdigest())
