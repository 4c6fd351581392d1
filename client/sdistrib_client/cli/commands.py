"""The verbs of `sdistrib-client`, and what each takes."""

from typing import Any, get_args

import click

from sdistrib.params import ModelKind
from sdistrib_client.cli.flags import connection_flags, other_flags, parameter_flags
from sdistrib_client.cli.group import DEFAULT_VERB, PROGRAM, DrawCommand, HostGroup

#: Every flag can be set by a variable: SDISTRIB_STEPS for --steps, SDISTRIB_MODEL for -m.
_SETTINGS: dict[str, Any] = {
    "auto_envvar_prefix": "SDISTRIB",
    "help_option_names": ["-h", "--help"],
}


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from sdistrib.version import VERSION  # noqa: PLC0415 - reading it takes a while

        click.echo(f"{PROGRAM} {VERSION}")
        ctx.exit()


@click.group(PROGRAM, cls=HostGroup, context_settings=_SETTINGS)
@click.argument("host")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli(host: str) -> None:
    """Draw pictures on a farm of GPU boxes.

    HOST is the machine that runs sdistrib-manager, as host or host:port, and always comes first.
    Without a verb it draws: sdistrib-client HOST -m MODEL -p PROMPT -o FILE.
    sdistrib-client HOST --help shows the drawing flags.
    """


def _draw(**values: Any) -> int:
    from sdistrib_client.cli.draw import run  # noqa: PLC0415 - loads the whole client

    return run(_host(), values)


cli.add_command(
    DrawCommand(
        DEFAULT_VERB,
        callback=_draw,
        params=[*parameter_flags(), *other_flags()],
        context_settings={**_SETTINGS, "allow_extra_args": True, "max_content_width": 100},
        help="Draw pictures from a prompt: the names and letters of the flags are sd-cli's.",
        short_help="Draw pictures from a prompt (the default).",
    )
)


def _host() -> str:
    parent = click.get_current_context().parent
    return str(parent.params["host"]) if parent is not None else ""


def _list_verb(name: str, text: str, *more: click.Parameter) -> None:
    def callback(as_json: bool, connect_timeout: float, insecure_lan: bool, **rest: Any) -> None:
        from sdistrib_client.cli import lists  # noqa: PLC0415 - loads the whole client

        answer = lists.ask(
            _host(),
            name,  # type: ignore[arg-type] # the verbs are named as the questions are
            connect_timeout_s=connect_timeout,
            insecure_lan=insecure_lan,
        )
        getattr(lists, f"show_{name}")(answer, as_json=as_json, **rest)

    as_json = click.Option(["--json", "as_json"], is_flag=True, help="One JSON object per row.")
    params = [*more, as_json, *connection_flags()]
    settings = dict(_SETTINGS)
    cli.add_command(
        click.Command(name, callback=callback, params=params, context_settings=settings, help=text)
    )


_list_verb(
    "models",
    "List the model files that the workers have.",
    click.Option(["--kind"], type=click.Choice(get_args(ModelKind)), help="Only this kind."),
)
_list_verb("workers", "List the workers: state, device, what they have loaded.")
_list_verb("queue", "List the petitions that are not finished, and why they wait.")
_list_verb("status", "Show the farm in numbers.")
