"""Which devices there are, what they are called, and which are taken."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from sdistrib.errors import EXIT_USAGE, ConfigError
from sdistrib_worker.cli import command
from sdistrib_worker.devices import list_devices
from sdistrib_worker.engine.device import (
    Device,
    device_environment,
    pick,
    spelled,
    table_line,
    vulkan_numbers,
)
from sdistrib_worker.flags import Programs, chosen_devices
from tests.support.scripted_worker import LISTING

CPU = Device("CPU", "Some CPU", "cpu", 1, 2)
CUDA = [Device("CUDA0", "Card A", "gpu"), Device("CUDA1", "Card B", "gpu")]
INTEGRATED = Device("Vulkan1", "Small", "igpu")
BLAS = Device("BLAS", "OpenBLAS", "accel")

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("CUDA0", "cuda0"), ("CUDA12", "cuda12"), ("Vulkan1", "vulkan1"), ("ROCm0", "hip0"),
        ("SYCL3", "sycl3"), ("MTL0", "metal"), ("Metal", "metal"), ("CPU", "cpu"),
    ],
)  # fmt: skip
def test_what_ggml_calls_a_device_has_a_word_that_is_taken(name, word):
    device = Device(name, "", "gpu")
    assert device.word == spelled(name) == word
    assert device_environment(name, {}) == device_environment(word, {})


@pytest.mark.parametrize(
    ("asked", "found", "taken"),
    [
        ("all", [*CUDA, CPU], ("cuda0", "cuda1")),
        ("ALL", [BLAS, CPU], ("cpu",)),
        ("all", [INTEGRATED, CPU], ("vulkan1",)),
        ("cuda1", [*CUDA, CPU], ("cuda1",)),
        ("CUDA1, cuda0,", [*CUDA, CPU], ("cuda1", "cuda0")),
        ("cpu,cuda0", [*CUDA, CPU], ("cpu", "cuda0")),
        ("cpu", [CPU], ("cpu",)),
    ],
)
def test_devices_are_picked_from_what_is_there(asked, found, taken):
    assert pick(asked, found) == taken


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("cuda3", "'cuda3' is not here.*cuda0 \\(Card A\\), cuda1 \\(Card B\\), cpu"),
        ("cuda0,vulkan0", "'vulkan0' is not here"),
        ("cuda0,CUDA0", "cuda0 is named twice"),
        (" , ", "names no device"),
        ("auto", "'auto' is not here"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(asked, message):
    with pytest.raises(ConfigError, match=message):
        pick(asked, [*CUDA, CPU])


@pytest.mark.parametrize(
    ("device", "environment", "variables"),
    [
        ("cuda0", {}, {"CUDA_VISIBLE_DEVICES": "0"}),
        ("CUDA1", {"CUDA_VISIBLE_DEVICES": "4,7"}, {"CUDA_VISIBLE_DEVICES": "7"}),
        ("hip1", {}, {"HIP_VISIBLE_DEVICES": "1"}),
        ("ROCm1", {}, {"HIP_VISIBLE_DEVICES": "1"}),
        ("vulkan2", {}, {"GGML_VK_VISIBLE_DEVICES": "2"}),
        ("sycl1", {}, {"ONEAPI_DEVICE_SELECTOR": "level_zero:1"}),
        ("metal", {}, {}),
        ("auto", {}, {}),
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
def test_one_device_is_all_that_its_engine_sees(device, environment, variables):
    assert device_environment(device, environment) == variables


@pytest.mark.parametrize(
    ("listed", "seen", "numbers"),
    [
        (["A"], [], None),
        (["A"], ["A"], {0: 0}),
        # A software device first; a number that ggml cannot use; another order.
        (["A", "B"], ["llvmpipe", "A", "", "B"], {0: 1, 1: 3}),
        (["B", "A"], ["A", "B"], {0: 1, 1: 0}),
        # Two cards of one kind are told apart by their places only.
        (["A", "A"], ["A"], None),
        (["A", "A"], ["x", "A", "A"], {0: 1, 1: 2}),
    ],
)
def test_vulkan_devices_have_the_numbers_of_the_driver(listed, seen, numbers):
    assert vulkan_numbers(listed, seen) == numbers


def test_a_line_for_each_device():
    device = Device("CUDA0", "Card\tof  many words", "gpu", 3 * 2**30, 8 * 2**30)
    assert table_line(device) == "cuda0\tCard of many words\tcuda\t3.0 of 8.0 GiB free"
    assert table_line(CUDA[1]) == "cuda1\tCard B\tcuda\tmemory not known"


# --- the child that lists ---------------------------------------------------------------------


def _fake(monkeypatch, *rows, vulkan=()):
    monkeypatch.delenv("GGML_VK_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("FAKE_DEVICES", json.dumps([list(row[:3]) for row in rows]))
    monkeypatch.setenv("FAKE_VULKAN", json.dumps(list(vulkan)))


def test_vulkan_devices_are_listed_by_the_numbers_that_their_variable_takes(monkeypatch):
    rows = [("Vulkan0", "Card", "gpu"), ("Vulkan1", "Chip", "igpu"), CPU]
    _fake(monkeypatch, *rows, vulkan=["llvmpipe", "Chip", "Card"])
    found = list_devices(LISTING)
    assert [(one.word, one.description) for one in found] == [
        ("vulkan2", "Card"), ("vulkan1", "Chip"), ("cpu", "Some CPU"),
    ]  # fmt: skip


def test_vulkan_devices_whose_numbers_cannot_be_told_are_refused(monkeypatch):
    _fake(monkeypatch, ("Vulkan0", "Card", "gpu"), vulkan=["llvmpipe"])
    monkeypatch.setattr("sdistrib_worker.devices._VULKAN_MAX", 2)
    with pytest.raises(ConfigError, match="set GGML_VK_VISIBLE_DEVICES"):
        list_devices(LISTING)


def test_numbers_count_within_what_the_owner_left_visible(monkeypatch):
    _fake(monkeypatch, vulkan=["llvmpipe", "Card"])
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "1")
    assert [(one.word, one.description) for one in list_devices(LISTING)] == [("vulkan0", "Card")]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit('no such library')", "exit status 1: no such library"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        (None, "cannot be listed: .*No such file"),
    ],
)
def test_a_listing_that_fails_says_why(program, message):
    command = ("/nonexistent/python",) if program is None else (sys.executable, "-c", program)
    with pytest.raises(ConfigError, match=message):
        list_devices(command)


def test_both_options_are_a_contradiction_and_all_without_a_gpu_is_as_before(monkeypatch):
    _fake(monkeypatch, CPU)
    assert chosen_devices("auto", None, LISTING) == ("auto",)
    assert chosen_devices("cuda0", "", LISTING) == ("cuda0",)
    assert chosen_devices("auto", "all", LISTING) == ("auto",)
    assert chosen_devices("auto", "cpu", LISTING) == ("cpu",)
    with pytest.raises(ConfigError, match="not both"):
        chosen_devices("cuda0", "cuda0", LISTING)


@pytest.mark.engine
@pytest.mark.process
def test_the_real_library_lists_its_devices_without_manager_and_models():
    command = [sys.executable, "-m", "sdistrib_worker", "--list-devices"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    names = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert "cpu" in names
    assert all(len(line.split("\t")) == 4 for line in done.stdout.splitlines())


def test_a_library_that_cannot_be_loaded_is_wrong_usage(monkeypatch):
    broken = Programs(listing=(sys.executable, "-c", "raise SystemExit('broken')"))
    result = CliRunner().invoke(command, ["--list-devices"], obj=broken)
    assert result.exit_code == EXIT_USAGE
    assert "broken" in result.output
