"""Videos on the worker: every frame comes back out, with metadata; what is wrong is told."""

import hashlib
import os
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from sdistrib import limits
from sdistrib.errors import EngineError, ProtocolError
from sdistrib.infotext import CHUNK_KEY, TEXT_KEY, PictureFacts, build, parse_chunk
from sdistrib.protocol import messages as wire
from sdistrib.protocol.engine import Drawn
from sdistrib_client.reading import texts_of
from sdistrib_worker.effects import EncodePicture, FileForm, form_of
from sdistrib_worker.encoder import _encode
from sdistrib_worker.engine.picture import SharedPixels
from sdistrib_worker.events import EncodingFailed, PictureEncoded
from sdistrib_worker.frames import durations_ms, encode_film
from tests.support.rig import Rig, attempt, one, said
from tests.unit.test_infotext import facts

FILM: dict[str, Any] = {"mode": "vid_gen", "format": "webp", "lossless": True}
WEBP = FileForm("webp", lossless=True, fps=8)


def pixels(width: int, height: int, channels: int, frames: int) -> bytes:
    """Pixels that look like nothing, each frame another."""
    return hashlib.shake_256(b"pixels").digest(width * height * channels * frames)


def film(
    shape: tuple[int, int, int, int] = (32, 16, 3, 5),
    made: PictureFacts | None = None,
    fps: int = 8,
) -> bytes:
    """A video's file, of which nothing is left out."""
    data, notes = encode_film(pixels(*shape), shape, made, fps)
    assert notes == ()
    return data


def frames_of(data: bytes) -> list[tuple[str, bytes, float]]:
    """Mode, pixels and duration of each frame, as another program reads them."""
    found = []
    with Image.open(BytesIO(data)) as image:
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            image.load()
            found.append((image.mode, image.tobytes(), image.info["duration"]))
    return found


def test_every_frame_comes_back_to_the_bit_and_in_order() -> None:
    shape, size = (32, 16, 3, 5), 32 * 16 * 3
    raw = pixels(*shape)
    found = frames_of(encode_film(memoryview(raw), shape, None, 8)[0])
    assert found == [("RGB", raw[n * size : (n + 1) * size], 125) for n in range(5)]


@pytest.mark.parametrize(("frames", "fps"), [(1, 16), (7, 16), (161, 24), (513, 120), (60, 7)])
def test_durations_are_whole_and_add_up(frames: int, fps: int) -> None:
    durations = durations_ms(frames, fps)
    assert len(durations) == frames
    assert abs(sum(durations) - 1000 * frames / fps) <= 0.5
    assert all(abs(one - 1000 / fps) <= 1 for one in durations)


def test_the_frame_rate_that_was_asked_for_is_in_the_file() -> None:
    assert [duration for _, _, duration in frames_of(film(fps=16))] == [62, 63, 63, 62, 62]


def test_a_video_repeats_and_one_frame_is_a_picture() -> None:
    assert Image.open(BytesIO(film())).info["loop"] == 0
    one = Image.open(BytesIO(film((32, 16, 3, 1))))
    assert (one.n_frames, one.convert("RGB").tobytes()) == (1, pixels(32, 16, 3, 1))


def test_equal_videos_give_equal_bytes() -> None:
    assert film(made=facts(**FILM)) == film(made=facts(**FILM))
    assert film(made=facts(**FILM)) != film(made=facts(**FILM, video_frames=5))


def test_the_metadata_is_that_of_a_picture_and_is_read_back() -> None:
    made = facts(**FILM, video_frames=5, fps=8)
    found = texts_of(film(made=made), "clip.webp")
    assert parse_chunk(found[CHUNK_KEY]) == made
    assert found[TEXT_KEY] == build(made)
    size = 32 * 16 * 3
    assert [raw for _, raw, _ in frames_of(film(made=made))] == [
        pixels(32, 16, 3, 5)[n * size : (n + 1) * size] for n in range(5)
    ]


def test_without_metadata_nothing_is_left() -> None:
    data = film()
    assert texts_of(data, "clip.webp") == {}
    assert not {b"EXIF", b"XMP ", b"ICCP"} & {data[n : n + 4] for n in range(len(data))}


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (32 * 16 * 3 * 5 - 1, (32, 16, 3, 5)),
        (32 * 16 * 3, (32, 16, 3, 5)),
        (32 * 16 * 4, (32, 16, 4, 1)),
        (32 * 16, (32, 16, 1, 1)),
        (0, (32, 16, 3, 0)),
    ],
)
def test_wrong_pixels_are_a_typed_error(size: int, shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(EngineError) as caught:
        encode_film(bytes(size), shape, None, 8)
    assert caught.value.info.code == "engine_error"


def test_a_side_at_n_and_n_plus_1() -> None:
    assert film((16_383, 1, 3, 1))
    with pytest.raises(EngineError, match="16384x1: a webp file has at most 16383") as caught:
        film((16_384, 1, 3, 1))
    assert caught.value.info.code == "too_large"


# --- beside the loop --------------------------------------------------------------------------


@pytest.fixture
def shared() -> Callable[..., SharedPixels]:
    """Pixels as the engine child hands them over."""

    def make(frames: int, size: int | None = None, **told: int) -> SharedPixels:
        descriptor = os.memfd_create("film")
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(pixels(32, 16, 3, frames)[:size])
        sizes = {"width": 32, "height": 16, "channels": 3, "frames": frames, **told}
        drawn = Drawn(ticket=1, load_s=0.0, draw_s=0.0, **sizes)
        made = SharedPixels(drawn, descriptor)
        made.drawn = drawn  # type: ignore[attr-defined]
        return made

    return make


def test_the_encoder_makes_a_video_of_frames_and_says_too_large(shared, monkeypatch) -> None:
    form = form_of(facts(**FILM, fps=8).params)
    assert form == WEBP._replace(quality=form.quality)
    done = _encode(EncodePicture(attempt(0), shared(5), None, form))
    assert isinstance(done, PictureEncoded)
    assert (done.data, done.digest) == (film(), hashlib.sha256(film()).hexdigest())
    monkeypatch.setattr(limits, "PICTURE_BYTES_MAX", len(film()))
    assert isinstance(_encode(EncodePicture(attempt(0), shared(5), None, form)), PictureEncoded)
    monkeypatch.setattr(limits, "PICTURE_BYTES_MAX", len(film()) - 1)
    failed = _encode(EncodePicture(attempt(0), shared(5), None, form))
    assert isinstance(failed, EncodingFailed)
    assert failed.error.code == "too_large"


def test_all_frames_are_in_the_shared_memory_or_it_is_garbled(shared) -> None:
    assert shared(5).pixels() == pixels(32, 16, 3, 5)
    for size, about in ((32 * 16 * 3, {}), (0, {"width": 0}), (None, {"height": -16})):
        with pytest.raises(ProtocolError, match="garbled"):
            shared(5, size, **about)
    with pytest.raises(ProtocolError, match="garbled"):
        shared(0)


def test_pixels_at_n_and_n_plus_1_bytes(shared, monkeypatch) -> None:
    monkeypatch.setattr(limits, "PIXEL_BYTES_MAX", 32 * 16 * 3 * 5)
    shared(5).close()
    monkeypatch.setattr(limits, "PIXEL_BYTES_MAX", limits.PIXEL_BYTES_MAX - 1)
    with pytest.raises(ProtocolError, match="garbled"):
        shared(5)


# --- the machine ------------------------------------------------------------------------------


def test_a_video_is_one_image_one_file_and_one_result() -> None:
    rig = Rig()
    rig.connect()
    wishes: dict[str, Any] = {**FILM, "video_frames": 5, "fps": 8, "width": 64, "height": 64}
    order = one([e for e in rig.draw(rig.begin(attempt(), **wishes), frames=5) if is_order(e)])
    assert (order.form.format, order.form.lossless, order.form.fps) == ("webp", True, 8)
    assert order.facts is not None
    assert order.facts.params.video_frames == 5
    (result,) = said(rig.encoded(attempt(), b"film"), wire.Result)
    assert (result.format, result.width, result.height) == ("webp", 64, 64)
    assert result.size_bytes == 4


def test_a_video_without_metadata_has_no_facts() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(), **FILM, video_frames=5, metadata=False)
    order = one([e for e in rig.draw(ticket, frames=5) if is_order(e)])
    assert order.facts is None


def is_order(effect: object) -> bool:
    return isinstance(effect, EncodePicture)
