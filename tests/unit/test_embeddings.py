"""Embeddings: from a name in a prompt to what the engine is given."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdistrib import limits
from sdistrib.errors import PetitionError
from sdistrib.models import ModelFile, Wanted, wanted_files
from sdistrib.params import Params
from sdistrib.prompts import embedding_names, replace_embeddings
from sdistrib.protocol import messages as wire
from sdistrib_manager.jobs import context_key
from sdistrib_worker.engine import embedding
from sdistrib_worker.engine.embedding import BYTES_MAX, UnreadableError, readable, word_of
from sdistrib_worker.engine.story import Story
from sdistrib_worker.shelf import Shelf, StoredFile, make_plan
from tests.support.farm import MODEL, Client, Farm, Worker

WORD = ModelFile("embeddings", "ti/Easy Negative.pt", 25_000, "e" * 64)
OTHER = ModelFile("embeddings", "ti/Easy Negative.pt", 25_000, "f" * 64)
INK = ModelFile("embeddings", "ink.safetensors", 6_000, "1" * 64)
STORED = (
    StoredFile(ModelFile("stable-diffusion", "sd15.gguf", 9, "a" * 64), "/m/sd15", 1),
    StoredFile(WORD, "/m/easy", 1),
    StoredFile(INK, "/m/ink", 1),
)


@pytest.fixture
def farm() -> Farm:
    return Farm()


@pytest.mark.parametrize(
    ("prompt", "names", "rest"),
    [
        ("a embedding:ink house", ("ink",), "a W house"),
        ("embedding:ink", ("ink",), "W"),
        ("(embedding:ink:1.2), sun", ("ink",), "(W:1.2), sun"),
        ("((embedding:ink))[embedding:ink]", ("ink",), "((W))[W]"),
        ("embedding:ink, embedding:by.ink-2.", ("ink", "by.ink-2"), "W, W."),
        ("embedding:ti/ink.pt", ("ti/ink.pt",), "W"),
        ("<embedding: bad prompt (v2) >!", ("bad prompt (v2)",), "W!"),
        ("ink and an embedding of ink", (), "ink and an embedding of ink"),
        ("embedding: ink", (), "embedding: ink"),
        ("subembedding:ink a:embedding:ink", (), "subembedding:ink a:embedding:ink"),
        ("Embedding:ink", (), "Embedding:ink"),
    ],
)
def test_an_embedding_is_what_the_prompt_calls_one(prompt, names, rest):
    assert embedding_names(prompt) == names
    assert replace_embeddings(prompt, dict.fromkeys(names, "W")) == rest


def test_a_lora_may_be_called_anything():
    assert embedding_names("<lora:embedding:ink:1>") == ()


@pytest.mark.parametrize("prompt", ["<embedding:>", "<embedding:  >", "embedding:" + "n" * 513])
def test_names_that_mean_nothing_are_refused(prompt):
    with pytest.raises(PetitionError, match=r"^(<embedding|embedding:)") as caught:
        wanted_files(Params(prompt="a", negative_prompt=prompt))
    assert caught.value.code == "invalid_params"
    assert len(str(caught.value)) < 200
    assert embedding_names("embedding:" + "n" * 512) == ("n" * 512,)


def test_embeddings_at_n_and_n_plus_1():
    names = [f"embedding:e{i}" for i in range(limits.EMBEDDINGS_MAX + 1)]
    assert len(embedding_names(" ".join(names[:-1]), names[0])) == limits.EMBEDDINGS_MAX
    with pytest.raises(PetitionError) as caught:
        embedding_names(" ".join(names[:-1]), names[-1])
    assert caught.value.code == "too_large"


def test_a_petition_wants_the_embeddings_of_both_prompts_once():
    params = Params(
        prompt="embedding:ink by <lora:ink:1>", negative_prompt="embedding:easy embedding:ink"
    )
    assert wanted_files(params) == (
        Wanted("prompt", "lora", "ink"),
        Wanted("prompt", "embeddings", "ink"),
        Wanted("negative_prompt", "embeddings", "easy"),
    )


# --- Manager ----------------------------------------------------------------------------------


def test_an_embedding_nobody_has_is_refused_with_the_closest_names(farm):
    client, worker = Client(farm), Worker(farm, files=(MODEL, WORD, INK))
    client.submits(negative_prompt="embedding:easynegativ")
    error = client.last(wire.Refused).error
    assert (error.code, error.field) == ("model_not_found", "negative_prompt")
    assert error.closest == ("ti/Easy Negative.pt",)
    assert not worker.attempts
    client.submits(2, prompt="the word ink alone is just a word, and so is Nobody")
    assert worker.attempts


def test_only_a_worker_that_has_the_embedding_draws_with_it(farm):
    client = Client(farm)
    without, having = Worker(farm, "gpu1"), Worker(farm, "gpu2", (MODEL, INK))
    client.submits(prompt="embedding:ink", images=4)
    assert not without.attempts
    assert having.attempts


def test_all_images_of_a_petition_use_one_content(farm):
    client = Client(farm)
    first = Worker(farm, "gpu1", (MODEL, WORD))
    client.submits(negative_prompt="<embedding:easy negative>", images=4)
    assert first.attempts
    other = Worker(farm, "gpu2", (MODEL, OTHER))
    assert not other.attempts


def test_embeddings_are_part_of_the_context():
    def key(prompt: str, negative: str = "") -> str:
        return context_key(
            Params(prompt=prompt, negative_prompt=negative, model="m"), lambda _kind, name: name
        )

    assert key("ink") == key("easy") != key("embedding:ink")
    assert key("embedding:ink") == key("a embedding:ink tower") == key("x", "embedding:ink")
    assert key("embedding:ink embedding:easy") == key("embedding:easy", "embedding:ink")
    assert len({key("x"), key("embedding:ink"), key("embedding:ink embedding:easy")}) == 3


# --- Worker -----------------------------------------------------------------------------------


def _plan(**prompts: str):
    return make_plan(Params(**{"prompt": "x", "model": "sd15", **prompts}), Shelf(STORED), "box")


def test_embeddings_are_resolved_and_part_of_the_context_that_is_loaded():
    plan = _plan(prompt="embedding:ink", negative_prompt="<embedding:Easy Negative>")
    assert [(file.name, file.path) for file in plan.embeddings] == [
        ("ink", "/m/ink"), ("Easy Negative", "/m/easy"),
    ]  # fmt: skip
    assert plan.files == {"model": "/m/sd15"}
    used = Shelf(STORED).used(plan)
    assert [(file.field, file.kind, file.name) for file in used] == [
        ("model", "", "sd15.gguf"),
        ("prompt", "embeddings", "ink.safetensors"),
        ("negative_prompt", "embeddings", "ti/Easy Negative.pt"),
    ]
    for key in ("key", "context"):
        keys = [getattr(_plan(prompt=text), key) for text in ("x", "embedding:ink", "ink")]
        assert keys[0] == keys[2] != keys[1]
        same = [
            getattr(_plan(**prompts), key)
            for prompts in (
                {"prompt": "embedding:ink.safetensors"}, {"negative_prompt": "y embedding:ink"},
            )
        ]  # fmt: skip
        assert same == [keys[1]] * 2


def test_an_embedding_that_is_gone_from_this_worker():
    with pytest.raises(PetitionError) as caught:
        _plan(prompt="embedding:pink")
    assert caught.value.code == "model_not_found"
    assert caught.value.info.closest == ("ink.safetensors",)


def test_the_engine_says_which_embeddings_it_used_and_what_the_model_is():
    story = Story("loading", 0.0)
    assert not story.takes_embeddings
    story.line(1, "stable-diffusion.cpp:305  - Version: Ovis Image \n")
    assert (story.version, story.takes_embeddings) == ("Ovis Image", False)
    for version in ("SD 1.x", "SD 2.x Inpaint", "SDXL (SSD1B)", "Instruct-Pix2Pix"):
        story.line(1, f"stable-diffusion.cpp:305  - Version: {version} \n")
        assert story.takes_embeddings, version
    story.line(0, "conditioner.hpp:244  - embedding 'embeddingab' applied, custom embeddings: 2\n")
    story.line(0, "conditioner.hpp:198  - embedding already read in: embeddingcd\n")
    story.line(2, "conditioner.hpp:193  - embedding 'embeddingef' failed\n")
    assert story.embeddings == {"embeddingab", "embeddingcd"}


# --- Files that the engine would misread --------------------------------------------------------


def _file(path: Path, dtype: str, raw: bytes, shape: list[int]) -> str:
    head = json.dumps(
        {
            "__metadata__": {"by": "a test"},
            "emb_params": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(raw)]},
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + raw)
    return str(path)


NUMBERS = (1.0, -2.5, 0.375, 65504.0)


def _read(path: str) -> tuple[float, ...]:
    data = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + size])["emb_params"]
    assert (entry["dtype"], entry["shape"]) == ("F32", [2, 2])
    start, end = entry["data_offsets"]
    return struct.unpack("<4f", data[8 + size + start : 8 + size + end])


def test_single_precision_is_given_as_it_is(tmp_path):
    path = _file(tmp_path / "a.safetensors", "F32", struct.pack("<4f", *NUMBERS), [2, 2])
    assert readable(path) == path


@pytest.fixture
def copies(monkeypatch) -> Iterator[dict[object, str]]:
    made: dict[object, str] = {}
    monkeypatch.setattr(embedding, "_copies", made)
    yield made
    for path in made.values():
        if path.startswith("/proc"):
            os.close(int(Path(path).name))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_given_as_a_copy_with_the_same_numbers(tmp_path, copies, dtype):
    numbers = NUMBERS if dtype == "F16" else (1.0, -2.5, 0.375, 65280.0)
    halves = (
        struct.pack("<4e", *numbers)
        if dtype == "F16"
        else b"".join(struct.pack("<f", number)[2:] for number in numbers)
    )
    path = _file(tmp_path / "a.safetensors", dtype, halves, [2, 2])
    copy = readable(path)
    assert copy != path
    assert _read(copy) == numbers
    assert readable(path) == copy
    assert list(copies.values()) == [copy]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"PK\3\4 data.pkl torch HalfStorage", "half-precision numbers; save it as safetensors"),
        (b"PK\3\4 torch BFloat16Storage", "half-precision"),
        ("F64", "holds F64; the engine reads F32"),
        ("short", "is damaged"),
    ],
)
def test_what_the_engine_would_misread_is_refused_by_name(tmp_path, content, why):
    path = tmp_path / "odd.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        dtype = "F16" if content == "short" else content
        _file(path, dtype, b"\0" * 6, [2, 2])
    with pytest.raises(UnreadableError, match=why) as caught:
        readable(str(path))
    assert str(caught.value).startswith("embedding odd.pt ")


@pytest.mark.parametrize("content", [b"", b"PK\3\4 FloatStorage", b"\xff" * 64, b"\2" + b"\0" * 7])
def test_other_files_are_left_to_the_engine(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert readable(str(path)) == str(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UnreadableError, match=r"embedding gone\.pt: No such file"):
        readable(str(tmp_path / "gone.pt"))
    large = tmp_path / "large.pt"
    with large.open("wb") as file:
        file.truncate(BYTES_MAX)
    assert readable(str(large)) == str(large)
    with large.open("wb") as file:
        file.truncate(BYTES_MAX + 1)
    with pytest.raises(UnreadableError, match="is larger than 64 MiB"):
        readable(str(large))


def test_the_engines_word_is_one_that_nobody_writes():
    word = word_of("/m/ink")
    assert word != word_of("/m/easy")
    assert word.isalnum()
    assert word == word.lower()
    assert len(word) == 33
