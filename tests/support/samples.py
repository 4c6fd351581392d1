"""Pictures to give to programs, made anew in each run and always the same."""

from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw


def scene(width: int, height: int) -> Image.Image:
    """A round sun over a slanted shore: every pixel row and column is another."""
    size = (width, height)
    ramp = Image.linear_gradient("L")
    bands = [ramp, ramp.rotate(180), ramp.transpose(Image.Transpose.TRANSPOSE)]
    picture = Image.merge("RGB", [band.resize(size) for band in bands])
    pen = ImageDraw.Draw(picture)
    pen.ellipse((width // 8, height // 8, width // 2, height // 2), fill=(250, 220, 40))
    shore = [(0, height), (0, 3 * height // 4), (width, height // 2), size]
    pen.polygon(shore, fill=(20, 60, 160))
    return picture


def encoded(image: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    """The picture as a file."""
    file = BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """A scene as a PNG file."""
    return encoded(scene(width, height))


def half_mask(width: int, height: int) -> bytes:
    """White on the left, black on the right."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height))
    return encoded(mask)
