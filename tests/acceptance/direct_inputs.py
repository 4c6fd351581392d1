"""Draw from pictures with the binding's public class, and with nothing of sdistrib.

`python direct_inputs.py CALLS.json`: one object with "engine" (arguments of the class) and "calls",
each with "out" (a file for the raw RGB) and arguments of `generate_image`, or of `upscale` when it
has "images" and nothing else. Arguments that name pictures are paths.
"""

import json
import sys
from pathlib import Path

from stable_diffusion_cpp import StableDiffusion


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    engine = StableDiffusion(n_threads=1, verbose=True, **work["engine"])
    for call in work["calls"]:
        out = call.pop("out")
        if "images" in call:
            (picture,) = engine.upscale(call["images"])
        else:
            (picture,) = engine.generate_image(eta=float("inf"), **call)
        Path(out).write_bytes(picture.convert("RGB").tobytes())


if __name__ == "__main__":
    main()
