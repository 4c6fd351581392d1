"""Names of output files as sd-cli gives them, and files that are there whole or not at all."""

import errno
import io
import os
import stat
from pathlib import Path

import pytest

from sdistrib_client import images
from sdistrib_client.errors import OutputError
from sdistrib_client.images import Outputs, write_atomically


@pytest.mark.parametrize(
    ("output", "count", "begin", "names"),
    [
        ("output.png", 1, 0, ["output.png"]),
        ("output.png", 1, 7, ["output.png"]),
        ("output.png", 3, 0, ["output_0.png", "output_1.png", "output_2.png"]),
        ("output.png", 2, 5, ["output_5.png", "output_6.png"]),
        ("OUT.PNG", 2, 0, ["OUT_0.PNG", "OUT_1.PNG"]),
        ("out", 1, 0, ["out.png"]),
        ("out", 2, 0, ["out_0.png", "out_1.png"]),
        ("out.bmp", 1, 0, ["out.bmp.png"]),
        ("v1.5/out", 1, 0, ["v1.5/out.png"]),
        ("out_%03d.png", 1, 0, ["out_000.png"]),
        ("out_%03d.png", 2, 9, ["out_009.png", "out_010.png"]),
        ("%d", 2, 0, ["0.png", "1.png"]),
        ("%d-%d.png", 1, 4, ["4-4.png"]),
        ("%5d.png", 1, 12, ["   12.png"]),
        ("100%%_%d.png", 1, 3, ["100%_3.png"]),
        ("%%%d.png", 1, 3, ["%3.png"]),
        ("100%%d.png", 1, 3, ["100%%d.png"]),
        ("100%%.png", 2, 0, ["100%%_0.png", "100%%_1.png"]),
        ("%00d.png", 1, 8, ["8.png"]),
        ("%0004d.png", 1, 8, ["%0004d.png"]),
        ("run%d/a.png", 2, 0, ["run0/a.png", "run1/a.png"]),
        (".png", 1, 0, [".png.png"]),
    ],
)
def test_names_are_those_of_sd_cli(output, count, begin, names):
    outputs = Outputs(output, count, begin)
    assert [str(outputs.path(index)) for index in range(count)] == names


@pytest.mark.parametrize(
    ("output", "format_", "count", "names"),
    [
        ("out.jpg", "jpeg", 2, ["out_0.jpg", "out_1.jpg"]),
        ("out.JPEG", "jpeg", 1, ["out.JPEG"]),
        ("out.jpe", "jpeg", 1, ["out.jpe"]),
        ("out.webp", "webp", 1, ["out.webp"]),
        ("out_%02d.webp", "webp", 1, ["out_00.webp"]),
        ("out", "jpeg", 1, ["out.jpg"]),
        ("out.bmp", "webp", 1, ["out.bmp.webp"]),
        ("v1.5", "jpeg", 2, ["v1.5_0.jpg", "v1.5_1.jpg"]),
    ],
)
def test_the_extension_says_the_format_and_another_name_gets_it(output, format_, count, names):
    outputs = Outputs(output, count, format_=format_)
    assert [str(outputs.path(index)) for index in range(count)] == names


@pytest.mark.parametrize(
    ("output", "format_", "usual"),
    [("a.png", "jpeg", "a.jpg"), ("a.b.jpg", "webp", "a.b.webp"), ("a.webp", "png", "a.png")],
)
def test_an_extension_of_another_format_is_refused_with_the_right_one(output, format_, usual):
    with pytest.raises(OutputError, match=f"name it {usual}"):
        Outputs(output, 1, format_=format_)


def test_a_picture_of_another_format_than_the_rest_gets_its_own_extension(tmp_path):
    outputs = Outputs(str(tmp_path / "a.png"), 3)
    assert outputs.write(0, b"x", "png") == tmp_path / "a_0.png"
    assert outputs.write(1, b"x", "webp") == tmp_path / "a_1.webp"
    assert outputs.write(2, b"x", "tiff") == tmp_path / "a_2.tiff"


@pytest.mark.parametrize("suffix", [".avi", ".webm", ".AVI"])
def test_formats_of_videos_are_refused_for_pictures_by_name(suffix):
    with pytest.raises(OutputError, match=f"{suffix} is for videos, which -M vid_gen draws"):
        Outputs(f"out{suffix}", 1)


@pytest.mark.parametrize("output", ["", "a\0b", "folder/"])
def test_what_is_no_file_name_is_refused(output):
    with pytest.raises(OutputError, match="is no file name"):
        Outputs(output, 1)


def test_standard_output_takes_one_picture():
    assert Outputs("-", 1).path(0) is None
    with pytest.raises(OutputError, match="one picture"):
        Outputs("-", 2)


def test_a_picture_to_standard_output_is_its_bytes(capfdbinary):
    outputs = Outputs("-", 1)
    outputs.check()
    assert outputs.write(0, b"\x89PNG") is None
    assert capfdbinary.readouterr().out == b"\x89PNG"


def test_a_closed_standard_output_is_a_typed_error():
    class Closed(io.RawIOBase):
        def write(self, _data: object) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(OutputError, match="Broken pipe"):
        images.write_stream(Closed(), b"x")


def test_the_check_makes_folders_and_leaves_nothing_behind(tmp_path):
    Outputs(str(tmp_path / "a" / "b" / "out.png"), 2).check()
    assert (tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_the_check_finds_a_folder_in_the_way(tmp_path):
    (tmp_path / "out_1.png").mkdir()
    with pytest.raises(OutputError, match=r"out_1\.png: it is a folder"):
        Outputs(str(tmp_path / "out.png"), 2).check()


def test_the_check_finds_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        OutputError, match=r"Cannot write .*out\.png: (File exists|Not a directory)"
    ):
        Outputs(str(tmp_path / "file" / "out.png"), 1).check()


def test_a_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "out.png")
    with pytest.raises(OutputError, match="no regular file"):
        Outputs(str(tmp_path / "out.png"), 1).check()


def test_the_check_finds_a_folder_without_rights(tmp_path, monkeypatch):
    def forbidden(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Root may write everywhere; give the answer that others get.
    monkeypatch.setattr(images.os, "open", forbidden)
    with pytest.raises(OutputError, match=r"Cannot write .*out\.png: Permission denied"):
        Outputs(str(tmp_path / "out.png"), 1).check()


def test_a_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    path.write_bytes(b"precious")
    # Root may write everything; ask for the answer that others get.
    monkeypatch.setattr(images.os, "access", lambda _path, _mode: False)
    with pytest.raises(OutputError, match="write-protected"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"precious"


def test_writing_replaces_an_older_file_and_makes_folders(tmp_path):
    path = tmp_path / "deep" / "out.png"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["out.png"]


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "out.png", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "out.png"
    link.symlink_to(tmp_path / "elsewhere" / "real.png")
    write_atomically(link, b"x")
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "real.png").read_bytes() == b"x"


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        write_atomically(path, b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_the_bytes_are_on_disk_before_the_name_is(tmp_path, monkeypatch):
    story = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        story.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real_fsync(handle)

    def replace(path: Path, target: Path) -> Path:
        story.append("name")
        return real_replace(path, target)

    monkeypatch.setattr(images.os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(tmp_path / "out.png", b"x")
    assert story == ["file", "name", "folder"]
