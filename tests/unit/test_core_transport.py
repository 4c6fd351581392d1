"""The sockets, over real loopback connections: every answer that a send can have, and bad peers."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from sdistrib import limits
from sdistrib.errors import ConfigError
from sdistrib.transport import (
    CLIENT_PORT,
    WORKER_PORT,
    Address,
    Dealer,
    Router,
    Watch,
    parse_address,
    zmq_context,
)


class Net:
    """Sockets of one test, all closed at its end."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.sockets: list[Any] = []

    def router(self, port: int = 0) -> Router:
        self.sockets.append(Router(self.context, Address("127.0.0.1", port)))
        return self.sockets[-1]

    def dealer(self, port: int) -> Dealer:
        self.sockets.append(Dealer(self.context, Address("127.0.0.1", port)))
        return self.sockets[-1]

    def plain(self) -> Any:
        plain = self.context.socket(zmq.DEALER)
        plain.setsockopt(zmq.LINGER, 0)
        self.sockets.append(plain)
        return plain


@pytest.fixture
def net() -> Iterator[Net]:
    with zmq_context() as context:
        made = Net(context)
        yield made
        for each in made.sockets:
            each.close()


@pytest.fixture
def router(net) -> Router:
    return net.router()


def until(look: Callable[[], Any], *sources: Router | Dealer, seconds: float = 10.0) -> Any:
    """What `look` finds, once it finds something."""
    watch = Watch()
    for source in sources:
        watch.add(source)
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing came of it"
        watch.wait(0.01)
    return found


def meet(router: Router, dealer: Dealer) -> bytes:
    """Let the router know the dealer; its route."""
    until(lambda: dealer.send([b"hello"]) == "sent")
    route, frames = until(router.receive, router)
    assert frames == [b"hello"]
    return route


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("gpu1", "gpu1", 7),
        ("gpu1:99", "gpu1", 99),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("tcp://gpu1:99", "gpu1", 99),
        ("tcp://gpu1", "gpu1", 7),
        ("::1", "::1", 7),
        ("fe80::1%eth0", "fe80::1%eth0", 7),
        ("[::1]", "::1", 7),
        ("[::1]:99", "::1", 99),
        ("tcp://[::1]:99", "::1", 99),
    ],
)
def test_addresses_in_every_spelling(text, host, port):
    assert parse_address(text, 7) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "", ":99", "gpu1:0", "gpu1:65536", "gpu1:-1", "gpu1:x", "gpu1:9 9", "gpu1:\u0661",
        "a b", "a/b", "tcp://", "http://gpu1", "*:99", "gpu1\0", "[]:99", "[::1", "[::1]99",
        "[::1]x", "gpu1\n", "gpu1:99\n", "x:y:99",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_quoted(text):
    with pytest.raises(ConfigError) as caught:
        parse_address(text, 7)
    assert repr(text) in str(caught.value)


def test_addresses_know_their_endpoint_and_whether_they_leave_the_machine():
    assert Address("::1", 99).endpoint == "tcp://[::1]:99"
    assert str(Address("gpu1", 99)) == "gpu1:99"
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1"):
        assert Address(host, 1).is_loopback
    for host in ("0.0.0.0", "::", "10.0.0.1", "gpu1", "localhost.evil.example"):  # noqa: S104
        assert not Address(host, 1).is_loopback
    assert (CLIENT_PORT, WORKER_PORT) == (4133, 4134)


def test_messages_go_both_ways_and_large_frames_are_not_copied(net, router):
    dealer = net.dealer(router.port)
    route = meet(router, dealer)
    assert len(route) == 5
    assert router.receive() is None
    assert dealer.receive() is None
    big = bytes(limits.CHUNK_BYTES)
    assert router.send(route, [b"head", memoryview(big)]) == "sent"
    head, body = until(dealer.receive, dealer)
    assert (head, bytes(body)) == (b"head", big)
    assert isinstance(body, memoryview)


def test_a_peer_that_vanished_is_gone_and_never_silence(net, router):
    dealer = net.dealer(router.port)
    route = meet(router, dealer)
    dealer.close()
    assert until(lambda: router.send(route, [b"x"]) == "gone")
    assert router.send(b"\0none", [b"x"]) == "gone"


def test_a_peer_that_does_not_read_is_full_and_others_go_on(net, router):
    lazy, quick = net.dealer(router.port), net.dealer(router.port)
    route, other = meet(router, lazy), meet(router, quick)
    frame, sent = bytes(4096), 0
    while (outcome := router.send(route, [frame])) == "sent":
        sent += 1
        assert sent < 50 * limits.HIGH_WATER_MARK, "nothing bounds what waits for one peer"
    assert outcome == "full"
    assert sent >= limits.HIGH_WATER_MARK
    assert router.send(other, [b"still here"]) == "sent"
    assert until(quick.receive, quick) == [b"still here"]
    assert until(lazy.receive, lazy) == [frame]


def test_without_a_manager_nothing_is_queued(net):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dealer = net.dealer(port)
    assert dealer.send([b"lost"]) == "full"
    again = net.router(port)
    until(lambda: dealer.send([b"found"]) == "sent")
    assert until(again.receive, again)[1] == [b"found"]


@pytest.mark.parametrize("identity", [b"thief", b"x", b"\0short", b"a longer one"])
def test_a_peer_that_sets_its_own_routing_id_is_dropped(net, router, identity):
    honest, thief = net.dealer(router.port), net.plain()
    meet(router, honest)
    thief.setsockopt(zmq.ROUTING_ID, identity)
    thief.connect(f"tcp://127.0.0.1:{router.port}")
    thief.send(b"give me your pictures")
    assert router.socket.poll(10_000), "nothing came"
    assert router.receive() is None
    honest.send([b"mine"])
    assert until(router.receive, router)[1] == [b"mine"]


def test_an_id_that_looks_like_libzmqs_own_takes_no_living_session_over(net, router):
    # libzmq lets a peer choose such an id, and tells nobody; while its owner lives it is taken.
    honest, thief = net.dealer(router.port), net.plain()
    route = meet(router, honest)
    thief.setsockopt(zmq.ROUTING_ID, route)
    thief.connect(f"tcp://127.0.0.1:{router.port}")
    thief.send(b"it is me")
    honest.send([b"mine"])
    assert until(router.receive, router) == (route, [b"mine"])
    assert router.send(route, [b"secret"]) == "sent"
    assert until(honest.receive, honest) == [b"secret"]
    with pytest.raises(zmq.Again):
        thief.recv(zmq.DONTWAIT)


def test_a_message_of_endless_frames_makes_no_endless_list(net, router):
    dealer = net.dealer(router.port)
    meet(router, dealer)
    until(lambda: dealer.send([b"x"] * 20_000) == "sent")
    _, frames = until(router.receive, router)
    assert len(frames) == limits.FRAMES_MAX
    assert dealer.send([b"next"]) == "sent"
    assert until(router.receive, router)[1] == [b"next"]


def test_frames_at_n_arrive_and_at_n_plus_1_cut_the_connection_only_of_their_sender(net, router):
    dealer, other = net.dealer(router.port), net.dealer(router.port)
    route = meet(router, dealer)
    meet(router, other)
    dealer.send([bytes(limits.FRAME_BYTES_MAX)])
    assert len(until(router.receive, router)[1][0]) == limits.FRAME_BYTES_MAX
    dealer.send([bytes(limits.FRAME_BYTES_MAX + 1)])
    assert until(lambda: router.send(route, [b"x"]) == "gone", router)
    assert router.receive() is None
    other.send([b"untouched"])
    assert until(router.receive, router)[1] == [b"untouched"]


def test_a_port_in_use_is_an_error_of_one_line_that_says_what_to_do(net, router):
    with pytest.raises(ConfigError) as caught:
        net.router(router.port)
    assert str(router.port) in str(caught.value)
    assert "another manager" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_that_zmq_cannot_dial_is_a_config_error(net):
    with pytest.raises(ConfigError, match="Cannot dial"):
        Dealer(net.context, Address("not a host", 1))


def test_sockets_are_set_up_as_the_protocol_wants(net, router):
    dealer = net.dealer(router.port)
    for each in (router.socket, dealer.socket):
        assert each.getsockopt(zmq.SNDHWM) == limits.HIGH_WATER_MARK
        assert each.getsockopt(zmq.RCVHWM) == limits.HIGH_WATER_MARK
        assert each.getsockopt(zmq.MAXMSGSIZE) == limits.FRAME_BYTES_MAX
        assert each.getsockopt(zmq.LINGER) == 0
        assert each.getsockopt(zmq.HEARTBEAT_TIMEOUT) == limits.ZMTP_HEARTBEAT_TIMEOUT_S * 1000
    assert dealer.socket.getsockopt(zmq.RECONNECT_IVL_MAX) == limits.RECONNECT_S_MAX * 1000


def test_a_dealer_that_lingers_hands_its_last_words_over(net, router):
    dealer = net.dealer(router.port)
    meet(router, dealer)
    dealer.send([b"goodbye"])
    dealer.close(linger_s=5.0)
    assert until(router.receive, router)[1] == [b"goodbye"]


def test_a_watch_wakes_for_sockets_and_descriptors_until_they_are_removed(net, router):
    read, write = os.pipe()
    try:
        watch = Watch()
        watch.add(read)
        watch.add(router)
        os.write(write, b"x")
        before = time.monotonic()
        watch.wait(30.0)
        assert time.monotonic() - before < 30.0
        watch.remove(read)
        watch.remove(read)
        watch.wait(0.0)
    finally:
        os.close(read)
        os.close(write)


def test_the_context_is_closed_however_the_block_ends():
    def fail() -> None:
        with zmq_context() as context:
            seen.append(context)
            seen.append(Router(context, Address("127.0.0.1", 0)))
            raise RuntimeError("on purpose")

    seen: list[Any] = []
    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert seen[0].closed
    assert seen[1].socket.closed
