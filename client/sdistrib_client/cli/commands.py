"""The verbs of `sdistrib-client`, and what each takes."""

from typing import Any, get_args

import click

from sdistrib.params import ModelKind
from sdistrib_client.cli.flags import (
    connection_flags,
    detach_flag,
    other_flags,
    output_flags,
    parameter_flags,
    preview_flags,
    preview_path_flag,
    prompt_flags,
    timeout_flag,
    urgency_flags,
)
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
        params=[*parameter_flags(), *prompt_flags(), *other_flags()],
        context_settings={**_SETTINGS, "allow_extra_args": True, "max_content_width": 100},
        help="Draw pictures from a prompt: the names and letters of the flags are sd-cli's.",
        short_help="Draw pictures from a prompt (the default).",
    )
)


def _host() -> str:
    parent = click.get_current_context().parent
    return str(parent.params["host"]) if parent is not None else ""


def _as_json() -> click.Option:
    return click.Option(["--json", "as_json"], is_flag=True, help="One JSON object per row.")


def _list_verb(name: str, text: str, *more: click.Parameter) -> None:
    def callback(
        as_json: bool,
        connect_timeout: float,
        insecure_lan: bool,
        every: bool = False,
        petition_id: str | None = None,
        **rest: Any,
    ) -> None:
        from sdistrib_client.cli import lists  # noqa: PLC0415 - loads the whole client

        if petition_id is not None:
            with lists.dial(
                _host(), connect_timeout_s=connect_timeout, insecure_lan=insecure_lan
            ) as client:
                lists.show_petition(client.find(petition_id), as_json=as_json)
            return
        answer = lists.ask(
            _host(),
            name,  # type: ignore[arg-type] # the verbs are named as the questions are
            connect_timeout_s=connect_timeout,
            insecure_lan=insecure_lan,
            every=every,
            kind=rest.get("kind") or "",
            name=rest.get("name") or "",
        )
        getattr(lists, f"show_{name}")(answer, as_json=as_json, **rest)

    params = [*more, _as_json(), *connection_flags()]
    settings = dict(_SETTINGS)
    cli.add_command(
        click.Command(name, callback=callback, params=params, context_settings=settings, help=text)
    )


_list_verb(
    "models",
    "List the model files that the workers have, with how many have each. HASH is as A1111 shows"
    " it. Only names that contain NAME, or fit it where it has * or ?.",
    click.Argument(["name"], metavar="[NAME]", required=False),
    click.Option(["--kind"], type=click.Choice(get_args(ModelKind)), help="Only this kind."),
    click.Option(
        ["--where"],
        is_flag=True,
        help="Name the workers that have each, as --json always does. A file that is another one"
        " elsewhere has a row for each content.",
    ),
)
_list_verb("workers", "List the workers: state, device, what they have loaded.")
_list_verb(
    "queue",
    "List the petitions that have not ended, and why they wait.",
    click.Option(
        ["--all", "every"], is_flag=True, allow_from_autoenv=False, help="Those that ended too."
    ),
)
_list_verb(
    "status",
    "Show the farm in numbers; with an ID, how far that petition is and why it waits.",
    click.Argument(["petition_id"], metavar="[ID]", required=False),
)


def _petition_verb(name: str, text: str, *params: click.Parameter) -> None:
    """A verb that takes the ID of a petition."""

    def callback(**values: Any) -> int:
        from sdistrib_client.cli import verbs  # noqa: PLC0415 - loads the whole client

        return int(getattr(verbs, name)(_host(), values))

    makes = DrawCommand if name == "retry" else click.Command
    settings = {**_SETTINGS, "allow_extra_args": True} if name == "retry" else dict(_SETTINGS)
    settings["max_content_width"] = 100
    cli.add_command(
        makes(name, callback=callback, params=list(params), context_settings=settings, help=text)
    )


def _id(*, required: bool = True) -> click.Argument:
    metavar = "ID" if required else "[ID]"
    return click.Argument(["petition_id"], metavar=metavar, required=required)


_petition_verb(
    "attach",
    "Take up a petition: its progress, and the pictures that nobody has had. Ctrl-C cancels it."
    " ID may be shortened to what no other petition's begins with.",
    _id(),
    *output_flags(),
    preview_path_flag(),
    *connection_flags(),
)
_petition_verb(
    "fetch",
    "Write all pictures that a petition has now, also those that were written before."
    " The exit status is 1 when it has not ended yet.",
    _id(),
    *output_flags(),
    *connection_flags(),
)
_petition_verb(
    "cancel",
    "Cancel a petition; pictures that are done stay.",
    _id(),
    _as_json(),
    *connection_flags(),
)
_petition_verb(
    "retry",
    "Draw again what failed of a petition that has ended, with other flags where some are given;"
    " then follow it as attach does. Its seed and its number of pictures stay.",
    _id(),
    *parameter_flags(),
    *prompt_flags(),
    timeout_flag(),
    *urgency_flags(),
    *preview_flags(),
    detach_flag(),
    *output_flags(),
    *connection_flags(),
)
_petition_verb(
    "purge",
    "Forget an ended petition for good, prompt and pictures, or all of them.",
    _id(required=False),
    click.Option(
        ["--all", "every"], is_flag=True, allow_from_autoenv=False, help="All that have ended."
    ),
    click.Option(["--yes"], is_flag=True, allow_from_autoenv=False, help="Do not ask first."),
    _as_json(),
    *connection_flags(),
)


def _worker_verb(wish: str, text: str) -> None:
    """A verb that takes names of workers."""

    def callback(**values: Any) -> int:
        from sdistrib_client.cli import controls  # noqa: PLC0415 - loads the whole client

        return controls.control(_host(), wish, values)  # type: ignore[arg-type] # one of `WorkerWish`

    params = [
        click.Argument(["workers"], metavar="[WORKER]...", nargs=-1),
        click.Option(
            ["--all", "every"], is_flag=True, allow_from_autoenv=False, help="All that are there."
        ),
        _as_json(),
        *connection_flags(),
    ]
    settings = {**_SETTINGS, "max_content_width": 100}
    cli.add_command(
        click.Command(wish, callback=callback, params=params, context_settings=settings, help=text)
    )


_worker_verb(
    "pause",
    "Let workers take no new images, until `resume`. What they have not begun goes to others at"
    " once; the image under way is finished.",
)
_worker_verb("resume", "Let paused workers take images again; a drain under way is called off.")
_worker_verb(
    "drain",
    "Let workers finish the image under way, hand in what they hold, and end.",
)
_worker_verb(
    "unload",
    "Let workers free their model's memory, as soon as they have nothing to draw. They go on"
    " working; to keep the memory free, pause them first.",
)
