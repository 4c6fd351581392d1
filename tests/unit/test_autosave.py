"""Copies on the worker's own disk: their names, their disk, and when there is one at all."""

import dataclasses
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdistrib.errors import ConfigError
from sdistrib.protocol import messages as wire
from sdistrib_worker import autosave, naming
from sdistrib_worker import effects as fx
from sdistrib_worker.autosave import Autosaver
from sdistrib_worker.naming import (
    DEFAULT_TEMPLATE,
    FIELDS,
    SavedFacts,
    alternatives,
    check_template,
    name_of,
)
from tests.support.rig import Rig, attempt, of, one, said

NOON = time.struct_time((2026, 11, 22, 12, 0, 5, 6, 326, 0))


def facts(**changes: Any) -> SavedFacts:
    """A picture as ordinary as they come."""
    plain = SavedFacts(
        id="0123456789abcdef" * 2, index=3, seed=45, model="people/sd_xl_1.0.safetensors", width=64,
        height=32, steps=4, sampler="euler", scheduler="discrete", worker="box", format="png",
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def called(template: str, **changes: Any) -> str:
    return name_of(check_template(template), facts(**changes), "2026-11-22", "12-00-05")


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "changes", "name"),
    [
        (DEFAULT_TEMPLATE, {}, "2026-11-22/sd_xl_1.0-45.png"),
        ("{model}", {}, "sd_xl_1.0.png"),
        ("{id}_{index}", {"format": "jpeg"}, "01234567_3.jpg"),
        ("{worker}/{time} {width}x{height}", {"format": "webp"}, "box/12-00-05 64x32.webp"),
        ("{steps} {sampler} {scheduler}", {}, "4 euler discrete.png"),
        ("{{{seed}}}", {}, "{45}.png"),
        # What comes from outside stays one part of a name.
        ("{model}-{seed}", {"model": "../../etc/passwd"}, "passwd-45.png"),
        ("{worker}/x", {"worker": "../up"}, "_up/x.png"),
        ("{worker}/x", {"worker": ".."}, "_/x.png"),
        ("a{worker}", {"worker": "/etc\\x:y\n\0é"}, "a_etc_x_y__é.png"),
        ("{worker}", {"worker": ".hidden. "}, "hidden.png"),
        ("{worker}", {"worker": ""}, "_.png"),
        ("{worker}", {"worker": "CON"}, "_CON.png"),
        ("{worker}/{seed}", {"worker": "lpt1.x"}, "_lpt1.x/45.png"),
        ("{worker}", {"worker": "x" * 500}, "x" * 100 + ".png"),
        ("{worker}{worker}{worker}", {"worker": "é" * 500}, "é" * 100 + ".png"),
    ],
)
def test_a_name_is_what_the_template_says_and_never_more(template, changes, name):
    assert called(template, **changes) == name


@pytest.mark.parametrize(
    "template",
    [
        "", "/x", "x/", "../x", "a/../x", "./x", "a//b", "a\\b", "a\0b", "{prompt}", "{}", "{0}",
        "{seed:>9}", "{seed!r}", "{model.__class__}", "{model", "x}",
    ],
)  # fmt: skip
def test_a_template_that_is_none_is_refused_at_the_start(template):
    with pytest.raises(ConfigError, match="--autosave-name"):
        check_template(template)


def test_an_unknown_field_is_answered_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"\{prompt\} is unknown.*date, time, id"):
        check_template("{prompt}")


@given(
    st.lists(st.sampled_from([f"{{{field}}}" for field in FIELDS]), min_size=1, max_size=6),
    st.text(max_size=300),
    st.text(max_size=300),
)
def test_no_text_leads_out_of_the_folder(parts, model, worker):
    name = called("-".join(parts) + "/" + parts[0], model=model, worker=worker)
    assert name.count("/") == 1
    for part in name.split("/"):
        assert part not in ("", ".", "..")
        assert not part.startswith(".")
        assert len(os.fsencode(part)) <= naming._NAME_BYTES + len(".png")
        assert not set(part) & set('\\:*?"<>|\0\n')


def test_a_name_that_is_taken_gets_a_number():
    names = alternatives("a/b.c.png")
    assert [next(names) for _ in range(3)] == ["a/b.c.png", "a/b.c-1.png", "a/b.c-2.png"]


# --- the disk ---------------------------------------------------------------------------------


def saver(folder: Path, template: str = "{seed}") -> Autosaver:
    return Autosaver(folder, template, lambda: NOON)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_pictures_are_kept_in_order_and_nothing_is_overwritten(tmp_path):
    (tmp_path / "45-1.png").write_bytes(b"mine")
    made = saver(tmp_path)
    for data in (b"one", b"two", b"three"):
        made.order(fx.SavePicture(facts(), data))
    made.stop()
    assert files(tmp_path) == {
        "45.png": b"one", "45-1.png": b"mine", "45-2.png": b"two", "45-3.png": b"three",
    }  # fmt: skip


def test_folders_are_made_by_the_local_date(tmp_path):
    made = saver(tmp_path / "deep" / "er", DEFAULT_TEMPLATE)
    made.order(fx.SavePicture(facts(), b"one"))
    made.stop()
    assert files(tmp_path) == {"deep/er/2026-11-22/sd_xl_1.0-45.png": b"one"}


def test_a_folder_that_cannot_be_is_refused_at_the_start(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--autosave .*file"):
        saver(tmp_path / "file")
    with pytest.raises(ConfigError, match="Not a directory"):
        saver(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="cannot write there"):
        saver(tmp_path)


class _Full:
    """A disk that takes half of what it is given, then nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        real = Path.open

        def opened(path: Path, *words: Any, **more: Any) -> Any:
            file = real(path, *words, **more)
            if self.full:
                write = file.write

                class Half:
                    def __enter__(self) -> Any:
                        return self

                    def __exit__(self, *_: object) -> None:
                        file.close()

                    def write(self, data: bytes) -> None:
                        write(data[: len(data) // 2])
                        raise OSError(28, "No space left on device")

                return Half()
            return file

        monkeypatch.setattr(Path, "open", opened)


def test_a_full_disk_is_said_once_leaves_no_half_picture_and_is_forgotten(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    disk = _Full(monkeypatch)
    made = saver(tmp_path)
    for _ in range(3):
        made.order(fx.SavePicture(facts(), b"picture"))
    made.stop()
    assert caplog.text.count("not saved") == 1
    assert "No space left" in caplog.text
    assert files(tmp_path) == {}
    disk.full = False
    again = saver(tmp_path)
    again._trouble = True
    again.order(fx.SavePicture(facts(), b"picture"))
    again.stop()
    assert caplog.text.count("are saved in") == 1
    assert files(tmp_path) == {"45.png": b"picture"}


def test_a_disk_that_hangs_delays_nobody_and_what_is_too_much_is_dropped(
    tmp_path, monkeypatch, caplog
):
    go_on = threading.Event()
    real = autosave.name_of

    def slow(*words: Any) -> str:
        go_on.wait(30)
        return real(*words)

    monkeypatch.setattr(autosave, "name_of", slow)
    monkeypatch.setattr(autosave, "WAITING_MAX", 2)
    made = saver(tmp_path)
    for _ in range(9):
        made.order(fx.SavePicture(facts(), b"x"))
    assert caplog.text.count("wait for the disk") == 1
    go_on.set()
    made.stop()
    # One at the disk at most, beside those that may wait.
    assert 2 <= len(files(tmp_path)) <= 3


def test_so_many_files_of_one_name_are_trouble(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(autosave, "_TRIES_MAX", 2)
    made = saver(tmp_path)
    for _ in range(3):
        made.order(fx.SavePicture(facts(), b"x"))
    made.stop()
    assert len(files(tmp_path)) == 2
    assert "2 files are called 45.png" in caplog.text


# --- which pictures ---------------------------------------------------------------------------


def test_a_picture_is_saved_after_it_was_handed_over():
    rig = Rig(autosave=True)
    rig.connect()
    ticket = rig.begin(attempt(2), seed=100)
    rig.draw(ticket, sampling_method="euler", scheduler="karras")
    made = rig.encoded(attempt(2), b"file")
    saved = one(of(made, fx.SavePicture))
    assert saved.data == b"file"
    assert saved.facts == SavedFacts(
        id=attempt().id, index=2, seed=102, model="tiny.safetensors", width=64, height=64, steps=4,
        sampler="euler", scheduler="karras", worker="box", format="png",
    )  # fmt: skip
    sent = next(place for place, effect in enumerate(made) if isinstance(effect, fx.Send))
    assert sent < made.index(saved)


def test_a_picture_is_saved_while_the_manager_is_away():
    rig = Rig(autosave=True)
    rig.connect()
    ticket = rig.begin(attempt())
    rig.turn(after_s=31.0)
    rig.draw(ticket)
    made = rig.encoded(attempt())
    assert not said(made)
    assert one(of(made, fx.SavePicture)).data == b"png"


def test_nothing_is_saved_of_what_nobody_wants_or_where_nobody_asked():
    rig = Rig(autosave=True)
    rig.connect()
    ticket = rig.begin(attempt())
    rig.draw(ticket)
    rig.hear(wire.Abandon(attempt=attempt()))
    assert not of(rig.encoded(attempt()), fx.SavePicture)
    plain = Rig()
    plain.connect()
    plain.draw(plain.begin(attempt()))
    assert not of(plain.encoded(attempt()), fx.SavePicture)
