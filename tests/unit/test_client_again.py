"""`--from PICTURE` on the command line, without a network: what is asked for, and what is said."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from sdistrib.errors import EXIT_USAGE
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib_client.cli.commands import cli
from sdistrib_worker.effects import FileForm
from sdistrib_worker.pictures import encode
from tests.unit.test_client_cli import FakeClient, client
from tests.unit.test_infotext import SHA, facts

__all__ = ["client"]  # a fixture

NAME = "sd2/768-v-ema.safetensors"


def file_of(path: Path, kind: Any = "png", **params: Any) -> Path:
    made = facts(format=kind, width=64, **params)
    path.write_bytes(encode(bytes(64 * 512 * 3), 64, 512, 3, made, FileForm(kind))[0])
    return path


def run(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, ["h", *words], prog_name="sdistrib-client", env=env)


@pytest.fixture
def here(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    """A farm that has the picture's model."""
    model = wire.FoundModel(ModelFile("stable-diffusion", NAME, 1, SHA), ("gpu1",))
    monkeypatch.setattr(client, "models", lambda self: (model,), raising=False)
    return client


def test_a_picture_is_asked_for_as_it_says_and_gets_a_name_beside_it(here):
    file_of(Path("house.jpg"), "jpeg", quality=80, cfg_scale=3.5)
    result = run("--from", "house.jpg", env={"SDISTRIB_STEPS": "3", "SDISTRIB_SEED": "1"})
    assert result.exit_code == 0, result.output
    petition = here.petitions[-1]
    assert petition.params == facts(format="jpeg", width=64, quality=80, cfg_scale=3.5).params
    assert (petition.seed, petition.images) == (facts().seed, 1)
    assert Path("house_again.jpg").read_bytes() == b"png0"
    # The fake client's picture is none.
    assert "house.jpg: It cannot be compared: The new picture is no PNG" in result.stderr


def test_another_format_leaves_the_quality_behind(here):
    file_of(Path("a.jpg"), "jpeg", quality=80)
    assert run("--from", "a.jpg", "-o", "b.png").exit_code == 0
    assert (here.petitions[-1].params.format, here.petitions[-1].params.quality) == ("png", None)
    assert run("--from", "a.jpg", "--format", "webp", "--quality", "7").exit_code == 0
    assert (here.petitions[-1].params.format, here.petitions[-1].params.quality) == ("webp", 7)
    assert Path("a_again.webp").exists()


@pytest.mark.parametrize("words", [["-o", "a.png"], ["-o", "./a.png"], ["-o", "a"]])
def test_the_picture_that_is_read_is_never_overwritten(here, words):
    before = file_of(Path("a.png")).read_bytes()
    result = run("--from", "a.png", *words)
    assert result.exit_code == EXIT_USAGE
    assert "would overwrite" in result.stderr
    assert (Path("a.png").read_bytes(), here.petitions) == (before, [])


@pytest.mark.parametrize("name", ["none.png", "text.png", "."])
def test_a_file_that_cannot_serve_is_one_line_and_no_traceback(here, name):
    Path("text.png").write_text("hello")
    result = run("--from", name)
    assert result.exit_code == EXIT_USAGE
    assert result.stderr.startswith("sdistrib-client: ")
    assert "Traceback" not in result.output
    assert here.made == []


def test_notices_are_json_too_and_finished_is_last(here, monkeypatch):
    file_of(Path("a.png"))
    other = wire.FoundModel(ModelFile("stable-diffusion", NAME, 1, "0" * 64), ("gpu1",))
    monkeypatch.setattr(here, "models", lambda self: (other,))
    events = [json.loads(line) for line in run("--from", "a.png", "--json").stdout.splitlines()]
    texts = [event["text"] for event in events if event["event"] == "notice"]
    assert any("same name, other file" in text for text in texts)
    assert events[-1]["event"] == "finished"


def test_a_typed_model_is_not_held_against_the_pictures(here, monkeypatch):
    file_of(Path("a.png"))
    monkeypatch.setattr(here, "models", lambda self: pytest.fail("nothing is to be compared"))
    assert run("--from", "a.png", "-m", "other").exit_code == 0
    assert here.petitions[-1].params.model == "other"


def test_a_file_that_was_renamed_is_found_by_its_content(here, monkeypatch):
    file_of(Path("a.png"))
    moved = wire.FoundModel(ModelFile("stable-diffusion", "moved.gguf", 1, SHA), ("gpu1",))
    monkeypatch.setattr(here, "models", lambda self: (moved,))
    result = run("--from", "a.png", "--exact", "-b", "2")
    assert result.exit_code == 0, result.output
    petition = here.petitions[-1]
    assert (petition.params.model, petition.images, petition.exact) == ("moved.gguf", 2, True)
    assert msgspec.structs.replace(petition.params, model="768-v-ema") == facts(width=64).params
    assert "is called 'moved.gguf' here" in result.stderr
