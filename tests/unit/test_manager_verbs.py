"""What clients may do with petitions beside drawing: listen, leave, fetch, retry, ask, purge."""

import pytest

from sdistrib import limits
from sdistrib.models import ModelFile
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import decode_petition, encode_petition
from sdistrib_manager import effects as fx
from sdistrib_manager.events import BlobMissing
from tests.support.farm import MODEL, Client, Farm, Worker, petition, petition_id

OTHER = ModelFile("stable-diffusion", "other.safetensors", 5)


@pytest.fixture
def farm() -> Farm:
    return Farm(retention_bytes=limits.RETENTION_BYTES)


def first(worker: Worker, index: int) -> wire.Attempt:
    return next(attempt for attempt in worker.attempts if attempt.index == index)


def draw_all(worker: Worker, images: int) -> None:
    for index in range(images):
        worker.draws(worker.starts(first(worker, index)))


def submit_detached(client: Client, number: int = 1, **about: object) -> str:
    body = encode_petition(petition(**about))  # type: ignore[arg-type]
    client.says(wire.Submit(id=petition_id(number), detach=True), body)
    return petition_id(number)


def ask(client: Client, what: str, **more: object) -> wire.Answer:
    client.says(wire.Ask(number=7, what=what, **more))  # type: ignore[arg-type]
    answer = client.last(wire.Answer)
    assert isinstance(answer, wire.Answer)
    return answer


def body_of_last_answer(farm: Farm) -> bytes | None:
    sends = [e for e in farm.effects if isinstance(e, fx.Send)]
    answer = [send for send in sends if isinstance(send.message, wire.Answer)][-1]
    return None if answer.body is None else bytes(answer.body)


# --- Listening ------------------------------------------------------------------------------


def test_a_detached_client_is_told_that_it_is_kept_and_nothing_more(farm):
    client, worker = Client(farm), Worker(farm)
    submit_detached(client, images=2)
    draw_all(worker, 2)
    assert client.last(wire.Accepted).images == 2
    assert not client.got(wire.Result)
    assert not client.got(wire.Progress)
    assert not client.got(wire.Finished)


def test_a_detached_resend_neither_attaches_nor_detaches(farm):
    client, other, worker = Client(farm), Client(farm, "two"), Worker(farm)
    pid = client.submits()
    submit_detached(other)
    submit_detached(client)
    worker.draws(worker.starts())
    assert client.pictures == [0]
    assert not other.pictures
    client.sees(pid, 0)
    assert client.got(wire.Finished)


def test_two_clients_attached_get_the_same_pictures_progress_and_end(farm):
    one, two, worker = Client(farm, "one"), Client(farm, "two"), Worker(farm)
    pid = one.submits(images=2)
    worker.draws(worker.starts(first(worker, 0)))
    two.says(wire.Attach(id=pid))
    worker.draws(worker.starts(first(worker, 1)))
    assert one.pictures == two.pictures == [0, 1]
    assert one.got(wire.Progress)
    assert two.got(wire.Progress)
    one.sees(pid, 0, 1)
    assert one.last(wire.Finished) == wire.Finished(id=pid, state="done", done=(0, 1))
    assert not two.got(wire.Finished)
    two.sees(pid, 0, 1)
    assert two.last(wire.Finished) == one.last(wire.Finished)


def test_a_cancel_from_elsewhere_tells_every_listener_the_same_list(farm):
    one, two, third, worker = (
        Client(farm, "one"), Client(farm, "two"), Client(farm, "thr"), Worker(farm),
    )  # fmt: skip
    pid = one.submits(images=3)
    two.says(wire.Attach(id=pid))
    worker.draws(worker.starts(first(worker, 0)))
    one.sees(pid, 0)
    two.sees(pid, 0)
    third.says(wire.Cancel(id=pid))
    assert third.last(wire.Cancelled) == wire.Cancelled(id=pid, done=(0,))
    for client in (one, two):
        assert client.last(wire.Finished) == wire.Finished(id=pid, state="cancelled", done=(0,))


def test_cancel_of_an_ended_petition_answers_its_end(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    client.says(wire.Cancel(id=pid))
    assert client.last(wire.Cancelled) == wire.Cancelled(id=pid, done=(0,), state="done")


def test_a_picture_that_one_client_saw_is_kept_until_the_other_has_it():
    """`--store memory` keeps nothing that was seen."""
    farm = Farm(retention_bytes=0)
    one, two, worker = Client(farm, "one"), Client(farm, "two"), Worker(farm)
    pid = one.submits()
    two.says(wire.Attach(id=pid))
    worker.draws(worker.starts())
    one.sees(pid, 0)
    assert not farm.kept(fx.DropBlob)
    two.sees(pid, 0)
    assert len(farm.kept(fx.DropBlob)) == 1


@pytest.mark.parametrize("how", ["breaks", "detaches"])
def test_a_picture_kept_for_a_client_that_left_is_let_go(how):
    farm = Farm(retention_bytes=0)
    one, two, worker = Client(farm, "one"), Client(farm, "two"), Worker(farm)
    pid = one.submits()
    two.says(wire.Attach(id=pid))
    worker.draws(worker.starts())
    one.sees(pid, 0)
    if how == "breaks":
        two.breaks()
    else:
        two.says(wire.Detach(id=pid))
    assert len(farm.kept(fx.DropBlob)) == 1


def test_a_client_that_detached_gets_nothing_more_and_the_petition_goes_on(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=6)
    for index in range(5):
        worker.draws(worker.starts(first(worker, index)))
    assert client.pictures == [0, 1, 2, 3]
    client.says(wire.Detach(id=pid))
    client.sees(pid, 0)
    worker.draws(worker.starts(first(worker, 5)))
    assert client.pictures == [0, 1, 2, 3]
    assert not client.got(wire.Finished)
    other = Client(farm, "two")
    other.says(wire.Attach(id=pid))
    assert other.pictures == [0, 1, 2, 3]
    other.sees(pid, 0, 1)
    assert other.pictures == [0, 1, 2, 3, 4, 5]


def test_detaching_gives_the_credit_back(farm):
    client, worker = Client(farm), Worker(farm)
    one = client.submits(1, images=4)
    draw_all(worker, 4)
    client.submits(2)
    worker.draws(worker.starts(worker.attempts[-1]), data=b"another")
    assert len(client.pictures) == 4
    client.says(wire.Detach(id=one))
    assert len(client.pictures) == 5


def test_a_tied_petition_ends_when_its_last_listener_leaves(farm):
    one, two, _ = Client(farm, "one"), Client(farm, "two"), Worker(farm)
    one.submits(cancel_on_disconnect=True)
    two.says(wire.Attach(id=petition_id(1)))
    one.breaks()
    assert farm.manager.state.queue.entries[petition_id(1)].state == "queued"
    two.breaks()
    assert farm.manager.state.queue.entries[petition_id(1)].state == "cancelled"


# --- Fetching -------------------------------------------------------------------------------


def test_a_fetch_gets_what_is_there_and_is_told_how_far_it_is(farm):
    one, two, worker = Client(farm, "one"), Client(farm, "two"), Worker(farm)
    pid = one.submits(images=3)
    worker.draws(worker.starts(first(worker, 0)))
    one.sees(pid, 0)
    two.says(wire.Attach(id=pid, again=True, wait=False))
    assert two.pictures == [0]
    worker.draws(worker.starts(first(worker, 1)))
    assert two.pictures == [0]
    assert one.pictures == [0, 1]
    assert not two.got(wire.Finished)
    two.sees(pid, 0)
    told = two.last(wire.Finished)
    assert (told.state, told.done) == ("running", (0, 1))
    assert not two.got(wire.Progress)
    one.sees(pid, 1)
    worker.draws(worker.starts(first(worker, 2)))
    one.sees(pid, 2)
    assert one.last(wire.Finished).state == "done"


def test_a_fetch_of_what_has_not_begun_is_answered_at_once(farm):
    client = Client(farm)
    pid = submit_detached(client)
    client.says(wire.Attach(id=pid, again=True, wait=False))
    assert client.last(wire.Finished) == wire.Finished(id=pid, state="queued")


def test_a_fetch_does_not_tie_the_petition_to_itself(farm):
    client, _ = Client(farm), Worker(farm)
    submit_detached(client, images=5, cancel_on_disconnect=True)
    two = Client(farm, "two")
    worker = Worker(farm, "gpu2")
    worker.draws(worker.starts(worker.attempts[0]))
    two.says(wire.Attach(id=petition_id(1), again=True, wait=False))
    two.breaks()
    assert farm.manager.state.queue.entries[petition_id(1)].state == "running"


def test_a_picture_that_vanished_while_it_was_sent_frees_its_credit_and_comes_again(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=6)
    draw_all(worker, 5)
    lost = client.got(wire.Result)[0]
    farm.happen(BlobMissing(lost.digest, "it is damaged"))
    farm.turn()
    assert client.pictures == [0, 1, 2, 3, 4]
    again = next(a for a in worker.attempts if (a.index, a.number) == (0, 2))
    worker.draws(worker.starts(again), data=b"the same again")
    client.sees(pid, 1, 2, 3, 4)
    assert client.pictures == [0, 1, 2, 3, 4, 0]
    worker.draws(worker.starts(first(worker, 5)))
    client.sees(pid, 0, 5)
    assert client.last(wire.Finished).state == "done"


def test_a_fetch_of_a_picture_that_vanished_ends_all_the_same(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    client.sees(pid, 0)
    client.says(wire.Attach(id=pid, again=True))
    farm.happen(BlobMissing(client.last(wire.Result).digest, "it is gone"))
    farm.turn()
    assert len(client.got(wire.Finished)) == 2


# --- Retrying -------------------------------------------------------------------------------


def fail_all(worker: Worker, code: str = "unsupported") -> None:
    for attempt in list(worker.attempts):
        worker.fails(attempt, code)


def edited(**changes: object) -> bytes:
    return encode_petition(petition(**changes))  # type: ignore[arg-type]


def test_a_retry_of_a_petition_that_goes_on_only_attaches(farm):
    """Its answer got lost and it is sent again; and it must not touch images not yet granted."""
    client, worker = Client(farm), Worker(farm)
    pid = submit_detached(client, images=5)
    client.says(wire.Retry(id=pid))
    assert not client.got(wire.Refused)
    worker.draws(worker.starts(first(worker, 0)))
    assert client.pictures == [0]
    client.says(wire.Retry(id=pid), edited(images=5, steps=3))
    assert client.last(wire.Refused).error.code == "invalid_params"


def test_a_retry_with_other_parameters_draws_those(farm):
    client, worker = Client(farm), Worker(farm, files=(MODEL, OTHER))
    pid = client.submits()
    fail_all(worker)
    client.says(wire.Retry(id=pid), edited(steps=3, model="other"))
    assert client.last(wire.Accepted).state == "queued"
    grants = [
        e for e in farm.effects if isinstance(e, fx.Send) and isinstance(e.message, wire.Grant)
    ]
    params = decode_petition(grants[-1].body or b"").params
    assert (params.steps, params.model) == (3, "other")
    attempt = worker.starts()
    farm.restart()
    worker.reconnects(running=(attempt,))
    worker.draws(attempt)
    again = Client(farm, "new")
    again.says(wire.Attach(id=pid))
    assert again.pictures == [0]
    # The same bytes as first submitted are still the same petition.
    again.submits()
    assert not again.got(wire.Refused)


@pytest.mark.parametrize("about", [{"seed": 7}, {"images": 2}])
def test_a_retry_keeps_seed_and_number_of_images(farm, about):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    fail_all(worker)
    client.says(wire.Retry(id=pid), edited(**about))
    assert client.last(wire.Refused).error.code == "invalid_params"


def test_a_retry_of_an_unknown_petition_is_not_found(farm):
    client = Client(farm)
    client.says(wire.Retry(id=petition_id(9)))
    assert client.last(wire.Refused).error.code == "not_found"


def test_a_retry_after_a_cancel_draws_the_rest_and_can_fail_again(farm):
    """An attempt that was live at the cancel must not hold the image for ever."""
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=3)
    worker.draws(worker.starts(first(worker, 0)))
    worker.starts(first(worker, 1))
    client.sees(pid, 0)
    client.says(wire.Cancel(id=pid))
    client.says(wire.Retry(id=pid))
    again = [a for a in worker.attempts if (a.index, a.number) == (1, 2)]
    worker.fails(worker.starts(again[0]))
    assert (1, 3) in {(a.index, a.number) for a in worker.attempts}
    farm.restart()
    worker.reconnects()
    farm.wait(limits.RESTART_GRACE_S + 1, worker)
    assert {a.index for a in worker.attempts} == {1, 2}


def test_the_same_body_is_no_edit_and_a_late_result_counts(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    old = worker.starts()
    farm.wait(4, client)
    client.says(wire.Cancel(id=pid))
    client.says(wire.Retry(id=pid), farm.manager.state.queue.entries[pid].body)
    worker.reconnects(holding=(old,))
    worker.draws(old)
    assert not worker.got(wire.ResultRefused)
    assert client.pictures == [0]


def test_a_late_result_of_the_parameters_of_before_is_refused_after_an_edit(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    old = worker.starts()
    farm.wait(4, client)  # the worker is silent, and its image free for others
    client.says(wire.Cancel(id=pid))
    client.says(wire.Retry(id=pid), edited(steps=3))
    worker.reconnects(holding=(old,))
    worker.draws(old)
    assert worker.got(wire.ResultRefused)
    assert not client.pictures
    new = worker.attempts[-1]
    worker.draws(worker.starts(new), data=b"the new picture")
    assert client.pictures == [0]


def test_a_retry_gets_its_time_limit_anew(farm):
    client, _ = Client(farm), Worker(farm)
    pid = client.submits(timeout_s=10)
    farm.wait(11, client)
    assert client.last(wire.Finished).state == "expired"
    client.says(wire.Retry(id=pid))
    farm.wait(8, client)
    assert len(client.got(wire.Finished)) == 1
    farm.wait(4, client)
    assert len(client.got(wire.Finished)) == 2


def test_a_retry_needs_room():
    farm = Farm(petitions_max=1)
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(1)
    fail_all(worker)
    client.submits(2)
    client.says(wire.Retry(id=pid))
    assert client.last(wire.Refused).error.code == "busy"


def test_a_retry_for_a_model_that_nobody_has_changes_nothing(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    fail_all(worker)
    client.says(wire.Retry(id=pid), edited(model="tinny"))
    assert client.last(wire.Refused).error.code == "model_not_found"
    assert ask(client, "petition", id=pid).queue[0].state == "failed"


def test_an_edited_petition_stands_in_one_line_only(farm):
    client = Client(farm)
    worker = Worker(farm, files=(MODEL, OTHER))
    ids = [client.submits(number, images=3) for number in (1, 2)]
    client.says(wire.Cancel(id=ids[1]))
    client.says(wire.Retry(id=ids[1]), encode_petition(petition(images=3, model="other")))
    lined_up = [entry.id for entry in farm.manager.state.queue.lined_up()]
    assert lined_up.count(ids[1]) == 1
    assert worker.attempts


# --- Asking ---------------------------------------------------------------------------------


def test_a_petition_is_found_by_the_beginning_of_its_id_and_answered_with_its_bytes(farm):
    client = Client(farm)
    body = encode_petition(petition(prompt="a canary"))
    for pid in ("ab" * 16, "ac" * 16):
        client.says(wire.Submit(id=pid), body)
    assert [row.id for row in ask(client, "petition", id="a").queue] == ["ab" * 16, "ac" * 16]
    assert body_of_last_answer(farm) is None
    assert [row.id for row in ask(client, "petition", id="ab").queue] == ["ab" * 16]
    assert body_of_last_answer(farm) == body
    assert ask(client, "petition", id="b").queue == ()
    assert body_of_last_answer(farm) is None
    assert [row.id for row in ask(client, "petition", id="ac" * 16).queue] == ["ac" * 16]


def test_the_queue_answers_no_bytes(farm):
    client = Client(farm)
    client.submits()
    ask(client, "queue", id=petition_id(1))
    assert body_of_last_answer(farm) is None


def test_ended_petitions_are_listed_when_asked_for(farm):
    client, worker = Client(farm), Worker(farm)
    one = client.submits(1)
    worker.draws(worker.starts())
    two = client.submits(2)
    assert [row.id for row in ask(client, "queue").queue] == [two]
    assert [row.id for row in ask(client, "queue", all=True).queue] == [one, two]
    assert ask(client, "queue", all=True, id=one).queue[0].state == "done"


def test_when_not_all_fit_those_that_have_not_ended_come_first(farm):
    client, worker = Client(farm), Worker(farm)
    for number in range(1, 700):
        submit_detached(client, number)
        client.says(wire.Cancel(id=petition_id(number)))
    last = submit_detached(client, 700)
    answer = ask(client, "queue", all=True)
    assert answer.cut
    assert answer.queue[0].id == last
    assert worker.attempts


def test_a_row_says_what_stands_before_it(farm):
    client = Client(farm)
    submit_detached(client, 1, images=5)
    second = submit_detached(client, 2)
    (row,) = ask(client, "queue", id=second).queue
    assert (row.ahead, row.reason) == (5, "no worker is connected yet")


# --- Purging --------------------------------------------------------------------------------


def test_a_purge_sent_again_is_answered_again(farm):
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    client.sees(pid, 0)
    client.says(wire.Purge(id=pid))
    assert client.last(wire.Purged) == wire.Purged(id=pid, petitions=1)
    client.says(wire.Purge(id=pid))
    assert client.last(wire.Purged) == wire.Purged(id=pid)
    client.says(wire.Purge(id=petition_id(9)))
    assert client.last(wire.Refused).error.code == "not_found"


def test_a_petition_that_goes_on_is_not_purged(farm):
    client = Client(farm)
    pid = submit_detached(client)
    client.says(wire.Purge(id=pid))
    assert client.last(wire.Refused).error.code == "invalid_params"
    client.says(wire.Purge())
    assert client.last(wire.Purged).petitions == 0


def test_who_still_listens_to_a_purged_petition_is_told(farm):
    one, two, worker = Client(farm, "one"), Client(farm, "two"), Worker(farm)
    pid = one.submits()
    worker.draws(worker.starts())
    two.says(wire.Purge(id=pid))
    assert one.last(wire.Refused).error.code == "not_found"
    one.sees(pid, 0)
    one.submits(2)
    worker.draws(worker.starts(), data=b"another")
    assert one.pictures == [0, 0]
