"""What is written into a picture is what is read out of it."""

from typing import Any, get_type_hints

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sdistrib import exiftext, limits
from sdistrib.errors import PetitionError
from sdistrib.infotext import PictureFacts, build, chunk
from sdistrib.infotext_parse import parse, read_pairs
from sdistrib.params import HIRES_UPSCALERS, Params, check
from sdistrib_client.composing import compose
from sdistrib_client.recipes import from_chunk, from_text, recipe_of
from tests.support.wire_values import values
from tests.unit.test_infotext import facts

SEEDS = st.integers(0, limits.SEED_MAX)


@given(params=values(Params), seed=SEEDS)
@settings(max_examples=200)
def test_our_chunk_gives_back_any_parameters_that_may_be_drawn(params: Params, seed: int):
    made = msgspec.structs.replace(facts(), params=params, seed=seed)
    read = from_chunk(chunk(made))
    assert (read.facts, read.seed) == (made, seed)
    xmp = exiftext.packet(chunk(made))
    body = xmp.split(b"<sdistrib:facts>")[1].split(b"</sdistrib:facts>")[0]
    assert not set(b"<>&") & set(body)
    assert from_chunk(exiftext.read_packet(xmp, "sdistrib:facts") or "") == read
    try:
        check(params)
    except PetitionError:
        return
    assert compose(read.params, seed=read.seed).params == params


@given(made=values(PictureFacts))
@settings(max_examples=200)
def test_our_chunk_gives_back_any_facts(made: PictureFacts):
    assert from_chunk(chunk(made)).facts == made


def plain(text: str) -> bool:
    """A1111's text can hold it: no line of it begins as a part of that text, or has a return."""
    lines = text.split("\n")
    return "\r\n" not in text and not any(line.startswith("Negative prompt:") for line in lines)


LETTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n:,\"'<> ")
TEXTS = st.text(LETTERS, max_size=40)
PROMPTS = TEXTS.filter(lambda text: plain(text) and not text.endswith("\n") and "<" not in text)


@given(
    prompt=PROMPTS,
    negative=TEXTS.filter(plain),
    seed=SEEDS,
    shared=st.fixed_dictionaries(
        {},
        optional={
            name: values(get_type_hints(Params, include_extras=True)[name])
            for name in ("steps", "cfg_scale", "guidance", "width", "height")
        }
        | {
            "sampling_method": st.sampled_from(["euler", "dpm++2m", "er_sde", "lcm"]),
            "scheduler": st.sampled_from(["karras", "discrete", "lcm", "bong_tangent"]),
            "clip_skip": st.integers(2, 64),
            "eta": st.floats(0, 1000),
            "rng": st.just("cpu"),
            "circular": st.just(value=True),
        },
    ),
    hires=st.none()
    | st.fixed_dictionaries(
        {
            "hires": st.just(value=True),
            "hires_denoising_strength": st.floats(0, 1, exclude_min=True),
            "hires_upscaler": st.sampled_from(HIRES_UPSCALERS) | st.just("4x-Ultra"),
            "hires_scale": st.floats(1, 16),
        },
        optional={"hires_steps": st.integers(1, 1000)},
    ),
)
@settings(max_examples=300)
def test_a1111s_text_gives_back_what_it_can_hold(
    prompt: str, negative: str, seed: int, shared: dict[str, Any], hires: dict[str, Any] | None
):
    prompts = {"prompt": prompt, "negative_prompt": negative, "model": "tiny"}
    wishes = {**prompts, **shared, **(hires or {})}
    unsaid: dict[str, Any] = {"files": (), "sampling_method": "", "scheduler": ""}
    made = msgspec.structs.replace(facts(), seed=seed, params=Params(**wishes), **unsaid)
    read = from_text(build(made))
    assert read.notes == ()
    assert read.seed == seed
    # A text names the file that was used, and here none was.
    assert Params(**read.params, model="tiny") == made.params


@given(text=st.text() | st.text('a: 1,"{}[]\\\nSteps', max_size=80))
@settings(max_examples=500)
def test_any_text_is_read_or_refused(text: str):
    read_pairs(text)
    for read in (parse, from_text):
        try:
            read(text)
        except ValueError:
            continue
    for key in ("parameters", "sdistrib"):
        try:
            recipe_of({key: text}, "x")
        except PetitionError as error:
            assert error.code == "invalid_params"  # noqa: PT017


@given(value=st.binary(max_size=60))
def test_any_comment_is_read_or_refused(value: bytes):
    try:
        exiftext.read_user_comment(value)
    except ValueError:
        return


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_comment_that_is_mostly_plain_comes_back(text: str):
    whole = "Steps: 20, Sampler: Euler, Seed: 1, Size: 512x512" * 10 + text
    assert exiftext.read_user_comment(exiftext.user_comment(whole)) == whole
