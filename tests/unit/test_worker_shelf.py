"""The worker's files: what changed is told, and what is loaded decides the context."""

from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import decode_inventory
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.shelf import Shelf, StoredFile, make_plan
from tests.support.rig import (
    FILES,
    LORA,
    MODEL,
    Rig,
    asked,
    attempt,
    of,
    one,
    said,
)

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
