"""The documents say what the code does: generated pages, the protocol page, links, commands."""

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import click
import msgspec
import pytest
from _pytest.mark.expression import Expression
from msgspec import inspect as facts

from sdistrib import errors, limits, params
from sdistrib.models import Catalogue, ModelFile
from sdistrib.petitions import InputFile, Petition, PetitionState
from sdistrib.protocol import engine, messages
from tools import docs

ROOT = docs.ROOT
ROLES_READMES = tuple(ROOT / role / "README.md" for role in docs.COMMANDS)
PAGES = sorted((*ROOT.glob("*.md"), *ROLES_READMES, *ROOT.glob("docs/**/*.md")))
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


# --- generated pages ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", docs.PAGES)
def test_the_generated_page_is_up_to_date(name):
    made = docs.PAGES[name]()
    written = (docs.REFERENCE / name).read_text(encoding="utf-8")
    assert written == made, "run `python -m tools.docs --write`"


def test_drift_is_named_and_only_write_mends_it(tmp_path, capsys):
    assert docs.main(["--write"], tmp_path) == 0
    assert docs.main([], tmp_path) == 0
    page = tmp_path / "errors.md"
    page.write_text(page.read_text(encoding="utf-8").replace("| 413 |", "| 412 |"), "utf-8")
    capsys.readouterr()
    assert docs.main([], tmp_path) == 1
    assert "docs/reference/errors.md: not up to date" in capsys.readouterr().err
    assert "| 412 |" in page.read_text(encoding="utf-8")
    assert docs.main(["--write"], tmp_path) == 0
    assert "| 413 |" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("home", [("sdistrib_client.nothing", "cli"), ("sdistrib.errors", "cli")])
def test_a_missing_command_is_told_with_the_extra_to_install(monkeypatch, tmp_path, capsys, home):
    monkeypatch.setitem(docs.COMMANDS, "client", home)
    assert docs.main([], tmp_path) == 1
    assert "pip install '.[client]'" in capsys.readouterr().err


def test_every_limit_says_why():
    source = (ROOT / "sdistrib/limits.py").read_text(encoding="utf-8")
    found = {limit.name for limit in docs.read_limits(source)}
    assert found == {name for name in vars(limits) if name.isupper()} - {"KIB", "MIB", "GIB"}
    with pytest.raises(docs.DocsError, match="GONE_S has no reason"):
        docs.read_limits("# --- Time ---\nGONE_S = 30.0\n")


def test_every_error_code_has_its_row():
    assert errors.ERROR_TABLE.keys() == errors.ERROR_CODES
    assert all(row.meaning and row.next_step for row in errors.ERROR_TABLE.values())


def test_a_type_without_words_is_an_error_and_not_a_gap():
    with pytest.raises(docs.DocsError, match="no words for"):
        docs.describe(facts.AnyType())


def test_each_drawing_flag_is_a_row_of_the_table():
    group = docs.load_command("client")
    assert isinstance(group, click.Group)
    flags = {frozenset(param.opts) for param in group.commands["txt2img"].params}
    for row in params.PARAMETERS:
        assert frozenset(row.spec.flags) in flags, row.name


def test_flags_and_options_come_from_the_environment_too(monkeypatch):
    group, worker = docs.load_command("client"), docs.load_command("worker")
    assert isinstance(group, click.Group)
    monkeypatch.setenv("SDISTRIB_STEPS", "30")
    monkeypatch.setenv("SDISTRIB_WORKER_DEVICE", "cuda1")
    drawing = group.commands["txt2img"].make_context("txt2img", ["-p", "x"])
    assert drawing.params["steps"] == 30
    assert worker.make_context("worker", ["HOST", "models"]).params["device"] == "cuda1"


# --- the protocol page --------------------------------------------------------------------------

#: Arrow -> what may be said in that direction.
DIRECTIONS = {
    "client → manager": messages.CLIENT_TO_MANAGER,
    "manager → client": messages.MANAGER_TO_CLIENT,
    "worker → manager": messages.WORKER_TO_MANAGER,
    "manager → worker": messages.MANAGER_TO_WORKER,
    "supervisor → child": engine.TO_CHILD,
    "child → supervisor": engine.FROM_CHILD,
}


class Section(NamedTuple):
    """One `###` section of the page."""

    text: str
    #: Cells of its table's rows, heads taken off.
    rows: list[list[str]]


def own_structs(module: object) -> Iterator[type[msgspec.Struct]]:
    """Structs that a module defines, bases without fields of their own left out."""
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, msgspec.Struct):
            is_base = value in (messages.Message, engine.EngineFrame)
            if value.__module__.startswith(module.__name__) and not is_base:  # type: ignore[attr-defined]
                yield value


def facts_of(cls: type[msgspec.Struct]) -> dict[str, facts.Field]:
    """The fields of a struct by name."""
    return {field.name: field for field in facts.type_info(cls).fields}  # type: ignore[attr-defined]


CLASSES: dict[str, type[msgspec.Struct]] = {
    cls.__name__: cls
    for cls in (
        *own_structs(messages),
        *own_structs(engine),
        *(Petition, InputFile, ModelFile, errors.ErrorInfo),
    )
}


def sections(page: str) -> dict[str, Section]:
    """The `###` sections by heading."""
    found: dict[str, Section] = {}
    for part in re.split(r"^(?=##+ )", page, flags=re.MULTILINE):
        if part.startswith("### "):
            heading, _, text = part.removeprefix("### ").partition("\n")
            lines = [line for line in text.splitlines() if line.startswith("| ")]
            rows = [line.strip("| ").split(" | ") for line in lines[1:]]
            assert heading not in found, f"two sections {heading}"
            found[heading] = Section(text, rows)
    return found


def problems(page: str) -> list[str]:
    """Where the page is not what the classes are."""
    found = sections(page)
    wrong = [f"{name}: no section" for name in CLASSES if name not in found]
    wrong += [f"{name}: no class" for name in found if name not in CLASSES]
    for name, section in found.items():
        if (cls := CLASSES.get(name)) is not None:
            wrong += [f"{name}: {what}" for what in _problems(cls, section)]
    return wrong


def _problems(cls: type[msgspec.Struct], section: Section) -> Iterator[str]:
    told = {row[0].strip("`"): row[1:] for row in section.rows}
    fields = facts_of(cls)
    if list(told) != list(fields):
        yield f"rows {list(told)} for fields {list(fields)}"
    for name, field in fields.items():
        cells = told.get(name, ["", "", ""])
        if cells[:2] != [docs.describe(field.type), docs.default_text(field)]:
            yield f"{name} is {docs.describe(field.type)}, {docs.default_text(field)}; not {cells}"
        if not "".join(cells[2:]).strip():
            yield f"{name} has no meaning"
    if issubclass(cls, messages.Message):
        yield from _wrong_line(section, _direction_line(cls))
        if not re.search(r"^When: \S", section.text, re.MULTILINE):
            yield "when may it be sent?"


def _direction_line(cls: type[messages.Message]) -> str:
    arrows = [arrow for arrow, kinds in DIRECTIONS.items() if cls in kinds]
    assert arrows, f"{cls} goes in no direction"
    directions = "every direction" if len(arrows) == 4 else ", ".join(arrows)
    return f"Direction: {directions}." + (f" Body: {cls.BODY}." if cls.BODY else "")


def _wrong_line(section: Section, line: str) -> Iterator[str]:
    if line not in section.text.splitlines():
        yield f"the line {line!r} is missing"


def test_the_protocol_page_has_each_class_and_no_other():
    assert problems(PROTOCOL) == []


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("### Submit\n", "### Supply\n", "Submit: no section"),
        ("### Submit\n", "### Supply\n", "Supply: no class"),
        ("| `offset` | int 0..202375168 |", "| `offset` | int 0..202375167 |", "Chunk: offset is"),
        ("| `seed` | int >= 0 | required |", "| `seed` | int >= 0 | `0` |", "Result: seed is"),
        ("| `cut` |", "| `cot` |", "Answer: rows"),
        ("required | The attempt. |\n", "required |  |\n", "Started: attempt has no meaning"),
        ("worker → manager. Body: picture", "worker → manager. Body: pixels", "Result: the line"),
        (
            "Direction: worker → manager.\n\nWhen: Once per",
            "Direction: x.\n\nWhen: ",
            "Started: the",
        ),
        ("When: In answer to Cancel.", "When:", "Cancelled: when may it be sent?"),
    ],
)
def test_a_page_that_says_something_else_is_found(before, after, complaint):
    assert before in PROTOCOL, f"plant another fault, this one is no more: {before!r}"
    assert [what for what in problems(PROTOCOL.replace(before, after, 1)) if complaint in what]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("petition state", get_args(PetitionState)),
        ("phase", get_args(messages.Phase)),
        ("model kind", get_args(params.ModelKind)),
    ],
)
def test_the_named_words_are_spelt_out(word, values):
    assert f"| {word} | {' '.join(f'`{value}`' for value in values)} |" in PROTOCOL


def test_the_numbers_in_the_protocols_text_are_the_limits():
    told = " ".join(PROTOCOL.split())
    for text in (
        f"| 2 | the header: one MessagePack map | {limits.HEADER_BYTES_MAX // limits.KIB} KiB |",
        f"[Petition](#petition) in MessagePack | {limits.BODY_BYTES_MAX // limits.KIB} KiB |",
        f"{limits.INVENTORY_BYTES_MAX // limits.MIB} MiB and {limits.INVENTORY_FILES_MAX:,} files",
        f"After {limits.SUSPECT_S:.0f} s of silence a peer is *suspect*, after {limits.GONE_S:.0f}",
        f"High-water marks are {limits.HIGH_WATER_MARK:,} messages",
        f"{limits.CLIENT_RESULTS_IN_FLIGHT_MAX} results or"
        f" {limits.CLIENT_BYTES_IN_FLIGHT_MAX // limits.MIB} MiB may be unconfirmed",
        f"with at most {limits.CHUNK_CREDIT} chunks",
        f"A picture of at most {limits.CHUNK_BYTES // limits.MIB} MiB travels in the body",
        f"at most {limits.WORKER_RESULTS_HELD_MAX} of them",
        f"waits {limits.NO_WORKER_TIMEOUT_S:,.0f} s",
        f"{limits.RETENTION_S:.0f} s after its end",
        f"A client waits {limits.CANCEL_CONFIRM_S:.0f} s",
    ):
        assert text in told


# --- links, commands, names ---------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def calls(program: str) -> Iterator[tuple[Path, list[str]]]:
    """Words after `program` wherever a document shows it as a command."""
    shown = re.compile(rf"(?:^ {{4}}.*?|`[^`\n]*?)\b{program}(?![\w/.-]) ?([^`\n]*)", re.MULTILINE)
    for page in PAGES:
        if "reference" not in page.parts:
            for words in shown.findall(page.read_text(encoding="utf-8")):
                yield page, words.partition("#")[0].split()


def test_make_targets_in_the_documents_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    found = [(page, word) for page, words in calls("make") for word in words]
    assert ("README.md", "demo") in {(page.name, word) for page, word in found}
    assert not [(page.name, word) for page, word in found if word not in targets]


def options(role: str) -> set[str]:
    """All option spellings of a command, its verbs' included."""
    command = docs.load_command(role)
    commands = [command, *getattr(command, "commands", {}).values()]
    spelt = {opt for one in commands for param in one.params for opt in param.opts}
    return spelt | {"--help", "--version"}


@pytest.mark.parametrize("role", docs.COMMANDS)
def test_options_in_the_documents_exist(role):
    known = options(role)
    used = [(page.name, word) for page, words in calls(f"sdistrib-{role}") for word in words]
    asked = [(name, word) for name, word in used if re.match(r"--?[a-zA-Z]", word)]
    assert asked
    assert not [(name, word) for name, word in asked if word.partition("=")[0] not in known]


def test_options_that_stand_alone_belong_to_some_command():
    known = set().union(*(options(role) for role in docs.COMMANDS))
    for page in PAGES:
        if page.name == "README.md":
            for option in re.findall(r"`(--[a-z-]+)", page.read_text(encoding="utf-8")):
                assert option in known, f"{page.name}: {option}"


SHOWN_BY = re.findall(
    r"\.venv/bin/pytest ([^`]+)`", (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("command", SHOWN_BY)
def test_the_command_of_a_guarantee_runs_tests_of_each_file_it_names(command):
    paths = [word for word in shlex.split(command) if word.startswith("tests/")]
    (expression,) = re.findall(r'-k "?([\w ]+)', command) or ["test"]
    chosen = Expression.compile(expression)
    assert paths
    for path in paths:
        source = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = [node.name for node in source.body if isinstance(node, ast.FunctionDef)]
        tests = [name for name in names if name.startswith("test_")]
        found = [n for n in tests if chosen.evaluate(lambda word, n=n, **_: word in n)]
        assert found, path


def test_verbs_and_presets_of_the_readme_exist():
    presets = json.loads((ROOT / "CMakePresets.json").read_text(encoding="utf-8"))
    names = {preset["name"] for preset in presets["configurePresets"]}
    table = re.findall(r"^\| [^|]+ \| `(\w+)` \| (?:run|built|configured)", README, re.MULTILINE)
    assert set(table) == names
    assert set(re.findall(r"--preset (\w+)", README)) <= names
    verbs = [words[1] for _, words in calls("sdistrib-client") if len(words) == 2]
    assert "models" in verbs
    assert {verb for verb in verbs if verb[0].islower()} <= set(docs.verbs())


def test_the_readme_has_every_exit_status():
    table = README.partition("## Exit statuses")[2].partition("\n## ")[0]
    told = {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert told == {row.exit_status for row in errors.ERROR_TABLE.values()} | {
        value for name, value in vars(errors).items() if name.startswith("EXIT_")
    }


def test_the_readmes_python_names_what_there_is():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    tree = ast.parse(block)
    (imported,) = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    module = __import__(imported.module or "")
    assert all(getattr(module, alias.name) for alias in imported.names)
    known = {*params.BY_NAME, "images", "seed", "timeout_s"}
    drawing = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.keywords]
    assert {word.arg for call in drawing for word in call.keywords} <= known


# --- architecture -------------------------------------------------------------------------------


def test_architecture_is_short_and_its_map_is_true():
    assert len(ARCHITECTURE.splitlines()) <= 200
    paths = re.findall(r"^\| `([^`]+)` \|", ARCHITECTURE, re.MULTILINE)
    assert len(paths) > 40
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_each_invariant_names_what_checks_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {one["name"] for one in settings["tool"]["importlinter"]["contracts"]}
    invariants = re.findall(r"^\*\*Architecture Invariant: .*(?:\n.+)*", ARCHITECTURE, re.MULTILINE)
    assert len(invariants) > 10
    named = set()
    for invariant in invariants:
        flat = " ".join(invariant.split())
        rules = re.findall(r"Contract \*([^*]+)\*", flat)
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", flat)
        assert rules or tests, f"nothing checks: {invariant}"
        assert not [rule for rule in rules if rule not in contracts]
        for file, test in tests:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"
        named.update(rules)
    assert named == contracts


def imports_of(files: Iterable[Path]) -> set[str]:
    """Top-level names of everything that the files import, wherever in them."""
    found: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found


def test_manager_and_core_know_no_picture_format():
    files = [*ROOT.glob("manager/**/*.py"), *ROOT.glob("sdistrib/**/*.py")]
    assert "msgspec" in imports_of(files)
    assert not imports_of(files) & {"PIL", "numpy", "zlib", "cv2", "imageio"}


@pytest.mark.parametrize(
    "name", ["../tiny", "/etc/passwd", "..", "a/../../b", "C:\\tiny", "~/tiny"]
)
def test_names_are_looked_up_and_never_joined_to_a_path(name):
    pure = [ROOT / "sdistrib/models.py", ROOT / "worker/sdistrib_worker/shelf.py"]
    assert not imports_of(pure) & {"os", "pathlib", "posixpath", "glob", "shutil"}
    files = (ModelFile("stable-diffusion", "tiny.safetensors", 1),)
    assert Catalogue(files).find("stable-diffusion", name) in (None, *files)
