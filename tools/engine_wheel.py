#!/usr/bin/env python3
"""Compiles the engine (stable-diffusion.cpp and its Python binding) into a wheel, once per machine.

The wheel is kept in ${SDISTRIB_CACHE:-~/.cache/sdistrib}/engine/KEY/, beside the log of its build
and a `recipe.json` that says what KEY stands for: the engine's version (read from constraints.txt,
the only place it is pinned), the backend, every build option, the compiler, this machine's CPU
flags and the Python it is for. Whatever can change the wheel changes the key; an equal key is never
compiled twice. CMAKE_ARGS is honoured, and part of the key.

The only line on standard output is the wheel's path. Progress and errors go to standard error.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.watched import BuildError, Progress, catch_signals, explain, locked, run_logged, tell

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "stable-diffusion-cpp-python"
WHEEL_GLOB = PACKAGE.replace("-", "_") + "-*.whl"

#: Backend -> the switch that stable-diffusion.cpp's own CMakeLists.txt gives it.
BACKENDS = {
    "cpu": "",
    "cuda": "SD_CUDA",
    "vulkan": "SD_VULKAN",
    "sycl": "SD_SYCL",
    "hipblas": "SD_HIPBLAS",
    "metal": "SD_METAL",
}
#: A backend's own compiler and the CMake and environment variables that name another one.
BACKEND_TOOLS = {
    "cuda": ("nvcc", "CMAKE_CUDA_COMPILER", "CUDACXX"),
    "vulkan": ("glslc", "Vulkan_GLSLC_EXECUTABLE", ""),
    "hipblas": ("hipcc", "CMAKE_HIP_COMPILER", "HIPCXX"),
}
CARDS = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
#: Variables that CMake reads by itself and that change what is compiled.
TOOLCHAIN_VARIABLES = (
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS"),
    *("CUDACXX", "CUDAHOSTCXX", "CUDAFLAGS", "HIPCXX", "HIPFLAGS"),
)

NO_COMPILER = (
    "no C++ compiler found: `apt install g++` (Debian, Ubuntu), `dnf install gcc-c++` (Fedora) or "
    "`xcode-select --install` (macOS), or name one in CXX"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the wheel's bits."""

    version: str
    backend: str
    #: CMake arguments in the order CMake gets them.
    args: tuple[str, ...]
    #: Compilers with their versions, and the variables they read.
    compiler: str
    #: The CPU's instruction sets, empty for a portable build.
    cpu_flags: str
    python_tag: str

    @property
    def key(self) -> str:
        """A folder name: readable at its front, exact at its end."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        kind = "native" if self.cpu_flags else "portable"
        return f"{self.version}-{self.backend}-{kind}-{digest[:16]}"


def pinned_version(constraints: Path) -> str:
    """The engine's version in a constraints file."""
    found = re.search(rf"^{PACKAGE}==(\S+)", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise BuildError(f"{constraints} does not pin {PACKAGE}: add a line `{PACKAGE}==VERSION`")
    return found[1]


def split_args(text: str) -> list[str]:
    """CMAKE_ARGS as a list, `-D X=Y` written as `-DX=Y`."""
    words = iter(shlex.split(text))
    return [f"-D{next(words, '')}" if word == "-D" else word for word in words]


def choose_backend(asked: str | None, args: Sequence[str]) -> str:
    """The one backend that --backend and the -DSD_… arguments agree on; none is the CPU."""
    on = re.compile(r"-D(SD_\w+)(?::\w+)?=(?:1|ON|TRUE|YES)", re.IGNORECASE)
    switched = {match[1].upper() for match in map(on.fullmatch, args) if match}
    names = [name for name, switch in BACKENDS.items() if switch in switched or name == asked]
    if len(names) > 1:
        raise BuildError(f"one backend at a time, and this asks for several: {', '.join(names)}")
    return names[0] if names else "cpu"


def cpu_flags() -> str:
    """This CPU's instruction sets, in one sorted line."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in {"flags", "features"}:
                return " ".join(sorted(set(value.split())))
    return subprocess_text(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()


def subprocess_text(command: Sequence[str]) -> str:
    """What a command prints, or nothing when it cannot run."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def named_in(args: Sequence[str], variable: str) -> str:
    """The value that the last `-Dvariable=value` gives, or nothing."""
    values = [arg.partition("=")[2] for arg in args if re.match(rf"-D{variable}(:\w+)?=", arg)]
    return values[-1] if values else ""


def find_compiler(args: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The C++ compiler CMake will take, as a command; empty when there is none."""
    named = named_in(args, "CMAKE_CXX_COMPILER")
    command = [named] if named else shlex.split(environ.get("CXX", ""))
    if command:
        return command if shutil.which(command[0]) else []
    return next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), [])


def find_tool(
    name: str, variable: str, env_name: str, args: Sequence[str], environ: Mapping[str, str]
) -> str:
    """The backend's own compiler that CMake will take."""
    return named_in(args, variable) or environ.get(env_name, "") or name


def compiler_identity(backend: str, args: Sequence[str], environ: Mapping[str, str]) -> str:
    """Names and versions of the compilers this build would use."""
    compiler = find_compiler(args, environ)
    parts = [subprocess_text([*compiler, "--version"]).partition("\n")[0] if compiler else "none"]
    if backend in BACKEND_TOOLS:
        tool = find_tool(*BACKEND_TOOLS[backend], args, environ)
        done = subprocess_text([tool, "--version"]).split()
        parts.append(f"{tool}: {' '.join(done) or 'none'}")
    if backend == "cuda" and not any("CMAKE_CUDA_ARCHITECTURES" in arg for arg in args):
        # Without a list of architectures, ggml compiles for the cards that are in this machine.
        cards = sorted(set(subprocess_text(CARDS).split()))
        parts.append(f"cards: {' '.join(cards) or 'none'}")
    parts += [f"{name}={environ[name]}" for name in TOOLCHAIN_VARIABLES if environ.get(name)]
    return "; ".join(parts)


def make_recipe(options: argparse.Namespace) -> Recipe:
    """What to build, from the command line, the environment and this machine."""
    extra = [*split_args(os.environ.get("CMAKE_ARGS", "")), *options.cmake_arg]
    backend = choose_backend(options.backend, extra)
    args = [f"-D{BACKENDS[backend]}=ON"] if BACKENDS[backend] else []
    if backend == "sycl" and not any("CMAKE_CXX_COMPILER" in arg for arg in extra):
        args += ["-DCMAKE_C_COMPILER=icx", "-DCMAKE_CXX_COMPILER=icpx"]
    if options.portable:
        args.append("-DGGML_NATIVE=OFF")
    args += [arg for arg in extra if arg not in args]
    return Recipe(
        version=pinned_version(ROOT / "constraints.txt"),
        backend=backend,
        args=tuple(args),
        compiler=compiler_identity(backend, args, os.environ),
        cpu_flags="" if "-DGGML_NATIVE=OFF" in args else cpu_flags(),
        python_tag=f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}",
    )


def pip_command(scratch: Path) -> list[str]:
    """This Python's pip, or a throw-away environment's where it has none (a system Python)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if not importlib.util.find_spec("ensurepip"):
        raise BuildError(f"{sys.executable} has neither pip nor venv: `apt install python3-venv`")
    home = scratch / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, stdout=subprocess.DEVNULL)
    return [str(home / "bin" / "python"), "-m", "pip"]


def build_environ(recipe: Recipe, scratch: Path) -> dict[str, str]:
    """What pip compiles under: our options, our folder for leftovers, ninja's usual counter."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "NINJA_STATUS", "VERBOSE"}
    }
    environ.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    environ |= {"CMAKE_ARGS": shlex.join(recipe.args), "TMPDIR": str(scratch)}
    return environ | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def compile_wheel(recipe: Recipe, folder: Path) -> Path:
    """Compiles inside a scratch folder, then moves the finished wheel into `folder` in one step."""
    for left in folder.glob("tmp-*"):  # a build that was killed outright; we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    log = folder / "build.log"
    label = f"engine {recipe.version} ({recipe.backend})"
    tell(f"compiling {label}: some minutes, once (log: {log})")
    progress = Progress(label, sys.stderr, tty=sys.stderr.isatty(), now=time.monotonic())
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder) as name:
        scratch = Path(name)
        # Without these two, pip would hand out a wheel that was made with other options.
        fresh = ["--no-cache-dir", "--no-binary", PACKAGE]
        command = [*pip_command(scratch), "wheel", "-v", "--no-input", "--no-deps", *fresh]
        command += ["--wheel-dir", str(scratch / "out"), f"{PACKAGE}=={recipe.version}"]
        try:
            code = run_logged(command, build_environ(recipe, scratch), log, progress)
        finally:
            progress.close()
        wheels = sorted((scratch / "out").glob(WHEEL_GLOB))
        if code or not wheels:
            shown, sentence = explain(log)
            print(shown, file=sys.stderr)
            raise BuildError(sentence)
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2), encoding="utf-8")
        return wheels[0].replace(folder / wheels[0].name)


def cache_folder(recipe: Recipe) -> Path:
    """Where this recipe's wheel, log and lock live."""
    cache = Path(os.environ.get("SDISTRIB_CACHE") or Path.home() / ".cache" / "sdistrib")
    return cache.absolute() / "engine" / recipe.key


def check(recipe: Recipe) -> None:
    """Raises `BuildError` when the wheel is not cached and cannot be compiled here."""
    if not any(cache_folder(recipe).glob(WHEEL_GLOB)) and not find_compiler(
        recipe.args, os.environ
    ):
        raise BuildError(NO_COMPILER)


def engine_wheel(recipe: Recipe, *, rebuild: bool = False) -> Path:
    """The wheel of a recipe: from the cache, or compiled now."""
    check(recipe)
    folder = cache_folder(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        kept = sorted(folder.glob(WHEEL_GLOB))
        return kept[0] if kept and not rebuild else compile_wheel(recipe, folder)


def copy_wheel(wheel: Path, target: Path) -> Path:
    """Copies a wheel into a folder that shall hold no other engine wheel."""
    target = target.absolute()
    target.mkdir(parents=True, exist_ok=True)
    partial = target / f".{wheel.name}.{os.getpid()}"
    try:
        shutil.copyfile(wheel, partial)
        partial.replace(target / wheel.name)
    finally:
        partial.unlink(missing_ok=True)
    for other in target.glob(WHEEL_GLOB):
        if other.name != wheel.name:
            other.unlink()
    return target / wheel.name


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary = (__doc__ or "").partition("\n")[0]
    made = argparse.ArgumentParser(
        prog="engine_wheel.py",
        description=summary,
        fromfile_prefix_chars="@",
        epilog="@FILE takes options from a file, one a line",
    )
    made.add_argument(
        "--backend", choices=list(BACKENDS), help="default: what CMAKE_ARGS says, else cpu"
    )
    made.add_argument(
        "--portable", action="store_true", help="for any CPU with AVX2, not just this one"
    )
    made.add_argument(
        "--cmake-arg", action="append", default=[], metavar="-DX=Y", help="repeatable"
    )
    made.add_argument(
        "--wheel-dir", type=Path, metavar="DIR", help="copy the wheel there, print that path"
    )
    made.add_argument("--rebuild", action="store_true", help="compile even if the cache has it")
    only = made.add_mutually_exclusive_group()
    only.add_argument("--print-key", action="store_true", help="print the cache key, build nothing")
    only.add_argument("--check", action="store_true", help="say what a build lacks, build nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Builds or finds the wheel; gives the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - nothing has checked the interpreter yet
        tell(f"{sys.executable} is Python {platform.python_version()}: 3.11 or newer is needed")
        return 2
    options = parser().parse_args(argv)
    try:
        recipe = make_recipe(options)
        if options.print_key:
            print(recipe.key)
        elif options.check:
            check(recipe)
        else:
            wheel = engine_wheel(recipe, rebuild=options.rebuild)
            print(copy_wheel(wheel, options.wheel_dir) if options.wheel_dir else wheel)
    except BuildError as error:
        tell(str(error))
        return 1
    except KeyboardInterrupt:
        tell("interrupted: nothing half-built is left, the next run starts afresh")
        return 130
    return 0


if __name__ == "__main__":
    catch_signals()
    sys.exit(main())
