"""One suite for every store of pictures, and what only one on a disk promises."""

import errno
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdistrib.errors import StoreError
from sdistrib_manager import folder as folder_module
from sdistrib_manager.folder import GARBAGE_GRACE_S, Garbage
from sdistrib_manager.store.base import Blobs
from sdistrib_manager.store.files import FileBlobs
from sdistrib_manager.store.memory import MemoryBlobs
from tests.support.kept import OnDisk, full_disk, image, petition, result


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[OnDisk]:
    made = OnDisk(tmp_path / "state.db")
    yield made
    made.store.close()


@pytest.fixture(params=["memory", "files"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return MemoryBlobs() if request.param == "memory" else FileBlobs(tmp_path / "pictures")


@pytest.fixture
def files(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "pictures")


PICTURE = b"\x89PNG, more or less, " * 100
DIGEST = hashlib.sha256(PICTURE).hexdigest()


def final(files: FileBlobs) -> Path:
    """Where the picture's file lies."""
    return files._path(DIGEST)


def test_a_picture_comes_back_whole_until_it_is_dropped(blobs: Blobs) -> None:
    with pytest.raises(StoreError):
        blobs.view(DIGEST)
    blobs.put(DIGEST, [PICTURE[:100], memoryview(PICTURE)[100:]])
    assert bytes(blobs.view(DIGEST)) == PICTURE
    blobs.put(DIGEST, [PICTURE])
    ((digest, size_bytes, age_s),) = blobs.every()
    assert (digest, size_bytes) == (DIGEST, len(PICTURE))
    assert age_s < 1000
    blobs.drop(DIGEST)
    blobs.drop(DIGEST)
    assert list(blobs.every()) == []
    with pytest.raises(StoreError):
        blobs.view(DIGEST)


def test_pictures_survive_their_process(files: FileBlobs, tmp_path: Path) -> None:
    files.put(DIGEST, [PICTURE])
    assert FileBlobs(tmp_path / "pictures").view(DIGEST) == PICTURE


def test_pictures_of_version_0_2_lie_in_folders_and_are_found(tmp_path: Path) -> None:
    old = tmp_path / "pictures" / DIGEST[:2]
    old.mkdir(parents=True)
    (tmp_path / "pictures" / "ff").mkdir()
    (old / DIGEST).write_bytes(PICTURE)
    files = FileBlobs(tmp_path / "pictures")
    assert files.view(DIGEST) == PICTURE
    assert [path.name for path in (tmp_path / "pictures").iterdir() if path.is_dir()] == ["tmp"]


@pytest.mark.parametrize("there", [b"", PICTURE[:50], bytes(len(PICTURE)), PICTURE + b"!"])
def test_a_bad_file_under_the_name_is_replaced(files: FileBlobs, there: bytes) -> None:
    final(files).write_bytes(there)
    with pytest.raises(StoreError, match="damaged"):
        files.view(DIGEST)
    files.put(DIGEST, [PICTURE])
    assert files.view(DIGEST) == PICTURE


@pytest.mark.parametrize("offset", [0, 700, len(PICTURE) - 1])
def test_a_flipped_bit_is_found_by_reading(files: FileBlobs, offset: int) -> None:
    files.put(DIGEST, [PICTURE])
    data = bytearray(PICTURE)
    data[offset] ^= 4
    final(files).write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        files.view(DIGEST)


def test_leftovers_of_a_crash_are_swept_and_are_no_pictures(
    files: FileBlobs, tmp_path: Path
) -> None:
    scratch = tmp_path / "pictures" / "tmp"
    (scratch / f"{DIGEST}.1.1").write_bytes(PICTURE[:10])
    assert list(files.every()) == []
    FileBlobs(tmp_path / "pictures")
    assert list(scratch.iterdir()) == []


def test_a_full_disk_keeps_nothing_of_a_picture(files: FileBlobs, tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(StoreError, match=DIGEST):
        files.put(DIGEST, [PICTURE])
    assert [path for path in (tmp_path / "pictures").rglob("*") if path.is_file()] == []
    files.put(DIGEST, [PICTURE])
    assert files.view(DIGEST) == PICTURE


@pytest.mark.parametrize(
    ("errno_name", "words"),
    [("ENOSPC", "the disk is full"), ("EROFS", "Read-only"), ("EIO", "Input/output")],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_at_any_step_is_typed_and_leaves_no_file(
    files: FileBlobs, monkeypatch: pytest.MonkeyPatch, errno_name: str, words: str, call: str
) -> None:
    number = getattr(errno, errno_name)

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreError, match=words):
            files.put(DIGEST, [PICTURE])
    assert [path for path in final(files).parents[1].rglob("*") if path.is_file()] == []
    files.put(DIGEST, [PICTURE])


def _failing_at(nth: int, real: Any) -> Any:
    """A call whose n-th time fails."""
    calls = itertools.count(1)

    def call(*given: Any) -> Any:
        if next(calls) == nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*given)

    return call


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_one_that_fails_takes_no_other_with_it(
    files: FileBlobs, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    pictures = [b"one", b"two", b"three"]
    digests = [hashlib.sha256(data).hexdigest() for data in pictures]
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _failing_at(nth, getattr(os, call)))
        errors = files.put_all([(d, [p]) for d, p in zip(digests, pictures, strict=True)])
    assert [error is not None for error in errors] == [n == nth for n in (1, 2, 3)]
    there = {path.name for path in final(files).parent.rglob("*") if path.is_file()}
    assert there == set(digests) - {digests[nth - 1]}


def test_nothing_of_a_batch_is_kept_when_its_folder_cannot_be_synced(
    files: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _failing_at(3, os.fsync))
    data = hashlib.sha256(b"other").hexdigest()
    errors = files.put_all([(DIGEST, [PICTURE]), (data, [b"other"])])
    assert [str(error).endswith("Input/output error") for error in errors] == [True, True]


def test_the_same_picture_twice_in_one_batch_is_kept(files: FileBlobs) -> None:
    assert files.put_all([(DIGEST, [PICTURE]), (DIGEST, [PICTURE])]) == [None, None]
    assert files.view(DIGEST) == PICTURE


# --- order ------------------------------------------------------------------------------------


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every fsync and rename of this process, in order, by what it was done to."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(fd: int) -> None:
        fsync(fd)
        seen.append(("fsync", str(Path(f"/proc/self/fd/{fd}").readlink())))

    def traced_replace(source: Any, target: Any) -> None:
        replace(source, target)
        seen.append(("rename", str(target)))

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    return seen


def test_file_then_name_then_folder(files: FileBlobs, trace: list[tuple[str, str]]) -> None:
    files.put(DIGEST, [PICTURE])
    (first, scratch), *rest = trace
    assert first == "fsync"
    assert Path(scratch).parent.name == "tmp"
    assert rest == [("rename", str(final(files))), ("fsync", str(final(files).parent))]


def test_files_then_names_then_one_folder_of_several_pictures(
    files: FileBlobs, trace: list[tuple[str, str]]
) -> None:
    pictures = [b"one", b"two", b"three"]
    digests = [hashlib.sha256(data).hexdigest() for data in pictures]
    assert files.put_all([(d, [p]) for d, p in zip(digests, pictures, strict=True)]) == [None] * 3
    assert [what for what, _ in trace] == ["fsync"] * 3 + ["rename"] * 3 + ["fsync"]
    assert [Path(path).name.partition(".")[0] for _, path in trace[:6]] == digests * 2
    assert trace[6] == ("fsync", str(final(files).parent))


def test_a_picture_that_was_there_is_durable_too_once_it_is_trusted(
    files: FileBlobs, trace: list[tuple[str, str]]
) -> None:
    # As a process leaves it that died between the rename and the fsync of the folder.
    final(files).write_bytes(PICTURE)
    files.put(DIGEST, [PICTURE])
    assert trace == [("fsync", str(final(files))), ("fsync", str(final(files).parent))]


def test_the_folder_is_durable_before_the_first_picture(
    tmp_path: Path, trace: list[tuple[str, str]]
) -> None:
    FileBlobs(tmp_path / "pictures")
    assert trace == [("fsync", str(tmp_path / "pictures")), ("fsync", str(tmp_path))]


# --- garbage ----------------------------------------------------------------------------------


def _age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_garbage_goes_when_it_is_old_and_was_unused_twice(files: FileBlobs, disk: OnDisk) -> None:
    others = [b"used", b"young"]
    digests = [hashlib.sha256(data).hexdigest() for data in others]
    for digest, data in zip(digests, others, strict=True):
        files.put(digest, [data])
    files.put(DIGEST, [PICTURE])
    used = result(data=b"used")
    disk.store.commit([petition(), image(state="done", result=used, kept=True)])
    _age(final(files), GARBAGE_GRACE_S + 1)
    _age(files._path(digests[0]), GARBAGE_GRACE_S + 1)
    garbage = Garbage(disk.store, files)
    assert garbage.step()
    assert len(list(files.every())) == 3
    assert garbage.step()
    assert {digest for digest, _, _ in files.every()} == set(digests)


def test_a_picture_that_is_put_again_is_no_garbage(files: FileBlobs, disk: OnDisk) -> None:
    files.put(DIGEST, [PICTURE])
    _age(final(files), GARBAGE_GRACE_S + 1)
    garbage = Garbage(disk.store, files)
    assert garbage.step()
    files.put(DIGEST, [PICTURE])
    assert garbage.step()
    assert files.view(DIGEST) == PICTURE


def test_what_somebody_needs_without_a_row_is_no_garbage(files: FileBlobs, disk: OnDisk) -> None:
    files.put(DIGEST, [PICTURE])
    _age(final(files), GARBAGE_GRACE_S + 1)
    garbage = Garbage(disk.store, files)
    for _ in range(3):
        assert garbage.step(lambda digest: digest == DIGEST)
    assert files.view(DIGEST) == PICTURE
    assert [garbage.step() for _ in range(2)] == [True, True]
    assert list(files.every()) == []


def test_many_files_are_looked_at_in_several_steps(
    files: FileBlobs, disk: OnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_FILES_PER_STEP", 10)
    for number in range(25):
        data = bytes([number])
        digest = hashlib.sha256(data).hexdigest()
        files.put(digest, [data])
        _age(files._path(digest), GARBAGE_GRACE_S + 1)
    garbage = Garbage(disk.store, files)
    assert [garbage.step() for _ in range(3)] == [False, False, True]
    assert len(list(files.every())) == 25
    assert [garbage.step() for _ in range(3)] == [False, False, True]
    assert list(files.every()) == []
