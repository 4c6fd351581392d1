"""What both shells share: the socket, the clock, and the carrying out of effects."""

import contextlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping

from sdistrib import limits, transport
from sdistrib.errors import PetitionError
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode, encode_petition
from sdistrib.version import SOFTWARE
from sdistrib_client import effects, events
from sdistrib_client.effects import Ending
from sdistrib_client.finding import Found, checked_workers
from sdistrib_client.inputs import InputSource
from sdistrib_client.pictures import Picture, Preview
from sdistrib_client.requests import Requests

#: Time that a goodbye has to leave when the connection is closed.
_GOODBYE_S = 0.2


def dial_address(host: str, *, insecure_lan: bool) -> transport.Address:
    """Where to dial for `host`, `host:port` or `[v6]:port`.

    Raises:
        ConfigError: the text is no address.
        PetitionError: `unauthorized`, when prompts and pictures would cross a network unprotected.
    """
    address = transport.parse_address(host, transport.CLIENT_PORT)
    if not address.is_loopback and not insecure_lan:
        message = (
            f"{address} is another machine, and this version has no keys yet: nothing is sent"
            " there unprotected. On a network that you trust, add --insecure-lan."
        )
        raise PetitionError.of("unauthorized", message)
    # A manager listens on 127.0.0.1, while `localhost` may resolve to ::1 and stay there.
    return address._replace(host="127.0.0.1") if address.host == "localhost" else address


class Inbox:
    """What has come for one petition and was not yet fetched."""

    def __init__(self, petition: Petition, petition_id: str = "", *, owned: bool = True) -> None:
        self.id = petition_id or secrets.token_hex(16)
        self.petition = petition
        #: It is drawn for this caller: it is cancelled when he stops listening.
        self.owned = owned
        self.pictures: deque[Picture] = deque()
        self.accepted: wire.Accepted | None = None
        #: Its input files, by digest, and bytes of them that are sent and to be sent, the newest.
        self.inputs: Mapping[str, InputSource] = {}
        self.sending: tuple[int, int] | None = None
        #: The newest, overwritten: nobody wants to see an old one.
        self.progress: wire.Progress | None = None
        #: The newest, overwritten as well; the manager sends no other until it is told.
        self.preview: Preview | None = None
        self.ending: Ending | None = None
        #: Index of the picture that the caller holds and has not said to be done with.
        self.held: int | None = None
        #: Called when any of the above changed.
        self.changed: Callable[[], None] = _nothing

    def was_accepted(self, accepted: wire.Accepted) -> None:
        """The manager keeps it, and its input files."""
        self.accepted = accepted
        for source in self.inputs.values():
            source.release()

    def hand_out(self) -> Picture:
        """The next picture; it is the caller's until `Session.acknowledge`."""
        picture = self.pictures.popleft()
        self.held = picture.index
        return picture


class Session:
    """One connection to a manager, for one thread."""

    def __init__(
        self,
        address: transport.Address,
        connect_timeout_s: float,
        on_notice: Callable[[str], None],
    ) -> None:
        self._stack = contextlib.ExitStack()
        context = self._stack.enter_context(transport.zmq_context())
        self.dealer = transport.Dealer(context, address)
        self.machine = Requests(str(address), SOFTWARE, time.monotonic(), connect_timeout_s)
        self.inboxes: dict[str, Inbox] = {}
        self.replies: dict[int, effects.Reply] = {}
        #: Ends of petitions that have no inbox here: those cancelled by id only.
        self.endings: dict[str, Ending] = {}
        self._on_notice = on_notice
        self._notices: deque[str] = deque()
        self._sent = False
        self._questions = 0

    def turn(self) -> None:
        """Take everything that has come, then let timers fire.

        The socket's descriptor signals changes only, and a send may swallow such a signal: so
        after anything was sent, the socket is read once more before anybody waits for it.
        """
        while True:
            while (frames := self.dealer.receive()) is not None:
                self.post(events.FramesReceived(frames))
            self._sent = False
            self.post(events.Tick())
            if not self._sent:
                break
        while self._notices:
            self._on_notice(self._notices.popleft())

    def post(self, event: events.Event) -> None:
        """Give an event to the machine and do what it says."""
        todo = deque(self.machine.handle(event, time.monotonic()))
        while todo:
            effect = todo.popleft()
            if isinstance(effect, effects.Send):
                self._sent = True
                if self.dealer.send(encode(effect.message, effect.body)) != "sent":
                    todo.extend(self.machine.handle(events.SendFailed(), time.monotonic()))
            elif isinstance(effect, effects.SendPiece):
                todo.extend(self._send_piece(effect))
            else:
                self._show(effect)

    def _send_piece(self, effect: effects.SendPiece) -> list[effects.Effect]:
        """Send a piece of an input file; what the machine says when that does not go."""
        self._sent = True
        box = self.inboxes.get(effect.id)
        if box is None:
            return []
        try:
            piece = box.inputs[effect.digest].piece(effect.start, effect.end)
        except PetitionError as error:
            lost = events.InputLost(effect.id, error.info)
            return self.machine.handle(lost, time.monotonic())
        chunk = wire.Chunk(digest=effect.digest, offset=effect.start)
        if self.dealer.send(encode(chunk, piece)) == "sent":
            return []
        return self.machine.handle(events.SendFailed(), time.monotonic())

    def _show(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Send() | effects.SendPiece():
                raise AssertionError("what is sent is not shown")
            case effects.ShowSending(petition_id, sent, total):
                self._change(petition_id, lambda box: setattr(box, "sending", (sent, total)))
            case effects.Notify(text):
                self._notices.append(text)
            case effects.Reply(number):
                self.replies[number] = effect
            case effects.Deliver(petition_id, result, parts):
                self._change(
                    petition_id, lambda box: box.pictures.append(Picture.of(result, parts))
                )
            case effects.End(petition_id, ending):
                if petition_id not in self.inboxes:
                    self.endings[petition_id] = ending
                self._change(petition_id, lambda box: setattr(box, "ending", ending))
                self.inboxes.pop(petition_id, None)
            case _:
                self._show_state(effect)

    def _show_state(
        self, effect: effects.ShowAccepted | effects.ShowProgress | effects.ShowPreview
    ) -> None:
        match effect:
            case effects.ShowAccepted(accepted):
                self._change(accepted.id, lambda box: box.was_accepted(accepted))
            case effects.ShowProgress(progress):
                self._change(progress.id, lambda box: setattr(box, "progress", progress))
            case effects.ShowPreview(message, data):
                preview = Preview.of(message, data)
                self._change(message.attempt.id, lambda box: setattr(box, "preview", preview))

    def _change(self, petition_id: str, how: Callable[[Inbox], None]) -> None:
        box = self.inboxes.get(petition_id)
        if box is not None:
            how(box)
            box.changed()

    def submit(
        self,
        petition: Petition,
        inputs: Mapping[str, InputSource],
        *,
        detach: bool = False,
        previews: bool = False,
    ) -> Inbox:
        """Start a petition; with `detach` it ends here once the manager keeps it."""
        box = self._listen(Inbox(petition))
        box.inputs = inputs
        body = encode_petition(petition)
        images, timeout_s, files = petition.images, petition.timeout_s, _files(petition, inputs)
        self.post(events.PetitionMade(box.id, body, images, timeout_s, detach, previews, files))
        return box

    def seek(
        self, found: Found, *, again: bool = False, wait: bool = True, previews: bool = False
    ) -> Inbox:
        """Listen to a petition of before; without `wait`, only to what it has now."""
        box = self._listen(Inbox(found.petition, found.row.id, owned=False))
        self.post(events.PetitionSought(box.id, found.petition.images, again, wait, previews))
        return box

    def retry(
        self,
        found: Found,
        edited: Petition | None,
        inputs: Mapping[str, InputSource],
        *,
        detach: bool = False,
        previews: bool = False,
    ) -> Inbox:
        """Have the images without a picture drawn again, `edited` or as they were."""
        box = self._listen(Inbox(edited or found.petition, found.row.id))
        box.inputs = inputs
        body = encode_petition(edited) if edited is not None else b""
        files = _files(box.petition, inputs)
        images = found.petition.images
        self.post(events.RetryWished(box.id, images, body, detach, previews, files))
        return box

    def _listen(self, box: Inbox) -> Inbox:
        if box.id in self.inboxes:
            raise RuntimeError(f"this connection has petition {box.id[:8]} already")
        self.inboxes[box.id] = box
        return box

    def leave(self, box: Inbox) -> None:
        """The caller stops listening: what is drawn for him is not wanted any more."""
        left = events.CancelWished(box.id) if box.owned else events.PetitionLeft(box.id)
        self.post(left)

    def acknowledge(self, box: Inbox) -> None:
        """The caller is done with the picture he holds."""
        if box.held is not None:
            self.post(events.PictureTaken(box.id, box.held))
            box.held = None

    def show(self, box: Inbox, on_preview: Callable[[Preview], None] | None) -> None:
        """Give the caller the preview that has come, if any; then he can take another."""
        preview, box.preview = box.preview, None
        if preview is not None:
            if on_preview is not None:
                on_preview(preview)
            self.post(events.PreviewTaken(preview.attempt))

    def ask(
        self,
        what: events.Question,
        *,
        every: bool = False,
        start: str = "",
        kind: str = "",
        name: str = "",
    ) -> int:
        """Start a question; its answer turns up in `replies` under the number returned."""
        self._questions += 1
        # No file's name is longer.
        name = name[: limits.NAME_CHARS_MAX]
        self.post(events.QuestionAsked(self._questions, what, every, start, kind, name))
        return self._questions

    def purge(self, petition_id: str) -> int:
        """Wish to have a petition forgotten, or all; the reply turns up as that of a question."""
        self._questions += 1
        self.post(events.PurgeWished(self._questions, petition_id))
        return self._questions

    def control(self, wish: wire.WorkerWish, workers: tuple[str, ...]) -> int:
        """Wish something of workers; the reply turns up as that of a question.

        Raises:
            PetitionError: `invalid_params`: a name is too long, or they are too many.
        """
        checked_workers(workers)
        self._questions += 1
        self.post(events.ControlWished(self._questions, wish, workers))
        return self._questions

    def plan(self, petition: Petition) -> int:
        """Ask what would become of a petition; the reply turns up as that of a question."""
        self._questions += 1
        self.post(events.PlanWished(self._questions, encode_petition(petition)))
        return self._questions

    def wait_s(self) -> float:
        """Seconds until `turn` is due even if nothing comes."""
        return max(0.0, self.machine.next_deadline() - time.monotonic())

    def close(self) -> None:
        """Say goodbye and close the socket."""
        self.post(events.UserLeft())
        self.dealer.close(linger_s=_GOODBYE_S)
        self._stack.close()


class Bell:
    """Wakes a waiting loop from a signal handler or another thread."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """Wake the loop."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_fd, b"\0")

    def hush(self) -> None:
        """Forget all rings so far."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass

    def close(self) -> None:
        """Close both ends."""
        os.close(self.fd)
        os.close(self._write_fd)


def _files(petition: Petition, inputs: Mapping[str, InputSource]) -> tuple[InputFile, ...]:
    """Those of its input files that can be sent."""
    return tuple(file for file in petition.inputs if file.digest in inputs)


def _nothing() -> None:
    pass
