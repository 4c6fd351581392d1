"""Looking at a picture while it is being drawn, by the engine's own preview.

Theory of operation. The callback is registered for good; what changes per request is its mode. The
engine takes an interval and never looks at it (0.4.7: nothing calls `sd_get_preview_interval`), but
in each step it does look, late, at whether a preview is wanted. So the switch is set here: on when
the step under way fits the interval and the supervisor has taken the preview before, from whichever
thread learns the later of the two. A preview that nobody could take is not decoded at all, so that
a slow client costs the engine nothing. A sampler that looks at the model twice in a step gives one
preview of it all the same.

Frames are the engine's own memory and are copied before the callback returns.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from sdistrib.protocol.engine import PreviewWish
from sdistrib_worker.engine.base import Reporter
from sdistrib_worker.engine.capi import api

_MODES = {
    "proj": int(api.Preview.PREVIEW_PROJ),
    "tae": int(api.Preview.PREVIEW_TAE),
    "vae": int(api.Preview.PREVIEW_VAE),
}
_OFF = int(api.Preview.PREVIEW_NONE)


class Previewing:
    """The previews of one request after another. One object per process, as the engine itself."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._wish: PreviewWish | None = None
        self._on_shown: Callable[[], None] = _nothing
        #: The step under way is to be shown, and has not been.
        self._due = False
        #: The step that was shown last.
        self._last = 0
        self._armed = False
        #: Two threads set the switch.
        self._lock = threading.Lock()
        _eyes.previewing = self
        self.begin(None)
        reporter.when_room(self._decide)

    def begin(self, wish: PreviewWish | None, on_shown: Callable[[], None] | None = None) -> None:
        """A request begins; None wants no previews, and the engine then knows of no callback.

        `on_shown` is called whenever the engine has shown one, in its own thread.
        """
        with self._lock:
            self._wish, self._on_shown = wish, on_shown or _nothing
            self._due, self._last = False, 0
            self._switch(on=False)

    def stepped(self, step: int) -> None:
        """Step `step` of the sampling is done; 0 says that the first one begins."""
        if self._wish is not None:
            self._due = (step + 1) % self._wish.interval == 0 and step + 1 != self._last
            self._decide()

    def shown(self, step: int, frame: Any, noisy: bool) -> None:
        """The engine shows what it has, an `sd_image_t`."""
        self._on_shown()
        with self._lock:
            if not self._armed or not frame.data:
                return
            self._due, self._last = False, abs(step)
            self._switch(on=False)
        pixels = ctypes.string_at(frame.data, frame.width * frame.height * frame.channel)
        # The first of a step's two looks at the model has a negative number.
        self._reporter.preview(
            abs(step), frame.width, frame.height, frame.channel, pixels, noisy=noisy
        )

    def _decide(self) -> None:
        with self._lock:
            wanted = self._due and self._reporter.takes_preview
            if wanted != self._armed:
                self._switch(on=wanted)

    def _switch(self, *, on: bool) -> None:
        self._armed = on
        wish = self._wish
        if wish is None:
            api.sd_set_preview_callback(None, _OFF, 1, False, False, None)
            return
        denoised, noisy = on and not wish.noisy, on and wish.noisy
        mode = _MODES[wish.mode]
        api.sd_set_preview_callback(_on_preview, mode, wish.interval, denoised, noisy, None)


def _nothing() -> None:
    pass


class _Eyes:
    """Where the permanent callback finds who looks."""

    previewing: Previewing | None = None


_eyes = _Eyes()


# It lives as long as the process: the engine calls it whenever it likes.
@api.sd_preview_callback  # type: ignore[untyped-decorator]
def _on_preview(step: int, count: int, frames: Any, noisy: bool, _: object) -> None:
    if _eyes.previewing is not None and count:
        _eyes.previewing.shown(step, frames[0], noisy)
