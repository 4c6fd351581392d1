"""tools/engine_wheel.py: what decides the cache key, what a build leaves. Nothing compiles."""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tools import engine_wheel, watched
from tools.engine_wheel import Recipe
from tools.watched import BuildError, Progress

RECIPE = Recipe(
    version="0.4.7",
    backend="cpu",
    args=("-DGGML_OPENMP=OFF",),
    compiler="c++ 12.2.0",
    cpu_flags="avx avx2",
    python_tag="cpython-311-linux-x86_64",
)
WHEEL = "stable_diffusion_cpp_python-0.4.7-cp311-cp311-linux_x86_64.whl"


def options(*words: str) -> argparse.Namespace:
    return engine_wheel.parser().parse_args(words)


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch, tmp_path):
    for name in ("CMAKE_ARGS", *engine_wheel.TOOLCHAIN_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SDISTRIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def machine(monkeypatch):
    """A machine with a compiler and a CPU that never change."""
    monkeypatch.setattr(engine_wheel, "cpu_flags", lambda: "avx avx2")
    monkeypatch.setattr(engine_wheel, "compiler_identity", lambda *_: "c++ 12.2.0")


class TestKey:
    def test_names_version_and_backend(self):
        assert RECIPE.key.startswith("0.4.7-cpu-native-")

    def test_is_stable(self):
        assert replace(RECIPE).key == RECIPE.key

    @pytest.mark.parametrize(
        "change",
        [
            {"version": "0.4.8"},
            {"backend": "cuda"},
            {"args": ()},
            {"args": ("-DGGML_OPENMP=ON",)},
            {"compiler": "c++ 13.1.0"},
            {"cpu_flags": "avx avx2 avx512f"},
            {"cpu_flags": ""},
            {"python_tag": "cpython-312-linux-x86_64"},
        ],
    )
    def test_changes_with_whatever_decides_the_wheel(self, change):
        assert replace(RECIPE, **change).key != RECIPE.key

    def test_print_key_prints_it_and_nothing_else(self, machine, capsys):
        assert engine_wheel.main(["--print-key"]) == 0
        out, err = capsys.readouterr()
        assert out == engine_wheel.make_recipe(options()).key + "\n"
        assert err == ""


class TestRecipe:
    def test_version_is_the_pinned_one(self, machine):
        pinned = engine_wheel.pinned_version(engine_wheel.ROOT / "constraints.txt")
        assert engine_wheel.make_recipe(options()).version == pinned

    def test_no_pin_is_an_error(self, tmp_path):
        path = tmp_path / "constraints.txt"
        path.write_text("click==8.0\n")
        with pytest.raises(BuildError, match="does not pin"):
            engine_wheel.pinned_version(path)

    def test_backend_becomes_its_switch(self, machine):
        assert engine_wheel.make_recipe(options("--backend", "hipblas")).args == (
            "-DSD_HIPBLAS=ON",
        )

    def test_portable_leaves_the_cpu_out(self, machine):
        recipe = engine_wheel.make_recipe(options("--portable"))
        assert recipe.args == ("-DGGML_NATIVE=OFF",)
        assert recipe.cpu_flags == ""
        assert "portable" in recipe.key

    def test_cmake_args_variable_comes_before_the_command_line(self, machine, monkeypatch):
        monkeypatch.setenv("CMAKE_ARGS", "-D GGML_BLAS=ON '-DCMAKE_CXX_FLAGS=-O2 -g'")
        recipe = engine_wheel.make_recipe(options("--cmake-arg=-DGGML_BLAS=OFF"))
        assert recipe.args == ("-DGGML_BLAS=ON", "-DCMAKE_CXX_FLAGS=-O2 -g", "-DGGML_BLAS=OFF")

    def test_cmake_args_may_choose_the_backend(self, machine, monkeypatch):
        monkeypatch.setenv("CMAKE_ARGS", "-DSD_CUDA=ON")
        recipe = engine_wheel.make_recipe(options())
        assert (recipe.backend, recipe.args) == ("cuda", ("-DSD_CUDA=ON",))

    def test_two_backends_are_an_error_that_names_them(self, machine, monkeypatch, capsys):
        monkeypatch.setenv("CMAKE_ARGS", "-DSD_CUDA:BOOL=1")
        assert engine_wheel.main(["--backend", "vulkan", "--print-key"]) == 1
        assert "several: cuda, vulkan" in capsys.readouterr().err

    def test_sycl_takes_intels_compiler_unless_another_is_named(self, machine):
        assert (
            "-DCMAKE_CXX_COMPILER=icpx"
            in engine_wheel.make_recipe(options("--backend", "sycl")).args
        )
        named = engine_wheel.make_recipe(
            options("--backend", "sycl", "--cmake-arg=-DCMAKE_CXX_COMPILER=clang++")
        )
        assert not any("icpx" in arg for arg in named.args)

    def test_options_may_come_from_a_file(self, machine, tmp_path):
        path = tmp_path / "options.txt"
        path.write_text("--backend\ncuda\n--cmake-arg=-DCMAKE_CUDA_ARCHITECTURES=86;89\n")
        recipe = engine_wheel.make_recipe(options(f"@{path}"))
        assert recipe.args == ("-DSD_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=86;89")


class TestCompiler:
    def fake(self, folder: Path, name: str, version: str) -> str:
        path = folder / name
        path.write_text(f"#!/bin/sh\necho 'fake C++ {version}'\necho 'a licence'\n")
        path.chmod(0o755)
        return str(path)

    def test_identity_is_its_first_line(self, tmp_path):
        for version in ("12.2", "13.1"):
            compiler = self.fake(tmp_path, "mycxx", version)
            assert (
                engine_wheel.compiler_identity("cpu", (), {"CXX": compiler})
                == f"fake C++ {version}; CXX={compiler}"
            )

    def test_cmake_argument_wins_over_the_variable(self, tmp_path):
        named = self.fake(tmp_path, "named", "1")
        args = [f"-DCMAKE_CXX_COMPILER={named}"]
        assert engine_wheel.find_compiler(args, {"CXX": "nothing-like-it"}) == [named]

    def test_flags_belong_to_it(self):
        plain = engine_wheel.compiler_identity("cpu", (), {})
        assert engine_wheel.compiler_identity("cpu", (), {"CXXFLAGS": "-O1"}) != plain

    def test_nvcc_belongs_to_it(self, tmp_path):
        nvcc = self.fake(tmp_path, "nvcc", "13.0")
        args = [f"-DCMAKE_CUDA_COMPILER={nvcc}", "-DCMAKE_CUDA_ARCHITECTURES=86"]
        identity = engine_wheel.compiler_identity("cuda", args, {})
        assert identity.endswith(f"{nvcc}: fake C++ 13.0 a licence")

    def test_none_is_one_line_with_the_remedy(self, monkeypatch, capsys):
        monkeypatch.setenv("CXX", "no-such-compiler")
        assert engine_wheel.main(["--check"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("sdistrib: no C++ compiler found")
        assert "apt install g++" in err
        assert err.count("\n") == 1


class TestProgress:
    @pytest.mark.parametrize(
        ("line", "step"),
        [
            ("  [3/51] /usr/bin/c++ -DX -c a.cpp", (3, 51)),
            ("[182/182] linking", (182, 182)),
            ("[  7%] Building CXX object", (7, 100)),
            ("[100%] Built target", (100, 100)),
            ("-- Installing: [1/2]", None),
            ("warning: index [3/4]", None),
            ("", None),
        ],
    )
    def test_reads_ninja_and_make(self, line, step):
        assert watched.parse_step(line) == step

    def test_plain_lines_at_every_tenth(self):
        out = io.StringIO()
        progress = Progress("engine", out, tty=False, now=0.0)
        for n in range(1, 201):
            progress.feed(f"[{n}/200] c++", now=n / 10)
        lines = out.getvalue().splitlines()
        assert lines[0] == "sdistrib: engine: compiling [1/200] 0%, 0:00"
        assert lines[-1] == "sdistrib: engine: compiling [200/200] 100%, 0:20"
        assert len(lines) == 11

    def test_a_smaller_counter_inside_is_not_the_builds(self):
        progress = Progress("engine", io.StringIO(), tty=False, now=0.0)
        for line in ("[0/2] globs", "[30/300] c++", "[1/5] shaders", "[5/5] shaders"):
            progress.feed(line, now=1.0)
        assert (progress.done, progress.total) == (30, 300)

    def test_two_silent_minutes_get_a_line(self):
        out = io.StringIO()
        progress = Progress("engine", out, tty=False, now=0.0)
        progress.feed("[1/200] nvcc", now=1.0)
        progress.tick(now=120.0)
        assert out.getvalue().count("\n") == 1
        progress.tick(now=121.0)
        assert out.getvalue().endswith("compiling [1/200] 0%, 2:01\n")

    def test_a_terminal_gets_one_line_that_updates(self):
        out = io.StringIO()
        progress = Progress("engine", out, tty=True, now=0.0)
        for n in range(1, 51):
            progress.feed(f"[{n}/50] c++", now=float(n))
        assert "\n" not in out.getvalue()
        assert out.getvalue().count("\r\x1b[K") == 50
        progress.close()
        assert out.getvalue().endswith("\n")


FAKE_PIP = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--wheel-dir") + 1])
state = pathlib.Path(__file__).parent
(state / "seen.json").write_text(json.dumps({"argv": sys.argv[1:], "environ": dict(os.environ)}))
with (state / "runs").open("a") as runs:
    runs.write("x")
print("  [1/2] c++ a.cpp")
folder.mkdir(parents=True)
(folder / "WHEEL").write_text("wheel" + os.environ["CMAKE_ARGS"])
"""


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """A pip that writes a wheel at once; gives its script, to change what it does."""
    script = tmp_path / "fake" / "pip.py"
    script.parent.mkdir()
    script.write_text(FAKE_PIP.replace("WHEEL", WHEEL))
    monkeypatch.setattr(engine_wheel, "pip_command", lambda _: [sys.executable, str(script)])
    monkeypatch.setattr(engine_wheel, "check", lambda _: None)
    return script


class TestBuild:
    def test_prints_the_path_of_a_wheel_in_the_cache(self, machine, fake_pip, tmp_path, capsys):
        assert engine_wheel.main([]) == 0
        wheel = Path(capsys.readouterr().out.removesuffix("\n"))
        assert wheel.read_text() == "wheel"
        folder = wheel.parent
        assert folder.parent == tmp_path / "cache" / "engine"
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            ["build.log", "lock", "recipe.json", WHEEL]
        )
        assert json.loads((folder / "recipe.json").read_text())["backend"] == "cpu"

    def test_compiles_once(self, machine, fake_pip, capsys):
        for words in ([], [], ["--rebuild"], []):
            assert engine_wheel.main(words) == 0
        assert (fake_pip.parent / "runs").read_text() == "xx"
        assert len(set(capsys.readouterr().out.splitlines())) == 1

    def test_options_reach_the_compiler_and_no_cached_wheel_of_pip_does(
        self, machine, fake_pip, monkeypatch
    ):
        monkeypatch.setenv("NINJA_STATUS", "odd")
        monkeypatch.setenv("MAKEFLAGS", "-j9")
        assert engine_wheel.main(["--portable", "--cmake-arg=-DA=b c"]) == 0
        seen = json.loads((fake_pip.parent / "seen.json").read_text())
        assert seen["environ"]["CMAKE_ARGS"] == "-DGGML_NATIVE=OFF '-DA=b c'"
        assert {"NINJA_STATUS", "MAKEFLAGS"}.isdisjoint(seen["environ"])
        assert "--no-cache-dir" in seen["argv"]
        assert seen["argv"][seen["argv"].index("--no-binary") + 1] == engine_wheel.PACKAGE

    def test_wheel_dir_gets_a_copy_and_loses_other_engines(
        self, machine, fake_pip, tmp_path, capsys
    ):
        folder = tmp_path / "wheels"
        folder.mkdir()
        (folder / WHEEL.replace("0.4.7", "0.4.6")).touch()
        (folder / "sdistrib-0.1.0-py3-none-any.whl").touch()
        assert engine_wheel.main(["--wheel-dir", str(folder)]) == 0
        assert capsys.readouterr().out == f"{folder / WHEEL}\n"
        assert sorted(path.name for path in folder.iterdir()) == [
            "sdistrib-0.1.0-py3-none-any.whl",
            WHEEL,
        ]

    def test_failure_shows_its_cause_and_a_remedy_and_leaves_no_wheel(
        self, machine, fake_pip, tmp_path, capsys
    ):
        fake_pip.write_text(
            "print('fine'); print('  FAILED: a.o'); print('c++: Killed signal terminated it')\n"
            "print('note: from a subprocess'); raise SystemExit(1)"
        )
        assert engine_wheel.main([]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "  FAILED: a.o\n" in err
        assert "  fine\n" not in err
        assert "CMAKE_BUILD_PARALLEL_LEVEL=1" in err.splitlines()[-1]
        (folder,) = (tmp_path / "cache" / "engine").iterdir()
        assert sorted(path.name for path in folder.iterdir()) == ["build.log", "lock"]

    def test_clears_what_a_killed_build_left(self, machine, fake_pip):
        folder = engine_wheel.cache_folder(engine_wheel.make_recipe(options()))
        (folder / "tmp-old" / "deep").mkdir(parents=True)
        assert engine_wheel.main([]) == 0
        assert not list(folder.glob("tmp-*"))

    def test_a_second_build_waits_for_the_first(self, tmp_path, capsys):
        path = tmp_path / "lock"
        order = []

        def second():
            with watched.locked(path):
                order.append("second")

        with watched.locked(path):
            thread = threading.Thread(target=second)
            thread.start()
            deadline = time.monotonic() + 10
            while "waiting" not in capsys.readouterr().err and time.monotonic() < deadline:
                time.sleep(0.01)
            order.append("first")
        thread.join(timeout=10)
        assert order == ["first", "second"]


def is_running(pid: int) -> bool:
    """Whether a process lives; one that only waits for its parent's notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.process
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_no_process_and_no_wheel(tmp_path, signum):
    """The fake pip hides a child in a process group of its own, as ninja does."""
    fake = tmp_path / "fake" / "pip"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(
        textwrap.dedent(f"""
            import os, pathlib, subprocess, time
            child = subprocess.Popen(["sleep", "60"], process_group=0)
            pathlib.Path({str(tmp_path)!r}, "new").write_text(str(child.pid))
            os.rename({str(tmp_path / "new")!r}, {str(tmp_path / "pid")!r})
            time.sleep(60)
        """)
    )
    environ = os.environ | {
        "PYTHONPATH": str(fake.parent),
        "CXX": "true",
        "SDISTRIB_CACHE": str(tmp_path / "cache"),
    }
    script = engine_wheel.ROOT / "tools" / "engine_wheel.py"
    build = subprocess.Popen(
        # A test run in the background may have inherited an ignored SIGINT.
        ["env", "--default-signal=INT", sys.executable, str(script)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child = int((tmp_path / "pid").read_text())
    build.send_signal(signum)
    out, err = build.communicate(timeout=20)
    assert (build.returncode, out) == (130, "")
    assert "interrupted" in err
    assert not is_running(child)
    left = [path.name for path in (tmp_path / "cache" / "engine").glob("*/*")]
    assert sorted(left) == ["build.log", "lock"]
