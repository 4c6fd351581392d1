"""When an engine that draws nothing gives its device memory back. Pure.

The child is replaced by a fresh one: that frees all it held, whatever the library leaks.
"""

import math

from sdistrib_worker.making import Making
from sdistrib_worker.session import Turn


class Rest:
    """Unloads everything on a client's wish, and after some time without work.

    Args:
        turn: the time.
        making: whose engine it is.
        unload_after_s: seconds without work after which all is unloaded; 0 is never.
    """

    def __init__(self, turn: Turn, making: Making, unload_after_s: float) -> None:
        self._turn = turn
        self._making = making
        self._after_s = unload_after_s or math.inf
        self._wished = False
        #: Since when a loaded context has had no work; None while it has, or none is loaded.
        self._since: float | None = None

    def wish(self) -> str:
        """A client wants everything unloaded; gives what comes of it."""
        drawing = self._making.drawing
        if drawing.call is None and not drawing.loaded:
            return "nothing: no model was loaded"
        self._wished = True
        models = drawing.loaded.models or "its model"
        return f"unloads {models}" + ("" if self._is_idle() else " when it has nothing to draw")

    def tick(self) -> None:
        """Unload if that is due."""
        drawing = self._making.drawing
        if drawing.call is None and not drawing.loaded:
            self._wished = False
        if not self._is_idle():
            self._since = None
            return
        if self._since is None:
            self._since = self._turn.now
        if self._wished or self._turn.now >= self._since + self._after_s:
            why = "as was wished" if self._wished else f"unused for {self._after_s / 60:g} min"
            self._turn.log("info", f"Unloading {drawing.loaded.models}, {why}.")
            drawing.kill("What it has loaded is unloaded.", "cancelled")
            self._since = None

    def deadlines(self) -> list[float]:
        """When `tick` has something to do."""
        return [] if self._since is None else [self._since + self._after_s]

    def _is_idle(self) -> bool:
        drawing = self._making.drawing
        return drawing.is_idle and bool(drawing.loaded)
