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
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib_client import events
from sdistrib_client.composing import compose
from sdistrib_client.effects import Ending
from sdistrib_client.errors import error_of
from sdistrib_client.link import CONNECT_TIMEOUT_S
from sdistrib_client.pictures import Picture
from sdistrib_client.session import Inbox, Session, dial_address
from sdistrib_client.sync import OnProgress, answer_of

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
                self._post(events.CancelWished(box.id))
            while any(box.ending is None for box in boxes):
                await self._change()

    def txt2img(
        self,
        prompt: str,
        *,
        images: int = 1,
        seed: int | None = None,
        timeout_s: float = 0.0,
        cancel_on_disconnect: bool = False,
        on_progress: OnProgress | None = None,
        **params: Any,
    ) -> "AsyncDrawing":
        """Draw pictures: `sync.Client.txt2img`, with `async for`."""
        petition = compose(
            {"prompt": prompt, **params},
            images=images,
            seed=seed,
            timeout_s=timeout_s,
            cancel_on_disconnect=cancel_on_disconnect,
        )
        return self.draw(petition, on_progress=on_progress)

    def draw(self, petition: Petition, *, on_progress: OnProgress | None = None) -> "AsyncDrawing":
        """Draw a petition that was composed before."""
        box = self._session.submit(petition)
        box.changed = self._changed_now
        self._wake.set()
        return AsyncDrawing(self, box, on_progress)

    async def models(self, kind: str | None = None) -> tuple[wire.FoundModel, ...]:
        """The model files of the farm, of one kind or all."""
        found = (await self.ask("models")).models
        return tuple(model for model in found if kind is None or model.file.kind == kind)

    async def workers(self) -> tuple[wire.WorkerFacts, ...]:
        """The workers."""
        return (await self.ask("workers")).workers

    async def queue(self) -> tuple[wire.QueuedPetition, ...]:
        """The petitions that are not finished."""
        return (await self.ask("queue")).queue

    async def status(self) -> wire.Answer:
        """The farm in numbers."""
        return await self.ask("status")

    async def ask(self, what: events.Question) -> wire.Answer:
        """The manager's whole answer to a question."""
        number = self._session.ask(what)
        self._wake.set()
        while number not in self._session.replies:
            await self._change()
        return answer_of(self._session.replies.pop(number))

    async def cancel(self, petition_id: str) -> bool:
        """Cancel a petition by id, also one of another process; True when that is confirmed."""
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

    def _abandon(self, petition_id: str) -> None:
        """Cancel without waiting; from a finalizer."""
        if not self._task.done():
            self._post(events.CancelWished(petition_id))

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

    def __init__(self, client: AsyncClient, box: Inbox, on_progress: OnProgress | None) -> None:
        self._client = client
        self._box = box
        self._on_progress = on_progress
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
            progress, self._box.progress = self._box.progress, None
            if progress is not None and self._on_progress is not None:
                self._on_progress(progress)
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
        if self._box.ending is None:
            await self._client.cancel(self.id)

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
            self._client._abandon(self.id)  # noqa: SLF001
