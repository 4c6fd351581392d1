"""Input files of granted jobs: what is asked, opened, written, acknowledged, given up."""

import pytest

from sdistrib import limits
from sdistrib.petitions import InputFile
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from tests.support.rig import Rig, asked, attempt, log_of, of, one, said

A = InputFile("a" * 64, 10)
B = InputFile("b" * 64, 20)
OTHERS = tuple(InputFile(f"{number:064x}", 10) for number in range(6))


def connected() -> Rig:
    rig = Rig()
    rig.connect()
    return rig


def path(file: InputFile) -> str:
    return f"/inputs/{file.digest}"


def ready(file: InputFile) -> events.InputReady:
    return events.InputReady(file.digest, path(file))


def missing(file: InputFile, offset: int = 0) -> events.InputOpened:
    return events.InputOpened(file.digest, offset)


def piece(rig: Rig, file: InputFile, offset: int, data: bytes) -> list[fx.Effect]:
    return rig.hear(wire.Chunk(digest=file.digest, offset=offset), data)


def fetching(*files: InputFile) -> Rig:
    """A job that waits for these files, which were asked for."""
    rig = connected()
    rig.grant(attempt(), inputs=files)
    rig.turn(*map(missing, files))
    return rig


def fetched(rig: Rig, file: InputFile) -> list[fx.Effect]:
    """The whole file in one piece."""
    piece(rig, file, 0, bytes(file.size_bytes))
    return rig.turn(ready(file))


# --- the plain course -------------------------------------------------------------------------


def test_a_job_without_input_files_waits_for_nothing() -> None:
    draw = one(asked(connected().grant(attempt())))
    assert draw.inputs == {}


def test_a_job_waits_until_its_files_are_here_and_gets_their_paths() -> None:
    rig = connected()
    made = rig.grant(attempt(), inputs=(A, B))
    assert of(made, fx.OpenInput) == [fx.OpenInput(A.digest, 10), fx.OpenInput(B.digest, 20)]
    assert not asked(made)
    assert not asked(rig.turn(ready(A)))
    draw = one(asked(rig.turn(ready(B))))
    assert draw.inputs == {A.digest: path(A), B.digest: path(B)}


def test_what_is_in_the_cache_is_not_fetched() -> None:
    rig = connected()
    rig.grant(attempt(), inputs=(A,))
    made = rig.turn(ready(A))
    assert asked(made)
    assert not said(made, wire.Fetch)


def test_pieces_go_to_the_cache_and_are_acknowledged_once_written() -> None:
    rig = connected()
    rig.grant(attempt(), inputs=(A,))
    assert said(rig.turn(missing(A))) == [wire.Fetch(digest=A.digest)]
    made = piece(rig, A, 0, b"01234")
    assert of(made, fx.WriteInput) == [fx.WriteInput(A.digest, 0, b"01234")]
    assert not said(made, wire.ChunkSeen)
    assert said(rig.turn(events.InputHeld(A.digest, 5))) == [
        wire.ChunkSeen(digest=A.digest, offset=5)
    ]
    piece(rig, A, 5, b"56789")
    made = rig.turn(ready(A))
    assert wire.ChunkSeen(digest=A.digest, offset=10) in said(made)
    assert one(asked(made)).inputs == {A.digest: path(A)}


def test_a_file_of_several_jobs_is_opened_and_fetched_once_and_closed_after_the_last() -> None:
    rig = connected()
    made = rig.grant(attempt(0), attempt(1), inputs=(A,))
    made += rig.grant(attempt(petition=2), inputs=(A, B))
    assert [effect.digest for effect in of(made, fx.OpenInput)] == [A.digest, B.digest]
    made = rig.turn(missing(A), missing(B))
    assert [fetch.digest for fetch in said(made, wire.Fetch)] == [A.digest, B.digest]
    fetched(rig, B)
    draw = one(asked(fetched(rig, A)))
    for done in range(2):
        draw = one(asked(rig.draw(draw.ticket)))
        assert not of(rig.effects, fx.CloseInput), done
    assert set(draw.inputs) == {A.digest, B.digest}
    rig.draw(draw.ticket)
    closed = {effect.digest for effect in of(rig.effects, fx.CloseInput)}
    assert closed == {A.digest, B.digest}


def test_a_job_that_waits_for_its_file_stops_no_other() -> None:
    rig = fetching(A)
    made = rig.grant(attempt(petition=2))
    assert one(asked(made)).ticket == 1
    fetched(rig, A)
    assert one(asked(rig.draw(1))).inputs == {A.digest: path(A)}


def test_no_more_than_four_files_are_under_way() -> None:
    rig = connected()
    rig.grant(attempt(), inputs=OTHERS)
    made = rig.turn(*map(missing, OTHERS))
    assert [fetch.digest for fetch in said(made, wire.Fetch)] == [f.digest for f in OTHERS[:4]]
    made = fetched(rig, OTHERS[1])
    assert [fetch.digest for fetch in said(made, wire.Fetch)] == [OTHERS[4].digest]


def test_a_part_of_an_earlier_transfer_is_gone_on_with() -> None:
    rig = connected()
    rig.grant(attempt(), inputs=(A,))
    assert said(rig.turn(missing(A, 4)), wire.Fetch) == [wire.Fetch(digest=A.digest, offset=4)]
    assert of(piece(rig, A, 4, b"456789"), fx.WriteInput)


# --- strange pieces ---------------------------------------------------------------------------


def test_pieces_that_nobody_asked_for_are_dropped() -> None:
    rig = connected()
    assert not of(piece(rig, A, 0, b"0"), fx.WriteInput)
    rig.grant(attempt(), inputs=(A,))
    assert not of(piece(rig, A, 0, b"0"), fx.WriteInput)  # the cache has not answered
    rig.turn(missing(A))
    assert not of(piece(rig, A, 0, b""), fx.WriteInput)
    piece(rig, A, 0, b"01234")
    assert not of(piece(rig, A, 0, b"01234"), fx.WriteInput)  # said twice
    rig.turn(ready(A))
    assert not of(piece(rig, A, 5, b"5"), fx.WriteInput)


@pytest.mark.parametrize(("offset", "data"), [(7, b"7"), (5, b"56789+")], ids=["gap", "too long"])
def test_after_a_gap_or_too_much_the_file_is_asked_for_from_where_it_is(
    offset: int, data: bytes
) -> None:
    rig = fetching(A)
    piece(rig, A, 0, b"01234")
    made = piece(rig, A, offset, data)
    assert not of(made, fx.WriteInput)
    assert said(made, wire.Fetch) == [wire.Fetch(digest=A.digest, offset=5)]


def test_wrong_bytes_are_fetched_anew_once_and_then_fail_without_counting() -> None:
    rig = fetching(A)
    piece(rig, A, 0, bytes(10))
    made = rig.turn(events.InputBroken(A.digest))
    assert said(made) == [wire.Fetch(digest=A.digest)]
    piece(rig, A, 0, bytes(10))
    failed = one(said(rig.turn(events.InputBroken(A.digest)), wire.Failed))
    assert (failed.error.code, failed.started) == ("internal", False)
    assert "wrong twice" in failed.error.message
    # An answer of the cache that was under way.
    assert said(rig.turn(ready(A))) == []


# --- failures ---------------------------------------------------------------------------------


def full(file: InputFile) -> events.InputFailed:
    return events.InputFailed(file.digest, "No space left on device")


def test_a_full_disk_fails_the_jobs_that_need_the_file_and_no_other() -> None:
    rig = fetching(A)
    rig.grant(attempt(petition=2), attempt(1, petition=2), inputs=(B,))
    rig.grant(attempt(1), inputs=(A, B))
    made = rig.turn(full(A))
    failed = said(made, wire.Failed)
    assert [one_.attempt for one_ in failed] == [attempt(), attempt(1)]
    assert all("No space left" in one_.error.message for one_ in failed)
    assert "No space left" in log_of(made, "warning")
    assert one(asked(rig.turn(ready(B)))).inputs == {B.digest: path(B)}


def test_a_file_that_fails_again_counts_so_that_the_image_comes_to_an_end() -> None:
    rig = connected()
    counted = []
    for number in (1, 2, 3):
        rig.grant(attempt(number=number), inputs=(A,))
        counted.append(one(said(rig.turn(full(A)), wire.Failed)).started)
    assert counted == [False, True, True]
    assert len(of(rig.effects, fx.OpenInput)) == 3


def test_a_file_that_vanished_from_the_cache_fails_its_image_and_is_opened_anew() -> None:
    rig = connected()
    rig.grant(attempt(), inputs=(A,))
    ticket = one(asked(rig.turn(ready(A)))).ticket
    made = rig.turn(events.FileVanished(ticket, path(A)))
    failed = one(said(made, wire.Failed))
    assert (failed.error.code, failed.started) == ("internal", False)
    assert path(A) not in failed.error.message
    assert of(rig.grant(attempt(number=2), inputs=(A,)), fx.OpenInput)


def test_a_model_that_vanished_is_told_as_such_beside_input_files() -> None:
    rig = connected()
    rig.grant(attempt(), inputs=(A,))
    ticket = one(asked(rig.turn(ready(A)))).ticket
    made = rig.turn(events.FileVanished(ticket, "/m/t"))
    assert one(said(made, wire.Failed)).error.code == "model_not_found"


def test_answers_about_files_that_nobody_needs_are_ignored() -> None:
    rig = connected()
    for event in (ready(A), missing(A), events.InputBroken(A.digest), full(A)):
        assert rig.turn(event) == []


# --- a silent manager, a session that ends ----------------------------------------------------


def beaten(rig: Rig, seconds: float) -> list[fx.Effect]:
    """Time passes, and the manager is alive all the while."""
    before = len(rig.effects)
    for _ in range(round(seconds)):
        rig.hear(wire.Beat(), after_s=1.0)
    return rig.effects[before:]


def test_a_manager_that_sends_nothing_is_asked_three_times_and_then_it_fails() -> None:
    rig = fetching(A)
    for _ in range(2):
        assert not said(beaten(rig, limits.GONE_S - 1), wire.Fetch)
        assert said(beaten(rig, 1), wire.Fetch) == [wire.Fetch(digest=A.digest)]
    failed = one(said(beaten(rig, limits.GONE_S), wire.Failed))
    assert "does not send it" in failed.error.message
    assert not failed.started


def test_each_piece_gives_the_manager_new_patience() -> None:
    rig = fetching(A)
    for offset in range(5):
        beaten(rig, limits.GONE_S - 1)
        piece(rig, A, offset, b"x")
        rig.turn(events.InputHeld(A.digest, offset + 1))
    assert not said(rig.effects, wire.Failed)
    assert len(said(rig.effects, wire.Fetch)) == 1


def test_a_manager_that_stalls_now_and_then_is_not_given_up() -> None:
    rig = fetching(A)
    for offset in range(6):
        beaten(rig, limits.GONE_S)
        piece(rig, A, offset, b"x")
    assert len(said(rig.effects, wire.Fetch)) == 7
    assert not said(rig.effects, wire.Failed)


def test_a_slow_disk_is_not_the_managers_fault() -> None:
    rig = fetching(A)
    piece(rig, A, 0, bytes(10))
    assert not said(beaten(rig, 5 * limits.GONE_S), wire.Fetch)
    assert asked(rig.turn(ready(A)))


def test_a_late_turn_moves_the_limit() -> None:
    rig = fetching(A)
    late = events.TurnLate(2 * limits.GONE_S)
    assert not said(rig.turn(late, after_s=2 * limits.GONE_S), wire.Fetch)


def test_with_the_session_the_queue_goes_and_its_files_are_closed_and_then_gone_on_with() -> None:
    rig = fetching(A)
    piece(rig, A, 0, b"01234")
    made = rig.hear(wire.Identify())
    assert of(made, fx.CloseInput) == [fx.CloseInput(A.digest)]
    # The cache wrote it after all; nobody is told.
    assert not said(rig.turn(events.InputHeld(A.digest, 5)), wire.ChunkSeen)
    rig.welcome()
    assert of(rig.grant(attempt(number=2), inputs=(A,)), fx.OpenInput)
    # Pieces that the old session's manager sent are not asked for yet.
    assert not of(piece(rig, A, 5, b"56789"), fx.WriteInput)
    made = rig.turn(missing(A, 5))
    assert said(made, wire.Fetch) == [wire.Fetch(digest=A.digest, offset=5)]


def test_the_running_image_keeps_its_files_through_the_end_of_a_session() -> None:
    rig = connected()
    rig.grant(attempt(), inputs=(A,))
    ticket = one(asked(rig.turn(ready(A)))).ticket
    rig.engine(child.Began(ticket=ticket))
    assert not of(rig.hear(wire.Identify()), fx.CloseInput)
    assert not said(rig.turn(events.InputHeld(A.digest, 5)), wire.ChunkSeen)
    rig.draw(ticket)
    assert of(rig.effects, fx.CloseInput) == [fx.CloseInput(A.digest)]


def test_a_cache_that_answers_after_the_pieces_became_strange_tells_nobody() -> None:
    rig = fetching(*OTHERS[:5])
    first = OTHERS[0]
    piece(rig, first, 0, b"01234")
    rig.turn(
        events.MessageArrived(wire.Chunk(digest=first.digest, offset=9), b"9"),
        events.InputHeld(first.digest, 5),
    )
    assert not said(rig.effects, wire.ChunkSeen)


def test_revoked_and_abandoned_jobs_close_their_files() -> None:
    rig = fetching(A)
    assert said(rig.hear(wire.Revoke(attempt=attempt())), wire.Revoked)
    assert of(rig.effects, fx.CloseInput) == [fx.CloseInput(A.digest)]
    rig.grant(attempt(petition=2), inputs=(B,))
    rig.hear(wire.Abandon(attempt=attempt(petition=2)))
    assert of(rig.effects, fx.CloseInput)[1:] == [fx.CloseInput(B.digest)]


def test_forget_goes_to_the_cache() -> None:
    made = connected().hear(wire.Forget(digests=(A.digest, B.digest)))
    assert of(made, fx.ForgetInputs) == [fx.ForgetInputs((A.digest, B.digest))]
