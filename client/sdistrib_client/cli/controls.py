"""`sdistrib-client HOST pause | resume | drain | unload WORKER… | --all`; gives the exit status."""

import json
from collections.abc import Mapping
from typing import Any

import click

from sdistrib.errors import EXIT_FAILED, EXIT_OK
from sdistrib.protocol.messages import WorkerWish
from sdistrib_client.cli.lists import dial
from sdistrib_client.cli.report import clean


def control(host: str, wish: WorkerWish, values: Mapping[str, Any]) -> int:
    """Do it, and say what each worker did; JSON rows are {worker, did, obeyed}.

    Raises:
        click.UsageError: neither names nor --all, or both.
        SdistribError: the manager cannot be reached, or knows no such worker.
    """
    names: tuple[str, ...] = values["workers"]
    if bool(names) is values["every"]:
        raise click.UsageError("Give the names of workers, or --all.")
    timeout_s, insecure = values["connect_timeout"], values["insecure_lan"]
    with dial(host, connect_timeout_s=timeout_s, insecure_lan=insecure) as client:
        answers = client.control(wish, *names)
    for answer in answers:
        if values["as_json"]:
            row = {"worker": answer.worker, "did": answer.did, "obeyed": answer.obeyed}
            click.echo(json.dumps(row))
        else:
            click.echo(clean(f"{answer.worker}: {answer.did}"), err=not answer.obeyed)
    return EXIT_OK if all(answer.obeyed for answer in answers) else EXIT_FAILED
