"""The real manager process on free ports, with hand-made peers, good and bad."""

import random
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from sdistrib.errors import EXIT_USAGE
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode
from tests.support.manager_process import (
    PATIENCE_S,
    Client,
    Manager,
    Peer,
    Worker,
    running_manager,
    start,
)

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

MB = 1_000_000


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with running_manager(tmp_path) as made:
        yield made


def draws_a_petition(manager: Manager, number: int = 99) -> None:
    """The manager still does its work."""
    client, worker = Client(manager), Worker(manager, f"proof{number}")
    pid = client.submits(number)
    assert client.waits_for(wire.Finished) == wire.Finished(id=pid, state="done", done=(0,))
    for peer in (client, worker):
        peer.says(wire.Goodbye())
        manager.peers.remove(peer)


def test_a_petition_from_submit_to_finished(manager):
    client, workers = Client(manager), [Worker(manager, "gpu1"), Worker(manager, "gpu2")]
    pid = client.submits(1, images=8)
    finished = client.waits_for(wire.Finished)
    assert (finished.state, finished.done) == ("done", tuple(range(8)))
    assert client.pictures == {(pid, i): f"{pid} {i}".encode() for i in range(8)}
    assert sum((worker.begun for worker in workers), Counter()).total() == 8
    assert "lighthouse" not in manager.log, "a prompt was logged"


def test_two_clients_at_once_get_their_own_pictures(manager):
    Worker(manager, "gpu1")
    ana, ben = Client(manager), Client(manager)
    one, two = ana.submits(1, images=5), ben.submits(2, images=5)
    for client, pid in ((ana, one), (ben, two)):
        assert client.waits_for(wire.Finished).id == pid
        assert set(client.pictures) == {(pid, i) for i in range(5)}


@pytest.mark.parametrize("port", ["client", "worker"])
def test_the_cpp_ancestor_is_told_apart_logged_and_harms_nobody(manager, port):
    for kind in (zmq.REQ, zmq.DEALER):
        old = manager.plain_socket(kind, port)
        old.send(b'{"prompt": "a cat"}' if kind == zmq.REQ else b"")
    manager.until(lambda: manager.log.count("protocol_error") >= 1)
    old = manager.plain_socket(zmq.DEALER, port)
    old.send_multipart([b"", b"READY"])
    manager.until(lambda: "C++ sdistrib" in manager.log)
    assert "a cat" not in manager.log
    draws_a_petition(manager)


@pytest.mark.parametrize("port", ["client", "worker"])
def test_another_version_is_answered_with_a_fault_that_says_so(manager, port):
    peer = Peer(manager)
    peer.dealer = manager.dial(port)
    hello = wire.ClientHello(protocols=(2,), software="sdistrib 9")
    if port == "client":
        peer.says(hello)
        assert "[2]" in peer.waits_for(wire.Fault).error.message
    frames = encode(hello)
    frames[0] = b"\x02" + bytes(frames[0])[1:]
    manager.until(lambda: peer.dealer.send(frames) == "sent")
    fault = peer.waits_for(wire.Fault, 2 if port == "client" else 1)
    assert fault.error.code == "protocol_error"
    assert "version 2" in fault.error.message
    manager.peers.remove(peer)
    draws_a_petition(manager)


def ends_with_usage(tmp_path: Path, *args: str) -> str:
    """The one line of a manager that refuses to start."""
    log = tmp_path / "refused.log"
    process = start(log, *args)
    assert process.wait(PATIENCE_S) == EXIT_USAGE
    (line,) = log.read_text(encoding="utf-8").splitlines()
    return line


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104
def test_a_wider_bind_needs_the_word_insecure(tmp_path, address):
    line = ends_with_usage(tmp_path, "--bind", address)
    assert "--insecure-lan" in line
    assert address in line


def test_a_bind_that_is_no_address_is_refused(tmp_path):
    assert "no IP address" in ends_with_usage(tmp_path, "--bind", "my-box")


@pytest.mark.parametrize("which", ["--client-port", "--worker-port"])
def test_a_port_in_use_is_one_line_and_not_a_traceback(tmp_path, which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        other = {"--client-port": "--worker-port"}.get(which, "--client-port")
        line = ends_with_usage(tmp_path, which, port, other, "0")
    assert f"127.0.0.1:{port}" in line
    assert "another manager" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_says_goodbye_and_ends_with_0(manager, number):
    client, worker = Client(manager), Worker(manager, "gpu1", draw_s=1000.0)
    client.submits(1)
    manager.until(lambda: worker.begun)
    manager.signal(number)
    assert manager.until_it_ends() == 0
    for peer in (client, worker):
        assert len(peer.all(wire.Goodbye)) == 1
    assert "Traceback" not in manager.log


def garbage(chance: random.Random) -> list[bytes]:
    """Frames that mean nothing, some of which look as if they did."""
    frames = [chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 6))]
    if chance.random() < 0.5:
        verb = chance.choice(["SUBMIT", "WORKER_HELLO", "RESULT", "BEAT", "CHUNK", "CLIENT_HELLO"])
        frames[0] = b"\x01" + verb.encode()
    return frames


def test_a_thousand_garbage_messages_are_answered_and_forgotten(manager):
    draws_a_petition(manager, 98)
    chance, before = random.Random(4133), manager.rss_bytes
    for port in ("client", "worker"):
        peer = manager.dial(port)
        for _ in range(500):
            frames = garbage(chance)
            manager.until(lambda peer=peer, frames=frames: peer.send(frames) == "sent")
    manager.until(lambda: manager.log.count("protocol_error") > 900)
    draws_a_petition(manager)
    assert manager.rss_bytes < before + 20 * MB
    assert "Traceback" not in manager.log


def test_a_client_that_never_reads_grows_nothing_and_stalls_nobody(manager):
    deaf, worker = Client(manager), Worker(manager, "gpu1", size=MB)
    deaf.submits(1, images=50)
    deaf.deaf = True
    ana = Client(manager)
    manager.until(lambda: worker.begun.total() > 2)
    before = manager.rss_bytes
    # All fifty are the same picture, kept once: what grows is only what waits for the deaf one.
    ana.submits(2, images=3)
    assert ana.waits_for(wire.Finished).done == (0, 1, 2)
    manager.until(lambda: ana.asks().done_images == 53)
    assert manager.rss_bytes < before + 20 * MB
    assert not deaf.pictures
    deaf.deaf = False
    assert deaf.waits_for(wire.Finished).done == tuple(range(50))


def test_a_manager_that_was_stopped_for_a_while_evicts_nobody_and_draws_nothing_twice(manager):
    client = Client(manager)
    workers = [Worker(manager, name, draw_s=0.4) for name in ("gpu1", "gpu2")]
    pid = client.submits(1, images=12)
    manager.until(lambda: len(client.pictures) >= 2)
    manager.signal(signal.SIGSTOP)
    manager.go_on_for(5.0)
    manager.signal(signal.SIGCONT)
    finished = client.waits_for(wire.Finished)
    assert finished == wire.Finished(id=pid, state="done", done=tuple(range(12)))
    begun = sum((worker.begun for worker in workers), Counter())
    assert begun == Counter({(pid, index): 1 for index in range(12)})
    for peer in (client, *workers):
        assert not peer.all(wire.Identify)
    assert "gone" not in manager.log
    assert "disconnected" not in manager.log


def test_a_worker_that_is_killed_costs_one_attempt_and_is_noticed_at_once(manager):
    client, doomed = Client(manager), Worker(manager, "gpu1", draw_s=1000.0)
    client.submits(1)
    manager.until(lambda: doomed.begun)
    manager.peers.remove(doomed)
    doomed.dealer.close()
    worker = Worker(manager, "gpu2")
    assert client.waits_for(wire.Finished).state == "done"
    assert worker.begun.total() == 1
