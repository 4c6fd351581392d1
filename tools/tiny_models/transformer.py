"""Flux-family transformers, the Qwen3 text encoder of Ovis-Image, and a LoRA for the transformer.

The engine reads sizes from the files, within bounds: an attention head of the transformer is 128
wide (the rotary axes add up to it), the text encoder has 32 query and 8 key/value heads of 128, and
its vocabulary covers at least 151,669 tokens because the tokenizer is compiled in.

Gains other than 1 were tried out until another prompt gave a visibly other picture.
"""

import numpy as np
from numpy.typing import NDArray

from tools.tiny_models.layers import Layers, random_bytes

HIDDEN = 128
MLP = 4 * HIDDEN
HEAD = 128
#: Values in a 2x2 patch of the 16-channel latent.
PATCH = 64
#: Width of the text encoder.
TEXT = 32
VOCABULARY = 151_936
#: Fills prompts up to 256 tokens.
PAD_TOKEN = 151_643


def ovis(layers: Layers) -> None:
    """Ovis-Image: one double and one single block, gated MLPs, normalised text."""
    _ends(layers, TEXT)
    layers.constant("txt_norm.scale", (TEXT,), 1.0)
    for side in ("img", "txt"):
        _attention(layers, f"double_blocks.0.{side}_")
        mlp = f"double_blocks.0.{side}_mlp."
        layers.linear(mlp + "gate_proj", MLP, HIDDEN)
        layers.linear(mlp + "up_proj", MLP, HIDDEN)
        layers.linear(mlp + "down_proj", HIDDEN, MLP)
    _single(layers, 3 * HIDDEN + 2 * MLP)


def flux1(layers: Layers) -> None:
    """Flux1: pooled CLIP text (768 wide) and T5 text (4096 wide) come in from elsewhere."""
    _ends(layers, 4096)
    layers.linear("vector_in.in_layer", HIDDEN, 768)
    layers.linear("vector_in.out_layer", HIDDEN, HIDDEN)
    for side in ("img", "txt"):
        _attention(layers, f"double_blocks.0.{side}_")
        layers.linear(f"double_blocks.0.{side}_mlp.0", MLP, HIDDEN)
        layers.linear(f"double_blocks.0.{side}_mlp.2", HIDDEN, MLP)
    _single(layers, 3 * HIDDEN + MLP)


def _ends(layers: Layers, text: int) -> None:
    layers.linear("img_in", HIDDEN, PATCH, gain=0.3)
    layers.linear("txt_in", HIDDEN, text, gain=2.0)
    layers.linear("time_in.in_layer", HIDDEN, 256)
    layers.linear("time_in.out_layer", HIDDEN, HIDDEN)
    layers.linear("final_layer.adaLN_modulation.1", 2 * HIDDEN, HIDDEN)
    layers.linear("final_layer.linear", PATCH, HIDDEN, gain=3.0)


def _attention(layers: Layers, prefix: str) -> None:
    layers.linear(prefix + "mod.lin", 6 * HIDDEN, HIDDEN, gain=5.0)
    layers.linear(prefix + "attn.qkv", 3 * HIDDEN, HIDDEN)
    layers.constant(prefix + "attn.norm.query_norm.scale", (HEAD,), 3.0)
    layers.constant(prefix + "attn.norm.key_norm.scale", (HEAD,), 3.0)
    layers.linear(prefix + "attn.proj", HIDDEN, HIDDEN, gain=6.0)


def _single(layers: Layers, width: int) -> None:
    layers.linear("single_blocks.0.modulation.lin", 3 * HIDDEN, HIDDEN, gain=5.0)
    layers.linear("single_blocks.0.linear1", width, HIDDEN)
    layers.linear("single_blocks.0.linear2", HIDDEN, HIDDEN + MLP)
    layers.constant("single_blocks.0.norm.query_norm.scale", (HEAD,), 3.0)
    layers.constant("single_blocks.0.norm.key_norm.scale", (HEAD,), 3.0)


def qwen3(layers: Layers, *, width: int = TEXT) -> None:
    """One layer of Qwen3; a `width` other than the transformer's makes a misfit."""
    size = (VOCABULARY, width)
    layers.add("model.embed_tokens.weight", "F8_E4M3", size, lambda key: _embedding(key, size))
    block = "model.layers.0."
    for name, out, inputs in (
        ("self_attn.q_proj", 32 * HEAD, width),
        ("self_attn.k_proj", 8 * HEAD, width),
        ("self_attn.v_proj", 8 * HEAD, width),
        ("self_attn.o_proj", width, 32 * HEAD),
        ("mlp.gate_proj", 2 * width, width),
        ("mlp.up_proj", 2 * width, width),
        ("mlp.down_proj", width, 2 * width),
    ):
        layers.linear(block + name, out, inputs, bias=False)
    for name, size_ in (
        (block + "self_attn.q_norm", HEAD),
        (block + "self_attn.k_norm", HEAD),
        (block + "input_layernorm", width),
        (block + "post_attention_layernorm", width),
        ("model.norm", width),
    ):
        layers.norm(name, size_, bias=False)


def _embedding(key: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Float8 of either sign, magnitudes 0.5 to 1.875, made by fixing three of the exponent's bits.

    The pad token is zero, so that the many pads behind a short prompt carry what they see of the
    prompt instead of drowning it.
    """
    codes = random_bytes(key, size[0] * size[1]) & np.uint8(0x8F) | np.uint8(0x30)
    codes = codes.reshape(size)
    codes[PAD_TOKEN] = 0
    return codes


def lora(layers: Layers, *, width: int = HIDDEN, rank: int = 4) -> None:
    """Kohya's names for three layers of a transformer `width` wide."""
    for name, out, inputs in (
        ("double_blocks_0_img_attn_qkv", 3 * width, width),
        ("double_blocks_0_txt_attn_qkv", 3 * width, width),
        ("single_blocks_0_linear2", width, 5 * width),
    ):
        stem = f"lora_unet_{name}."
        layers.linear(stem + "lora_down", rank, inputs, bias=False)
        layers.linear(stem + "lora_up", out, rank, bias=False)
        layers.constant(stem + "alpha", (), rank)
