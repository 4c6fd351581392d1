"""Draw with the binding's public class, and with nothing of sdistrib: the pixels to be equal to.

`python direct.py MODEL OUT_DIR SEED COUNT KEY=VALUE…` writes raw RGB, one file per seed.
"""

import ast
import sys
from pathlib import Path

from stable_diffusion_cpp import StableDiffusion


def main() -> None:
    model, out, seed, count, *options = sys.argv[1:]
    params = dict(option.split("=", 1) for option in options)
    engine = StableDiffusion(model_path=model, vae_decode_only=True, n_threads=1, verbose=True)
    for number in range(int(seed), int(seed) + int(count)):
        (picture,) = engine.generate_image(
            prompt=params["prompt"],
            negative_prompt=params.get("negative_prompt", ""),
            width=int(params["width"]),
            height=int(params["height"]),
            sample_steps=int(params["steps"]),
            cfg_scale=ast.literal_eval(params["cfg_scale"]),
            eta=float("inf"),
            sample_method=params.get("sample_method", "default"),
            seed=number,
            vae_tiling=ast.literal_eval(params.get("vae_tiling", "False")),
        )
        Path(out, f"{number}.rgb").write_bytes(picture.convert("RGB").tobytes())


if __name__ == "__main__":
    main()
