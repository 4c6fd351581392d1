"""Embeddings with a model of SD 1's layout: 2 GB of memory, so only in `make test-slow`."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdistrib.protocol.engine import Declined
from sdistrib_worker.supervisor import EngineChild, Picture
from tests.support.cluster import cluster
from tests.support.direct import drawn, wishes
from tests.support.engines import Outcome, outcome, request, running
from tools.tiny_models.layers import bell
from tools.tiny_models.tree import make_tree

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

SD15 = "stable-diffusion/tiny-sd15.safetensors"
WORD = "tiny-word.safetensors"
#: The smallest that shows something; SD 1 is a large model even so.
SMALL = {"model": "sd15", "width": 64, "height": 64, "steps": 1}
MEMBERS = {"width": 64, "height": 64, "sample_params.sample_steps": 1}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with SD 1.5, two embeddings, and one of them in half precision as well."""
    root = tmp_path_factory.mktemp("sd15")
    make_tree(root, only=[SD15, f"embeddings/{WORD}", "stable-diffusion/tiny.safetensors"])
    half = bell("ink", (3, 768), 0.5).astype("<f2")
    _write(root / "embeddings" / "ink.safetensors", "F32", (3, 768), half.astype("<f4").tobytes())
    _write(root / "embeddings" / "half.safetensors", "F16", (3, 768), half.tobytes())
    wide = bell("wide", (2, 1024), 0.5).astype("<f4")
    _write(root / "embeddings" / "wide.safetensors", "F32", (2, 1024), wide.tobytes())
    return root


def _write(path: Path, dtype: str, shape: tuple[int, int], raw: bytes) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(raw)]}
    head = json.dumps({"emb_params": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + raw)


@pytest.fixture(scope="module")
def child() -> Iterator[EngineChild]:
    with running() as started:
        yield started


def _draw(child: EngineChild, tree: Path, *names: str, **more: Any) -> Outcome:
    files = {"model": SD15}
    embeddings = [(name, f"{name}.safetensors") for name in names]
    wish = request(
        tree, files=files, embeddings=embeddings, context=str(sorted(names)), **SMALL | more
    )
    return outcome(child, wish)


def _pixels(child: EngineChild, tree: Path, *names: str, **more: Any) -> bytes:
    result = _draw(child, tree, *names, **more)
    assert isinstance(result.end, Picture), result.end
    return result.pixels


@pytest.mark.slow
def test_embeddings_equal_direct_calls_with_the_plain_words(child, tree, tmp_path):
    def direct(prompt: str, *names: str, **members: Any) -> dict[str, Any]:
        files = [[name, str(tree / "embeddings" / f"{name}.safetensors")] for name in names]
        img = MEMBERS | {"prompt": prompt} | members
        return wishes(tree / SD15, img, embeddings=files)

    ours = [
        _pixels(child, tree, prompt="a tiny-word cat, ink"),
        _pixels(child, tree, "tiny-word", prompt="a embedding:tiny-word cat, ink"),
        _pixels(child, tree, "tiny-word", "ink", prompt="a embedding:tiny-word cat, embedding:ink"),
        _pixels(child, tree, "ink", prompt="a tiny-word cat, (embedding:ink:1.3)"),
        _pixels(
            child, tree, "ink", prompt="a cat", negative_prompt="(embedding:ink)", cfg_scale=3.0
        ),
    ]
    images = [
        direct("a tiny-word cat, ink"),
        direct("a tiny-word cat, ink", "tiny-word"),
        direct("a tiny-word cat, ink", "tiny-word", "ink"),
        direct("a tiny-word cat, (ink:1.3)", "ink"),
        direct("a cat", "ink", negative_prompt="(ink)", **{"sample_params.guidance.txt_cfg": 3.0}),
    ]
    assert ours == drawn(tmp_path / "direct", images)
    assert len(set(ours)) == len(ours)


@pytest.mark.slow
def test_only_the_named_word_means_the_embedding(child, tree, tmp_path):
    plain = _pixels(child, tree, prompt="a drinking inkpot, ink")
    named = _pixels(child, tree, "ink", prompt="a drinking inkpot, embedding:ink")
    # A prompt that does not name it is drawn as if it were not there, whatever was drawn before.
    assert _pixels(child, tree, prompt="a drinking inkpot, ink") == plain
    path = str(tree / "embeddings" / "ink.safetensors")
    once, everywhere = drawn(
        tmp_path / "direct",
        [
            wishes(tree / SD15, MEMBERS | {"prompt": prompt}, embeddings=[[word, path]])
            for prompt, word in (
                ("a drinking inkpot, zqxj", "zqxj"), ("a drinking inkpot, ink", "ink"),
            )
        ],
    )  # fmt: skip
    assert named == once
    # By its plain name the engine finds it inside of other words too.
    assert len({plain, named, everywhere}) == 3


@pytest.mark.slow
def test_half_precision_draws_what_the_same_numbers_do_in_single(child, tree):
    single = _pixels(child, tree, "ink", prompt="a embedding:ink cat")
    half = _pixels(child, tree, "half", prompt="a embedding:half cat")
    assert half == single
    assert half == _pixels(child, tree, "half", prompt="a embedding:half cat")


@pytest.mark.slow
def test_an_embedding_that_does_not_fit_is_refused(child, tree):
    result = _draw(child, tree, "wide", prompt="a embedding:wide cat")
    assert isinstance(result.end, Declined)
    assert result.end.message == "The embedding wide fits no text encoder of this model."
    # Without guidance the negative prompt is not read at all, by the engine's own rule.
    _pixels(child, tree, "wide", prompt="a cat", negative_prompt="embedding:wide")
    result = _draw(
        child, tree, "wide", prompt="a cat", negative_prompt="embedding:wide", cfg_scale=2.0
    )
    assert isinstance(result.end, Declined)


@pytest.mark.slow
@pytest.mark.process
def test_embeddings_through_manager_and_worker(tree, tmp_path):
    words = ("-W", "64", "-H", "64", "--steps", "1", "--cfg-scale", "1", "-s", "3")
    sd15 = ("-m", "tiny-sd15", *words)
    cases = {
        "plain": ("-p", "a tiny-word cat"),
        "flag": ("-p", "a tiny-word cat", "--embedding", "tiny-word"),
        "named": ("-p", "a embedding:tiny-word cat"),
        "again": ("-p", "a tiny-word cat"),
    }
    ours = {}
    with cluster() as farm:
        farm.worker(tree, "--threads", "1")
        for name, prompt in cases.items():
            out = tmp_path / f"{name}.png"
            client = farm.draw(*sd15, *prompt, "-o", str(out))
            assert client.ends() == 0, client.errors
            with Image.open(out) as picture:
                ours[name] = picture.convert("RGB").tobytes()
                text = picture.info["parameters"]
                assert ('TI hashes: "tiny-word: ' in text) == (name in ("flag", "named"))
        no = str(tmp_path / "no.png")
        unknown = farm.draw(*sd15, "-p", "embedding:tinyword", "-o", no)
        assert unknown.ends() == 4
        assert "tiny-word.safetensors" in unknown.errors
    assert ours["plain"] == ours["again"] != ours["flag"] == ours["named"]
    embeddings = [["tiny-word", str(tree / "embeddings" / WORD)]]
    img = MEMBERS | {"prompt": "a tiny-word cat"}
    assert [ours["plain"], ours["flag"]] == drawn(
        tmp_path / "direct",
        [wishes(tree / SD15, img), wishes(tree / SD15, img, embeddings=embeddings)],
    )


def test_a_model_of_another_kind_refuses_embeddings_before_it_draws(child, models_dir, tmp_path):
    word = tmp_path / "word.safetensors"
    _write(word, "F32", (1, 768), bytes(4 * 768))
    result = outcome(
        child,
        request(
            models_dir, prompt="embedding:word", embeddings=[("word", str(word))], context="ovis"
        ),
    )
    assert isinstance(result.end, Declined)
    assert (result.end.code, result.end.loading) == ("unsupported", True)
    assert result.end.message == (
        "Embeddings are for SD 1, SD 2 and SDXL; this model is Ovis Image."
    )
    after = outcome(child, request(models_dir))
    assert isinstance(after.end, Picture)
