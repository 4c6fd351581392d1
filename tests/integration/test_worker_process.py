"""A real worker process with the scripted engine, against a manager made by the test."""

import os
import re
import signal
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from sdistrib import limits
from sdistrib.infotext import parse_chunk
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import decode_inventory
from sdistrib.testing.scripted_engine import picture
from tests.support.fake_manager import (
    PYTHONPATH,
    FakeManager,
    WorkerProcess,
    alive,
    attempt,
    fake_manager,
    wait_for,
)

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A tree that the scripted engine is content with."""
    for name in ("Stable-diffusion/tiny.safetensors", "Lora/style.gguf", "VAE/v.pt"):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
    return tmp_path / "models"


@pytest.fixture
def manager() -> Iterator[FakeManager]:
    """A manager that is there."""
    with fake_manager() as made:
        yield made


@pytest.fixture
def worker(manager: FakeManager, models: Path, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that said hello."""
    yield from _worker(manager, models, tmp_path)


@pytest.fixture
def impatient(manager: FakeManager, models: Path, tmp_path: Path) -> Iterator[WorkerProcess]:
    """One that takes some seconds of silence for a hang."""
    yield from _worker(manager, models, tmp_path, "--patience", "0.008")


def _worker(
    manager: FakeManager, models: Path, folder: Path, *options: str
) -> Iterator[WorkerProcess]:
    arguments = [manager.host, str(models), "--name", "box", *options]
    made = WorkerProcess(arguments, folder)
    try:
        manager.hello = manager.until(wire.WorkerHello)
        yield made
    finally:
        made.close()


def pixels(data: bytes) -> tuple[tuple[int, int], bytes]:
    """Size and pixels of a PNG."""
    image = Image.open(BytesIO(data))
    return image.size, image.tobytes()


# --- drawing ----------------------------------------------------------------------------------


def test_hello_grant_result(manager: FakeManager, worker: WorkerProcess, models: Path) -> None:
    hello = manager.hello
    assert (hello.name, hello.engine.backend, hello.protocols) == ("box", "cpu", (1,))
    inventory = decode_inventory(manager.body)
    assert {(file.kind, file.name) for file in inventory} == {
        ("stable-diffusion", "tiny.safetensors"), ("lora", "style.gguf"), ("vae", "v.pt"),
    }  # fmt: skip
    manager.grant(attempt(0), attempt(1), seed=7, prompt="a house, so secret", steps=3)
    assert manager.until(wire.Started).attempt == attempt(0)
    assert manager.until(wire.Step, lambda step: step.phase == "sampling").steps == 3
    for index in (0, 1):
        result, data = manager.picture(attempt(index))
        assert result.seed == 7 + index
        assert pixels(data) == ((64, 64), picture("a house, so secret", 7 + index, 64, 64))
        facts = parse_chunk(Image.open(BytesIO(data)).info["sdistrib"])
        assert (facts.worker, facts.seed) == ("box", 7 + index)
        assert facts.params.prompt == "a house, so secret"
    for word in ("box", "cpu", "scripted engine", hello.engine.fingerprint, "3 model files"):
        assert word in worker.log
    assert "secret" not in worker.log


def test_digests_and_new_files_follow_by_themselves(
    manager: FakeManager, worker: WorkerProcess, models: Path
) -> None:
    # The hello may know them already: the engine takes its time to start.
    while not all(file.digest for file in decode_inventory(manager.body)):
        manager.until(wire.Inventory)
    (models / "Lora" / "new.gguf").write_bytes(b"x")
    manager.until(wire.Inventory)
    assert "new.gguf" in {file.name for file in decode_inventory(manager.body)}


def test_a_large_picture_comes_in_pieces(manager: FakeManager, worker: WorkerProcess) -> None:
    manager.grant(attempt(), prompt="x !noise", width=3200, height=3200)
    result, data = manager.picture(attempt())
    assert result.size_bytes == len(data) > 30_000_000
    assert pixels(data)[1] == picture("x", 100, 3200, 3200, noise=True)


def test_pictures_of_an_unknown_model_are_refused_here(
    manager: FakeManager, worker: WorkerProcess, models: Path
) -> None:
    manager.grant(attempt(0), model="tinny")
    failed = manager.failure(attempt(0))
    assert failed.error.code == "model_not_found"
    assert failed.error.closest == ("tiny.safetensors",)
    # Gone since the last look: found out before the engine is asked.
    (models / "VAE" / "v.pt").unlink()
    manager.grant(attempt(1), vae="v")
    assert manager.failure(attempt(1)).error.code == "model_not_found"


# --- the crash guard --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("directive", "code", "signal_name", "words"),
    [
        ("!segv", "engine_crashed", "SIGSEGV", "while sampling"),
        ("!load_segv", "engine_crashed", "SIGSEGV", "while loading"),
        ("!abort", "engine_crashed", "SIGABRT", "while sampling"),
        ("!kill", "engine_crashed", "SIGKILL", "while sampling"),
        ("!exit=3", "engine_crashed", "", "exit status 3"),
        ("!garbage", "engine_crashed", "SIGKILL", "garbled"),
        ("!half", "engine_crashed", "SIGKILL", "garbled"),
    ],
)
def test_a_crash_is_a_typed_error_and_the_next_grant_succeeds(
    manager: FakeManager, worker: WorkerProcess, directive: str, code: str, signal_name: str,
    words: str,
) -> None:  # fmt: skip
    manager.grant(attempt(0), attempt(1), seed=50, prompt=f"a house {directive}@50")
    before = worker.engine()
    manager.until(wire.Started)
    failed = manager.failure(attempt(0))
    assert (failed.error.code, failed.started) == (code, True)
    assert failed.error.signal == signal_name
    assert words in failed.error.message
    assert "drawing the image of seed 50" in "\n".join(failed.error.log_tail)
    _, data = manager.picture(attempt(1))
    assert pixels(data)[1] == picture("a house", 51, 64, 64)
    assert worker.process.poll() is None
    assert worker.engine() != before
    assert not alive(before)


def test_a_hang_is_a_typed_error_and_the_next_grant_succeeds(
    manager: FakeManager, impatient: WorkerProcess
) -> None:
    manager.grant(attempt(0), attempt(1), seed=50, prompt="a house !hang@50", steps=1)
    failed = manager.failure(attempt(0))
    assert (failed.error.code, failed.error.signal) == ("engine_hung", "SIGKILL")
    assert "silent for 4.8 s while sampling, after step 0 of 1" in failed.error.message
    _, data = manager.picture(attempt(1))
    assert pixels(data)[1] == picture("a house", 51, 64, 64)
    assert impatient.process.poll() is None


@pytest.mark.parametrize(
    ("directive", "code"),
    [("!decline=out_of_memory", "out_of_memory"), ("!load_decline=engine_error", "engine_error")],
)
def test_declined_images_keep_their_engine(
    manager: FakeManager, worker: WorkerProcess, directive: str, code: str
) -> None:
    manager.grant(attempt(0), attempt(1), seed=50, prompt=f"a house {directive}@50")
    before = worker.engine()
    assert manager.failure(attempt(0)).error.code == code
    manager.picture(attempt(1))
    assert worker.engine() == before


def test_a_flood_on_standard_error_drowns_nobody(
    manager: FakeManager, worker: WorkerProcess
) -> None:
    manager.grant(attempt(0), prompt="a house !flood")
    result, _ = manager.picture(attempt(0))
    assert result.width == 64
    status = Path(f"/proc/{worker.pid}/status").read_text()
    peak_kib = int(re.search(r"VmHWM:\s+(\d+)", status).group(1))
    assert peak_kib < 200 * limits.KIB


def test_a_crash_does_not_cost_the_picture_before_it(
    manager: FakeManager, worker: WorkerProcess
) -> None:
    manager.grant(
        attempt(0), attempt(1), seed=50, prompt="x !noise@50 !segv@51", width=1600, height=1600
    )
    _, data = manager.picture(attempt(0))
    assert pixels(data)[1] == picture("x", 50, 1600, 1600, noise=True)
    assert "SIGSEGV" in worker.log


def test_the_engine_dies_with_its_worker(manager: FakeManager, worker: WorkerProcess) -> None:
    manager.grant(attempt(0), prompt="a house !hang")
    manager.until(wire.Started)
    engine = worker.engine()
    worker.signal(signal.SIGKILL)
    assert worker.exit_status() == -signal.SIGKILL
    wait_for(lambda: not alive(engine), "end of the engine")


def test_nobody_wants_it_any_more(manager: FakeManager, worker: WorkerProcess) -> None:
    manager.grant(attempt(0), attempt(1), attempt(2), prompt="a house !sleep=60@100", steps=20)
    manager.until(wire.Started)
    engine = worker.engine()
    manager.say(wire.Revoke(attempt=attempt(2)))
    assert manager.until(wire.Revoked).attempt == attempt(2)
    manager.say(wire.Abandon(attempt=attempt(0)))
    # Its first step of three seconds tells that ending the engine is cheaper.
    result, _ = manager.picture(attempt(1))
    assert result.seed == 101
    assert not [message for message, _ in manager.heard if isinstance(message, wire.Failed)]
    assert worker.engine() != engine


# --- the manager goes and comes ---------------------------------------------------------------


def test_what_was_finished_while_the_manager_was_away_is_handed_in(
    models: Path, tmp_path: Path
) -> None:
    with fake_manager() as first:
        port = int(first.host.rpartition(":")[2])
        worker = WorkerProcess([first.host, str(models)], tmp_path)
        try:
            hello = first.until(wire.WorkerHello)
            first.grant(attempt(0), prompt="a house !sleep=2")
            first.until(wire.Started)
        except BaseException:
            worker.close()
            raise
    try:
        wait_for(lambda: "drawn in" in worker.log, "picture")
        with fake_manager(port) as second:
            again = second.until(wire.WorkerHello)
            assert again.instance == hello.instance
            assert again.holding == (attempt(0),)
            _, data = second.picture(attempt(0))
            assert pixels(data)[1] == picture("a house", 100, 64, 64)
    finally:
        worker.close()


def test_identify_is_answered_by_a_hello_with_what_runs(
    manager: FakeManager, worker: WorkerProcess
) -> None:
    manager.grant(attempt(0), attempt(1), prompt="a house !sleep=2@100")
    manager.until(wire.Started)
    manager.say(wire.Identify())
    hello = manager.until(wire.WorkerHello)
    assert hello.running == (attempt(0),)
    assert manager.until(wire.Revoked).attempt == attempt(1)
    manager.picture(attempt(0))


def test_nobody_at_the_address_is_said_once(models: Path, tmp_path: Path) -> None:
    with fake_manager() as manager:
        manager.polite = False  # it listens and says nothing
        worker = WorkerProcess([manager.host, str(models)], tmp_path)
        try:
            wait_for(lambda: "No answer from the manager" in worker.log, "notice")
            assert manager.host in worker.log
            # Two more hellos, no more notices.
            for _ in range(3):
                manager.until(wire.WorkerHello)
            assert worker.log.count("No answer from the manager") == 1
        finally:
            worker.close()


def test_a_worker_of_another_protocol_version_ends(models: Path, tmp_path: Path) -> None:
    with fake_manager() as manager:
        manager.polite = False
        worker = WorkerProcess([manager.host, str(models)], tmp_path)
        try:
            manager.until(wire.WorkerHello)
            error = wire.ErrorInfo(code="protocol_error", message="this manager speaks 2")
            manager.say(wire.Fault(error=error))
            assert worker.exit_status() == 7
            assert "this manager speaks 2" in worker.log
        finally:
            worker.close()


# --- leaving ----------------------------------------------------------------------------------


def test_sigterm_finishes_the_image_and_hands_it_in(
    manager: FakeManager, worker: WorkerProcess
) -> None:
    manager.grant(attempt(0), attempt(1), prompt="a house !sleep=1")
    manager.until(wire.Started)
    worker.signal(signal.SIGTERM)
    assert manager.until(wire.Revoked).attempt == attempt(1)
    manager.picture(attempt(0))
    manager.until(wire.Goodbye)
    assert worker.exit_status() == 0


def test_a_second_sigterm_gives_everything_back(
    manager: FakeManager, worker: WorkerProcess
) -> None:
    manager.grant(attempt(0), attempt(1), prompt="a house !hang")
    manager.until(wire.Started)
    engine = worker.engine()
    worker.signal(signal.SIGTERM)
    manager.until(wire.Revoked)
    worker.signal(signal.SIGTERM)
    failed = manager.failure(attempt(0))
    assert (failed.error.code, failed.started) == ("worker_lost", True)
    manager.until(wire.Goodbye)
    assert worker.exit_status() == 0
    assert not alive(engine)


def test_ctrl_c_in_a_terminal_is_a_sigterm(models: Path, tmp_path: Path) -> None:
    with fake_manager() as manager:
        worker = WorkerProcess([manager.host, str(models)], tmp_path, start_new_session=True)
        try:
            manager.until(wire.WorkerHello)
            manager.grant(attempt(0), prompt="a house !sleep=1")
            manager.until(wire.Started)
            os.killpg(worker.pid, signal.SIGINT)  # the engine gets it as well
            manager.picture(attempt(0))
            manager.until(wire.Goodbye)
            assert worker.exit_status() == 0
        finally:
            worker.close()


# --- starting ---------------------------------------------------------------------------------


def ended(tmp_path: Path, *arguments: str, **more: object) -> tuple[int, str]:
    """Exit status and log of a worker that ends by itself."""
    worker = WorkerProcess(arguments, tmp_path, **more)
    try:
        return worker.exit_status(), worker.log
    finally:
        worker.close()


def test_models_folders_that_cannot_serve(tmp_path: Path, models: Path) -> None:
    status, log = ended(tmp_path, "127.0.0.1", str(tmp_path / "nowhere"))
    assert (status, len(log.splitlines())) == (2, 1)
    assert f"MODELS_DIR {tmp_path / 'nowhere'} does not exist" in log
    status, log = ended(tmp_path, "127.0.0.1", str(models / "VAE" / "v.pt"))
    assert (status, "is not a folder" in log) == (2, True)


def test_an_unreadable_models_folder(tmp_path: Path, models: Path) -> None:
    # Root may read everything; without its capabilities it is like anybody.
    (tmp_path / "powerless.py").write_text(
        "import ctypes, runpy\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0\n"
        "runpy.run_module('tests.support.scripted_worker', run_name='__main__')\n"
    )
    models.chmod(0)
    path = {"PYTHONPATH": f"{tmp_path}:{PYTHONPATH}"}
    worker = WorkerProcess(["127.0.0.1", str(models)], tmp_path, path, "powerless")
    try:
        assert worker.exit_status() == 2
        assert f"MODELS_DIR {models} cannot be read: Permission denied" in worker.log
        assert "Traceback" not in worker.log
    finally:
        worker.close()
        models.chmod(0o755)


def test_an_empty_models_folder_is_warned_about(manager: FakeManager, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    worker = WorkerProcess([manager.host, str(tmp_path / "empty")], tmp_path)
    try:
        manager.until(wire.WorkerHello)
        assert "No model files in" in worker.log
        assert "stable-diffusion" in worker.log
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["192.0.2.1"], 2, "--insecure-lan"),
        (["manager.example:4134"], 2, "--insecure-lan"),
        (["127.0.0.1:99999"], 2, "is no HOST"),
        (["127.0.0.1", "--device", "gpu7"], 2, "--device"),
        (["127.0.0.1", "--device", "cuda0"], 2, "has no cuda0"),
        (["127.0.0.1", "--name", ""], 2, "--name"),
        (["127.0.0.1", "--patience", "0"], 2, "--patience"),
    ],
)
def test_starts_that_are_refused(
    tmp_path: Path, models: Path, arguments: list[str], status: int, words: str
) -> None:
    host, *options = arguments
    found, log = ended(tmp_path, host, str(models), *options)
    assert found == status, log
    assert words in log
    assert "Traceback" not in log


def test_an_engine_that_never_starts(tmp_path: Path, models: Path) -> None:
    status, log = ended(
        tmp_path, "127.0.0.1", str(models), environment={"SDISTRIB_SCRIPTED_START": "exit=9"}
    )
    assert status == 1
    assert "The engine does not start" in log
    assert "exit status 9" in log


def test_a_missing_extra_is_named(tmp_path: Path, models: Path) -> None:
    blocker = tmp_path / "without.py"
    blocker.write_text(
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'PIL' else find(n, *a)\n"
        "sys.argv[1:] = ['127.0.0.1', 'models']\n"
        "runpy.run_module('sdistrib_worker', run_name='__main__')\n"
    )
    worker = WorkerProcess([], tmp_path, {"PYTHONPATH": f"{tmp_path}:{PYTHONPATH}"}, "without")
    try:
        assert worker.exit_status() == 2
        assert "pip install 'sdistrib[worker]'" in worker.log
        assert len(worker.log.splitlines()) == 1
    finally:
        worker.close()


def test_json_logs(manager: FakeManager, models: Path, tmp_path: Path) -> None:
    worker = WorkerProcess([manager.host, str(models), "--log-json"], tmp_path)
    try:
        manager.until(wire.WorkerHello)
        wait_for(lambda: '"level": "info"' in worker.log, "line")
    finally:
        worker.close()


def test_a_late_turn_is_nobodys_fault(manager: FakeManager, worker: WorkerProcess) -> None:
    """A worker that was stopped for longer than the notice takes does not blame its manager."""
    manager.until(wire.EngineState)
    manager.polite = False  # else its beats would wait there, and tell that it was alive
    worker.signal(signal.SIGSTOP)
    try:
        until = time.monotonic() + limits.SILENCE_NOTICE_S + 1
        while time.monotonic() < until:
            manager.listen(0.2)
    finally:
        worker.signal(signal.SIGCONT)
    manager.heard.clear()
    manager.until(wire.Beat)
    manager.polite = True
    manager.grant(attempt(0))
    manager.picture(attempt(0))
    assert "No answer" not in worker.log
