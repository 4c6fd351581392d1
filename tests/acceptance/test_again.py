"""A picture is drawn again from its own file, on the real engine, and what differs is told."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdistrib.infotext import build, chunk, parse_chunk
from tests.support.cluster import Cluster, Process, cluster, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.process, pytest.mark.timeout(180)]

SMALL = ("-W", "64", "-H", "64", "--steps", "2", "--cfg-scale", "3", "-n", "blue")


@pytest.fixture(scope="module")
def tree(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder of our own, to be changed."""
    tree = tmp_path_factory.mktemp("models")
    for kind, name in (("stable-diffusion", "tiny"), ("stable-diffusion", "tiny-alt"),
                       ("lora", "tiny-style")):  # fmt: skip
        (tree / kind).mkdir(exist_ok=True)
        shutil.copy(models_dir / kind / f"{name}.safetensors", tree / kind)
    return tree


@pytest.fixture
def farm(tree: Path) -> Iterator[Cluster]:
    with cluster() as running:
        running.worker(tree, "--name", "box1", "--threads", "1")
        # A picture that is drawn before says nothing of its files' content.
        _known(running, 3)
        yield running


def drawn(farm: Cluster, *words: str, status: int = 0) -> Process:
    client = farm.draw(*words)
    assert client.ends() == status, client.errors
    return client


def pixels(path: Path) -> str:
    with Image.open(path) as picture:
        return hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "lossless.webp"])
def test_the_same_worker_draws_the_same_file_again(farm, tmp_path, name):
    more = ("--lossless",) if name.startswith("lossless") else ()
    out = tmp_path / name
    # The third of a batch: it is its own seed that counts.
    drawn(farm, "-m", "tiny", "-p", "a house <lora:tiny-style:0.5>", *SMALL, *more, "-b", "3",
          "-s", "70", "-o", str(out))  # fmt: skip
    third = out.with_stem(out.stem + "_2")
    again = tmp_path / f"again{out.suffix}"
    client = drawn(farm, "--from", str(third), "-o", str(again))
    assert again.read_bytes() == third.read_bytes()
    assert pixels(again) == pixels(third) != pixels(out.with_stem(out.stem + "_0"))
    assert "The new pixels are the same." in client.errors
    assert "fingerprint" not in client.errors
    with Image.open(again) as picture:
        assert picture.format == {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[out.suffix]


def test_typed_flags_stand_before_the_pictures_own(farm, tmp_path):
    first = tmp_path / "a.png"
    drawn(farm, "-m", "tiny", "-p", "a house", *SMALL, "-s", "5", "-o", str(first))
    drawn(farm, "--from", str(first), "-b", "2", "-o", str(tmp_path / "b.webp"), "--lossless")
    assert pixels(tmp_path / "b_0.webp") == pixels(first)
    drawn(farm, "--from", str(first), "-s", "6", "-o", str(tmp_path / "c.png"))
    assert pixels(tmp_path / "c.png") == pixels(tmp_path / "b_1.webp") != pixels(first)
    client = drawn(farm, "--from", str(first), "--steps", "3", "-o", str(tmp_path / "d.png"))
    assert "The new pixels" not in client.errors
    with Image.open(tmp_path / "d.png") as picture:
        facts = parse_chunk(picture.info["sdistrib"])
    assert (facts.params.steps, facts.params.prompt, facts.seed) == (3, "a house", 5)


def rewritten(source: Path, target: Path, **engine: Any) -> None:
    """The same picture, with another engine in its own data."""
    with Image.open(source) as picture:
        facts = parse_chunk(picture.info["sdistrib"])
        other = msgspec.structs.replace(facts.engine, **engine)
        info = PngInfo()
        info.add_itxt("sdistrib", chunk(msgspec.structs.replace(facts, engine=other)))
        picture.save(target, pnginfo=info)


def test_another_fingerprint_is_named_in_words_and_in_json(farm, tmp_path):
    first, other = tmp_path / "a.png", tmp_path / "other.png"
    drawn(farm, "-m", "tiny", "-p", "x", *SMALL, "-o", str(first))
    rewritten(first, other, fingerprint="0" * 16, version="0.4.6", backend="cuda")
    words = ("--from", str(other), "-o", str(tmp_path / "b.png"))
    said = drawn(farm, *words).errors
    assert f"the original with {'0' * 16} (engine 0.4.7 instead of 0.4.6, backend cpu" in said
    events = drawn(farm, *words, "--json").events
    notices = [event["text"] for event in events if event["event"] == "notice"]
    assert any("0" * 16 in text for text in notices)
    assert (events[-1]["event"], events[-1]["exit_status"]) == ("finished", 0)
    # Without metadata the result itself names the fingerprint.
    said = drawn(farm, *words, "--disable-image-metadata").errors
    assert f"the original with {'0' * 16}: pixels may differ" in said


def test_a_text_of_a1111_draws_the_same_picture(farm, tmp_path):
    first, text = tmp_path / "a.png", tmp_path / "text.png"
    drawn(farm, "-m", "tiny", "-p", "two\nlines", *SMALL, "-s", "9", "-o", str(first))
    with Image.open(first) as picture:
        info = PngInfo()
        facts = parse_chunk(picture.info["sdistrib"])
        info.add_text("parameters", build(facts) + ", ENSD: 31337")
        picture.save(text, pnginfo=info)
    client = drawn(farm, "--from", str(text), "-o", str(tmp_path / "b.png"))
    assert pixels(tmp_path / "b.png") == pixels(first)
    assert "text.png: ENSD: 31337 is not taken over" in client.errors


def test_other_content_under_the_same_name_and_the_same_under_another(models_dir, tmp_path):
    tree = tmp_path / "models" / "stable-diffusion"
    tree.mkdir(parents=True)
    source = models_dir / "stable-diffusion"
    shutil.copy(source / "tiny.safetensors", tree / "it.safetensors")
    first = tmp_path / "a.png"
    with cluster() as farm:
        farm.worker(tree.parent, "--name", "box1", "--threads", "1")
        _known(farm, 1)
        drawn(farm, "-m", "it", "-p", "x", *SMALL, "-o", str(first))
    shutil.copy(source / "tiny-alt.safetensors", tree / "it.safetensors")
    with cluster() as farm:
        worker = farm.worker(tree.parent, "--name", "box1", "--threads", "1")
        _known(farm, 1)
        said = drawn(farm, "--from", str(first), "-o", str(tmp_path / "b.png")).errors
        assert "same name, other file" in said
        assert "Drawn with it.safetensors" in said
        assert "The new pixels are not the same." in said
        worker.close()
    shutil.copy(source / "tiny.safetensors", tree / "moved.safetensors")
    with cluster() as farm:
        farm.worker(tree.parent, "--name", "box1", "--threads", "1")
        _known(farm, 2)
        said = drawn(farm, "--from", str(first), "-o", str(tmp_path / "c.png")).errors
        assert "is called 'moved.safetensors' here" in said
        assert "The new pixels are the same." in said
    assert pixels(tmp_path / "c.png") == pixels(first) != pixels(tmp_path / "b.png")


def _known(farm: Cluster, count: int) -> None:
    """Wait until the worker has told the digests of its files."""

    def digests() -> bool:
        rows = farm.draw("models", "--json").events
        return sum(bool(row.get("digest")) for row in rows) == count

    wait_for(digests, "the digests")
