"""What pictures say of their making, read: A1111's text, our chunk, damaged and hostile files."""

import contextlib
import json
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdistrib import exiftext, limits
from sdistrib.errors import PetitionError
from sdistrib.infotext import UsedFile, chunk
from sdistrib.infotext_parse import parse, read_pairs
from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.protocol.messages import FoundModel
from sdistrib_client import comparing, reading
from sdistrib_client.composing import compose
from sdistrib_client.recipes import Content, from_chunk, from_text, recipe_of
from tests.unit.test_infotext import ENGINE, SHA, facts

A1111 = (
    "masterpiece, (house:1.2)\nby the sea <lora:style:0.8>\n"
    "Negative prompt: bad, worse\nblurry\n"
    "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 965400086,"
    " Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned, VAE hash: 735e4c3a44,"
    ' VAE: "odd, name.safetensors", Denoising strength: 0.4, Clip skip: 2, RNG: CPU, ENSD: 31337,'
    " Hires upscale: 2, Hires steps: 10, Hires upscaler: latent (nearest), Hires prompt: other,"
    ' Lora hashes: "style: 7c6bad76eb54, other: 0123456789ab", Version: v1.10.1'
)


def test_the_text_of_a1111_becomes_parameters_and_what_does_not_is_told_by_name() -> None:
    made = from_text(A1111)
    assert made.params == {
        "prompt": "masterpiece, (house:1.2)\nby the sea <lora:style:0.8>",
        "negative_prompt": "bad, worse\nblurry",
        "steps": 20, "sampling_method": "dpm++2m", "scheduler": "karras", "cfg_scale": 7.0,
        "width": 512, "height": 768, "model": "v1-5-pruned", "vae": "odd, name.safetensors",
        "clip_skip": 2, "rng": "cpu", "hires": True, "hires_denoising_strength": 0.4,
        "hires_scale": 2.0, "hires_steps": 10, "hires_upscaler": "Latent (nearest)",
    }  # fmt: skip
    assert made.seed == 965400086
    assert made.notes == (
        "ENSD: 31337 is not taken over", "Hires prompt: other is not taken over",
    )  # fmt: skip
    assert made.contents == (
        Content("prompt", "lora", "style", "7c6bad76eb54", whole=False),
        Content("prompt", "lora", "other", "0123456789ab", whole=False),
        Content("model", "stable-diffusion", "v1-5-pruned", "6ce0161689"),
        Content("vae", "vae", "odd, name.safetensors", "735e4c3a44"),
    )
    assert compose(made.params, seed=made.seed).params.hires_upscaler == "Latent (nearest)"


def test_the_text_of_sd_cli_is_read_too() -> None:
    made = from_text(
        "a cat\nSteps: 4, CFG scale: 1.500000, SLG scale: 2.5, Skip layers: [7, 8, ],"
        " Skip layer start: 0.010000, Guidance: 3.500000, Eta: inf, Seed: 42, Size: 64x32,"
        " Model: , RNG: std_default, Sampler RNG: cpu, Sampler: euler_a karras,"
        " TE: clip.gguf, Unet: flux.gguf, Version: stable-diffusion.cpp,"
        ' SDCPP: {"a": [1, 2], "b": "c, d"}'
    )
    assert made.params == {
        "prompt": "a cat", "steps": 4, "cfg_scale": 1.5, "slg_scale": 2.5, "skip_layers": (7, 8),
        "skip_layer_start": 0.01, "guidance": 3.5, "width": 64, "height": 32, "scheduler": "karras",
        "rng": "std_default", "sampler_rng": "cpu", "sampling_method": "euler_a",
        "diffusion_model": "flux.gguf",
    }  # fmt: skip
    assert [note.partition(":")[0] for note in made.notes] == ["TE", "SDCPP"]
    sigmas = from_text("x\nSteps: 2, Sampler: euler, Seed: 1, Custom Sigmas: [1.0, 0.5, 0.0]")
    assert sigmas.params["sigmas"] == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("pair", "note"),
    [
        ("Sampler: DPM++ SDE", "Sampler: DPM++ SDE is not taken over: 'DPM++ SDE' is none of"),
        ("Schedule type: Polyexponential", "Schedule type: Polyexponential is not taken over"),
        ("CFG scale: much", "CFG scale: much is not taken over"),
        ("CFG scale: nan", "CFG scale: nan is not taken over"),
        ("Clip skip: " + "9" * 5000, "Clip skip: 999"),
        ("Size: big", "Size: big is not taken over"),
        ("RNG: dice", "RNG: dice is not taken over"),
        ("Lora hashes: ?", "Lora hashes: ? is not taken over"),
        ("Skip layers: [a]", "Skip layers: [a] is not taken over"),
        ("Face restoration: GFPGAN", "Face restoration: GFPGAN is not taken over"),
        ("Seed: -1", "Seed: -1 is not taken over"),
    ],
)
def test_a_value_without_a_meaning_here_is_told_by_name(pair: str, note: str) -> None:
    made = from_text(f"a house\nSteps: 20, Foo: 1, Version: v1, {pair}")
    assert made.notes[0] == "Foo: 1 is not taken over"
    assert made.notes[1].startswith(note)
    assert set(made.params) == {"prompt", "steps"}


def test_a_picture_made_from_another_one_says_that_this_one_is_lost() -> None:
    made = from_text("a\nSteps: 20, Seed: 3, Denoising strength: 0.75, Mask blur: 4")
    assert "hires_denoising_strength" not in made.params
    assert "hires" not in made.params
    assert any("cannot be recovered" in note for note in made.notes)
    assert "Mask blur: 4 is not taken over" in made.notes


def test_silent_and_other_lines() -> None:
    made = from_text(
        "a <hypernet:x:1>\r\nNegative prompt:b\r\nSteps: 20, Seed: 3, Model: None, VAE: Automatic,"
        ' Schedule type: Automatic, Tiling: True, Hashes: {"model": "aa, b"}\r\nTemplate: c\r\n'
    )
    assert made.params == {
        "prompt": "a <hypernet:x:1>", "negative_prompt": "b", "steps": 20, "circular": True,
    }  # fmt: skip
    assert made.notes == (
        "<hypernet:…> in the prompt is not known to the engine",
        "A line is not taken over: Template: c",
    )
    assert "circular" not in from_text("a\nSteps: 20, Seed: 3, Tiling: False").params
    short = from_text("a\nSteps: 20, Seed: 3, Model hash: 81761151")
    assert short.contents == ()


def test_a_model_that_is_only_known_by_its_hash_is_called_so() -> None:
    made = from_text("a\nSteps: 20, Seed: 3, Model hash: 6ce0161689")
    assert made.params["model"] == "6ce0161689"
    farm = [FoundModel(ModelFile("stable-diffusion", "real.gguf", 1, "6ce0161689" + "0" * 54), ())]
    assert comparing.match(made.params, made.contents, farm).changes == {"model": "real.gguf"}


@pytest.mark.parametrize(
    "text", ["", "a house", "a\nSteps: 20, Seed: 3", "a\nA: 1, B: 2, C: 3", "Negative prompt: x"]
)
def test_a_text_without_settings_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="no line of settings"):
        parse(text)


def test_pairs_are_split_as_they_were_written() -> None:
    assert read_pairs('A: 1,B : 2, C/d-e: "x, \\"y\\": z", F: "open, G: [1, 2], H: [open, I:') == (
        ("A", "1"), ("B", "2"), ("C/d-e", 'x, "y": z'), ("F", '"open'), ("G", "[1, 2]"),
        ("H", "[open"), ("I", ""),
    )  # fmt: skip
    assert read_pairs(", ,?, J: {bad, K: 1") == (("J", "{bad"), ("K", "1"))


@pytest.mark.parametrize(
    "piece",
    [
        'a: "',
        "a: {",
        'a: {"k":',
        "a: [",
        "a",
        " ",
        "a a ",
        ",",
        ", ",
        'a: "\\',
        "a: 1, b: 2\n",
        "\n",
    ],
)
def test_long_lines_of_one_thing_end_at_once(piece: str) -> None:
    # A reader that goes back for each piece would need minutes, and the test's limit ends it.
    text = piece * (1_000_000 // len(piece))
    with pytest.raises(ValueError, match="no line of settings"):
        parse(text)


# --- our chunk ------------------------------------------------------------------------------


def test_our_chunk_gives_every_parameter_and_the_images_own_seed() -> None:
    made = facts(vae="x", cfg_scale=3.5, format="webp", quality=80)
    read = from_chunk(chunk(made))
    assert (read.facts, read.seed, read.notes) == (made, made.seed, ())
    again = compose(read.params, seed=read.seed)
    assert (again.params, again.seed, again.images) == (made.params, made.seed, 1)
    assert read.contents == (
        Content("model", "stable-diffusion", "sd2/768-v-ema.safetensors", SHA),
    )


def test_fields_that_this_version_does_not_know_are_told_or_refused() -> None:
    plain = json.loads(chunk(facts()))
    old = from_chunk(json.dumps({**plain, "id": "0" * 32, "index": 3}))
    assert old.notes == ()
    new = from_chunk(json.dumps({**plain, "inputs": {"init": "aa"}}))
    assert new.notes == ("'inputs' of its sdistrib data is not known to this version.",)
    plain["params"]["mood"] = "dark"
    with pytest.raises(PetitionError, match="mood") as caught:
        recipe_of({"sdistrib": json.dumps(plain), "parameters": A1111}, "x.png")
    assert caught.value.code == "invalid_params"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": -1}, "seed"), ({"seed": "x"}, "seed"), ({"seed": 1e400}, "malformed|range|seed"),
        ({"params": []}, "params"), ({"params": {"prompt": "x", "steps": 0}}, "steps"),
        ({"params": {"prompt": "x", "format": "bmp"}}, "format"), ({"files": 3}, "files"),
    ],
)  # fmt: skip
def test_a_chunk_with_wrong_values_is_a_typed_refusal(change: dict[str, Any], word: str) -> None:
    text = json.dumps(json.loads(chunk(facts())) | change)
    with pytest.raises(PetitionError, match=word) as caught:
        recipe_of({"sdistrib": text}, "x.png")
    assert caught.value.code == "invalid_params"
    assert str(caught.value).startswith("x.png: ")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "NaN", "null", "\ud800", "[" * 100_000, '{"a":' * 100_000,
     '{"seed": NaN}', '{"seed": 1, "x": ' + "[" * 100_000],
)  # fmt: skip
def test_a_chunk_that_is_none_is_a_typed_refusal(text: str) -> None:
    with pytest.raises(PetitionError, match="cannot be used"):
        recipe_of({"sdistrib": text}, "x.png")


def test_a_nested_value_of_a_key_that_nobody_knows_is_a_typed_refusal() -> None:
    text = chunk(facts())[:-1] + ', "z": ' + "[" * 50_000 + "]" * 50_000 + "}"
    with pytest.raises(PetitionError, match="cannot be used"):
        recipe_of({"sdistrib": text}, "x.png")


@pytest.mark.parametrize(
    ("texts", "code", "word"),
    [
        ({"prompt": "{}", "workflow": "{}"}, "unsupported", "ComfyUI"),
        ({"prompt": "{}"}, "unsupported", "ComfyUI"),
        ({"Software": "NovelAI", "Comment": "{}"}, "unsupported", "NovelAI"),
        ({"invokeai_metadata": "{}"}, "unsupported", "InvokeAI"),
        ({"Software": "GIMP"}, "invalid_params", "says nothing"),
        ({}, "invalid_params", "says nothing"),
        ({"parameters": '{"prompt": "fooocus"}'}, "invalid_params", "no line of settings"),
    ],
)
def test_pictures_of_other_programs_are_refused_by_name(
    texts: dict[str, str], code: str, word: str
) -> None:
    with pytest.raises(PetitionError, match=word) as caught:
        recipe_of(texts, "x.png")
    assert caught.value.code == code


# --- files ------------------------------------------------------------------------------------


def saved(kind: str, **more: Any) -> bytes:
    file = BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind, **more)
    return file.getvalue()


def texts_chunk(key: str, text: str) -> bytes:
    info = PngInfo()
    info.add_text(key, text)
    return saved("PNG", pnginfo=info)


def commented(value: bytes, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.get_ifd(exiftext.EXIF_IFD)[exiftext.USER_COMMENT] = value
    return saved(kind, exif=exif.tobytes())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "value",
    [
        b"UNICODE\0" + A1111.encode("utf-16-be"),
        b"UNICODE\0" + A1111.encode("utf-16-le"),
        b"ASCII\0\0\0" + A1111.encode(),
        bytes(8) + A1111.encode(),
        A1111.encode(),
    ],
)
def test_a_comment_in_any_of_the_usual_codes_is_read(kind: str, value: bytes) -> None:
    assert reading.texts_of(commented(value, kind), "x") == {"parameters": A1111}


def test_the_text_of_sd_clis_webp_is_read() -> None:
    xmp = b"<x><sdcpp:parameters>a &lt;lora:b:1&gt;\nSteps: 1</sdcpp:parameters></x>"
    assert reading.texts_of(saved("WEBP", xmp=xmp), "x") == {"parameters": "a <lora:b:1>\nSteps: 1"}
    assert reading.texts_of(saved("WEBP", xmp=b"<sdcpp:parameters>"), "x") == {}


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes, width: int = 16, height: int = 16) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + b"".join(chunks)


BOMB = zlib.compress(bytes(500 * limits.MIB // 8), 9)
HOSTILE = {
    "empty": b"",
    "text": b"hello",
    "gif": saved("GIF"),
    "tiff": saved("TIFF"),
    "short": saved("PNG")[:50],
    "zTXt bomb": png_with(png_chunk(b"zTXt", b"parameters\0\0" + BOMB)),
    "iTXt bomb": png_with(png_chunk(b"iTXt", b"sdistrib\0\1\0\0\0" + BOMB)),
    "huge": png_with(png_chunk(b"IDAT", b"x"), png_chunk(b"IEND", b""), width=50000, height=50000),
    "large": png_with(png_chunk(b"IDAT", b"x"), width=12000, height=12000),
    "bad comment": commented(b"UNICODE\0" + b"\xd8\x00\xd8"),
    "bad code": commented(b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff"),
    "bad xmp": saved("JPEG", xmp=b"<sdistrib:facts>\xff</sdistrib:facts>"),
    "riff": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_a_typed_refusal_that_names_it(data: bytes) -> None:
    with pytest.raises(PetitionError, match=r"^odd\.png ") as caught:
        reading.texts_of(data, "odd.png")
    assert caught.value.code == "invalid_params"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_is_cut_or_flipped_anywhere_is_read_or_refused(kind: str) -> None:
    # The refusal is the only error that leaves, at whichever byte the damage is.
    if kind == "PNG":
        whole = texts_chunk("parameters", A1111)
    else:
        whole = commented(exiftext.user_comment(A1111), kind)
    for at in range(0, len(whole), 7):
        flipped = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        for data in (whole[:at], flipped):
            for read in (reading.texts_of, reading.pixels_of):
                with contextlib.suppress(PetitionError):
                    read(data, "x")


def test_files_that_cannot_be_read_and_one_that_is_too_large(tmp_path: Path, monkeypatch) -> None:
    for path in (tmp_path, tmp_path / "none.png", Path("a\0b")):
        with pytest.raises(PetitionError) as caught:
            reading.read_bytes(path)
        assert caught.value.code == "invalid_params"
    monkeypatch.setattr(limits, "PICTURE_BYTES_MAX", 3)
    file = tmp_path / "x.png"
    file.write_bytes(b"123")
    assert reading.read_bytes(file) == b"123"
    file.write_bytes(b"1234")
    with pytest.raises(PetitionError) as caught:
        reading.read_bytes(file)
    assert caught.value.code == "too_large"


# --- the farm's files and engines -------------------------------------------------------------

A, B = "a" * 64, "b" * 64


def have(name: str, digest: str, kind: Any = "stable-diffusion") -> FoundModel:
    return FoundModel(ModelFile(kind, name, 1, digest), ("gpu1",))


def matched(*farm: FoundModel, model: str = "tiny", digest: str = A) -> comparing.Match:
    contents = [Content("model", "stable-diffusion", "tiny.gguf", digest)]
    return comparing.match({"model": model, "prompt": "x"}, contents, farm)


def test_the_same_name_and_content_changes_nothing() -> None:
    assert matched(have("tiny.gguf", A)) == comparing.Match({}, ())


def test_the_same_content_under_another_name_is_used_and_told() -> None:
    found = matched(have("tiny.gguf", B), have("moved/small.gguf", A))
    assert found.changes == {"model": "moved/small.gguf"}
    assert found.notes == (
        "stable-diffusion 'tiny' (aaaaaaaaaa) is called 'moved/small.gguf' here.",
    )


def test_the_same_name_with_other_content_is_told_and_drawn() -> None:
    found = matched(have("tiny.gguf", B))
    assert found.changes == {}
    assert found.notes == (
        "stable-diffusion 'tiny' has other content here (bbbbbbbbbb) than in the picture"
        " (aaaaaaaaaa): same name, other file.",
    )


def test_workers_that_disagree_about_a_name_are_told_apart_by_its_hash() -> None:
    found = matched(have("tiny.gguf", B), have("tiny.gguf", A))
    assert found == comparing.Match({"model": "tiny [aaaaaaaaaa]"}, ())


def test_content_that_is_not_known_yet_and_files_that_are_not_here() -> None:
    assert matched(have("tiny.gguf", "")).notes == (
        "Whether stable-diffusion 'tiny' has the same content is not known.",
    )
    assert matched(have("else.gguf", B)) == comparing.Match({}, ())
    assert matched(have("tiny.gguf", B, "vae")) == comparing.Match({}, ())


def test_a_lora_is_renamed_in_its_tag_only() -> None:
    prompt = "style <lora:style:0.5> <lora:|high_noise|style:1><lora:styles:1> <lora:style>"
    contents = [Content("prompt", "lora", "style.safetensors", A)]
    found = comparing.match({"prompt": prompt}, contents, [have("new.pt", A, "lora")])
    assert found.changes == {
        "prompt": "style <lora:new.pt:0.5> <lora:|high_noise|new.pt:1><lora:styles:1> <lora:new.pt>"
    }
    # Typed over: the picture's LoRA is not in the prompt any more.
    gone = comparing.match({"prompt": "x"}, contents, [have("new.pt", A, "lora")])
    assert gone == comparing.Match({}, ())
    other = [Content("prompt", "lora", "style", "0123456789", whole=False)]
    told = comparing.match({"prompt": prompt}, other, [have("style.pt", A, "lora")])
    assert told.notes == ("Whether lora 'style' has the same content is not known.",)


def test_an_embedding_is_renamed_in_both_prompts() -> None:
    params = {"prompt": "a embedding:ink cat, ink", "negative_prompt": "(embedding:bad:1.2)"}
    contents = [
        Content("prompt", "embeddings", "ink.pt", A),
        Content("negative_prompt", "embeddings", "bad.pt", B),
    ]
    farm = [have("new ink.pt", A, "embeddings"), have("bad.pt", B, "embeddings")]
    found = comparing.match(params, contents, farm)
    assert found.changes == {
        "prompt": "a <embedding:new ink.pt> cat, ink",
        "negative_prompt": "(<embedding:bad>:1.2)",  # the same, written otherwise
    }
    assert found.notes == ("embeddings 'ink' (aaaaaaaaaa) is called 'new ink.pt' here.",)


def test_differences_name_fingerprint_engine_backend_and_files() -> None:
    before = facts()
    assert list(comparing.differences(before, before)) == []
    engine = msgspec.structs.replace(
        ENGINE, fingerprint="0" * 16, version="0.5.0", backend="cuda", device="card"
    )
    files = (UsedFile("model", "sd2/768-v-ema.safetensors", B),)
    told = list(comparing.differences(before, facts(engine=engine, files=files)))
    assert told == [
        f"Drawn with fingerprint {'0' * 16}, the original with {'f' * 16} (engine 0.5.0 instead of"
        " 0.4.7, backend cuda instead of cpu, device card instead of test): pixels may differ.",
        "Drawn with sd2/768-v-ema.safetensors (bbbbbbbbbb) instead of sd2/768-v-ema.safetensors"
        " (45dee52b0c).",
    ]
    only = msgspec.structs.replace(ENGINE, fingerprint="0" * 16)
    assert next(comparing.engines(ENGINE, only)).endswith(f"{'f' * 16}: pixels may differ.")
    assert list(comparing.differences(before, facts(files=files), {"model"})) == []
    unknown = (UsedFile("model", "sd2/768-v-ema.safetensors"),)
    assert list(comparing.differences(before, facts(files=unknown))) == []
    assert list(comparing.differences(facts(files=unknown), facts(files=files))) == []


def test_params_of_a_chunk_are_those_of_the_table() -> None:
    assert set(from_chunk(chunk(facts())).params) == set(Params.__struct_fields__)
