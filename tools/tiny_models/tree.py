"""Says which file of the tree holds what, and writes the tree."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from tools.tiny_models import transformer
from tools.tiny_models.autoencoder import kl_decoder, taesd
from tools.tiny_models.layers import Layers, bell, random_bytes
from tools.tiny_models.safetensors import Blob, Tensor, encode
from tools.tiny_models.sd15 import autoencoder_kl, clip_l, controlnet, unet
from tools.tiny_models.upscaler import esrgan_x2

FOLDERS = (
    "stable-diffusion",
    "vae",
    "clip",
    "t5",
    "diffusion",
    "taesd",
    "esrgan",
    "controlnet",
    "embeddings",
    "lora",
    "photomaker",
)

Network = Callable[[Layers], None]
#: Networks by the prefix their tensors have in the file.
Networks = dict[str, Network]


def _model(networks: Networks, *, seed: int = 1, shared: bool = False) -> Blob:
    tensors: dict[str, Tensor] = {}
    for prefix, network in networks.items():
        layers = Layers(seed, prefix, shared=shared)
        network(layers)
        tensors |= layers.tensors
    return encode(tensors)


_flux_vae = partial(kl_decoder, width=32, latent=16)

CHECKPOINT: Networks = {
    "model.diffusion_model.": transformer.ovis,
    "text_encoders.llm.": transformer.qwen3,
    "first_stage_model.": _flux_vae,
}

SD15: Networks = {
    "model.diffusion_model.": unet,
    "cond_stage_model.transformer.text_model.": clip_l,
    "first_stage_model.": autoencoder_kl,
}


def _one_wan_block(layers: Layers) -> None:
    layers.constant("blocks.0.cross_attn.norm_k.weight", (8,), 1.0)


def _digit_classifier(layers: Layers) -> None:
    layers.linear("hidden", 32, 784)
    layers.linear("digits", 10, 32)


def _tiny_word(layers: Layers) -> None:
    layers.add("emb_params", "F32", (2, 768), lambda key: bell(key, (2, 768), 0.5))


#: What draws: the split files hold the same weights as tiny.safetensors and draw the same pictures.
GOOD: dict[str, Callable[[], Blob]] = {
    "stable-diffusion/tiny.safetensors": partial(_model, CHECKPOINT),
    "stable-diffusion/tiny-alt.safetensors": partial(_model, CHECKPOINT, seed=2),
    "diffusion/tiny-dit.safetensors": partial(_model, {"": transformer.ovis}),
    "clip/tiny-qwen3.safetensors": partial(_model, {"": transformer.qwen3}),
    "vae/tiny-vae.safetensors": partial(_model, {"": _flux_vae}),
    "taesd/tiny-taesd.safetensors": partial(_model, {"": taesd}),
    "esrgan/tiny-x2.safetensors": partial(_model, {"": esrgan_x2}),
    "lora/tiny-style.safetensors": partial(_model, {"": transformer.lora}),
}

#: What engine 0.4.7 refuses or dies of.
BAD: dict[str, Callable[[], Blob]] = {
    # Refused: the constructor leaves a NULL context.
    "stable-diffusion/corrupt.safetensors": lambda: Blob(
        random_bytes("corrupt", 4096).tobytes(), 4096
    ),
    "stable-diffusion/empty.safetensors": lambda: Blob(b"", 0),
    "stable-diffusion/truncated.safetensors": lambda: replace(_model(CHECKPOINT), size=100_000),
    "stable-diffusion/wrong-architecture.safetensors": partial(_model, {"": _digit_classifier}),
    # SIGSEGV in generate, given a VAE: Flux1 without its text encoders.
    "diffusion/tiny-flux.safetensors": partial(_model, {"": transformer.flux1}),
    # SIGABRT in load: GGML_ABORT, Wan has 30 or 40 blocks.
    "stable-diffusion/abort-in-load.safetensors": partial(
        _model, {"model.diffusion_model.": _one_wan_block}
    ),
    # SIGABRT in generate: GGML_ASSERT, made for a transformer twice as wide.
    "lora/abort.safetensors": partial(
        _model, {"": partial(transformer.lora, width=2 * transformer.HIDDEN)}
    ),
    # SIGABRT in generate: GGML_ASSERT, narrower than what the transformer reads.
    "clip/abort.safetensors": partial(_model, {"": partial(transformer.qwen3, width=8)}),
}

#: SD1.5 at full size, matrices sharing bytes: only the engine reads these.
SD15_FILES: dict[str, Callable[[], Blob]] = {
    "stable-diffusion/tiny-sd15.safetensors": partial(_model, SD15, shared=True),
    "controlnet/tiny-control.safetensors": partial(
        _model, {"control_model.": controlnet}, shared=True
    ),
    "embeddings/tiny-word.safetensors": partial(_model, {"": _tiny_word}),
}


def make_tree(
    root: Path,
    *,
    bad: bool = False,
    sd15: bool = False,
    only: Collection[str] | None = None,
    force: bool = False,
) -> list[Path]:
    """Writes the files that are not there yet and returns their paths; a second run returns none.

    `only` names files relative to `root`, of any kind, instead of what `bad` and `sd15` select.
    `force` writes also what is there. Raises ValueError for a name that is not known.
    """
    known = GOOD | BAD | SD15_FILES
    wanted = (
        only if only is not None else [*GOOD, *(BAD if bad else ()), *(SD15_FILES if sd15 else ())]
    )
    if unknown := sorted(set(wanted) - set(known)):
        raise ValueError(f"no tiny model named {', '.join(unknown)}; there are {', '.join(known)}")
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    written = []
    for name in wanted:
        blob = known[name]()
        path = root / name
        if force or not blob.is_in(path):
            blob.write(path)
            written.append(path)
    return written
