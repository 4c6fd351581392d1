"""Pictures made from pictures: the real engine child against the binding's own class, and against
files that were made to harm it."""

import hashlib
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from sdistrib import limits
from sdistrib.protocol.engine import Declined
from sdistrib_worker.supervisor import EngineChild, Picture
from tests.support import samples
from tests.support.engines import Outcome, outcome, request, running

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

TAESD = {"taesd": "taesd/tiny-taesd.safetensors"}
ESRGAN = {"upscale_model": "esrgan/tiny-x2.safetensors"}
SIDE = 64


@pytest.fixture(scope="module")
def child() -> Iterator[EngineChild]:
    with running() as engine:
        yield engine


class Table:
    """Draws through the child and directly."""

    def __init__(self, child: EngineChild, models: Path, folder: Path) -> None:
        self.child, self.models, self.folder = child, models, folder

    def file(self, name: str, data: bytes) -> Path:
        """An input file."""
        path = self.folder / name
        path.write_bytes(data)
        return path

    def ours(self, *, context: str = "taesd", files: Any = None, **wishes: Any) -> Outcome:
        """What the child makes; wishes that are paths become digests."""
        inputs: dict[str, str] = {}

        def named(value: Any) -> Any:
            if isinstance(value, Path):
                digest = hashlib.sha256(value.read_bytes()).hexdigest()
                inputs[digest] = str(value)
                return digest
            return tuple(map(named, value)) if isinstance(value, tuple) else value

        base = {"steps": 5, "width": SIDE, "height": SIDE, "taesd": "" if files else "taesd"}
        named_wishes = {key: named(value) for key, value in (base | wishes).items()}
        draw = request(
            self.models, context=context, files=files or TAESD, inputs=inputs, **named_wishes
        )
        return outcome(self.child, draw)

    def drawn(self, **wishes: Any) -> bytes:
        """The pixels that the child makes."""
        made = self.ours(**wishes)
        assert isinstance(made.end, Picture), made.end
        return made.pixels

    def refused(self, **wishes: Any) -> str:
        """What the child says instead."""
        made = self.ours(**wishes)
        assert isinstance(made.end, Declined), made.end
        assert made.end.code == "invalid_params"
        return made.end.message

    def directly(self, engine: dict[str, Any], *calls: dict[str, Any]) -> list[bytes]:
        """The pixels of the binding's own class."""
        outs = [str(self.folder / f"{number}.rgb") for number in range(len(calls))]
        base = {
            "prompt": "a cat", "width": SIDE, "height": SIDE, "sample_steps": 5, "cfg_scale": 1.0,
            "seed": 3,
        }  # fmt: skip
        full = [(call if "images" in call else base | call) for call in calls]
        work = {
            "engine": engine,
            "calls": [c | {"out": out} for c, out in zip(full, outs, strict=True)],
        }
        spec = self.folder / "calls.json"
        spec.write_text(json.dumps(work, default=str))
        script = str(Path(__file__).with_name("direct_inputs.py"))
        subprocess.run([sys.executable, script, str(spec)], check=True, capture_output=True)
        return [Path(out).read_bytes() for out in outs]

    @property
    def engine(self) -> dict[str, Any]:
        """Arguments of the class for the tiny model."""
        return {
            "model_path": self.models / "stable-diffusion/tiny.safetensors",
            "taesd_path": self.models / TAESD["taesd"],
            "vae_decode_only": False,
        }


@pytest.fixture
def table(child: EngineChild, models_dir: Path, tmp_path: Path) -> Table:
    return Table(child, models_dir, tmp_path)


def image(pixels: bytes, side: int = SIDE) -> Image.Image:
    return Image.frombytes("RGB", (side, side), pixels)


def apart(one: Image.Image, other: Image.Image) -> float:
    """Mean difference in grey levels."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


# --- equal to a direct call -------------------------------------------------------------------


def test_img2img_inpainting_and_references_equal_direct_calls(table: Table) -> None:
    start = table.file("start.png", samples.png(SIDE, SIDE))
    mask = table.file("mask.png", samples.half_mask(SIDE, SIDE))
    one, two = (
        table.file("one.png", samples.png(48, 32)),
        table.file("two.png", samples.png(33, 47)),
    )
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        *(({"init_image": start, "strength": s},) * 2 for s in (0.3, 0.6)),
        (
            {"init_image": start, "mask": mask, "strength": 0.6},
            {"init_image": start, "mask_image": mask, "strength": 0.6},
        ),
        *(({"ref_images": refs}, {"ref_images": list(refs)}) for refs in ((one,), (one, two))),
        (
            {"ref_images": (two, one), "increase_ref_index": True},
            {"ref_images": [two, one], "increase_ref_index": True},
        ),
        (
            {"ref_images": (one,), "auto_resize_ref_image": False},
            {"ref_images": [one], "auto_resize_ref_image": False},
        ),
    ]  # fmt: skip
    drawn = [table.drawn(**wishes) for wishes, _ in cases]
    assert len(set(drawn)) == len(cases)
    assert drawn == table.directly(table.engine, *(call for _, call in cases))


def test_what_the_mask_keeps_is_kept(table: Table) -> None:
    start = table.file("start.png", samples.png(SIDE, SIDE))
    mask = table.file("mask.png", samples.half_mask(SIDE, SIDE))
    nothing = table.file("black.png", samples.encoded(Image.new("L", (SIDE, SIDE))))
    wishes = {"init_image": start, "strength": 1.0}
    kept = image(table.drawn(**wishes, mask=nothing))
    made = image(table.drawn(**wishes, mask=mask))
    # The border is blurred by as many pixels as the autoencoder looks around itself.
    left, right = (0, 0, SIDE // 4, SIDE), (3 * SIDE // 4, 0, SIDE, SIDE)
    assert apart(made.crop(right), kept.crop(right)) < 2
    assert apart(made.crop(left), kept.crop(left)) > 10


def test_a_given_picture_is_enlarged_as_directly_and_the_context_stays(table: Table) -> None:
    given = table.file("given.png", samples.png(37, 21))
    assert isinstance(table.ours().end, Picture)
    wishes: dict[str, Any] = {
        "mode": "upscale", "prompt": "", "model": "", "upscale_model": "x2",
        "init_image": given, "files": ESRGAN, "context": "upscaling",
    }  # fmt: skip
    for _ in range(2):
        made = table.ours(**wishes)
        assert made.picture is not None
        assert (made.picture.drawn.width, made.picture.drawn.height) == (74, 42)
    assert made.picture.drawn.load_s == 0.0
    upscaler = {"upscaler_path": table.models / ESRGAN["upscale_model"]}
    assert [made.pixels] == table.directly(upscaler, {"images": [given]})
    twice = table.ours(**wishes, upscale_repeats=2)
    assert twice.picture is not None
    assert (twice.picture.drawn.width, twice.picture.drawn.height) == (148, 84)
    again = table.ours()
    assert again.picture is not None
    assert again.picture.drawn.load_s == 0.0, "the context was lost"


def test_an_encoder_is_loaded_when_it_is_needed_and_then_kept(table: Table) -> None:
    start = table.file("start.png", samples.png(SIDE, SIDE))

    def load_s(**wishes: Any) -> float:
        made = table.ours(context="encoder", **wishes)
        assert made.picture is not None, made.end
        return made.picture.drawn.load_s

    assert load_s() > 0
    assert load_s() == 0
    assert load_s(init_image=start) > 0
    assert load_s(ref_images=(start,)) == 0
    assert load_s() == 0


def test_pictures_of_other_sizes_and_kinds_are_taken(table: Table) -> None:
    scene = samples.scene(SIDE, SIDE)
    plain = table.file("plain.png", samples.encoded(scene))
    wanted = table.drawn(init_image=plain, strength=0.5)
    clear = scene.copy()
    clear.putalpha(Image.linear_gradient("L").resize((SIDE, SIDE)))
    # What lies under transparency counts, and a camera's word on how it was held does not.
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, data in {
        "alpha.png": samples.encoded(clear),
        "turned.png": samples.encoded(scene, exif=exif),
        "picture.bmp": samples.encoded(scene, "BMP"),
        "lossless.webp": samples.encoded(scene, "WEBP", lossless=True),
    }.items():
        assert table.drawn(init_image=table.file(name, data), strength=0.5) == wanted, name
    for name, data in {
        "wide.png": samples.png(3 * SIDE, SIDE),
        "odd.png": samples.png(33, 47),
        "one.png": samples.png(8, 8),
        "photo.jpg": samples.encoded(scene, "JPEG"),
        "four.jpg": samples.encoded(scene.convert("CMYK"), "JPEG"),
        "palette.png": samples.encoded(scene.convert("P")),
        "deep.png": samples.encoded(scene.convert("I;16")),
        "grey.png": samples.encoded(scene.convert("L")),
        "moving.gif": samples.encoded(scene.convert("P"), "GIF", save_all=True,
                                      append_images=[samples.scene(SIDE, SIDE).rotate(90)]),
    }.items():  # fmt: skip
        assert table.drawn(init_image=table.file(name, data), strength=0.5) != wanted, name


# --- files made to harm -----------------------------------------------------------------------


def header_only(width: int, height: int) -> bytes:
    """A PNG that says how large it is and has next to nothing."""

    def block(kind: bytes, data: bytes) -> bytes:
        sum_ = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", size) + block(b"IDAT", rows) + block(b"IEND", b"")


UNREADABLE = "no picture that can be read"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "bomb": (header_only(60000, 60000), "pixels"),
    "just too large": (header_only(8192, 4097), str(limits.PIXELS_MAX)),
    "truncated": (samples.png(256, 256)[:2000], UNREADABLE),
    "no end": (header_only(64, 64), UNREADABLE),
    "text": (b"This is a letter.", UNREADABLE),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNREADABLE),
    "nothing": (b"", UNREADABLE),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNREADABLE),
    "tiff": (samples.encoded(samples.scene(8, 8), "TIFF"), UNREADABLE),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_picture_is_refused_by_the_name_of_its_flag(table: Table, kind: str) -> None:
    data, said = HOSTILE[kind]
    bad = table.file("bad", data)
    good = table.file("good.png", samples.png(32, 32))
    for wishes, flag in [
        ({"init_image": bad}, "-i"),
        ({"init_image": good, "mask": bad}, "--mask"),
        ({"ref_images": (good, bad)}, "-r"),
        ({"control_image": bad, "canny": True}, "--control-image"),
        ({"pm_id_images": (bad,), "prompt": "an img"}, "--pm-id-images-dir"),
        ({"mode": "upscale", "init_image": bad, "upscale_model": "x2", "files": ESRGAN}, "-i"),
    ]:
        message = table.refused(**wishes)
        assert f"file of {flag} " in message
        assert said in message
        assert str(table.folder) not in message
    assert table.drawn(init_image=good), "the child lives"


def test_sizes_that_would_kill_the_engine_are_refused(table: Table) -> None:
    thin = table.file("thin.png", samples.png(4, 4000))
    assert "file of -r of 4x4000 is too narrow" in table.refused(ref_images=(thin,))
    assert table.drawn(ref_images=(thin,), auto_resize_ref_image=False)
    good = table.file("good.png", samples.png(32, 32))
    assert "'img'" in table.refused(pm_id_images=(good,), prompt="a person")


def test_the_owners_bound_holds_for_a_picture_to_be_enlarged(table: Table) -> None:
    given = table.file("given.png", samples.png(37, 21))
    digest = hashlib.sha256(given.read_bytes()).hexdigest()

    def enlarged(most: int, **wishes: Any) -> Outcome:
        draw = request(
            table.models, files=ESRGAN, inputs={digest: str(given)}, mode="upscale",
            upscale_model="x2", init_image=digest, max_pixels=most, **wishes,
        )  # fmt: skip
        return outcome(table.child, draw)

    assert isinstance(enlarged(37 * 21).end, Picture)
    refused = enlarged(37 * 21 - 1).end
    assert isinstance(refused, Declined)
    assert refused.code == "too_large"
    assert "37x21" in refused.message
    huge = table.file("huge.png", samples.encoded(Image.new("RGB", (4096, 2048))))
    message = table.ours(
        mode="upscale", init_image=huge, upscale_model="x2", files=ESRGAN, upscale_repeats=2
    ).end
    assert isinstance(message, Declined)
    assert message.code == "too_large"
