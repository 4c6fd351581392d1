"""The cache of input files, on a real disk."""

import errno
import hashlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdistrib import limits
from sdistrib_worker import cache as module
from sdistrib_worker.cache import InputCache, InputKeeper, default_cache_dir
from sdistrib_worker.effects import CloseInput, ForgetInputs, OpenInput, WriteInput
from sdistrib_worker.events import (
    InputBroken,
    InputEvent,
    InputFailed,
    InputHeld,
    InputOpened,
    InputReady,
)

DATA = b"0123456789"


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Box:
    """Caches on one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: list[InputCache] = []

    def cache(self, bytes_max: int = 1000) -> InputCache:
        made = InputCache(self.root, bytes_max)
        self._made.append(made)
        return made

    def files(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())

    def close(self) -> None:
        for made in self._made:
            made.stop()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "deep" / "inputs")
    yield made
    made.close()


def opened(cache: InputCache, data: bytes) -> InputEvent | None:
    return cache.carry_out(OpenInput(name(data), len(data)))


def written(cache: InputCache, data: bytes, offset: int = 0, end: int | None = None) -> Any:
    return cache.carry_out(WriteInput(name(data), offset, data[offset:end]))


def closed(cache: InputCache, data: bytes) -> None:
    assert cache.carry_out(CloseInput(name(data))) is None


def stored(cache: InputCache, data: bytes, used_ns: int | None = None) -> Path:
    """Put a file into the cache and close it, as if last used at `used_ns`."""
    assert opened(cache, data) == InputOpened(name(data), 0)
    ready = written(cache, data)
    assert isinstance(ready, InputReady)
    closed(cache, data)
    if used_ns is not None:
        os.utime(ready.path, ns=(used_ns, used_ns))
    return Path(ready.path)


def test_a_file_comes_in_pieces_and_gets_its_name_when_it_is_whole(box: Box) -> None:
    cache = box.cache()
    assert opened(cache, DATA) == InputOpened(name(DATA), 0)
    assert written(cache, DATA, 0, 4) == InputHeld(name(DATA), 4)
    (part,) = box.files()
    assert part.startswith(f".{name(DATA)}.")
    path = box.root / name(DATA)
    assert written(cache, DATA, 4) == InputReady(name(DATA), str(path))
    assert box.files() == [name(DATA)]
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o600
    assert box.root.stat().st_mode & 0o777 == 0o700
    assert opened(cache, DATA) == InputReady(name(DATA), str(path))


def test_wrong_bytes_are_not_kept(box: Box) -> None:
    cache = box.cache()
    opened(cache, DATA)
    assert cache.carry_out(WriteInput(name(DATA), 0, b"9876543210")) == InputBroken(name(DATA))
    assert box.files() == []
    assert isinstance(written(cache, DATA), InputReady)


def test_pieces_out_of_order_fail(box: Box) -> None:
    cache = box.cache()
    opened(cache, DATA)
    written(cache, DATA, 0, 4)
    failed = written(cache, DATA, 6)
    assert isinstance(failed, InputFailed)
    assert "wrong order" in failed.reason
    assert box.files() == []


def test_an_unfinished_file_is_gone_on_with_after_it_was_closed(box: Box) -> None:
    cache = box.cache()
    opened(cache, DATA)
    written(cache, DATA, 0, 4)
    closed(cache, DATA)
    assert opened(cache, DATA) == InputOpened(name(DATA), 4)
    assert isinstance(written(cache, DATA, 4), InputReady)


def test_only_so_many_unfinished_files_are_kept(box: Box) -> None:
    cache = box.cache()
    many = [bytes([number]) * 9 for number in range(module._PARTS_MAX + 1)]
    for data in many:
        opened(cache, data)
        written(cache, data, 0, 4)
    assert len(box.files()) == module._PARTS_MAX
    assert opened(cache, many[0]) == InputOpened(name(many[0]), 0)
    assert opened(cache, many[1]) == InputOpened(name(many[1]), 4)


# --- between runs -----------------------------------------------------------------------------


def test_a_file_of_an_earlier_run_is_hashed_once_and_used(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(box.cache(), DATA)
    cache = box.cache()
    assert opened(cache, DATA) == InputReady(name(DATA), str(path))
    closed(cache, DATA)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("it was read again"))
    assert isinstance(opened(cache, DATA), InputReady)


@pytest.mark.parametrize("content", [b"", b"012345678", b"012345678x"], ids=["0", "short", "wrong"])
def test_a_file_that_a_crash_spoilt_is_dropped(
    box: Box, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = stored(box.cache(), DATA)
    path.write_bytes(content)
    cache = box.cache()
    assert opened(cache, DATA) == InputOpened(name(DATA), 0)
    assert "dropping" in caplog.text
    assert box.files() == []
    assert isinstance(written(cache, DATA), InputReady)
    assert path.read_bytes() == DATA


def test_what_a_dead_run_left_unfinished_is_swept_and_a_living_ones_is_not(box: Box) -> None:
    alive = box.cache()
    opened(alive, DATA)
    written(alive, DATA, 0, 4)
    dead = f".{'e' * 64}.{'0' * 16}.part"
    for other in (dead, "notes.txt", ".hidden"):
        (box.root / other).write_bytes(b"x")
    opened(box.cache(), b"another")
    assert dead not in box.files()
    assert len(box.files()) == 3
    assert isinstance(written(alive, DATA, 4), InputReady)


def test_a_name_that_is_a_link_or_a_folder_is_not_opened(box: Box, tmp_path: Path) -> None:
    cache = box.cache()
    stored(cache, b"another")
    (box.root / name(DATA)).mkdir()
    assert isinstance(opened(cache, DATA), InputOpened)
    (box.root / name(DATA)).rmdir()
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    (box.root / name(DATA)).symlink_to(secret)
    failed = opened(cache, DATA)
    assert isinstance(failed, InputFailed)
    assert secret.read_bytes() == DATA


# --- room -------------------------------------------------------------------------------------


def test_the_least_recently_used_go_when_room_is_needed(box: Box) -> None:
    cache = box.cache(bytes_max=30)
    oldest, middle, newest = (bytes([byte]) * 10 for byte in b"abc")
    for age, data in enumerate((oldest, middle, newest)):
        stored(cache, data, used_ns=10**9 * (age + 1))
    assert len(box.files()) == 3, "exactly full"
    opened(cache, oldest)
    closed(cache, oldest)
    stored(cache, DATA)
    assert box.files() == sorted(map(name, (oldest, newest, DATA)))


def test_a_cache_at_n_and_n_plus_1_bytes(box: Box) -> None:
    cache = InputCache(box.root)
    most = limits.INPUT_CACHE_BYTES
    older = stored(cache, b"older", used_ns=10**9)
    # A file with a hole: its size counts, and no disk is filled.
    large = box.root / ("d" * 64)
    large.touch()
    os.truncate(large, most - len(b"older") - len(DATA))
    stored(cache, DATA)
    assert older.exists(), "exactly full"
    stored(cache, b"x")
    assert not older.exists()
    cache.stop()


def test_files_in_use_stay_whoever_uses_them(box: Box) -> None:
    mine, theirs = box.cache(bytes_max=10), box.cache(bytes_max=10)
    ours, other = b"a" * 10, b"b" * 10
    stored(mine, ours)
    opened(mine, ours)
    stored(theirs, other)
    opened(theirs, other)
    stored(mine, DATA)
    assert box.files() == sorted(map(name, (ours, other, DATA)))
    closed(mine, ours)
    closed(theirs, other)
    stored(theirs, b"c" * 10)
    assert box.files() == [name(b"c" * 10)]


def test_a_file_that_has_just_come_is_in_use(box: Box) -> None:
    cache = box.cache()
    opened(cache, DATA)
    written(cache, DATA)
    box.cache().carry_out(ForgetInputs((name(DATA),)))
    assert box.files() == [name(DATA)]


def test_two_workers_that_fetch_the_same_file_end_with_one(box: Box) -> None:
    one, two = box.cache(), box.cache()
    for cache in (one, two):
        opened(cache, DATA)
        written(cache, DATA, 0, 4)
    ready = written(one, DATA, 4)
    assert written(two, DATA, 4) == ready
    assert box.files() == [name(DATA)]
    closed(one, DATA)
    one.carry_out(ForgetInputs((name(DATA),)))
    assert box.files() == [name(DATA)], "the other one uses it"


def test_a_spoilt_file_of_that_name_is_replaced_at_the_end(box: Box) -> None:
    cache = box.cache()
    opened(cache, DATA)
    written(cache, DATA, 0, 4)
    (box.root / name(DATA)).write_bytes(b"spoilt")
    assert isinstance(written(cache, DATA, 4), InputReady)
    assert (box.root / name(DATA)).read_bytes() == DATA
    assert box.files() == [name(DATA)]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_goes_between_open_and_lock_is_missing(
    box: Box, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    path = stored(box.cache(), DATA)
    cache, flock = box.cache(), module.fcntl.flock

    def removed_first(descriptor: int, kind: int) -> None:
        path.unlink(missing_ok=True)
        if replaced:
            path.write_bytes(DATA)
        flock(descriptor, kind)

    monkeypatch.setattr(module.fcntl, "flock", removed_first)
    assert opened(cache, DATA) == InputOpened(name(DATA), 0)


# --- forgetting -------------------------------------------------------------------------------


def test_forgotten_files_go_those_in_use_when_they_are_closed(box: Box) -> None:
    cache = box.cache()
    stored(cache, DATA)
    stored(cache, b"used")
    opened(cache, b"used")
    opened(cache, b"partly")
    written(cache, b"partly", 0, 2)
    cache.carry_out(ForgetInputs(tuple(map(name, (DATA, b"used", b"partly", b"unknown")))))
    assert box.files() == [name(b"used")]
    closed(cache, b"used")
    assert box.files() == []


def test_a_file_that_is_wanted_again_is_not_forgotten(box: Box) -> None:
    cache = box.cache()
    stored(cache, DATA)
    opened(cache, DATA)
    cache.carry_out(ForgetInputs((name(DATA),)))
    opened(cache, DATA)
    closed(cache, DATA)
    assert box.files() == [name(DATA)]


def test_forgetting_before_there_is_a_folder_is_nothing(box: Box) -> None:
    box.cache().carry_out(ForgetInputs((name(DATA),)))
    assert not box.root.exists()


# --- disks that say no ------------------------------------------------------------------------


def test_a_full_disk_costs_what_is_not_in_use_first(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = box.cache()
    stored(cache, b"old")
    pwrite = os.pwrite

    def full_while_old_is_there(descriptor: int, data: bytes, offset: int) -> int:
        if name(b"old") in box.files():
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data[:3], offset)

    monkeypatch.setattr(os, "pwrite", full_while_old_is_there)
    opened(cache, DATA)
    assert isinstance(written(cache, DATA), InputReady)
    assert (box.root / name(DATA)).read_bytes() == DATA


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_told_and_leaves_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    cache = box.cache()
    opened(cache, DATA)
    monkeypatch.setattr(os, "pwrite", failing)
    failed = written(cache, DATA)
    assert isinstance(failed, InputFailed)
    assert os.strerror(number) in failed.reason
    assert box.files() == []


def test_a_real_limit_of_the_system_is_told(box: Box) -> None:
    data = bytes(100_000)
    cache = box.cache(bytes_max=1_000_000)
    opened(cache, data)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        failed = written(cache, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(failed, InputFailed)
    assert "File too large" in failed.reason
    assert box.files() == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    failed = opened(InputCache(tmp_path / "file" / "inputs"), DATA)
    assert isinstance(failed, InputFailed)
    assert "Not a directory" in failed.reason


def test_a_file_that_another_user_put_there_is_used(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    stored(box.cache(), DATA)
    monkeypatch.setattr(os, "utime", forbidden)
    assert isinstance(opened(box.cache(), DATA), InputReady)


# --- the thread -------------------------------------------------------------------------------


def test_the_thread_answers_in_order_and_lets_go_at_the_end(box: Box) -> None:
    said: list[InputEvent] = []
    whole = threading.Event()

    def hear(event: InputEvent) -> None:
        said.append(event)
        if isinstance(event, InputReady):
            whole.set()

    keeper = InputKeeper(box.cache(), hear)
    keeper.order(OpenInput(name(DATA), len(DATA)))
    keeper.order(WriteInput(name(DATA), 0, DATA[:4]))
    keeper.order(WriteInput(name(DATA), 4, DATA[4:]))
    assert whole.wait(20)
    keeper.stop()
    keeper.order(OpenInput(name(DATA), len(DATA)))
    assert [type(event) for event in said] == [InputOpened, InputHeld, InputReady]
    assert box.cache()._remove(name(DATA)), "the thread still holds it"


def test_what_waits_is_dropped_when_it_stops(box: Box) -> None:
    said: list[InputEvent] = []
    busy, go_on = threading.Event(), threading.Event()

    def hear(event: InputEvent) -> None:
        said.append(event)
        busy.set()
        go_on.wait(20)

    keeper = InputKeeper(box.cache(), hear)
    for data in (DATA, b"more"):
        keeper.order(OpenInput(name(data), len(data)))
    assert busy.wait(20)
    keeper._stopping = True
    go_on.set()
    keeper.stop()
    assert len(said) == 1


def test_a_cache_that_breaks_down_answers_and_goes_on(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[InputEvent] = []
    both = threading.Event()

    def hear(event: InputEvent) -> None:
        said.append(event)
        if len(said) == 2:
            both.set()

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(InputCache, "carry_out", broken)
    keeper = InputKeeper(box.cache(), hear)
    keeper.order(OpenInput(name(DATA), 1))
    keeper.order(CloseInput(name(DATA)))
    keeper.order(WriteInput(name(DATA), 0, b"x"))
    assert both.wait(20)
    keeper.stop()
    assert all("the worker's log has why" in getattr(event, "reason", "") for event in said)
    assert "a bug" in caplog.text


def test_the_default_is_the_users_cache_folder() -> None:
    assert default_cache_dir().name == "inputs"
    assert "sdistrib" in str(default_cache_dir())
