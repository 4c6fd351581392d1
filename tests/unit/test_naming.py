"""LoRAs and embeddings that are wished for beside the prompts."""

import pytest

from sdistrib.errors import PetitionError
from sdistrib.models import Wanted, wanted_files
from sdistrib.prompts import LoraTag, split_loras
from sdistrib_client.composing import compose, edit


def composed(prompt: str, negative: str = "", **wishes: object) -> tuple[str, str]:
    wishes = {"model": "m", "negative_prompt": negative, **wishes}
    params = compose({"prompt": prompt, **wishes}, seed=1).params
    return params.prompt, params.negative_prompt


@pytest.mark.parametrize(
    ("wish", "tag", "read"),
    [
        ("ink", "<lora:ink:1>", LoraTag("ink", 1.0)),
        ("ink:0.8", "<lora:ink:0.8>", LoraTag("ink", 0.8)),
        ("ink:", "<lora:ink:1>", LoraTag("ink", 1.0)),
        ("sub/ink.pt:-1", "<lora:sub/ink.pt:-1>", LoraTag("sub/ink.pt", -1.0)),
        ("|high_noise|ink:2", "<lora:|high_noise|ink:2>", LoraTag("ink", 2.0, high_noise=True)),
    ],
)  # fmt: skip
def test_a_lora_becomes_a_tag_of_the_prompt_and_leaves_it_as_it_was(wish, tag, read):
    prompt, _ = composed("a house", loras=[wish])
    assert prompt == f"a house{tag}"
    assert split_loras(prompt) == ("a house", (read,))


def test_several_loras_stand_beside_those_of_the_prompt_and_add_up():
    prompt, negative = composed("a <lora:ink:0.5>", "b", loras=("ink:0.25", "wash"))
    assert split_loras(prompt)[1] == (LoraTag("ink", 0.75), LoraTag("wash", 1.0))
    assert negative == "b"


@pytest.mark.parametrize(
    ("word", "prompt", "marked"),
    [
        ("ink", "an INK pot, inkpot pink (ink:1.2) ink", "an E pot, inkpot pink (E:1.2) E"),
        ("by-ink", "by-ink by-ink-2, ink.", "E by-ink-2, ink."),
        ("ink", "ink. ink.5 sub/ink ink/sub", "E. ink.5 sub/ink ink/sub"),
        ("ti/ink.pt", "ink", "E"),
        ("ink", "ink <lora:ink:1>", "E <lora:ink:1>"),
        ("ink", "embedding:ink <embedding:ink> ink", "E <embedding:ink> E"),
        ("c++", "c++ (c++)", "E (E)"),
    ],
)
def test_the_word_of_an_embedding_is_marked_where_it_is_a_word(word, prompt, marked):
    got, _ = composed(prompt, embeddings=[word])
    assert got == marked.replace("E", f"embedding:{word}")
    assert composed("x", prompt, embeddings=[word]) == ("x", got)


def test_names_with_blanks_and_brackets_are_written_in_angles():
    prompt, negative = composed("x", "bad prompt (v2), bad", embeddings=["bad prompt (v2)"])
    assert negative == "<embedding:bad prompt (v2)>, bad"
    params = compose({"prompt": prompt, "negative_prompt": negative, "model": "m"}).params
    assert Wanted("negative_prompt", "embeddings", "bad prompt (v2)") in wanted_files(params)


def test_one_that_is_marked_already_is_enough():
    assert composed("embedding:ink", embeddings=["ink"]) == ("embedding:ink", "")


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        ({"loras": ["a<b"]}, "--lora 'a<b'"),
        ({"loras": ["a>b:1"]}, "--lora"),
        ({"loras": ["a:much"]}, "has a weight that is no number"),
        ({"loras": [":1"]}, "names no LoRA"),
        ({"loras": "ink"}, "loras is a list of names, not 'ink'"),
        ({"embeddings": ["a<b"]}, "--embedding 'a<b'"),
        ({"embeddings": [" "]}, "--embedding ' '"),
        ({"embeddings": ["ti/ink.pt"]}, "write 'ink' in the prompt where it belongs"),
    ],
)
def test_names_that_cannot_be_written_are_refused(wishes, why):
    with pytest.raises(PetitionError, match=why) as caught:
        composed("a house", **wishes)
    assert (caught.value.code, caught.value.info.field) == ("invalid_params", "prompt")


def test_an_old_petition_gets_them_too():
    old = compose({"prompt": "ink <lora:a:1>", "negative_prompt": "bad", "model": "m"}, seed=1)
    assert edit(old, {"loras": ["b"]}).params.prompt == "ink <lora:a:1><lora:b:1>"
    assert edit(old, {"embeddings": ["bad"]}).params.negative_prompt == "embedding:bad"
    edited = edit(old, {"prompt": "a tower", "loras": ["b:2"]}).params
    assert (edited.prompt, edited.negative_prompt) == ("a tower<lora:b:2>", "bad")
