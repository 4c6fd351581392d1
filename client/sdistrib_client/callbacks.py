"""Whom to tell what comes for a petition beside its pictures."""

from collections.abc import Callable
from typing import NamedTuple

from sdistrib.protocol import messages as wire
from sdistrib_client.pictures import Preview
from sdistrib_client.session import Inbox

OnProgress = Callable[[wire.Progress], None]
OnPreview = Callable[[Preview], None]
OnAccepted = Callable[[wire.Accepted], None]
#: Bytes of input files that are sent, and of all that are to be sent.
OnSending = Callable[[int, int], None]


class Callbacks(NamedTuple):
    """Those that a caller has given."""

    on_accepted: OnAccepted | None = None
    on_progress: OnProgress | None = None
    on_sending: OnSending | None = None
    #: Called by the session, which tells the manager that another may come.
    on_preview: OnPreview | None = None

    def tell(self, box: Inbox) -> None:
        """Tell the newest of each kind, once, in the order in which they come."""
        sending, box.sending = box.sending, None
        if sending is not None and self.on_sending is not None:
            self.on_sending(*sending)
        accepted, box.accepted = box.accepted, None
        if accepted is not None and self.on_accepted is not None:
            self.on_accepted(accepted)
        progress, box.progress = box.progress, None
        if progress is not None and self.on_progress is not None:
            self.on_progress(progress)
