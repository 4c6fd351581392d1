"""Previews on their way from the engine to the manager. Pure.

One at a time is between the engine child and the manager's `PreviewSeen`; until then the child is
not asked for another, and makes none. So the newest is what is sent next, nothing piles up here,
and a manager that is slow, away, or does not know previews costs the engine nothing.
"""

from typing import Literal

from sdistrib.protocol.messages import Attempt, Preview
from sdistrib_worker import events
from sdistrib_worker.drawing import Drawing
from sdistrib_worker.effects import DropPicture, EncodePreview, WantPreview
from sdistrib_worker.session import Session, Turn


class Previewing:
    """The one preview that may be under way."""

    def __init__(self, worker: str, turn: Turn, session: Session, drawing: Drawing) -> None:
        self._worker = worker
        self._turn = turn
        self._session = session
        self._drawing = drawing
        self._stage: Literal["none", "encoding", "sent"] = "none"
        self._drawn: events.PreviewDrawn | None = None
        self._attempt: Attempt | None = None
        #: The child has shown one, and makes no other before it is asked to.
        self._child_waits = False

    def handle(self, event: events.PreviewEvent) -> None:
        """The child showed something, or it is a file now."""
        if isinstance(event, events.PreviewDrawn):
            self._on_drawn(event)
        else:
            self._on_encoded(event)
        self._ask_if_free()

    def seen(self, attempt: Attempt) -> None:
        """The manager is done with the last one."""
        if self._stage == "sent" and attempt == self._attempt:
            self._stage = "none"
        self._ask_if_free()

    def session_began(self) -> None:
        """What was sent in an older session gets no answer."""
        if self._stage == "sent":
            self._stage = "none"
        self._ask_if_free()

    def engine_ended(self) -> None:
        """The child is gone; the next one may show something unasked."""
        self._child_waits = False

    def _on_drawn(self, event: events.PreviewDrawn) -> None:
        self._child_waits = True
        self._drawing.about(event.previewed.ticket)
        attempt = self._wanted(event.previewed.ticket)
        if attempt is None or self._stage != "none" or not self._session.is_open:
            self._turn.effects.append(DropPicture(event.pixels))
            return
        self._stage, self._attempt, self._drawn = "encoding", attempt, event
        self._turn.effects.append(EncodePreview(attempt, event.pixels))

    def _on_encoded(self, event: events.PreviewEncoded) -> None:
        drawn, self._drawn = self._drawn, None
        self._stage = "none"
        if drawn is None or not event.data or not self._session.is_open:
            return
        shown, call = drawn.previewed, self._drawing.call
        if call is None or self._wanted(shown.ticket) is None:
            return  # the picture itself is here, or nobody wants it any more
        preview = Preview(
            attempt=event.attempt,
            step=max(0, shown.step),
            steps=call.steps or call.params.steps,
            width=event.width,
            height=event.height,
            format=event.format,
            worker=self._worker,
            noisy=shown.noisy,
        )
        self._stage = "sent"
        self._session.say(preview, event.data)

    def _wanted(self, ticket: int) -> Attempt | None:
        """The attempt that the engine draws under this ticket, if somebody wants it."""
        call = self._drawing.call
        part = call.parts.get(ticket) if call is not None else None
        return part.job.attempt if part is not None and not part.abandoned else None

    def _ask_if_free(self) -> None:
        if self._child_waits and self._stage == "none" and self._session.is_open:
            self._child_waits = False
            self._turn.effects.append(WantPreview())
