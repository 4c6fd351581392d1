"""What a person at a terminal sees: bars that move. Imported only there: rich is slow to load."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib_client.cli.display import Lines, doing, duration, sent, waiting
from sdistrib_client.cli.report import clean


class Bar(Lines):
    """One bar for the petition, one for each picture that is being drawn."""

    def __init__(self, *, verbose: bool, console: Console | None = None) -> None:
        super().__init__(verbose=verbose, color=True)
        self._console = console or Console(stderr=True)
        # Without markup: a worker's name may hold brackets.
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
            auto_refresh=False,
        )
        self._whole: TaskID | None = None
        self._parts: dict[int, TaskID] = {}

    def submitted(self, petition_id: str, petition: Petition) -> None:
        """Show an empty bar."""
        super().submitted(petition_id, petition)
        self._bars.start()
        self._whole = self._bars.add_task("connecting", total=petition.images, note="")
        self._bars.refresh()

    def sending(self, sent_bytes: int, total_bytes: int) -> None:
        """Show how much is sent."""
        self._show(0, sent(sent_bytes, total_bytes), "")

    def accepted(self, accepted: wire.Accepted) -> None:
        """Show the place in the queue."""
        queued = accepted.state == "queued"
        self._show(0, waiting(accepted.ahead, accepted.reason) if queued else accepted.state, "")

    def progress(self, progress: wire.Progress) -> None:
        """Move the bars."""
        here = {at.index: at for at in progress.running}
        for index in set(self._parts) - set(here):
            self._bars.remove_task(self._parts.pop(index))
        for index, at in here.items():
            if index not in self._parts:
                self._parts[index] = self._bars.add_task("", total=None, note="")
            self._bars.update(
                self._parts[index],
                description=clean(f"picture {index} on {at.worker}"),
                total=at.steps or None,
                completed=at.step,
                note=doing(at),
            )
        idle = not here and not progress.done
        text = waiting(progress.ahead, progress.reason) if idle else "pictures"
        left = f", about {duration(progress.eta_s)} left" if progress.eta_s >= 1 else ""
        self._show(progress.done, text, f"{progress.done}/{progress.images}{left}")

    def line(self, text: str, color: str | None = None) -> None:
        """Write one line above the bars."""
        self._console.print(Text(clean(text), style=color or ""), soft_wrap=True)

    def close(self) -> None:
        """Take the bars away."""
        self._bars.stop()

    def _show(self, done: int, text: str, note: str) -> None:
        if self._whole is not None:
            self._bars.update(self._whole, completed=done, description=clean(text), note=note)
            self._bars.refresh()
