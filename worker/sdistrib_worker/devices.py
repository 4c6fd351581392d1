"""Which devices this machine has, asked of the engine's library in a child process."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from sdistrib import limits
from sdistrib.errors import ConfigError
from sdistrib_worker.engine.death import signal_name
from sdistrib_worker.engine.device import Device, vulkan_numbers

_VULKAN = "GGML_VK_VISIBLE_DEVICES"
#: Numbers that are tried for it; ggml takes no more devices. Source: GGML_VK_MAX_DEVICES.
_VULKAN_MAX = 16


def listing_command() -> tuple[str, ...]:
    """The command that lists the devices of the real engine."""
    return (sys.executable, "-P", "-m", "sdistrib_worker.engine.listing")


def list_devices(command: Sequence[str]) -> tuple[Device, ...]:
    """Every device that the engine's library sees, with the numbers that its variables take.

    Raises:
        ConfigError: it cannot be loaded, or dies, or a device's number cannot be told.
    """
    found = _listed(command, {})
    vulkan = [device.description for device in found if device.backend == "vulkan"]
    if not vulkan or _VULKAN in os.environ:  # then the numbers count within that
        return found
    seen: list[str] = []
    while (numbers := vulkan_numbers(vulkan, seen)) is None:
        if len(seen) == _VULKAN_MAX:
            raise ConfigError(
                f"The numbers of the Vulkan devices cannot be told; set {_VULKAN} to those wanted."
            )
        seen.append(_vulkan_at(command, len(seen)))
    places = iter(range(len(vulkan)))
    return tuple(
        device._replace(name=f"Vulkan{numbers[next(places)]}")
        if device.backend == "vulkan"
        else device
        for device in found
    )


def _vulkan_at(command: Sequence[str], number: int) -> str:
    """The description of one Vulkan device; "" where that number is none that ggml can use."""
    try:
        found = _listed(command, {_VULKAN: str(number)})
    except ConfigError:
        return ""
    return next((device.description for device in found if device.backend == "vulkan"), "")


def _listed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[Device, ...]:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limits.ENGINE_START_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"The devices cannot be listed: {error}.") from None
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        ending = signal_name(done.returncode) or f"exit status {done.returncode}"
        last = f": {words[-1]}" if words else ""
        raise ConfigError(f"The devices cannot be listed, {ending}{last}")
    return tuple(Device(**row) for row in msgspec.json.decode(done.stdout))
