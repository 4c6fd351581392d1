"""Turns the layers that networks are made of into named tensors of seeded random weights."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.tiny_models.safetensors import DType, Tensor

#: Little-endian whatever the machine, because the files are.
NUMPY_TYPES: dict[DType, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "F8_E4M3": np.dtype("u1"),
}

#: Spreads a pixel softly over its neighbours: what makes clouds of the pictures instead of grit.
BLUR = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / np.float32(16)

#: Values that a shared range repeats; a prime, so that a matrix has no equal rows.
SHARED_PERIOD = 1_000_003


def random_bytes(key: str, count: int) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.shake_256(key.encode()).digest(count), np.uint8)


def bell(key: str, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
    """Nearly normal values: sums of four random bytes, variance 4 (256² - 1) / 12 = 21845.

    Integers and one product: no logarithm or cosine that differs between machines.
    """
    count = math.prod(shape)
    sums = random_bytes(key, 4 * count).reshape(4, count).sum(axis=0, dtype=np.int16) - 510
    values: NDArray[np.float32] = sums.astype(np.float32) * np.float32(std / math.sqrt(21845))
    return values.reshape(shape)


class Layers:
    """Collects the tensors of one network.

    A tensor's values depend on the seed and its name without `prefix`: a network has the same
    weights alone in a file and inside a checkpoint. With `shared`, all matrices share one range
    of bytes.
    """

    def __init__(self, seed: int, prefix: str = "", *, shared: bool = False) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._seed = seed
        self._prefix = prefix
        self._shared = shared

    def add(
        self, name: str, dtype: DType, shape: tuple[int, ...], values: Callable[[str], NDArray[Any]]
    ) -> None:
        """Adds a tensor; `values` is called with its random key when the file is written."""
        key = f"{self._seed}/{name}"
        self.tensors[self._prefix + name] = Tensor(
            dtype, shape, lambda: values(key).astype(NUMPY_TYPES[dtype])
        )

    def matrix(self, name: str, shape: tuple[int, ...], gain: float = 1.0) -> None:
        """Weights that keep the size of what goes through them, times `gain`."""
        std = gain / math.sqrt(math.prod(shape[1:]))
        self._weights(name, shape, lambda key: bell(key, shape, std))

    def linear(
        self, name: str, out: int, inputs: int, *, gain: float = 1.0, bias: bool = True
    ) -> None:
        self.matrix(name + ".weight", (out, inputs), gain)
        if bias:
            self._bias(name, out)

    def conv(
        self,
        name: str,
        out: int,
        inputs: int,
        side: int = 3,
        *,
        gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        self.matrix(name + ".weight", (out, inputs, side, side), gain)
        if bias:
            self._bias(name, out)

    def mixing_conv(self, name: str, out: int, inputs: int, *, gain: float) -> None:
        """A 3x3 convolution that mixes channels at random and blurs them."""
        std = gain / math.sqrt(inputs)
        self._weights(
            name + ".weight",
            (out, inputs, 3, 3),
            lambda key: bell(key, (out, inputs, 1, 1), std) * BLUR,
        )
        self._bias(name, out)

    def passing_conv(
        self,
        name: str,
        out: int,
        inputs: int,
        *,
        gain: float,
        passes: float = 1.0,
        bias: bool = True,
    ) -> None:
        """A 3x3 convolution that hands channel i on to channel i, blurred and times `passes`, and
        adds a random trace of the others, times `gain`."""
        shape = (out, inputs, 3, 3)
        std = gain / math.sqrt(9 * inputs)
        way = np.eye(out, inputs, dtype=np.float32)[:, :, None, None] * BLUR * np.float32(passes)
        self._weights(name + ".weight", shape, lambda key: bell(key, shape, std) + way)
        if bias:
            self._bias(name, out)

    def norm(self, name: str, size: int, *, bias: bool = True) -> None:
        self.constant(name + ".weight", (size,), 1.0)
        if bias:
            self.constant(name + ".bias", (size,), 0.0)

    def constant(self, name: str, shape: tuple[int, ...], value: float) -> None:
        self.add(name, "F32", shape, lambda _key: np.full(shape, value))

    def _bias(self, name: str, size: int) -> None:
        self.add(name + ".bias", "F32", (size,), lambda key: bell(key, (size,), 0.02))

    def _weights(
        self, name: str, shape: tuple[int, ...], values: Callable[[str], NDArray[Any]]
    ) -> None:
        if not self._shared:
            self.add(name, "F16", shape, values)
            return

        def pool() -> NDArray[Any]:
            return np.resize(bell(str(self._seed), (SHARED_PERIOD,), 0.02).astype("<f2"), shape)

        self.tensors[self._prefix + name] = Tensor("F16", shape, pool, shared=True)
