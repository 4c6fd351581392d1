"""A real worker process that fetches input files, against a manager made by the test."""

import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sdistrib import limits
from sdistrib.params import Params
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib.transfer import Outgoing
from tests.support.fake_manager import FakeManager, WorkerProcess, attempt, fake_manager, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

#: Six pieces: more than one credit.
DATA = bytes(range(256)) * (5 * limits.CHUNK_BYTES // 256) + b"the end"
FILE = InputFile(hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "inputs"


@pytest.fixture
def start(tmp_path: Path, cache: Path) -> Iterator[Callable[[FakeManager], WorkerProcess]]:
    model = tmp_path / "models" / "stable-diffusion" / "tiny.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"a model")
    with ExitStack() as stack:

        def made(manager: FakeManager) -> WorkerProcess:
            models = str(tmp_path / "models")
            arguments = [manager.host, models, "--name", "box", "--cache", str(cache)]
            worker = WorkerProcess(arguments, tmp_path)
            stack.callback(worker.close)
            manager.until(wire.WorkerHello)
            return worker

        yield made


def grant(manager: FakeManager, of: wire.Attempt) -> None:
    params = Params(
        prompt="a house", model="tiny", width=64, height=64, steps=4, ref_images=(FILE.digest,)
    )
    petition = Petition(params=params, seed=100, images=1000, inputs=(FILE,))
    manager.say(wire.Grant(attempts=(of,)), encode_petition(petition))


def send(manager: FakeManager, data: bytes, offset: int, until: int = len(DATA)) -> None:
    """Send pieces as a manager does: a credit's worth, then one for each acknowledgement."""
    pieces = Outgoing(len(data))
    pieces.resume(offset)
    while pieces.acknowledged < until:
        for piece in pieces.ready():
            chunk = wire.Chunk(digest=FILE.digest, offset=piece.offset)
            manager.say(chunk, data[piece.offset : piece.end])
        pieces.seen(manager.until(wire.ChunkSeen).offset)


def test_a_file_is_fetched_with_credit_kept_and_not_fetched_again_by_the_next_worker(
    start: Callable[[FakeManager], WorkerProcess], cache: Path
) -> None:
    with fake_manager() as manager:
        worker = start(manager)
        grant(manager, attempt())
        assert manager.until(wire.Fetch) == wire.Fetch(digest=FILE.digest)
        send(manager, DATA, 0)
        manager.picture(attempt())
        assert (cache / FILE.digest).read_bytes() == DATA
        assert [path.name for path in cache.iterdir()] == [FILE.digest]
        worker.signal(signal.SIGTERM)
        assert worker.exit_status() == 0
        start(manager)
        grant(manager, attempt(1))
        manager.picture(attempt(1))
        assert not [m for m, _ in manager.heard if isinstance(m, wire.Fetch)]
        manager.say(wire.Forget(digests=(FILE.digest,)))
        wait_for(lambda: not list(cache.iterdir()), "an empty cache")


def test_after_a_new_session_the_transfer_goes_on_where_it_was(
    start: Callable[[FakeManager], WorkerProcess], cache: Path
) -> None:
    with fake_manager() as manager:
        start(manager)
        grant(manager, attempt())
        manager.until(wire.Fetch)
        send(manager, DATA, 0, until=2 * limits.CHUNK_BYTES)
        manager.say(wire.Identify())
        manager.until(wire.WorkerHello)
        manager.until(wire.Revoked)
        grant(manager, attempt(number=2))
        offset = manager.until(wire.Fetch).offset
        assert offset >= 2 * limits.CHUNK_BYTES
        send(manager, DATA, offset)
        manager.picture(attempt(number=2))
        assert (cache / FILE.digest).read_bytes() == DATA


def test_wrong_bytes_fail_the_image_without_counting_and_the_right_ones_draw_it_later(
    start: Callable[[FakeManager], WorkerProcess], cache: Path
) -> None:
    with fake_manager() as manager:
        start(manager)
        grant(manager, attempt())
        for _ in range(2):
            assert manager.until(wire.Fetch).offset == 0
            send(manager, DATA[:-1] + b"!", 0, until=5 * limits.CHUNK_BYTES)
        failed = manager.failure(attempt())
        assert (failed.error.code, failed.started) == ("internal", False)
        assert not list(cache.iterdir())
        grant(manager, attempt(number=2))
        manager.until(wire.Fetch)
        send(manager, DATA, 0)
        manager.picture(attempt(number=2))
