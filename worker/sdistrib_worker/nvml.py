"""Who else uses a CUDA card, by NVIDIA's management library, through its Python module `pynvml`.

The module is optional (`pip install nvidia-ml-py`). NVML and CUDA number cards differently, so that
with several the card must be named in a way that both understand.
"""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdistrib.errors import ConfigError
from sdistrib_worker.processes import own_processes

#: Another process uses the card when it has this part of its processors, percent.
BUSY_PERCENT = 10
_INSTEAD = "Leave the option out, or use --hours."
#: Number of the first process namespace. Source: PROC_PID_INIT_INO of Linux.
_FIRST_NAMESPACE = "pid:[4026531836]"


class NvmlProbe:
    """Looks at the processes of one card.

    Args:
        environment: the engine's own, which may choose the card.
        nvml: the module, for tests.
        proc: where Linux tells of processes.

    Raises:
        ConfigError: the card or its processes cannot be seen.
    """

    def __init__(
        self, environment: Mapping[str, str], nvml: Any = None, proc: Path = Path("/proc")
    ) -> None:
        self._nvml = nvml or _module()
        self._proc = proc
        self._seen_us = 0
        # Numbers of processes are the driver's, and in a container ours are others.
        namespace = str((proc / "self/ns/pid").readlink()) if proc.exists() else ""
        if namespace != _FIRST_NAMESPACE:
            raise ConfigError(
                "--yield-when-busy: in a container the driver's numbers of processes are not those"
                f" seen here, so that the engine cannot be told from others. {_INSTEAD}"
            )
        try:
            self._nvml.nvmlInit()
            self._card = self._find(environment)
            self._look()
        except self._nvml.NVMLError as error:
            raise ConfigError(f"--yield-when-busy: NVML says {error}. {_INSTEAD}") from None

    def look(self) -> str:
        """See `busy.Probe`."""
        try:
            return self._look()
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML says {error}") from None

    def _find(self, environment: Mapping[str, str]) -> Any:
        """The card that CUDA calls its first."""
        chosen = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if chosen.startswith("GPU-"):
            return self._nvml.nvmlDeviceGetHandleByUUID(chosen)
        if self._nvml.nvmlDeviceGetCount() == 1:
            return self._nvml.nvmlDeviceGetHandleByIndex(0)
        if environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
            return self._nvml.nvmlDeviceGetHandleByIndex(int(chosen or 0))
        raise ConfigError(
            "--yield-when-busy: this machine has several cards, and CUDA and the driver number them"
            " differently. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or CUDA_VISIBLE_DEVICES to the card's"
            " UUID (nvidia-smi -L)."
        )

    def _look(self) -> str:
        own = {process.pid for process in own_processes(self._proc, os.getpid())}
        others = {sample.pid for sample in self._samples()} - own
        return "another process uses the GPU" if others else ""

    def _samples(self) -> list[Any]:
        """Processes that worked on the card since the last look."""
        nvml = self._nvml
        try:
            found = nvml.nvmlDeviceGetProcessUtilization(self._card, self._seen_us)
        except nvml.NVMLError_NotFound:  # nobody did
            return []
        except nvml.NVMLError_NotSupported:
            # An old card does not say who works; who computes on it at all counts instead.
            return list(nvml.nvmlDeviceGetComputeRunningProcesses(self._card))
        self._seen_us = max([self._seen_us, *(sample.timeStamp for sample in found)])
        return [sample for sample in found if sample.smUtil >= BUSY_PERCENT]


def _module() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise ConfigError(
            "--yield-when-busy needs NVIDIA's module to see who uses the card:"
            f" pip install nvidia-ml-py. {_INSTEAD}"
        ) from None
