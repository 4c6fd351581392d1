"""The client for asyncio.

    async with AsyncClient("gpu-manager") as client:
        async for picture in client.txt2img("a house on the beach", model="v2", images=4):
            picture.save(f"house_{picture.index}.png")

Any number of petitions may be under way on one client, in one event loop and its thread. A task in
the background keeps the connection alive, however long a caller works on a picture.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib_client import events
from sdistrib_client.callbacks import Callbacks, OnPreview, OnProgress, OnSending
from sdistrib_client.composing import petition_of, prepare
from sdistrib_client.effects import Ending, Reply
from sdistrib_client.errors import error_of
from sdistrib_client.finding import (
    Found,
    answer_of,
    answers_of,
    count_of,
    fitting,
    found_in,
    id_start,
    is_whole,
    only_row,
    planned_of,
    retry_of,
)
from sdistrib_client.inputs import Given, InputSource, read_all, read_inputs
from sdistrib_client.link import CONNECT_TIMEOUT_S
from sdistrib_client.pictures import Picture
from sdistrib_client.session import Inbox, Session, dial_address

_log = logging.getLogger(__name__)


class AsyncClient:
    """A connection to a manager. Arguments, results and errors are those of `sync.Client`."""

    def __init__(
        self,
        host: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        insecure_lan: bool = False,
        on_notice: Callable[[str], None] = _log.warning,
    ) -> None:
        self._address = dial_address(host, insecure_lan=insecure_lan)
        self._connect_timeout_s = connect_timeout_s
        self._on_notice = on_notice
        self._stack = contextlib.AsyncExitStack()
        #: Something may be readable, or something was sent.
        self._wake = asyncio.Event()
        #: Set, and replaced, after each turn in which something changed.
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Dial, and start the task that keeps the connection alive."""
        self._session = Session(self._address, self._connect_timeout_s, self._on_notice)
        self._stack.callback(self._session.close)
        loop = asyncio.get_running_loop()
        socket_fd = self._session.dealer.socket.fileno()
        loop.add_reader(socket_fd, self._wake.set)
        self._stack.callback(loop.remove_reader, socket_fd)
        self._task = asyncio.create_task(self._run())
        self._stack.push_async_callback(self._stop)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what is still being drawn, say goodbye, and close the connection."""
        async with self._stack:
            boxes = list(self._session.inboxes.values())
            for box in boxes:
                self._leave(box)
            while any(box.ending is None for box in boxes):
                await self._change()

    def txt2img(
        self,
        prompt: str,
        *,
        images: int = 1,
        seed: int | None = None,
        on_progress: OnProgress | None = None,
        on_sending: OnSending | None = None,
        on_preview: OnPreview | None = None,
        **wishes: Any,
    ) -> "AsyncDrawing":
        """Draw pictures: `sync.Client.txt2img`, with `async for`."""
        petition, inputs = prepare(prompt, {"images": images, "seed": seed, **wishes})
        box = self._session.submit(petition, inputs, previews=on_preview is not None)
        return self._drawing(box, on_progress, on_sending, on_preview)

    async def submit(self, prompt: str, **wishes: Any) -> str:
        """Have pictures drawn without waiting for them; the id to attach to, or to fetch."""
        box = self._session.submit(*prepare(prompt, wishes), detach=True)
        drawing = self._drawing(box)
        async for _ in drawing:
            pass
        return drawing.id

    def draw(
        self,
        petition: Petition,
        *,
        inputs: Iterable[Given] | Mapping[str, InputSource] = (),
        on_progress: OnProgress | None = None,
        on_sending: OnSending | None = None,
        on_preview: OnPreview | None = None,
    ) -> "AsyncDrawing":
        """Draw a petition that was composed before; `inputs` are its input files."""
        box = self._session.submit(petition, read_all(inputs), previews=on_preview is not None)
        return self._drawing(box, on_progress, on_sending, on_preview)

    async def attach(
        self,
        petition_id: str,
        *,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> "AsyncDrawing":
        """The pictures of a petition that nobody has had yet, and those to come."""
        found = await self.look(petition_id)
        box = self._session.seek(found, previews=on_preview is not None)
        return self._drawing(box, on_progress, on_preview=on_preview)

    async def fetch(self, petition_id: str) -> "AsyncDrawing":
        """All pictures that a petition has now, seen before or not."""
        found = await self.look(petition_id)
        return self._drawing(self._session.seek(found, again=True, wait=False))

    async def retry(
        self,
        petition_id: str,
        *,
        timeout_s: float | None = None,
        on_progress: OnProgress | None = None,
        on_sending: OnSending | None = None,
        on_preview: OnPreview | None = None,
        **changes: Any,
    ) -> "AsyncDrawing":
        """Draw the images of an ended petition that have no picture, with other parameters."""
        found = await self.look(petition_id)
        read = read_inputs(changes)
        edited = retry_of(found, read.params, timeout_s, read.files)
        previews = on_preview is not None
        box = self._session.retry(found, edited, read.sources, previews=previews)
        return self._drawing(box, on_progress, on_sending, on_preview)

    async def purge(self, petition_id: str | None) -> int:
        """Forget an ended petition for good, or all; how many those were."""
        whole = "" if petition_id is None else await self._whole(petition_id)
        return count_of(await self._reply(self._session.purge(whole)))

    async def control(self, wish: wire.WorkerWish, *workers: str) -> tuple[wire.ControlAnswer, ...]:
        """Pause, resume, drain or unload workers, all without names; what each did."""
        return answers_of(await self._reply(self._session.control(wish, workers)))

    async def plan(self, wanted: str | Petition, **wishes: Any) -> wire.Planned:
        """What would become of a prompt, or a petition, with wishes; nothing is submitted."""
        petition = petition_of(wanted, wishes)
        return planned_of(await self._reply(self._session.plan(petition)))

    async def find(self, petition_id: str) -> wire.QueuedPetition:
        """How far a petition is, and why it waits."""
        start = id_start(petition_id)
        return only_row(await self.ask("queue", every=True, start=start), start)

    async def models(self, kind: str | None = None, name: str = "") -> tuple[wire.FoundModel, ...]:
        """The model files of the farm, of one kind or all, whose names fit `name`."""
        return fitting((await self.ask("models", kind=kind or "", name=name)).models, kind, name)

    async def workers(self) -> tuple[wire.WorkerFacts, ...]:
        """The workers."""
        return (await self.ask("workers")).workers

    async def queue(self, *, every: bool = False) -> tuple[wire.QueuedPetition, ...]:
        """The petitions that have not ended, or all."""
        return (await self.ask("queue", every=every)).queue

    async def status(self) -> wire.Answer:
        """The farm in numbers."""
        return await self.ask("status")

    async def ask(
        self,
        what: events.Question,
        *,
        every: bool = False,
        start: str = "",
        kind: str = "",
        name: str = "",
    ) -> wire.Answer:
        """The manager's whole answer to a question."""
        asked = self._session.ask(what, every=every, start=start, kind=kind, name=name)
        return answer_of(await self._reply(asked))

    async def _reply(self, number: int) -> Reply:
        self._wake.set()
        while number not in self._session.replies:
            await self._change()
        return self._session.replies.pop(number)

    async def look(self, petition_id: str) -> Found:
        """A petition of before: how far it is, and what it asks for."""
        start = id_start(petition_id)
        reply = await self._reply(self._session.ask("petition", start=start))
        return found_in(answer_of(reply), reply.body, start)

    async def _whole(self, petition_id: str) -> str:
        start = id_start(petition_id)
        return start if is_whole(start) else (await self.find(start)).id

    async def cancel(self, petition_id: str) -> bool:
        """Cancel a petition by id, also one of another process; True when that is confirmed."""
        petition_id = await self._whole(petition_id)
        box = self._session.inboxes.get(petition_id)
        self._post(events.CancelWished(petition_id))
        while box is not None and box.ending is None:
            await self._change()
        while box is None and petition_id not in self._session.endings:
            await self._change()
        ending = self._session.endings.pop(petition_id) if box is None else box.ending
        return ending is not None and ending.outcome == "cancelled" and ending.confirmed

    def _acknowledge(self, box: Inbox) -> None:
        self._session.acknowledge(box)
        self._changed_now()
        self._wake.set()

    def _drawing(
        self,
        box: Inbox,
        on_progress: OnProgress | None = None,
        on_sending: OnSending | None = None,
        on_preview: OnPreview | None = None,
    ) -> "AsyncDrawing":
        box.changed = self._changed_now
        self._wake.set()
        return AsyncDrawing(self, box, Callbacks(None, on_progress, on_sending, on_preview))

    def _show(self, box: Inbox, on_preview: OnPreview | None) -> None:
        if box.preview is not None:
            self._session.show(box, on_preview)
            self._wake.set()

    def _leave(self, box: Inbox) -> None:
        self._session.leave(box)
        self._changed_now()
        self._wake.set()

    def _abandon(self, box: Inbox) -> None:
        """Leave without waiting; from a finalizer."""
        if not self._task.done():
            self._leave(box)

    def _post(self, event: events.Event) -> None:
        self._session.post(event)
        self._changed_now()
        self._wake.set()

    def _changed_now(self) -> None:
        """Wake everybody who waits for a change; each looks for himself."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        """Wait until something changed.

        Raises:
            Exception: whatever ended the background task; without it nothing would ever change.
        """
        if self._task.done():
            self._task.result()
        await self._changed.wait()

    async def _run(self) -> None:
        try:
            while True:
                self._session.turn()
                if self._session.replies or self._session.endings:
                    self._changed_now()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._session.wait_s()):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            self._changed_now()

    async def _stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class AsyncDrawing:
    """The pictures of one petition, as they come. An asynchronous iterator and context manager."""

    def __init__(self, client: AsyncClient, box: Inbox, callbacks: Callbacks) -> None:
        self._client = client
        self._box = box
        self._callbacks = callbacks
        self._over = False

    @property
    def id(self) -> str:
        """Id of the petition."""
        return self._box.id

    @property
    def seed(self) -> int:
        """Seed of picture 0."""
        return self._box.petition.seed

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it goes on."""
        return self._box.ending

    def __aiter__(self) -> AsyncIterator[Picture]:
        return self

    async def __anext__(self) -> Picture:
        """The next picture. Asking for it says that the one before is safe.

        Raises:
            PetitionError: the petition was refused, failed, expired or was cancelled.
            Unreachable: the manager does not answer, or not any more.
        """
        if self._over:
            raise StopAsyncIteration
        if self._box.held is not None:
            self._client._acknowledge(self._box)  # noqa: SLF001 - the two are one
        while True:
            self._callbacks.tell(self._box)
            self._client._show(self._box, self._callbacks.on_preview)  # noqa: SLF001
            if self._box.pictures:
                return self._box.hand_out()
            if self._box.ending is not None:
                self._over = True
                error = error_of(self._box.ending)
                if error is not None:
                    raise error
                raise StopAsyncIteration
            await self._client._change()  # noqa: SLF001

    async def cancel(self) -> bool:
        """Cancel it; True when the manager confirms."""
        return await self._client.cancel(self.id) if self._box.ending is None else False

    async def aclose(self) -> None:
        """Stop: cancel what is not drawn yet, and wait, not long, until the manager confirms."""
        self._over = True
        if self._box.ending is None and self._box.owned:
            await self._client.cancel(self.id)
        elif self._box.ending is None:
            self._client._leave(self._box)  # noqa: SLF001

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # `async for … break` leaves nobody to call aclose(); what is to come is unwanted.
        if not self._over and self._box.ending is None:
            self._client._abandon(self._box)  # noqa: SLF001
