"""tools/engine_install.py and tools/draw_once.py: an engine for another CPU, and what a child's
end means."""

import signal
import struct
import zlib

import pytest

from tools import draw_once, engine_install, engine_wheel

LOG_CPU = "util.cpp:757 - Using CPU backend\n"
LOG_CUDA = "ggml_extend.hpp:110 - Initializing backend: CUDA0\n"


@pytest.fixture
def png(tmp_path):
    """A whole PNG of one grey pixel."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")):
        body = kind + data
        parts.append(struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body)))
    path = tmp_path / "drawn.png"
    path.write_bytes(b"".join(parts))
    return path


class TestJudge:
    def test_a_picture_on_the_backend_asked_for(self, png):
        code, sentence = draw_once.judge(0, LOG_CPU, png, "cpu")
        assert (code, sentence) == (draw_once.DRAWN, "drew 64x64, 2 steps, on CPU")

    def test_any_backend_when_none_is_asked_for(self, png):
        assert draw_once.judge(0, LOG_CUDA, png, None)[0] == draw_once.DRAWN

    def test_the_engines_silent_fallback_to_the_cpu_is_seen(self, png):
        code, sentence = draw_once.judge(0, LOG_CUDA + LOG_CPU, png, "cuda")
        assert code == draw_once.OTHER_BACKEND
        assert "asked for cuda but the engine drew on CPU" in sentence

    def test_a_log_that_names_no_device_is_no_proof(self, png):
        assert draw_once.judge(0, "", png, "cuda")[0] == draw_once.OTHER_BACKEND

    def test_an_illegal_instruction_has_its_own_code(self, png):
        code, sentence = draw_once.judge(-signal.SIGILL, LOG_CPU, png, "cpu")
        assert code == draw_once.ILLEGAL_INSTRUCTION
        assert "instructions that this CPU does not have" in sentence

    def test_another_death_is_named_with_the_end_of_the_log(self, png):
        code, sentence = draw_once.judge(-signal.SIGSEGV, "last words\n", png, "cpu")
        assert code == draw_once.FAILED
        assert "last words" in sentence
        assert sentence.endswith("the engine died of SIGSEGV")

    def test_half_a_picture_is_none(self, png):
        png.write_bytes(png.read_bytes()[:-4])
        assert draw_once.judge(0, LOG_CPU, png, "cpu")[0] == draw_once.FAILED

    def test_no_picture_is_none(self, tmp_path):
        assert draw_once.judge(0, LOG_CPU, tmp_path / "none.png", "cpu")[0] == draw_once.FAILED


@pytest.fixture
def box(monkeypatch, tmp_path):
    """A machine where `box.ends` says how each drawing ends, and `box.installed` what was tried."""

    class Box:
        def __init__(self):
            self.ends = [draw_once.DRAWN]
            self.installed = []

        def build(self, recipe):
            kind = "portable" if "-DGGML_NATIVE=OFF" in recipe.args else "native"
            path = tmp_path / f"{kind}.whl"
            path.write_bytes(kind.encode())
            return path

        def install(self, _options, engine):
            self.installed.append(engine.name)

        def draw(self, *_):
            return self.ends.pop(0)

    made = Box()
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    monkeypatch.setattr(engine_wheel, "engine_wheel", made.build)
    monkeypatch.setattr(engine_install, "install", made.install)
    monkeypatch.setattr(engine_install, "draw", made.draw)
    return made


class TestInstall:
    def test_draws_once_when_all_is_well(self, box):
        assert engine_install.main(["--models", "models"]) == 0
        assert box.installed == ["native.whl"]

    def test_without_models_nothing_is_drawn(self, box):
        box.ends = []
        assert engine_install.main([]) == 0

    def test_another_failure_is_passed_on_and_nothing_is_rebuilt(self, box):
        box.ends = [draw_once.OTHER_BACKEND]
        assert engine_install.main(["--models", "models"]) == draw_once.OTHER_BACKEND
        assert box.installed == ["native.whl"]

    def test_a_wheel_of_another_cpu_is_compiled_for_this_one(self, box, tmp_path, capsys):
        foreign = tmp_path / "wheels" / "stable_diffusion_cpp_python-0.4.7-x.whl"
        foreign.parent.mkdir()
        foreign.write_bytes(b"foreign")
        box.ends = [draw_once.ILLEGAL_INSTRUCTION, draw_once.DRAWN]
        assert engine_install.main(["--models", "m", "--wheels", str(foreign.parent)]) == 0
        assert box.installed == [foreign.name, "native.whl"]
        assert "compiling it for this one" in capsys.readouterr().err

    def test_the_same_wheel_is_not_tried_twice(self, box):
        box.ends = [draw_once.ILLEGAL_INSTRUCTION, draw_once.DRAWN]
        assert engine_install.main(["--models", "m"]) == 0
        assert box.installed == ["native.whl", "portable.whl"]

    def test_a_cpu_below_the_portable_one_gets_a_sentence(self, box, capsys):
        box.ends = [draw_once.ILLEGAL_INSTRUCTION] * 2
        assert engine_install.main(["--models", "m"]) == 1
        assert "AVX2" in capsys.readouterr().err.splitlines()[-1]

    def test_wheels_that_are_not_there_get_a_sentence(self, box, tmp_path, capsys):
        assert engine_install.main(["--wheels", str(tmp_path)]) == 1
        assert "run cmake --build first" in capsys.readouterr().err
