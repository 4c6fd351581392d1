"""Two workers with unequal trees: who has what, what comes and goes. Real processes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdistrib_client import Client
from tests.support.cluster import wait_for
from tests.support.scripted_farm import Farm

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    running = Farm(tmp_path)
    try:
        yield running
    finally:
        running.close()


def put(farm: Farm, tree: str, name: str, content: bytes) -> None:
    path = farm.folder / tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def join(farm: Farm, name: str) -> None:
    """A worker whose tree is called as it is."""
    farm.models = farm.folder / name
    farm.join(name)


def listed(farm: Farm, *words: str) -> list[tuple[str, ...]]:
    rows = [json.loads(line) for line in farm.does("models", "--json", *words).splitlines()]
    return [(row["name"], row["digest"], *row["workers"]) for row in rows]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_unequal_trees_are_told_apart_by_content_and_by_hash(farm):
    put(farm, "left", "Stable-diffusion/same.safetensors", b"same")
    put(farm, "right", "Stable-diffusion/same.safetensors", b"same")
    put(farm, "left", "Stable-diffusion/v1.safetensors", b"one")
    put(farm, "right", "Stable-diffusion/v1.safetensors", b"other")
    put(farm, "right", "Lora/ink.gguf", b"ink")
    join(farm, "left")
    join(farm, "right")
    versions = {
        ("v1.safetensors", digest(b"one"), "left"),
        ("v1.safetensors", digest(b"other"), "right"),
    }
    wait_for(lambda: set(listed(farm, "V1")) == versions, "both digests")
    wait_for(
        lambda: listed(farm, "same") == [("same.safetensors", digest(b"same"), "left", "right")],
        "the digest of what is the same",
    )
    wait_for(
        lambda: listed(farm, "--kind", "lora") == [("ink.gguf", digest(b"ink"), "right")],
        "the LoRA of one",
    )
    plain, where = farm.does("models"), farm.does("models", "--where", "v1")
    assert "left" not in plain
    (row,) = [line for line in plain.splitlines() if "same" in line]
    assert row.split() == ["stable-diffusion", "same.safetensors", "4", "B",
                           digest(b"same")[:10], "2"]  # fmt: skip
    rows = [line.split("  ")[-1] for line in where.splitlines()[1:]]
    assert sorted(rows) == ["left (contents differ!)", "right (contents differ!)"]
    # A1111's own spelling says which of the two is meant.
    for name, content in (("left", b"one"), ("right", b"other")):
        model = f"v1.safetensors [{digest(content)[:10]}]"
        out = str(farm.folder / "out.png")
        client = farm.draw("-m", model, "-p", "x", "-W", "64", "-H", "64", "-o", out, "--json")
        (image,) = [row for row in client.events if row["event"] == "image"]
        assert image["worker"] == name


def test_a_model_that_is_copied_in_comes_when_it_is_whole_and_one_that_is_removed_goes(farm):
    join_at = farm.folder / "left" / "Stable-diffusion"
    put(farm, "left", "Stable-diffusion/old.safetensors", b"old")
    join(farm, "left")
    with Client(farm.clients_at) as client:

        def names(pattern: str = "") -> list[tuple[str, int]]:
            return [(m.file.name, m.file.size_bytes) for m in client.models(name=pattern)]

        wait_for(lambda: names("old"), "the first model")
        put(farm, "left", "Stable-diffusion/new.safetensors", b"whole")
        sizes = wait_for(lambda: names("new"), "the new model")
        assert sizes == [("new.safetensors", 5)]
        (join_at / "old.safetensors").unlink()
        wait_for(lambda: names() == [("new.safetensors", 5)], "the old one to go")
