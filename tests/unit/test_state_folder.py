"""The folder that holds everything a manager keeps: its lock, its ballast, its trouble."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdistrib import limits
from sdistrib.errors import ConfigError, StoreError
from sdistrib_manager import storage as storage_module
from sdistrib_manager.effects import Keep
from sdistrib_manager.folder import StateFolder
from sdistrib_manager.rows import Clock, Forget
from sdistrib_manager.state import Settings
from sdistrib_manager.storage import Storage, open_folder, open_memory
from sdistrib_manager.store.files import BALLAST_BYTES
from sdistrib_manager.store.memory import MemoryBlobs, MemoryStore
from tests.support.kept import CANARY, full_disk, grep, petition, pid

SETTINGS = Settings("sdistrib test")


def test_a_second_manager_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    first = open_folder(SETTINGS, tmp_path / "state")
    with pytest.raises(ConfigError, match="Another manager uses"):
        open_folder(SETTINGS, tmp_path / "state")
    first.commit([Keep(petition())])
    first.close()
    second = open_folder(SETTINGS, tmp_path / "state")
    assert len(second.store.load().petitions) == 1
    second.close()


@pytest.mark.process
def test_a_killed_manager_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from sdistrib_manager.folder import StateFolder\n"
        "folder = StateFolder(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(ConfigError, match="Another manager"):
            StateFolder(tmp_path)
        owner.kill()
    StateFolder(tmp_path).close()


def test_a_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    StateFolder(tmp_path / "a" / "b").close()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_what_is_no_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"--state .*file"):
        StateFolder(tmp_path / "file")


def test_the_ballast_is_there_goes_and_comes_back(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    ballast = tmp_path / "ballast"
    assert ballast.stat().st_size == BALLAST_BYTES
    assert ballast.stat().st_blocks * 512 >= BALLAST_BYTES, "reserved, not only promised"
    folder.drop_ballast()
    folder.drop_ballast()
    assert not ballast.exists()
    folder.take_ballast()
    assert ballast.stat().st_size == BALLAST_BYTES
    folder.close()


def test_without_room_for_it_there_is_no_ballast_and_no_half_of_it(tmp_path: Path) -> None:
    with full_disk(BALLAST_BYTES // 2):
        folder = StateFolder(tmp_path)
        assert not (tmp_path / "ballast").exists()
        with pytest.raises(StoreError, match="no space"):
            folder.take_ballast()
    folder.close()


def test_a_ballast_that_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / "ballast").write_bytes(b"")
    StateFolder(tmp_path).close()
    assert (tmp_path / "ballast").stat().st_size == BALLAST_BYTES


# --- trouble ----------------------------------------------------------------------------------


def test_a_full_disk_is_trouble_until_there_is_room_for_the_ballast_too(tmp_path: Path) -> None:
    kept = open_folder(SETTINGS, tmp_path)
    kept.commit([Keep(petition(1))])
    with full_disk(200_000):
        with pytest.raises(StoreError) as full:
            kept.commit([Keep(petition(2, body=bytes(500_000)))])
        manager = kept.manager(100.0, 0.0, trouble=str(full.value))
        assert manager.state.store_trouble
        assert len(manager.state.queue.entries) + len(manager.state.tombstones) == 1
        assert not (tmp_path / "ballast").exists()
        # What needs little room goes on: that is what the ballast was for.
        kept.commit([Keep(Forget(pid(1)))])
        assert not kept.recovered(102.0)
    assert not kept.recovered(102.5), "it is tried once a second"
    assert kept.recovered(103.1)
    assert (tmp_path / "ballast").exists()
    assert not kept.recovered(110.0), "it is told once"
    kept.close()


def test_in_trouble_what_nothing_depends_on_is_left_out(tmp_path: Path) -> None:
    kept = open_folder(SETTINGS, tmp_path)
    kept.manager(0.0, 0.0, trouble="the disk is full")
    with full_disk(0):
        kept.commit([Keep(Clock(5.0), soft=True)])
        with pytest.raises(StoreError):
            kept.commit([Keep(Clock(5.0))])
    assert kept.recovered(2.0)
    kept.commit([Keep(Clock(7.0), soft=True)])
    assert kept.store.load().uptime_s == 7.0
    kept.close()


# --- forgetting -------------------------------------------------------------------------------


class Reluctant(MemoryStore):
    """A store that somebody reads, so that its log cannot be emptied now."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0
        self.reader = True

    def checkpoint(self) -> None:
        self.tries += 1
        if self.reader:
            raise StoreError("another program reads it")


def test_a_checkpoint_that_failed_is_tried_again_until_it_works() -> None:
    store = Reluctant()
    kept = Storage(SETTINGS, store, MemoryBlobs())
    kept.checkpoint(0.0)
    kept.recovered(0.5)
    assert store.tries == 1
    kept.recovered(1.1)
    store.reader = False
    kept.recovered(2.2)
    assert store.tries == 3
    kept.recovered(100.0)
    assert store.tries == 3


def test_a_manager_that_was_killed_before_its_checkpoint_has_it_done_by_the_next(
    tmp_path: Path,
) -> None:
    kept = open_folder(SETTINGS, tmp_path)
    kept.commit([Keep(petition(body=CANARY * 100))])
    kept.commit([Keep(Forget(pid(1)))])
    files = {path.name: path.read_bytes() for path in tmp_path.glob("state.db*")}
    kept.close()
    for name, data in files.items():  # as a kill leaves them
        (tmp_path / name).write_bytes(data)
    assert grep(tmp_path, CANARY)
    again = open_folder(SETTINGS, tmp_path)
    again.recovered(0.0)
    assert not grep(tmp_path, CANARY)
    again.close()


def test_a_large_picture_is_read_once_for_all_its_pieces(tmp_path: Path) -> None:
    kept = open_folder(SETTINGS, tmp_path)
    digest, small = _put(kept, bytes(limits.CHUNK_BYTES + 1)), _put(kept, b"small")
    first = kept.view(digest, 0.0)
    assert kept.view(digest, 0.0) is first
    assert kept.view(small, 0.0) is not kept.view(small, 0.0), "one piece needs no second reading"
    kept.checkpoint(0.0)
    assert kept.view(digest, 0.0) is not first, "what was forgotten is not in memory either"
    kept.close()


def test_a_picture_larger_than_all_room_is_still_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "_VIEWS_BYTES_MAX", 2500)
    kept = open_folder(SETTINGS, tmp_path)
    kept.remember("aa", [b"waits to be sent"], 0.0)
    digest = _put(kept, bytes(limits.CHUNK_BYTES + 1))
    assert kept.view(digest, 0.0) is kept.view(digest, 0.0)
    with pytest.raises(StoreError):
        kept.view("aa", 0.0)
    kept.close()


def test_a_picture_on_its_way_to_the_disk_is_sent_from_memory_unless_it_is_huge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "_VIEWS_BYTES_MAX", 100)
    kept = open_folder(SETTINGS, tmp_path)
    kept.remember("aa", [b"one piece"], 0.0)
    kept.remember("bb", [b"two ", b"pieces"], 0.0)
    assert (kept.view("aa", 0.0), kept.view("bb", 0.0)) == (b"one piece", b"two pieces")
    kept.remember("cc", [bytes(60), bytes(41)], 0.0)
    with pytest.raises(StoreError):
        kept.view("cc", 0.0)
    kept.checkpoint(0.0)
    with pytest.raises(StoreError):
        kept.view("aa", 0.0)
    kept.close()


def _put(kept: Storage, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    kept.blobs.put(digest, [data])
    return digest


def test_memory_keeps_nothing_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = open_memory(SETTINGS)
    kept.commit([Keep(petition())])
    assert len(kept.manager(0.0, 0.0).state.queue.entries) <= 1
    kept.checkpoint(0.0)
    kept.close()
    assert list(tmp_path.iterdir()) == []
