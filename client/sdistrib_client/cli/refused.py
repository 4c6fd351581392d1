"""Flags of sd-cli and of the C++ client that this version does not have, each with the reason.

The flags are those of sd-cli 97d29908 and of the C++ sdistrib's client. Refused by name and never
ignored: a picture drawn without a wish that was uttered is a wrong picture.
"""

_NEWER = "needs an engine newer than 0.4.7, which does not have it"
_WORKER = "devices belong to the worker; give them to sdistrib-worker on that machine"
_MODES = "this client only draws; use sd-cli for its other modes"
_GONE = "sd-cli itself dropped it"

#: Flag -> why it is refused.
REFUSED: dict[str, str] = {
    # Load-time flags.
    "--uncond-diffusion-model": _NEWER,
    "--embeddings-connectors": _NEWER,
    "--vae-format": _NEWER,
    "--audio-vae": _NEWER,
    "--ip-adapter": _NEWER,
    "--motion-module": _NEWER,
    "--embd-dir": (
        "embeddings are looked up in each worker's embeddings folder; name one with --embedding"
    ),
    "--lora-model-dir": "LoRAs are looked up in each worker's lora folder",
    "--hires-upscalers-dir": "upscalers are looked up in each worker's esrgan folder",
    "--model-args": (
        "needs an engine newer than 0.4.7; use --chroma-disable-dit-mask,"
        " --chroma-enable-t5-mask, --chroma-t5-mask-pad or --qwen-image-zero-cond-t"
    ),
    "--pulid-weights": _NEWER,
    "--backend": _WORKER,
    "--params-backend": _WORKER,
    "--split-mode": _WORKER,
    "--rpc-servers": _WORKER,
    "--stream-layers": _NEWER,
    "--eager-load": _NEWER,
    "--auto-fit": _WORKER,
    "--list-devices": "run `sdistrib-client HOST workers` to see each worker's device",
    # Flags per picture.
    "--ad-model": f"ADetailer {_NEWER}",
    "--ad-prompt": f"ADetailer {_NEWER}",
    "--ad-negative-prompt": f"ADetailer {_NEWER}",
    "--extra-ad-args": f"ADetailer {_NEWER}",
    "--ip-adapter-image": _NEWER,
    "--pulid-id-embedding": _NEWER,
    "--extra-sample-args": _NEWER,
    "--extra-tiling-args": _NEWER,
    "--ref-image-args": _NEWER,
    "--qwen-image-layers": _NEWER,
    "--pulid-id-weight": _NEWER,
    "--ip-adapter-strength": _NEWER,
    "--temporal-tiling": _NEWER,
    "--hires-sigmas": _NEWER,
    "--ref-video": _NEWER,
    "--ref-video-audio": _NEWER,
    "--ref-audio": _NEWER,
    # Flags of the program sd-cli.
    "--image": _MODES,
    "--metadata-format": _MODES,
    "--metadata-raw": _MODES,
    "--metadata-brief": _MODES,
    "--metadata-all": _MODES,
    "--convert-name": _MODES,
    "--imat-out": _MODES,
    "--imat-in": _MODES,
    # The C++ client's own.
    "--normalize-input": _GONE,
    "--stacked-id-embd-dir": f"{_GONE} for --photo-maker",
    "--input-id-images-dir": f"{_GONE} for --pm-id-images-dir",
    "--style-ratio": f"{_GONE} for --pm-style-strength",
}

#: Modes of sd-cli other than drawing, with the reason.
REFUSED_MODES: dict[str, str] = {
    "adetailer": f"ADetailer {_NEWER}",
    "convert": _MODES,
    "metadata": _MODES,
}
