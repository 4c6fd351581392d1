"""What the engine is doing, from its log and its one progress channel."""

import pytest

from sdistrib_worker.engine.shares import Shares
from sdistrib_worker.engine.story import Story, Where

TILE_LINE = "ggml_extend.hpp:955  - processing 3 tiles\n"
START_LINE = "stable-diffusion.cpp:3401 - generating image: 1/1 - seed 3\n"


class Summed(Story):
    """A story that adds up the steps that it tells of."""

    sampling_s = 0.0

    def step(self, step: int, steps: int, now: float) -> Where | None:
        where = super().step(step, steps, now)
        self.sampling_s += where.step_s if where is not None else 0.0
        return where


def story() -> Summed:
    return Summed("encoding", 0.0)


def test_steps_count_from_the_line_that_begins_the_image() -> None:
    told = story()
    assert told.step(0, 68, 0.1) is None  # a LoRA's tensors
    assert told.step(68, 68, 0.2) is None
    assert told.line(1, START_LINE) == Where("sampling")
    assert told.step(0, 2, 1.0) == Where("sampling", 0, 2, 0.0)
    assert told.step(1, 2, 1.5) == Where("sampling", 1, 2, 0.5)
    assert told.step(2, 2, 1.75) == Where("sampling", 2, 2, 0.25)
    assert told.sampling_s == 0.75


def test_a_sampler_that_looks_twice_begins_its_first_step_twice() -> None:
    told = story()
    told.line(1, START_LINE)
    assert told.step(0, 2, 1.0) == Where("sampling", 0, 2, 0.0)
    assert told.step(0, 2, 1.5) == Where("sampling", 0, 2, 0.0)
    assert told.step(1, 2, 2.0) == Where("sampling", 1, 2, 0.5)
    assert told.step(2, 2, 2.25) == Where("sampling", 2, 2, 0.25)
    # Something else that counts to another number is no such step.
    assert told.step(0, 3, 2.5) is None


def test_after_a_preview_in_tiles_steps_are_counted_again() -> None:
    told = story()
    told.line(1, START_LINE)
    told.step(0, 2, 0.0)
    told.line(0, TILE_LINE)
    assert [told.step(n, 2, 0.2) for n in range(3)] == [None] * 3
    told.preview_shown()
    assert told.step(1, 2, 0.5) == Where("sampling", 1, 2, 0.5 - 0.2)
    assert told.phase == "sampling"


def test_tiles_are_no_steps() -> None:
    told = story()
    told.line(1, START_LINE)
    told.step(0, 1, 0.0)
    told.step(1, 1, 0.1)
    assert told.line(1, "x.cpp:1 - decoding 1 latents") == Where("decoding")
    assert told.line(0, TILE_LINE) is None
    assert [told.step(n, 3, 0.2) for n in range(4)] == [None] * 4


def test_the_second_pass_of_highres_fix_is_counted_and_what_lies_between_is_not() -> None:
    told = story()
    told.line(1, START_LINE)
    told.step(0, 1, 0.0)
    told.step(1, 1, 0.5)
    assert told.line(1, "x.cpp:1 - hires fix: upscaling to 64x64") == Where("upscaling")
    told.line(1, "x.cpp:1 - hires fix: loading model upscaler from '/m/x2.gguf'")
    assert told.step(0, 40, 0.0) is None
    assert told.step(40, 40, 0.0) is None
    told.line(1, "x.cpp:1 - hires fix: 5 steps, denoising_strength=0.70, sigma_sched_size=4")
    told.line(0, TILE_LINE)
    assert told.step(0, 3, 0.0) is None
    assert told.step(2, 3, 0.0) is None  # the engine may leave out the last tile
    assert told.sampling_s == 0.5
    assert told.step(0, 4, 3.0) == Where("sampling", 0, 4)
    told.step(4, 4, 5.0)
    assert told.sampling_s == 2.5, "both passes, and nothing between them"
    assert told.phase == "sampling"


def test_a_video_is_sampled_from_the_line_with_its_size_and_decoded_after() -> None:
    told = story()
    assert told.line(1, "stable-diffusion.cpp:3616 - IMG2VID") is None
    assert told.line(1, "x.cpp:1 - encode_first_stage completed, taking 12 ms") is None
    assert told.line(1, "x.cpp:1 - get_learned_condition completed, taking 0.50s") is None
    assert told.phase == "encoding"
    assert told.line(1, "x.cpp:3876 - generate_video 64x32x5") == Where("sampling")
    assert told.line(0, "x.cpp:1 - sample 8x4x2") is None
    assert told.step(0, 2, 1.0) == Where("sampling", 0, 2)
    assert told.step(1, 2, 1.5) == Where("sampling", 1, 2, 0.5)
    assert told.step(2, 2, 2.0) == Where("sampling", 2, 2, 0.5)
    assert told.line(1, "x.cpp:1 - sampling completed, taking 1.00s") is None
    line = "x.cpp:1 - generating latent video completed, taking 1.00s"
    assert told.line(1, line) == Where("decoding")
    assert told.line(0, TILE_LINE) is None
    assert [told.step(n, 2, 2.2) for n in range(3)] == [None] * 3
    assert told.line(1, "x.cpp:1 - decode_first_stage completed, taking 0.50s") is None
    assert told.line(1, "x.cpp:1 - generate_video completed in 3.00s") is None
    assert (told.phase, told.sampling_s) == ("decoding", 1.0)


@pytest.mark.parametrize("steps", [1, 3])
def test_both_models_of_a_video_count_their_own_steps(steps: int) -> None:
    told = story()
    told.line(1, "x.cpp:1 - generate_video 64x32x5")
    told.line(0, "x.cpp:1 - sample(high noise) 8x4x2")
    assert told.step(0, 1, 1.0) == Where("sampling", 0, 1)
    assert told.step(1, 1, 3.0) == Where("sampling", 1, 1, 2.0)
    assert told.line(1, "x.cpp:1 - sampling(high noise) completed, taking 2.00s") is None
    told.line(0, "x.cpp:1 - sample 8x4x2")
    assert told.step(0, steps, 9.0) == Where("sampling", 0, steps)
    assert told.step(1, steps, 10.0) == Where("sampling", 1, steps, 1.0)
    assert told.sampling_s == 3.0, "both passes, and nothing between them"


def test_a_long_block_of_something_else_is_a_sign_of_life_each_second() -> None:
    told = story()
    signs = [told.step(n, 100, n / 10) for n in range(31)]
    assert [n for n, sign in enumerate(signs) if sign] == [10, 20, 30]
    assert signs[10] == Where("encoding")


@pytest.mark.parametrize(
    ("level", "line", "names"),
    [
        (2, "loading vae from '/m/vae/my vae.gguf' failed", ["my vae.gguf"]),
        (2, "loading diffusion model from '/m/d.gguf' failed", ["d.gguf"]),
        (2, "loading llm vision from 'l.gguf' failed", ["l.gguf"]),
        (3, "init model loader from file failed: '/m/x.gguf'", ["x.gguf"]),
        (2, "load lora tensors from /m/lora/a b.gguf failed", ["a b.gguf"]),
        (1, "loading vae from '/m/vae.gguf'", []),
    ],
)
def test_a_file_that_could_not_be_read_is_named(level: int, line: str, names: list[str]) -> None:
    told = story()
    told.line(level, f"stable-diffusion.cpp:282  - {line}\n")
    told.line(level, f"stable-diffusion.cpp:282  - {line}\n")
    assert list(told.unread) == names


def test_wishes_without_effect_become_notes() -> None:
    told = story()
    for line in (
        "SLG is incompatible with this model type",
        "timestep shifting is only supported for SDXL models!",
        "UCache requested but not supported for this model type (only UNET models)",
        "UCache requested but not supported for this model type (only UNET models)",
        "No latent to RGB projection known for this model",
        "Spectrum: something harmless",
    ):
        told.line(2, f"x.hpp:1    - {line}")
    told.line(
        1, "lora.hpp:830 - (0 / 4) LoRA tensors have been applied, lora_file_path = /l/a.gguf"
    )
    told.line(
        1, "lora.hpp:830 - (0 / 2) LoRA tensors have been applied, lora_file_path = /l/b.gguf"
    )
    told.line(
        1, "lora.hpp:830 - (2 / 2) LoRA tensors have been applied, lora_file_path = /l/b.gguf"
    )
    notes = told.notes()
    assert len(notes) == 5
    assert sum("--cache-mode" in note for note in notes) == 1
    assert "LoRA a.gguf fits no layer of this model" in notes


def test_the_reason_is_the_last_complaints_without_folders() -> None:
    told = story()
    assert told.reason() == "it gave no reason"
    told.line(2, "model.cpp:229  - unknown format /home/ana/models/x.gguf")
    assert told.reason() == "unknown format x.gguf"
    for line in ("one", "two", "two", "get sd version from file failed: '/home/a b/x.gguf'"):
        told.line(3, f"a.cpp:1 - {line}")
    assert told.reason() == "one; two; get sd version from file failed: 'x.gguf'"


def test_photo_maker_that_is_turned_off_is_heard() -> None:
    told = story()
    told.line(2, "stable-diffusion.cpp:1292 - Provided PhotoMaker images, but NO valid ID embeds")
    assert not told.lost_photo_maker
    told.line(2, "stable-diffusion.cpp:1293 - Turn off PhotoMaker")
    assert told.lost_photo_maker
    assert "NO valid ID embeds" in told.reason()


def test_memory_a_lost_device_and_bad_rules_are_heard() -> None:
    told = story()
    assert not told.out_of_memory()
    told.line(2, "a.cpp:1 - loading CPU backend")
    told.line(2, 'a.cpp:1 - ignoring invalid quant override "model=q99"')
    assert (told.lost_device, told.bad_rules) == (True, ["model=q99"])
    told.line(3, "ggml_extend.hpp:69 - ggml_gallocr: failed to allocate CPU buffer of size 9")
    assert told.out_of_memory()


def image_line(number: int, count: int) -> str:
    return f"stable-diffusion.cpp:3401 - generating image: {number}/{count} - seed 7\n"


def test_a_call_of_several_samples_one_after_the_other_and_then_decodes_them() -> None:
    told = story()
    for number in (1, 2, 3):
        image = number - 1
        assert told.line(1, image_line(number, 3)) == Where("sampling", image=image)
        assert told.step(0, 1, 1.0) == Where("sampling", 0, 1, 0.0, image)
        assert told.step(1, 1, 1.5) == Where("sampling", 1, 1, 0.5, image)
        told.line(1, "stable-diffusion.cpp:3433 - sampling completed, taking 0.50s")
    assert told.line(1, "x.cpp:3450 - generating 3 latent images completed, taking 1s") is None
    assert told.line(1, "x.cpp:3192 - decoding 3 latents") == Where("decoding", image=0)
    assert told.line(0, TILE_LINE) is None
    assert told.step(0, 3, 10.0) == Where("decoding", image=0)
    for number in (1, 2):
        said = f"x.cpp:3208 - latent {number} decoded, taking 0.10s"
        assert told.line(1, said) == Where("decoding", image=number)
    assert told.line(1, "x.cpp:3208 - latent 3 decoded, taking 0.10s") is None
    assert told.line(1, "x.cpp:3212 - decode_first_stage completed, taking 0.30s") is None
    assert told.step(0, 3, 20.0) == Where("decoding", image=2)


def test_shares_add_up_to_the_whole_call() -> None:
    shares = Shares(2, 100.0)
    shares.moved(Where("encoding"), 100.0)
    shares.moved(Where("sampling"), 104.0)
    shares.moved(Where("sampling", 1, 2, 1.0), 105.0)
    shares.moved(Where("sampling", 2, 2, 1.5), 106.5)
    shares.moved(Where("sampling", image=1), 107.0)
    shares.moved(Where("sampling", 2, 2, 5.0, 1), 112.0)
    shares.moved(Where("decoding"), 113.0)
    shares.moved(Where("decoding", image=1), 115.0)
    shares.ended(118.0)
    # Four seconds for both; sampling; decoding.
    assert shares.draw_s(0) == 2.0 + 3.0 + 2.0
    assert shares.draw_s(1) == 2.0 + 6.0 + 3.0
    assert (shares.sampling_s(0), shares.sampling_s(1)) == (2.5, 5.0)


def test_one_image_has_all_of_its_call() -> None:
    shares = Shares(1, 100.0)
    shares.moved(Where("sampling", 1, 1, 1.0), 102.0)
    shares.moved(Where("upscaling"), 103.0)
    shares.moved(Where("sampling", 1, 1, 2.0), 105.0)
    shares.ended(107.0)
    assert (shares.draw_s(0), shares.sampling_s(0)) == (7.0, 3.0)
