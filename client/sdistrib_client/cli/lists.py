"""`sdistrib-client HOST models | workers | queue | status`: tables, or one JSON object per row."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from sdistrib.protocol import messages as wire
from sdistrib_client.cli.display import duration, short_time
from sdistrib_client.cli.report import clean
from sdistrib_client.events import Question
from sdistrib_client.finding import fitting
from sdistrib_client.sync import Client

Row = Sequence[str]


def dial(host: str, *, connect_timeout_s: float, insecure_lan: bool) -> Client:
    """A connection whose notices go to standard error.

    Raises:
        SdistribError: the host is no address, or another machine without --insecure-lan.
    """
    return Client(
        host,
        connect_timeout_s=connect_timeout_s,
        insecure_lan=insecure_lan,
        on_notice=lambda text: click.echo(clean(text), err=True),
    )


def ask(
    host: str,
    what: Question,
    *,
    connect_timeout_s: float,
    insecure_lan: bool,
    every: bool = False,
    kind: str = "",
    name: str = "",
) -> wire.Answer:
    """The manager's answer to one question.

    Raises:
        SdistribError: it cannot be reached, or refuses.
    """
    with dial(host, connect_timeout_s=connect_timeout_s, insecure_lan=insecure_lan) as client:
        return client.ask(what, every=every, kind=kind, name=name)


def show_models(
    answer: wire.Answer, kind: str | None, name: str | None, *, where: bool, as_json: bool
) -> None:
    """The model files, a row for each content; with `where`, who has it.

    JSON rows are {kind, name, size_bytes, digest, workers, conflict}.
    """
    found = fitting(answer.models, kind, name or "")
    if as_json:
        _write_json({**_plain(m.file), "workers": m.workers, "conflict": m.conflict} for m in found)
        return
    rows = [
        (
            model.file.kind,
            model.file.name,
            _size(model.file.size_bytes),
            model.file.digest[:10] or "not known yet",
            (", ".join(model.workers) if where else str(len(model.workers)))
            + (" (contents differ!)" if model.conflict else ""),
        )
        for model in found
    ]
    write_table(("KIND", "NAME", "SIZE", "HASH", "WORKERS"), rows, cut=answer.cut)


def show_workers(answer: wire.Answer, *, as_json: bool) -> None:
    """The workers; JSON rows have the fields of `WorkerFacts`."""
    if as_json:
        _write_json(_plain(worker) for worker in answer.workers)
        return
    header = ("NAME", "STATE", "BACKEND", "DEVICE", "ENGINE", "FILES", "DONE", "FAILED", "LOADED",
              "SPEED", "UP TO", "WHY NO GRANTS")  # fmt: skip
    rows = [
        (
            worker.name,
            worker.state + (f" {duration(worker.last_seen_s)}" if worker.state == "away" else ""),
            worker.engine.backend,
            worker.engine.device,
            worker.engine.version,
            str(worker.files),
            str(worker.done),
            str(worker.failed),
            ", ".join(_loaded(worker)) or "-",
            _speed(worker),
            _most(worker),
            worker.reason or "-",
        )
        for worker in answer.workers
    ]
    write_table(header, rows, cut=answer.cut)


def _loaded(worker: wire.WorkerFacts) -> list[str]:
    """Models that are loaded there, the last used first; of a worker that is away nobody knows."""
    if worker.state == "away":
        return []
    return [model for model in (worker.loaded, *worker.kept) if model]


def _speed(worker: wire.WorkerFacts) -> str:
    """Seconds per image of what is loaded, else of the first of all: "4.2 s at 0.26 MP, m"."""
    speeds = [speed for speed in worker.speeds if speed.image_s]
    if not speeds:
        return "-"
    shown = next((speed for speed in speeds if speed.model == worker.loaded), speeds[0])
    model = "" if shown.model == worker.loaded else f", {shown.model}"
    more = f" (+{len(speeds) - 1})" if len(speeds) > 1 else ""
    return f"{short_time(shown.image_s)} at {_megapixels(shown.pixels)}{model}{more}"


def _most(worker: wire.WorkerFacts) -> str:
    """The largest picture that it may draw, and what says so where it was not its owner."""
    declared, learned = worker.declared.max_pixels, worker.max_pixels_learned
    if learned and not 0 < declared <= learned:
        return f"{_megapixels(learned)} (memory)"
    return _megapixels(declared) if declared else "-"


def _megapixels(pixels: int) -> str:
    millions = pixels / 1e6
    return f"{millions:.2f} MP" if millions >= 0.01 else f"{millions:.1g} MP"


def show_queue(answer: wire.Answer, *, as_json: bool) -> None:
    """The petitions asked for; JSON rows have the fields of `QueuedPetition`."""
    if as_json:
        _write_json(_plain(petition) for petition in answer.queue)
        return
    header = (
        "PETITION",
        "STATE",
        "MODEL",
        "DONE",
        "RUNNING",
        "FAILED",
        "AGE",
        "ETA",
        "WHY IT WAITS",
    )
    rows = [
        (
            petition.id[:8],
            petition.state + _urgency(petition),
            petition.model,
            f"{petition.done}/{petition.images}",
            str(petition.running),
            str(petition.failed),
            duration(petition.age_s),
            duration(petition.eta_s) if petition.eta_s else "-",
            petition.reason or "-",
        )
        for petition in answer.queue
    ]
    write_table(header, rows, cut=answer.cut)


def _urgency(petition: wire.QueuedPetition) -> str:
    return f" ({petition.priority})" if petition.priority != "normal" else ""


def show_petition(row: wire.QueuedPetition, *, as_json: bool) -> None:
    """One petition on one line: how far it is, and why it waits."""
    if as_json:
        _write_json([_plain(row)])
        return
    words = [row.state + _urgency(row), f"{row.done}/{row.images} done"]
    words += [f"{row.running} running"] if row.running else []
    words += [f"{row.failed} failed"] if row.failed else []
    words += [f"{row.ahead} pictures ahead"] if row.ahead else []
    words += [f"about {duration(row.eta_s)} left"] if row.eta_s else []
    why = f": {row.reason}" if row.reason else ""
    click.echo(clean(f"{row.id[:8]}: {', '.join(words)}{why}"))


def show_status(answer: wire.Answer, *, as_json: bool) -> None:
    """The farm in numbers; the JSON object has software, uptime_s, workers, loaded (models by
    worker), image counts and eta_error."""
    states = [worker.state for worker in answer.workers]
    if as_json:
        counts = {f"{part}_images": getattr(answer, f"{part}_images") for part in _PARTS}
        workers = {state: states.count(state) for state in sorted(set(states))}
        _write_json(
            [
                {
                    "software": answer.software,
                    "uptime_s": answer.uptime_s,
                    "workers": workers,
                    "loaded": {w.name: models for w in answer.workers if (models := _loaded(w))},
                    **counts,
                    "eta_error": answer.eta_error,
                }
            ]
        )
        return
    workers_text = ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states))) or "none"
    rows = [
        ("manager", f"{answer.software}, up {duration(answer.uptime_s)}"),
        ("workers", workers_text),
        *_loaded_rows(answer.workers),
        ("images", ", ".join(f"{getattr(answer, f'{p}_images')} {p}" for p in _PARTS)),
    ]
    if answer.eta_error:
        rows.append(("times", f"the first estimates were off by {answer.eta_error:.0%} (median)"))
    write_table((), rows, cut=answer.cut)


def _loaded_rows(workers: Iterable[wire.WorkerFacts]) -> list[Row]:
    """On which workers each model is loaded; no row where none is."""
    where: dict[str, list[str]] = {}
    for worker in workers:
        for model in dict.fromkeys(_loaded(worker)):
            where.setdefault(model, []).append(worker.name)
    texts = [f"{model} ({', '.join(names)})" for model, names in sorted(where.items())]
    return [("loaded", "; ".join(texts))] if texts else []


_PARTS = ("waiting", "running", "done")


def write_table(header: Row, rows: Sequence[Row], *, cut: bool) -> None:
    """Columns as wide as they must be; `cut` says that the manager knows more rows."""
    cleaned = [tuple(clean(cell) for cell in row) for row in ([header] if header else []) + [*rows]]
    widths = [max(map(len, column)) for column in zip(*cleaned, strict=True)]
    for row in cleaned:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())
    if not rows:
        click.echo("(none)")
    if cut:
        click.echo("There are more; the manager sends no more rows in one answer.", err=True)


def _write_json(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(json.dumps(row))


def _plain(struct: msgspec.Struct) -> dict[str, Any]:
    """All fields of a message, nested ones too, those at their defaults as well."""
    return {name: _value(getattr(struct, name)) for name in struct.__struct_fields__}


def _value(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _plain(value)
    return [_value(part) for part in value] if isinstance(value, tuple) else value


def _size(size_bytes: int) -> str:
    amount = float(size_bytes)
    for unit in ("B", "KB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"
