"""`sdistrib-client HOST [txt2img] …`: from flags to files."""

import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, Self

import click
from click.core import ParameterSource

from sdistrib.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    ConfigError,
    PetitionError,
    SdistribError,
)
from sdistrib.petitions import Petition
from sdistrib_client.cli.again import Again
from sdistrib_client.cli.display import Display, Lines, Quiet
from sdistrib_client.cli.dry_run import dry_run
from sdistrib_client.cli.events_json import JsonLines
from sdistrib_client.cli.flags import params_of, previews_of, urgency_of
from sdistrib_client.cli.formats import format_wish, outputs_of
from sdistrib_client.cli.previews import previews_to, watcher
from sdistrib_client.cli.prompts import prompts_of
from sdistrib_client.cli.report import status_of, status_of_error
from sdistrib_client.composing import prepare
from sdistrib_client.effects import Ending
from sdistrib_client.errors import OutputError, Unreachable
from sdistrib_client.images import Outputs
from sdistrib_client.inputs import InputSource
from sdistrib_client.pictures import Picture
from sdistrib_client.sync import Client, Drawing

#: What the extra `client` brings; drawing wants both, on a terminal or not, so that the same
#: command behaves alike in both.
_EXTRA = ("rich", "PIL")


def run(host: str, values: Mapping[str, Any]) -> int:
    """Draw, with --detach only have it kept, with --dry-run only ask; returns the exit status.

    Raises:
        click.UsageError: the flags do not fit together, or the output cannot be written.
        SdistribError: the parameters are wrong, or an extra is missing.
    """
    again = Again.of(values) if values["from_picture"] is not None else None
    petition, inputs = (again.petition, again.inputs) if again is not None else _petition(values)
    outputs = None
    if values["detach"]:
        forbid_output()
    elif not values["dry_run"]:
        output = again.output if again is not None else None
        outputs = outputs_of(values, petition.images, petition.params, output)
        if again is not None:
            again.spare(outputs)
    shown = petition.preview != "none"
    previews = previews_to(values, outputs) if outputs is not None and shown else None

    def work(client: Client, display: Display) -> int:
        wanted = again.matched(client, display) if again is not None else petition
        if values["dry_run"]:
            return dry_run(client, wanted, display)
        if outputs is None:
            return _detach(client, wanted, inputs, display)
        drawing = client.draw(
            wanted,
            inputs=inputs,
            on_accepted=display.accepted,
            on_progress=display.progress,
            on_sending=display.sending,
            on_preview=watcher(previews, display),
        )
        return receive(drawing, outputs, display, again.compare if again is not None else None)

    return connected(host, values, work)


def connected(host: str, values: Mapping[str, Any], work: Callable[[Client, Display], int]) -> int:
    """Do some work on a connection, with a display for it; returns the exit status.

    Raises:
        SdistribError: the host is no address, or an extra is missing.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError("Drawing needs more: run pip install 'sdistrib[client]'.")
    display = _display(values)
    try:
        client = Client(
            host,
            connect_timeout_s=values["connect_timeout"],
            insecure_lan=values["insecure_lan"],
            on_notice=display.notice,
        )
    except ConfigError:
        raise
    except SdistribError as error:
        return _failed(error, display)
    try:
        return work(client, display)
    except PetitionError as error:
        return _failed(error, display)
    except Unreachable as error:
        display.ended(Ending(outcome="unreachable", reason=str(error)), EXIT_UNREACHABLE)
        return EXIT_UNREACHABLE
    except KeyboardInterrupt:
        # The second Ctrl-C: the cancel is on its way, and nobody waits for it any more.
        client.close(wait=False)
        raise
    finally:
        display.close()
        client.close()


def _failed(error: SdistribError, display: Display) -> int:
    status = status_of_error(error)
    display.failed(error, status)
    return status


def forbid_output() -> None:
    """With --detach nothing is written here.

    Raises:
        click.UsageError: a file was named.
    """
    given = click.get_current_context().get_parameter_source
    for name in ("output", "output_begin_idx", "preview_path"):
        if given(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--detach writes no picture; give --{name.replace('_', '-')} to fetch or attach."
            )


def _petition(values: Mapping[str, Any]) -> tuple[Petition, dict[str, InputSource]]:
    about = {
        "images": values["batch_count"],
        "seed": values["seed"],
        "timeout_s": values["timeout"],
        **urgency_of(values),
        **previews_of(values),
    }
    params = {**params_of(values), **prompts_of(values), **format_wish(values, values["mode"])}
    return prepare(params.pop("prompt") or "", {**params, **about})


def _display(values: Mapping[str, Any]) -> Display:
    verbose = values["verbose"]
    if values["json"]:
        return JsonLines()
    terminal = sys.stderr.isatty()
    color = values["color"] or (terminal and not os.environ.get("NO_COLOR"))
    if values["quiet"]:
        return Quiet(verbose=verbose, color=color)
    if terminal and os.environ.get("TERM") != "dumb":
        from sdistrib_client.cli.bar import Bar  # noqa: PLC0415 - rich is slow to load

        return Bar(verbose=verbose)
    return Lines(verbose=verbose, color=color)


def _detach(
    client: Client, petition: Petition, inputs: Mapping[str, InputSource], display: Display
) -> int:
    drawing = client.draw(
        petition,
        inputs=inputs,
        detach=True,
        on_accepted=display.accepted,
        on_sending=display.sending,
    )
    return keep(drawing, display)


def keep(drawing: Drawing, display: Display) -> int:
    """Wait until a petition is accepted, and print its id; returns the exit status."""
    display.submitted(drawing.id, drawing.petition)
    # How it ended, the drawing knows better than the exception says.
    with Interrupts(drawing.cancel) as interrupts, contextlib.suppress(SdistribError):
        drawing.wait()
    status = _end(drawing, display, interrupts.status)
    if status == EXIT_OK and not isinstance(display, JsonLines):
        click.echo(drawing.id)
    return status


#: Says more about a picture once it is written.
OnPicture = Callable[[Picture, Display], None]


def receive(
    drawing: Drawing, outputs: Outputs, display: Display, on_picture: OnPicture | None = None
) -> int:
    """Write the pictures as they come; Ctrl-C cancels. Returns the exit status."""
    display.submitted(drawing.id, drawing.petition)
    with Interrupts(drawing.cancel) as interrupts:
        try:
            write_all(drawing, outputs, display, on_picture)
        except OutputError as error:
            drawing.close()
            display.failed(error, EXIT_FAILED)
            return EXIT_FAILED
        except SdistribError:
            # How it ended, the drawing knows better than the exception says.
            pass
    return _end(drawing, display, interrupts.status)


def _end(drawing: Drawing, display: Display, interrupted: int) -> int:
    ending = drawing.ending or Ending(outcome="done")
    status = status_of(ending)
    if status != EXIT_OK and interrupted:
        status = interrupted
    display.ended(ending, status)
    return status


def write_all(
    drawing: Drawing, outputs: Outputs, display: Display, on_picture: OnPicture | None = None
) -> int:
    """Write the pictures as they come; how many.

    Raises:
        OutputError: one could not be written; it stays with the manager.
        SdistribError: the petition ended badly.
    """
    written = 0
    for picture in drawing:
        try:
            path = outputs.write(picture.index, picture.data, picture.format)
        except OutputError as error:
            raise OutputError(
                f"{error} Picture {picture.index} stays with the manager and the rest of what was"
                " to be drawn for this command is cancelled. Make room or choose another -o:"
                f" `fetch {drawing.id[:8]}` writes what there is, --seed {picture.seed} draws this"
                " picture again."
            ) from error
        display.picture(picture, path)
        if on_picture is not None:
            on_picture(picture, display)
        written += 1
    return written


class Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP: the first asks for a cancel, the second leaves at once."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._before: dict[int, Any] = {}
        #: Exit status of a program ended by the signal that came first; 0 when none did.
        self.status = 0

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.status:
            raise KeyboardInterrupt
        self.status = 128 + number
        self._on_first()

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
