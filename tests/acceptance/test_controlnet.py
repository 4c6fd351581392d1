"""ControlNet and its edges with the full-size SD1 layout, against the binding's own class."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdistrib_worker.supervisor import Picture
from tests.support import samples
from tests.support.engines import outcome, request, running
from tools.tiny_models.tree import make_tree

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = "stable-diffusion/tiny-sd15.safetensors"
CONTROL = "controlnet/tiny-control.safetensors"
SIDE = 64


def test_pictures_that_follow_a_control_picture_equal_direct_calls(tmp_path: Path) -> None:
    models = tmp_path / "models"
    make_tree(models, only=(MODEL, CONTROL))
    shape = tmp_path / "shape.png"
    shape.write_bytes(samples.png(SIDE, SIDE))
    digest = hashlib.sha256(shape.read_bytes()).hexdigest()
    cases: list[dict[str, Any]] = [
        {"control_strength": 0.0},
        {"control_strength": 0.9},
        {"control_strength": 0.9, "canny": True},
    ]

    def work(engine: dict[str, Any], calls: list[dict[str, Any]]) -> list[bytes]:
        base = {"prompt": "a cat", "width": SIDE, "height": SIDE, "sample_steps": 2, "seed": 3}
        named = [
            {**base, "cfg_scale": 1.0, **call, "out": str(tmp_path / f"{number}.rgb")}
            for number, call in enumerate(calls)
        ]
        spec = tmp_path / "calls.json"
        spec.write_text(json.dumps({"engine": engine, "calls": named}, default=str))
        script = str(Path(__file__).with_name("direct_inputs.py"))
        subprocess.run([sys.executable, script, str(spec)], check=True, capture_output=True)
        return [Path(call["out"]).read_bytes() for call in named]

    drawn = []
    with running() as child:
        for case in cases:
            draw = request(
                models, context="control", inputs={digest: str(shape)}, model="sd15",
                files={"model": MODEL, "control_net": CONTROL}, control_net="control",
                control_image=digest, width=SIDE, height=SIDE, **case,
            )  # fmt: skip
            made = outcome(child, draw)
            assert isinstance(made.end, Picture), made.end
            drawn.append(made.pixels)
    assert len(set(drawn)) == len(cases)
    engine = {"model_path": models / MODEL, "control_net_path": models / CONTROL}
    engine["vae_decode_only"] = True
    assert drawn == work(engine, [{"control_image": shape, **case} for case in cases])
