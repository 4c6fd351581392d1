"""Which device an engine runs on: how it is asked for, and whether it was got.

Engine 0.4.7 takes no device: it runs on the first GPU that its library sees, else on the CPU, and
says nothing. So one child sees one device: the supervisor hides the others through the variables
that each backend obeys, and the child compares what the library lists with what was asked for.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sdistrib.errors import ConfigError
from sdistrib_worker.engine.base import DeviceError

DeviceKind = Literal["cpu", "gpu", "igpu", "accel"]

_ASKED = re.compile(r"(auto|cpu|metal|(cuda|hip|vulkan|sycl)(\d{0,3}))")
#: Variable that limits what a backend sees, how one device is written, and what hides all.
_VISIBLE = {
    "cuda": ("CUDA_VISIBLE_DEVICES", "{}", "-1"),
    "hip": ("HIP_VISIBLE_DEVICES", "{}", "-1"),
    "vulkan": ("GGML_VK_VISIBLE_DEVICES", "{}", ""),
    "sycl": ("ONEAPI_DEVICE_SELECTOR", "level_zero:{}", None),
}
#: How ggml's device names begin, and our word for the backend.
_BACKENDS = {
    "CUDA": "cuda",
    "ROCm": "hip",
    "Vulkan": "vulkan",
    "SYCL": "sycl",
    "MTL": "metal",
    "Metal": "metal",
    "CPU": "cpu",
}
_GPU_FILES = ("/dev/nvidia0", "/dev/kfd", "/dev/dri/renderD128")


class Device(NamedTuple):
    """One device as the engine's library lists it."""

    #: "CUDA0", "Vulkan0", "CPU", …
    name: str
    #: What it is, for example the card's name.
    description: str
    kind: DeviceKind
    memory_bytes_free: int = 0
    memory_bytes: int = 0

    @property
    def word(self) -> str:
        """What `--device` takes for it: "cuda0", "vulkan1", "metal", "cpu"."""
        backend, number = self.backend, self.name[len(self.name.rstrip("0123456789")) :]
        return backend + (number or "0") if backend in _VISIBLE else backend

    @property
    def backend(self) -> str:
        """ "cpu", "cuda", "hip", "vulkan", "sycl", "metal", or ggml's own word in lower case."""
        for start, backend in _BACKENDS.items():
            if self.name.startswith(start):
                return backend
        return self.name.rstrip("0123456789").lower()


def spelled(device: str) -> str:
    """A device as a person or ggml writes it (CUDA0, ROCm1, MTL0), in our words."""
    plain = device.strip().lower()
    if plain.startswith("mtl"):
        return "metal"
    return "hip" + plain[4:] if plain.startswith("rocm") else plain


def pick(asked: str, found: Sequence[Device]) -> tuple[str, ...]:
    """The devices that `--devices` means, as `--device` takes them.

    Args:
        asked: "all", or words with commas between them; "cpu" is always there.
        found: what the engine's library lists. All of them are its GPUs, or the CPU without any.

    Raises:
        ConfigError: one is not there, or is named twice.
    """
    there = [device.word for device in found if device.kind in ("gpu", "igpu")]
    if spelled(asked) == "all":
        return tuple(there) or ("cpu",)
    words = tuple(spelled(word) for word in asked.split(",") if word.strip())
    listing = ", ".join(f"{one.word} ({one.description})" for one in found if one.kind != "accel")
    for word in words:
        if word not in (*there, "cpu"):
            raise ConfigError(f"--devices: {word!r} is not here. The engine lists {listing}.")
        if words.count(word) > 1:
            raise ConfigError(f"--devices: {word} is named twice; an engine needs its own device.")
    if not words:
        raise ConfigError(f"--devices {asked!r} names no device. The engine lists {listing}.")
    return words


def vulkan_numbers(listed: Sequence[str], seen: Sequence[str]) -> dict[int, int] | None:
    """Which number of its variable each listed Vulkan device has.

    Without GGML_VK_VISIBLE_DEVICES ggml lists GPUs only, each once and perhaps in another order;
    the variable counts all that the driver has, software ones too. Only descriptions tell.

    Args:
        listed: descriptions of the devices that are listed without the variable.
        seen: descriptions under each number of the variable from 0 on, as far as it was looked.

    Returns:
        Number in `listed` to number in `seen`; None as long as one was not seen.
    """
    if Counter(listed) - Counter(seen):
        return None
    free = list(enumerate(seen))
    numbers = {}
    for place, description in enumerate(listed):
        found = next(one for one in free if one[1] == description)
        free.remove(found)
        numbers[place] = found[0]
    return numbers


def table_line(device: Device) -> str:
    """A line of `--list-devices`: name, description, backend and memory, with tabs between."""
    gib = 1024.0**3
    memory = f"{device.memory_bytes_free / gib:.1f} of {device.memory_bytes / gib:.1f} GiB free"
    shown = memory if device.memory_bytes else "memory not known"
    return "\t".join((device.word, " ".join(device.description.split()), device.backend, shown))


def device_environment(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables with which a child sees only `device`.

    Args:
        device: "auto", "cpu", "metal", or a backend and the number of its device: "cuda0".
        environment: the worker's own; where it limits a backend already, numbers count within that.

    Raises:
        ConfigError: `device` is no such word, or its number is beyond what the environment allows.
    """
    device = spelled(device)
    match = _ASKED.fullmatch(device)
    if match is None:
        raise ConfigError(
            f"--device {device!r} is unknown; it is auto, cpu, metal, or cuda, hip, vulkan or sycl"
            " with a number, for example cuda0."
        )
    if device == "cpu":
        return {name: none for name, _, none in _VISIBLE.values() if none is not None}
    backend, number = match.group(2), int(match.group(3) or 0)
    if backend is None:
        return {}
    variable, form, _ = _VISIBLE[backend]
    allowed = [word.strip() for word in environment.get(variable, "").split(",") if word.strip()]
    if backend == "sycl" or not allowed:
        return {variable: form.format(number)}
    if number >= len(allowed):
        raise ConfigError(
            f"--device {device}: {variable}={environment[variable]} leaves {len(allowed)} of them."
        )
    return {variable: allowed[number]}


def taken(found: Sequence[Device]) -> Device:
    """The device that the engine will run on: the first GPU, else an integrated one, else the CPU.

    Source: `get_default_backend_name` of the engine.

    Raises:
        DeviceError: there is none at all.
    """
    for kind in ("gpu", "igpu", "cpu"):
        for device in found:
            if device.kind == kind:
                return device
    raise DeviceError("The engine's library lists no device at all; rebuild it.")


def choose(asked: str, found: Sequence[Device], version: str) -> Device:
    """The device that the engine will run on, if it is the one that was asked for.

    Raises:
        DeviceError: it is another one.
    """
    device = taken(found)
    backend = spelled(asked).rstrip("0123456789")
    if backend in ("auto", device.backend):
        return device
    have = ", ".join(f"{one.name} ({one.description})" for one in found)
    if backend == "cpu":
        raise DeviceError(
            f"Asked for the CPU, but engine {version} takes {device.name} whenever it sees it and"
            f" cannot be told otherwise. It lists {have}. Install a CPU build of the engine, or ask"
            f" for --device {device.backend}."
        )
    raise DeviceError(
        f"Asked for {asked}, but the engine would run on {device.name}. It lists {have}."
        f" {rebuild(backend)}, check the driver, or ask for --device {device.backend}."
    )


def rebuild(backend: str) -> str:
    """The command that builds the engine for a backend, as the beginning of a sentence."""
    option = {"hip": "HIPBLAS"}.get(backend, backend.upper())
    return (
        f"Build the engine for it with `cmake -B build -DSD_{option}=ON && cmake --build build &&"
        " cmake --install build`"
    )


def unused_gpu(device: Device, files: Sequence[str] = _GPU_FILES) -> str:
    """A warning when the engine runs on the CPU beside a GPU that this machine shows, else ""."""
    if device.kind != "cpu":
        return ""
    for file in files:
        if Path(file).exists():
            backend = "cuda" if "nvidia" in file else "hip" if "kfd" in file else "vulkan"
            return (
                f"This machine has a GPU ({file}), but the engine runs on the CPU."
                f" {rebuild(backend)}, or say --device cpu."
            )
    return ""
