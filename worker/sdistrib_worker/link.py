"""Between the loop and the engine: one child after another, its words as the machine's events."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sdistrib.errors import EngineError
from sdistrib.protocol.engine import Draw, Interrupt, LogLine, PreviewWanted
from sdistrib.transport import Watch
from sdistrib_worker import events
from sdistrib_worker.effects import (
    AskEngine,
    CancelDrawing,
    DropPicture,
    KillEngine,
    StartEngine,
    WantPreview,
)
from sdistrib_worker.supervisor import Died, EngineChild, Event, Glimpse, Picture

_LOG = logging.getLogger("sdistrib.worker")


class EngineLink:
    """The engine child of this worker.

    Args:
        command: of the child, see `supervisor.EngineChild`.
        environment: variables for it.
        watch: where its descriptors are polled.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], watch: Watch
    ) -> None:
        self._command = command
        self._environment = environment
        self._watch = watch
        self._watched: set[int] = set()
        self._child = EngineChild(command, environment)

    @property
    def wants_write(self) -> bool:
        """A request is not wholly sent: call `receive` again soon."""
        return self._child.wants_write

    def receive(self) -> Iterator[events.Event]:
        """Everything the child has said since the last call."""
        for said in self._child.receive():
            yield from self._translate(said)

    def carry_out(
        self,
        effect: StartEngine | AskEngine | CancelDrawing | KillEngine | DropPicture | WantPreview,
    ) -> events.FileVanished | None:
        """Do what the machine wants of the child.

        Raises:
            ConfigError: its program cannot be started at all.
        """
        match effect:
            case StartEngine():
                self._child = EngineChild(self._command, self._environment)
                self._child.start()
            case AskEngine(draw):
                return self._ask(draw)
            case CancelDrawing(ticket):
                self._child.send(Interrupt(ticket=ticket))
            case KillEngine(reason, code):
                self._child.kill(reason, code)
            case WantPreview():
                self._child.send(PreviewWanted())
            case DropPicture(picture):
                picture.close()
        return None

    def poll_what_is_open(self) -> None:
        """Keep the watch in step: the child's log pipe may close before its socket."""
        now = set(self._child.filenos())
        for gone in self._watched - now:
            self._watch.remove(gone)
        for new in now - self._watched:
            self._watch.add(new)
        self._watched = now

    def stop(self) -> None:
        """End the child, whatever it is at."""
        self._child.stop(grace_s=0.5)

    def _translate(self, said: Event) -> Iterator[events.Event]:
        match said:
            case Picture():
                yield events.PictureDrawn(said.drawn, said)
            case Glimpse():
                yield events.PreviewDrawn(said.previewed, said)
            case Died(info=info):
                yield events.EngineDied(info, said.ours, said.was_ready, said.refused)
            case LogLine(level=level, text=text):
                # The engine is talkative while drawing, and its lines may hold prompts.
                warns = level >= 2 and self._child.ready is None
                _LOG.log(logging.WARNING if warns else logging.DEBUG, "engine: %s", text)
            case frame:
                yield events.EngineSpoke(frame)

    def _ask(self, draw: Draw) -> events.FileVanished | None:
        loras = (lora.path for lora in draw.loras)
        embeddings = (embedding.path for embedding in draw.embeddings)
        for path in (*draw.files.values(), *loras, *embeddings, *draw.inputs.values()):
            if not Path(path).is_file():
                return events.FileVanished(draw.ticket, path)
        try:
            self._child.send(draw)
        except EngineError as error:
            self._child.kill(error.info.message)
        return None
