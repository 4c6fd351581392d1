"""Every flag of drawing has a case that shows what it does; a flag without one fails here.

Flags of the parameter table have theirs in `tests/acceptance/test_flags_at_engine.py`, those of
videos in `test_video.py` beside it, where each value is seen at the engine; the others, which no
engine sees, have them here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from click.testing import CliRunner

from sdistrib.params import BY_NAME, PARAMETERS
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib_client.cli import draw
from sdistrib_client.cli.commands import cli
from sdistrib_client.cli.refused import REFUSED
from sdistrib_client.effects import Ending
from tests.acceptance.test_flags_at_engine import CASES as AT_ENGINE
from tests.acceptance.test_video import SEEN as OF_FILMS
from tests.unit.test_client_cli import KNOWN_FLAGS, FakeClient, FakeDrawing

PROMPTS = {"p.txt": "a tower", "n.txt": "red"}


class Drawing(FakeDrawing):
    def wait(self) -> None:
        self.ending = Ending(outcome="detached")


class Client(FakeClient):
    """Notes what it is made with, what it is given, and how."""

    made: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    petitions: ClassVar[list[Petition]] = []
    detached: ClassVar[list[bool]] = []
    planned: ClassVar[list[Petition]] = []

    def draw(self, petition: Petition, **about: Any) -> Drawing:
        self.detached.append(about.pop("detach", False))
        self.petitions.append(petition)
        self.on_notice("the manager is slow")
        about.setdefault("on_progress", None)
        return Drawing(self, petition, **about)

    def plan(self, petition: Petition) -> wire.Planned:
        self.planned.append(petition)
        return wire.Planned(number=1, eta_s=2.0)


class Seen(NamedTuple):
    """What one command line led to."""

    petition: Petition
    options: dict[str, Any]
    detached: bool
    planned: int
    files: list[str]
    stdout: str
    stderr: str


class Case(NamedTuple):
    """A flag with its value, and what it changes."""

    words: tuple[str, ...]
    shows: Callable[[Seen], object]
    value: object


def _of_petition(name: str) -> Callable[[Seen], object]:
    return lambda seen: getattr(seen.petition, name)


def _prompt(seen: Seen) -> str:
    return seen.petition.params.prompt


def _negative(seen: Seen) -> str:
    return seen.petition.params.negative_prompt


def _first_event(seen: Seen) -> object:
    line = seen.stdout.partition("\n")[0]
    return json.loads(line)["event"] if line.startswith("{") else None


CASES: dict[str, Case] = {
    "--batch-count": Case(("3",), _of_petition("images"), 3),
    "-b": Case(("2",), lambda seen: seen.files, ["output_0.png", "output_1.png"]),
    "--seed": Case(("7",), _of_petition("seed"), 7),
    "-s": Case(("8",), _of_petition("seed"), 8),
    "--timeout": Case(("60",), _of_petition("timeout_s"), 60.0),
    "--priority": Case(("low",), _of_petition("priority"), "low"),
    "--no-hedge": Case((), _of_petition("hedge"), False),
    "--on-oom": Case(("tile",), _of_petition("on_oom"), "tile"),
    "--exact": Case((), _of_petition("exact"), True),
    "--detach": Case((), lambda seen: (seen.detached, seen.files), (True, [])),
    "--dry-run": Case((), lambda seen: (seen.planned, seen.files), (1, [])),
    "--output": Case(("a.png",), lambda seen: seen.files, ["a.png"]),
    "-o": Case(("b.png",), lambda seen: seen.files, ["b.png"]),
    "--output-begin-idx": Case(
        ("4", "-o", "c_%02d.png"), lambda seen: seen.files, ["c_04.png"]
    ),
    "--quiet": Case((), lambda seen: "ahead" in seen.stderr, False),
    "-q": Case((), lambda seen: "ahead" in seen.stderr, False),
    "--verbose": Case((), lambda seen: "draw 2.00 s" in seen.stderr, True),
    "-v": Case((), lambda seen: "draw 2.00 s" in seen.stderr, True),
    "--json": Case((), _first_event, "notice"),
    "--color": Case((), lambda seen: "\x1b[" in seen.stdout + seen.stderr, True),
    "--connect-timeout": Case(("3",), lambda seen: seen.options["connect_timeout_s"], 3.0),
    "--insecure-lan": Case((), lambda seen: seen.options["insecure_lan"], True),
    "--preview": Case(("proj",), _of_petition("preview"), "proj"),
    "--preview-interval": Case(("3",), _of_petition("preview_interval"), 3),
    "--preview-noisy": Case((), _of_petition("preview_noisy"), True),
    "--lora": Case(("ink:2",), _prompt, "a house<lora:ink:2>"),
    "--embedding": Case(("house",), _prompt, "a embedding:house"),
    "--negative-prompt-file": Case(("n.txt",), _negative, "red"),
}  # fmt: skip
#: What is no wish about a picture, or replaces the prompt that all cases have; --from and
#: --preview-path have tests of their own.
ELSEWHERE = {"--help", "-h", "--mode", "-M", "--prompt-file", "--from", "--preview-path"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(draw, "Client", Client)
    monkeypatch.chdir(tmp_path)
    for name, text in PROMPTS.items():
        Path(name).write_text(text, encoding="utf-8")
    for notes in (Client.made, Client.petitions, Client.detached, Client.planned):
        notes.clear()


def _run(*words: str) -> Seen:
    result = CliRunner().invoke(cli, ["h", "-m", "m", *words], prog_name="sdistrib-client")
    assert result.exit_code == 0, result.output
    (petition,) = Client.petitions + Client.planned
    ((_, options),) = Client.made
    files = sorted(path.name for path in Path().glob("*.png"))
    detached = any(Client.detached)
    Client.made.clear()
    Client.petitions.clear()
    return Seen(
        petition, options, detached, len(Client.planned), files, result.stdout, result.stderr
    )


def test_every_flag_has_a_case_and_every_row_of_the_table_too():
    rows = {flag for row in PARAMETERS for flag in row.spec.flags}
    accepted = {flag for param in cli.commands["txt2img"].params for flag in param.opts}
    assert accepted - rows == set(CASES) | ELSEWHERE - {"--help", "-h", "--mode", "-M"}
    # What only the file shows has its tests below, in test_client_cli and in test_client_video.
    of_the_file = {"metadata", "format", "quality", "lossless", "fps"}
    assert set(AT_ENGINE) | set(OF_FILMS) == set(BY_NAME) - of_the_file
    assert set(KNOWN_FLAGS) <= accepted | set(REFUSED) | {"--help", "-h"}
    assert all(len(reason) > 10 for reason in REFUSED.values())


@pytest.mark.parametrize("flag", CASES)
def test_what_a_flag_changes(flag: str) -> None:
    case = CASES[flag]
    before = case.shows(_run("-p", "a house"))
    for path in Path().glob("*.png"):
        path.unlink()
    assert before != case.value
    assert case.shows(_run("-p", "a house", flag, *case.words)) == case.value


def test_a_prompt_file_stands_for_the_prompt() -> None:
    assert _prompt(_run("--prompt-file", "p.txt")) == "a tower"


def test_the_flag_that_only_the_file_shows() -> None:
    assert _run("-p", "a house").petition.params.metadata
    assert not _run("-p", "a house", "--disable-image-metadata").petition.params.metadata


@pytest.mark.parametrize("flag", ["-M", "--mode"])
def test_the_mode_that_is_drawn_anyway(flag: str) -> None:
    assert _run("-p", "a house", flag, "txt2img").petition == _run("-p", "a house").petition
