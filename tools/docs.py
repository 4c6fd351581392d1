"""`python -m tools.docs [--write]`: the pages of docs/reference, made from the code they describe.

Without `--write` nothing is written: each page that differs from what the code says is named on
standard error, and the exit status is 1. `make docs` runs it so, and a test does too.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import msgspec
from click.testing import CliRunner
from msgspec import inspect as facts

from sdistrib import errors, limits, params, petitions
from sdistrib.protocol.messages import Phase

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
#: Where the click command of each role is.
COMMANDS = {
    "manager": ("sdistrib_manager.cli", "command"),
    "worker": ("sdistrib_worker.cli", "command"),
    "client": ("sdistrib_client.cli.commands", "cli"),
}
#: Columns of the help texts; a reader's own terminal must not change the page.
_HELP_COLUMNS = 100

#: Long lists of words that have a name in the documents.
_WORDS = {
    "error code": errors.ErrorCode,
    "petition state": petitions.PetitionState,
    "phase": Phase,
    "model kind": params.ModelKind,
}
_NAMES = {frozenset[object](get_args(words)): name for name, words in _WORDS.items()}
_ASSIGNED = re.compile(r"([A-Z][A-Z0-9_]*) = ")
_STAGES = {
    "load": "Load time: part of the context key, a change means a reload",
    "draw": "Per image",
    "finish": "After the engine has drawn",
}


class DocsError(Exception):
    """A page cannot be made; the message says what to do."""


# --- types --------------------------------------------------------------------------------------


def describe(kind: facts.Type) -> str:
    """A wire type with its bounds, in words: "int 1..1000", "list of Attempt"."""
    match kind:
        case facts.UnionType(types=types):
            return " or ".join(describe(one) for one in types)
        case facts.VarTupleType(item_type=item, min_length=least, max_length=most):
            return f"list of {_count(least, most)}{describe(item)}"
        case facts.TupleType(item_types=items):
            return f"[{', '.join(describe(item) for item in items)}]"
        case facts.DictType(key_type=key, value_type=value):
            return f"map of {describe(key)} to {describe(value)}"
        case _:
            return _one(kind)


def _one(kind: facts.Type) -> str:
    match kind:
        case facts.StructType(cls=cls):
            return cls.__name__
        case facts.LiteralType(values=values):
            return _NAMES.get(frozenset(values)) or " / ".join(f"`{v}`" for v in values)
        case facts.NoneType():
            return "nil"
        case facts.BoolType():
            return "bool"
        case facts.StrType(min_length=least, max_length=most, pattern=pattern):
            length = f" {least or 0}..{most} chars" if most else ""
            # The anchors are Python's; the page says that the whole text must match.
            bare = (pattern or "").removeprefix("^").removesuffix(r"\Z")
            return f"str{length} `{bare}`" if bare else f"str{length}"
        case _:
            return _number_type(kind)


def _number_type(kind: facts.Type) -> str:
    if isinstance(kind, facts.IntType):
        return f"int{_range(kind)}"
    if isinstance(kind, facts.FloatType):
        return f"float{_range(kind)}"
    raise DocsError(f"tools/docs.py has no words for the type {kind}")


def _range(kind: facts.IntType | facts.FloatType) -> str:
    step = f", multiple of {_number(kind.multiple_of)}" if kind.multiple_of else ""
    # Of whole numbers, `< n` is said as `<= n - 1`.
    whole_end = kind.lt - 1 if kind.lt is not None and isinstance(kind, facts.IntType) else None
    most = kind.le if kind.le is not None else whole_end
    if kind.ge is not None and most is not None:
        return f" {_number(kind.ge)}..{_number(most)}{step}"
    signs = ((">=", kind.ge), (">", kind.gt), ("<=", most))
    return "".join(f" {sign} {_number(bound)}" for sign, bound in signs if bound is not None) + step


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**63 else str(value)


def _count(least: int | None, most: int | None) -> str:
    if least and most:
        return f"{least}..{most} "
    return f"at most {most} " if most else ""


def default_text(field: facts.Field) -> str:
    """The default of a field as its row shows it; "required" where there is none."""
    if field.required:
        return "required"
    made = field.default_factory
    return value_text(field.default if made is msgspec.NODEFAULT else made())


def value_text(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "nil"
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _page(title: str, source: str, body: Iterable[str]) -> str:
    note = f"<!-- Made by `python -m tools.docs --write` from {source}; do not edit. -->"
    return "\n".join([f"# {title}", "", note, "", *body]).rstrip("\n") + "\n"


# --- the pages ----------------------------------------------------------------------------------


def parameters_page() -> str:
    """All parameters of a petition, by stage."""
    types = {field.name: field.type for field in facts.type_info(params.Params).fields}  # type: ignore[attr-defined]
    return _page("Parameters", "sdistrib/params.py", _parameters(types))


def _parameters(types: dict[str, facts.Type]) -> Iterator[str]:
    yield (
        "What decides a picture, beside its seed. The wire name is the field of `params` in a"
        " petition's body and the keyword of `Client.txt2img`. An unknown field is an error."
        " A default of nil or of an empty name leaves the choice to the engine."
    )
    yield ""
    yield (
        "The engine member is where the value arrives in stable-diffusion.cpp: `ctx` is"
        " `sd_ctx_params_t`, `img` is `sd_img_gen_params_t`. Names of model files are looked up in"
        " the catalogue kind that stands in brackets."
    )
    heads = ("flags", "wire name", "type and bounds", "default", "engine member", "meaning")
    for stage, title in _STAGES.items():
        rows = [row for row in params.PARAMETERS if row.spec.stage == stage]
        yield from ("", f"## {title}", "")
        yield from _table(heads, (_parameter(row, types[row.name]) for row in rows))


def _parameter(row: params.Parameter, kind: facts.Type) -> tuple[str, ...]:
    spec = row.spec
    flags = " ".join(f"`{flag}`" for flag in spec.flags)
    if spec.negated:
        flags += " (sets false)"
    text = describe(kind)
    if row.choices:
        # In the order of the code, where the most usual stands first.
        text = " / ".join(f"`{choice}`" for choice in row.choices) + (
            " or nil" if isinstance(kind, facts.UnionType) else ""
        )
    if spec.kind:
        text += f" ({spec.kind})"
    default = "required" if row.default is msgspec.NODEFAULT else value_text(row.default)
    struct, _, rest = spec.engine.partition(".")
    members = ", ".join(f"`{struct}.{name.removeprefix(struct + '.')}`" for name in rest.split("+"))
    # A tag in angle brackets would vanish from the page.
    meaning = spec.help.replace("<lora", "\\<lora")
    return flags, f"`{row.name}`", text, default, members if rest else "", meaning


def errors_page() -> str:
    """All error codes."""
    rows = (
        (f"`{code}`", str(row.exit_status), str(row.http_status), row.meaning, row.next_step)
        for code, row in errors.ERROR_TABLE.items()
    )
    others = (
        ("0", "All pictures are there."),
        ("1", "Failed in a way that no other status names."),
        ("2", "Usage: the command line, or a parameter in it, is wrong."),
        ("3", "No manager answers at that address."),
        ("130", "Ended by Ctrl-C; 128 + N by signal N."),
    )
    body = [
        "An error code is stable: scripts may rely on it. The exit status is that of"
        " `sdistrib-client`; the HTTP status is what a gateway is to answer with.",
        "",
        *_table(("code", "exit", "HTTP", "what happened", "what to do"), rows),
        "",
        "## Exit statuses",
        "",
        "Those above, and these, which come from no code:",
        "",
        *_table(("exit", "meaning"), others),
    ]
    return _page("Errors", "sdistrib/errors.py", body)


class Limit(NamedTuple):
    """One constant of `sdistrib.limits`."""

    section: str
    name: str
    value: str
    reason: str


def read_limits(source: str) -> list[Limit]:
    """All limits in the order of limits.py with their comments; DocsError if one has none."""
    found: list[Limit] = []
    section, reason = "", []
    for line in source.splitlines():
        if line.startswith("# --- "):
            section = line.strip("# -")
        elif line.startswith("#:"):
            reason.append(line.removeprefix("#:").strip())
        else:
            assigned = _ASSIGNED.match(line)
            if assigned and reason:
                name = assigned[1]
                found.append(Limit(section, name, _limit_value(name), " ".join(reason)))
            elif assigned and section:
                raise DocsError(f"sdistrib/limits.py: {assigned[1]} has no reason in a #: comment")
            reason = []
    return found


def _limit_value(name: str) -> str:
    value = getattr(limits, name)
    words = name.split("_")
    if isinstance(value, tuple):
        return ", ".join(f"{one:g}" for one in value) + " s"
    if "BYTES" in words and value % limits.MIB == 0:
        return f"{value // limits.MIB:,} MiB"
    if "BYTES" in words and value < limits.MIB and value % limits.KIB == 0:
        return f"{value // limits.KIB} KiB"
    if "BYTES" in words:
        return f"{value:,} bytes"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,g}"
    return f"{text} s" if "S" in words else text


def limits_page() -> str:
    """All limits with their reasons."""
    body = ["Every bound of the system. Beyond one there is a typed error, never silence."]
    found = read_limits((ROOT / "sdistrib" / "limits.py").read_text(encoding="utf-8"))
    for section in dict.fromkeys(limit.section for limit in found):
        rows = ((f"`{x.name}`", x.value, x.reason) for x in found if x.section == section)
        body += ["", f"## {section}", "", *_table(("constant", "value", "reason"), rows)]
    return _page("Limits", "sdistrib/limits.py", body)


def load_command(role: str) -> click.Command:
    """The click command of a role.

    Raises:
        DocsError: the role's package cannot be imported here.
    """
    home, name = COMMANDS[role]
    try:
        command = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError) as error:
        raise DocsError(
            f"cli.md needs {home}.{name}: {error}. Install what it needs with"
            f" `pip install '.[{role}]'`."
        ) from error
    if not isinstance(command, click.Command):
        raise DocsError(f"{home}.{name} is no click command")
    return command


def help_text(role: str, *words: str) -> str:
    """What `sdistrib-ROLE WORDS --help` prints.

    Raises:
        DocsError: the command ends with an error instead.
    """
    name = f"sdistrib-{role}"
    result = CliRunner().invoke(
        load_command(role),
        [*words, "--help"],
        prog_name=name,
        terminal_width=_HELP_COLUMNS,
        max_content_width=_HELP_COLUMNS,
        env={"COLUMNS": str(_HELP_COLUMNS), "NO_COLOR": "1"},
    )
    if result.exit_code:
        call = " ".join((name, *words, "--help"))
        raise DocsError(f"{call} ends with {result.exit_code}: {result.output}")
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def verbs() -> tuple[str, ...]:
    """The client's commands, as its help lists them."""
    command = load_command("client")
    if not isinstance(command, click.Group):
        raise DocsError("the client's command is no click group")
    context = click.Context(command, info_name="sdistrib-client")
    return tuple(command.list_commands(context))


def cli_page() -> str:
    """The help of the three commands, and of the client's verbs."""
    calls: list[tuple[str, tuple[str, ...]]] = [("manager", ()), ("worker", ()), ("client", ())]
    calls += [("client", ("HOST", verb)) for verb in verbs()]
    body = [
        "What `--help` prints. Every option of the manager and the worker can also be given as an"
        " environment variable, see the README.",
    ]
    for role, words in calls:
        title = " ".join((f"sdistrib-{role}", *words))
        body += ["", f"## {title}", "", "```text", help_text(role, *words), "```"]
    return _page("Commands", "the three commands", body)


PAGES: dict[str, Callable[[], str]] = {
    "parameters.md": parameters_page,
    "errors.md": errors_page,
    "limits.md": limits_page,
    "cli.md": cli_page,
}


def drift(folder: Path = REFERENCE) -> list[str]:
    """Names of the pages in `folder` that are not what the code says.

    Raises:
        DocsError: a page cannot be made here.
    """
    return [name for name, make in PAGES.items() if _read(folder / name) != make()]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def write(folder: Path = REFERENCE) -> list[str]:
    """Bring the pages up to date; the names of those that changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = drift(folder)
    for name in changed:
        (folder / name).write_text(PAGES[name](), encoding="utf-8")
    return changed


def main(arguments: list[str] | None = None, folder: Path = REFERENCE) -> int:
    """Check or write; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.docs", description="Checks that docs/reference is what the code says."
    )
    parser.add_argument("--write", action="store_true", help="bring the pages up to date")
    options = parser.parse_args(arguments)
    try:
        changed = write(folder) if options.write else drift(folder)
    except DocsError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    for name in changed:
        said = "written" if options.write else "not up to date; run `python -m tools.docs --write`"
        print(f"docs: docs/reference/{name}: {said}", file=sys.stderr)
    return int(bool(changed) and not options.write)


if __name__ == "__main__":
    sys.exit(main())
