"""Videos at the engine: what it is asked, what comes back, and what it is never asked.

No tiny model makes videos: their sizes are fixed in the engine. The real engine child loads the
tiny picture model, a witness takes the engine's place at `generate_video`.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from sdistrib.params import PARAMETERS
from sdistrib.protocol.engine import At, Declined, PreviewWish
from sdistrib_worker.engine.structs import Filled
from sdistrib_worker.supervisor import EngineChild, Glimpse, Picture
from tests.support.engines import Outcome, outcome, request, running

pytestmark = pytest.mark.engine

FILM = (sys.executable, "-m", "tests.support.engine_probe", "{fd}", "--film")
#: A video needs the encoder, which the tiny VAE has not.
TAESD = {"taesd": "taesd/tiny-taesd.safetensors"}
#: What the witness says of the pixels of an input picture, brought to the video's size.
GREY = hashlib.sha256(bytes([77]) * (32 * 32 * 3)).hexdigest()
#: Parameters of videos -> a value that is not the default, its member at the C call, and what
#: stands there; a file's pixels are grey 77.
SEEN: dict[str, tuple[Any, str, Any]] = {
    "video_frames": (5, "video_frames", 5),
    "vace_strength": (0.5, "vace_strength", 0.5),
    "moe_boundary": (0.6, "moe_boundary", 0.6),
    "high_noise_steps": (3, "high_noise_sample_params.sample_steps", 3),
    "high_noise_cfg_scale": (2.5, "high_noise_sample_params.guidance.txt_cfg", 2.5),
    "high_noise_img_cfg_scale": (1.5, "high_noise_sample_params.guidance.img_cfg", 1.5),
    "high_noise_guidance": (4.5, "high_noise_sample_params.guidance.distilled_guidance", 4.5),
    "high_noise_sampling_method": ("heun", "high_noise_sample_params.sample_method", 2),
    "high_noise_eta": (0.25, "high_noise_sample_params.eta", 0.25),
    "high_noise_slg_scale": (1.25, "high_noise_sample_params.guidance.slg.scale", 1.25),
    "high_noise_skip_layers": ((1, 2), "high_noise_sample_params.guidance.slg.layers", [1, 2]),
    "high_noise_skip_layer_start": (
        0.1,
        "high_noise_sample_params.guidance.slg.layer_start",
        0.1,
    ),
    "high_noise_skip_layer_end": (0.5, "high_noise_sample_params.guidance.slg.layer_end", 0.5),
    "end_image": ("e" * 64, "end_image.pixels", GREY),
    "control_frames": (("c" * 64, "d" * 64), "control_frames_size", 2),
    # What a picture has as well.
    "negative_prompt": ("rain", "negative_prompt", "rain"),
    "width": (64, "width", 64),
    "steps": (3, "sample_params.sample_steps", 3),
    "flow_shift": (3.0, "sample_params.flow_shift", 3.0),
    "strength": (0.5, "strength", 0.5),
    "init_image": ("a" * 64, "init_image.pixels", GREY),
    "clip_skip": (2, "clip_skip", 2),
    "vae_tiling": (True, "vae_tiling_params.enabled", True),
    "cache_mode": ("easycache", "cache.mode", 1),
}


@pytest.fixture(scope="module")
def film() -> Iterator[EngineChild]:
    with running(FILM) as child:
        yield child


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pictures of grey 77 in another size than any petition here."""
    path = tmp_path_factory.mktemp("inputs") / "grey.png"
    Image.new("RGB", (48, 40), (77, 77, 77)).save(path)
    return {letter * 64: str(path) for letter in "acde"}


def _draw(child: EngineChild, models: Path, inputs: dict[str, str], **wishes: Any) -> Outcome:
    files = {**TAESD, **wishes.pop("files", {})}
    preview = wishes.pop("preview", None)
    wishes = {"video_frames": 3, "taesd": "taesd", **wishes}
    draw = request(models, mode="vid_gen", files=files, **wishes)
    return outcome(child, msgspec.structs.replace(draw, inputs=inputs, preview=preview))


def _asked(result: Outcome) -> dict[str, Any]:
    lines = [line.split("WITNESS ", 1)[1] for line in result.log.splitlines() if "WITNESS" in line]
    calls = [json.loads(line) for line in lines]
    return next(seen for call, seen in reversed(calls) if call == "generate_video")


def _member(asked: Any, path: str) -> Any:
    for name in path.split("."):
        asked = asked[name]
    return asked


def test_every_parameter_of_videos_has_a_case() -> None:
    films = {row.name for row in PARAMETERS if row.spec.engine.startswith("vid.")}
    assert films <= set(SEEN)


@pytest.mark.parametrize("name", SEEN)
def test_seen_at_the_engine(
    name: str, film: EngineChild, models_dir: Path, inputs: dict[str, str]
) -> None:
    value, path, there = SEEN[name]
    more = {"high_noise_skip_layer_end": 0.5} if name == "high_noise_skip_layer_start" else {}
    before = _asked(_draw(film, models_dir, inputs, **more))
    asked = _asked(_draw(film, models_dir, inputs, **{**more, name: value}))
    assert _member(asked, path) == pytest.approx(there) or _member(asked, path) == there
    assert _member(before, path) != _member(asked, path)


def test_frames_come_back_in_order_and_keep_their_size(
    film: EngineChild, models_dir: Path, inputs: dict[str, str]
) -> None:
    result = _draw(film, models_dir, inputs, seed=9)
    assert isinstance(result.end, Picture), result.end
    drawn = result.end.drawn
    assert (drawn.frames, drawn.width, drawn.height, drawn.channels) == (3, 32, 32, 3)
    size = 32 * 32 * 3
    assert result.pixels == b"".join(bytes([grey]) * size for grey in (9, 10, 11))


def test_steps_are_told_and_a_preview_shows_the_first_frame(
    film: EngineChild, models_dir: Path, inputs: dict[str, str]
) -> None:
    wish = PreviewWish(mode="proj")
    result = _draw(film, models_dir, inputs, seed=9, steps=2, preview=wish)
    told = [(at.phase, at.step, at.steps) for at in result.of(At) if at.phase != "loading"]
    steps = [("sampling", step, 2) for step in range(3)]
    assert told == [("encoding", 0, 0), ("sampling", 0, 0), *steps, ("decoding", 0, 0)]
    (shown,) = result.of(Glimpse)
    assert (shown.previewed.step, shown.previewed.width) == (1, 32)
    assert shown.pixels() == bytes([9]) * (32 * 32 * 3)
    unseen = _draw(film, models_dir, inputs, seed=9)
    assert unseen.of(Glimpse) == []
    assert unseen.pixels == result.pixels


def test_a_model_of_videos_is_never_asked_for_a_picture(
    film: EngineChild, models_dir: Path
) -> None:
    refused = outcome(film, request(models_dir, taesd="taesd", files=TAESD)).end
    assert isinstance(refused, Declined)
    assert (refused.code, refused.message) == (
        "unsupported",
        "This model makes videos, not pictures; give -M vid_gen.",
    )


def test_frames_are_enlarged_one_by_one(
    film: EngineChild, models_dir: Path, inputs: dict[str, str]
) -> None:
    files = {"upscale_model": "esrgan/tiny-x2.safetensors"}
    result = _draw(film, models_dir, inputs, upscale_model="x2", files=files)
    assert isinstance(result.end, Picture), result.end
    drawn = result.end.drawn
    assert (drawn.frames, drawn.width, drawn.height) == (3, 64, 64)
    assert len(result.pixels) == 3 * 64 * 64 * 3


def test_a_model_of_pictures_is_never_asked_for_a_video(models_dir: Path) -> None:
    """The engine would abort; this child goes on, with the context that it has."""
    with running() as child:
        wishes: dict[str, Any] = {"taesd": "taesd", "files": TAESD}
        first = outcome(child, request(models_dir, **wishes))
        refused = outcome(child, request(models_dir, mode="vid_gen", video_frames=3, **wishes)).end
        assert isinstance(refused, Declined)
        assert (refused.code, refused.message) == (
            "unsupported",
            "This model makes pictures, not videos; leave out -M vid_gen.",
        )
        again = outcome(child, request(models_dir, **wishes))
        assert again.pixels == first.pixels


def test_what_a_picture_alone_has_is_left_at_its_default(models_dir: Path) -> None:
    filled = Filled(request(models_dir, mode="vid_gen", video_frames=3))
    assert filled.drawn is filled.vid
    assert filled.img.seed == -1
