"""The worker's machine makes pictures: grants, progress, want of memory."""

import math

import pytest

from sdistrib import limits
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode, encode_petition
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.queue import QUEUE_MAX
from tests.support.rig import (
    Rig,
    asked,
    attempt,
    crash,
    of,
    one,
    said,
    tiny_context,
)

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
    state = wire.EngineState(state="drawing", loaded="tiny.safetensors", context=tiny_context())
    assert said(made, wire.EngineState) == [state]
    assert said(rig.draw(1), wire.EngineState) == []
    made = rig.draw(2)
    assert one(said(made, wire.EngineState)).state == "idle"
    made = rig.grant(attempt(2), model="other")
    assert one(said(made, wire.EngineState)).state == "loading"
    made = rig.engine(child.At(ticket=3, phase="loading"))
    assert said(made, wire.EngineState) == [wire.EngineState(state="loading")]


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
