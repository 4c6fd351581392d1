"""Videos at the client: which file each -o makes of them, and what is told before and after."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import av
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from sdistrib import limits
from sdistrib.errors import EXIT_USAGE
from sdistrib.infotext import parse_chunk
from sdistrib_client import composing, reading, video
from sdistrib_client.cli.commands import cli
from sdistrib_client.errors import OutputError
from sdistrib_client.films import FilmOutputs
from sdistrib_client.pictures import Picture
from sdistrib_worker.frames import encode_film
from tests.unit.test_client_cli import FakeClient, FakeDrawing, client
from tests.unit.test_client_verbs import row
from tests.unit.test_infotext import facts

__all__ = ["client"]  # a fixture

SIZE = (48, 32)
FILM: dict[str, Any] = {"mode": "vid_gen", "format": "webp", "lossless": True}


def grey(level: int) -> bytes:
    """One frame of one grey."""
    return bytes([level]) * (SIZE[0] * SIZE[1] * 3)


def film(levels: Sequence[int] = (10, 60, 110, 160, 210), fps: int = 8, **made: Any) -> bytes:
    """A video of grey frames, as a worker makes it."""
    about = facts(**FILM, fps=fps, width=SIZE[0], height=SIZE[1], **made) if made else None
    return encode_film(b"".join(map(grey, levels)), (*SIZE, 3, len(levels)), about, fps)[0]


def levels_of(data: bytes, fps: int = 8) -> list[int]:
    """The grey of each frame."""
    found = [frame.tobytes() for frame in video.frames(data, fps)]
    assert found == [grey(raw[0]) for raw in found]
    return [raw[0] for raw in found]


def played(path: Path) -> tuple[str, float, list[int]]:
    """Codec, frame rate and the grey of each frame, as FFmpeg's libraries read a file."""
    with av.open(path) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        rate = float(stream.average_rate or 0)
        assert (stream.width, stream.height) == SIZE
        return stream.codec_context.name, rate, [round(float(frame.mean())) for frame in frames]


def hide_av(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were not installed."""
    find = importlib.util.find_spec

    def found(name: str) -> Any:
        return None if name == "av" else find(name)

    monkeypatch.setattr(importlib.util, "find_spec", found)


# --- frames -----------------------------------------------------------------------------------


def test_frames_come_back_in_order() -> None:
    assert levels_of(film()) == [10, 60, 110, 160, 210]


@pytest.mark.parametrize("fps", [1, 7, 16, 24, 60, 120])
@pytest.mark.parametrize("levels", [[1, 1, 9], [1, 9, 9, 9, 2, 2], [5, *[6] * 99, 7], [1, 2]])
def test_equal_neighbours_are_joined_in_the_file_and_come_apart_again(fps, levels):
    data = film(levels, fps)
    with Image.open(io.BytesIO(data)) as joined:
        assert joined.n_frames <= len(levels)  # type: ignore[attr-defined]
    assert levels_of(data, fps) == levels


def test_of_a_video_that_does_not_move_one_picture_is_left() -> None:
    assert levels_of(film([7] * 5)) == [7]


def test_one_frame_is_a_video_too() -> None:
    assert levels_of(film([7])) == [7]


def test_frames_at_n_and_n_plus_1(monkeypatch) -> None:
    monkeypatch.setattr(limits, "VIDEO_FRAMES_MAX", 5)
    assert len(levels_of(film())) == 5
    assert len(levels_of(film([1, 2, 3, 4, 5, 6]))) == limits.VIDEO_FRAMES_MAX
    # A frame that claims to be shown for hours makes no endless list either.
    assert levels_of(film([1, 9], 1), 120) == [1] * 5


@pytest.mark.parametrize("data", [b"", b"RIFF", b"no video", film()[:40]])
def test_what_is_no_video_is_a_typed_error(data, tmp_path):
    with pytest.raises(OutputError, match="The video is"):
        list(video.frames(data, 8))
    for suffix in (".avi", ".webm"):
        with pytest.raises(OutputError, match="The video is"):
            video.convert(data, suffix, 8)
    with pytest.raises(OutputError, match="The video is"):
        FilmOutputs(str(tmp_path / "a.png"), 1, 0, 8).write(0, data)
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_damaged_anywhere_is_read_or_refused() -> None:
    whole, chance = film(), random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with contextlib.suppress(OutputError):
            assert len(list(video.frames(bytes(damaged), 8))) <= limits.VIDEO_FRAMES_MAX


def test_a_video_too_large_to_be_decoded_safely_is_not(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(OutputError, match="damaged"):
        list(video.frames(film(), 8))


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "images", "names"),
    [
        ("clip.webp", 1, ["clip.webp"]),
        ("clip", 1, ["clip.webp"]),
        ("clip.mp4", 1, ["clip.mp4.webp"]),
        ("clip.webp", 2, ["clip_0.webp", "clip_1.webp"]),
        ("clip_%02d.webp", 2, ["clip_00.webp", "clip_01.webp"]),
    ],
)
def test_webp_is_the_file_as_it_came(tmp_path, output, images, names):
    outputs = FilmOutputs(str(tmp_path / output), images, 0, 8)
    outputs.check()
    paths = [outputs.write(index, film()) for index in range(images)]
    assert paths == [tmp_path / name for name in names]
    assert all(path.read_bytes() == film() for path in paths if path)


@pytest.mark.parametrize(
    ("output", "images", "names"),
    [
        ("clip.avi", 1, ["clip.avi"]),
        ("CLIP.AVI", 1, ["CLIP.AVI"]),
        ("a.b.webm", 1, ["a.b.webm"]),
        ("clip.webm", 2, ["clip_3.webm", "clip_4.webm"]),
        ("clip_%02d.avi", 2, ["clip_03.avi", "clip_04.avi"]),
    ],
)
def test_containers_hold_each_frame_at_its_time(tmp_path, output, images, names):
    outputs = FilmOutputs(str(tmp_path / output), images, 3, 8)
    outputs.check()
    paths = [outputs.write(index, film([10, 10, 110, 160, 210])) for index in range(images)]
    assert paths == [tmp_path / name for name in names]
    codec = "mjpeg" if output.lower().endswith(".avi") else "vp9"
    for path in paths:
        assert path is not None
        name, rate, levels = played(path)
        assert (name.removeprefix("lib").removeprefix("vpx-"), rate) == (codec, 8.0)
        assert len(levels) == 5
        assert all(abs(a - b) <= 3 for a, b in zip(levels, [10, 10, 110, 160, 210], strict=True))


@pytest.mark.parametrize("suffix", [".avi", ".webm"])
def test_quality_is_fixed_and_no_rate_is_held(suffix):
    """Noise is what a bound on the rate would ruin first."""
    size = (160, 128)
    raw = random.Random(1).randbytes(20 * 16 * 3)
    small = Image.frombytes("RGB", (20, 16), raw).resize(size, Image.Resampling.BICUBIC)
    turned = [small.rotate(angle) for angle in (0, 90, 180, 270)]
    data = encode_film(b"".join(one.tobytes() for one in turned), (*size, 3, 4), None, 8)[0]
    with av.open(io.BytesIO(video.convert(data, suffix, 8))) as file:
        shown = [frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0)]
    for one, other in zip(turned, shown, strict=True):
        errors = [abs(a - b) for a, b in zip(one.tobytes(), other, strict=True)]
        assert sum(errors) / len(errors) < 2.0


@pytest.mark.parametrize(
    ("output", "images", "begin", "names"),
    [
        ("f.png", 1, 0, [f"f_{n:03d}.png" for n in range(5)]),
        ("f.JPG", 1, 0, [f"f_{n:03d}.JPG" for n in range(5)]),
        ("f_%03d.png", 1, 0, [f"f_{n:03d}.png" for n in range(5)]),
        ("%d.jpeg", 1, 7, [f"{n}.jpeg" for n in range(7, 12)]),
        ("f.png", 2, 4, [f"f_{i}_{n:03d}.png" for i in (4, 5) for n in range(5)]),
    ],
)
def test_a_pictures_extension_makes_a_file_of_each_frame(tmp_path, output, images, begin, names):
    outputs = FilmOutputs(str(tmp_path / output), images, begin, 8)
    outputs.check()
    for index in range(images):
        assert outputs.path(index) == outputs.write(index, film()) == tmp_path / names[index * 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    kind, tolerance = ("PNG", 0) if output.endswith("png") else ("JPEG", 2)
    for name, level in zip(names[:5], (10, 60, 110, 160, 210), strict=True):
        with Image.open(tmp_path / name) as frame:
            assert (frame.format, frame.size) == (kind, SIZE)
            assert abs(frame.convert("RGB").getpixel((0, 0))[0] - level) <= tolerance  # type: ignore[index]


def test_numbered_frames_are_those_of_one_video() -> None:
    with pytest.raises(OutputError, match="numbers the frames of one video"):
        FilmOutputs("f_%03d.png", 2, 0, 8)


def test_standard_output_gets_the_file_as_it_came(capfdbinary) -> None:
    outputs = FilmOutputs("-", 1, 0, 8)
    outputs.check()
    assert outputs.path(0) is None
    assert outputs.write(0, film()) is None
    assert capfdbinary.readouterr().out == film()
    with pytest.raises(OutputError, match="one picture"):
        FilmOutputs("-", 2, 0, 8)


def test_without_pyav_everything_else_is_written(monkeypatch, tmp_path):
    hide_av(monkeypatch)
    for suffix in (".avi", ".webm", ".AVI"):
        with pytest.raises(OutputError, match=r"pip install 'sdistrib\[video\]'"):
            FilmOutputs(str(tmp_path / f"a{suffix}"), 1, 0, 8)
    for suffix in (".webp", ".png", ".jpg", ""):
        FilmOutputs(str(tmp_path / f"a{suffix}"), 1, 0, 8).write(0, film())


def test_what_ffmpeg_cannot_do_is_a_typed_error(monkeypatch) -> None:
    monkeypatch.setitem(video._CONTAINERS, ".avi", ("avi", "libvpx-vp9", "yuvj444p", {}))
    with pytest.raises(OutputError, match=r"cannot be made into \.avi"):
        video.convert(film(), ".avi", 8)


# --- the command ------------------------------------------------------------------------------


class Drawing(FakeDrawing):
    def __iter__(self):  # type: ignore[no-untyped-def]
        for one in super().__iter__():
            yield shown(one, self.petition.params.mode)


def shown(one: Picture, mode: str) -> Picture:
    return dataclasses.replace(one, data=film() if mode == "vid_gen" else one.data)


@pytest.fixture
def farm(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    """A manager that gives videos, and knows no model."""

    def draw(self: FakeClient, petition: Any, **callbacks: Any) -> Drawing:
        type(self).petitions.append(petition)
        return Drawing(self, petition, **callbacks)

    monkeypatch.setattr(client, "draw", draw)
    monkeypatch.setattr(client, "models", lambda self: (), raising=False)
    return client


def run(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, ["h", *words], prog_name="sdistrib-client", env=env)


DRAW = ("-M", "vid_gen", "-m", "m", "-p", "a wave", "--video-frames", "5", "--fps", "8")


@pytest.mark.parametrize(
    ("words", "env", "names"),
    [
        (["-o", "clip.webp"], {}, ["clip.webp"]),
        (["-o", "clip.avi"], {"SDISTRIB_FORMAT": "jpeg"}, ["clip.avi"]),
        (["-o", "f_%03d.png"], {}, [f"f_{n:03d}.png" for n in range(5)]),
        ([], {}, ["output.webp"]),
        (["-b", "2"], {}, ["output_0.webp", "output_1.webp"]),
        (["--format", "webp", "-o", "a.webm"], {}, ["a.webm"]),
    ],
)
def test_a_video_is_asked_for_in_one_format_and_written_as_o_says(farm, words, env, names):
    result = run(*DRAW, *words, env=env)
    assert result.exit_code == 0, result.output
    params = farm.petitions[-1].params
    assert (params.mode, params.video_frames, params.fps) == ("vid_gen", 5, 8)
    assert (params.format, params.lossless, params.quality) == ("webp", True, None)
    assert sorted(path.name for path in Path().iterdir()) == names


@pytest.mark.parametrize("mode", ["vid_gen", "img2vid"])
def test_both_words_for_the_mode_mean_a_video(farm, mode):
    Image.new("RGB", (40, 24)).save("a.png")
    result = run("-M", mode, "-m", "m", "-p", "x", "-i", "a.png", "-o", "f.png")
    assert result.exit_code == 0, result.output
    params = farm.petitions[-1].params
    assert (params.mode, params.format, params.width, params.height) == ("vid_gen", "webp", 40, 24)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--format", "png"], "travels as lossless webp"),
        (["--quality", "80"], "is for lossy files"),
        (["-b", "2", "-o", "f_%d.png"], "numbers the frames of one video"),
        (["--video-frames", "514"], "allowed is a whole number from 1 to 513"),
        (["--fps", "0"], "--fps"),
        (["--mask", "a.png"], "--mask"),
    ],
)
def test_what_makes_no_video_is_refused_before_anything_is_asked(farm, words, text):
    Image.new("RGB", (40, 24)).save("a.png")
    result = run(*DRAW, *words)
    assert result.exit_code == EXIT_USAGE, result.output
    assert text in result.stderr
    assert (farm.made, farm.petitions) == ([], [])


def test_a_missing_pyav_is_an_error_before_anything_is_drawn(farm, monkeypatch):
    hide_av(monkeypatch)
    result = run(*DRAW, "-o", "clip.avi")
    assert result.exit_code == EXIT_USAGE
    assert "sdistrib[video]" in result.stderr
    assert (farm.made, farm.petitions, list(Path().iterdir())) == ([], [], [])


def test_a_video_is_drawn_again_and_all_its_frames_are_compared(farm, monkeypatch):
    Path("clip.webp").write_bytes(film(video_frames=5))
    result = run("--from", "clip.webp")
    assert result.exit_code == 0, result.output
    params, seed = farm.petitions[-1].params, farm.petitions[-1].seed
    chunk = reading.texts_of(Path("clip.webp").read_bytes(), "x")["sdistrib"]
    assert params == parse_chunk(chunk).params
    assert (params.mode, params.fps, seed) == ("vid_gen", 8, facts().seed)
    assert Path("clip_again.webp").read_bytes() == film()
    assert "The new pixels are the same." in result.stderr
    monkeypatch.setattr(
        "tests.unit.test_client_video.shown",
        lambda one, mode: dataclasses.replace(one, data=film([10, 60, 110, 160, 211])),
    )
    assert "The new pixels are not the same." in run("--from", "clip.webp", "-q").stderr


def test_a_video_that_is_drawn_again_may_become_another_file(farm):
    Path("clip.webp").write_bytes(film(video_frames=5))
    for words in (["-o", "f.png"], ["-o", "b.avi"], ["-o", "b.webm", "--steps", "3"]):
        result = run("--from", "clip.webp", *words)
        assert result.exit_code == 0, result.output
        assert farm.petitions[-1].params.format == "webp"
    assert Path("f_004.png").exists()
    assert [len(played(Path(name))[2]) for name in ("b.avi", "b.webm")] == [5, 5]
    before = Path("clip.webp").read_bytes()
    assert run("--from", "clip.webp", "-o", "clip.webp").exit_code == EXIT_USAGE
    assert Path("clip.webp").read_bytes() == before


def test_a_picture_may_be_drawn_again_as_a_video() -> None:
    still = composing.compose({"prompt": "a", "model": "m", "format": "jpeg", "quality": 70})
    edited = composing.edit(still, {"mode": "vid_gen", "video_frames": 5}).params
    assert (edited.format, edited.lossless, edited.quality) == ("webp", True, None)


class Verbs(FakeClient):
    """Knows one video."""

    made: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    petitions: ClassVar[list[Any]] = []
    changes: ClassVar[list[dict[str, Any]]] = []
    kept = composing.compose(
        {"mode": "vid_gen", "prompt": "a", "model": "m", "video_frames": 5, "fps": 8}
    )

    def look(self, _id: str) -> tuple[Any, Any]:
        return row(state="failed", images=1), self.kept

    def fetch(self, _id: str, **callbacks: Any) -> Drawing:
        return Drawing(self, self.kept, **callbacks, on_progress=None)

    def retry(self, _id: str, **about: Any) -> Drawing:
        names = ("on_accepted", "on_progress", "on_preview", "on_sending", "detach", "timeout_s")
        callbacks = {name: about.pop(name) for name in names}
        self.changes.append(about)
        return Drawing(self, self.kept, **callbacks)


@pytest.mark.parametrize("verb", ["fetch", "retry"])
@pytest.mark.parametrize(
    ("output", "name"), [("f.png", "f_004.png"), ("a.avi", "a.avi"), ("a.webp", "a.webp")]
)
def test_a_video_that_was_kept_is_written_as_o_says(monkeypatch, tmp_path, verb, output, name):
    monkeypatch.setattr("sdistrib_client.cli.draw.Client", Verbs)
    monkeypatch.chdir(tmp_path)
    Verbs.changes.clear()
    result = run(verb, "aa", "-o", output, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["event"] == "finished"
    assert (tmp_path / name).exists()
    assert Verbs.changes == ([{"format": "webp"}] if verb == "retry" else [])
