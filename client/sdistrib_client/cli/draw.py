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
from sdistrib_client.cli.display import Display, Lines, Quiet
from sdistrib_client.cli.dry_run import dry_run
from sdistrib_client.cli.events_json import JsonLines
from sdistrib_client.cli.flags import params_of, urgency_of
from sdistrib_client.cli.report import status_of, status_of_error
from sdistrib_client.composing import prepare
from sdistrib_client.effects import Ending
from sdistrib_client.errors import OutputError, Unreachable
from sdistrib_client.images import Outputs
from sdistrib_client.inputs import InputSource
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
    petition, inputs = _petition(values)
    if values["dry_run"]:
        return connected(host, values, lambda client, display: dry_run(client, petition, display))
    if values["detach"]:
        forbid_output()
        return connected(
            host, values, lambda client, display: _detach(client, petition, inputs, display)
        )
    outputs = outputs_of(values, petition.images)

    def work(client: Client, display: Display) -> int:
        drawing = client.draw(
            petition,
            inputs=inputs,
            on_accepted=display.accepted,
            on_progress=display.progress,
            on_sending=display.sending,
        )
        return receive(drawing, outputs, display)

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
    for name in ("output", "output_begin_idx"):
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
    }
    params = params_of(values)
    return prepare(params.pop("prompt") or "", {**params, **about})


def outputs_of(values: Mapping[str, Any], images: int) -> Outputs:
    """Where the pictures go.

    Raises:
        click.UsageError: they cannot go there.
    """
    if values["output"] == "-" and values["json"]:
        raise click.UsageError("--json and -o - both write to standard output; choose one.")
    try:
        outputs = Outputs(values["output"], images, values["output_begin_idx"])
        outputs.check()
    except OutputError as error:
        raise click.UsageError(str(error)) from None
    return outputs


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


def receive(drawing: Drawing, outputs: Outputs, display: Display) -> int:
    """Write the pictures as they come; Ctrl-C cancels. Returns the exit status."""
    display.submitted(drawing.id, drawing.petition)
    with Interrupts(drawing.cancel) as interrupts:
        try:
            write_all(drawing, outputs, display)
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


def write_all(drawing: Drawing, outputs: Outputs, display: Display) -> int:
    """Write the pictures as they come; how many.

    Raises:
        OutputError: one could not be written; it stays with the manager.
        SdistribError: the petition ended badly.
    """
    written = 0
    for picture in drawing:
        try:
            path = outputs.write(picture.index, picture.data)
        except OutputError as error:
            raise OutputError(
                f"{error} Picture {picture.index} stays with the manager and the rest of what was"
                " to be drawn for this command is cancelled. Make room or choose another -o:"
                f" `fetch {drawing.id[:8]}` writes what there is, --seed {picture.seed} draws this"
                " picture again."
            ) from error
        display.picture(picture, path)
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
