"""The models folder: kinds, names, loops, limits, digests and changes."""

import errno
import fcntl
import hashlib
import itertools
import json
import logging
import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdistrib import limits
from sdistrib.errors import ConfigError
from sdistrib.models import EXTENSIONS, FOLDERS, ModelFile
from sdistrib.protocol.codec import encode_inventory
from sdistrib_worker import inventory
from sdistrib_worker.digests import DigestCache, default_cache_file, digest_of
from sdistrib_worker.inventory import (
    Librarian,
    check_root,
    empty_warning,
    folders_changed,
    scan,
)
from sdistrib_worker.settling import Settling
from sdistrib_worker.shelf import StoredFile


def put(root: Path, name: str, content: bytes = b"x") -> Path:
    """A file with its folders."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def listed(root: Path) -> list[tuple[str, str]]:
    """Kind and name of every file found."""
    return [(stored.file.kind, stored.file.name) for stored in scan(root).files]


# --- what is found ----------------------------------------------------------------------------


def test_every_folder_in_any_case_and_every_extension(tmp_path: Path) -> None:
    expected = set()
    for number, (folder, kinds) in enumerate(FOLDERS.items()):
        extension = EXTENSIONS[number % len(EXTENSIONS)].upper()
        put(tmp_path, f"{folder.swapcase()}/file{number}{extension}")
        expected |= {(kind, f"file{number}{extension}") for kind in kinds}
    assert set(listed(tmp_path)) == expected
    assert scan(tmp_path).warnings == ()


def test_what_is_no_model_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "Lora/readme.md")
    put(tmp_path, "notes/x.safetensors")
    put(tmp_path, "x.safetensors")
    (tmp_path / "lora" / "folder.gguf").mkdir(parents=True)
    (tmp_path / "Lora" / "broken.gguf").symlink_to(tmp_path / "nowhere")
    (tmp_path / "Lora" / "itself").symlink_to(tmp_path / "Lora" / "itself")
    os.mkfifo(tmp_path / "Lora" / "pipe.gguf")
    assert listed(tmp_path) == []


def test_sub_folders_and_facts(tmp_path: Path) -> None:
    path = put(tmp_path, "Lora/people/old/a.safetensors", b"12345")
    (stored,) = scan(tmp_path).files
    assert (stored.file.name, stored.file.size_bytes) == ("people/old/a.safetensors", 5)
    assert stored.path == str(path)
    assert stored.mtime_ns == path.stat().st_mtime_ns


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/a.gguf")
    put(tmp_path, "models/lora/b.gguf")
    root = tmp_path / "models"
    (root / "lora" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "lora" / "up").symlink_to(root)
    (root / "lora" / "self").symlink_to(root / "lora")
    (root / "vae").symlink_to(tmp_path / "elsewhere")
    assert ("lora", "linked/a.gguf") in listed(root)
    assert ("vae", "a.gguf") in listed(root)
    # Through `up` the tree is seen once more and no further.
    assert len(listed(root)) <= 5


def test_the_same_name_twice_is_found_once(tmp_path: Path) -> None:
    put(tmp_path, "checkpoints/a.gguf", b"22")
    put(tmp_path, "Stable-diffusion/a.gguf", b"1")
    found = scan(tmp_path)
    (stored,) = found.files
    assert stored.file.size_bytes == 1
    assert "is hidden by" in found.warnings[0]


@pytest.mark.parametrize("beyond", [0, 1])
def test_names_have_a_limit(tmp_path: Path, beyond: int) -> None:
    parts = ["d" * 200, "e" * 200, "f" * (limits.NAME_CHARS_MAX - 402 - 5 + beyond) + ".gguf"]
    put(tmp_path, "/".join(["lora", *parts]))
    found = scan(tmp_path)
    assert len(found.files) == 1 - beyond
    assert len(found.warnings) == beyond


def test_names_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "lora/" + os.fsdecode(b"\xff.gguf"))
    found = scan(tmp_path)
    assert found.files == ()
    assert "not valid UTF-8" in found.warnings[0]


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_number_of_files_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    monkeypatch.setattr(limits, "INVENTORY_FILES_MAX", 3)
    for number in range(3 + beyond):
        put(tmp_path, f"lora/{number}.gguf")
    put(tmp_path, "vae/readme.md")
    found = scan(tmp_path)
    assert len(found.files) == 3
    assert len(found.warnings) == beyond


def test_an_inventory_always_fits_its_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INVENTORY_BYTES_MAX", 5000)
    for number in range(100):
        put(tmp_path, f"lora/{number:0100}é.gguf")
    found = scan(tmp_path)
    assert 0 < len(found.files) < 100
    digested = tuple(
        type(stored.file)(stored.file.kind, stored.file.name, 2**40, "a" * 64)
        for stored in found.files
    )
    assert len(encode_inventory(digested)) <= 5000


def test_unreadable_folders_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "lora/a.gguf")
    put(tmp_path, "vae/b.gguf")
    real = os.scandir

    def refuse(path: str) -> Iterator["os.DirEntry[str]"]:
        if str(path).endswith("vae"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = scan(tmp_path)
    assert [stored.file.kind for stored in found.files] == ["lora"]
    assert "Permission denied" in found.warnings[0]


# --- the root ---------------------------------------------------------------------------------


def test_a_root_that_cannot_serve_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_root(tmp_path)
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        check_root(tmp_path / "nowhere")
    file = put(tmp_path, "file")
    with pytest.raises(ConfigError, match="is not a folder"):
        check_root(file)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        check_root(tmp_path)


def test_the_empty_warning_says_what_was_looked_for(tmp_path: Path) -> None:
    text = empty_warning(tmp_path)
    for word in (str(tmp_path), "stable-diffusion", "loras", ".safetensors"):
        assert word in text
    assert "Did you mean" not in text
    (tmp_path / "models").mkdir()
    assert f"Did you mean {tmp_path / 'models'}?" in empty_warning(tmp_path)


# --- changes ----------------------------------------------------------------------------------


def test_changes_are_noticed_by_the_times_of_folders(tmp_path: Path) -> None:
    path = put(tmp_path, "lora/sub/a.gguf")
    folders = scan(tmp_path).folders
    assert not folders_changed(folders)
    os.utime(tmp_path / "lora" / "sub", ns=(1, 1))
    assert folders_changed(folders)
    folders = scan(tmp_path).folders
    path.unlink()
    (tmp_path / "lora" / "sub").rmdir()
    assert folders_changed(folders)


# --- digests ----------------------------------------------------------------------------------


def only(root: Path) -> StoredFile:
    """The one file of a tree."""
    (stored,) = scan(root).files
    return stored


def test_digest_of_a_file(tmp_path: Path) -> None:
    put(tmp_path, "lora/a.gguf", b"12345")
    digest = hashlib.sha256(b"12345").hexdigest()
    assert digest_of(only(tmp_path), lambda: False) == digest
    assert digest_of(only(tmp_path), lambda: True) == ""


def test_a_file_that_changes_or_vanishes_has_no_digest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(tmp_path, "lora/a.gguf", b"12345")
    stored = only(tmp_path)
    path.write_bytes(b"123456")
    assert digest_of(stored, lambda: False) == ""
    path.unlink()
    assert digest_of(stored, lambda: False) == ""
    assert "cannot read" in caplog.text


def test_digests_are_remembered_for_content_that_is_unchanged(tmp_path: Path) -> None:
    path = put(tmp_path, "lora/a.gguf", b"12345")
    file = tmp_path / "cache" / "deep" / "digests.json"
    cache = DigestCache(file)
    cache.put(only(tmp_path), "d" * 64)
    cache.save(())
    assert DigestCache(file).get(only(tmp_path)) == "d" * 64
    os.utime(path, ns=(1, 1))
    assert DigestCache(file).get(only(tmp_path)) == ""
    assert [entry.name for entry in file.parent.iterdir()] == ["digests.json"]


def test_two_workers_share_the_file(tmp_path: Path) -> None:
    put(tmp_path / "one", "lora/a.gguf")
    put(tmp_path / "two", "lora/b.gguf")
    file = tmp_path / "digests.json"
    first, second = DigestCache(file), DigestCache(file)
    first.put(only(tmp_path / "one"), "1" * 64)
    second.put(only(tmp_path / "two"), "2" * 64)
    first.save(())
    second.save(())
    both = DigestCache(file)
    assert both.get(only(tmp_path / "one")) == "1" * 64
    assert both.get(only(tmp_path / "two")) == "2" * 64


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 9, "digests": []}', '{"format": 1, "digests": [1]}']
)
def test_a_damaged_cache_is_ignored_and_replaced(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "lora/a.gguf")
    file = put(tmp_path, "digests.json", content.encode())
    cache = DigestCache(file)
    assert "ignoring" in caplog.text
    cache.put(only(tmp_path), "d" * 64)
    cache.save(())
    assert json.loads(file.read_text())["digests"][0][3] == "d" * 64


def test_a_cache_that_cannot_be_written_is_warned_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "blocked")
    put(tmp_path, "lora/a.gguf")
    cache = DigestCache(tmp_path / "lora" / "a.gguf" / "digests.json")
    caplog.clear()
    cache.put(only(tmp_path), "d" * 64)
    cache.save(())
    cache.save(())
    assert caplog.text.count("cannot write") == 1
    assert cache.get(only(tmp_path)) == "d" * 64


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_cache_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    monkeypatch.setattr("sdistrib_worker.digests._ENTRIES_MAX", 2)
    for number in range(2 + beyond):
        put(tmp_path, f"lora/{number}.gguf")
    files = scan(tmp_path).files
    cache = DigestCache(tmp_path / "digests.json")
    for stored in files:
        cache.put(stored, "d" * 64)
    cache.save(files[:1])
    kept = [stored for stored in files if DigestCache(tmp_path / "digests.json").get(stored)]
    assert len(kept) == (1 if beyond else 2)


def test_the_cache_lies_where_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_file() == tmp_path / "sdistrib" / "digests.json"


# --- the librarian ----------------------------------------------------------------------------


class Desk:
    """A librarian at work, and what it published."""

    def __init__(self, root: Path) -> None:
        self.librarian = Librarian(root, DigestCache(root.parent / "digests.json"))
        self.published: queue.SimpleQueue[tuple[StoredFile, ...]] = queue.SimpleQueue()

    def begin(self) -> "Desk":
        """Let it work."""
        self.librarian.begin(self.published.put)
        return self

    def until(self, wanted: dict[str, bool]) -> None:
        """Wait for a list of these names, each with or without its digest."""
        deadline = time.monotonic() + 30
        seen: dict[str, bool] | None = None
        while seen != wanted:
            files = self.published.get(timeout=deadline - time.monotonic())
            seen = {stored.file.name: bool(stored.file.digest) for stored in files}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with one file, and a librarian's hours made short."""
    monkeypatch.setattr(inventory, "RESCAN_S", 0.02)
    monkeypatch.setattr(inventory, "FULL_RESCAN_S", 0.1)
    monkeypatch.setattr(inventory, "BATCH_S", 0.01)
    put(tmp_path, "models/lora/a.gguf", b"12345")
    return tmp_path / "models"


def test_names_come_first_and_digests_follow(root: Path) -> None:
    desk = Desk(root).begin()
    try:
        assert [stored.file.digest for stored in desk.librarian.first_files] == [""]
        desk.until({"a.gguf": True})
    finally:
        desk.librarian.stop()
    again = Librarian(root, DigestCache(root.parent / "digests.json"))
    assert again.first_files[0].file.digest == hashlib.sha256(b"12345").hexdigest()
    again.stop()


def test_files_that_come_grow_and_go_are_noticed(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    desk = Desk(root).begin()
    try:
        desk.until({"a.gguf": True})
        path = put(root, "lora/b.gguf", b"1")
        desk.until({"a.gguf": True, "b.gguf": True})
        first = hashlib.sha256(b"1").hexdigest()
        with path.open("ab") as file:  # grows in place: its folder does not change
            file.write(b"2")
        deadline = time.monotonic() + 30
        while True:
            files = {s.file.name: s.file for s in desk.published.get(timeout=30)}
            # While it changes it is not there at all.
            if "b.gguf" in files and files["b.gguf"].digest not in ("", first):
                break
            assert time.monotonic() < deadline
        path.unlink()
        desk.until({"a.gguf": True})
    finally:
        desk.librarian.stop()


def test_a_file_that_grows_is_announced_when_it_stands_still(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    librarian = Librarian(root, DigestCache(root.parent / "digests.json"))
    clock = [time.monotonic()]
    monkeypatch.setattr(inventory.time, "monotonic", lambda: clock[0])

    def seen() -> list[str]:
        clock[0] += inventory.RESCAN_S + 0.01  # sums of floats fall short
        librarian._look()
        return [stored.file.name for stored in librarian._scan.files]

    path = put(root, "lora/b.gguf", b"1")
    assert seen() == ["a.gguf"]
    for size in range(2, 20):  # more than a full walk's time
        path.write_bytes(b"1" * size)
        assert seen() == ["a.gguf"]
    assert seen() == ["a.gguf", "b.gguf"]


def test_a_file_that_is_half_there_at_the_start_is_not_announced(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = put(root, "lora/half.gguf", b"1")
    put(root, "lora/whole.gguf")
    old = put(root, "lora/old.gguf")
    os.utime(old, ns=(1, 1))
    monkeypatch.setattr(time, "sleep", lambda _s: half.write_bytes(b"12"))
    librarian = Librarian(root, DigestCache(root.parent / "digests.json"))
    assert [stored.file.name for stored in librarian.first_files] == [
        "a.gguf", "old.gguf", "whole.gguf",
    ]  # fmt: skip


def test_old_files_need_no_second_look(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(root / "lora" / "a.gguf", ns=(1, 1))
    monkeypatch.setattr(time, "sleep", lambda _s: pytest.fail("a look too many"))
    librarian = Librarian(root, DigestCache(root.parent / "digests.json"))
    assert [stored.file.name for stored in librarian.first_files] == ["a.gguf"]


def test_slow_folders_are_looked_at_less_often(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    librarian = Librarian(root, DigestCache(root.parent / "digests.json"))
    walks: list[float] = []
    clock = [1000.0]
    real = inventory.scan

    def slow(path: Path) -> inventory.Scan:
        walks.append(clock[0])
        clock[0] += 2.0
        return real(path)

    monkeypatch.setattr(inventory, "scan", slow)
    monkeypatch.setattr(inventory.time, "monotonic", lambda: clock[0])
    librarian._looked_at = librarian._walked_at = 1000.0
    for _ in range(1000):
        clock[0] += 0.1
        librarian._look()
    pauses = [second - first for first, second in itertools.pairwise(walks)]
    assert all(pause >= 2.0 * inventory._LOOK_PARTS for pause in pauses)
    assert len(pauses) >= 1


# --- several workers of one tree --------------------------------------------------------------


def test_a_file_is_read_by_one_worker_and_all_know_its_digest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        put(root, f"lora/{number}.gguf", str(number).encode())
    read: list[str] = []
    real = inventory.digest_of

    def counted(entry: StoredFile, stopped: Callable[[], bool]) -> str:
        read.append(entry.file.name)
        time.sleep(0.005)
        return real(entry, stopped)

    monkeypatch.setattr(inventory, "digest_of", counted)
    desks = [Desk(root) for _ in range(3)]
    try:
        for desk in desks:
            desk.begin()
        wanted = {"a.gguf": True, **{f"{number}.gguf": True for number in range(20)}}
        for desk in desks:
            desk.until(wanted)
    finally:
        for desk in desks:
            desk.librarian.stop()
    assert sorted(read) == sorted(wanted)


def test_turns_are_for_one_tree_and_end_with_their_holder(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "digests.json"
    one, two = DigestCache(file), DigestCache(file)
    assert one.take_turn(tmp_path)
    assert one.take_turn(tmp_path)
    assert not two.take_turn(tmp_path)
    assert two.take_turn(tmp_path / "other")
    two.end_turn()
    one.end_turn()
    assert two.take_turn(tmp_path)
    two.end_turn()


@pytest.mark.parametrize("fault", ["no folder", "no locks"])
def test_where_nothing_can_be_locked_each_computes_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    put(tmp_path, "file")
    if fault == "no locks":
        monkeypatch.setattr(fcntl, "flock", _no_locks)
    folder = tmp_path / "file" if fault == "no folder" else tmp_path
    caches = [DigestCache(folder / "digests.json") for _ in range(2)]
    assert [cache.take_turn(tmp_path) for cache in caches] == [True, True]
    for cache in caches:
        cache.end_turn()


def _no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_what_others_have_written_is_read_when_it_is_new(tmp_path: Path) -> None:
    put(tmp_path, "lora/a.gguf")
    file = tmp_path / "digests.json"
    one, two = DigestCache(file), DigestCache(file)
    assert not two.refresh()
    one.put(only(tmp_path), "d" * 64)
    one.save(())
    assert not one.refresh()
    assert two.refresh()
    assert two.get(only(tmp_path)) == "d" * 64
    assert not two.refresh()


# --- what stands still ------------------------------------------------------------------------


def stored(size: int, mtime_ns: int = 1, path: str = "/m/a") -> StoredFile:
    """A file as a walk finds it."""
    return StoredFile(ModelFile("lora", path.removeprefix("/m/"), size), path, mtime_ns)


def test_a_new_file_is_whole_at_the_second_look() -> None:
    settling = Settling()
    assert settling.whole([stored(1)]) == ()
    assert settling.moving == {"/m/a"}
    assert not settling.looked({"/m/a": (2, 1)})
    assert not settling.looked({"/m/a": (2, 5)})
    assert settling.looked({"/m/a": (2, 5)})
    assert settling.whole([stored(2, 5)]) == (stored(2, 5),)
    assert settling.moving == frozenset()
    assert not settling.looked({})


def test_a_file_that_is_touched_stays_and_one_that_changes_its_size_does_not() -> None:
    settling = Settling()
    settling.whole([stored(1)])
    settling.looked({"/m/a": (1, 1)})
    assert settling.whole([stored(1)]) == (stored(1),)
    assert settling.whole([stored(1, 2)]) == (stored(1, 2),)
    assert settling.whole([stored(3, 3)]) == ()
    # Another walk alone is no look: it may follow at once.
    assert settling.whole([stored(3, 3)]) == ()
    assert settling.looked({"/m/a": (3, 3)})
    assert settling.whole([stored(3, 3)]) == (stored(3, 3),)


def test_what_changes_between_look_and_walk_has_not_stood_still() -> None:
    settling = Settling()
    settling.whole([stored(1)])
    assert settling.looked({"/m/a": (1, 1)})
    assert settling.whole([stored(2)]) == ()
    assert settling.moving == {"/m/a"}


def test_a_moving_file_that_goes_is_a_change() -> None:
    settling = Settling()
    settling.whole([stored(1)])
    assert settling.looked({"/m/a": None})
    assert settling.whole([]) == ()
    assert settling.moving == frozenset()


def test_a_tree_that_vanishes_is_said_once_and_found_again(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(root).begin()
    try:
        desk.until({"a.gguf": True})
        root.rename(root.with_name("away"))
        desk.until({})
        root.with_name("away").rename(root)
        desk.until({"a.gguf": True})
    finally:
        desk.librarian.stop()
    assert caplog.text.count("Cannot read the folder") == 1
