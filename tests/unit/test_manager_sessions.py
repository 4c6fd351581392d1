"""Hellos, faults, goodbyes and questions."""

import pytest

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode, encode_inventory
from sdistrib_manager import effects as fx
from sdistrib_manager.events import Malformed, PeerGone
from tests.support.farm import ENGINE, MODEL, Client, Farm, Peer, Worker, petition_id


@pytest.fixture
def farm() -> Farm:
    return Farm()


def test_another_protocol_version_is_told_both_versions(farm):
    peer = Peer(farm, "new")
    peer.says(wire.ClientHello(protocols=(2, 3), software="sdistrib 9"))
    assert "protocol [2, 3]" in peer.last(wire.Fault).error.message
    stranger = Worker(farm)
    stranger.says(
        wire.WorkerHello(
            protocols=(2,), software="sdistrib 9", name="w", instance="0" * 16, engine=ENGINE
        ),
        encode_inventory(()),
    )
    assert "speaks protocol [2]" in stranger.last(wire.Fault).error.message


def test_who_says_no_hello_is_asked_for_it(farm):
    peer = Peer(farm, "str")
    peer.says(wire.Beat())
    assert peer.got(wire.Identify)


def test_a_message_from_the_wrong_side_is_a_fault(farm):
    client, worker = Client(farm), Worker(farm)
    client.says(wire.Revoke(attempt=_some_attempt()))
    assert client.last(wire.Fault).error.code == "protocol_error"
    worker.says(wire.Cancel(id=petition_id(1)))
    assert worker.last(wire.Fault).error.code == "protocol_error"


def test_garbage_is_answered_and_logged_and_an_inventory_that_is_none_too(farm):
    farm.happen(Malformed("client", b"\0old.", "this looks like the C++ sdistrib"))
    assert any("protocol_error" in line and "C++" in line for line in farm.logs)
    worker = Worker(farm)
    worker.says(wire.Inventory(), b"\xc1")
    assert "inventory" in worker.last(wire.Fault).error.message


def test_beats_go_out_when_nothing_else_does(farm):
    client, worker = Client(farm), Worker(farm)
    farm.wait(3, client, worker)
    assert len(client.got(wire.Beat)) >= 2
    assert len(worker.got(wire.Beat)) >= 2


def test_signs_of_life_and_faults_of_peers_are_taken(farm):
    client, worker = Client(farm), Worker(farm)
    error = wire.ErrorInfo(code="protocol_error", message="odd")
    client.says(wire.Fault(error=error))
    worker.says(wire.Fault(error=error))
    worker.says(wire.ChunkSeen(digest="0" * 64, offset=0))
    client.says(wire.ChunkSeen(digest="0" * 64, offset=0))
    client.says(wire.ProgressSeen(id=petition_id(8)))
    client.says(wire.ResultSeen(id=petition_id(8), index=0))
    worker.says(wire.Started(attempt=_some_attempt()))
    worker.says(wire.Step(attempt=_some_attempt(), phase="sampling"))
    worker.says(wire.Revoked(attempt=_some_attempt()))
    worker.says(wire.TooLate(attempt=_some_attempt()))
    assert sum("odd" in line for line in farm.logs) == 2


def test_two_workers_of_one_name_both_work_with_a_warning(farm):
    client = Client(farm)
    one, two = Worker(farm, "gpu"), Worker(farm, "gpu2")
    two.name, two.instance = "gpu", "b" * 16
    two.route = b"\0twin"
    two.hello()
    assert any("two workers are called gpu" in line for line in farm.logs)
    client.submits(images=3)
    assert one.attempts
    assert two.attempts


def test_a_result_that_was_not_issued_is_refused(farm):
    client, worker = Client(farm), Worker(farm)
    thief = Worker(farm, "gpu2", ())
    client.submits()
    attempt = worker.starts()
    thief.draws(attempt)
    assert "not given to this worker" in thief.last(wire.ResultRefused).reason
    worker.draws(wire.Attempt(attempt.id, 0, 9))
    assert "not given" in worker.last(wire.ResultRefused).reason
    worker.draws(wire.Attempt(petition_id(99), 0, 1))
    assert "not known" in worker.last(wire.ResultRefused).reason
    worker.draws(attempt, seed=5)
    assert "seed" in worker.last(wire.ResultRefused).reason


def test_stopping_says_goodbye_once_refuses_new_work_and_ends(farm):
    client, worker = Client(farm), Worker(farm)
    farm.stop()
    farm.stop()
    assert len(client.got(wire.Goodbye)) == 1
    assert len(worker.got(wire.Goodbye)) == 1
    assert len(farm.kept(fx.Stop)) == 1
    client.submits()
    assert client.last(wire.Refused).error.code == "busy"


def test_the_machine_wants_to_be_woken_each_second(farm):
    farm.turn()
    assert farm.manager.next_deadline() == farm.now + limits.BEAT_S


def test_models_are_listed_with_their_workers_and_conflicts(farm):
    client = Client(farm)
    Worker(farm, "gpu1")
    Worker(farm, "gpu2", (ModelFile("stable-diffusion", "tiny.safetensors", 9, "b" * 64),))
    Worker(farm, "gpu3")
    first, second = _asks(client, "models").models
    assert (first.file, first.workers) == (MODEL, ("gpu1", "gpu3"))
    assert (second.file.digest, second.workers) == ("b" * 64, ("gpu2",))
    assert first.conflict
    assert second.conflict


def test_models_are_listed_by_kind_and_name(farm):
    client = Client(farm)
    lora = ModelFile("lora", "Styles/Ink.gguf", 9)
    Worker(farm, "gpu1", (MODEL, lora))

    def names(**ask):
        client.says(wire.Ask(number=1, what="models", **ask))
        return [model.file.name for model in client.last(wire.Answer).models]

    assert names() == [lora.name, MODEL.name]
    assert names(kind="lora") == [lora.name]
    assert names(kind="vae") == []
    assert names(name="ink") == [lora.name]
    assert names(name="*.safetensors", kind="stable-diffusion") == [MODEL.name]


def test_a_digest_not_yet_known_is_no_conflict(farm):
    client = Client(farm)
    Worker(farm, "gpu1")
    Worker(farm, "gpu2", (ModelFile(MODEL.kind, MODEL.name, MODEL.size_bytes),))
    (found,) = _asks(client, "models").models
    assert not found.conflict
    assert (found.file.digest, found.workers) == (MODEL.digest, ("gpu1", "gpu2"))


def test_workers_and_status_say_what_each_does(farm):
    client, worker = Client(farm), Worker(farm)
    assert _fact(client, "gpu1").state == "loading"
    worker.says(wire.EngineState(state="idle", loaded="tiny"))
    assert _fact(client, "gpu1").state == "idle"
    client.submits(images=3)
    worker.starts(worker.attempts[0])
    worker.says(wire.EngineState(state="drawing", loaded="tiny"))
    fact = _fact(client, "gpu1")
    assert (fact.state, fact.loaded, fact.running) == ("busy", "tiny", (worker.attempts[0],))
    status = _asks(client, "status")
    assert (status.waiting_images, status.running_images) == (1, 2)


def test_the_queue_lists_no_prompts(farm):
    client = Client(farm)
    client.submits(prompt="a very private wish")
    answer = _asks(client, "queue")
    assert answer.queue[0].model == "tiny"
    assert "private" not in repr(answer)
    assert not any("private" in line for line in farm.logs)


def test_long_answers_are_cut_to_one_message_and_say_so(farm):
    client = Client(farm)
    files = tuple(ModelFile("lora", f"{i:03d}{'x' * 200}.safetensors", 1) for i in range(300))
    for number in range(3):
        Worker(farm, f"gpu{number}", files=files)
    answer = _asks(client, "models")
    assert answer.cut
    assert 100 < len(answer.models) < 300
    assert len(encode(answer)[1]) < limits.HEADER_BYTES_MAX


def _asks(client: Client, what: str) -> wire.Answer:
    client.says(wire.Ask(number=1, what=what))  # type: ignore[arg-type]
    return client.last(wire.Answer)


def _fact(client: Client, name: str) -> wire.WorkerFacts:
    return next(fact for fact in _asks(client, "workers").workers if fact.name == name)


def _some_attempt() -> wire.Attempt:
    return wire.Attempt(petition_id(1), 0, 1)


def test_a_connection_that_nobody_knows_may_be_gone():
    farm = Farm()
    assert farm.happen(PeerGone("client", b"\0gone")) == []
    assert farm.happen(PeerGone("worker", b"\0gone")) == []
