"""Previews at the client: asked for, shown, acknowledged when done with, and one file of them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from sdistrib import limits
from sdistrib.errors import PetitionError
from sdistrib.protocol import messages as wire
from sdistrib_client import compose, effects, events
from sdistrib_client.cli import draw
from sdistrib_client.cli.commands import cli
from sdistrib_client.composing import compose_wishes, edit
from sdistrib_client.effects import Ending
from sdistrib_client.errors import OutputError
from sdistrib_client.pictures import Preview
from sdistrib_client.preview_file import PreviewFile
from tests.support.client_bench import BODY, ID, OTHER, Bench, result, sent
from tests.support.scripted_manager import png

# --- the machine ------------------------------------------------------------------------------


def told(index: int = 0, step: int = 3, id_: str = ID) -> wire.Preview:
    return wire.Preview(
        attempt=wire.Attempt(id_, index, 1), step=step, steps=20, width=8, height=8, format="png",
        worker="gpu1",
    )  # fmt: skip


def shown(out: list[effects.Effect]) -> list[tuple[int, bytes]]:
    return [(e.message.step, e.data) for e in out if isinstance(e, effects.ShowPreview)]


@pytest.fixture
def bench() -> Bench:
    """A machine with an accepted petition of two images, watched."""
    bench = Bench()
    bench.post(events.Tick())
    bench.post(events.PetitionMade(ID, BODY, 2, previews=True))
    bench.welcome()
    bench.say(wire.Accepted(id=ID, state="queued"))
    return bench


@pytest.mark.parametrize("previews", [True, False])
def test_only_who_looks_says_so(previews):
    bench = Bench()
    bench.welcome()
    made = bench.post(events.PetitionMade(ID, BODY, 2, previews=previews))
    made += bench.post(events.PetitionSought(OTHER, 2, previews=previews))
    made += bench.post(events.RetryWished("c" * 32, 2, previews=previews))
    assert [type(message) for message in sent(made)] == [wire.Submit, wire.Attach, wire.Retry]
    assert [message.previews for message in sent(made)] == [previews] * 3


def test_a_preview_is_shown_and_acknowledged_when_the_caller_is_done(bench):
    out = bench.say(told(), b"bytes")
    assert shown(out) == [(3, b"bytes")]
    assert sent(out) == []
    done = bench.post(events.PreviewTaken(told().attempt))
    assert sent(done) == [wire.PreviewSeen(attempt=told().attempt)]


@pytest.mark.parametrize("late", [told(id_=OTHER), told(index=2)])
def test_a_preview_of_something_else_is_answered_and_not_shown(bench, late):
    out = bench.say(late, b"x")
    assert shown(out) == []
    assert sent(out) == [wire.PreviewSeen(attempt=late.attempt)]


def test_a_preview_of_a_picture_that_is_here_is_answered_and_not_shown(bench):
    bench.say(result(0, b"picture"), b"picture")
    out = bench.say(told(0), b"x")
    assert shown(out) == []
    assert sent(out) == [wire.PreviewSeen(attempt=told().attempt)]
    assert shown(bench.say(told(1), b"y")) == [(3, b"y")]


def test_after_a_new_connection_it_says_again_that_it_looks(bench):
    bench.say(wire.Identify())
    (submit,) = [m for m in sent(bench.welcome()) if isinstance(m, wire.Submit)]
    assert submit.previews


def test_a_retry_that_was_accepted_looks_on():
    bench = Bench()
    bench.welcome()
    bench.post(events.RetryWished(ID, 2, previews=True))
    bench.say(wire.Accepted(id=ID, state="queued"))
    bench.say(wire.Identify())
    assert wire.Attach(id=ID, previews=True) in sent(bench.welcome())


def test_asking_again_for_what_others_saw_looks_on(bench):
    out = bench.say(wire.Finished(id=ID, state="done", done=(0, 1)))
    assert sent(out) == [wire.Attach(id=ID, again=True, previews=True)]


# --- the petition -----------------------------------------------------------------------------


def test_previews_are_wishes_of_the_petition_and_may_change_at_a_retry():
    made = compose_wishes("a house", {"model": "m", "preview": "vae", "preview_interval": 5})
    assert (made.preview, made.preview_interval, made.preview_noisy) == ("vae", 5, False)
    edited = edit(made, {"preview": "none", "preview_noisy": True})
    assert (edited.preview, edited.preview_noisy) == ("none", True)
    assert edited.params == made.params


@pytest.mark.parametrize(
    "wrong", [{"preview": "tv"}, {"preview_interval": 0}, {"preview_interval": 1001}]
)
def test_wishes_out_of_range_are_refused_before_anything_is_sent(wrong):
    with pytest.raises(PetitionError) as caught:
        compose({"prompt": "x", "model": "m"}, **wrong)
    assert caught.value.info.field == next(iter(wrong))


def test_a_petition_has_nothing_else():
    with pytest.raises(TypeError, match="has no colour"):
        compose({"prompt": "x", "model": "m"}, colour="red")


# --- the file ---------------------------------------------------------------------------------


def preview(data: bytes, form: str = "png", step: int = 3) -> Preview:
    return Preview(
        index=0, step=step, steps=20, data=data, width=8, height=8, format=form, worker="gpu1",
        noisy=False, attempt=told().attempt,
    )  # fmt: skip


def jpeg(side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 10, 10)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.JPEG", "new/p.webp"])
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_the_end_of_the_name_decides_the_format(tmp_path, name, form):
    path = PreviewFile(str(tmp_path / name)).write(
        preview(png(1) if form == "png" else jpeg(), form)
    )
    wanted = {"png": "PNG", "webp": "WEBP"}.get(path.suffix.strip("."), "JPEG")
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == wanted
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_preview_of_the_right_format_is_written_as_it_is_and_overwritten(tmp_path):
    file = PreviewFile(str(tmp_path / "p.png"))
    for seed in (1, 2):
        assert file.write(preview(png(seed))).read_bytes() == png(seed)


@pytest.mark.parametrize("name", ["p", "p.gif", "p.png/", "-", "", "p\0.png"])
def test_other_names_are_refused(name):
    with pytest.raises(OutputError, match="must end in one of"):
        PreviewFile(name if name != "p.png/" else "p.png/x")


@pytest.mark.parametrize(
    "data", [b"", b"no picture", png(1)[:40], jpeg(limits.PREVIEW_SIDE_MAX + 1)]
)
def test_a_preview_that_is_no_small_picture_is_an_error_and_leaves_the_old_one(tmp_path, data):
    file = PreviewFile(str(tmp_path / "p.webp"))
    before = file.write(preview(png(1))).read_bytes()
    with pytest.raises(OutputError, match="cannot be read"):
        file.write(preview(data, "jpeg"))
    assert file.path.read_bytes() == before


def test_the_largest_preview_is_read(tmp_path):
    side = limits.PREVIEW_SIDE_MAX
    assert preview(jpeg(side), "jpeg").image().size == (side, side)


# --- the command line -------------------------------------------------------------------------


class _Drawing:
    id, ending = ID, Ending(outcome="done")

    def __init__(self, petition: Any, **callbacks: Any) -> None:
        self.petition = petition
        self._callbacks = callbacks

    def __iter__(self) -> Any:
        for one in _Client.previews if self._callbacks["on_preview"] else ():
            self._callbacks["on_preview"](one)
        return iter(())

    def cancel(self) -> None:
        """Not reached."""


class _Client:
    """Stands where `draw` makes its client."""

    previews: tuple[Preview, ...] = ()
    petitions: list[Any] = []  # noqa: RUF012 - emptied for each test

    def __init__(self, *_: Any, **__: Any) -> None:
        """Nobody is dialled."""

    def draw(self, petition: Any, **callbacks: Any) -> _Drawing:
        self.petitions.append((petition, callbacks["on_preview"]))
        return _Drawing(petition, **callbacks)

    def close(self, *, wait: bool = True) -> None:
        """Nothing is open."""


@pytest.fixture
def client(monkeypatch, tmp_path):
    monkeypatch.setattr(draw, "Client", _Client)
    monkeypatch.setattr(_Client, "petitions", [])
    monkeypatch.setattr(_Client, "previews", (preview(png(1)), preview(png(2), step=4)))
    monkeypatch.chdir(tmp_path)
    return _Client


def run(*words: str) -> Any:
    words = ("h", "-m", "m", "-p", "a house", *words)
    return CliRunner().invoke(cli, words, prog_name="sdistrib-client")


def test_the_flags_make_the_petition_and_the_file_shows_the_newest(client):
    shown_by = run("--preview", "VAE", "--preview-interval", "5", "--preview-noisy")
    assert shown_by.exit_code == 0, shown_by.output
    ((petition, _),) = client.petitions
    assert (petition.preview, petition.preview_interval, petition.preview_noisy) == ("vae", 5, True)
    assert Path("preview.png").read_bytes() == png(2)
    assert shown_by.stderr.count("previews -> preview.png") == 1
    assert "preview" not in run("--preview", "proj", "-q").stderr


def test_without_the_flag_nobody_looks(client):
    monitored = run()
    assert monitored.exit_code == 0, monitored.output
    ((petition, on_preview),) = client.petitions
    assert (petition.preview, on_preview) == ("none", None)


def test_json_tells_each_preview(client):
    lines = run("--preview", "proj", "--preview-path", "p.jpg", "--json").stdout.splitlines()
    first, second, _ = map(json.loads, lines)
    assert first == {
        "event": "preview", "id": ID, "index": 0, "step": 3, "steps": 20, "path": "p.jpg",
        "width": 8, "height": 8, "worker": "gpu1", "noisy": False,
    }  # fmt: skip
    assert second["step"] == 4
    with Image.open("p.jpg") as picture:
        assert picture.format == "JPEG"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--preview-path", "p.gif"), "must end in one of"),
        (("--preview-path", "o.png", "-o", "o.png"), "both a picture and its preview"),
        (("--preview-path", "o_1.png", "-o", "o.png", "-b", "2"), "both a picture"),
        (("--preview-interval", "0"), "from 1 to 1000"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(client, words, why):
    refused = run("--preview", "proj", *words)
    assert refused.exit_code == 2
    assert why in refused.stderr
    assert client.petitions == []


def test_an_unknown_mode_is_refused(client):
    assert "none, proj, tae, vae" in run("--preview", "tv").stderr
    assert run("--detach", "--preview-path", "p.png").exit_code == 2


def test_a_preview_that_cannot_be_written_is_told_once_and_stops_nothing(client, tmp_path):
    (tmp_path / "p.png").mkdir()
    result_ = run("--preview", "proj", "--preview-path", "p.png")
    assert result_.exit_code == 0, result_.output
    assert result_.stderr.count("it is a folder. The pictures are drawn all the same.") == 1
