"""The client for ordinary code.

    with Client("gpu-manager") as client:
        for picture in client.txt2img("a house on the beach", model="v2", images=4):
            picture.save(f"house_{picture.index}.png")

One `Client` belongs to one thread at a time; `Drawing.cancel` alone may be called from another
thread or a signal handler. Nothing runs in the background: while the caller works between two
pictures nothing is sent, and if the manager gives the connection up meanwhile, the next call takes
it up again without loss.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.transport import Watch
from sdistrib_client import events, finding
from sdistrib_client.callbacks import (
    Callbacks,
    OnAccepted,
    OnPreview,
    OnProgress,
    OnSending,
)
from sdistrib_client.composing import petition_of, prepare
from sdistrib_client.effects import Ending, Reply
from sdistrib_client.errors import error_of
from sdistrib_client.inputs import Given, InputSource, read_all, read_inputs
from sdistrib_client.link import CONNECT_TIMEOUT_S
from sdistrib_client.pictures import Picture
from sdistrib_client.session import Bell, Inbox, Session, dial_address

_log = logging.getLogger(__name__)


class Client:
    """A connection to a manager."""

    def __init__(
        self,
        host: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        insecure_lan: bool = False,
        on_notice: Callable[[str], None] = _log.warning,
    ) -> None:
        """Dial `host[:port]`. Whether anybody answers shows with the first request.

        Raises:
            ConfigError: the host is no address.
            PetitionError: `unauthorized`: another machine, and `insecure_lan` is not set.
        """
        address = dial_address(host, insecure_lan=insecure_lan)
        self._session = Session(address, connect_timeout_s, on_notice)
        self._bell = Bell()
        self._watch = Watch()
        self._watch.add(self._session.dealer)
        self._watch.add(self._bell.fd)
        self._turning = threading.Lock()
        self._unwanted: deque[events.CancelWished | events.PetitionLeft] = deque()
        self._closed = False

    def txt2img(
        self,
        prompt: str,
        *,
        images: int = 1,
        seed: int | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        on_sending: OnSending | None = None,
        **wishes: Any,
    ) -> "Drawing":
        """Draw `images` pictures, each with seed + index; iterate over the result to get them.

        `wishes` are the fields of `sdistrib.params.Params` (model, width, steps, …) and those of
        `sdistrib.petitions.Petition` (timeout_s, cancel_on_disconnect, priority, hedge, exact,
        on_oom, preview, preview_interval, preview_noisy); what `preview` shows, `on_preview` gets.
        Input files are given by path or as bytes: `init_image=Path("beach.png")`. Pictures come as
        they are finished, so not always in order of index. `seed` None draws one.

        Raises:
            PetitionError: `invalid_params` or `too_large`, before anything is sent.
        """
        petition, inputs = prepare(prompt, {"images": images, "seed": seed, **wishes})
        box = self._session.submit(petition, inputs, previews=on_preview is not None)
        return Drawing(self, box, Callbacks(None, on_progress, on_sending, on_preview))

    def submit(self, prompt: str, **wishes: Any) -> str:
        """Have pictures drawn without waiting for them; the id to attach to, or to fetch.

        Takes what `txt2img` takes, and returns once the manager keeps it. Raises as `draw`.
        """
        box = self._session.submit(*prepare(prompt, wishes), detach=True)
        return Drawing(self, box, Callbacks()).wait()

    def draw(
        self,
        petition: Petition,
        *,
        inputs: Iterable[Given] | Mapping[str, InputSource] = (),
        detach: bool = False,
        on_accepted: OnAccepted | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        on_sending: OnSending | None = None,
    ) -> "Drawing":
        """Draw a petition that was composed before; with `detach`, only have it kept.

        `inputs` are its input files, paths or bytes, in any order, or what `prepare` gave; those
        that the manager has already need not be there. The callbacks are called while the result
        is iterated over, in the caller's thread; `on_sending` gets the bytes of input files that
        are sent, and of all.
        """
        previews = on_preview is not None
        box = self._session.submit(petition, read_all(inputs), detach=detach, previews=previews)
        return Drawing(self, box, Callbacks(on_accepted, on_progress, on_sending, on_preview))

    def attach(
        self,
        petition_id: str,
        *,
        on_accepted: OnAccepted | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> "Drawing":
        """The pictures of a petition that nobody has had yet, and those to come.

        The id may be shortened. Leaving the result early does not cancel the petition.

        Raises:
            PetitionError: `not_found`.
            Unreachable: nobody answers.
        """
        box = self._session.seek(self.look(petition_id), previews=on_preview is not None)
        return Drawing(self, box, Callbacks(on_accepted, on_progress, None, on_preview))

    def fetch(self, petition_id: str, *, on_accepted: OnAccepted | None = None) -> "Drawing":
        """All pictures that a petition has now, seen before or not. Raises as `attach`.

        If it goes on, the iteration ends all the same and `ending.outcome` is "unfinished".
        """
        box = self._session.seek(self.look(petition_id), again=True, wait=False)
        return Drawing(self, box, Callbacks(on_accepted))

    def retry(
        self,
        petition_id: str,
        *,
        detach: bool = False,
        timeout_s: float | None = None,
        on_accepted: OnAccepted | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        on_sending: OnSending | None = None,
        **changes: Any,
    ) -> "Drawing":
        """Draw the images of an ended petition that have no picture, with other parameters.

        Changes are as the wishes of `txt2img`; seed and number of images stay. Raises as `attach`,
        and `invalid_params` when there is nothing to try again or the changes do not pass.
        """
        found = self.look(petition_id)
        read = read_inputs(changes)
        edited = finding.retry_of(found, read.params, timeout_s, read.files)
        previews = on_preview is not None
        box = self._session.retry(found, edited, read.sources, detach=detach, previews=previews)
        return Drawing(self, box, Callbacks(on_accepted, on_progress, on_sending, on_preview))

    def purge(self, petition_id: str | None) -> int:
        """Forget an ended petition for good, prompt and pictures; None is all. How many those were.

        Raises as `attach`, and `invalid_params` when it has not ended.
        """
        whole = "" if petition_id is None else self._whole(petition_id)
        return finding.count_of(self._reply(self._session.purge(whole)))

    def control(self, wish: wire.WorkerWish, *workers: str) -> tuple[wire.ControlAnswer, ...]:
        """Pause, resume, drain or unload workers, all without names. Raises as `attach`."""
        return finding.answers_of(self._reply(self._session.control(wish, workers)))

    def plan(self, wanted: str | Petition, **wishes: Any) -> wire.Planned:
        """What would become of a prompt, or a petition, with wishes; nothing is submitted.

        Why it would be refused stands in `error`, and is not raised. Raises as `attach` else.
        """
        petition = petition_of(wanted, wishes)
        return finding.planned_of(self._reply(self._session.plan(petition)))

    def find(self, petition_id: str) -> wire.QueuedPetition:
        """How far a petition is, and why it waits. Raises as `attach`."""
        return finding.only_row(
            self.ask("queue", every=True, start=finding.id_start(petition_id)), petition_id
        )

    def models(self, kind: str | None = None, name: str = "") -> tuple[wire.FoundModel, ...]:
        """The model files of the farm, of one kind or all, whose names fit `name`.

        A name contains it in any case, or fits it as a whole where it has `*` or `?`.

        Raises:
            Unreachable: nobody answers.
            PetitionError: the manager refuses to answer.
        """
        return finding.fitting(self.ask("models", kind=kind or "", name=name).models, kind, name)

    def workers(self) -> tuple[wire.WorkerFacts, ...]:
        """The workers; raises as `models` does."""
        return self.ask("workers").workers

    def queue(self, *, every: bool = False) -> tuple[wire.QueuedPetition, ...]:
        """The petitions that have not ended, or all; raises as `models` does."""
        return self.ask("queue", every=every).queue

    def status(self) -> wire.Answer:
        """The farm in numbers; raises as `models` does."""
        return self.ask("status")

    def ask(
        self,
        what: events.Question,
        *,
        every: bool = False,
        start: str = "",
        kind: str = "",
        name: str = "",
    ) -> wire.Answer:
        """The manager's whole answer to a question; raises as `models` does."""
        asked = self._session.ask(what, every=every, start=start, kind=kind, name=name)
        return finding.answer_of(self._reply(asked))

    def _reply(self, number: int) -> Reply:
        while number not in self._session.replies:
            self._turn()
        return self._session.replies.pop(number)

    def look(self, petition_id: str) -> finding.Found:
        """A petition of before: how far it is, and what it asks for. Raises as `attach`."""
        reply = self._reply(self._session.ask("petition", start=finding.id_start(petition_id)))
        return finding.found_in(finding.answer_of(reply), reply.body, petition_id)

    def _whole(self, petition_id: str) -> str:
        start = finding.id_start(petition_id)
        return start if finding.is_whole(start) else self.find(start).id

    def cancel(self, petition_id: str) -> bool:
        """Cancel a petition by id, also one of another process; True when that is confirmed."""
        petition_id = self._whole(petition_id)
        box = self._session.inboxes.get(petition_id)
        self._session.post(events.CancelWished(petition_id))
        while box is not None and box.ending is None:
            self._turn()
        while box is None and petition_id not in self._session.endings:
            self._turn()
        ending = self._session.endings.pop(petition_id) if box is None else box.ending
        return ending is not None and ending.outcome == "cancelled" and ending.confirmed

    def close(self, *, wait: bool = True) -> None:
        """Cancel what is still being drawn, say goodbye, and close the connection.

        With `wait`, the manager has `limits.CANCEL_CONFIRM_S` to confirm the cancels.
        """
        if self._closed:
            return
        self._closed = True
        boxes = list(self._session.inboxes.values())
        try:
            for box in boxes:
                self._session.leave(box)
            while wait and any(box.ending is None for box in boxes):
                self._turn()
        finally:
            self._session.close()
            self._bell.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _turn(self) -> None:
        """Wait for something to happen and deal with it."""
        if not self._turning.acquire(blocking=False):
            raise RuntimeError("a Client belongs to one thread at a time; make one per thread")
        try:
            if not self._unwanted:
                self._watch.wait(self._session.wait_s())
            self._bell.hush()
            while self._unwanted:
                self._session.post(self._unwanted.popleft())
            self._session.turn()
        finally:
            self._turning.release()

    def _abandon(self, box: Inbox) -> None:
        """Leave without waiting; from a finalizer, which may run in any thread."""
        if self._closed:
            return
        if self._turning.acquire(blocking=False):
            try:
                self._session.leave(box)
            finally:
                self._turning.release()
        else:
            wish = events.CancelWished if box.owned else events.PetitionLeft
            self._unwant(wish(box.id))

    def _unwant(self, wish: events.CancelWished | events.PetitionLeft) -> None:
        """Cancel or leave soon; may be called from anywhere."""
        self._unwanted.append(wish)
        self._bell.ring()


class Drawing:
    """The pictures of one petition, as they come. An iterator and a context manager."""

    def __init__(
        self,
        client: Client,
        box: Inbox,
        callbacks: Callbacks,
    ) -> None:
        self._client = client
        self._box = box
        self._callbacks = callbacks
        self._over = False

    @property
    def id(self) -> str:
        """Id of the petition."""
        return self._box.id

    @property
    def petition(self) -> Petition:
        """What it asks for."""
        return self._box.petition

    @property
    def seed(self) -> int:
        """Seed of picture 0."""
        return self._box.petition.seed

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it goes on."""
        return self._box.ending

    def __iter__(self) -> Iterator[Picture]:
        return self

    def __next__(self) -> Picture:
        """The next picture. Asking for it says that the one before is safe.

        Raises:
            PetitionError: the petition was refused, failed, expired or was cancelled.
            Unreachable: the manager does not answer, or not any more.
        """
        if self._over:
            raise StopIteration
        self._client._session.acknowledge(self._box)  # noqa: SLF001 - the two are one
        while True:
            self._tell()
            if self._box.pictures:
                return self._box.hand_out()
            if self._box.ending is not None:
                self._over = True
                error = error_of(self._box.ending)
                if error is not None:
                    raise error
                raise StopIteration
            self._client._turn()  # noqa: SLF001

    def wait(self) -> str:
        """Wait for the end, pictures unseen; the petition's id. Raises as `__next__` does."""
        for _ in self:
            pass
        return self.id

    def cancel(self) -> None:
        """Ask for a cancel; the iteration ends with it. Safe in signal handlers and threads."""
        self._client._unwant(events.CancelWished(self.id))  # noqa: SLF001

    def close(self) -> None:
        """Stop: cancel what is not drawn yet, and wait, not long, until the manager confirms.

        A picture that was handed out last does not count as safe; the manager keeps it a while.
        """
        self._over = True
        if self._box.ending is None and self._box.owned:
            self._client.cancel(self.id)
        elif self._box.ending is None:
            self._client._session.leave(self._box)  # noqa: SLF001

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # `for … break` leaves nobody to call close(); the pictures still to come are unwanted.
        if not self._over and self._box.ending is None:
            self._client._abandon(self._box)  # noqa: SLF001

    def _tell(self) -> None:
        self._callbacks.tell(self._box)
        self._client._session.show(self._box, self._callbacks.on_preview)  # noqa: SLF001
