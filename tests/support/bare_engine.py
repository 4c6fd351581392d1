"""Draws with the binding's public class and imports nothing of ours: what our pictures must equal.

`python bare_engine.py MODEL SEED… < {"generate_image": "arguments"}` prints one line of hex pixels
per seed.
"""

import json
import sys

from stable_diffusion_cpp import StableDiffusion


def main() -> None:
    model, *seeds = sys.argv[1:]
    arguments = json.load(sys.stdin)
    engine = StableDiffusion(
        model_path=model, vae_decode_only=True, n_threads=1, lora_apply_mode="at_runtime"
    )
    for seed in seeds:
        (picture,) = engine.generate_image(seed=int(seed), eta=float("inf"), **arguments)
        print(picture.convert("RGB").tobytes().hex())


if __name__ == "__main__":
    main()
