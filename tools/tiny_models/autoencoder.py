"""Autoencoders: the KL autoencoder of SD1.5 and Flux, and TAESD."""

from tools.tiny_models.layers import Layers

#: Channels of a level as multiples of the width, finest level first.
LEVELS = (1, 2, 4, 4)

#: Gain of what a layer adds at random to what passes straight: texture, but no grit.
TRACE = 0.2

#: The same for TAESD, which has no norms to take a tint away.
TAE_TRACE = 0.04

#: Latent units from black to white on TAESD's straight way.
TAE_CONTRAST = 4.0


def kl_decoder(layers: Layers, *, width: int, latent: int) -> None:
    """The decoder half; the engine reads its width from the file."""
    channels = width * LEVELS[-1]
    layers.mixing_conv("decoder.conv_in", channels, latent, gain=3.0)
    _middle(layers, "decoder.mid.", channels)
    for level in reversed(range(4)):
        for block in range(3):
            out = width * LEVELS[level]
            _residual(layers, f"decoder.up.{level}.block.{block}.", channels, out)
            channels = out
        if level:
            layers.passing_conv(f"decoder.up.{level}.upsample.conv", channels, channels, gain=TRACE)
    layers.norm("decoder.norm_out", channels)
    layers.conv("decoder.conv_out", 3, channels, gain=0.8)


def kl_encoder(layers: Layers, *, latent: int) -> None:
    """The encoder half: 128 wide in the engine whatever the file says, 34 million parameters."""
    channels = 128
    layers.conv("encoder.conv_in", channels, 3)
    for level in range(4):
        for block in range(2):
            out = 128 * LEVELS[level]
            _residual(layers, f"encoder.down.{level}.block.{block}.", channels, out)
            channels = out
        if level < 3:
            layers.conv(f"encoder.down.{level}.downsample.conv", channels, channels)
    _middle(layers, "encoder.mid.", channels)
    layers.norm("encoder.norm_out", channels)
    layers.conv("encoder.conv_out", 2 * latent, channels)


def _residual(layers: Layers, prefix: str, inputs: int, out: int) -> None:
    layers.norm(prefix + "norm1", inputs)
    layers.conv(prefix + "conv1", out, inputs)
    layers.norm(prefix + "norm2", out)
    layers.conv(prefix + "conv2", out, out, gain=TRACE)
    if inputs != out:
        layers.conv(prefix + "nin_shortcut", out, inputs, 1)


def _middle(layers: Layers, prefix: str, channels: int) -> None:
    _residual(layers, prefix + "block_1.", channels, channels)
    layers.norm(prefix + "attn_1.norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        layers.conv(f"{prefix}attn_1.{name}", channels, channels, 1)
    _residual(layers, prefix + "block_2.", channels, channels)


def taesd(layers: Layers, *, latent: int = 16) -> None:
    """Encoder and decoder, 64 wide, with a straight way through them.

    The first three latent channels are the picture, eight times smaller, as
    TAE_CONTRAST (rgb - 0.5), so that img2img keeps something of its picture.
    """
    encoder, decoder = "encoder.layers.", "decoder.layers."
    layers.passing_conv(encoder + "0", 64, 3, gain=TAE_TRACE)
    _tae_blocks(layers, encoder, (1, 3, 4, 5, 7, 8, 9, 11, 12, 13), between=(2, 6, 10))
    layers.passing_conv(encoder + "14", latent, 64, gain=TAE_TRACE, passes=TAE_CONTRAST, bias=False)
    layers.constant(encoder + "14.bias", (latent,), -TAE_CONTRAST / 2)

    layers.passing_conv(
        decoder + "0", 64, latent, gain=TAE_TRACE, passes=1 / TAE_CONTRAST, bias=False
    )
    layers.constant(decoder + "0.bias", (64,), 0.5)
    _tae_blocks(layers, decoder, (2, 3, 4, 7, 8, 9, 12, 13, 14, 17), between=(6, 11, 16))
    layers.passing_conv(decoder + "18", 3, 64, gain=TAE_TRACE)


def _tae_blocks(
    layers: Layers, prefix: str, blocks: tuple[int, ...], *, between: tuple[int, ...]
) -> None:
    for block in blocks:
        for conv, gain in ((0, 1.0), (2, 1.0), (4, TAE_TRACE)):
            layers.conv(f"{prefix}{block}.conv.{conv}", 64, 64, gain=gain)
    for resampled in between:
        layers.passing_conv(f"{prefix}{resampled}", 64, 64, gain=TAE_TRACE, bias=False)
