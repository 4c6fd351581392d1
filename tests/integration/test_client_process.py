"""The real `sdistrib-client` process against a manager that does what the test says."""

import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sdistrib import limits
from sdistrib.errors import ERROR_TABLE, ErrorCode, ErrorInfo
from sdistrib.protocol import messages as wire
from tests.support.cluster import ROOT, Process
from tests.support.scripted_manager import ScriptedManager, png

pytestmark = pytest.mark.process

Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts clients; ends them with the test."""
    started: list[Process] = []

    def run(*words: str, env: dict[str, str] | None = None) -> Process:
        started.append(Process("sdistrib_client", *words, env=env))
        return started[-1]

    yield run
    for process in started:
        process.close()


def draw_words(manager: ScriptedManager, *more: str) -> list[str]:
    return [manager.host, "-m", "tiny", "-p", "a secret wish", *more]


def accept_only(manager: ScriptedManager, route: bytes, submit: wire.Submit, body: bytes) -> None:
    manager.accept(route, submit.id, body)


def quiet(_manager: ScriptedManager, _route: bytes, _message: Any, _body: bytes) -> None:
    """Say nothing."""


def test_pictures_go_to_numbered_files_and_are_reported(start, tmp_path):
    with ScriptedManager() as manager:
        client = start(*draw_words(manager, "-b", "3", "-s", "100", "-o", f"{tmp_path}/a/out.png"))
        assert client.ends() == 0, client.errors
        manager.wait_for(wire.Goodbye)
    for index in range(3):
        path = tmp_path / "a" / f"out_{index}.png"
        assert path.read_bytes() == png(100 + index)
        assert f"picture {index}: seed {100 + index} -> {path}\n" in client.errors
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        f"out_{index}.png" for index in range(3)
    ]
    assert "queued, 2 pictures ahead\n" in client.errors
    assert "picture 0 on gpu1: sampling 3/20 2.00 it/s; about 9 s left\n" in client.errors
    assert "note: the size was rounded up\n" in client.errors
    assert client.output == ""
    assert "secret" not in client.errors


def test_a_picture_of_five_megabytes_comes_in_pieces(start, tmp_path):
    with ScriptedManager() as manager:
        manager.size_bytes = 5 * limits.MIB
        client = start(*draw_words(manager, "-o", f"{tmp_path}/big.png"))
        assert client.ends() == 0, client.errors
        assert len(manager.of(wire.ChunkSeen)) == 6
    assert (tmp_path / "big.png").read_bytes() == png(42, 5 * limits.MIB)


def test_standard_output_gets_the_picture_and_nothing_else():
    with ScriptedManager() as manager:
        done = subprocess.run(
            [sys.executable, "-m", "sdistrib_client", *draw_words(manager, "-o", "-", "-v")],
            capture_output=True,
            check=False,
            cwd=ROOT,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == png(42)
    assert b"picture 0: seed 42 -> standard output\n" in done.stderr
    assert b"8x8 on gpu1 (0123456789abcdef): load 1.00 s, draw 2.00 s" in done.stderr


def test_json_is_one_object_per_event_and_ends_with_finished(start, tmp_path):
    with ScriptedManager() as manager:
        client = start(*draw_words(manager, "--json", "-o", f"{tmp_path}/out.png"))
        assert client.ends() == 0, client.errors
    events = {event["event"]: event for event in client.events}
    assert list(events) == ["accepted", "progress", "image", "finished"]
    assert events["image"]["path"] == f"{tmp_path}/out.png"
    assert events["image"]["sha256"] == manager.result(events["image"]["id"], 0, png(42)).digest
    assert events["finished"]["exit_status"] == 0
    assert client.errors == ""


@pytest.mark.parametrize("code", sorted(ERROR_TABLE))
def test_every_error_code_has_its_exit_status(start, tmp_path, code: ErrorCode):
    def refuse(manager: ScriptedManager, route: bytes, submit: wire.Submit, _body: bytes) -> None:
        error = ErrorInfo(code=code, message="It is so.", worker="gpu1", attempt=2)
        manager.say(route, wire.Refused(id=submit.id, error=error))

    with ScriptedManager({wire.Submit: refuse}) as manager:
        client = start(*draw_words(manager, "-o", f"{tmp_path}/out.png"))
        assert client.ends() == ERROR_TABLE[code].exit_status
    assert f"error: It is so. (on gpu1, attempt 2) [{code}]\n" in client.errors
    assert ERROR_TABLE[code].next_step in client.errors


def test_nobody_there_is_exit_3_after_one_notice(start, tmp_path):
    words = ["127.0.0.1:1", "-m", "tiny", "-p", "x", "-o", f"{tmp_path}/out.png"]
    client = start(*words, "--connect-timeout", "6")
    assert client.ends() == 3
    assert client.errors.count("No answer from 127.0.0.1:1 for 5 s") == 1
    assert "error: No manager answers: nothing from 127.0.0.1:1 for 6 s." in client.errors
    assert list(tmp_path.iterdir()) == []


def test_a_manager_that_never_welcomes_is_unreachable(start):
    with ScriptedManager({wire.ClientHello: quiet}) as manager:
        client = start(manager.host, "workers", "--connect-timeout", "1")
        assert client.ends() == 3
        assert manager.of(wire.ClientHello)
    assert "No manager answers" in client.errors


def test_ctrl_c_cancels_that_petition_and_is_130(start, tmp_path):
    with ScriptedManager({wire.Submit: accept_only}) as manager:
        client = start(*draw_words(manager, "-o", f"{tmp_path}/out.png"))
        client.says("queued")
        client.signals(signal.SIGINT)
        assert client.ends() == 130
        (cancel,) = manager.of(wire.Cancel)
        assert [cancel.id] == [submit.id for submit in manager.of(wire.Submit)]
        manager.wait_for(wire.Goodbye)
    assert "error: The petition was cancelled. [cancelled]\n" in client.errors
    assert "Traceback" not in client.errors


def test_a_cancel_that_nobody_confirms_is_said_to_be_so(start, tmp_path):
    with ScriptedManager({wire.Submit: accept_only, wire.Cancel: quiet}) as manager:
        client = start(*draw_words(manager, "-o", f"{tmp_path}/out.png"))
        client.says("queued")
        client.signals(signal.SIGINT)
        assert client.ends() == 130
    assert "The cancel is not confirmed." in client.errors


def test_the_second_ctrl_c_leaves_at_once(start, tmp_path):
    """The manager never confirms; the end is not the one that waits for it."""
    with ScriptedManager({wire.Submit: accept_only, wire.Cancel: quiet}) as manager:
        client = start(*draw_words(manager, "-o", f"{tmp_path}/out.png"))
        client.says("queued")
        client.signals(signal.SIGINT)
        manager.wait_for(wire.Cancel)
        client.signals(signal.SIGINT)
        assert client.ends() == 130
    assert "not confirmed" not in client.errors
    assert "Traceback" not in client.errors


def test_sigterm_cancels_too(start, tmp_path):
    with ScriptedManager({wire.Submit: accept_only}) as manager:
        client = start(*draw_words(manager, "-o", f"{tmp_path}/out.png"))
        client.says("queued")
        client.signals(signal.SIGTERM)
        assert client.ends() == 128 + signal.SIGTERM
        assert manager.of(wire.Cancel)


def test_ctrl_c_while_connecting_ends_at_once(start, tmp_path):
    client = start(
        *("127.0.0.1:1", "-m", "tiny", "-p", "x", "-o", f"{tmp_path}/o.png", "-v"),
        *("--connect-timeout", "1000"),
    )
    client.says("petition ")
    client.signals(signal.SIGINT)
    assert client.ends() == 130


def test_identify_brings_the_same_bytes_again(start, tmp_path):
    def forget_once(
        manager: ScriptedManager, route: bytes, submit: wire.Submit, body: bytes
    ) -> None:
        if len(manager.of(wire.Submit)) == 1:
            manager.say(route, wire.Identify())
        else:
            manager.draw(route, submit.id, body)

    with ScriptedManager({wire.Submit: forget_once}) as manager:
        client = start(*draw_words(manager, "-s", "-1", "-o", f"{tmp_path}/out.png"))
        assert client.ends() == 0, client.errors
        submits = [(m, body) for _, m, body in manager.heard if isinstance(m, wire.Submit)]
    assert len(submits) == 2
    assert submits[0] == submits[1]


def test_a_restarted_manager_gets_the_same_bytes_again(start, tmp_path):
    with ScriptedManager({wire.Submit: accept_only}) as first:
        client = start(*draw_words(first, "-b", "2", "-o", f"{tmp_path}/out.png"))
        client.says("queued")
    with ScriptedManager(port=first.port) as second:
        assert client.ends() == 0, client.errors
        (before,) = [body for _, m, body in first.heard if isinstance(m, wire.Submit)]
        (after,) = [body for _, m, body in second.heard if isinstance(m, wire.Submit)]
    assert before == after
    assert first.of(wire.Submit) == second.of(wire.Submit)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_manager_that_speaks_of_another_protocol_is_exit_7(start, tmp_path):
    def fault(manager: ScriptedManager, route: bytes, _message: Any, _body: bytes) -> None:
        error = ErrorInfo(code="protocol_error", message="speaks protocol 2 only")
        manager.say(route, wire.Fault(error=error))

    with ScriptedManager({wire.ClientHello: fault}) as manager:
        client = start(*draw_words(manager, "-o", f"{tmp_path}/out.png"))
        assert client.ends() == 7
    assert "speaks protocol 2 only" in client.errors
    assert "Install the same sdistrib version on both machines." in client.errors


def test_a_manager_that_speaks_another_protocol_is_exit_7(start, tmp_path):
    def speak(manager: ScriptedManager, route: bytes, _message: Any, _body: bytes) -> None:
        manager.raw(route, [b"\x02WELCOME", b"\x80"])

    with ScriptedManager({wire.ClientHello: speak}) as manager:
        client = start(manager.host, "status")
        assert client.ends() == 7
    assert "protocol version 2 is not spoken here, only 1" in client.errors


def test_an_unwritable_output_is_found_before_anything_is_sent(start, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with ScriptedManager() as manager:
        client = start(*draw_words(manager, "-o", f"{tmp_path}/file/out.png"))
        assert client.ends() == 2
        assert manager.heard == []
    assert f"Cannot write {tmp_path}/file/out.png: " in client.errors
    assert client.errors.count("\n") == 1


def test_a_disk_that_fills_up_keeps_the_picture_with_the_manager(start, tmp_path):
    def limit_then_draw(
        manager: ScriptedManager, route: bytes, submit: wire.Submit, body: bytes
    ) -> None:
        manager.accept(route, submit.id, body)
        # A file may not grow beyond this: what a full disk looks like from inside a write. Wide
        # enough for what coverage writes at the end.
        resource.prlimit(pids[0], resource.RLIMIT_FSIZE, (3 * limits.MIB, 3 * limits.MIB))
        manager.send_picture(route, submit.id, 1)

    pids: list[int] = []
    with ScriptedManager() as manager:
        manager.size_bytes = 4 * limits.MIB
        manager.answers[wire.ClientHello], welcome = quiet, manager.answers[wire.ClientHello]
        manager.answers[wire.Submit] = limit_then_draw
        client = start(*draw_words(manager, "-b", "2", "-o", f"{tmp_path}/out.png"))
        pids.append(client.pid)
        manager.answers[wire.ClientHello] = welcome
        assert client.ends() == 1
        assert manager.of(wire.ResultSeen) == []
        assert len(manager.of(wire.Cancel)) == 1
    assert f"Cannot write {tmp_path}/out_1.png: File too large." in client.errors
    assert "stays with the manager" in client.errors
    assert "--seed 43" in client.errors
    assert list(tmp_path.iterdir()) == []


def test_two_clients_at_once_get_their_own_pictures(start, tmp_path):
    with ScriptedManager() as manager:
        clients = [
            start(*draw_words(manager, "-b", "3", "-s", seed, "-o", f"{tmp_path}/{seed}.png"))
            for seed in ("10", "20")
        ]
        assert [client.ends() for client in clients] == [0, 0]
    for seed in (10, 20):
        for index in range(3):
            assert (tmp_path / f"{seed}_{index}.png").read_bytes() == png(seed + index)


def test_variables_set_flags(start, tmp_path):
    with ScriptedManager() as manager:
        client = start(
            *(manager.host, "-p", "x"),
            env={
                "SDISTRIB_MODEL": "tiny",
                "SDISTRIB_SEED": "5",
                "SDISTRIB_VAE_TILING": "1",
                "SDISTRIB_DISABLE_IMAGE_METADATA": "1",
                "SDISTRIB_OUTPUT": f"{tmp_path}/out.png",
            },
        )
        assert client.ends() == 0, client.errors
    (petition,) = manager.petitions.values()
    assert (petition.seed, petition.params.model) == (5, "tiny")
    assert petition.params.vae_tiling
    assert not petition.params.metadata


def test_a_terminal_sees_bars(tmp_path):
    with ScriptedManager() as manager:
        ours, theirs = pty.openpty()
        try:
            client = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sdistrib_client"),
                    *draw_words(manager, "-o", f"{tmp_path}/out.png"),
                ],
                stderr=theirs,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
            )
            assert client.wait(60) == 0
            shown = os.read(ours, 65536).decode()
        finally:
            os.close(ours)
            os.close(theirs)
    assert "\x1b[" in shown
    assert "picture 0: seed 42 -> " in shown


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    """`sdistrib-client … --json | head -0`."""
    with ScriptedManager() as manager:
        ours, theirs = os.pipe()
        os.close(ours)
        try:
            client = subprocess.run(
                [
                    *(sys.executable, "-m", "sdistrib_client"),
                    *draw_words(manager, "--json", "-o", f"{tmp_path}/out.png"),
                ],
                stdout=theirs,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                cwd=ROOT,
                timeout=60,
            )
        finally:
            os.close(theirs)
        assert manager.of(wire.Cancel)
    assert client.returncode == 1
    assert "Traceback" not in client.stderr
