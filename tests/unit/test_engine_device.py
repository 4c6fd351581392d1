"""Devices: how one is asked for, and what is said when another one was got."""

from pathlib import Path

import pytest

from sdistrib.errors import ConfigError
from sdistrib_worker.engine.base import DeviceError
from sdistrib_worker.engine.device import (
    Device,
    DeviceKind,
    choose,
    device_environment,
    rebuild,
    taken,
    unused_gpu,
)

CPU = Device("CPU", "Some CPU", "cpu")
CUDA = Device("CUDA0", "Some Card", "gpu")
INTEGRATED = Device("Vulkan0", "Some Chip", "igpu")
BLAS = Device("BLAS", "Some Library", "accel")


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        ("auto", {"CUDA_VISIBLE_DEVICES": "1"}, {}),
        ("metal", {}, {}),
        ("cuda", {}, {"CUDA_VISIBLE_DEVICES": "0"}),
        ("cuda1", {}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ("cuda1", {"CUDA_VISIBLE_DEVICES": "3, GPU-5"}, {"CUDA_VISIBLE_DEVICES": "GPU-5"}),
        ("hip2", {}, {"HIP_VISIBLE_DEVICES": "2"}),
        ("vulkan0", {}, {"GGML_VK_VISIBLE_DEVICES": "0"}),
        ("sycl1", {}, {"ONEAPI_DEVICE_SELECTOR": "level_zero:1"}),
        (
            "cpu",
            {},
            {
                "CUDA_VISIBLE_DEVICES": "-1",
                "HIP_VISIBLE_DEVICES": "-1",
                "GGML_VK_VISIBLE_DEVICES": "",
            },
        ),
    ],
)
def test_one_child_sees_one_device(
    asked: str, environment: dict[str, str], expected: dict[str, str]
) -> None:
    assert device_environment(asked, environment) == expected


@pytest.mark.parametrize("asked", ["", "gpu", "cuda-1", "cpu0", "cuda 0", "cuda9999"])
def test_an_unknown_word_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match="cuda0"):
        device_environment(asked, {})


def test_a_number_beyond_what_the_environment_allows_is_refused() -> None:
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=0,1 leaves 2"):
        device_environment("cuda2", {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_the_engine_takes_a_gpu_then_an_integrated_one_then_the_cpu() -> None:
    assert taken([BLAS, CPU, INTEGRATED, CUDA]) == CUDA
    assert taken([CPU, INTEGRATED]) == INTEGRATED
    assert taken([BLAS, CPU]) == CPU
    with pytest.raises(DeviceError, match="no device"):
        taken([BLAS])


@pytest.mark.parametrize(
    ("asked", "found", "expected"),
    [
        ("auto", [CPU], CPU),
        ("auto", [CUDA, CPU], CUDA),
        ("cpu", [CPU], CPU),
        ("cuda3", [CUDA, CPU], CUDA),  # the only one that the child can see
        ("vulkan0", [INTEGRATED, CPU], INTEGRATED),
    ],
)
def test_what_is_asked_for_is_got(asked: str, found: list[Device], expected: Device) -> None:
    assert choose(asked, found, "0.4.7") == expected


@pytest.mark.parametrize(
    ("asked", "found", "words"),
    [
        ("cuda0", [CPU], ["Asked for cuda0", "CPU (Some CPU)", "SD_CUDA=ON", "--device cpu"]),
        ("hip0", [CUDA, CPU], ["SD_HIPBLAS=ON", "--device cuda"]),
        ("cpu", [CUDA, CPU], ["takes CUDA0", "0.4.7", "Install a CPU build"]),
    ],
)
def test_another_device_is_refused_with_the_remedy(
    asked: str, found: list[Device], words: list[str]
) -> None:
    with pytest.raises(DeviceError) as raised:
        choose(asked, found, "0.4.7")
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("name", "kind", "backend"),
    [
        ("ROCm1", "gpu", "hip"), ("SYCL0", "gpu", "sycl"), ("Metal", "gpu", "metal"),
        ("MTL0", "gpu", "metal"), ("CPU", "cpu", "cpu"), ("CANN12", "gpu", "cann"),
    ],
)  # fmt: skip
def test_backends_have_our_words(name: str, kind: DeviceKind, backend: str) -> None:
    assert Device(name, "", kind).backend == backend


def test_a_cpu_build_beside_a_gpu_is_warned_about(tmp_path: Path) -> None:
    card = tmp_path / "nvidia0"
    card.touch()
    assert "SD_CUDA=ON" in unused_gpu(CPU, [str(tmp_path / "kfd"), str(card)])
    assert unused_gpu(CUDA, [str(card)]) == ""
    assert unused_gpu(CPU, [str(tmp_path / "kfd")]) == ""
    assert rebuild("vulkan").startswith(
        "Build the engine for it with `cmake -B build -DSD_VULKAN=ON"
    )
