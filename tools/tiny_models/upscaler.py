"""ESRGAN upscalers: the engine tells blocks and scale by the names, widths are fixed."""

from tools.tiny_models.layers import Layers


def esrgan_x2(layers: Layers) -> None:
    """One block beside a straight way through: a soft doubling with a little texture of its own."""
    layers.passing_conv("conv_first", 64, 3, gain=0.1)
    for dense in (1, 2, 3):
        for conv in (1, 2, 3, 4, 5):
            out = 64 if conv == 5 else 32
            layers.conv(f"body.0.rdb{dense}.conv{conv}", out, 32 + 32 * conv, gain=0.5)
    layers.conv("conv_body", 64, 64, gain=0.1)
    for name, out in (("conv_up1", 64), ("conv_hr", 64), ("conv_last", 3)):
        layers.passing_conv(name, out, 64, gain=0.1)
