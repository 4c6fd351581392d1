"""Pictures drawn by direct calls of the engine's C API, to compare ours with."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).parents[1] / "acceptance" / "direct_call.py"
#: What `tests.support.engines.request` draws without wishes, by the engine's own members.
SMALL: dict[str, Any] = {
    "prompt": "a cat", "width": 32, "height": 32, "seed": 3, "sample_params.sample_steps": 2,
    "sample_params.guidance.txt_cfg": 1.0,
}  # fmt: skip


def wishes(model: Path, img: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One image for `drawn`: `img` over what is small; `ctx` and all else as in `direct_call`."""
    return {"ctx": {"model_path": str(model), **more.pop("ctx", {})}, "img": SMALL | img, **more}


def drawn(out: Path, images: Sequence[dict[str, Any]]) -> list[bytes]:
    """Raw RGB of each image, drawn one after the other in a process of its own."""
    out.mkdir()
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), str(out)],
        check=False, capture_output=True, text=True, input=json.dumps(images),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [(out / f"{number}.rgb").read_bytes() for number in range(len(images))]
