"""The worker's machine draws several quick images of a petition in one call of the engine."""

from collections.abc import Sequence
from typing import Any

import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.params import Params
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.calls import Job, together
from sdistrib_worker.making import START_TRIES
from tests.support.rig import FACTS, Rig, asked, attempt, crash, log_of, of, one, said

OTHER_PETITION = 7


class Quick(Rig):
    """A worker whose images take 0.2 s where nothing else is said."""

    def draw(self, ticket: int, load_s: float = 0.0, **facts: Any) -> list[fx.Effect]:
        """The engine finishes a picture."""
        return super().draw(ticket, load_s, **{"draw_s": 0.2, **facts})


def quick(draw_s: float = 0.2, **settings: Any) -> Rig:
    """A worker that has drawn one image of the kind that `grant` asks for, in so many seconds."""
    rig = Quick(**settings)
    rig.connect()
    rig.draw(rig.begin(attempt(0, petition=OTHER_PETITION), prompt="another"), draw_s=draw_s)
    rig.encoded(attempt(0, petition=OTHER_PETITION))
    rig.hear(wire.ResultRecorded(attempt=attempt(0, petition=OTHER_PETITION)))
    return rig


def attempts(count: int, first: int = 0) -> list[wire.Attempt]:
    """Attempts at the first images of a petition."""
    return [attempt(index) for index in range(first, first + count)]


def call(rig: Rig, count: int, **wishes: Any) -> int:
    """The engine begins a call of so many images, with seeds from 100; gives its first ticket."""
    draw = one(asked(rig.grant(*attempts(count), **wishes)))
    assert (draw.count, draw.seed) == (count, 100)
    rig.engine(child.Began(ticket=draw.ticket))
    return draw.ticket


def sampling(ticket: int, step: int = 1, **more: Any) -> child.At:
    """The engine is at a step of four."""
    return child.At(ticket=ticket, phase="sampling", step=step, steps=4, **more)


def comes_to(rig: Rig, ticket: int, step: int = 1) -> list[fx.Effect]:
    """The engine turns to another image of its call."""
    return rig.engine(child.Began(ticket=ticket), sampling(ticket, step))


def again(rig: Rig) -> list[child.Draw]:
    """The engine is back; what it is asked for, each drawn at once."""
    found = []
    made = asked(rig.turn() + rig.engine(child.Ready(facts=FACTS)))
    while made:
        found.append(one(made))
        made = asked(rig.draw(found[-1].ticket))
    return found


def singles(draws: Sequence[child.Draw]) -> list[int]:
    """Seeds of images that were asked for singly."""
    assert all(draw.count == 1 for draw in draws)
    return [draw.seed for draw in draws]


# --- what goes together -------------------------------------------------------------------------


def test_the_first_of_its_kind_is_drawn_alone_and_the_rest_in_one_call() -> None:
    rig = Rig()
    rig.connect()
    first = one(asked(rig.grant(*attempts(4), seed=7)))
    assert (first.count, first.seed) == (1, 7)
    rig.engine(child.Began(ticket=first.ticket))
    rest = one(asked(rig.draw(first.ticket, draw_s=0.2)))
    assert (rest.count, rest.seed, rest.ticket) == (3, 8, first.ticket + 1)
    # The next request has numbers of its own.
    rig.grant(attempt(0, petition=2))
    for ticket in range(rest.ticket, rest.ticket + 3):
        made = rig.draw(ticket)
    assert one(asked(made)).ticket == rest.ticket + 3


def test_results_leave_one_by_one_with_their_own_seeds() -> None:
    rig = quick()
    ticket = call(rig, 3)
    for index in range(3):
        made = rig.draw(ticket + index, load_s=0.0, draw_s=0.1)
        encode = one(of(made, fx.EncodePicture))
        assert encode.facts is not None
        assert (encode.attempt, encode.facts.seed) == (attempt(index), 100 + index)
    for index in (2, 0, 1):
        result = one(said(rig.encoded(attempt(index)), wire.Result))
        assert (result.seed, result.notes, result.draw_s) == (100 + index, (), 0.1)


def test_the_next_call_is_asked_for_with_the_last_picture_and_before_it_is_encoded() -> None:
    rig = quick()
    ticket = call(rig, 2)
    rig.grant(attempt(0, petition=2))
    assert not asked(rig.draw(ticket))
    kinds = [type(effect) for effect in rig.draw(ticket + 1)]
    assert kinds.index(fx.AskEngine) < kinds.index(fx.EncodePicture)


SOME = InputFile("c" * 64, 100)


def test_plain_pictures_go_together() -> None:
    jobs = [Job(attempt(i), Params(prompt="x", model="m"), 100 + i) for i in range(3)]
    assert together(jobs[0], jobs[1:], 0.1, 9) == jobs


@pytest.mark.parametrize(
    "wishes",
    [
        {"hires": True},
        {"mode": "vid_gen"},
        {"mode": "vid_gen", "video_frames": 5},
        {"photo_maker": "person"},
        {"upscale_model": "x2"},
        {"init_image": "c" * 64},
        {"control_image": "c" * 64},
        {"ref_images": ("c" * 64,)},
    ],
    ids=str,
)
def test_what_is_more_than_a_plain_picture_is_drawn_alone(wishes: dict[str, Any]) -> None:
    jobs = [Job(attempt(i), Params(prompt="x", model="m", **wishes), 100 + i) for i in range(3)]
    assert together(jobs[0], jobs[1:], 0.1, 9) == jobs[:1]


def test_what_has_input_files_is_drawn_alone() -> None:
    jobs = [Job(attempt(i), Params(prompt="x", model="m"), i, inputs=(SOME,)) for i in range(3)]
    assert together(jobs[0], jobs[1:], 0.1, 9) == jobs[:1]


def test_what_is_shown_while_it_is_drawn_is_drawn_alone() -> None:
    rig = quick()
    petition = Petition(
        params=Params(prompt="a lighthouse", model="tiny", steps=4), seed=100, images=3,
        preview="proj",
    )  # fmt: skip
    made = rig.hear(wire.Grant(attempts=tuple(attempts(3))), encode_petition(petition))
    assert one(asked(made)).count == 1


@pytest.mark.parametrize(
    "second",
    [{"seed": 105}, {"prompt": "else"}, {"cfg_scale": 2.0}, {"width": 64}],
    ids=str,
)
def test_other_seeds_and_other_wishes_end_a_call(second: dict[str, Any]) -> None:
    rig = quick()
    rig.begin(attempt(0, petition=9))
    rig.grant(attempt(0))
    rig.grant(attempt(1), **second)
    assert one(asked(rig.draw(2))).count == 1


def test_images_of_one_petition_from_two_grants_go_together() -> None:
    rig = quick()
    ticket = rig.begin(attempt(0, petition=9))
    rig.grant(*attempts(2))
    rig.grant(*attempts(2, first=2))
    assert one(asked(rig.draw(ticket))).count == 4


def test_images_of_two_petitions_do_not() -> None:
    rig = quick()
    ticket = rig.begin(attempt(0, petition=9))
    rig.grant(attempt(0, petition=2), seed=100)
    rig.grant(attempt(1, petition=3), seed=100)
    assert one(asked(rig.draw(ticket))).count == 1


def test_a_gap_in_the_seeds_ends_a_call() -> None:
    rig = quick()
    draw = one(asked(rig.grant(attempt(0), attempt(1), attempt(3), attempt(4))))
    assert draw.count == 2
    rig.draw(draw.ticket)
    draw = one(asked(rig.draw(draw.ticket + 1)))
    assert (draw.seed, draw.count) == (103, 2)


@pytest.mark.parametrize("wishes", [{"steps": 9}, {"width": 256}, {"model": "other"}], ids=str)
def test_the_pace_of_other_images_tells_nothing(wishes: dict[str, Any]) -> None:
    rig = quick()
    assert one(asked(rig.grant(*attempts(3), **wishes))).count == 1


def test_a_call_at_n_and_n_plus_1_seconds() -> None:
    for count, image_s in ((4, limits.CALL_S_MAX / 4), (3, limits.CALL_S_MAX / 4 + 0.01)):
        rig = quick(draw_s=image_s)
        assert one(asked(rig.grant(*attempts(9)))).count == count
    for count, image_s in ((2, limits.CALL_S_MAX / 2), (1, limits.CALL_S_MAX / 2 + 0.01)):
        rig = quick(draw_s=image_s)
        assert one(asked(rig.grant(*attempts(9)))).count == count


@pytest.mark.parametrize("more", [0, 1])
def test_a_call_at_n_and_n_plus_1_images(more: int) -> None:
    rig = quick(draw_s=0.001)
    granted = attempts(limits.CALL_IMAGES_MAX + more)
    assert one(asked(rig.grant(*granted))).count == limits.CALL_IMAGES_MAX


def test_the_owner_says_how_many_go_together() -> None:
    rig = quick(declared=wire.Declared(max_batch=2))
    assert one(asked(rig.grant(*attempts(5)))).count == 2


def test_a_call_brings_no_more_results_than_may_be_held() -> None:
    rig = quick()
    for index in range(limits.WORKER_RESULTS_HELD_MAX - 3):
        held = attempt(index, petition=9)
        rig.draw(rig.begin(held, width=64))
        rig.encoded(held)
    draw = one(asked(rig.grant(*attempts(5))))
    assert draw.count == 3
    for ticket in range(draw.ticket, draw.ticket + 3):
        made = rig.draw(ticket)
    assert asked(made) == []
    assert "takes no results" in log_of(made)
    assert one(asked(rig.hear(wire.ResultRecorded(attempt=attempt(0, petition=9))))).count == 1


# --- progress -----------------------------------------------------------------------------------


def test_each_image_begins_and_is_told_of_under_its_own_name() -> None:
    rig = quick()
    ticket = call(rig, 3)
    assert said(rig.effects, wire.Started)[-1].attempt == attempt(0)
    rig.engine(sampling(ticket, step_s=0.01))
    made = comes_to(rig, ticket + 1, step=0)
    assert said(made, wire.Started) == [wire.Started(attempt=attempt(1))]
    step = one(said(made, wire.Step))
    assert (step.attempt, step.phase, step.step) == (attempt(1), "sampling", 0)
    comes_to(rig, ticket + 2)
    for index in range(3):
        made = rig.engine(child.At(ticket=ticket + index, phase="decoding"))
        step = one(said(made, wire.Step))
        assert (step.attempt, step.phase) == (attempt(index), "decoding")


def test_a_hello_names_all_images_of_the_call_that_have_no_picture() -> None:
    rig = quick()
    ticket = call(rig, 3)
    rig.draw(ticket)
    hello = one(said(rig.hear(wire.Identify()), wire.WorkerHello))
    assert hello.running == (attempt(1), attempt(2))
    assert hello.holding == (attempt(0),)


def test_what_is_in_a_call_is_known_and_not_revoked() -> None:
    rig = quick()
    call(rig, 3)
    assert asked(rig.grant(*attempts(3))) == []
    for held in attempts(3):
        assert said(rig.hear(wire.Revoke(attempt=held))) == [wire.TooLate(attempt=held)]


# --- ends ---------------------------------------------------------------------------------------


def test_a_death_costs_the_image_it_was_at_and_the_others_are_drawn_singly() -> None:
    rig = quick()
    ticket = call(rig, 4)
    comes_to(rig, ticket + 1)
    rig.grant(attempt(0, petition=2), seed=500)
    made = rig.turn(crash())
    failed = one(said(made, wire.Failed))
    assert (failed.attempt, failed.started) == (attempt(1), True)
    assert not said(made, wire.Revoked)
    # Before what came later, in order.
    assert singles(again(rig)) == [100, 102, 103, 500]


def test_a_death_while_decoding_costs_the_image_that_is_decoded() -> None:
    rig = quick()
    ticket = call(rig, 3)
    for number in (1, 2):
        comes_to(rig, ticket + number)
    rig.engine(child.At(ticket=ticket, phase="decoding"))
    assert one(said(rig.turn(crash()), wire.Failed)).attempt == attempt(0)
    assert singles(again(rig)) == [101, 102]


def test_a_death_while_pictures_are_handed_out_costs_the_next_of_them() -> None:
    rig = quick()
    ticket = call(rig, 3)
    rig.draw(ticket)
    assert one(said(rig.turn(crash()), wire.Failed)).attempt == attempt(1)
    assert singles(again(rig)) == [102]
    assert one(said(rig.encoded(attempt(0)), wire.Result)).attempt == attempt(0)


def test_what_was_in_a_call_that_ended_early_goes_with_nobody_again() -> None:
    rig = quick()
    call(rig, 3)
    rig.turn(crash())
    rig.grant(*attempts(2, first=3))
    draws = asked(rig.turn() + rig.engine(child.Ready(facts=FACTS)))
    while len(draws) < 3:
        draws += asked(rig.draw(draws[-1].ticket))
    # What came behind them is a call of its own again.
    assert [(draw.seed, draw.count) for draw in draws] == [(101, 1), (102, 1), (103, 2)]


def test_a_hang_costs_the_image_it_was_at() -> None:
    rig = quick()
    ticket = call(rig, 3)
    comes_to(rig, ticket + 2)
    while not of(rig.effects, fx.KillEngine):
        rig.hear(wire.Beat(), after_s=5.0)
    kill = one(of(rig.effects, fx.KillEngine))
    assert kill.code == "engine_hung"
    info = ErrorInfo(code="engine_hung", message=kill.reason, signal="SIGKILL")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert one(said(made, wire.Failed)).attempt == attempt(2)
    assert singles(again(rig)) == [100, 101]


@pytest.mark.parametrize(("number", "rest"), [(0, [101, 102]), (1, [100, 102])])
def test_a_refusal_costs_the_image_it_was_at(number: int, rest: list[int]) -> None:
    rig = quick()
    ticket = call(rig, 3)
    if number:
        comes_to(rig, ticket + number)
    no = child.Declined(ticket=ticket + number, code="engine_error", message="no")
    made = rig.engine(no)
    assert one(said(made, wire.Failed)).attempt == attempt(number)
    draw = one(asked(made))
    assert singles([draw]) == rest[:1]
    assert singles(asked(rig.draw(draw.ticket))) == rest[1:]


def test_a_refusal_while_loading_is_an_answer_for_each() -> None:
    rig = quick()
    ticket = call(rig, 3)
    for index in range(3):
        no = child.Declined(ticket=ticket, code="engine_error", message="no", loading=True)
        made = rig.engine(child.At(ticket=ticket, phase="loading"), no)
        assert one(said(made, wire.Failed)).attempt == attempt(index)
        if index < 2:
            draw = one(asked(made))
            assert singles([draw]) == [101 + index]
            ticket = draw.ticket


def test_a_file_that_vanished_is_an_answer_for_each() -> None:
    rig = quick()
    ticket = one(asked(rig.grant(*attempts(3)))).ticket
    for index in range(3):
        made = rig.turn(events.FileVanished(ticket, "/m/t"))
        failed = one(said(made, wire.Failed))
        assert (failed.attempt, failed.error.code) == (attempt(index), "model_not_found")
        if index < 2:
            ticket = one(asked(made)).ticket


def test_a_death_of_an_idle_engine_that_was_just_asked_costs_nothing() -> None:
    rig = quick()
    rig.grant(*attempts(3))
    failed = one(said(rig.turn(crash()), wire.Failed))
    assert (failed.attempt, failed.started) == (attempt(0), False)
    assert singles(again(rig)) == [101, 102]


def test_for_want_of_memory_beside_other_contexts_nothing_fails() -> None:
    rig = quick(declared=wire.Declared(keep=2))
    rig.draw(rig.begin(attempt(0, petition=9), model="other"))
    ticket = call(rig, 3)
    comes_to(rig, ticket + 1)
    info = ErrorInfo(code="out_of_memory", message="No memory.", signal="SIGKILL")
    made = rig.turn(events.EngineDied(info))
    assert not said(made, wire.Failed)
    assert singles(again(rig)) == [100, 101, 102]
    notes = [one(said(rig.encoded(held), wire.Result)).notes for held in attempts(3)]
    assert [bool(note) for note in notes] == [False, True, False]


def test_an_engine_that_does_not_start_again_gives_all_back() -> None:
    rig = quick()
    call(rig, 3)
    rig.turn(crash())
    made = rig.turn(crash(was_ready=False))
    failed = said(made, wire.Failed)
    assert [one.attempt for one in failed] == attempts(2, first=1)
    assert not any(one.started for one in failed)
    assert START_TRIES > 1


# --- cancel, pause, end ---------------------------------------------------------------------------


def test_one_that_nobody_wants_is_dropped_when_it_comes_and_the_others_are_kept() -> None:
    rig = quick()
    ticket = call(rig, 3)
    comes_to(rig, ticket + 1)
    assert rig.hear(wire.Abandon(attempt=attempt(1))) == []
    assert said(rig.engine(sampling(ticket + 1, 2)), wire.Step) == []
    assert not said(comes_to(rig, ticket + 2), wire.Failed)
    for index in range(3):
        made = rig.draw(ticket + index)
        assert bool(of(made, fx.DropPicture)) is (index == 1)
        assert bool(of(made, fx.EncodePicture)) is (index != 1)


def test_one_that_nobody_wants_does_not_begin() -> None:
    rig = quick()
    ticket = call(rig, 2)
    rig.hear(wire.Abandon(attempt=attempt(1)))
    assert said(comes_to(rig, ticket + 1)) == []


def test_one_that_nobody_wants_is_neither_failed_nor_drawn_again() -> None:
    rig = quick()
    ticket = call(rig, 4)
    comes_to(rig, ticket + 1)
    for unwanted in (1, 3):
        rig.hear(wire.Abandon(attempt=attempt(unwanted)))
    assert not said(rig.turn(crash()), wire.Failed)
    assert singles(again(rig)) == [100, 102]


def test_only_a_call_that_nobody_wants_at_all_is_ended() -> None:
    rig = quick()
    ticket = call(rig, 3)
    # 3 of 4 steps are left of this image, and 8 of the others: worse than a new engine.
    rig.engine(sampling(ticket, step_s=0.5))
    assert not of(rig.hear(wire.Abandon(attempt=attempt(0))), fx.KillEngine)
    assert not of(rig.hear(wire.Abandon(attempt=attempt(2))), fx.KillEngine)
    assert one(of(rig.hear(wire.Abandon(attempt=attempt(1))), fx.KillEngine)).code == "cancelled"
    info = ErrorInfo(code="cancelled", message="x", signal="SIGKILL")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert not said(made, wire.Failed | wire.Revoked)
    assert again(rig) == []


def test_the_images_that_are_not_sampled_yet_count_when_a_call_is_ended() -> None:
    rig = Rig()
    rig.connect()
    first = rig.begin(attempt(0, petition=OTHER_PETITION))
    rig.draw(first, load_s=3.0, draw_s=0.2)
    ticket = call(rig, 3)
    # 3 + 8 steps of 0.2 s are less than the load of 3 s, with 0.5 s they are more.
    rig.engine(sampling(ticket, step_s=0.2))
    made = [rig.hear(wire.Abandon(attempt=held)) for held in attempts(3)]
    assert not any(of(one, fx.KillEngine) for one in made)
    assert of(rig.engine(sampling(ticket, step_s=0.5)), fx.KillEngine)


def test_an_engine_that_can_cancel_is_asked_to_end_the_whole_call() -> None:
    rig = Rig()
    rig.turn()
    rig.engine(child.Ready(facts=FACTS, cancels=True))
    rig.welcome()
    rig.draw(rig.begin(attempt(0, petition=OTHER_PETITION)), draw_s=0.2)
    ticket = call(rig, 2)
    comes_to(rig, ticket + 1)
    assert not of(rig.hear(wire.Abandon(attempt=attempt(1))), fx.CancelDrawing)
    made = rig.hear(wire.Abandon(attempt=attempt(0)))
    assert of(made, fx.CancelDrawing) == [fx.CancelDrawing(ticket)]


def test_a_pause_lets_the_call_finish_and_what_it_gave_up_goes_back() -> None:
    rig = quick()
    ticket = call(rig, 3)
    rig.hear(wire.Steer(number=1, wish="pause"))
    comes_to(rig, ticket + 1)
    rig.turn(crash())
    assert singles(again(rig)) == [100, 102]


def test_a_worker_that_is_told_to_stop_finishes_its_call() -> None:
    rig = quick()
    ticket = call(rig, 2)
    assert not of(rig.turn(events.StopRequested()), fx.Stop)
    for index in range(2):
        rig.draw(ticket + index)
        rig.encoded(attempt(index))
        made = rig.hear(wire.ResultRecorded(attempt=attempt(index)))
        assert bool(of(made, fx.Stop)) is (index == 1)


def test_a_worker_that_is_told_twice_gives_up_the_whole_call() -> None:
    rig = quick()
    ticket = call(rig, 3)
    rig.draw(ticket)
    comes_to(rig, ticket + 1)
    rig.turn(events.StopRequested())
    made = rig.turn(events.StopRequested())
    failed = {one.attempt: one.started for one in said(made, wire.Failed)}
    assert failed == {attempt(1): True, attempt(2): False, attempt(0): True}


def test_without_a_session_what_a_call_gave_up_is_given_back() -> None:
    rig = quick()
    ticket = call(rig, 3)
    comes_to(rig, ticket + 1)
    rig.hear(wire.Identify())
    rig.turn(crash())
    made = rig.welcome()
    assert [one.attempt for one in said(made, wire.Revoked)] == [attempt(0), attempt(2)]
    assert one(said(made, wire.Failed)).attempt == attempt(1)
    assert again(rig) == []
