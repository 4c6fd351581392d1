"""The supervisor against children that do what children must not do."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from sdistrib import limits
from sdistrib.errors import ConfigError, EngineError
from sdistrib.protocol.engine import LogLine, Unload
from sdistrib_worker.supervisor import Died, EngineChild, Picture
from tests.support.engines import PYTHONPATH, died, receive_until, request, script

pytestmark = pytest.mark.process

HEAD = """
import ctypes, os, signal, socket, sys, time
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
from sdistrib.protocol.engine import *
from sdistrib.protocol.messages import EngineFacts
sock = socket.socket(fileno=int(sys.argv[1]))
facts = EngineFacts(version="0", backend="cpu", device="none", fingerprint="0" * 16)
def say(frame, *fds):
    socket.send_fds(sock, [encode_frame(frame)], list(fds))
def memory(data):
    fd = os.memfd_create("x")
    os.write(fd, data)
    return fd
def drawn(**more):
    return Drawn(**dict(ticket=1, width=2, height=2, channels=3, load_s=0, draw_s=0) | more)
"""
READY = HEAD + "say(Ready(facts=facts))\n"
#: With a stack, memory is dumped; without the limit a crash writes a core file somewhere.
NO_CORE = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"


_started: list[EngineChild] = []


@pytest.fixture(autouse=True)
def _stop_all() -> Iterator[None]:
    yield
    while _started:
        _started.pop().stop(grace_s=0.0)


def start(source: str) -> EngineChild:
    child = EngineChild(script(source), {"PYTHONPATH": PYTHONPATH})
    _started.append(child)
    child.start()
    return child


@pytest.mark.parametrize(
    ("end", "name"),
    [
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 3)", "SIGRTMIN"),
    ],
)
def test_a_signal_is_named(end: str, name: str) -> None:
    last = died(start(NO_CORE + READY + end))
    if name == "SIGRTMIN":
        name = f"signal {signal.SIGRTMIN + 3}"
    assert (last.signal_name, last.exit_status) == (name, None)
    assert last.info.code == "engine_crashed"
    assert last.info.signal == name
    assert f"ended by {name} (while idle)" in last.info.message
    assert last.was_ready
    assert not last.ours


@pytest.mark.parametrize(("source", "ready"), [(READY, True), (HEAD, False)])
def test_an_exit_is_told_with_its_status(source: str, ready: bool) -> None:
    last = died(start(source + "print('goodbye', file=sys.stderr)\nsys.exit(3)"))
    assert (last.exit_status, last.signal_name, last.was_ready) == (3, "", ready)
    assert last.info.code == "engine_crashed"
    assert "exit status 3" in last.info.message
    assert last.info.log_tail[-1] == "goodbye"


def test_a_traceback_is_in_the_tail() -> None:
    last = died(start(READY + "raise RuntimeError('what it was')"))
    assert last.exit_status == 1
    assert last.info.log_tail[-1] == "RuntimeError: what it was"


@pytest.mark.parametrize(
    "garbage",
    [
        "sock.sendall(b'hello world')",
        "sock.sendall(bytes(range(256)))",
        "sock.sendall(b'\\x92\\xa5Ready\\x80')",
        "sock.sendall(b'\\xdd\\xff\\xff\\xff\\xff' + bytes(4096))",
        "say(Unload())",
        "say(drawn())",
        "say(drawn(), memory(bytes(11)))",
        "say(drawn(), memory(bytes(13)))",
        "say(drawn(width=-2, height=-2), memory(bytes(12)))",
        "say(drawn(width=0), memory(b''))",
        "say(LogLine(level=0, text=''), *[memory(b'') for _ in range(9)])",
    ],
)
def test_a_garbled_stream_ends_the_child(garbage: str) -> None:
    last = died(start(READY + garbage + "\ntime.sleep(600)"))
    assert last.info.code == "engine_crashed"
    assert "garbled" in last.info.message
    assert last.signal_name == "SIGKILL"
    assert not last.ours


def test_what_came_before_the_garbage_counts() -> None:
    child = start(
        READY + "say(drawn(), memory(bytes(range(12))))\nsock.sendall(b'junk')\ntime.sleep(600)"
    )
    events = receive_until(child, lambda event: isinstance(event, Died))
    (picture,) = [event for event in events if isinstance(event, Picture)]
    assert picture.pixels() == bytes(range(12))
    assert "garbled" in events[-1].info.message


def test_half_a_frame_at_the_end_is_no_garbage() -> None:
    last = died(start(READY + "sock.sendall(encode_frame(drawn())[:9])\nsys.exit(0)"))
    assert "exit status 0" in last.info.message


def test_pixels_outlive_the_child() -> None:
    child = start(NO_CORE + READY + "say(drawn(), memory(bytes(range(12))))\nctypes.string_at(0)")
    events = receive_until(child, lambda event: isinstance(event, Died))
    (picture,) = [event for event in events if isinstance(event, Picture)]
    assert child.filenos() == ()
    assert picture.pixels() == bytes(range(12))


def test_pixels_that_shrink_are_an_error_and_no_bus_error() -> None:
    child = start(
        READY
        + "fd = memory(bytes(12))\nsay(drawn(), fd)\nsock.recv(1)\nos.ftruncate(fd, 5)\nsys.exit(0)"
    )
    events = receive_until(child, lambda event: isinstance(event, Picture))
    (picture,) = [event for event in events if isinstance(event, Picture)]
    child.send(Unload())
    died(child)
    with pytest.raises(EngineError, match="7 bytes"):
        picture.pixels()


def test_an_unread_picture_can_be_dropped() -> None:
    child = start(READY + "say(drawn(), memory(bytes(12)))\ntime.sleep(600)")
    events = receive_until(child, lambda event: isinstance(event, Picture))
    child.stop(grace_s=0.0)
    (picture,) = [event for event in events if isinstance(event, Picture)]
    picture.close()


def test_a_flood_of_output_blocks_nobody_and_is_cut() -> None:
    lines = 400_000
    child = start(READY + f"for i in range({lines}): print('line', i)\nsys.exit(0)")
    seen = most = 0
    last: Died | None = None
    while last is None:
        select.select(child.filenos(), [], [], 30)
        events = child.receive()
        seen += (now := sum(isinstance(event, LogLine) for event in events))
        most = max(most, now)
        last = events[-1] if events and isinstance(events[-1], Died) else None
    assert most < 500
    assert seen < lines
    assert len(last.info.log_tail) == limits.LOG_TAIL_LINES
    assert last.info.log_tail[-1] == f"line {lines - 1}"


def test_a_line_without_end_is_cut() -> None:
    last = died(start(READY + "sys.stderr.write('x' * 10_000_000)\nsys.exit(0)"))
    assert [len(line) for line in last.info.log_tail] == [limits.TEXT_CHARS_MAX]


def test_the_tail_belongs_to_the_image_that_died() -> None:
    child = start(
        READY + "say(LogLine(level=3, text='failed to allocate'))\nsay(Began(ticket=2))\n"
        "say(At(ticket=2, phase='sampling', step=3, steps=9))\n"
        "say(LogLine(level=0, text='a secret prompt'))\nsay(LogLine(level=1, text='drawing'))\n"
        "sys.exit(1)"
    )
    info = died(child).info
    assert info.log_tail == ("drawing",)
    assert info.code == "engine_crashed"
    assert "while sampling, step 3 of 9" in info.message


def test_memory_that_ran_out_is_told_apart() -> None:
    end = 'print("  what():  std::bad_alloc", file=sys.stderr)\nsys.stderr.flush()\nos.abort()'
    info = died(start(NO_CORE + READY + end)).info
    assert (info.code, info.signal) == ("out_of_memory", "SIGABRT")


def test_a_refused_device_is_a_reason_not_to_start() -> None:
    refuse = (
        HEAD + "say(Declined(ticket=0, code='unsupported', message='no cuda here'))\nsys.exit(2)"
    )
    child = start(refuse)
    with pytest.raises(ConfigError, match="no cuda here"):
        child.await_ready()
    last = died(start(refuse))
    assert last.refused
    assert (last.info.code, last.info.message) == ("unsupported", "no cuda here")


def test_a_child_that_dies_at_its_start_is_no_refusal() -> None:
    with pytest.raises(EngineError, match="exit status 1 \\(while starting\\)") as raised:
        start(HEAD + "sys.exit(1)").await_ready()
    assert raised.value.info.code == "engine_crashed"


def test_a_child_that_never_gets_ready_is_ended() -> None:
    with pytest.raises(EngineError, match="not ready within") as raised:
        start(HEAD + "time.sleep(600)").await_ready(timeout_s=0.05)
    assert raised.value.info.code == "engine_hung"


def test_sending_to_a_stopped_child_does_not_block() -> None:
    child = start(READY + "got = 0\nwhile got < 900_000: got += len(sock.recv(65536))\nsys.exit(7)")
    receive_until(child, lambda event: child.ready is not None)
    os.kill(child.pid, signal.SIGSTOP)
    big = request(prompt="x" * 15_000)
    while not child.wants_write:
        child.send(big)
    for _ in range(60):
        child.send(big)
    os.kill(child.pid, signal.SIGCONT)
    while child.wants_write:
        select.select([child.filenos()[0]], [child.filenos()[0]], [], 30)
        child.receive()
        if not child.filenos():
            break
    child.stop(grace_s=0.0)


def test_a_child_that_reads_nothing_is_an_error_in_the_end() -> None:
    child = start(READY + "time.sleep(600)")

    def send_without_end() -> None:
        while True:
            child.send(request(prompt="x" * 15_000))

    with pytest.raises(EngineError, match="unread") as raised:
        send_without_end()
    assert raised.value.info.code == "engine_hung"
    child.stop(grace_s=0.0)


def test_a_child_that_closes_its_socket_and_lives_on_is_ended() -> None:
    last = died(start(READY + "sock.close()\ntime.sleep(600)"))
    assert last.signal_name == "SIGKILL"
    assert last.info.code == "engine_crashed"


def test_stop_ends_a_child_that_does_not_listen() -> None:
    child = start(READY + "signal.pause()")
    child.await_ready()
    child.stop(grace_s=0.1)
    assert child.pid == 0
    child.stop()


def test_a_crash_just_before_our_kill_is_its_own() -> None:
    child = start(NO_CORE + READY + "ctypes.string_at(0)")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.kill("too slow")
    last = died(child)
    assert (last.signal_name, last.ours) == ("SIGSEGV", False)


def test_starting_from_another_thread_is_refused() -> None:
    errors: list[Exception] = []

    def run() -> None:
        try:
            EngineChild(script("")).start()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


def test_a_child_starts_once() -> None:
    child = start(READY + "time.sleep(600)")
    with pytest.raises(RuntimeError, match="before"):
        child.start()
    child.stop(grace_s=0.0)


def test_a_missing_program_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match="no-such-engine"):
        EngineChild(("/no-such-engine", "{fd}")).start()


def test_a_command_without_the_place_of_the_socket_is_a_bug() -> None:
    with pytest.raises(ValueError, match=r"\{fd\}"):
        EngineChild(("engine",))


def test_no_module_of_the_supervisor_loads_the_engine() -> None:
    check = (
        "import sys, sdistrib_worker.supervisor, sdistrib_worker.engine.child,"
        " sdistrib_worker.engine.__main__; print('stable_diffusion_cpp' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
