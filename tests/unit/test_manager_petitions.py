"""A petition's way through the manager, and the door it comes in by."""

import pytest

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_manager import effects as fx
from sdistrib_manager.rows import ImageRow, PetitionRow
from tests.support.farm import MODEL, Client, Farm, Worker, petition, petition_id


@pytest.fixture
def farm() -> Farm:
    return Farm()


def test_images_go_out_are_recorded_delivered_and_the_petition_ends_once_all_are_seen(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=2)
    assert client.last(wire.Accepted).state == "queued"
    first, second = worker.attempts
    assert (first.index, first.number, second.index) == (0, 1, 1)
    for attempt in (first, second):
        worker.starts(attempt)
        worker.draws(attempt)
    assert [seen.attempt for seen in worker.got(wire.ResultRecorded)] == [first, second]
    assert client.pictures == [0, 1]
    client.sees(pid, 0)
    assert not client.got(wire.Finished)
    client.sees(pid, 1)
    assert client.last(wire.Finished) == wire.Finished(id=pid, state="done", done=(0, 1))


def test_a_petition_is_kept_before_accepted_and_a_picture_before_its_row(farm):
    client = Client(farm)
    pid = petition_id(1)
    client.says(wire.Submit(id=pid), encode_petition(petition()))
    kinds = _kinds(farm)
    assert kinds.index(PetitionRow) < kinds.index(wire.Accepted)
    worker = Worker(farm)
    farm.effects.clear()
    worker.draws(worker.starts())
    kinds = _kinds(farm)
    # PutBlob's own answer comes after it is carried out; what follows from it comes later.
    assert fx.PutBlob in kinds
    done = next(i for i, e in enumerate(farm.effects) if _is_result(e))
    assert done < kinds.index(wire.ResultRecorded)
    assert done < kinds.index(fx.SendPicture)


def _kinds(farm: Farm) -> list[type]:
    """What each effect is about: its message, its row, or itself."""
    about = {fx.Send: "message", fx.Keep: "row"}
    return [type(getattr(e, about[type(e)]) if type(e) in about else e) for e in farm.effects]


def _is_result(effect: fx.Effect) -> bool:
    row = effect.row if isinstance(effect, fx.Keep) else None
    return isinstance(row, ImageRow) and row.result is not None


def test_the_same_submit_again_is_the_same_petition(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(1)
    client.submits(1)
    assert len(client.got(wire.Accepted)) == 2
    assert len(worker.attempts) == 1
    assert len(farm.rows(PetitionRow)) == 1


def test_the_same_id_with_other_content_is_a_conflict(farm):
    client = Client(farm)
    client.submits(1)
    client.submits(1, prompt="something else")
    assert client.last(wire.Refused).error.code == "conflict"


def test_two_clients_get_their_own_pictures(farm):
    ana, ben, worker = Client(farm, "ana"), Client(farm, "ben"), Worker(farm)
    one, two = ana.submits(1), ben.submits(2)
    for attempt in worker.attempts:
        worker.draws(attempt)
    assert [r.attempt.id for r in ana.got(wire.Result)] == [one]
    assert [r.attempt.id for r in ben.got(wire.Result)] == [two]


def test_no_worker_means_waiting_and_saying_so(farm):
    client = Client(farm)
    client.submits()
    assert client.last(wire.Accepted).reason == "no worker is connected yet"
    worker = Worker(farm)
    assert len(worker.attempts) == 1


def test_progress_is_conflated_until_it_is_seen(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    attempt = worker.starts()
    before = len(client.got(wire.Progress))
    for step in range(1, 5):
        worker.says(wire.Step(attempt=attempt, phase="sampling", step=step, steps=4, step_s=0.5))
    assert len(client.got(wire.Progress)) == before == 1
    client.says(wire.ProgressSeen(id=pid))
    newest = client.last(wire.Progress)
    assert newest.running[0].step == 4
    assert newest.eta_s == pytest.approx(0.0)
    client.says(wire.ProgressSeen(id=pid))
    assert len(client.got(wire.Progress)) == 2


def test_eta_counts_the_steps_left_and_the_images_left(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=3)
    attempt = worker.starts(worker.attempts[0])
    worker.says(wire.Step(attempt=attempt, phase="sampling", step=1, steps=4, step_s=0.5))
    client.says(wire.ProgressSeen(id=pid))
    assert client.last(wire.Progress).eta_s == pytest.approx(1.5 + 2 * 2.0)


def test_places_in_the_queue_are_told(farm):
    client = Client(farm)
    client.submits(1, images=5)
    second = client.submits(2)
    assert client.last(wire.Accepted).ahead == 5
    farm.wait(2, client)
    client.says(wire.ProgressSeen(id=second))
    rows = {row.id: row for row in _asks(client, "queue").queue}
    assert rows[second].images == 1


def test_a_model_nobody_has_is_refused_at_once_with_the_closest_names(farm):
    client, worker = Client(farm), Worker(farm)
    client.submits(model="tinny")
    error = client.last(wire.Refused).error
    assert (error.code, error.field) == ("model_not_found", "model")
    assert error.closest == ("tiny.safetensors",)
    assert not worker.attempts


def test_a_lora_nobody_has_is_refused_with_its_own_code(farm):
    client, _ = Client(farm), Worker(farm)
    client.submits(prompt="a house <lora:styel:1>")
    assert client.last(wire.Refused).error.code == "lora_not_found"


def test_files_that_no_single_worker_has_together(farm):
    client = Client(farm)
    Worker(farm, "gpu1", (MODEL,))
    Worker(farm, "gpu2", (ModelFile("vae", "soft.safetensors", 5),))
    client.submits(vae="soft")
    assert client.last(wire.Refused).error.code == "no_capable_worker"


@pytest.mark.parametrize(
    ("about", "code"),
    [
        ({"prompt": " "}, "invalid_params"),
        ({"prompt": "x" * (limits.PROMPT_BYTES_MAX + 1)}, "invalid_params"),
        ({"steps": 0}, "invalid_params"),
        ({"cfg_scale": float("nan")}, "invalid_params"),
        ({"width": 8192, "height": 8192}, "too_large"),
        ({"model": ""}, "invalid_params"),
    ],
)
def test_a_petition_is_checked_whole_at_the_door(farm, about, code):
    client = Client(farm)
    client.submits(**about)
    assert client.last(wire.Refused).error.code == code


def test_a_body_that_is_no_petition_is_refused(farm):
    client = Client(farm)
    client.says(wire.Submit(id=petition_id(1)), b"\xc1\xc1")
    assert client.last(wire.Refused).error.code == "invalid_params"


@pytest.mark.parametrize(
    "settings", [{"petitions_max": 2}, {"images_max": 6}], ids=["petitions", "images"]
)
def test_a_full_queue_is_busy_at_n_plus_1_with_seconds_to_wait(settings):
    farm = Farm(**settings)
    client = Client(farm)
    client.submits(1, images=3)
    client.submits(2, images=3)
    assert not client.got(wire.Refused)
    client.submits(3, images=1)
    error = client.last(wire.Refused).error
    assert error.code == "busy"
    assert error.retry_after_s > 0


def test_pictures_that_nobody_fetches_close_the_door():
    farm = Farm(blob_bytes_max=10)
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(1)
    worker.draws(worker.starts())
    client.submits(2)
    assert client.last(wire.Refused).error.code == "busy"
    client.sees(pid, 0)
    client.submits(3)
    assert client.last(wire.Accepted).id == petition_id(3)


def _asks(client: Client, what: str) -> wire.Answer:
    client.says(wire.Ask(number=1, what=what))  # type: ignore[arg-type]
    return client.last(wire.Answer)
