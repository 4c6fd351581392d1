"""The manager's machine under anything that honest peers, their wires and the disk may do.

After each step its invariants hold. In the end everybody comes back and time passes: then every
accepted petition has ended, its client was told and has all pictures, and nothing is left over.
"""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.petitions import PETITION_ENDS
from sdistrib.protocol import messages as wire
from sdistrib_manager.events import StopRequested
from tests.property.net import Net
from tests.property.peers import Client, Worker
from tests.support.farm import MODEL, petition_id

OTHER = ModelFile("stable-diffusion", "other.safetensors", 5)
#: Small enough that most pictures here travel in pieces.
CHUNK_BYTES = 50
CODES = ["engine_crashed", "engine_hung", "engine_error", "out_of_memory", "unsupported"]
ENDS = [{}, {}, {"timeout_s": 5.0}, {"cancel_on_disconnect": True}, {"preview": "proj"}]
#: Of one piece and of several; few, so that petitions share them.
INPUTS = [(), (), (b"one",), (b"two" * CHUNK_BYTES,), (b"one", b"two" * CHUNK_BYTES)]
TROUBLES = [
    "files", "dies", "leaves", "redials", "lags", "silent", "broken", "full",
    "disk now", "disk later", "disk fails",
]  # fmt: skip
WORKERS, CLIENTS = st.integers(0, 2), st.integers(0, 1)
MODELS = st.sampled_from(["tiny", "tiny", "other", "none"])


def busy(farm: "Farm") -> list[Worker]:
    """Workers that draw."""
    return [worker for worker in farm.workers if worker.running]


class Farm(RuleBasedStateMachine):
    """Three workers, one of which has another model too, and two clients."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(limits, "CHUNK_BYTES", CHUNK_BYTES)
        self.net = Net(no_worker_timeout_s=60.0)
        self.instances = 0
        self.petitions = 0
        self.workers: list[Worker] = []
        self.clients: list[Client] = []

    @initialize(workers=st.integers(0, 3), images=st.integers(1, 5))
    def people(self, workers: int, images: int) -> None:
        self.clients = [Client(self.net), Client(self.net)]
        self.workers = [self.start(number) for number in range(workers)]
        self.everybody_goes_on()
        for client in (0, 1):
            self.submit(client, images, "tiny", {})

    def start(self, number: int) -> Worker:
        self.instances += 1
        files = (MODEL, OTHER) if number == 0 else (MODEL,)
        return Worker(self.net, f"gpu{number}", self.instances, files)

    def worker(self, number: int) -> Worker:
        while number >= len(self.workers):
            self.workers.append(self.start(len(self.workers)))
        return self.workers[number]

    # --- what people want ---

    @rule(
        client=CLIENTS, images=st.integers(1, 5), model=MODELS, ends=st.sampled_from(ENDS),
        files=st.sampled_from(INPUTS),
    )  # fmt: skip
    def submit(
        self, client: int, images: int, model: str, ends: dict[str, Any],
        files: tuple[bytes, ...] = (),
    ) -> None:  # fmt: skip
        self.petitions += 1
        pid = petition_id(self.petitions)
        self.clients[client].submits(pid, *files, images=images, model=model, **ends)

    @rule(client=CLIENTS, number=st.integers(1, 6))
    def cancel(self, client: int, number: int) -> None:
        self.clients[client].cancels_one(petition_id(number))

    @rule(taker=CLIENTS, number=st.integers(1, 6))
    def attach(self, taker: int, number: int) -> None:
        pid = petition_id(number)
        body = self.clients[1 - taker].bodies.get(pid)
        if body is not None:
            self.clients[taker].bodies[pid] = body
            self.clients[taker].files |= self.clients[1 - taker].files
            self.clients[taker].says(wire.Submit(id=pid), body)

    # --- what workers do ---

    @precondition(busy)
    @rule(number=WORKERS, size=st.integers(1, CHUNK_BYTES))
    def worker_draws(self, number: int, size: int) -> None:
        self.one_of(busy(self), number).draws(size)

    @precondition(busy)
    @rule(number=WORKERS, pieces=st.sampled_from([1.1, 2.0, 8.0]), plain=st.booleans())
    def worker_draws_a_large_picture(self, number: int, pieces: float, plain: bool) -> None:
        self.one_of(busy(self), number).draws(round(pieces * CHUNK_BYTES), plain=plain)

    @precondition(busy)
    @rule(pieces=st.sampled_from([0.5, 2.0]), rounds=st.integers(1, 3), plain=st.booleans())
    def all_draw(self, pieces: float, rounds: int, plain: bool) -> None:
        for _ in range(rounds):
            for worker in busy(self):
                worker.draws(round(pieces * CHUNK_BYTES), plain=plain)
            self.everybody_goes_on()

    @precondition(busy)
    @rule(number=WORKERS, code=st.sampled_from(CODES), started=st.booleans())
    def worker_fails(self, number: int, code: str, started: bool) -> None:
        self.one_of(busy(self), number).fails(code, started=started)

    @precondition(busy)
    @rule(number=WORKERS, step=st.integers(0, 9))
    def worker_makes_a_step(self, number: int, step: int) -> None:
        self.one_of(busy(self), number).makes(step)

    # --- what goes wrong ---

    @rule(number=st.integers(0, 4), kind=st.sampled_from(TROUBLES), most=st.integers(0, 3))
    def trouble(self, number: int, kind: str, most: int) -> None:
        peer = self.one_of([*self.workers, *self.clients], number)
        match kind:
            case "files" if isinstance(peer, Worker):
                peer.files = [(), (MODEL,), (OTHER,), (MODEL, OTHER)][most]
                peer.announces()
            case "dies" | "leaves" if isinstance(peer, Worker):
                self.restarts(peer, politely=kind == "leaves")
            case "redials":
                peer.redials()
            case "lags":
                peer.lags = not peer.lags
                peer.reads(most)
            case "silent":
                peer.silent = not peer.silent
            case "broken":
                peer.line.open = False
            case "full":
                peer.line.full = not peer.line.full
            case "disk now" | "disk later" | "disk fails":
                self.disk_is(kind.removeprefix("disk "))

    def restarts(self, worker: Worker, *, politely: bool) -> None:
        if politely and worker.welcome and not worker.running and not worker.held:
            worker.says(wire.Goodbye(reason="told to stop"))
        worker.line.open = False
        number = self.workers.index(worker)
        self.workers[number] = self.start(number)

    def disk_is(self, disk: str) -> None:
        self.net.disk = disk
        self.net.flush()
        for worker in self.workers:
            worker.offers_again()

    @rule(seconds=st.sampled_from([1, 4, 31]), paused=st.booleans())
    def time_passes(self, seconds: int, paused: bool) -> None:
        """With the peers' beats, or in one jump that is this machine's own pause."""
        if paused:
            self.net.now += seconds
            self.net.manager.forgive(seconds)
            return
        for _ in range(seconds):
            for peer in (*self.clients, *self.workers):
                if not peer.silent:
                    peer.says(wire.Beat())
            self.net.turn(1.0)

    def one_of(self, peers: list[Any], number: int) -> Any:
        return peers[number % len(peers)]

    @invariant()
    def everybody_goes_on(self) -> None:
        """The turn ends; who neither lags nor is silent reads, begins to draw and acknowledges."""
        if not self.clients:
            return
        self.net.turn()
        for peer in (*self.clients, *self.workers):
            if not peer.silent and not peer.lags:
                peer.reads()
                peer.goes_on()
        self.net.turn()

    # --- the end ---

    def teardown(self) -> None:
        try:
            if self.clients:
                self.heal()
                self.settle()
                self.check_ends()
                self.check_nothing_is_left()
                self.check_stop()
        finally:
            self.patch.undo()

    def heal(self) -> None:
        self.net.disk = "now"
        self.net.flush()
        for number in range(3):
            worker = self.worker(number)
            worker.silent = worker.lags = False
            worker.files = (MODEL, OTHER)
            worker.redials()
        for client in self.clients:
            client.silent = client.lags = False
            client.redials()

    def settle(self) -> None:
        for second in range(100):
            for peer in (*self.clients, *self.workers):
                peer.says(wire.Beat())
                peer.reads()
            for worker in self.workers:
                worker.draws(2 * CHUNK_BYTES)
                if second % 30 == 29:
                    worker.offers_again()
            for peer in (*self.clients, *self.workers):
                peer.goes_on()
            self.net.turn(1.0)
            if self.all_told():
                break
        # Those who will not come back are given up.
        self.net.now += limits.GONE_S
        for peer in (*self.clients, *self.workers):
            peer.says(wire.Beat())
        self.net.turn(1.0)

    def all_told(self) -> bool:
        told = {pid for client in self.clients for pid in client.finished}
        accepted = {pid for client in self.clients for pid in client.accepted}
        idle = not any(w.held or w.running or w.queue for w in self.workers)
        waiting = self.net.manager.state.staged or any(c.unseen for c in self.clients)
        return idle and accepted <= told and not waiting

    def check_ends(self) -> None:
        for entry in self.net.manager.state.queue:
            assert entry.state in PETITION_ENDS, f"{entry.id} is {entry.state}: {entry.reason}"
        told = {pid for client in self.clients for pid in client.finished}
        for client in self.clients:
            assert not client.accepted - told, "accepted, and nobody was told the end"
            assert set(client.bodies) <= told | client.accepted | client.refused

    def check_nothing_is_left(self) -> None:
        state = self.net.manager.state
        assert state.counters.waiting_images == state.counters.running_images == 0
        assert not any(worker.leases for worker in state.roster)
        assert not any(worker.held for worker in self.workers), "a result nobody answered"
        assert not state.arriving, "half a picture nobody will finish"
        assert not state.staged, "a petition that waits for files for ever"
        assert not state.uploads, "half an input file nobody will finish"
        assert not state.preview_bytes, "a preview of what has ended"
        owed = {r for entry in state.queue if not entry.finished_sent for r in entry.images}
        inputs = {file.digest for entry in state.queue for file in entry.inputs}
        assert owed or not self.net.blobs.keys() - inputs, "pictures kept that everybody has"

    def check_stop(self) -> None:
        for peer in (*self.clients, *self.workers):
            peer.line.inbox.clear()
        self.net.event(StopRequested())
        for peer in (*self.clients, *self.workers):
            assert any(isinstance(message, wire.Goodbye) for message, _ in peer.line.inbox)


@pytest.mark.timeout(600)  # a failure takes a while to be made short
def test_whatever_happens_every_petition_ends_and_everybody_is_told():
    run_state_machine_as_test(
        Farm, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


def test_a_worker_that_dies_in_the_middle_of_a_picture_leaves_no_half_of_it_behind():
    # Found by the above: nobody let go of what had come of it.
    farm = Farm()
    farm.people(workers=2, images=1)
    farm.everybody_goes_on()
    farm.worker_draws_a_large_picture(number=0, pieces=8.0, plain=False)
    assert farm.net.manager.state.arriving
    farm.restarts(farm.workers[0], politely=False)
    farm.teardown()
    assert not farm.net.manager.state.arriving
