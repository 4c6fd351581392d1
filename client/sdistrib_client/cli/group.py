"""The shape of the command line: `HOST` first, then a verb; no verb means drawing.

Light on purpose: what a verb needs is imported when it runs, so that help and completion are quick.
"""

import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from sdistrib.errors import EXIT_INTERRUPTED, EXIT_USAGE, SdistribError
from sdistrib_client.cli.flags import SECTIONS, Flag
from sdistrib_client.cli.refused import REFUSED

PROGRAM = "sdistrib-client"
DEFAULT_VERB = "txt2img"
_ALONE = ("-h", "--help", "--version")
#: Flags whose value may stand in brackets over several words, as the C++ client took it.
_LISTS = ("--skip-layers", "--sigmas")


class HostGroup(click.Group):
    """A group whose first word is HOST, and which draws when the second is no verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb in where it is left out.

        Raises:
            click.UsageError: something else stands where HOST belongs.
        """
        if not ctx.resilient_parsing:
            self._check_host(ctx, args)
        if args and args[0] not in _ALONE:
            words = args[1:]
            if not words and not ctx.resilient_parsing:
                words = [DEFAULT_VERB, "--help"]
            elif not words or words[0] not in self.commands:
                words = [DEFAULT_VERB, *words]
            args = [args[0], *words]
        return super().parse_args(ctx, args)

    def _check_host(self, ctx: click.Context, args: list[str]) -> None:
        usage = f"{PROGRAM} HOST [VERB] [FLAGS]"
        if not args:
            ctx.fail(f"HOST is missing: {usage}; {PROGRAM} --help says more.")
        first = args[0]
        if first in self.commands:
            ctx.fail(
                f"{first!r} is a verb and stands where HOST belongs: {PROGRAM} HOST {first}"
                f" (a machine of that name is {first}:4133)."
            )
        if first.startswith("-") and first not in _ALONE:
            ctx.fail(f"{first} stands where HOST belongs, flags come after it: {usage}.")

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What follows the program's name in its usage line."""
        return ["HOST", "[VERB]", "[FLAGS]"]

    def main(  # type: ignore[override] # callers of a whole program have no use for click's modes
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run and exit: 0 when all went well, else a status of the error table and one message."""
        words = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            _check_words(words)
            status = super().main(words, prog_name or PROGRAM, **extra)
        except click.ClickException as error:
            _complain([error.format_message()])
            status = EXIT_USAGE
        except (click.Abort, KeyboardInterrupt):
            status = EXIT_INTERRUPTED
        except SdistribError as error:
            from sdistrib_client.cli import report  # noqa: PLC0415 - loads the wire's messages

            _complain(report.explain_error(error, verbose=False))
            status = report.status_of_error(error)
        sys.exit(status)


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode("ascii", "backslashreplace").decode()
            raise click.UsageError(f"{shown!r} holds bytes that are not valid UTF-8.") from None


def _complain(lines: Sequence[str]) -> None:
    click.echo(f"{PROGRAM}: {lines[0]}", err=True)
    for line in lines[1:]:
        click.echo(line, err=True)


class DrawCommand(click.Command):
    """The drawing command: help in sections, refusals by name, lists over several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the flags.

        Raises:
            click.UsageError: a flag is refused or unknown, or a word belongs to none.
        """
        try:
            rest = super().parse_args(ctx, list(_joined(args)))
        except click.NoSuchOption as error:
            reason = REFUSED.get(error.option_name)
            if reason is None:
                raise
            raise click.UsageError(f"{error.option_name} is refused: {reason}.", ctx) from None
        if rest and not ctx.resilient_parsing:
            verbs = _verbs(ctx)
            if rest[0] in verbs:
                ctx.fail(f"The verb comes right after HOST: HOST {rest[0]} [FLAGS].")
            near = difflib.get_close_matches(rest[0], verbs, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"verbs are {', '.join(verbs)}."
            ctx.fail(f"{rest[0]!r} belongs to no flag; {hint}")
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags by section, then the verbs."""
        records: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                section = param.section if isinstance(param, Flag) else SECTIONS[3]
                records[section].append(record)
        for section, rows in records.items():
            with formatter.section(section):
                formatter.write_dl(rows, col_max=28)
        group = ctx.parent.command if ctx.parent is not None else None
        if isinstance(group, HostGroup) and self.name == DEFAULT_VERB:
            with formatter.section("Verbs, instead of drawing"):
                formatter.write_dl(
                    [
                        (f"HOST {name}", command.get_short_help_str(70))
                        for name, command in group.commands.items()
                        if name != DEFAULT_VERB
                    ]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Flags; and verbs, where one may stand."""
        items = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-") and not _given(ctx):
            items += [CompletionItem(verb) for verb in _verbs(ctx) if verb.startswith(incomplete)]
        return items


def _verbs(ctx: click.Context) -> list[str]:
    group = ctx.parent.command if ctx.parent is not None else None
    return list(group.commands) if isinstance(group, click.Group) else []


def _given(ctx: click.Context) -> bool:
    """A flag was typed already, so a verb cannot follow."""
    source = click.core.ParameterSource.COMMANDLINE
    return any(ctx.get_parameter_source(name) is source for name in ctx.params)


def _joined(args: Sequence[str]) -> Iterator[str]:
    """`--skip-layers [7, 8, 9]`, split by the shell, as one value again."""
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _LISTS:
            yield word
            continue
        if not equals:
            value = next(words, "")
        while value.startswith("[") and not value.endswith("]"):
            more = next(words, None)
            if more is None:
                break
            value += f" {more}"
        yield from (name, value) if value or equals else (name,)
