"""The drawing flags: made from the parameter table, plus those of the petition and the output."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
from msgspec import Meta

from sdistrib import limits
from sdistrib.params import BY_NAME, INPUT_FIELDS, PARAMETERS, Parameter
from sdistrib.petitions import OnOom, PreviewMode, Priority
from sdistrib_client.cli.values import IMG2IMG, IMG2VID, OLD_MODES, Number, Pair, Word, type_of

#: Default seed, as sd-cli's.
SEED = 42
CONNECT_TIMEOUT_S = 10.0

MODELS, LOADING, DRAWING, FINISHING = "Model files", "Loading", "Drawing", "After drawing"
PETITION, OUTPUT = "Petition", "Output"
SECTIONS = (MODELS, DRAWING, PETITION, OUTPUT, FINISHING, LOADING)


class Flag(click.Option):
    """An option with a place in the help."""

    def __init__(self, declarations: list[str], section: str, **more: Any) -> None:
        super().__init__(declarations, **more)
        self.section = section


def parameter_flags() -> Iterator[Flag]:
    """One flag for each row of the table; what is not given stays None."""
    for row in PARAMETERS:
        # A long spelling first: it is the one that help and errors show best.
        declarations = [*sorted(row.spec.flags, key=lambda f: f.startswith("--")), variable(row)]
        if row.type is bool:
            yield Flag(declarations, _section(row), is_flag=True, default=None, help=row.spec.help)
        else:
            yield Flag(
                declarations,
                _section(row),
                type=type_of(row),
                multiple=_is_repeated(row),
                default=None,
                metavar=row.spec.metavar or None,
                help=_help(row),
            )


def _is_repeated(row: Parameter) -> bool:
    """The flag is given once for each of several files."""
    return row.spec.input and row.type is not str and row.spec.metavar == "FILE"


def variable(row: Parameter) -> str:
    """Name of a flag's value, and with SDISTRIB_ before it of its environment variable."""
    return row.spec.flags[0].removeprefix("--").replace("-", "_")


def params_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Params` that the flags set.

    Raises:
        click.UsageError: they do not fit together.
    """
    given = {row.name: values[variable(row)] for row in PARAMETERS}
    _name_inputs(given)
    mode = given["mode"]
    if mode in (IMG2IMG, IMG2VID) and not given["init_image"]:
        raise click.UsageError(f"-M {mode} needs a picture to start from; give it with -i FILE.")
    given["mode"] = OLD_MODES.get(mode, mode)
    for row in PARAMETERS:
        if row.spec.negated and given[row.name] is not None:
            given[row.name] = not given[row.name]
    return given


def _name_inputs(given: dict[str, Any]) -> None:
    """Paths of input files; `-` is what comes in on standard input, once."""
    taken = ""
    for name in INPUT_FIELDS:
        value = given[name]
        if value == ():
            given[name] = None
        many = value if isinstance(value, tuple) else (value,)
        for _ in [one for one in many if one == Path("-")]:
            if taken:
                flag = BY_NAME[name].spec.flags[0]
                raise click.UsageError(f"{taken} and {flag} both read standard input; choose one.")
            taken = BY_NAME[name].spec.flags[0]
            data = sys.stdin.buffer.read(limits.INPUT_BYTES_MAX + 1)
            read = tuple(data if one == Path("-") else one for one in many)
            given[name] = read if isinstance(value, tuple) else data


def _section(row: Parameter) -> str:
    if row.spec.stage == "load":
        return MODELS if row.spec.kind is not None else LOADING
    return DRAWING if row.spec.stage == "draw" else FINISHING


def _help(row: Parameter) -> str:
    text = row.spec.help
    if row.choices:
        text += f" One of {', '.join(row.choices)}."
    if row.default in (None, "", ()) or not isinstance(row.default, str | int | float | tuple):
        return text
    if isinstance(row.default, tuple):
        separator = "x" if isinstance(type_of(row), Pair) else ","
        return f"{text} [{separator.join(map(str, row.default))}]"
    return f"{text} [{row.default}]"


def prompt_flags() -> Iterator[Flag]:
    """What goes into the prompts beside -p and -n."""
    yield Flag(
        ["--lora"],
        DRAWING,
        multiple=True,
        metavar="NAME[:W]",
        help="Apply a LoRA with weight W, 1 if left out, as <lora:NAME:W> in the prompt does;"
        " may be repeated.",
    )
    yield Flag(
        ["--embedding"],
        DRAWING,
        multiple=True,
        metavar="NAME",
        help="The word NAME in the prompts means that embedding, as embedding:NAME there does;"
        " may be repeated.",
    )
    yield Flag(
        ["--prompt-file"], DRAWING, metavar="FILE", help="Text file with the prompt, in UTF-8."
    )
    yield Flag(
        ["--negative-prompt-file"], DRAWING, metavar="FILE", help="Text file with what not to draw."
    )


def other_flags() -> Iterator[Flag]:
    """The flags of the petition and of the output."""
    many = Number(int, [Meta(ge=1), Meta(le=limits.IMAGES_PER_PETITION_MAX)])
    seed = Number(int, [Meta(ge=-(2**63)), Meta(le=limits.SEED_MAX)])
    yield Flag(
        ["-b", "--batch-count"], PETITION, type=many, default=1, help="Number of pictures. [1]"
    )
    yield Flag(
        ["-s", "--seed"],
        PETITION,
        type=seed,
        default=SEED,
        help=f"Seed of the first picture, the next ones count up; below 0 draws one. [{SEED}]",
    )
    yield timeout_flag()
    yield from urgency_flags()
    yield from_flag()
    yield from preview_flags()
    yield detach_flag()
    yield dry_run_flag()
    yield from output_flags()
    yield from connection_flags()


def timeout_flag() -> Flag:
    """The petition's time limit."""
    return Flag(
        ["--timeout"],
        PETITION,
        type=Number(float, [Meta(ge=0), Meta(le=limits.DEADLINE_S_MAX)]),
        default=0.0,
        metavar="SECONDS",
        help="Time for the whole petition; 0 is no limit. [0]",
    )


def urgency_flags() -> Iterator[Flag]:
    """How the petition stands beside others, and which workers may share it."""
    yield Flag(
        ["--priority"],
        PETITION,
        type=click.Choice(get_args(Priority)),
        default="normal",
        help="How urgent it is beside others. [normal]",
    )
    yield Flag(
        ["--no-hedge"],
        PETITION,
        is_flag=True,
        help="Never race the last pictures on an idle worker as well.",
    )
    yield Flag(
        ["--exact"],
        PETITION,
        is_flag=True,
        help="Draw all pictures with engines of one fingerprint, even if that takes longer.",
    )
    yield Flag(
        ["--on-oom"],
        PETITION,
        type=click.Choice(get_args(OnOom)),
        default="retry",
        help="When memory runs out: try another worker with room (retry), then also draw with VAE"
        " tiling and offloaded weights, which the result's notes say (tile), or fail. [retry]",
    )


def urgency_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Petition` that `urgency_flags` set."""
    return {
        "priority": values["priority"],
        "hedge": not values["no_hedge"],
        "exact": values["exact"],
        "on_oom": values["on_oom"],
    }


def from_flag() -> Flag:
    """Draw a picture again."""
    return Flag(
        ["--from", "from_picture"],
        PETITION,
        metavar="PICTURE",
        allow_from_autoenv=False,
        help="Draw this PNG, JPEG or WebP file again, as it says it was made, with the flags that"
        " are typed instead of its own; it becomes PICTURE_again, unless -o says otherwise. Files"
        " of A1111 and others that write as it does serve as far as their text goes.",
    )


def preview_flags() -> Iterator[Flag]:
    """What is shown of a picture while it is drawn, and where."""
    interval = Number(int, [Meta(ge=1), Meta(le=limits.STEPS_MAX)])
    yield Flag(
        ["--preview"],
        OUTPUT,
        type=Word(get_args(PreviewMode)),
        default="none",
        metavar="MODE",
        help="Show the picture while it is drawn: proj costs next to nothing and is small; tae and"
        " vae decode it with what the model has, at each step. One of"
        f" {', '.join(get_args(PreviewMode))}. [none]",
    )
    yield Flag(
        ["--preview-interval"],
        OUTPUT,
        type=interval,
        default=1,
        help="Steps from one preview to the next. [1]",
    )
    yield Flag(
        ["--preview-noisy"],
        OUTPUT,
        is_flag=True,
        help="Show what the model is given, and not what it makes of it.",
    )
    yield preview_path_flag()


def preview_path_flag() -> Flag:
    """Where previews go."""
    return Flag(
        ["--preview-path"],
        OUTPUT,
        default="preview.png",
        metavar="FILE",
        help="File that always shows the newest preview of any of the pictures, as .png, .jpg or"
        " .webp. [preview.png]",
    )


def previews_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Petition` that `preview_flags` set."""
    return {name: values[name] for name in ("preview", "preview_interval", "preview_noisy")}


def detach_flag() -> Flag:
    """Leave once the petition is kept."""
    return Flag(
        ["--detach"],
        PETITION,
        is_flag=True,
        help="Print the petition's id and leave once the manager keeps it; fetch or attach later.",
    )


def dry_run_flag() -> Flag:
    """Only ask what would happen."""
    return Flag(
        ["--dry-run"],
        PETITION,
        is_flag=True,
        allow_from_autoenv=False,
        help="Only show which workers would draw it, how long that takes and what each lacks;"
        " nothing is submitted or written.",
    )


def output_flags() -> Iterator[Flag]:
    """Where pictures go, and what is shown meanwhile."""
    yield Flag(
        ["-o", "--output"],
        OUTPUT,
        default="output.png",
        metavar="FILE",
        help="Where the picture goes: several become FILE_0.png, FILE_1.png …, or are numbered"
        " by a %03d in FILE; - is standard output, for one picture. .png, .jpg, .jpeg and .webp say"
        " the format; other names get the format's extension. [output.png]",
    )
    begin = Number(int, [Meta(ge=0), Meta(le=2**31)])
    yield Flag(
        ["--output-begin-idx"], OUTPUT, type=begin, default=0, help="Number of the first file. [0]"
    )
    yield Flag(
        ["-q", "--quiet"], OUTPUT, is_flag=True, help="No progress: only pictures and errors."
    )
    yield Flag(
        ["-v", "--verbose"], OUTPUT, is_flag=True, help="Workers, timings, whole engine logs."
    )
    yield Flag(
        ["--json"], OUTPUT, is_flag=True, help="One JSON object per event on standard output."
    )
    yield Flag(["--color"], OUTPUT, is_flag=True, help="Colours even when this is no terminal.")


def connection_flags() -> Iterator[Flag]:
    """The flags that every verb has."""
    patience = Number(float, [Meta(gt=0), Meta(le=limits.DEADLINE_S_MAX)])
    yield Flag(
        ["--connect-timeout"],
        OUTPUT,
        type=patience,
        default=CONNECT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"How long to try to reach the manager. [{CONNECT_TIMEOUT_S:g}]",
    )
    yield Flag(
        ["--insecure-lan"],
        OUTPUT,
        is_flag=True,
        help="Dial another machine though nothing protects prompts and pictures on the way.",
    )
