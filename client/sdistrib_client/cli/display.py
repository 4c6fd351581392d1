"""What a person sees of a petition: plain lines on standard error."""

import sys
from pathlib import Path
from typing import Protocol, TextIO

import click

from sdistrib.errors import SdistribError
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib_client.cli.report import clean, explain, explain_error
from sdistrib_client.effects import Ending
from sdistrib_client.pictures import Picture, Preview

#: Input files of fewer bytes are sent before anybody could read of it.
_SENDING_BYTES_MIN = 2_000_000
#: Of a petition with hundreds of failed pictures, this many are told in full.
_FAILURES_SHOWN = 4


class Display(Protocol):
    """Where the events of one petition are shown."""

    def submitted(self, petition_id: str, petition: Petition) -> None:
        """It is on its way."""

    def sending(self, sent_bytes: int, total_bytes: int) -> None:
        """So much of its input files is with the manager."""

    def accepted(self, accepted: wire.Accepted) -> None:
        """The manager keeps it."""

    def progress(self, progress: wire.Progress) -> None:
        """It went on."""

    def preview(self, preview: Preview, path: Path) -> None:
        """A preview was written."""

    def picture(self, picture: Picture, path: Path | None) -> None:
        """A picture was written; a path of None is standard output."""

    def notice(self, text: str) -> None:
        """Something is to be known about the connection."""

    def ended(self, ending: Ending, status: int) -> None:
        """It is over."""

    def failed(self, error: SdistribError, status: int) -> None:
        """It ended on this side: it was never sent, or a picture could not be written."""

    def close(self) -> None:
        """Nothing more is shown."""


class Lines:
    """One line for each change: for log files, pipes and small terminals."""

    def __init__(self, *, verbose: bool, color: bool, stream: TextIO | None = None) -> None:
        self.verbose = verbose
        self._color = color
        self._stream = stream or sys.stderr
        self._last = ""
        self._previewed = False
        #: Tenths of the input files that were told to be sent.
        self._tenth = -1

    def submitted(self, petition_id: str, petition: Petition) -> None:
        """Say which petition it is, with -v."""
        if self.verbose:
            self.line(f"petition {petition_id}: {petition.images} pictures from {petition.seed}")

    def sending(self, sent_bytes: int, total_bytes: int) -> None:
        """Say how much is sent, now and then; what is sent at once needs no words."""
        if total_bytes < _SENDING_BYTES_MIN:
            return
        tenth = sent_bytes * 10 // total_bytes
        if tenth != self._tenth:
            self._tenth = tenth
            self._change(sent(sent_bytes, total_bytes))

    def accepted(self, accepted: wire.Accepted) -> None:
        """Say where in the queue it stands; with -v, that it is kept under its id."""
        if self.verbose:
            self.line(f"petition {accepted.id} is accepted")
        if accepted.state == "queued":
            self._change(waiting(accepted.ahead, accepted.reason))

    def progress(self, progress: wire.Progress) -> None:
        """Say what changed."""
        self._change(describe(progress))

    def preview(self, preview: Preview, path: Path) -> None:
        """Say where it is when the first one comes: it is to be looked at meanwhile."""
        if not self._previewed:
            self._previewed = True
            self.line(f"previews -> {path}")

    def picture(self, picture: Picture, path: Path | None) -> None:
        """Say which file it is, and how to draw it again."""
        where = "standard output" if path is None else path
        self.line(f"picture {picture.index}: seed {picture.seed} -> {where}", "green")
        if self.verbose:
            load_s, draw_s, encode_s = picture.timings
            self.line(
                f"  {picture.width}x{picture.height} on {picture.worker} ({picture.fingerprint}):"
                f" load {load_s:.2f} s, draw {draw_s:.2f} s, encode {encode_s:.2f} s"
            )
        for note in picture.notes:
            self.line(f"  note: {note}", "yellow")

    def notice(self, text: str) -> None:
        """Say it."""
        self.line(text, "yellow")

    def ended(self, ending: Ending, status: int) -> None:
        """Say what went wrong; a petition that is done has said all in its pictures."""
        if ending.outcome == "unreachable":
            self._error([ending.reason])
        elif ending.outcome == "unfinished":
            self.line(ending.reason, "yellow")
        elif ending.failures:
            for failure in ending.failures[:_FAILURES_SHOWN]:
                lines = list(explain(failure.error, verbose=self.verbose))
                self._error([f"picture {failure.index}: {lines[0]}", *lines[1:]])
            rest = len(ending.failures) - _FAILURES_SHOWN
            if rest > 0:
                self._error([f"{rest} more pictures failed"])
        elif ending.error is not None:
            self._error(list(explain(ending.error, verbose=self.verbose)))

    def failed(self, error: SdistribError, status: int) -> None:
        """Say what went wrong."""
        self._error(explain_error(error, verbose=self.verbose))

    def close(self) -> None:
        """Nothing is open."""

    def line(self, text: str, color: str | None = None) -> None:
        """Write one line."""
        styled = click.style(clean(text), fg=color) if self._color and color else clean(text)
        click.echo(styled, file=self._stream, color=self._color)

    def _error(self, lines: list[str]) -> None:
        self.line(f"error: {lines[0]}", "red")
        for text in lines[1:]:
            self.line(text)

    def _change(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self.line(text)


class Quiet(Lines):
    """Only pictures and errors."""

    def sending(self, sent_bytes: int, total_bytes: int) -> None:
        """Not shown."""

    def accepted(self, accepted: wire.Accepted) -> None:
        """Not shown."""

    def progress(self, progress: wire.Progress) -> None:
        """Not shown."""

    def preview(self, preview: Preview, path: Path) -> None:
        """Not shown."""


def sent(sent_bytes: int, total_bytes: int) -> str:
    """How much of the input files is sent."""
    return f"sending {sent_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB"


def waiting(ahead: int, reason: str) -> str:
    """Where a petition stands that nobody works on."""
    place = f", {ahead} pictures ahead" if ahead else ""
    return f"queued{place}{f': {reason}' if reason else ''}"


def describe(progress: wire.Progress) -> str:
    """A petition's progress on one line."""
    if progress.state == "queued" and not progress.done:
        return waiting(progress.ahead, progress.reason)
    words = [f"{progress.done}/{progress.images} done"]
    words += [f"picture {at.index} on {at.worker}: {doing(at)}" for at in progress.running]
    if progress.reason:
        words.append(progress.reason)
    if progress.eta_s >= 1:
        words.append(f"about {duration(progress.eta_s)} left")
    return "; ".join(words)


def doing(at: wire.ImageProgress) -> str:
    """What one picture's worker does now."""
    if not at.steps:
        return at.phase
    return f"{at.phase} {at.step}/{at.steps}{rate(at.step_s)}"


def rate(step_s: float) -> str:
    """Speed as sd-cli shows it: steps per second, or seconds per step when that is above one."""
    if not step_s:
        return ""
    return f" {step_s:.2f} s/it" if step_s > 1 else f" {1 / step_s:.2f} it/s"


def short_time(seconds: float) -> str:
    """As `duration`, with tenths below ten seconds."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes, else hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
