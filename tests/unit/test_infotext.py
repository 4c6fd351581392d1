"""The A1111 text and our own chunk: what stands there, and that nothing leaks into its syntax."""

import json
from typing import Any

import pytest

from sdistrib.infotext import (
    SAMPLERS,
    SCHEDULERS,
    PictureFacts,
    UsedFile,
    build,
    chunk,
    parse_chunk,
)
from sdistrib.params import BY_NAME, Params
from sdistrib.protocol.messages import EngineFacts

ENGINE = EngineFacts(version="0.4.7", backend="cpu", device="test", fingerprint="f" * 16)
SHA = "45dee52b0c66" + "0" * 52


def facts(**more: Any) -> PictureFacts:
    """Facts of a small picture; parameters and facts may be changed by name."""
    own = {
        name: more.pop(name)
        for name in ("seed", "files", "sampling_method", "scheduler", "worker", "engine")
        if name in more
    }
    params = Params(**{"prompt": "a house", "model": "768-v-ema", **more})
    known = {
        "seed": 965400086,
        "files": (UsedFile("model", "sd2/768-v-ema.safetensors", SHA),),
        "sampling_method": "dpm2",
        "scheduler": "exponential",
        "worker": "box",
        "context": "c" * 64,
        "version": "0.1.0",
        "engine": ENGINE,
        "params": params,
    }
    return PictureFacts(**{**known, **own})


def last_line(**more: Any) -> dict[str, str]:
    """The pairs of the last line, split as simple readers do."""
    line = build(facts(**more)).rsplit("\n", 1)[-1]
    return dict(pair.split(": ", 1) for pair in line.split(", "))


def test_the_whole_text() -> None:
    text = build(
        facts(
            prompt="a house <lora:add_detail:0.8>\nin the beach",
            negative_prompt="deep fried",
            width=768,
            height=640,
            steps=32,
            guidance=4.0,
            clip_skip=2,
            vae="x",
            files=(
                UsedFile("model", "sd2/768-v-ema.safetensors", SHA),
                UsedFile("vae", "x.safetensors", "735e4c3a44" + "1" * 54),
                UsedFile("prompt", "add_detail.safetensors", "7c6bad76eb54" + "2" * 52, "lora"),
            ),
        )
    )
    assert text == (
        "a house <lora:add_detail:0.8>\nin the beach\n"
        "Negative prompt: deep fried\n"
        "Steps: 32, Sampler: DPM2, Schedule type: Exponential, CFG scale: 7.0,"
        " Distilled CFG Scale: 4.0, Seed: 965400086, Size: 768x640, Model hash: 45dee52b0c,"
        " Model: 768-v-ema, VAE hash: 735e4c3a44, VAE: x.safetensors, Clip skip: 2,"
        ' Lora hashes: "add_detail: 7c6bad76eb54", Version: sdistrib 0.1.0'
    )


def test_every_sampler_and_schedule_has_a_name() -> None:
    assert set(SAMPLERS) == set(BY_NAME["sampling_method"].choices)
    assert set(SCHEDULERS) == set(BY_NAME["scheduler"].choices)
    assert len(set(SAMPLERS.values())) == len(SAMPLERS)


def test_what_the_engine_used_stands_before_what_was_asked() -> None:
    line = last_line(sampling_method="euler_a", scheduler="")
    assert line["Sampler"] == "Euler a"
    assert "Schedule type" not in line
    line = last_line(sampling_method="brand, new", scheduler="also:new")
    assert (line["Sampler"], line["Schedule type"]) == ("brand new", "also new")


def test_what_prompts_name_is_told_apart_from_what_parameters_name() -> None:
    files = (
        UsedFile("model", "a.gguf", SHA),
        UsedFile("prompt", "ink.pt", "1" * 64, "embeddings"),
        UsedFile("negative_prompt", "ti/bad.pt", "2" * 64, "embeddings"),
        UsedFile("negative_prompt", "new.pt", "", "embeddings"),
        UsedFile("prompt", "style.pt", "3" * 64, "lora"),
    )
    text = build(facts(files=files))
    assert f'TI hashes: "ink: {"1" * 12}, bad: {"2" * 12}"' in text
    assert f'Lora hashes: "style: {"3" * 12}"' in text
    assert parse_chunk(chunk(facts(files=files))).files == files


def test_names_cannot_break_the_line() -> None:
    name = 'my, model: "v2"\n.safetensors'
    line = last_line(files=(UsedFile("diffusion_model", name, SHA),))
    assert line["Model"] == "my model v2"
    assert line["Seed"] == "965400086"


def test_unknown_digests_and_files_are_left_out() -> None:
    line = last_line(
        files=(UsedFile("model", "a.gguf"), UsedFile("prompt", "style.pt", kind="lora"))
    )
    assert "Model hash" not in line
    assert line["Model"] == "a"
    assert "Lora hashes" not in line
    assert "Model" not in last_line(files=())


def test_options_that_differ_from_the_usual() -> None:
    line = last_line(eta=0.5, rng="cpu", circular=True)
    assert (line["Eta"], line["RNG"], line["Tiling"]) == ("0.5", "CPU", "True")
    assert not {"Eta", "RNG", "Tiling", "Clip skip", "Distilled CFG Scale"} & set(last_line())


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {"Hires upscale": "2.0", "Hires upscaler": "Latent"}),
        ({"hires_width": 64, "hires_height": 96, "hires_steps": 3}, {"Hires resize": "64x96"}),
        ({"hires_upscaler": "esrgan/x4, big.pth"}, {"Hires upscaler": "x4 big"}),
    ],
)
def test_highres_fix(params: dict[str, Any], expected: dict[str, str]) -> None:
    line = last_line(hires=True, **params)
    assert line.items() >= expected.items()
    assert line["Denoising strength"] == "0.7"
    assert ("Hires steps" in line) == ("hires_steps" in params)


def test_our_chunk_says_everything_and_reads_back() -> None:
    made = facts(prompt="日本 🎉\nSteps: 99", negative_prompt="x", cfg_scale=3.5)
    text = chunk(made)
    assert parse_chunk(text) == made
    plain = json.loads(text)
    assert plain["params"]["prompt"] == "日本 🎉\nSteps: 99"
    assert plain["seed"] == 965400086
    assert plain["engine"]["fingerprint"] == "f" * 16
    assert plain["files"][0]["digest"] == SHA
    assert "steps" not in plain["params"]


def test_equal_facts_give_equal_text() -> None:
    assert chunk(facts(eta=0.5)) == chunk(facts(eta=0.5))
    with pytest.raises(ValueError, match="context"):
        parse_chunk(chunk(facts()).replace('"context"', '"else"'))


def test_defaults_that_were_said_are_left_out_as_those_that_were_not() -> None:
    said = facts(skip_layers=tuple([7, 8, 9]), vae_tile_size=tuple([0, 0]), steps=20)  # noqa: C409
    assert said == facts()
    assert chunk(said) == chunk(facts())


UPSCALER = UsedFile("upscale_model", "esrgan/R-ESRGAN 4x+.pth", "e" * 64)


def test_a_picture_from_a_picture_tells_how_much_it_may_change() -> None:
    pairs = last_line(init_image="d" * 64, strength=0.4, hires=True, hires_denoising_strength=0.6)
    assert pairs["Denoising strength"] == "0.4"
    assert pairs["Hires upscale"] == "2.0"
    assert "Denoising strength" not in last_line(strength=0.4)


def test_an_upscaler_behind_the_model_is_told() -> None:
    model = UsedFile("model", "768-v-ema.safetensors", SHA)
    pairs = last_line(upscale_model="x", files=(model, UPSCALER))
    assert pairs["Postprocess upscaler"] == "R-ESRGAN 4x+"
    assert pairs["Steps"] == "20"


def test_a_given_picture_made_larger_tells_the_upscaler_and_no_sampling() -> None:
    made = facts(
        mode="upscale", prompt="", model="", upscale_model="x", init_image="d" * 64,
        files=(UPSCALER,), sampling_method="", scheduler="",
    )  # fmt: skip
    assert build(made) == "Postprocess upscaler: R-ESRGAN 4x+, Version: sdistrib 0.1.0"
    assert parse_chunk(chunk(made)) == made
