"""The worker's shell in parts: encoder thread, engine link, command line."""

import queue
from pathlib import Path
from typing import Any

import pytest

from sdistrib import limits
from sdistrib.errors import ConfigError, EngineError, ErrorInfo
from sdistrib.params import Params
from sdistrib.protocol.engine import Draw, Drawn
from sdistrib.transport import Watch, parse_address
from sdistrib_worker import cli, events
from sdistrib_worker.effects import AskEngine, DropPicture, EncodePicture
from sdistrib_worker.encoder import Encoder
from sdistrib_worker.link import EngineLink
from tests.support.rig import attempt


class Pixels:
    """A picture as the supervisor hands it over, without shared memory."""

    def __init__(self, size: int, fault: Exception | None = None) -> None:
        self.drawn = Drawn(ticket=1, width=8, height=8, channels=3, load_s=0.0, draw_s=1.0)
        self.closed = False
        self._size, self._fault = size, fault

    def pixels(self) -> bytes:
        if self._fault:
            raise self._fault
        return bytes(self._size)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("pixels", "code"),
    [
        (Pixels(100), "engine_error"),
        (
            Pixels(1, EngineError(ErrorInfo(code="engine_crashed", message="gone"))),
            "engine_crashed",
        ),
        (Pixels(1, MemoryError()), "internal"),
    ],
)
def test_what_cannot_be_encoded_is_answered_and_the_next_picture_is_made(
    pixels: Pixels, code: str
) -> None:
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    encoder = Encoder(done.put)
    try:
        good = Pixels(8 * 8 * 3)
        encoder.order(EncodePicture(attempt(0), pixels, None))
        encoder.order(EncodePicture(attempt(1), good, None))
        failed = done.get(timeout=30)
        assert isinstance(failed, events.EncodingFailed)
        assert (failed.attempt, failed.error.code) == (attempt(0), code)
        made = done.get(timeout=30)
        assert made.data.startswith(b"\x89PNG")
        assert pixels.closed
        assert good.closed
    finally:
        encoder.stop()


def test_pictures_that_wait_when_the_encoder_stops_are_dropped() -> None:
    encoder = Encoder(lambda event: None)
    encoder.stop()
    left = Pixels(1)
    encoder.order(EncodePicture(attempt(0), left, None))
    encoder.stop()
    assert left.closed


def _draw(files: dict[str, str]) -> Draw:
    return Draw(ticket=7, context="c", params=Params(prompt="x", model="m"), seed=1, files=files)


def test_files_are_looked_for_before_the_engine_is_asked(tmp_path: Path) -> None:
    link = EngineLink(("true", "{fd}"), {}, Watch())
    (tmp_path / "here").touch()
    here, gone = str(tmp_path / "here"), str(tmp_path / "gone")
    asked = AskEngine(_draw({"model": here, "vae": gone}))
    assert link.carry_out(asked) == events.FileVanished(7, gone)
    # A child that is dead hears nothing; its death is told by itself.
    assert link.carry_out(AskEngine(_draw({"model": here}))) is None
    assert list(link.receive()) == []
    left = Pixels(1)
    link.carry_out(DropPicture(left))
    assert left.closed


def test_a_child_that_takes_no_requests_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = []

    class Deaf:
        def send(self, frame: Draw) -> None:
            raise EngineError(ErrorInfo(code="engine_hung", message="unread"))

        def kill(self, reason: str) -> None:
            killed.append(reason)

    link = EngineLink(("true", "{fd}"), {}, Watch())
    monkeypatch.setattr(link, "_child", Deaf())
    assert link.carry_out(AskEngine(_draw({}))) is None
    assert killed == ["unread"]


@pytest.mark.parametrize(
    ("host", "insecure", "fine"),
    [
        ("127.0.0.1", False, True), ("localhost:99", False, True), ("[::1]:4134", False, True),
        ("192.0.2.7", False, False), ("gpu.example", False, False), ("192.0.2.7", True, True),
    ],
)  # fmt: skip
def test_plain_sockets_leave_this_machine_only_when_told(
    host: str, insecure: bool, fine: bool
) -> None:
    address = parse_address(host, 4134)
    if fine:
        cli.check_host(address, insecure_lan=insecure)
    else:
        with pytest.raises(ConfigError, match="--insecure-lan"):
            cli.check_host(address, insecure_lan=insecure)


def test_names_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    most = limits.NAME_CHARS_MAX
    assert cli.check_name("n" * most) == "n" * most
    for name in ("", "  ", "n" * (most + 1), "a\nb"):
        with pytest.raises(ConfigError, match="--name"):
            cli.check_name(name)
    monkeypatch.setattr("platform.node", lambda: "gpu2")
    assert cli.check_name(None) == "gpu2"
