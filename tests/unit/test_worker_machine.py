"""The worker's machine: every transition, by hand-made events."""

import math

import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import decode_inventory, encode, encode_petition
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.making import QUEUE_MAX, START_TRIES
from sdistrib_worker.pace import Pace
from sdistrib_worker.shelf import Shelf, StoredFile, make_plan
from tests.support.rig import (
    FACTS,
    FILES,
    LORA,
    MODEL,
    Rig,
    asked,
    attempt,
    crash,
    digest,
    log_of,
    of,
    one,
    said,
)

# --- session ----------------------------------------------------------------------------------


def test_engine_is_started_first_and_hello_follows_its_facts() -> None:
    rig = Rig()
    assert rig.turn() == [fx.StartEngine()]
    assert rig.turn(after_s=1.0) == []
    made = rig.engine(child.Ready(facts=FACTS))
    hello = one(said(made))
    assert hello == wire.WorkerHello(
        protocols=(1,), software="sdistrib 0.1.0", name="box", instance="0" * 16, engine=FACTS
    )
    (send,) = of(made, fx.Send)
    assert send.body is not None
    assert decode_inventory(send.body) == tuple(stored.file for stored in FILES)
    for word in ("box", "cpu", "f" * 16, "3 model files", "10.0.0.9:4134"):
        assert word in log_of(made)


def test_welcome_opens_the_session_and_tells_the_engine_state() -> None:
    rig = Rig()
    rig.ready()
    made = rig.welcome()
    assert said(made) == [wire.EngineState(state="idle")]
    assert "Connected" in log_of(made)
    # The answer to a hello that was said twice.
    assert log_of(rig.welcome()) == ""


def test_hello_is_repeated_until_welcomed() -> None:
    rig = Rig()
    rig.ready()
    assert said(rig.turn(after_s=limits.SUSPECT_S - 0.1)) == []
    assert said(rig.turn(after_s=0.1), wire.WorkerHello)
    rig.welcome()
    for _ in range(5):
        assert not said(rig.hear(wire.Beat(), after_s=1.0), wire.WorkerHello)


def test_hello_that_found_nobody_is_tried_again_soon() -> None:
    rig = Rig()
    hello = one(said(rig.ready()))
    assert said(rig.turn(events.SendFailed(hello))) == []
    assert said(rig.turn(after_s=0.25)) == [hello]


def test_notice_after_five_seconds_once_with_address_and_remedy() -> None:
    rig = Rig()
    rig.ready()
    assert log_of(rig.turn(after_s=4.9), "warning") == ""
    text = log_of(rig.turn(after_s=0.1), "warning")
    assert "10.0.0.9:4134" in text
    assert "sdistrib-manager running" in text
    for _ in range(20):
        assert log_of(rig.turn(after_s=1.0), "warning") == ""
    assert "Connected" in log_of(rig.welcome())


def test_notice_within_a_session_is_taken_back() -> None:
    rig = Rig()
    rig.connect()
    assert "No answer" in log_of(rig.turn(after_s=limits.SILENCE_NOTICE_S))
    assert "answers again" in log_of(rig.hear(wire.Beat(), after_s=1.0))
    assert log_of(rig.hear(wire.Beat(), after_s=1.0)) == ""


def test_beats_go_out_when_nothing_else_does() -> None:
    rig = Rig()
    rig.connect()
    assert said(rig.turn(after_s=0.5)) == []
    assert said(rig.turn(after_s=0.5)) == [wire.Beat()]
    rig.grant(attempt())
    assert said(rig.turn(after_s=0.9)) == []


def test_suspect_manager_changes_nothing_and_gone_ends_the_session() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    rig.turn(after_s=limits.SUSPECT_S + 1)
    assert not said(rig.effects[1:], wire.Revoked)
    before = len(rig.effects)
    rig.turn(after_s=limits.GONE_S)
    made = rig.effects[before:]
    assert "silent for 30 s" in log_of(made)
    hello = one(said(made, wire.WorkerHello))
    assert hello.running == (attempt(0),)
    made = rig.welcome()
    assert one(said(made, wire.Revoked)).attempt == attempt(1)


@pytest.mark.parametrize(
    "message", [wire.Identify(), wire.Goodbye(reason="restart"), wire.Goodbye()]
)
def test_hello_again_when_the_manager_lets_go(message: wire.Message) -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1))
    hello = one(said(rig.hear(message), wire.WorkerHello))
    assert hello.running == (attempt(0),)
    # Progress of what runs is not sent to nobody.
    assert said(rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=4))) == []
    # More of the same answers do not make more hellos.
    assert said(rig.hear(wire.Identify())) == []
    assert said(rig.hear(wire.Identify(), after_s=0.25), wire.WorkerHello)
    made = rig.welcome()
    state = wire.EngineState(state="drawing", loaded="tiny.safetensors", context=_context())
    assert said(made) == [wire.Revoked(attempt=attempt(1)), state]


def _context() -> str:
    plan = make_plan(Params(prompt="x", model="tiny"), Shelf(FILES), "box")
    return plan.context


def test_a_send_that_fails_ends_the_session_and_loses_no_answer() -> None:
    rig = Rig()
    rig.connect()
    failed = wire.Failed(attempt=attempt(), error=ErrorInfo(code="internal", message="x"))
    revoked = wire.Revoked(attempt=attempt(1))
    made = rig.turn(events.SendFailed(failed), events.SendFailed(revoked))
    hello = one(said(made, wire.WorkerHello))
    assert hello.holding == (attempt(),)
    made = rig.welcome()
    assert said(made)[:2] == [revoked, failed]


def test_fault_of_the_first_hello_ends_the_worker() -> None:
    rig = Rig()
    rig.ready()
    error = ErrorInfo(code="protocol_error", message="this manager speaks protocol 2")
    stop = one(of(rig.hear(wire.Fault(error=error)), fx.Stop))
    assert stop.exit_status == 7
    assert "speaks protocol 2" in stop.reason


def test_later_faults_are_logged_once_in_a_row() -> None:
    rig = Rig()
    rig.connect()
    error = ErrorInfo(code="protocol_error", message="strange")
    assert "strange" in log_of(rig.hear(wire.Fault(error=error)))
    assert rig.hear(wire.Fault(error=error)) == []


def test_strange_bytes_are_answered_and_warned_of_once() -> None:
    rig = Rig()
    rig.connect()
    made = rig.turn(events.Malformed("this looks like the C++ sdistrib"))
    assert one(said(made, wire.Fault)).error.code == "protocol_error"
    assert "C++ sdistrib" in log_of(made, "warning")
    assert log_of(rig.turn(events.Malformed("this looks like the C++ sdistrib"))) == ""


def test_a_late_turn_moves_all_deadlines() -> None:
    rig = Rig()
    rig.turn()
    made = rig.turn(events.TurnLate(100.0), after_s=100.0)
    assert not of(made, fx.KillEngine)
    rig.engine(child.Ready(facts=FACTS))
    assert log_of(rig.turn(events.TurnLate(100.0), after_s=100.0), "warning") == ""
    rig.welcome()
    rig.begin(attempt())
    made = rig.turn(events.TurnLate(700.0), after_s=700.0)
    assert not of(made, fx.KillEngine)
    assert not said(made, wire.WorkerHello)
    assert "No answer" not in log_of(made)


# --- grants -----------------------------------------------------------------------------------


def test_one_runs_and_the_rest_waits() -> None:
    rig = Rig(threads=3)
    rig.connect()
    draw = one(asked(rig.grant(attempt(0), attempt(1), seed=7)))
    assert (draw.ticket, draw.seed, draw.threads) == (1, 7, 3)
    assert draw.files == {"model": "/m/t"}
    made = rig.engine(child.Began(ticket=1))
    assert said(made) == [wire.Started(attempt=attempt(0))]
    made = rig.draw(1)
    draw = one(asked(made))
    assert draw.seed == 8
    # The engine gets its next image before the encoder gets the last one.
    kinds = [type(effect) for effect in made]
    assert kinds.index(fx.AskEngine) < kinds.index(fx.EncodePicture)


def test_a_grant_said_twice_is_drawn_once() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1))
    assert asked(rig.grant(attempt(0), attempt(1))) == []
    ticket = one(asked(rig.draw(ticket))).ticket
    assert asked(rig.draw(ticket)) == []
    rig.grant(attempt(0))
    rig.encoded(attempt(0))
    assert asked(rig.grant(attempt(0))) == []


def test_queue_is_bounded() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0, petition=9))
    made = rig.grant(*(attempt(index) for index in range(QUEUE_MAX)))
    assert said(made, wire.Revoked) == []
    made = rig.grant(attempt(QUEUE_MAX))
    assert said(made, wire.Revoked) == [wire.Revoked(attempt=attempt(QUEUE_MAX))]
    # What the next hello lists of them fits a header.
    rig.hear(wire.Identify())
    rig.turn(crash(was_ready=False))
    hello = said(rig.effects, wire.WorkerHello)[-1]
    assert len(encode(hello)[1]) <= limits.HEADER_BYTES_MAX


def test_revoke_gives_back_what_has_not_begun() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    assert said(rig.hear(wire.Revoke(attempt=attempt(1)))) == [wire.Revoked(attempt=attempt(1))]
    for gone in (attempt(0), attempt(1), attempt(5)):
        assert said(rig.hear(wire.Revoke(attempt=gone))) == [wire.TooLate(attempt=gone)]
    assert asked(rig.draw(1)) == []


def test_a_petition_that_cannot_be_read_fails() -> None:
    rig = Rig()
    rig.connect()
    made = rig.hear(wire.Grant(attempts=(attempt(),)), b"\x93")
    assert one(said(made, wire.Failed)).error.code == "invalid_params"


def test_unknown_names_fail_and_the_next_image_goes_on() -> None:
    rig = Rig()
    rig.connect()
    made = rig.grant(attempt(0, petition=1), model="tinny")
    failed = one(said(made, wire.Failed))
    assert (failed.error.code, failed.error.worker) == ("model_not_found", "box")
    assert failed.error.closest == ("tiny.safetensors",)
    made = rig.grant(attempt(0, petition=2), prompt="x <lora:stile:1>")
    assert one(said(made, wire.Failed)).error.code == "lora_not_found"
    assert asked(rig.grant(attempt(0, petition=3)))


def test_a_file_that_vanished_under_us() -> None:
    rig = Rig()
    rig.connect()
    rig.grant(attempt(0), attempt(1), prompt="x <lora:style:0.5>")
    made = rig.turn(events.FileVanished(1, "/m/l"))
    assert one(said(made, wire.Failed)).error.code == "lora_not_found"
    draw = one(asked(made))
    made = rig.turn(events.FileVanished(draw.ticket, "/m/t"))
    assert one(said(made, wire.Failed)).error.code == "model_not_found"
    assert rig.turn(events.FileVanished(draw.ticket, "/m/t")) == []


# --- progress ---------------------------------------------------------------------------------


def test_steps_are_conflated_and_phases_are_not() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt())
    at = {"ticket": ticket, "phase": "sampling", "steps": 9, "step_s": 0.03}
    made = rig.engine(child.At(ticket=ticket, phase="loading"))
    assert one(said(made, wire.Step)).phase == "loading"
    again = child.At(ticket=ticket, phase="loading", step=1, steps=2)
    assert said(rig.engine(again), wire.Step) == []
    made = rig.engine(child.At(**at, step=1))
    assert one(said(made, wire.Step)).step == 1
    assert said(rig.engine(child.At(**at, step=2), after_s=0.03), wire.Step) == []
    assert said(rig.engine(child.At(**at, step=3), after_s=0.03), wire.Step) == []
    assert rig.worker.next_deadline() == pytest.approx(rig.now + 0.04)
    assert one(said(rig.turn(after_s=0.05), wire.Step)).step == 3
    assert said(rig.turn(after_s=0.2), wire.Step) == []
    made = rig.engine(child.At(ticket=ticket, phase="decoding"))
    assert one(said(made, wire.Step)).phase == "decoding"


def test_nonsense_from_the_engine_does_not_reach_the_wire() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt())
    made = rig.engine(child.At(ticket=ticket, phase="sampling", step=-1, steps=-5, step_s=math.nan))
    step = one(said(made, wire.Step))
    assert (step.step, step.steps, step.step_s) == (0, 0, 0.0)
    rig.draw(ticket, load_s=math.inf, notes=("x" * 9999,) * 99)
    result = one(said(rig.encoded(attempt()), wire.Result))
    assert result.load_s == 0.0
    assert sum(map(len, result.notes)) < 9999


def test_words_about_other_requests_are_ignored() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt())
    late = (
        child.Began(ticket=99),
        child.At(ticket=99, phase="sampling"),
        child.Declined(ticket=99, code="engine_error", message="x"),
        child.LogLine(level=1, text="x"),
    )
    assert rig.engine(*late) == []
    drawn = child.Drawn(ticket=99, width=8, height=8, channels=3, load_s=0.0, draw_s=0.0)
    assert rig.turn(events.PictureDrawn(drawn, "pixels")) == [fx.DropPicture("pixels")]


def test_engine_state_is_told_on_change_only() -> None:
    rig = Rig()
    rig.connect()
    made = rig.grant(attempt(0), attempt(1))
    assert said(made, wire.EngineState) == [wire.EngineState(state="loading")]
    assert said(rig.engine(child.At(ticket=1, phase="loading")), wire.EngineState) == []
    made = rig.engine(child.At(ticket=1, phase="encoding"))
    state = wire.EngineState(state="drawing", loaded="tiny.safetensors", context=_context())
    assert said(made, wire.EngineState) == [state]
    assert said(rig.draw(1), wire.EngineState) == []
    made = rig.draw(2)
    assert one(said(made, wire.EngineState)).state == "idle"
    made = rig.grant(attempt(2), model="other")
    assert one(said(made, wire.EngineState)).state == "loading"
    made = rig.engine(child.At(ticket=3, phase="loading"))
    assert said(made, wire.EngineState) == [wire.EngineState(state="loading")]


# --- results ----------------------------------------------------------------------------------


def test_a_small_result_travels_whole_and_is_kept_until_recorded() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(3), seed=5)
    told = {"sampling_method": "euler", "scheduler": "karras", "notes": ("n",)}
    made = rig.draw(ticket, load_s=1.5, sampling_s=1.25, **told)
    order = one(of(made, fx.EncodePicture))
    assert order.facts is not None
    assert (order.facts.seed, order.facts.scheduler) == (8, "karras")
    assert order.form == fx.FileForm("png", 90, lossless=False)
    made = rig.encoded(attempt(3), b"0123")
    assert said(made) == [
        wire.Result(
            attempt=attempt(3), seed=8, digest=digest(b"0123"), size_bytes=4, format="png",
            width=64, height=64, worker="box", fingerprint="f" * 16, context=_context(),
            load_s=1.5, draw_s=2.0, encode_s=0.01, sampling_s=1.25, notes=("n",),
        )
    ]  # fmt: skip
    assert one(of(made, fx.Send)).body == b"0123"
    ticket = rig.begin(attempt(4))
    hello = one(said(rig.hear(wire.Identify()), wire.WorkerHello))
    assert (hello.running, hello.holding) == ((attempt(4),), (attempt(3),))
    # Finished without a session: kept for the next one.
    rig.draw(ticket)
    assert said(rig.encoded(attempt(4), b"4"), wire.Result) == []
    made = rig.welcome()
    assert [result.digest for result in said(made, wire.Result)] == [digest(b"0123"), digest(b"4")]
    rig.hear(wire.ResultRecorded(attempt=attempt(3)))
    rig.hear(wire.ResultRecorded(attempt=attempt(4)))
    hello = one(said(rig.hear(wire.Identify()), wire.WorkerHello))
    assert hello.holding == ()


@pytest.mark.parametrize(
    ("said_s", "told_s"), [(-1.0, 0.0), (0.5, 0.5), (2.0, 2.0), (2.5, 2.0), (math.inf, 0.0)]
)
def test_sampling_takes_no_more_than_the_whole_picture(said_s: float, told_s: float) -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt()), sampling_s=said_s)
    result = one(said(rig.encoded(attempt()), wire.Result))
    assert (result.sampling_s, result.draw_s) == (told_s, 2.0)


def test_a_refused_result_is_forgotten() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt()))
    rig.encoded(attempt())
    made = rig.hear(wire.ResultRefused(attempt=attempt(), reason="the image is done"))
    assert "the image is done" in log_of(made)
    assert one(said(rig.hear(wire.Identify()), wire.WorkerHello)).holding == ()


def test_the_file_is_what_the_petition_asks_for_and_the_result_says_so() -> None:
    rig = Rig()
    rig.connect()
    made = rig.draw(rig.begin(attempt(), format="webp", lossless=True), notes=("drawn",))
    assert one(of(made, fx.EncodePicture)).form == fx.FileForm("webp", 90, lossless=True)
    made = rig.turn(events.PictureEncoded(attempt(), b"w", digest(b"w"), 0.01, ("no room",)))
    result = one(said(made, wire.Result))
    assert (result.format, result.notes) == ("webp", ("drawn", "no room"))
    made = rig.draw(rig.begin(attempt(1), format="jpeg", quality=70))
    assert one(of(made, fx.EncodePicture)).form == fx.FileForm("jpeg", 70, lossless=False)


def test_metadata_off_leaves_nothing() -> None:
    rig = Rig()
    rig.connect()
    made = rig.draw(rig.begin(attempt(), metadata=False))
    assert one(of(made, fx.EncodePicture)).facts is None


@pytest.mark.parametrize("more", [0, 1])
def test_large_results_travel_in_pieces_from_n_plus_one(more: int) -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt()))
    made = rig.encoded(attempt(), bytes(limits.CHUNK_BYTES + more))
    chunks = said(made, wire.Chunk)
    assert len(chunks) == 2 * more
    bodies = [send.body for send in of(made, fx.Send)]
    assert all(body is None or len(body) <= limits.CHUNK_BYTES for body in bodies)


def _big(rig: Rig, index: int, mib: int) -> list[fx.Effect]:
    ticket = rig.begin(attempt(index))
    rig.draw(ticket)
    return rig.encoded(attempt(index), bytes(mib * limits.MIB + index))


def _offsets(made: list[fx.Effect]) -> list[int]:
    return [chunk.offset // limits.MIB for chunk in said(made, wire.Chunk)]


def test_pieces_follow_credit_one_picture_at_a_time() -> None:
    rig = Rig()
    rig.connect()
    assert _offsets(_big(rig, 0, 6)) == [0, 1, 2, 3]
    name = one(said(rig.effects, wire.Result)).digest
    made = _big(rig, 1, 2)
    assert said(made, wire.Result) == []
    seen = lambda mib: wire.ChunkSeen(digest=name, offset=mib * limits.MIB)  # noqa: E731
    assert _offsets(rig.hear(seen(1))) == [4]
    assert _offsets(rig.hear(seen(3))) == [5]
    assert rig.hear(wire.ChunkSeen(digest="9" * 64, offset=0)) == []
    # A small one need not wait for the large one.
    rig.draw(rig.begin(attempt(7)))
    assert said(rig.encoded(attempt(7)), wire.Result)
    made = rig.hear(seen(6))
    assert one(said(made, wire.Result)).attempt == attempt(1)
    assert _offsets(made) == [0, 1, 2]
    # All of it is there, yet the manager asks for it anew: what it had was damaged.
    assert _offsets(rig.hear(seen(4))) == [4, 5]


def test_a_recorded_result_frees_the_way_for_the_next() -> None:
    rig = Rig()
    rig.connect()
    _big(rig, 0, 9)
    _big(rig, 1, 2)
    made = rig.hear(wire.ResultRecorded(attempt=attempt(0)))
    assert one(said(made, wire.Result)).attempt == attempt(1)
    assert rig.hear(wire.ResultRecorded(attempt=attempt(0))) == []
    # Words about a small picture's pieces mean nothing.
    rig.draw(rig.begin(attempt(7)))
    name = one(said(rig.encoded(attempt(7)), wire.Result)).digest
    assert rig.hear(wire.ChunkSeen(digest=name, offset=1)) == []


def test_a_new_session_resumes_where_the_manager_says() -> None:
    rig = Rig()
    rig.connect()
    _big(rig, 0, 8)
    name = one(said(rig.effects, wire.Result)).digest
    rig.hear(wire.ChunkSeen(digest=name, offset=2 * limits.MIB))
    rig.hear(wire.Identify())
    assert _offsets(rig.turn(after_s=1.0)) == []
    made = rig.welcome()
    assert one(said(made, wire.Result)).digest == name
    assert _offsets(made) == [0, 1, 2, 3]
    made = rig.hear(wire.ChunkSeen(digest=name, offset=5 * limits.MIB))
    assert _offsets(made) == [5, 6, 7]


def test_an_unanswered_result_is_offered_again() -> None:
    rig = Rig()
    rig.connect()
    _big(rig, 0, 2)
    rig.turn(after_s=0.5)
    rig.draw(rig.begin(attempt(1)))
    rig.encoded(attempt(1))
    for _ in range(29):
        made = rig.hear(wire.Beat(), after_s=1.0)
        assert not said(made, wire.Result)
    made = rig.hear(wire.Beat(), after_s=0.5)
    assert one(said(made, wire.Result)).attempt == attempt(0)
    assert _offsets(made) == [0, 1]
    made = rig.hear(wire.Beat(), after_s=0.5)
    assert one(said(made, wire.Result)).attempt == attempt(1)


def test_no_image_is_begun_while_too_many_results_wait() -> None:
    rig = Rig()
    rig.connect()
    most = limits.WORKER_RESULTS_HELD_MAX
    rig.grant(*(attempt(index) for index in range(most + 1)))
    for index in range(most):
        made = rig.draw(index + 1)
        assert len(asked(made)) == (1 if index < most - 1 else 0)
        rig.encoded(attempt(index))
    assert log_of(rig.effects).count("no new image is begun") == 1
    assert one(asked(rig.hear(wire.ResultRecorded(attempt=attempt(0))))).ticket == most + 1


def test_encoding_that_fails_is_told() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt()))
    error = ErrorInfo(code="engine_error", message="half of the pixels")
    made = rig.turn(events.EncodingFailed(attempt(), error))
    failed = one(said(made, wire.Failed))
    assert (failed.error.message, failed.error.worker) == ("half of the pixels", "box")


# --- want of memory -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relief", "offload", "words"),
    [
        ("", False, None),
        ("tile", False, "drawn with VAE tiling after running out of memory on a, b"),
        ("offload", True, "drawn with VAE tiling and offloaded weights after running out of memory"
         " on a, b"),
    ],
)  # fmt: skip
def test_an_image_is_drawn_with_less_memory_and_the_result_says_so(
    relief: str, offload: bool, words: str | None
) -> None:
    rig = Rig()
    rig.connect()
    body = encode_petition(Petition(params=Params(prompt="x", model="tiny"), seed=100))
    ran_out = ("a", "b") if relief else ()
    grant = wire.Grant(attempts=(attempt(),), relief=relief, ran_out=ran_out)  # type: ignore[arg-type]
    draw = one(asked(rig.hear(grant, body)))
    assert (draw.params.vae_tiling, draw.params.offload_to_cpu) == (bool(relief), offload)
    made = rig.draw(draw.ticket, notes=("from the engine",))
    # What the picture says of its making is what was really done.
    facts = one(of(made, fx.EncodePicture)).facts
    assert facts is not None
    assert facts.params == draw.params
    result = one(said(rig.encoded(attempt()), wire.Result))
    assert result.notes == (*([words] if words else []), "from the engine")


def test_relief_may_be_without_names() -> None:
    rig = Rig()
    rig.connect()
    body = encode_petition(Petition(params=Params(prompt="x", model="tiny"), seed=100))
    rig.hear(wire.Grant(attempts=(attempt(),), relief="tile"), body)
    rig.draw(1)
    result = one(said(rig.encoded(attempt()), wire.Result))
    assert result.notes == ("drawn with VAE tiling after running out of memory",)


# --- abandoning -------------------------------------------------------------------------------


def test_abandoned_in_the_queue_is_dropped_without_a_word() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    assert rig.hear(wire.Abandon(attempt=attempt(1))) == []
    assert asked(rig.draw(1)) == []


def test_abandoned_before_its_speed_is_known_goes_on_until_it_is() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(), steps=50)
    rig.engine(child.At(ticket=ticket, phase="loading"))
    assert rig.hear(wire.Abandon(attempt=attempt())) == []
    # A slow first step: 49 more of them are worse than a reload.
    made = rig.engine(
        child.At(ticket=ticket, phase="sampling", step=1, steps=50, step_s=3.0), after_s=3.0
    )
    assert of(made, fx.KillEngine) == [
        fx.KillEngine("Its picture is not wanted any more.", "cancelled")
    ]
    assert not said(made, wire.Step)
    late = child.At(ticket=ticket, phase="sampling", step=2, steps=50, step_s=3.0)
    assert rig.engine(late) == []
    info = ErrorInfo(code="cancelled", message="x", signal="SIGKILL")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert of(made, fx.StartEngine)
    assert not said(made, wire.Failed)
    assert log_of(made, "error") == ""


def test_nothing_is_asked_of_a_child_that_was_ended() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1), steps=50)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=50, step_s=9.0))
    assert of(rig.hear(wire.Abandon(attempt=attempt(0))), fx.KillEngine)
    # Its picture was under way already.
    made = rig.draw(ticket)
    assert of(made, fx.DropPicture)
    assert asked(made) == []
    info = ErrorInfo(code="cancelled", message="x", signal="SIGKILL")
    assert of(rig.turn(events.EngineDied(info, ours=True)), fx.StartEngine)
    assert one(asked(rig.engine(child.Ready(facts=FACTS)))).seed == 101


def test_an_engine_that_can_cancel_is_asked_to_and_lives() -> None:
    rig = Rig()
    rig.turn()
    rig.engine(child.Ready(facts=FACTS, cancels=True))
    rig.welcome()
    ticket = rig.begin(attempt(0), attempt(1), steps=50)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=50, step_s=9.0))
    made = rig.hear(wire.Abandon(attempt=attempt(0)))
    assert of(made, fx.CancelDrawing) == [fx.CancelDrawing(ticket)]
    # Asked once, and neither a word more nor a kill while it obeys.
    late = child.At(ticket=ticket, phase="sampling", step=2, steps=50, step_s=9.0)
    assert rig.engine(late) == []
    made = rig.engine(child.Declined(ticket=ticket, code="cancelled", message="x"))
    assert not said(made, wire.Failed)
    assert not of(made, fx.KillEngine)
    assert one(asked(made)).seed == 101


def test_abandoned_near_its_end_finishes_unseen() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt(0), steps=20), load_s=30.0)
    rig.encoded(attempt(0))
    ticket = rig.begin(attempt(1), attempt(2), steps=20)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=10, steps=20, step_s=2.0))
    made = rig.hear(wire.Abandon(attempt=attempt(1)))
    assert not of(made, fx.KillEngine)
    assert one(said(rig.hear(wire.Identify()), wire.WorkerHello)).running == ()
    rig.welcome()
    made = rig.engine(child.At(ticket=ticket, phase="decoding"))
    assert not of(made, fx.KillEngine)
    assert said(made) == []
    made = rig.draw(ticket)
    assert len(of(made, fx.DropPicture)) == 1
    assert not of(made, fx.EncodePicture)


def _loading(*others: wire.Attempt, start_s: float = 1.0) -> Rig:
    """An engine that takes a second to start, and loads what was never loaded, for attempt 0."""
    rig = Rig()
    rig.turn()
    rig.engine(child.Ready(facts=FACTS), after_s=start_s)
    rig.welcome()
    ticket = rig.begin(attempt(0), *others)
    rig.engine(child.At(ticket=ticket, phase="loading"))
    return rig


def test_a_load_nobody_wants_any_more_is_given_up_when_a_new_engine_is_sooner() -> None:
    rig = _loading()
    assert not of(rig.hear(wire.Abandon(attempt=attempt(0)), after_s=0.5), fx.KillEngine)
    # It has taken a second, and may take as long again: a new engine is no later.
    assert not of(rig.engine(child.At(ticket=1, phase="loading"), after_s=0.5), fx.KillEngine)
    made = rig.engine(child.At(ticket=1, phase="loading"), after_s=0.5)
    assert one(of(made, fx.KillEngine)).code == "cancelled"
    info = ErrorInfo(code="cancelled", message="x", signal="SIGKILL")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert of(made, fx.StartEngine)
    assert not said(made, wire.Failed)


@pytest.mark.parametrize(("load_s", "is_ended"), [(30.0, True), (3.0, False)])
def test_a_load_is_judged_by_what_the_same_took_before(load_s: float, is_ended: bool) -> None:
    rig = _loading()
    rig.draw(1, load_s=load_s)
    rig.encoded(attempt(0))
    rig.draw(rig.begin(attempt(1), model="other"), load_s=0.5)
    rig.encoded(attempt(1))
    ticket = rig.begin(attempt(2))
    rig.engine(child.At(ticket=ticket, phase="loading"))
    made = rig.hear(wire.Abandon(attempt=attempt(2)), after_s=2.5)
    assert bool(of(made, fx.KillEngine)) is is_ended


def test_a_load_is_judged_by_the_size_of_its_files_and_the_last_load() -> None:
    rig = _loading()
    rig.draw(1, load_s=14.0)  # a microsecond for each byte
    rig.encoded(attempt(0))
    ticket = rig.begin(attempt(1), model="other")
    rig.engine(child.At(ticket=ticket, phase="loading"))
    made = rig.hear(wire.Abandon(attempt=attempt(1)))
    assert of(made, fx.KillEngine)


@pytest.mark.parametrize(("model", "is_ended"), [("tiny", False), ("other", True), ("no", True)])
def test_a_load_that_the_next_image_wants_goes_on(model: str, is_ended: bool) -> None:
    rig = _loading()
    rig.grant(attempt(1), model=model)
    made = rig.hear(wire.Abandon(attempt=attempt(0)), after_s=5.0)
    assert bool(of(made, fx.KillEngine)) is is_ended


@pytest.mark.parametrize(("late_s", "is_ended"), [(1.0, False), (4.0, True)])
def test_what_lost_a_race_because_it_is_late_is_not_waited_for(
    late_s: float, is_ended: bool
) -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt(0), steps=20), load_s=30.0)
    rig.encoded(attempt(0))
    ticket = rig.begin(attempt(1), steps=20)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=10, steps=20, step_s=0.1))
    rig.now += late_s
    made = rig.hear(wire.Abandon(attempt=attempt(1)))
    assert bool(of(made, fx.KillEngine)) is is_ended


def test_abandoned_and_declined_or_dead_gets_no_answer() -> None:
    for end in ("declined", "dead", "began"):
        rig = Rig()
        rig.connect()
        ticket = one(asked(rig.grant(attempt()))).ticket
        rig.hear(wire.Abandon(attempt=attempt()))
        if end == "declined":
            made = rig.engine(child.Declined(ticket=ticket, code="engine_error", message="x"))
        elif end == "began":
            made = rig.engine(child.Began(ticket=ticket))
        else:
            made = rig.turn(crash())
        assert not said(made, wire.Failed)
        assert not said(made, wire.Started)


def test_abandoned_while_encoded_or_kept() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt(0)))
    rig.hear(wire.Abandon(attempt=attempt(0)))
    assert said(rig.encoded(attempt(0)), wire.Result) == []
    rig.draw(rig.begin(attempt(1)))
    rig.hear(wire.Abandon(attempt=attempt(1)))
    error = ErrorInfo(code="internal", message="x")
    assert rig.turn(events.EncodingFailed(attempt(1), error)) == []
    rig.draw(rig.begin(attempt(2)))
    rig.encoded(attempt(2))
    rig.hear(wire.Abandon(attempt=attempt(2)))
    assert one(said(rig.hear(wire.Identify()), wire.WorkerHello)).holding == ()


# --- deaths and watchdogs ---------------------------------------------------------------------


def test_a_crash_costs_one_attempt_and_the_queue_goes_on() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    made = rig.turn(crash())
    failed = one(said(made, wire.Failed))
    assert (failed.attempt, failed.started) == (attempt(0), True)
    assert (failed.error.code, failed.error.signal) == ("engine_crashed", "SIGSEGV")
    assert failed.error.log_tail == ("a line",)
    assert (failed.error.worker, failed.error.attempt) == ("box", 1)
    assert of(made, fx.StartEngine)
    assert one(said(made, wire.EngineState)).state == "starting"
    assert one(asked(rig.engine(child.Ready(facts=FACTS)))).seed == 101


def test_backoff_grows_with_deaths_and_ends_with_a_picture() -> None:
    rig = Rig()
    rig.connect()
    for delay_s in (*limits.RESTART_BACKOFF_S, limits.RESTART_BACKOFF_S[-1]):
        made = rig.turn(crash())
        if delay_s:
            assert not of(made, fx.StartEngine)
            assert not of(rig.turn(after_s=delay_s - 0.1), fx.StartEngine)
            made = rig.turn(after_s=0.2)
        assert of(made, fx.StartEngine)
        rig.engine(child.Ready(facts=FACTS))
    rig.welcome()
    rig.draw(rig.begin(attempt()))
    assert of(rig.turn(crash()), fx.StartEngine)


def test_an_engine_that_does_not_come_back_fails_what_waits() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt(0), attempt(1))
    made = rig.turn(crash())
    assert len(said(made, wire.Failed)) == 1
    made = rig.turn(crash(was_ready=False))
    assert one(said(made, wire.Failed)).attempt == attempt(1)


def test_an_engine_that_never_starts_ends_the_worker() -> None:
    for signal, hint in (("SIGILL", "another CPU"), ("SIGSEGV", "last words")):
        rig = Rig()
        rig.turn()
        info = ErrorInfo(code="engine_crashed", message="m", signal=signal)
        made = []
        for _ in range(START_TRIES):
            assert not of(made, fx.Stop)
            made = rig.turn(events.EngineDied(info, was_ready=False), after_s=1.0)
            rig.turn(after_s=1.0)
        stop = one(of(made, fx.Stop))
        assert stop.exit_status == 1
        assert hint in stop.reason


def test_a_refused_device_ends_the_worker_at_once() -> None:
    rig = Rig()
    rig.turn()
    info = ErrorInfo(code="unsupported", message="Asked for cuda0, but there is only a cpu.")
    made = rig.turn(events.EngineDied(info, was_ready=False, refused=True))
    assert of(made, fx.Stop) == [fx.Stop(2, info.message)]
    assert not of(made, fx.Log)  # the loop prints the reason of a stop: said once


def test_a_device_refused_later_is_waited_for() -> None:
    rig = Rig()
    rig.connect()
    rig.turn(crash())
    info = ErrorInfo(code="unsupported", message="no cuda0")
    assert not of(rig.turn(events.EngineDied(info, was_ready=False, refused=True)), fx.Stop)
    assert of(rig.turn(after_s=1.0), fx.StartEngine)


def test_an_engine_that_came_back_as_another_says_hello_anew() -> None:
    rig = Rig()
    rig.connect()
    rig.turn(crash())
    facts = wire.EngineFacts(version="0.4.7", backend="cuda", device="b", fingerprint="e" * 16)
    made = rig.engine(child.Ready(facts=facts))
    assert one(said(made, wire.WorkerHello)).engine == facts


def test_declined_images_leave_the_engine_alive() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1))
    rig.engine(child.At(ticket=ticket, phase="encoding"))
    declined = child.Declined(ticket=ticket, code="engine_error", message="bad", loading=False)
    made = rig.engine(declined)
    assert one(said(made, wire.Failed)).error.message == "bad"
    draw = one(asked(made))
    assert said(made, wire.EngineState) == []  # its context is still loaded
    declined = child.Declined(ticket=draw.ticket, code="engine_error", message="x", loading=True)
    made = rig.engine(declined)
    assert said(made, wire.EngineState) == [wire.EngineState(state="idle")]


def _hang(rig: Rig, limit_s: float, words: str) -> None:
    """Silence becomes a hang at `limit_s` and not before; a hang becomes a typed error."""
    due_s = rig.now + limit_s
    while rig.now + 20 < due_s:
        assert not of(rig.hear(wire.Beat(), after_s=20.0), fx.KillEngine)
    assert not of(rig.hear(wire.Beat(), after_s=due_s - rig.now - 0.1), fx.KillEngine)
    kill = one(of(rig.hear(wire.Beat(), after_s=0.2), fx.KillEngine))
    assert kill.code == "engine_hung"
    assert words in kill.reason
    assert not of(rig.hear(wire.Beat(), after_s=1.0), fx.KillEngine)
    info = ErrorInfo(code="engine_hung", message=kill.reason, signal="SIGKILL")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert [failed.error.code for failed in said(made, wire.Failed)] == ["engine_hung"]
    assert of(made + rig.hear(wire.Beat(), after_s=1.0), fx.StartEngine)


def test_watchdog_of_a_request_that_is_not_begun() -> None:
    rig = Rig()
    rig.connect()
    rig.grant(attempt())
    _hang(rig, limits.STEP_SILENCE_S_MIN, "did not begin")


@pytest.mark.parametrize("patience", [1.0, 2.0])
def test_watchdog_of_loading_goes_by_size(patience: float) -> None:
    big = StoredFile(ModelFile("stable-diffusion", "big.gguf", 10 * limits.GIB), "/m/b", 1)
    rig = Rig((big,), patience=patience)
    rig.connect()
    ticket = rig.begin(attempt(), model="big")
    rig.engine(child.At(ticket=ticket, phase="loading"))
    limit_s = limits.LOAD_S_BASE + 10 * limits.LOAD_S_PER_GIB
    _hang(rig, patience * limit_s, "while loading big.gguf")


def test_watchdog_of_steps_learns() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=0, steps=4))
    _hang(rig, limits.STEP_SILENCE_S, "after step 0 of 4")
    rig.engine(child.Ready(facts=FACTS))
    ticket = rig.begin(attempt(1))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=4, step_s=5.0))
    _hang(rig, 5.0 * limits.STEP_SILENCE_FACTOR, "after step 1 of 4")
    # Known from before, for this size.
    rig.engine(child.Ready(facts=FACTS))
    ticket = rig.begin(attempt(2))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=0, steps=4))
    assert rig.worker.next_deadline() <= rig.now + 150.0


def test_quick_steps_still_get_the_least_patience() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=4, step_s=0.01))
    _hang(rig, limits.STEP_SILENCE_S_MIN, "after step 1 of 4")


def test_watchdog_of_other_phases() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0))
    rig.engine(child.At(ticket=ticket, phase="decoding"))
    _hang(rig, limits.STEP_SILENCE_S, "while decoding")


@pytest.mark.parametrize(("side", "scale"), [(64, 1.0), (1024, 1.0), (4096, 16.0)])
def test_watchdog_of_other_phases_goes_by_pixels(side: int, scale: float) -> None:
    assert scale == max(1.0, side * side / limits.STEP_SILENCE_PIXELS)
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), width=side, height=side)
    rig.engine(child.At(ticket=ticket, phase="decoding"))
    _hang(rig, limits.STEP_SILENCE_S * scale, "while decoding")


def test_the_second_pass_of_highres_fix_is_not_judged_by_the_first() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), hires=True, hires_scale=4.0)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=4, steps=4, step_s=1.0))
    rig.engine(child.At(ticket=ticket, phase="upscaling"))
    rig.engine(child.At(ticket=ticket, phase="sampling", step=0, steps=4))
    _hang(rig, 4 * limits.STEP_SILENCE_S, "after step 0 of 4")
    rig.engine(child.Ready(facts=FACTS))
    # The first pass of the next one is judged by what it is.
    ticket = rig.begin(attempt(1), hires=True, hires_scale=4.0)
    rig.engine(child.At(ticket=ticket, phase="sampling", step=0, steps=4))
    _hang(rig, limits.STEP_SILENCE_S_MIN, "after step 0 of 4")


def test_watchdog_of_the_start() -> None:
    rig = Rig()
    rig.turn()
    assert rig.worker.next_deadline() == rig.now + limits.ENGINE_START_S
    assert not of(rig.turn(after_s=limits.ENGINE_START_S - 0.1), fx.KillEngine)
    kill = one(of(rig.turn(after_s=0.1), fx.KillEngine))
    assert "not ready within 60 s" in kill.reason
    assert math.isinf(rig.worker.next_deadline())


def test_only_so_many_speeds_are_remembered() -> None:
    pace = Pace()
    for width in range(600):
        pace.stepped(("key", width, 64), 1.0)
    assert pace.step_s(("key", 0, 64)) == 0.0
    assert pace.step_s(("key", 599, 64)) == 1.0


# --- inventory --------------------------------------------------------------------------------


def test_changed_files_are_told_and_used() -> None:
    rig = Rig(())
    rig.connect()
    assert said(rig.grant(attempt(0)), wire.Failed)
    made = rig.turn(events.InventoryChanged((MODEL,)))
    send = one([send for send in of(made, fx.Send) if send.message == wire.Inventory()])
    assert decode_inventory(send.body or b"") == (MODEL.file,)
    assert asked(rig.grant(attempt(1)))


def test_files_that_changed_between_hello_and_welcome_are_told_then() -> None:
    rig = Rig()
    rig.ready()
    assert said(rig.turn(events.InventoryChanged(()))) == []
    assert wire.Inventory() in said(rig.welcome())


# --- context key ------------------------------------------------------------------------------


def _plan(files: tuple[StoredFile, ...] = FILES, **params: object):
    return make_plan(Params(**{"prompt": "x", "model": "tiny", **params}), Shelf(files), "box")


def test_what_is_loaded_decides_the_context() -> None:
    base = _plan()
    assert _plan(prompt="y", steps=3, width=64) == base
    assert _plan(model="tiny.safetensors").key == base.key
    assert _plan(prompt="x <lora:style:1>").key == base.key
    others = [
        _plan(model="other"),
        _plan(wtype="f16"),
        _plan(lora_apply_mode="auto"),
        _plan(prompt="x <lora:style:1>", lora_apply_mode="auto"),
        _plan(prompt="x <lora:style:0.5>", lora_apply_mode="auto"),
        _plan(prompt="x <lora:|high_noise|style:1>", lora_apply_mode="auto"),
        _plan((StoredFile(MODEL.file, "/m/t", 99), LORA)),
    ]
    keys = [plan.key for plan in others] + [base.key]
    assert len(set(keys)) == len(keys)


def test_a_digest_that_becomes_known_reloads_nothing() -> None:
    nameless = StoredFile(ModelFile("stable-diffusion", "tiny.safetensors", 14_000_000), "/m/t", 1)
    before, after = _plan((nameless,)), _plan((MODEL,))
    assert before.key == after.key
    assert before.context != after.context
    rig = Rig((nameless,))
    rig.connect()
    rig.draw(rig.begin(attempt(0)))
    rig.turn(events.InventoryChanged((MODEL,)))
    made = rig.grant(attempt(1))
    assert said(made, wire.EngineState) == [
        wire.EngineState(state="drawing", loaded="tiny.safetensors", context=after.context)
    ]


def test_equal_files_on_other_machines_are_equal_contexts() -> None:
    elsewhere = StoredFile(MODEL.file, "/other/box/t", 77)
    assert _plan((elsewhere,)).context == _plan().context


def test_files_loras_and_upscalers_are_resolved() -> None:
    upscaler = StoredFile(ModelFile("esrgan", "x4.pth", 5), "/m/up", 1)
    plan = _plan(
        (*FILES, upscaler),
        prompt="x <lora:style:0.5> <lora:|high_noise|STYLE.safetensors:2>",
        hires=True,
        hires_upscaler="x4",
        upscale_model="x4",
    )
    assert plan.files == {"model": "/m/t", "upscale_model": "/m/up", "hires_upscaler": "/m/up"}
    assert plan.loras == (
        child.LoraFile("/m/l", 0.5, False),
        child.LoraFile("/m/l", 2.0, True),
    )
    used = Shelf((*FILES, upscaler)).used(plan)
    assert [(file.field, file.name) for file in used if file.field == "prompt"] == [
        ("prompt", "style.safetensors"),
        ("prompt", "style.safetensors"),
    ]


def test_a_picture_tells_digests_that_became_known_while_it_was_drawn() -> None:
    nameless = StoredFile(ModelFile("stable-diffusion", "tiny.safetensors", 14_000_000), "/m/t", 1)
    replaced = StoredFile(MODEL.file, "/m/t", 2)
    for now, digest_then in ((MODEL, "a" * 64), (replaced, "")):
        rig = Rig((nameless,))
        rig.connect()
        ticket = rig.begin(attempt())
        rig.turn(events.InventoryChanged((now,)))
        order = one(of(rig.draw(ticket), fx.EncodePicture))
        assert one(list(order.facts.files)).digest == digest_then


# --- leaving ----------------------------------------------------------------------------------


def _ask_to_stop(rig: Rig) -> list[fx.Effect]:
    return rig.turn(events.StopRequested())


def test_an_idle_worker_leaves_at_once() -> None:
    rig = Rig()
    rig.connect()
    made = _ask_to_stop(rig)
    assert said(made, wire.Goodbye)
    assert of(made, fx.Stop) == [fx.Stop(0)]


def test_without_a_manager_it_leaves_at_once_too() -> None:
    rig = Rig()
    rig.ready()
    made = _ask_to_stop(rig)
    assert said(made) == []
    assert of(made, fx.Stop) == [fx.Stop(0)]


def test_a_busy_worker_finishes_hands_in_and_leaves() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0), attempt(1))
    made = _ask_to_stop(rig)
    standing = wire.Standing(state="draining", reason="stopped by its owner")
    assert said(made) == [standing, wire.Revoked(attempt=attempt(1))]
    assert not of(made, fx.Stop)
    assert said(rig.grant(attempt(2)), wire.Revoked) == [wire.Revoked(attempt=attempt(2))]
    assert not of(rig.draw(ticket), fx.Stop)
    assert not of(rig.encoded(attempt(0)), fx.Stop)
    made = rig.hear(wire.ResultRecorded(attempt=attempt(0)))
    assert isinstance(said(made)[-1], wire.Goodbye)
    assert of(made, fx.Stop) == [fx.Stop(0)]


def test_a_leaving_worker_waits_for_its_manager_only_so_long() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(0))
    _ask_to_stop(rig)
    rig.draw(ticket)
    rig.encoded(attempt(0))
    assert not of(rig.turn(after_s=limits.GONE_S - 0.1), fx.Stop)
    made = rig.turn(after_s=0.2)
    assert "1 results; they are lost" in log_of(made, "warning")
    assert of(made, fx.Stop) == [fx.Stop(1)]


def test_the_second_request_gives_everything_back_at_once() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt(0)))
    rig.encoded(attempt(0))  # small: wholly sent, and left to arrive
    _big(rig, 1, 9)
    rig.draw(rig.begin(attempt(2)))
    rig.begin(attempt(3))
    _ask_to_stop(rig)
    made = _ask_to_stop(rig)
    failed = said(made, wire.Failed)
    assert [one_.attempt.index for one_ in failed] == [3, 2, 1]
    assert {one_.error.code for one_ in failed} == {"worker_lost"}
    assert all(one_.started for one_ in failed)
    assert isinstance(said(made)[-1], wire.Goodbye)
    assert of(made, fx.Stop) == [fx.Stop(0)]
    assert not of(_ask_to_stop(rig), fx.Stop)


def test_what_was_not_begun_is_said_not_to_be() -> None:
    rig = Rig()
    rig.connect()
    rig.grant(attempt(0))
    _ask_to_stop(rig)
    assert one(said(_ask_to_stop(rig), wire.Failed)).started is False


def test_an_error_fits_a_message_whatever_the_engine_wrote() -> None:
    rig = Rig()
    rig.connect()
    rig.begin(attempt())
    info = ErrorInfo(code="engine_crashed", message="é" * 9000, log_tail=("日" * 4000,) * 50)
    failed = one(said(rig.turn(events.EngineDied(info)), wire.Failed))
    assert len(encode(failed)[1]) <= limits.HEADER_BYTES_MAX
