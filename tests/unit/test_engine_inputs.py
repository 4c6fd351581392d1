"""Input files to pixels: which bytes the engine is given."""

from pathlib import Path

import pytest
from PIL import Image

from sdistrib import limits
from sdistrib.params import BY_NAME, Params
from sdistrib_worker.engine.base import RefusalError
from sdistrib_worker.engine.inputs import check_reference, cropped, read_picture, resized
from tests.support import samples

INIT, MASK, REFERENCE = BY_NAME["init_image"], BY_NAME["mask"], BY_NAME["ref_images"]


def pattern(mode: str, size: tuple[int, int]) -> Image.Image:
    count = size[0] * size[1] * len(mode)
    return Image.frombytes(mode, size, bytes((i * 89 + i * i * 7) % 256 for i in range(count)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


# What stb_image_resize, as engine 0.4.7 has it, makes of `cropped(pattern(…))` with the arguments
# that sd-cli gives it.
@pytest.mark.parametrize(
    ("mode", "source", "size", "theirs"),
    [
        (
            "RGB", (7, 5), (4, 4),
            "3fcc743c92633b384d817bbb3fc29a885f67778171c95fab398e86a3678bc87c9e9b4fc25f4979c13598aa35"
            "bd732f7c",
        ),
        ("L", (5, 9), (4, 4), "425748469ea99a5ec68a7a2b5b3a385d"),
        (
            "L", (3, 4), (8, 8),
            "0000386060b3cece0000386060b3cece2a2a5f9494abb5b54a4a8dd4d4996c6c4a4a8dd4d4996c6c2e2e80cb"
            "cb9e8080121279c6c6a08888121279c6c6a08888",
        ),
        (
            "RGB", (8, 8), (4, 4),
            "399f8a3879728c79927bb6a6ce68a68e7d924b8d7298398a6d5d8aed83ad69c692daafa188949f508a8e89ab"
            "7cbc2ebc",
        ),
    ],
)  # fmt: skip
def test_resizing_is_that_of_sd_cli(
    mode: str, source: tuple[int, int], size: tuple[int, int], theirs: str
) -> None:
    ours = resized(cropped(pattern(mode, source), size), size).tobytes()
    assert max(abs(a - b) for a, b in zip(ours, bytes.fromhex(theirs), strict=True)) <= 1


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (40, 16), (16, 8), (31, 29)])
def test_a_plain_colour_stays_what_it_is(size: tuple[int, int]) -> None:
    plain = Image.new("RGB", (16, 16), (1, 128, 254))
    assert resized(plain, size).getcolors() == [(size[0] * size[1], (1, 128, 254))]


@pytest.mark.parametrize(
    ("source", "size", "part"),
    [
        ((100, 50), (32, 32), (25, 0, 75, 50)),
        ((50, 100), (32, 32), (0, 25, 50, 75)),
        ((64, 32), (128, 64), (0, 0, 64, 32)),
        ((1, 1000), (1000, 10), (0, 499, 1, 500)),
        ((1000, 1), (10, 1000), (499, 0, 500, 1)),
    ],
)
def test_the_middle_is_cut_out(
    source: tuple[int, int], size: tuple[int, int], part: tuple[int, int, int, int]
) -> None:
    image = pattern("RGB", source)
    assert cropped(image, size).tobytes() == image.crop(part).tobytes()


def test_sixteen_bits_are_cut_to_the_upper_eight(file: Path) -> None:
    deep = Image.frombytes("I;16", (3, 1), bytes([0xFF, 0x00, 0xFE, 0x12, 0xFF, 0xFF]))
    deep.save(file, "PNG")
    assert read_picture(str(file), MASK, channels=1).data == bytes([0x00, 0x12, 0xFF])
    assert read_picture(str(file), INIT).data == bytes([0, 0, 0, 0x12, 0x12, 0x12, 255, 255, 255])


def test_a_mask_is_grey_as_stb_weighs_colours(file: Path) -> None:
    scene = samples.scene(20, 20)
    scene.save(file, "PNG")
    bare = scene.tobytes()
    wanted = bytes(
        (77 * r + 150 * g + 29 * b) >> 8
        for r, g, b in zip(bare[::3], bare[1::3], bare[2::3], strict=True)
    )
    assert read_picture(str(file), MASK, channels=1) == (20, 20, 1, wanted)
    scene.convert("1").save(file, "PNG")
    assert set(read_picture(str(file), MASK, channels=1).data) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_not_blended(file: Path, mode: str) -> None:
    scene = samples.scene(8, 8) if mode == "RGBA" else samples.scene(8, 8).convert("L")
    plain = scene.convert("RGB").tobytes()
    scene.putalpha(Image.new("L", (8, 8), 3))
    scene.convert(mode).save(file, "PNG")
    assert read_picture(str(file), INIT).data == plain


def test_pictures_are_taken_up_to_the_limit_of_pixels(file: Path) -> None:
    most = Image.new("L", (8192, limits.PIXELS_MAX // 8192))
    most.save(file, "PNG")
    assert read_picture(str(file), INIT, (16, 16)).data == bytes(16 * 16 * 3)
    Image.new("L", (8192, limits.PIXELS_MAX // 8192 + 1)).save(file, "PNG")
    with pytest.raises(RefusalError, match=r"file of -i .* more than the 33554432") as refused:
        read_picture(str(file), INIT, (16, 16))
    assert refused.value.code == "invalid_params"


def test_a_reference_must_not_vanish_when_it_is_resized() -> None:
    params = Params(prompt="x", model="m", width=64, height=64)
    for size in ((64, 64), (16, 256), (256, 16), (1, 1), (8192, 4096)):
        check_reference(REFERENCE, size, params)
    for size in ((15, 256), (256, 15), (1, 4000)):
        with pytest.raises(RefusalError, match=r"file of -r .* too narrow"):
            check_reference(REFERENCE, size, params)
