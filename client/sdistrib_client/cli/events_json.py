"""What a script sees of a petition: one JSON object per line on standard output.

Every object has `event`, and `id` (the petition's) once there is one. The keys are stable:

    sending    sent_bytes, total_bytes (of the input files that the manager asked for)
    accepted   state, seed, images, ahead, reason
    progress   state, done, images, ahead, reason, eta_s,
               running: [{index, worker, phase, step, steps, step_s}]
    preview    index, step, steps, path, width, height, worker, noisy
    image      index, seed, path (null is none), sha256, size_bytes, width, height, format, worker,
               fingerprint, load_s, draw_s, encode_s, notes
    planned    eta_s, ahead, reason, cut,
               workers: [{worker, images, image_s, load_s, known, lacks, reason}]
    notice     text
    error      code (of the error table, or "unreachable", or "output_error"), message, next_step,
               index (of the picture, or null), field, worker, attempt, signal, log_tail, closest,
               retry_after_s
    finished   outcome (done, failed, cancelled, expired, refused, unreachable, detached: it goes on
               without us, unfinished: more will come), done: [index], confirmed (false: only this
               side says so), exit_status

`finished` is always the last line, unless the command line itself was wrong (exit 2, one line on
standard error).
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from sdistrib.errors import ERROR_TABLE, ErrorInfo, PetitionError, SdistribError
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib_client.effects import Ending
from sdistrib_client.pictures import Picture, Preview


class JsonLines:
    """Writes each event as one JSON object; implements `display.Display`."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._seed = 0
        self._images = 0

    def submitted(self, petition_id: str, petition: Petition) -> None:
        """Remember what the later events carry."""
        self._id, self._seed, self._images = petition_id, petition.seed, petition.images

    def sending(self, sent_bytes: int, total_bytes: int) -> None:
        """`sending`."""
        self._write("sending", sent_bytes=sent_bytes, total_bytes=total_bytes)

    def accepted(self, accepted: wire.Accepted) -> None:
        """`accepted`."""
        self._write(
            "accepted",
            state=accepted.state,
            seed=self._seed,
            images=self._images,
            ahead=accepted.ahead,
            reason=accepted.reason,
        )

    def progress(self, progress: wire.Progress) -> None:
        """`progress`."""
        self._write(
            "progress",
            state=progress.state,
            done=progress.done,
            images=progress.images,
            ahead=progress.ahead,
            reason=progress.reason,
            eta_s=progress.eta_s,
            running=[_whole(at) for at in progress.running],
        )

    def preview(self, preview: Preview, path: Path) -> None:
        """`preview`."""
        self._write(
            "preview",
            index=preview.index,
            step=preview.step,
            steps=preview.steps,
            path=str(path),
            width=preview.width,
            height=preview.height,
            worker=preview.worker,
            noisy=preview.noisy,
        )

    def picture(self, picture: Picture, path: Path | None) -> None:
        """`image`."""
        self._write(
            "image",
            index=picture.index,
            seed=picture.seed,
            path=None if path is None else str(path),
            sha256=picture.sha256,
            size_bytes=len(picture.data),
            width=picture.width,
            height=picture.height,
            format=picture.format,
            worker=picture.worker,
            fingerprint=picture.fingerprint,
            **picture.timings._asdict(),
            notes=picture.notes,
        )

    def planned(self, planned: wire.Planned) -> None:
        """`planned`; why it would be refused is an `error` of its own."""
        self._write(
            "planned",
            eta_s=planned.eta_s,
            ahead=planned.ahead,
            reason=planned.reason,
            cut=planned.cut,
            workers=[_whole(worker) for worker in planned.workers],
        )

    def notice(self, text: str) -> None:
        """`notice`."""
        self._write("notice", text=text)

    def ended(self, ending: Ending, status: int) -> None:
        """An `error` for each thing that went wrong, then `finished`."""
        if ending.outcome == "unreachable":
            self._error("unreachable", ending.reason)
        for failure in ending.failures:
            self._info(failure.error, failure.index)
        if ending.error is not None and not ending.failures:
            self._info(ending.error, None)
        self._finished(ending.outcome, ending.done, status, confirmed=ending.confirmed)

    def failed(self, error: SdistribError, status: int) -> None:
        """`error`, then `finished`."""
        if isinstance(error, PetitionError):
            self._info(error.info, None)
        else:
            self._error("output_error", str(error))
        self._finished("failed", (), status, confirmed=False)

    def close(self) -> None:
        """Nothing is open."""

    def _finished(
        self, outcome: str, done: tuple[int, ...], status: int, *, confirmed: bool
    ) -> None:
        self._write("finished", outcome=outcome, done=done, confirmed=confirmed, exit_status=status)

    def _info(self, info: ErrorInfo, index: int | None) -> None:
        fields = _whole(info)
        next_step = ERROR_TABLE[info.code].next_step
        self._write("error", index=index, next_step=next_step, **fields)

    def _error(self, code: str, message: str) -> None:
        known = _whole(ErrorInfo(code="internal", message=message))
        self._write("error", index=None, next_step="", **{**known, "code": code})

    def _write(self, event: str, **fields: Any) -> None:
        record = {"event": event, **({"id": self._id} if self._id else {}), **fields}
        # Only ASCII leaves, so that no name can steer a terminal.
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


def _whole(struct: msgspec.Struct) -> dict[str, Any]:
    """All fields, those at their defaults too: keys that come and go are no contract."""
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
