"""Pictures made from pictures, from a client's disk to a client's disk: the real engine through a
manager and workers, against the binding's own class."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdistrib.infotext import parse_chunk
from tests.acceptance.test_pictures import _pixels
from tests.acceptance.test_relief import SIDE, _warm_and_confined
from tests.support import samples
from tests.support.cluster import Cluster, Process, cluster, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.process, pytest.mark.timeout(240)]

#: The tiny model's own autoencoder only decodes.
TINY = ("-m", "tiny", "--taesd", "tiny-taesd")
SMALL = (*TINY, "-W", "64", "-H", "64", "--steps", "5", "--cfg-scale", "1", "-s", "3")
#: Room for a large picture encoded and decoded by TAESD in tiles (204 MiB), not at once (279 MiB).
SPARE_BYTES = 240 * 2**20
#: `SMALL` and a prompt, as the binding's class has it.
PLAIN = {
    "prompt": "a cat", "width": 64, "height": 64, "sample_steps": 5, "cfg_scale": 1.0, "seed": 3,
}  # fmt: skip


class Studio:
    """A farm, and a folder of pictures to begin with."""

    def __init__(self, farm: Cluster, models: Path, folder: Path) -> None:
        self.farm, self.models, self.folder = farm, models, folder
        self.start = self.put("start.png", samples.png(64, 64))
        self.mask = self.put("mask.png", samples.half_mask(64, 64))
        self.one = self.put("one.png", samples.png(48, 32))
        self.given = self.put("given.png", samples.png(37, 21))

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def draws(self, out: str, *words: object, status: int = 0) -> Process:
        client = self.farm.draw(*map(str, words), "-o", str(self.folder / out), "--json")
        assert client.ends() == status, client.output + client.errors
        return client

    def worker(self, *options: str) -> Process:
        words = ("--threads", "1", "--cache", str(self.cache), *options)
        return self.farm.worker(self.models, "--name", "box", *words)

    @property
    def cache(self) -> Path:
        """Where the worker keeps its input files."""
        return self.folder / "inputs"

    def directly(self, engine: dict[str, Any], *calls: dict[str, Any]) -> list[bytes]:
        """The pixels of calls of the binding's own class, and of nothing of ours."""
        outs = [self.folder / f"direct_{number}.rgb" for number in range(len(calls))]
        work = {
            "engine": engine,
            "calls": [{**c, "out": o} for c, o in zip(calls, outs, strict=True)],
        }
        spec = self.put("calls.json", json.dumps(work, default=str).encode())
        script = str(Path(__file__).with_name("direct_inputs.py"))
        subprocess.run([sys.executable, script, str(spec)], check=True, capture_output=True)
        return [out.read_bytes() for out in outs]

    @property
    def engine(self) -> dict[str, Any]:
        """Arguments of the class for the tiny model."""
        model = self.models / "stable-diffusion" / "tiny.safetensors"
        taesd = self.models / "taesd" / "tiny-taesd.safetensors"
        return {"model_path": model, "taesd_path": taesd, "vae_decode_only": False}


@pytest.fixture
def studio(models_dir: Path, tmp_path: Path) -> Iterator[Studio]:
    with cluster() as farm:
        yield Studio(farm, models_dir, tmp_path)


def image_of(client: Process) -> dict[str, Any]:
    (image,) = [event for event in client.events if event["event"] == "image"]
    return dict(image)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_img2img_inpainting_references_and_upscaling_equal_direct_calls(studio):
    studio.worker()
    start, mask, one = studio.start, studio.mask, studio.one
    cases: list[tuple[tuple[object, ...], dict[str, Any]]] = [
        ((), {}),
        (("-i", start, "--strength", "0.6"), {"init_image": start, "strength": 0.6}),
        (
            ("-i", start, "--mask", mask, "--strength", "0.6"),
            {"init_image": start, "mask_image": mask, "strength": 0.6},
        ),
        (("-r", one, "-r", start), {"ref_images": [one, start]}),
    ]
    for number, (words, _) in enumerate(cases):
        studio.draws(f"{number}.png", "-p", "a cat", *SMALL, *words)
    drawn = [_pixels(studio.folder / f"{number}.png") for number in range(len(cases))]
    assert drawn == studio.directly(studio.engine, *(PLAIN | call for _, call in cases))
    assert len(set(drawn)) == len(cases)

    studio.draws("up.png", "-M", "upscale", "-i", studio.given, "--upscale-model", "tiny-x2")
    upscaler = {"upscaler_path": studio.models / "esrgan" / "tiny-x2.safetensors"}
    (wanted,) = studio.directly(upscaler, {"images": [studio.given]})
    assert _pixels(studio.folder / "up.png") == wanted
    with Image.open(studio.folder / "up.png") as picture:
        assert picture.size == (74, 42)
    # Each file came once, and none of them bears a name of the client's.
    wait_for(lambda: len(list(studio.cache.iterdir())) == 4, "the files to be kept")
    kept = {path.name for path in studio.cache.iterdir()}
    assert kept == {digest_of(path) for path in (start, mask, one, studio.given)}


def test_a_preview_of_img2img_changes_no_pixel(studio):
    studio.worker()
    words = ("-p", "a cat", *SMALL, "-i", studio.start, "--strength", "0.8")
    studio.draws("plain.png", *words)
    shown = studio.folder / "shown.png"
    client = studio.draws("out.png", *words, "--preview", "vae", "--preview-path", shown)
    assert [event for event in client.events if event["event"] == "preview"]
    assert _pixels(studio.folder / "out.png") == _pixels(studio.folder / "plain.png")
    with Image.open(shown) as picture:
        assert picture.size == (64, 64)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_it_is_drawn_again_when_its_files_are_given_again(studio, name):
    kept = studio.folder / "autosave"
    studio.worker("--autosave", str(kept), "--autosave-name", "{seed}-{index}.{ext}")
    files = ("-i", studio.start, "--mask", studio.mask)
    studio.draws(name, "-p", "a cat", *SMALL, *files, "--strength", "0.6")
    first = studio.folder / name
    # What the worker keeps is the client's file, to the byte and by its own extension.
    copy = kept / f"3-0{first.suffix}"
    wait_for(
        lambda: copy.exists() and copy.read_bytes() == first.read_bytes(), "the worker's own copy"
    )

    again = f"again{first.suffix}"
    refused = studio.draws(again, "--from", first, status=2)
    assert "give again: --init-img, --mask" in refused.output + refused.errors
    moved = studio.put("moved.png", studio.start.read_bytes())
    client = studio.draws(again, "--from", first, "-i", moved, "--mask", studio.mask)
    assert (studio.folder / again).read_bytes() == first.read_bytes()
    told = [event["text"] for event in client.events if event["event"] == "notice"]
    assert any("The new pixels are the same." in text for text in told), told
    other = studio.put("other.png", studio.mask.read_bytes())
    studio.draws(again, "--from", first, "-i", other, "--mask", studio.mask)
    assert (studio.folder / again).read_bytes() != first.read_bytes()


def test_two_contexts_stay_while_loras_previews_and_input_files_change(studio):
    studio.worker("--keep", "2")
    style = ("-p", "a cat <lora:tiny-style:0.8>", "--preview", "proj", "--preview-path")
    preview = str(studio.folder / "shown.png")
    wishes: dict[str, tuple[object, ...]] = {
        "base": ("-p", "a cat", *SMALL),
        "styled": (*style, preview, *SMALL, "-i", studio.start),
        "other": (*style, preview, *SMALL, "-m", "tiny-alt", "-i", studio.start),
        "masked": ("-p", "a cat", *SMALL, "-i", studio.start, "--mask", studio.mask),
    }
    drawn: dict[str, set[bytes]] = {name: set() for name in wishes}
    loads = []
    for turn in range(2):
        for name, words in wishes.items():
            client = studio.draws(f"{name}.png", *words)
            drawn[name].add(_pixels(studio.folder / f"{name}.png"))
            if turn:
                loads.append(image_of(client)["load_s"])
    assert all(len(pictures) == 1 for pictures in drawn.values())
    assert len(set.union(*drawn.values())) == len(wishes)
    assert loads == [0.0] * len(wishes)


def test_without_room_it_is_drawn_in_tiles_from_the_same_file(studio):
    large = studio.put("large.png", samples.png(SIDE, SIDE))
    words = (*TINY[2:], "-i", str(studio.start))
    _warm_and_confined(
        studio.farm, studio.models, studio.folder, "box1", *words, spare_bytes=SPARE_BYTES
    )
    client = studio.draws(
        "out.png", *TINY, "-p", "x", "--steps", "1", "--cfg-scale", "1", "-s", "7",
        "-i", large, "--strength", "1", "--on-oom", "tile",
    )  # fmt: skip
    assert image_of(client)["notes"] == [
        "drawn with VAE tiling after running out of memory on box1"
    ]
    (wanted,) = studio.directly(
        studio.engine,
        {
            "prompt": "x", "width": SIDE, "height": SIDE, "sample_steps": 1, "cfg_scale": 1.0,
            "seed": 7, "init_image": large, "strength": 1.0, "vae_tiling": True,
        },
    )  # fmt: skip
    assert _pixels(studio.folder / "out.png") == wanted
    with Image.open(studio.folder / "out.png") as picture:
        params = parse_chunk(picture.info["sdistrib"]).params
    assert (params.vae_tiling, params.init_image) == (True, digest_of(large))
