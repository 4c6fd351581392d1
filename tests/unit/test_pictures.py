"""Pixels to files: pixels come back, the metadata is what readers find, the bytes are stable."""

import hashlib
import zlib
from io import BytesIO
from typing import Any

import msgspec
import pytest
from PIL import Image
from sd_parsers import ParserManager

from sdistrib.errors import EngineError
from sdistrib.infotext import PictureFacts, UsedFile, build, parse_chunk
from sdistrib_client.reading import texts_of
from sdistrib_worker.effects import FileForm
from sdistrib_worker.pictures import encode
from tests.unit.test_infotext import SHA, facts

#: The reader takes a picture for the last one if it has the same `id`; so none is ever let go.
_SEEN: list[Image.Image] = []


def _read(data: bytes) -> Any:
    """What an independent reader of metadata finds."""
    _SEEN.append(Image.open(BytesIO(data)))
    return ParserManager().parse(_SEEN[-1])


def pixels(width: int, height: int, channels: int) -> bytes:
    """Pixels that look like nothing."""
    return hashlib.shake_256(b"pixels").digest(width * height * channels)


def encode_png(
    raw: bytes, width: int, height: int, channels: int, made: PictureFacts | None
) -> bytes:
    """A PNG file of which nothing is left out."""
    data, notes = encode(raw, width, height, channels, made, FileForm())
    assert notes == ()
    return data


def png(made: PictureFacts | None) -> Image.Image:
    """An encoded picture, read back."""
    return Image.open(BytesIO(encode_png(pixels(32, 16, 3), 32, 16, 3, made)))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pixels_come_back(channels: int, mode: str) -> None:
    raw = pixels(32, 16, channels)
    image = Image.open(BytesIO(encode_png(memoryview(raw), 32, 16, channels, None)))
    assert (image.mode, image.size, image.tobytes()) == (mode, (32, 16), raw)


@pytest.mark.parametrize(
    ("size", "width", "channels"),
    [(32 * 16 * 3 // 2, 32, 3), (32 * 16 * 3 + 1, 32, 3), (32 * 16 * 2, 32, 2), (0, 0, 3)],
)
def test_wrong_pixels_are_a_typed_error(size: int, width: int, channels: int) -> None:
    with pytest.raises(EngineError) as caught:
        encode_png(bytes(size), width, 16, channels, None)
    assert caught.value.info.code == "engine_error"
    assert str(size) in caught.value.info.message


def test_equal_pixels_and_facts_give_equal_bytes() -> None:
    raw = pixels(32, 16, 3)
    first = encode_png(raw, 32, 16, 3, facts())
    assert encode_png(raw, 32, 16, 3, facts()) == first
    assert encode_png(raw, 32, 16, 3, facts(seed=1)) != first


def test_without_metadata_nothing_is_left() -> None:
    assert png(None).info == {}


def parsed(made: PictureFacts) -> Any:
    """What sd-parsers reads out of a picture."""
    found = _read(encode_png(pixels(8, 8, 3), 8, 8, 3, made))
    assert found is not None
    return found


def test_an_independent_reader_understands_it() -> None:
    found = parsed(facts(negative_prompt="deep fried", steps=32, cfg_scale=4.5))
    assert "AUTOMATIC1111" in str(found.generator)
    (sampler,) = found.samplers
    assert sampler.name == "DPM2"
    assert sampler.parameters["steps"] == "32"
    assert sampler.parameters["seed"] == "965400086"
    assert sampler.parameters["cfg_scale"] == "4.5"
    assert sampler.parameters["scheduler"] == "Exponential"
    assert (sampler.model.name, sampler.model.hash) == ("768-v-ema", "45dee52b0c")
    assert found.full_prompt == "a house"
    assert found.full_negative_prompt == "deep fried"


@pytest.mark.parametrize(
    "prompt",
    ["日本の家 🎉", "café", "two\nlines", "Steps: 99, Sampler: X, Seed: 666, Size: 1x1\nx"],
)
def test_prompts_of_all_kinds_survive(prompt: str) -> None:
    found = parsed(facts(prompt=prompt))
    assert found.full_prompt == prompt
    assert found.samplers[0].parameters["seed"] == "965400086"
    image = png(facts(prompt=prompt))
    assert parse_chunk(image.info["sdistrib"]) == facts(prompt=prompt)


def test_a_prompt_that_ends_like_parameters_is_not_believed() -> None:
    prompt = "a cat\nSteps: 99, Sampler: X, CFG scale: 1, Seed: 666, Size: 1x1"
    found = parsed(facts(prompt=prompt))
    assert found.samplers[0].parameters["seed"] == "965400086"
    assert found.samplers[0].parameters["steps"] == "20"


def test_strange_names_do_not_confuse_it() -> None:
    made = facts(files=(UsedFile("model", 'my, model: "v2".gguf', SHA),))
    assert parsed(made).samplers[0].model.name == "my model v2"
    assert parse_chunk(png(made).info["sdistrib"]).files[0].name == 'my, model: "v2".gguf'


def test_our_chunk_is_read_back_as_it_was_written() -> None:
    made = msgspec.structs.replace(facts(), seed=3)
    assert parse_chunk(png(made).info["sdistrib"]) == made


# --- JPEG and WebP ----------------------------------------------------------------------------

FORMS = [
    FileForm("jpeg"),
    FileForm("jpeg", 95),
    FileForm("webp"),
    FileForm("webp", lossless=True),
    FileForm("png"),
]
OTHERS = FORMS[:-1]


def file_of(made: PictureFacts | None, form: FileForm, side: int = 32) -> bytes:
    """A file without notes."""
    data, notes = encode(smooth(side), side, side, 3, made, form)
    assert notes == ()
    return data


def smooth(side: int) -> bytes:
    """A slope in each colour, which lossy files keep nearly as it is."""
    return bytes(
        255 * v // side for y in range(side) for x in range(side) for v in (x, y, side - x)
    )


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_each_format_is_what_it_says_and_keeps_the_pixels_as_well_as_it_can(form: FileForm) -> None:
    image = Image.open(BytesIO(file_of(facts(), form)))
    assert (image.format, image.size, image.mode) == (form.format.upper(), (32, 32), "RGB")
    worst = max(abs(a - b) for a, b in zip(image.tobytes(), smooth(32), strict=True))
    assert worst == 0 if form.lossless or form.format == "png" else 0 < worst < 40
    assert file_of(facts(), form) == file_of(facts(), form)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_quality_is_followed_and_90_is_the_usual(kind: Any) -> None:
    sizes = [len(file_of(None, FileForm(kind, quality), 64)) for quality in (1, 40, 90, 100)]
    assert sizes == sorted(set(sizes))
    assert file_of(None, FileForm(kind)) == file_of(None, FileForm(kind, 90))


def test_a_jpeg_keeps_its_colours_whole_above_90() -> None:
    layers = [
        Image.open(BytesIO(file_of(None, FileForm("jpeg", quality)))).layer  # type: ignore[attr-defined]
        for quality in (90, 91)
    ]
    assert [layer[0][1:3] for layer in layers] == [(2, 2), (1, 1)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_grey_and_transparent_pictures_have_a_file_in_each_format(
    form: FileForm, channels: int, mode: str
) -> None:
    data, _ = encode(pixels(32, 16, channels), 32, 16, channels, None, form)
    expected = {("jpeg", "RGBA"): "RGB", ("webp", "L"): "RGB"}.get((form.format, mode), mode)
    assert Image.open(BytesIO(data)).mode == expected


@pytest.mark.parametrize(("kind", "most"), [("jpeg", 65_500), ("webp", 16_383)])
def test_a_side_at_n_and_n_plus_1(kind: Any, most: int) -> None:
    data, _ = encode(bytes(most * 3), most, 1, 3, None, FileForm(kind))
    assert Image.open(BytesIO(data)).width == most
    with pytest.raises(EngineError, match=f"at most {most} pixels") as caught:
        encode(bytes((most + 1) * 3), 1, most + 1, 3, None, FileForm(kind))
    assert (caught.value.info.code, caught.value.info.field) == ("too_large", "format")


@pytest.mark.parametrize("form", OTHERS, ids=str)
@pytest.mark.parametrize("prompt", ["a house", "日本の家 🎉", "café", 'two\nlines <b> & "q"'])
def test_an_independent_reader_understands_each_format(form: FileForm, prompt: str) -> None:
    made = facts(prompt=prompt, negative_prompt="deep fried", steps=32)
    found = _read(file_of(made, form))
    assert found is not None
    assert "AUTOMATIC1111" in str(found.generator)
    (sampler,) = found.samplers
    assert (found.full_prompt, found.full_negative_prompt) == (prompt, "deep fried")
    assert (sampler.parameters["seed"], sampler.parameters["steps"]) == ("965400086", "32")
    assert (sampler.model.name, sampler.model.hash) == ("768-v-ema", "45dee52b0c")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_our_chunk_is_in_each_format(form: FileForm) -> None:
    made = facts(prompt="<lora:a:1> & 日本 \x7f \ufffe \u2028 ]]> &amp;", negative_prompt='"\\')
    found = texts_of(file_of(made, form), "x")
    assert parse_chunk(found["sdistrib"]) == made
    assert found["parameters"] == build(made)


def long(size_bytes: int) -> PictureFacts:
    return facts(prompt="a" * (size_bytes // 2), negative_prompt="b" * (size_bytes // 2))


def test_a_jpeg_without_room_says_what_is_missing() -> None:
    form = FileForm("jpeg")
    for size_bytes, lost in ((32_000, []), (33_000, ["A1111"]), (70_000, ["A1111", "--from"])):
        data, notes = encode(smooth(32), 32, 32, 3, long(size_bytes), form)
        assert len(notes) == len(lost)
        assert all(word in note for word, note in zip(lost, notes, strict=True))
        keys = {"A1111": "parameters", "--from": "sdistrib"}
        left = {key for word, key in keys.items() if word not in lost}
        assert set(texts_of(data, "x")) == left
        assert set(texts_of(file_of(long(size_bytes), FileForm("webp")), "x")) == {
            "parameters", "sdistrib",
        }  # fmt: skip


def sections(data: bytes) -> list[bytes]:
    """The kinds of all chunks or segments of a file, in order, read byte by byte."""
    found, at = [], 0
    if data[:4] == b"RIFF":
        at = 12
        while at < len(data):
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            found.append(data[at : at + 4])
            at += 8 + size + size % 2
    elif data[:2] == b"\xff\xd8":
        at = 2
        while data[at + 1] != 0xDA:
            found.append(data[at : at + 2])
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    else:
        at = 8
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
            assert zlib.crc32(kind + body) == int.from_bytes(data[at + 8 + size : at + 12 + size])
            found.append(kind)
            at += 12 + size
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_without_metadata_no_chunk_and_no_segment_is_left_in_any_format(form: FileForm) -> None:
    bare = set(sections(file_of(None, form)))
    needed = {
        "png": {b"IHDR", b"IDAT", b"IEND"},
        "webp": {b"VP8L" if form.lossless else b"VP8 "},
        # JFIF's head, quantisation, size, Huffman tables: no EXIF or XMP (APP1), no comment.
        "jpeg": {b"\xff\xe0", b"\xff\xdb", b"\xff\xc0", b"\xff\xc4"},
    }
    assert bare == needed[form.format]
    assert set(sections(file_of(facts(), form))) > bare
    assert b"sdistrib" not in file_of(None, form)
    assert texts_of(file_of(None, form), "x") == {}
