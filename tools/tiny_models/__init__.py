"""Makes tiny but real model files that stable-diffusion.cpp loads and draws with.

`python -m tools.tiny_models models/` writes an A1111-style tree of seeded random weights. They come
from SHAKE-256 and correctly rounded arithmetic, not from numpy's random module, whose streams may
change between versions: the same bytes on every machine, run and numpy.

Theory of operation: `layers` turns layer shapes into named tensors, `transformer`, `autoencoder`,
`upscaler` and `sd15` spell out networks the engine knows, `safetensors` lays tensors out as files,
and `tree` says which file holds what.
"""
