"""SD1.5 at full size, which the engine fixes: UNet, CLIP-L, autoencoder, ControlNet.

Meant for `Layers(shared=True)`: the file stays small because all matrices read the same bytes.
"""

from tools.tiny_models.autoencoder import LEVELS, kl_decoder, kl_encoder
from tools.tiny_models.layers import Layers

WIDTH = 320
TIME = 4 * WIDTH
TEXT = 768

#: Channels after input_hint_block 0, 2, 4 … of a ControlNet.
HINT = (16, 16, 32, 32, 96, 96, 256, WIDTH)


def unet(layers: Layers) -> None:
    skips = _downward(layers)
    channels = skips[-1]
    for index in range(12):
        level = 3 - index // 3
        block = f"output_blocks.{index}."
        out = WIDTH * LEVELS[level]
        _residual(layers, block + "0.", channels + skips.pop(), out)
        channels = out
        if level < 3:
            _attention(layers, block + "1.", channels)
        if level and index % 3 == 2:
            layers.conv(f"{block}{2 if level < 3 else 1}.conv", channels, channels)
    layers.norm("out.0", channels)
    layers.conv("out.2", 4, channels)


def controlnet(layers: Layers) -> None:
    inputs = 3
    for index, out in enumerate(HINT):
        layers.conv(f"input_hint_block.{2 * index}", out, inputs)
        inputs = out
    skips = _downward(layers)
    for index, channels in enumerate(skips):
        layers.conv(f"zero_convs.{index}.0", channels, channels, 1)
    layers.conv("middle_block_out.0", skips[-1], skips[-1], 1)


def _downward(layers: Layers) -> list[int]:
    """The half that UNet and ControlNet share; gives the channels after each input block."""
    layers.linear("time_embed.0", TIME, WIDTH)
    layers.linear("time_embed.2", TIME, TIME)
    layers.conv("input_blocks.0.0", WIDTH, 4)
    skips = [WIDTH]
    for level, multiple in enumerate(LEVELS):
        if level:
            layers.conv(f"input_blocks.{len(skips)}.0.op", skips[-1], skips[-1])
            skips.append(skips[-1])
        for _ in range(2):
            block = f"input_blocks.{len(skips)}."
            out = WIDTH * multiple
            _residual(layers, block + "0.", skips[-1], out)
            if level < 3:
                _attention(layers, block + "1.", out)
            skips.append(out)
    _residual(layers, "middle_block.0.", skips[-1], skips[-1])
    _attention(layers, "middle_block.1.", skips[-1])
    _residual(layers, "middle_block.2.", skips[-1], skips[-1])
    return skips


def _residual(layers: Layers, prefix: str, inputs: int, out: int) -> None:
    layers.norm(prefix + "in_layers.0", inputs)
    layers.conv(prefix + "in_layers.2", out, inputs)
    layers.linear(prefix + "emb_layers.1", out, TIME)
    layers.norm(prefix + "out_layers.0", out)
    layers.conv(prefix + "out_layers.3", out, out)
    if inputs != out:
        layers.conv(prefix + "skip_connection", out, inputs, 1)


def _attention(layers: Layers, prefix: str, width: int) -> None:
    layers.norm(prefix + "norm", width)
    layers.conv(prefix + "proj_in", width, width, 1)
    block = prefix + "transformer_blocks.0."
    for name, context in (("attn1", width), ("attn2", TEXT)):
        layers.linear(f"{block}{name}.to_q", width, width, bias=False)
        layers.linear(f"{block}{name}.to_k", width, context, bias=False)
        layers.linear(f"{block}{name}.to_v", width, context, bias=False)
        layers.linear(f"{block}{name}.to_out.0", width, width)
    layers.linear(block + "ff.net.0.proj", 8 * width, width)
    layers.linear(block + "ff.net.2", width, 4 * width)
    for name in ("norm1", "norm2", "norm3"):
        layers.norm(block + name, width)
    layers.conv(prefix + "proj_out", width, width, 1)


def clip_l(layers: Layers) -> None:
    layers.matrix("embeddings.token_embedding.weight", (49408, TEXT))
    layers.matrix("embeddings.position_embedding.weight", (77, TEXT))
    for index in range(12):
        block = f"encoder.layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layers.linear(block + "self_attn." + name, TEXT, TEXT)
        layers.linear(block + "mlp.fc1", 4 * TEXT, TEXT)
        layers.linear(block + "mlp.fc2", TEXT, 4 * TEXT)
        layers.norm(block + "layer_norm1", TEXT)
        layers.norm(block + "layer_norm2", TEXT)
    layers.norm("final_layer_norm", TEXT)


def autoencoder_kl(layers: Layers) -> None:
    kl_encoder(layers, latent=4)
    kl_decoder(layers, width=128, latent=4)
    layers.conv("quant_conv", 8, 8, 1)
    layers.conv("post_quant_conv", 4, 4, 1)
