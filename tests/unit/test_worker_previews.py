"""Previews within a worker: one at a time, the newest next, never in the way of a picture."""

import io
import queue
import random
import threading
from typing import Any

import pytest
from PIL import Image

from sdistrib import limits
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.encoder import Encoder
from sdistrib_worker.preview_files import encode, encode_preview
from tests.support.rig import FACTS, Rig, asked, attempt, crash, of, one, said


class Looking(Rig):
    """A rig whose petition wants previews and whose engine has begun its image."""

    def __init__(self, **wishes: Any) -> None:
        super().__init__()
        self.connect()
        self.ticket = self.begins(attempt(), **wishes)

    def begins(self, *attempts: wire.Attempt, **wishes: Any) -> int:
        """Grant images of a petition with previews; the ticket of the first."""
        params = Params(prompt="a lighthouse", model="tiny", steps=8)
        wishes = {"preview": "proj", **wishes}
        petition = Petition(params=params, seed=100, images=9, **wishes)
        made = self.hear(wire.Grant(attempts=attempts), encode_petition(petition))
        self.request = one(asked(made))
        self.engine(child.Began(ticket=self.request.ticket))
        self.engine(child.At(ticket=self.request.ticket, phase="sampling", step=1, steps=9))
        return self.request.ticket

    def shows(self, step: int = 3, ticket: int | None = None) -> list[fx.Effect]:
        """The child shows a step."""
        shown = child.Previewed(
            ticket=ticket or self.ticket, step=step, width=8, height=8, channels=3, noisy=True
        )
        return self.turn(events.PreviewDrawn(shown, f"pixels of step {step}"))

    def encodes(self, data: bytes = b"small", of: wire.Attempt | None = None) -> list[fx.Effect]:
        """The encoder has made a file."""
        return self.turn(events.PreviewEncoded(of or attempt(), data, "png", 8, 8))

    def seen(self, of: wire.Attempt | None = None) -> list[fx.Effect]:
        """The manager is done with it."""
        return self.hear(wire.PreviewSeen(attempt=of or attempt()))


def test_the_petitions_wish_reaches_the_engine() -> None:
    rig = Looking(preview="vae", preview_interval=5, preview_noisy=True)
    assert rig.request.preview == child.PreviewWish("vae", 5, True)
    plain = Rig()
    plain.connect()
    assert one(asked(plain.grant(attempt()))).preview is None


def test_a_preview_is_encoded_sent_and_followed_by_the_next_when_it_was_seen() -> None:
    rig = Looking()
    assert of(rig.shows(), fx.EncodePreview) == [fx.EncodePreview(attempt(), "pixels of step 3")]
    made = rig.encodes(b"png bytes")
    (send,) = of(made, fx.Send)
    assert send.message == wire.Preview(
        attempt=attempt(), step=3, steps=9, width=8, height=8, format="png", worker="box",
        noisy=True,
    )  # fmt: skip
    assert send.body == b"png bytes"
    assert of(made, fx.WantPreview) == []
    assert of(rig.seen(), fx.WantPreview) == [fx.WantPreview()]
    assert of(rig.seen(), fx.WantPreview) == []
    assert of(rig.shows(4), fx.EncodePreview)


def test_the_child_is_asked_for_no_other_while_one_is_not_seen() -> None:
    rig = Looking()
    rig.shows()
    rig.encodes()
    for _ in range(30):
        assert of(rig.hear(wire.Beat(), after_s=1.0), fx.WantPreview) == []
    # Of another image, or said of nothing.
    assert of(rig.seen(attempt(5)), fx.WantPreview) == []
    # A child that does not wait is not rewarded.
    made = rig.shows(4)
    assert of(made, fx.DropPicture) == [fx.DropPicture("pixels of step 4")]
    assert of(made, fx.EncodePreview) == []


def test_a_preview_that_cannot_be_encoded_makes_room_for_the_next() -> None:
    rig = Looking()
    rig.shows()
    made = rig.encodes(b"")
    assert said(made) == []
    assert of(made, fx.WantPreview)


def test_of_a_picture_that_is_drawn_or_called_off_no_preview_is_sent() -> None:
    rig = Looking()
    rig.shows()
    rig.draw(rig.ticket)
    made = rig.encodes()
    assert said(made, wire.Preview) == []
    assert of(made, fx.WantPreview)
    rig = Looking()
    rig.hear(wire.Abandon(attempt=attempt()))
    made = rig.shows()
    assert of(made, fx.DropPicture)
    # What it draws unseen may be shown on: nothing waits on the way.
    assert of(made, fx.WantPreview)
    rig = Looking()
    rig.shows()
    rig.hear(wire.Abandon(attempt=attempt()))
    assert said(rig.encodes(), wire.Preview) == []


def test_an_old_ticket_shows_nothing() -> None:
    rig = Looking()
    assert of(rig.shows(ticket=rig.ticket + 7), fx.DropPicture)


def test_without_a_manager_nothing_is_asked_for_and_a_new_session_starts_afresh() -> None:
    rig = Looking()
    rig.shows()
    rig.encodes()
    rig.hear(wire.Identify())
    assert of(rig.turn(after_s=1.0), fx.WantPreview) == []
    # What was sent in the old session is answered by nobody.
    assert of(rig.welcome(), fx.WantPreview)
    rig.hear(wire.Identify())
    made = rig.shows(4)
    assert of(made, fx.DropPicture)
    assert of(made, fx.WantPreview) == []
    assert of(rig.welcome(), fx.WantPreview)


def test_a_preview_encoded_without_a_session_is_dropped() -> None:
    rig = Looking()
    rig.shows()
    rig.hear(wire.Identify())
    made = rig.encodes()
    assert said(made) == []
    assert of(made, fx.WantPreview) == []
    assert of(rig.welcome(), fx.WantPreview)


def test_the_next_child_may_show_without_being_asked() -> None:
    rig = Looking()
    rig.shows()
    rig.encodes()
    rig.turn(crash())
    # Its word was for the child that is gone.
    assert of(rig.seen(), fx.WantPreview) == []
    rig.turn(after_s=1.0)
    rig.engine(child.Ready(facts=FACTS))
    ticket = rig.begins(attempt(1))
    assert of(rig.shows(1, ticket), fx.EncodePreview)


def test_a_preview_is_a_sign_of_life() -> None:
    rig = Looking()
    rig.turn(after_s=500.0)
    rig.shows()
    assert of(rig.hear(wire.Beat(), after_s=200.0), fx.KillEngine) == []
    assert of(rig.turn(after_s=500.0), fx.KillEngine)


@pytest.mark.parametrize(
    ("size", "expected", "form"),
    [
        ((64, 40), (64, 40), "PNG"),
        ((128, 128), (128, 128), "PNG"),
        ((136, 128), (136, 128), "JPEG"),
        ((512, 512), (512, 512), "JPEG"),
        ((513, 400), (512, 399), "JPEG"),
        ((2048, 64), (512, 16), "JPEG"),
    ],
)
def test_previews_are_small_pictures(size, expected, form) -> None:
    data, named, *sides = encode_preview(bytes(size[0] * size[1] * 3), *size, 3)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.size, picture.format) == (expected, form)
    assert (tuple(sides), named) == (expected, form.lower())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_largest_preview_of_pure_noise_fits_its_message(channels) -> None:
    side = limits.PREVIEW_SIDE_MAX
    noise = random.Random(5).randbytes(side * side * channels)
    assert len(encode_preview(noise, side, side, channels).data) <= limits.PREVIEW_BYTES_MAX


def test_a_preview_beyond_its_message_is_none(monkeypatch) -> None:
    size = len(encode_preview(bytes(192), 8, 8, 3).data)
    monkeypatch.setattr(limits, "PREVIEW_BYTES_MAX", size)
    encode_preview(bytes(192), 8, 8, 3)
    monkeypatch.setattr(limits, "PREVIEW_BYTES_MAX", size - 1)
    with pytest.raises(ValueError, match="a preview of"):
        encode_preview(bytes(192), 8, 8, 3)


class _Shared:
    """Pixels as the supervisor hands them over, without shared memory."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self.previewed = child.Previewed(ticket=1, step=1, width=8, height=8, channels=channels)
        self._size = size
        self.closed = False

    def pixels(self) -> bytes:
        return bytes(self._size)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("pixels", [_Shared(10), _Shared(128, 2), _Shared(0)])
def test_pixels_that_are_no_picture_are_answered_and_closed(pixels) -> None:
    answer = encode(fx.EncodePreview(attempt(), pixels))
    assert answer == events.PreviewEncoded(attempt(), b"")
    assert pixels.closed
    good = _Shared(192)
    assert encode(fx.EncodePreview(attempt(), good)).data
    assert good.closed


class _Held(_Shared):
    """Pixels that the encoder waits for."""

    def __init__(self) -> None:
        super().__init__(192)
        self.drawn = child.Drawn(ticket=1, width=8, height=8, channels=3, load_s=0.0, draw_s=1.0)
        self.reached, self.released = threading.Event(), threading.Event()

    def pixels(self) -> bytes:
        self.reached.set()
        assert self.released.wait(30)
        return super().pixels()


def test_a_finished_picture_goes_before_previews_that_wait() -> None:
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    encoder = Encoder(done.put)
    try:
        first, last = _Held(), _Held()
        last.released.set()
        encoder.order(fx.EncodePicture(attempt(0), first, None))
        assert first.reached.wait(30)
        encoder.order(fx.EncodePreview(attempt(1), _Shared(192)))
        encoder.order(fx.EncodePicture(attempt(2), last, None))
        first.released.set()
        made = [done.get(timeout=30) for _ in range(3)]
    finally:
        encoder.stop()
    assert [one.attempt.index for one in made] == [0, 2, 1]
    assert isinstance(made[2], events.PreviewEncoded)
    assert made[2].data


def test_previews_that_wait_when_the_encoder_stops_are_dropped() -> None:
    encoder = Encoder(lambda _: None)
    first, waiting = _Held(), _Shared(192)
    encoder.order(fx.EncodePicture(attempt(0), first, None))
    assert first.reached.wait(30)
    encoder.order(fx.EncodePreview(attempt(1), waiting))
    threading.Timer(0.05, first.released.set).start()
    encoder.stop()
    assert waiting.closed
