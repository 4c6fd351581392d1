"""Options of `sdistrib-worker` that are more than a name and a type, and what they start."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import click

from sdistrib.errors import EXIT_USAGE, ConfigError
from sdistrib.params import BY_NAME
from sdistrib_worker.choices import SWITCHES
from sdistrib_worker.devices import list_devices, listing_command
from sdistrib_worker.engine.device import pick, spelled, table_line
from sdistrib_worker.supervisor import engine_command

#: Makes the engine child's command for a device.
EngineCommand = Callable[[str], tuple[str, ...]]
#: Starts a worker, its own arguments left out; `-P` as in `engine_command`.
_WORKER = (sys.executable, "-P", "-m", "sdistrib_worker")


class Programs(NamedTuple):
    """What a worker starts."""

    engine: EngineCommand = engine_command
    #: Lists the devices.
    listing: tuple[str, ...] = listing_command()
    #: Is this program, for several devices.
    worker: tuple[str, ...] = _WORKER


_Command = TypeVar("_Command", bound=Callable[..., Any])


def choice_options(command: _Command) -> _Command:
    """The options with which an owner overrules petitions, by the names of their parameters."""
    for name in reversed(SWITCHES):
        (flag, *_), text = BY_NAME[name].spec.flags, BY_NAME[name].spec.help
        help_text = f"Whatever petitions wish: {text[0].lower()}{text[1:]}  [default: as they wish]"
        option = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=help_text)
        command = option(command)
    bound = click.option(
        "--max-vram",
        type=click.FloatRange(0.0, 1024.0),
        metavar="GIB",
        help="Device memory to run in, whatever petitions wish; 0 is no bound."
        "  [default: as they wish]",
    )
    return bound(command)


def show_devices(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """`--list-devices`: a line for each, and the end."""
    if not wanted or ctx.resilient_parsing:
        return
    try:
        found = list_devices((ctx.obj or Programs()).listing)
    except ConfigError as error:
        click.echo(f"sdistrib-worker: {error}", err=True)
        ctx.exit(EXIT_USAGE)
    for device in found:
        click.echo(table_line(device))
    ctx.exit()


def chosen_devices(device: str, devices: str | None, listing: Sequence[str]) -> tuple[str, ...]:
    """The devices to be drawn on, of both options.

    Raises:
        ConfigError: one of `--devices` is not there, or both options are given.
    """
    if not devices:  # empty, too: so the guardian takes it back for the workers that it starts
        return (spelled(device),)
    if device != "auto":
        raise ConfigError("Give --device or --devices, not both.")
    chosen = pick(devices, list_devices(listing))
    # Without a GPU the engine takes the CPU by itself, and says so where one is wasted.
    return ("auto",) if chosen == ("cpu",) and spelled(devices) == "all" else chosen
