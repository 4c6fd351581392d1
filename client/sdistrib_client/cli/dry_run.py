"""`sdistrib-client HOST … --dry-run`: which workers would draw it, how long, what each lacks."""

import click

from sdistrib.errors import EXIT_OK
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib_client.cli.display import Display, short_time
from sdistrib_client.cli.events_json import JsonLines
from sdistrib_client.cli.lists import write_table
from sdistrib_client.cli.report import clean, status_of
from sdistrib_client.effects import Ending
from sdistrib_client.sync import Client

_HEADER = ("WORKER", "PICTURES", "EACH", "LOADING", "LACKS", "WHY NONE")


def dry_run(client: Client, petition: Petition, display: Display) -> int:
    """Ask and show; the exit status is 0 when it could run, else that of the refusal."""
    planned = client.plan(petition)
    if isinstance(display, JsonLines):
        display.planned(planned)
    else:
        write_table(_HEADER, [_row(worker) for worker in planned.workers], cut=planned.cut)
        if planned.error is None:
            click.echo(clean(_summary(planned, petition.images)))
    if planned.error is None:
        display.ended(Ending(outcome="done"), EXIT_OK)
        return EXIT_OK
    ending = Ending(outcome="refused", error=planned.error)
    display.ended(ending, status_of(ending))
    return status_of(ending)


def _row(worker: wire.PlannedWorker) -> tuple[str, ...]:
    guess = "" if worker.known else "~"
    return (
        worker.worker,
        str(worker.images),
        guess + short_time(worker.image_s) if worker.image_s else "-",
        guess + short_time(worker.load_s) if worker.load_s else "-",
        ", ".join(worker.lacks) or "-",
        worker.reason or "-",
    )


def _summary(planned: wire.Planned, images: int) -> str:
    """The last line: "4 pictures in about 12 s, 3 pictures ahead: why"."""
    time = f"in about {short_time(planned.eta_s)}" if planned.eta_s else "in a time not known yet"
    ahead = f", {planned.ahead} pictures ahead" if planned.ahead else ""
    why = f": {planned.reason}" if planned.reason else ""
    return f"{images} picture{'' if images == 1 else 's'} {time}{ahead}{why}"
