"""The verbs for petitions of before: attach, fetch, cancel, retry, purge. Each gives its status."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from sdistrib.errors import EXIT_FAILED, EXIT_OK, SdistribError
from sdistrib.params import PARAMETERS
from sdistrib.petitions import PETITION_ENDS
from sdistrib.protocol import messages as wire
from sdistrib_client.cli.display import Display
from sdistrib_client.cli.draw import connected, forbid_output, keep, receive, write_all
from sdistrib_client.cli.flags import params_of, previews_of, urgency_of, variable
from sdistrib_client.cli.formats import format_wish, is_typed, outputs_of
from sdistrib_client.cli.lists import dial
from sdistrib_client.cli.previews import previews_to, watcher
from sdistrib_client.cli.prompts import prompts_of
from sdistrib_client.cli.report import status_of
from sdistrib_client.effects import Ending
from sdistrib_client.errors import OutputError
from sdistrib_client.sync import Client

Values = Mapping[str, Any]


def attach(host: str, values: Values) -> int:
    """Write the pictures that nobody has had, and those to come."""

    def work(client: Client, display: Display) -> int:
        row, petition = client.look(values["petition_id"])
        outputs = outputs_of(values, row.images, petition.params)
        drawing = client.attach(
            row.id,
            on_accepted=display.accepted,
            on_progress=display.progress,
            on_preview=watcher(previews_to(values, outputs), display),
        )
        if row.state in PETITION_ENDS and row.done:
            display.notice(
                f"Petition {row.id[:8]} has ended. Pictures that were written before do not come"
                f" again; `fetch {row.id[:8]}` writes all."
            )
        return receive(drawing, outputs, display)

    return connected(host, values, work)


def fetch(host: str, values: Values) -> int:
    """Write the pictures that are there. Nothing is cancelled, whatever happens."""

    def work(client: Client, display: Display) -> int:
        row, petition = client.look(values["petition_id"])
        outputs = outputs_of(values, row.images, petition.params)
        drawing = client.fetch(row.id, on_accepted=display.accepted)
        display.submitted(drawing.id, drawing.petition)
        try:
            write_all(drawing, outputs, display)
        except OutputError as error:
            drawing.close()
            display.failed(error, EXIT_FAILED)
            return EXIT_FAILED
        except SdistribError:
            # How it ended, the drawing knows better than the exception says.
            pass
        ending = drawing.ending or Ending(outcome="done")
        display.ended(ending, status_of(ending))
        return status_of(ending)

    return connected(host, values, work)


def retry(host: str, values: Values) -> int:
    """Draw what failed again, edited by the flags that were typed."""
    changes, timeout_s = _typed(values)
    if values["detach"]:
        forbid_output()

    def work(client: Client, display: Display) -> int:
        row, petition = client.look(values["petition_id"])
        outputs = None
        if not values["detach"]:
            named = {name: changes[name] for name in ("mode", "format", "fps") if name in changes}
            params = msgspec.structs.replace(petition.params, **named)
            outputs = outputs_of(values, row.images, params)
        drawing = client.retry(
            row.id,
            detach=values["detach"],
            timeout_s=timeout_s,
            on_accepted=display.accepted,
            on_progress=display.progress,
            on_preview=None if outputs is None else watcher(previews_to(values, outputs), display),
            on_sending=display.sending,
            **changes,
        )
        return keep(drawing, display) if outputs is None else receive(drawing, outputs, display)

    return connected(host, values, work)


def _typed(values: Values) -> tuple[dict[str, Any], float | None]:
    """Parameters and time limit from flags; a variable set for drawing changes no old petition."""
    given = params_of(values)
    changes = {row.name: given[row.name] for row in PARAMETERS if is_typed(variable(row))}
    changes |= prompts_of(values, typed_only=True)
    flags = {"priority": "priority", "hedge": "no_hedge", "exact": "exact", "on_oom": "on_oom"}
    urgency = urgency_of(values)
    changes |= {name: urgency[name] for name, flag in flags.items() if is_typed(flag)}
    if is_typed("output"):
        changes |= format_wish(values)
    changes |= {name: value for name, value in previews_of(values).items() if is_typed(name)}
    return changes, values["timeout"] if is_typed("timeout") else None


def cancel(host: str, values: Values) -> int:
    """Cancel a petition and say what became of it."""
    with _dialled(host, values) as client:
        row = client.find(values["petition_id"])
        is_cancelled = client.cancel(row.id)
        row = client.find(row.id)
    if values["as_json"]:
        _write(id=row.id, cancelled=is_cancelled, state=row.state, done=row.done)
    else:
        click.echo(_cancelled(row))
    return EXIT_OK if row.state in PETITION_ENDS else EXIT_FAILED


def _cancelled(row: wire.QueuedPetition) -> str:
    kept = f"; {row.done} of {row.images} pictures are done and stay" if row.done else ""
    if row.state not in PETITION_ENDS:
        return f"The cancel of {row.id[:8]} is not confirmed: it is {row.state}."
    return f"{row.id[:8]} is {row.state}{kept}."


def purge(host: str, values: Values) -> int:
    """Forget petitions, after asking.

    Raises:
        click.UsageError: not exactly one of ID and --all, or nobody is there to be asked.
        click.Abort: the answer was no.
    """
    petition_id, every = values["petition_id"], values["every"]
    if (petition_id is None) is not every:
        raise click.UsageError("Give the ID of one petition, or --all.")
    with _dialled(host, values) as client:
        if every:
            answer = client.ask("queue", every=True)
            ended = sum(row.state in PETITION_ENDS for row in answer.queue)
            what = f"all petitions that have ended ({ended}{' or more' if answer.cut else ''})"
        else:
            row = client.find(petition_id)
            petition_id = row.id
            what = f"petition {row.id[:8]} ({row.state}, {row.done} pictures)"
        if not values["yes"]:
            _confirm(f"Forget {what} for good?")
        count = client.purge(petition_id)
    if values["as_json"]:
        _write(petitions=count)
    else:
        click.echo(f"{count} petition{'' if count == 1 else 's'} forgotten.")
    return EXIT_OK


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to answer; --yes does it unasked.")
    click.confirm(question, abort=True, err=True)


def _dialled(host: str, values: Values) -> Client:
    return dial(
        host, connect_timeout_s=values["connect_timeout"], insecure_lan=values["insecure_lan"]
    )


def _write(**fields: Any) -> None:
    click.echo(json.dumps(fields))
