"""Pixels to PNG: the pixels come back, the metadata is what readers find, the bytes are stable."""

import hashlib
from io import BytesIO
from typing import Any

import msgspec
import pytest
from PIL import Image
from sd_parsers import ParserManager

from sdistrib.errors import EngineError
from sdistrib.infotext import PictureFacts, UsedFile, parse_chunk
from sdistrib_worker.pictures import encode_png
from tests.unit.test_infotext import SHA, facts


def pixels(width: int, height: int, channels: int) -> bytes:
    """Pixels that look like nothing."""
    return hashlib.shake_256(b"pixels").digest(width * height * channels)


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
    found = ParserManager().parse(BytesIO(encode_png(pixels(8, 8, 3), 8, 8, 3, made)))
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
    made = msgspec.structs.replace(facts(), index=3)
    assert parse_chunk(png(made).info["sdistrib"]) == made
