"""LoRAs: equal to direct calls of the engine, and base images after them equal to before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdistrib.params import Params
from sdistrib_worker.inventory import scan
from sdistrib_worker.shelf import Shelf, make_plan
from sdistrib_worker.supervisor import EngineChild, Picture
from tests.support.cluster import cluster
from tests.support.direct import drawn, wishes
from tests.support.engines import outcome, request, running
from tools.tiny_models import transformer
from tools.tiny_models.tree import _model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

MODES = {"auto": 0, "immediately": 1, "at_runtime": 2}
STYLE = "tiny-style.safetensors"


@pytest.fixture(scope="module")
def child() -> Iterator[EngineChild]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def ink(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another LoRA."""
    path = tmp_path_factory.mktemp("lora") / "ink.safetensors"
    _model({"": transformer.lora}, seed=2).write(path)
    return str(path)


def _draw(child: EngineChild, models: Path, *loras: tuple[str, float], **more: Any) -> bytes:
    result = outcome(child, request(models, loras=loras, **more))
    assert isinstance(result.end, Picture), result.end
    return result.pixels


@pytest.mark.parametrize("mode", MODES)
def test_a_base_image_after_a_lora_is_the_one_of_before(child, models_dir, tmp_path, mode):
    about = {"context": mode, "lora_apply_mode": mode}
    first = _draw(child, models_dir, **about)
    with_it = _draw(child, models_dir, (STYLE, 1.0), **about)
    third = _draw(child, models_dir, **about)
    again = _draw(child, models_dir, (STYLE, 1.0), **about)
    assert first == third
    assert with_it == again != first
    model = models_dir / "stable-diffusion" / "tiny.safetensors"
    ctx = {"lora_apply_mode": MODES[mode]}
    lora = [[str(models_dir / "lora" / STYLE), 1.0]]
    assert [first, with_it] == drawn(
        tmp_path / "direct", [wishes(model, {}, ctx=ctx), wishes(model, {}, ctx=ctx, loras=lora)]
    )


def test_two_loras_no_weight_and_a_negative_one_equal_direct_calls(
    child, models_dir, tmp_path, ink
):
    cases: list[list[tuple[str, float]]] = [
        [], [(STYLE, 1.0)], [(STYLE, 0.0)], [(STYLE, -1.0)], [(STYLE, 0.5), (ink, 1.0)],
        [(ink, 1.0)],
    ]  # fmt: skip
    ours = [_draw(child, models_dir, *loras) for loras in cases]
    model = models_dir / "stable-diffusion" / "tiny.safetensors"
    place = models_dir / "lora"
    images = [
        wishes(model, {}, loras=[[str(place / name), weight] for name, weight in loras])
        for loras in cases
    ]
    assert ours == drawn(tmp_path / "direct", images)
    base, one, none, negative, both, other = ours
    assert none == base
    assert len({base, one, negative, both, other}) == 5


def test_a_lora_that_is_named_twice_adds_up(child, models_dir):
    shelf = Shelf(scan(models_dir).files)

    def planned(prompt: str) -> bytes:
        params = Params(prompt=prompt, model="tiny")
        loras = [(lora.path, lora.weight) for lora in make_plan(params, shelf, "box").loras]
        return _draw(child, models_dir, *loras, prompt=prompt)

    twice = planned("a cat<lora:tiny-style:0.5><lora:tiny-style:0.25>")
    assert twice == planned("a cat<lora:tiny-style:0.75>")
    assert twice != planned("a cat<lora:tiny-style:0.5>")
    assert planned("a cat<lora:tiny-style:1><lora:tiny-style:-1>") == planned("a cat")


@pytest.mark.process
def test_loras_of_flags_and_prompts_through_manager_and_worker(models_dir, tmp_path):
    words = ("-m", "tiny", "-W", "32", "-H", "32", "--steps", "2", "--cfg-scale", "1", "-s", "3")

    def through(name: str, *more: str) -> bytes:
        out = tmp_path / f"{name}.png"
        client = farm.draw(*words, *more, "-o", str(out))
        assert client.ends() == 0, client.errors
        with Image.open(out) as picture:
            assert picture.info["parameters"].startswith("a cat")
            assert ("<lora:tiny-style:" in picture.info["parameters"]) == ("base" not in name)
            return picture.convert("RGB").tobytes()

    immediately = ("--lora-apply-mode", "immediately")
    with cluster() as farm:
        farm.worker(models_dir, "--threads", "1")
        ours = [
            through("base", "-p", "a cat"),
            through("flag", "-p", "a cat", "--lora", "tiny-style:0.5", "--lora", "tiny-style:0.25"),
            through("tag", "-p", "a cat<lora:tiny-style:0.75>"),
            through("base-again", "-p", "a cat"),
            through("merged-base", "-p", "a cat", *immediately),
            through("merged", "-p", "a cat", "--lora", "tiny-style:0.75", *immediately),
            through("merged-base-again", "-p", "a cat", *immediately),
        ]
        client = farm.draw(
            *words, "-p", "a cat", "--lora", "tiny-stlye", "-o", str(tmp_path / "no")
        )
        assert client.ends() == 4
        assert "lora_not_found" in client.errors
        assert "tiny-style.safetensors" in client.errors
    base, flag, tag, again, merged_base, merged, merged_again = ours
    assert base == again == merged_base == merged_again
    assert flag == tag
    model = models_dir / "stable-diffusion" / "tiny.safetensors"
    lora = [[str(models_dir / "lora" / STYLE), 0.75]]
    assert [base, flag, merged] == drawn(
        tmp_path / "direct",
        [
            wishes(model, {}),
            wishes(model, {}, loras=lora),
            wishes(model, {}, loras=lora, ctx={"lora_apply_mode": 1}),
        ],
    )
