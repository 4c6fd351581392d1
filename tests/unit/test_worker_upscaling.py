"""Enlarging a given picture: what the worker plans, asks and tells."""

from typing import Any

from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.allowed import too_large
from sdistrib_worker.shelf import Shelf, StoredFile, make_plan
from tests.support.rig import FILES, MODEL, Rig, asked, attempt, one, said

UPSCALER = StoredFile(ModelFile("esrgan", "x2.safetensors", 1_700_000, "e" * 64), "/m/e", 4)
OTHER = StoredFile(ModelFile("esrgan", "x4.safetensors", 1_700_000, "f" * 64), "/m/f", 5)
GIVEN = InputFile("9" * 64, 10)


def wishes(**more: Any) -> Params:
    return Params(**{"mode": "upscale", "upscale_model": "x2", "init_image": GIVEN.digest, **more})


def grant(rig: Rig, index: int = 0) -> list[fx.Effect]:
    """Grant an image to be enlarged, whose input is in the cache."""
    petition = Petition(params=wishes(), seed=0, images=index + 1, inputs=(GIVEN,))
    granted = wire.Grant(attempts=(attempt(index, petition=7),))
    rig.hear(granted, encode_petition(petition))
    return rig.turn(events.InputReady(GIVEN.digest, "/inputs/9"))


def rig_with(**settings: Any) -> Rig:
    rig = Rig((*FILES, UPSCALER, OTHER), **settings)
    rig.connect()
    return rig


def test_the_context_of_a_plan_is_the_upscaler() -> None:
    shelf = Shelf((MODEL, UPSCALER, OTHER))
    plan = make_plan(wishes(), shelf, "box")
    assert (plan.upscales, plan.model, plan.load_bytes) == (True, "x2.safetensors", 1_700_000)
    assert plan.files == {"upscale_model": "/m/e"}
    assert plan.context == make_plan(wishes(upscale_repeats=2), shelf, "box").context
    others = [wishes(upscale_model="x4"), wishes(offload_to_cpu=True)]
    assert len({plan.context, *(make_plan(p, shelf, "box").context for p in others)}) == 3
    # After drawing, an upscaler is no part of the context.
    drawn = Params(prompt="x", model="tiny")
    with_it = Params(prompt="x", model="tiny", upscale_model="x2")
    plans = [make_plan(params, shelf, "box") for params in (drawn, with_it)]
    assert plans[0].context == plans[1].context
    assert not plans[1].upscales


def test_the_loaded_context_stays_and_is_told_as_before() -> None:
    rig = rig_with()
    ticket = rig.begin(attempt())
    rig.engine(child.At(ticket=ticket, phase="sampling", step=1, steps=4))
    rig.draw(ticket)
    loaded = said(rig.effects, wire.EngineState)[-1]
    assert (loaded.state, loaded.loaded) == ("idle", "tiny.safetensors")
    draw = one(asked(grant(rig)))
    rig.engine(child.Began(ticket=draw.ticket), child.At(ticket=draw.ticket, phase="upscaling"))
    state = said(rig.effects, wire.EngineState)[-1]
    assert (state.state, state.context) == ("drawing", loaded.context)
    rig.draw(draw.ticket, load_s=0.5)
    assert said(rig.effects, wire.EngineState)[-1] == loaded
    assert rig.worker._making.drawing.loaded


def test_an_upscaler_that_cannot_be_loaded_costs_the_context_nothing() -> None:
    rig = rig_with()
    rig.draw(rig.begin(attempt()))
    before = rig.worker._making.drawing.loaded.kept()
    ticket = one(asked(grant(rig))).ticket
    no = child.Declined(ticket=ticket, code="engine_error", message="no", loading=True)
    assert said(rig.engine(no), wire.Failed)
    assert rig.worker._making.drawing.loaded.kept() == before != []


def test_the_owners_bound_goes_to_the_child_that_knows_the_size() -> None:
    declared = wire.Declared(max_pixels=100)
    assert too_large(wishes(), declared) is None
    rig = rig_with(declared=declared)
    draw = one(asked(grant(rig)))
    assert (draw.max_pixels, draw.inputs) == (100, {GIVEN.digest: "/inputs/9"})
