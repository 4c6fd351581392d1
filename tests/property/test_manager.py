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
from sdistrib.protocol.codec import encode_inventory
from sdistrib_manager.events import StopRequested
from tests.property.peers import Client, Net, Worker
from tests.support.farm import MODEL, petition_id

OTHER = ModelFile("stable-diffusion", "other.safetensors", 5)
#: Small enough that most pictures here travel in pieces.
CHUNK_BYTES = 50
CODES = ["engine_crashed", "engine_hung", "engine_error", "out_of_memory", "unsupported"]
WORKERS, CLIENTS = st.integers(0, 2), st.integers(0, 1)


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
            self.submit(client, images, "tiny", timeout_s=0.0, tied=False)

    def start(self, number: int) -> Worker:
        self.instances += 1
        files = (MODEL, OTHER) if number == 0 else (MODEL,)
        return Worker(self.net, f"gpu{number}", self.instances, files)

    def worker(self, number: int) -> Worker:
        while number >= len(self.workers):
            self.workers.append(self.start(len(self.workers)))
        return self.workers[number]

    # --- clients ---

    @rule(
        client=CLIENTS, images=st.integers(1, 5), model=st.sampled_from(["tiny", "tiny", "other", "none"]),
        timeout_s=st.sampled_from([0.0, 0.0, 5.0]), tied=st.booleans(),
    )  # fmt: skip
    def submit(self, client: int, images: int, model: str, timeout_s: float, tied: bool) -> None:
        self.petitions += 1
        self.clients[client].submits(
            petition_id(self.petitions), images=images, model=model, timeout_s=timeout_s,
            cancel_on_disconnect=tied and client == 1,
        )  # fmt: skip

    @rule(client=CLIENTS, data=st.data())
    def cancel(self, client: int, data: Any) -> None:
        if self.petitions:
            number = data.draw(st.integers(1, self.petitions))
            self.clients[client].cancels_one(petition_id(number))

    @rule(client=CLIENTS, lags=st.booleans(), most=st.integers(0, 3))
    def client_lags_or_catches_up(self, client: int, lags: bool, most: int) -> None:
        self.clients[client].lags = lags
        self.clients[client].reads(most)

    @rule(client=CLIENTS)
    def client_redials(self, client: int) -> None:
        self.clients[client].redials()

    @rule(client=CLIENTS, taker=CLIENTS, data=st.data())
    def attach(self, client: int, taker: int, data: Any) -> None:
        bodies = self.clients[client].bodies
        if bodies and client != taker:
            pid = data.draw(st.sampled_from(sorted(bodies)))
            self.clients[taker].bodies[pid] = bodies[pid]
            self.clients[taker].says(wire.Submit(id=pid), bodies[pid])

    # --- workers ---

    def busy(self, number: int) -> Worker:
        """One of those that draw."""
        busy = [worker for worker in self.workers if worker.running]
        return busy[number % len(busy)]

    @precondition(lambda self: any(worker.running for worker in self.workers))
    @rule(number=WORKERS, size=st.integers(1, CHUNK_BYTES))
    def worker_draws(self, number: int, size: int) -> None:
        self.busy(number).draws(size)

    @precondition(lambda self: any(worker.running for worker in self.workers))
    @rule(number=WORKERS, size=st.integers(CHUNK_BYTES + 1, 8 * CHUNK_BYTES))
    def worker_draws_a_large_picture(self, number: int, size: int) -> None:
        self.busy(number).draws(size)

    @precondition(lambda self: any(worker.running for worker in self.workers))
    @rule(number=WORKERS, code=st.sampled_from(CODES), started=st.booleans())
    def worker_fails(self, number: int, code: str, started: bool) -> None:
        self.busy(number).fails(code, started=started)

    @rule(number=WORKERS, lags=st.booleans(), most=st.integers(0, 3))
    def worker_lags_or_catches_up(self, number: int, lags: bool, most: int) -> None:
        self.worker(number).lags = lags
        self.worker(number).reads(most)

    @rule(number=WORKERS, code=st.sampled_from(["now", "model"]))
    def worker_says_more(self, number: int, code: str) -> None:
        worker = self.worker(number)
        if worker.running and worker.welcome:
            worker.says(wire.Step(attempt=worker.running, phase="sampling", step=1, steps=4))
        worker.says(wire.EngineState(state="idle", loaded="tiny" if code == "now" else "other"))

    @rule(number=WORKERS, has=st.booleans())
    def files_come_and_go(self, number: int, has: bool) -> None:
        worker = self.worker(number)
        worker.files = (MODEL, OTHER) if has else (MODEL,)
        if worker.welcome:
            worker.says(wire.Inventory(), encode_inventory(worker.files))

    @rule(number=WORKERS)
    def worker_redials(self, number: int) -> None:
        self.worker(number).redials()

    @rule(number=WORKERS)
    def worker_dies(self, number: int) -> None:
        self.worker(number).line.open = False
        self.workers[number] = self.start(number)

    @rule(number=WORKERS)
    def worker_leaves(self, number: int) -> None:
        worker = self.worker(number)
        if worker.welcome and not worker.running and not worker.held:
            worker.says(wire.Goodbye(reason="told to stop"))
            worker.line.open = False
            worker.silent = True

    @rule(number=WORKERS, silent=st.booleans())
    def worker_falls_silent_or_wakes(self, number: int, silent: bool) -> None:
        self.worker(number).silent = silent

    # --- the world ---

    @rule(peer=st.integers(0, 4), full=st.booleans())
    def wire_breaks_unnoticed_or_jams(self, peer: int, full: bool) -> None:
        found = (*self.clients, *self.workers)[peer % (2 + len(self.workers))]
        found.line.full = full
        found.line.open = found.line.open and full

    @rule(disk=st.sampled_from(["now", "later", "fails"]))
    def disk_changes(self, disk: str) -> None:
        self.net.disk = disk
        self.net.flush()

    @precondition(lambda self: self.net.disk != "now")
    @rule()
    def results_are_offered_again(self) -> None:
        for worker in self.workers:
            worker.offers_again()

    @rule(seconds=st.sampled_from([1, 1, 2, 4, 31]))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            for peer in (*self.clients, *self.workers):
                if not peer.silent:
                    peer.says(wire.Beat())
            self.net.turn(1.0)

    @rule(seconds=st.sampled_from([10.0, 40.0]))
    def this_machine_pauses(self, seconds: float) -> None:
        self.net.now += seconds
        self.net.manager.forgive(seconds)

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
        owed = {r for entry in state.queue if not entry.finished_sent for r in entry.images}
        assert owed or not self.net.blobs, "pictures kept that everybody has"

    def check_stop(self) -> None:
        for peer in (*self.clients, *self.workers):
            peer.line.inbox.clear()
        self.net.event(StopRequested())
        for peer in (*self.clients, *self.workers):
            assert any(isinstance(message, wire.Goodbye) for message, _ in peer.line.inbox)


def test_whatever_happens_every_petition_ends_and_everybody_is_told():
    run_state_machine_as_test(
        Farm, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
