"""The native toolchain as far as it goes without compiling: what `cmake -B` and `--install` say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
REQUIRE_ALL = os.environ.get("SDISTRIB_REQUIRE_ALL") == "1"
SYSTEM_PYTHON = Path("/usr/bin/python3")


def lacks(what: str) -> None:
    """Skips by name, or fails where nothing may be skipped."""
    if REQUIRE_ALL:
        pytest.fail(f"SDISTRIB_REQUIRE_ALL=1 but there is no {what}")
    pytest.skip(f"no {what}")


@pytest.fixture
def environ(monkeypatch):
    """No compiler, SDK or environment of the caller."""
    for name in ("CXX", "CC", "CUDACXX", "CUDA_PATH", "CUDA_HOME", "VULKAN_SDK", "ROCM_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)


@pytest.fixture
def configure(environ, tmp_path):
    """Runs `cmake -B` with these options; gives its exit code and all its lines that are ours."""
    if not shutil.which("cmake"):
        lacks("cmake")

    def run(*options: str, python: Path | str = sys.executable) -> tuple[int, list[str]]:
        command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build")]
        return cmake([*command, f"-DPython_EXECUTABLE={python}", *options])

    return run


def cmake(command: list[str]) -> tuple[int, list[str]]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, [line.strip() for line in lines if "sdistrib: " in line]


def assert_one_line(result: tuple[int, list[str]], *parts: str) -> None:
    code, lines = result
    assert code == 1
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]


def test_cpu_configures_and_says_what_is_next(configure, tmp_path):
    code, lines = configure()
    assert code == 0
    assert lines == [
        f"-- sdistrib: backend cpu, Python {sys.executable}",
        f"-- sdistrib: next: cmake --build {tmp_path / 'build'}",
    ]


def test_options_reach_the_engine_wheel(configure, tmp_path):
    code, _ = configure(
        "-DSD_PORTABLE=ON",
        "-DGGML_OPENMP=OFF",
        "-DCMAKE_CUDA_ARCHITECTURES=86;89",
        "-DSD_CMAKE_ARGS=-DA=1;-DB=2",
        "-DOTHER=1",
    )
    assert code == 0
    assert (tmp_path / "build" / "engine-options.txt").read_text().splitlines() == [
        "--backend",
        "cpu",
        "--portable",
        "--cmake-arg=-DA=1",
        "--cmake-arg=-DB=2",
        "--cmake-arg=-DCMAKE_CUDA_ARCHITECTURES=86;89",
        "--cmake-arg=-DGGML_OPENMP=OFF",
    ]


def test_two_accelerators_are_an_error_that_names_both(configure):
    result = configure("-DSD_CUDA=ON", "-DSD_VULKAN=ON")
    assert_one_line(result, "SD_CUDA and SD_VULKAN are on", "turn all but one OFF")


def test_no_compiler_is_one_line_with_the_remedy(configure, monkeypatch, tmp_path):
    for program in ("cmake", "make"):
        path = shutil.which(program) or lacks(program)
        (tmp_path / program).symlink_to(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = configure("-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF")  # PATH only, not /usr/bin
    assert_one_line(result, "no C++ compiler found", "apt install g++")


def test_a_compiler_that_cannot_is_named(configure):
    result = configure("-DCMAKE_CXX_COMPILER=/bin/false")
    assert_one_line(result, "/bin/false cannot compile C++17", "-DCMAKE_CXX_COMPILER=")


def write_vulkan_headers(folder: Path, minor: int, patch: int) -> Path:
    (folder / "vulkan").mkdir(parents=True)
    (folder / "vulkan" / "vulkan_core.h").write_text(
        "#define VK_MAKE_API_VERSION(variant, major, minor, patch) 0\n"
        f"#define VK_HEADER_VERSION {patch}\n"
        "#define VK_HEADER_VERSION_COMPLETE "
        f"VK_MAKE_API_VERSION(0, 1, {minor}, VK_HEADER_VERSION)\n"
    )
    return folder


@pytest.mark.parametrize(("minor", "patch"), [(3, 239), (4, 308), (3, 999)])
def test_old_vulkan_headers_are_one_line_with_the_remedy(configure, tmp_path, minor, patch):
    folder = write_vulkan_headers(tmp_path / "include", minor, patch)
    result = configure("-DSD_VULKAN=ON", f"-DVulkan_INCLUDE_DIR={folder}")
    assert_one_line(
        result, f"{folder} are 1.{minor}.{patch}", "needs 1.4.309", "-DVulkan_INCLUDE_DIR=DIR"
    )


def test_a_folder_without_vulkan_headers_is_named(configure, tmp_path):
    result = configure("-DSD_VULKAN=ON", f"-DVulkan_INCLUDE_DIR={tmp_path}")
    assert_one_line(result, f"no vulkan/vulkan_core.h in {tmp_path}", "-DVulkan_INCLUDE_DIR=DIR")


@pytest.mark.parametrize("patch", [309, 350])
def test_new_vulkan_headers_pass_that_check(configure, tmp_path, patch):
    folder = write_vulkan_headers(tmp_path / "include", 4, patch)
    code, lines = configure("-DSD_VULKAN=ON", f"-DVulkan_INCLUDE_DIR={folder}")
    # The machine may lack what is checked next.
    assert code == 0 or "the Vulkan headers" not in lines[0]


@pytest.mark.parametrize(
    ("option", "program", "parts"),
    [
        ("SD_SYCL", "icpx", ["icpx", "oneAPI", "setvars.sh"]),
        ("SD_HIPBLAS", "hipcc", ["hipcc", "ROCm", "ROCM_PATH"]),
    ],
)
def test_a_missing_sdk_is_one_line_with_the_remedy(configure, option, program, parts):
    if shutil.which(program) or Path("/opt/rocm/bin", program).exists():
        pytest.skip(f"{program} is installed, so nothing is missing")
    assert_one_line(configure(f"-D{option}=ON"), f"{option} needs", *parts)


@pytest.mark.skipif(sys.platform == "darwin", reason="Metal belongs here")
def test_metal_is_for_macos(configure):
    assert_one_line(configure("-DSD_METAL=ON"), "SD_METAL is for macOS only")


def test_cuda_without_cublas_is_named(configure, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'cublas_v2.h: No such file' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    result = configure("-DSD_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}")
    assert_one_line(result, "cuBLAS (cublas_v2.h: No such file)", "install the whole CUDA toolkit")


def test_a_python_that_does_not_run_is_named(configure):
    assert_one_line(configure(python="/nonexistent/python"), "/nonexistent/python does not run")


def test_an_old_python_is_named(configure, tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho '3.9;/usr/bin/python3.9'\n")
    old.chmod(0o755)
    assert_one_line(configure(python=old), "is Python 3.9", "needs 3.11 or newer")


def test_every_preset_turns_on_its_accelerator_only(environ, tmp_path):
    if not shutil.which("cmake"):
        lacks("cmake")
    for name in ("cuda", "cpu"):
        command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), f"--preset={name}"]
        done = subprocess.run(
            [*command, "-DSD_METAL=ON"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        asked = "SD_CUDA and SD_METAL are on" if name == "cuda" else "SD_METAL is for macOS only"
        assert asked in done.stderr


def test_a_system_python_is_refused_at_install(configure, tmp_path):
    if not SYSTEM_PYTHON.exists():
        lacks(str(SYSTEM_PYTHON))
    code, lines = configure(python=SYSTEM_PYTHON)
    if code:  # a system Python without venv, or too old, is refused even earlier
        assert_one_line((code, lines), str(SYSTEM_PYTHON))
        return
    result = cmake(["cmake", "--install", str(tmp_path / "build")])
    assert_one_line(result, "is a system Python", "python3 -m venv", "-DPython_EXECUTABLE=")


def test_install_before_build_says_so(configure, tmp_path):
    if sys.prefix == sys.base_prefix:
        lacks("virtual environment around these tests")
    assert configure()[0] == 0
    result = cmake(["cmake", "--install", str(tmp_path / "build")])
    assert_one_line(result, "no wheels", f"run cmake --build {tmp_path / 'build'}")
