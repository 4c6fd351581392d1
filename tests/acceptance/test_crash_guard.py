"""The real engine child under everything that kills it, and what must hold when nothing does."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdistrib.errors import ConfigError
from sdistrib.protocol.engine import At, Declined
from sdistrib_worker.supervisor import (
    Died,
    EngineChild,
    Picture,
    device_environment,
    engine_command,
)
from tests.support.engines import (
    PYTHONPATH,
    ROOT,
    Outcome,
    died,
    outcome,
    receive_until,
    request,
    running,
)

pytestmark = pytest.mark.engine

FLUX = {
    "diffusion_model": "diffusion/tiny-flux.safetensors",
    "vae": "vae/tiny-vae.safetensors",
}
NARROW = {
    "diffusion_model": "diffusion/tiny-dit.safetensors",
    "llm": "clip/abort.safetensors",
    "vae": "vae/tiny-vae.safetensors",
}


def split(files: dict[str, str]) -> dict[str, Any]:
    """Wishes and files of a model in parts."""
    return {"files": files, "context": repr(files), "model": "", **dict.fromkeys(files, "some")}


DEADLY: dict[str, tuple[dict[str, Any], str, str]] = {
    "flux-without-text-encoders": (split(FLUX), "SIGSEGV", "while sampling"),
    "wan-of-one-block": (
        {"context": "wan", "files": {"model": "stable-diffusion/abort-in-load.safetensors"}},
        "SIGABRT",
        "while loading",
    ),
    "text-encoder-too-narrow": (split(NARROW), "SIGABRT", "while sampling"),
    "lora-too-wide": ({"loras": [("abort.safetensors", 1.0)]}, "SIGABRT", "while sampling"),
}
#: Not a VAE file that is readable as such: the engine finds the VAE in the checkpoint as well.
BAD_FILES = [
    (field, name)
    for field in ("model", "vae", "taesd", "upscale_model", "hires_upscaler")
    for name in ("corrupt", "truncated", "empty", "wrong-architecture")
    if field != "vae" or name in ("corrupt", "empty")
]


@pytest.fixture
def child() -> Iterator[EngineChild]:
    with running() as child:
        yield child


@pytest.fixture(scope="module")
def survivor() -> Iterator[EngineChild]:
    """One child that goes through all the bad files."""
    with running() as child:
        yield child


@pytest.fixture(scope="module")
def base(models_dir: Path) -> bytes:
    """Pixels of the plain small image."""
    with running() as child:
        return outcome(child, request(models_dir)).pixels


@pytest.mark.parametrize("cause", DEADLY)
def test_a_real_death_is_named_and_the_next_child_draws(
    cause: str, child: EngineChild, models_dir: Path, base: bytes
) -> None:
    wishes, name, where = DEADLY[cause]
    result = outcome(child, request(models_dir, **wishes))
    assert isinstance(result.end, Died)
    assert result.end.signal_name == name
    assert result.end.was_ready
    assert not result.end.ours
    info = result.end.info
    assert (info.code, info.signal) == ("engine_crashed", name)
    assert name in info.message
    assert where in info.message
    assert any("Fatal Python error" in line for line in info.log_tail)
    if name == "SIGABRT":
        assert any("GGML_ASSERT" in line or "invalid num_layers" in line for line in info.log_tail)
    with running() as fresh:
        assert outcome(fresh, request(models_dir)).pixels == base


def test_the_image_before_a_real_segfault_is_whole(
    child: EngineChild, models_dir: Path, base: bytes
) -> None:
    child.send(request(models_dir))
    child.send(request(models_dir, **split(FLUX)))
    events = receive_until(child, lambda event: isinstance(event, Picture))
    (picture,) = [event for event in events if isinstance(event, Picture)]
    if child.filenos():
        assert died(child).signal_name == "SIGSEGV"
    assert picture.pixels() == base


@pytest.mark.parametrize(("field", "name"), BAD_FILES)
def test_a_bad_file_is_declined_and_the_same_child_draws_on(
    field: str, name: str, survivor: EngineChild, models_dir: Path, base: bytes
) -> None:
    files = {field: f"stable-diffusion/{name}.safetensors"}
    wishes: dict[str, Any] = {field: "bad"}
    if field == "hires_upscaler":
        wishes |= {"hires": True, "taesd": "good"}
        files |= {"taesd": "taesd/tiny-taesd.safetensors"}
    result = outcome(survivor, request(models_dir, context="bad", files=files, **wishes))
    assert isinstance(result.end, Declined), result.end
    assert result.end.code == "engine_error"
    assert result.end.message.startswith("The engine ")
    if field != "hires_upscaler":  # the engine reads that one after its first pass
        assert "sampling" not in {at.phase for at in result.of(At)}
    assert str(models_dir) not in result.end.message
    assert outcome(survivor, request(models_dir)).pixels == base


def test_a_lora_that_cannot_be_read_is_no_picture_without_it(
    child: EngineChild, models_dir: Path, base: bytes
) -> None:
    bad = request(models_dir, loras=[("../stable-diffusion/corrupt.safetensors", 1.0)])
    result = outcome(child, bad)
    assert isinstance(result.end, Declined)
    assert result.end.code == "engine_error"
    assert "corrupt.safetensors" in result.end.message
    assert outcome(child, request(models_dir)).pixels == base


def test_a_rule_that_cannot_be_read_is_no_picture_without_it(
    child: EngineChild, models_dir: Path
) -> None:
    result = outcome(child, request(models_dir, context="rule", tensor_type_rules="model=q99"))
    assert isinstance(result.end, Declined)
    assert (result.end.code, result.end.loading) == ("invalid_params", True)
    assert "model=q99" in result.end.message


def test_a_picture_too_large_to_send_is_declined_before_it_is_drawn(
    child: EngineChild, models_dir: Path
) -> None:
    files = {"upscale_model": "esrgan/tiny-x2.safetensors"}
    wishes: dict[str, Any] = {"upscale_model": "x2", "upscale_repeats": 4}
    result = outcome(child, request(models_dir, files=files, width=1024, height=1024, **wishes))
    assert isinstance(result.end, Declined)
    assert result.end.code == "too_large"
    assert {at.phase for at in result.of(At)} == {"loading"}


# --- memory ---------------------------------------------------------------------------------


def _limit_addresses(pid: int, spare_bytes: int) -> None:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare_bytes
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))


def _error(result: Outcome) -> str:
    end = result.end
    assert isinstance(end, Declined | Died), end
    return end.code if isinstance(end, Declined) else end.info.code


@pytest.mark.parametrize("spare_mib", [8, 40, 200])
def test_an_engine_without_memory_says_so(
    spare_mib: int, child: EngineChild, models_dir: Path
) -> None:
    outcome(child, request(models_dir))
    _limit_addresses(child.pid, spare_mib * 2**20)
    result = outcome(child, request(models_dir, width=512, height=512, steps=1))
    assert _error(result) == "out_of_memory"


def test_a_child_that_survived_its_lack_of_memory_draws_on(
    child: EngineChild, models_dir: Path, base: bytes
) -> None:
    outcome(child, request(models_dir))
    _limit_addresses(child.pid, 200 * 2**20)
    result = outcome(child, request(models_dir, width=512, height=512, steps=1))
    assert isinstance(result.end, Declined)
    assert outcome(child, request(models_dir)).pixels == base


@pytest.fixture
def kill_by_kernel() -> Iterator[Callable[[int], bool]]:
    """Puts a process under a memory limit that the kernel enforces; False where it may not."""
    made: list[Path] = []

    def confine(pid: int) -> bool:
        for root, file in (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ):
            group = Path(root, f"sdistrib-test-{os.getpid()}")
            try:
                group.mkdir()
                made.append(group)
                (group / file).write_text("60000000")
                (group / "cgroup.procs").write_text(str(pid))
            except OSError:
                continue
            return True
        return False

    yield confine
    for group in made:
        group.rmdir()


def test_a_kill_by_the_kernel_for_memory_is_told_apart(
    child: EngineChild,
    models_dir: Path,
    kill_by_kernel: Callable[[int], bool],
    record_property: Callable[[str, object], None],
) -> None:
    outcome(child, request(models_dir))
    killed = kill_by_kernel(child.pid)
    record_property("means", "memory cgroup" if killed else "RLIMIT_AS: no cgroup may be made here")
    if not killed:
        _limit_addresses(child.pid, 8 * 2**20)
    result = outcome(child, request(models_dir, width=512, height=512, steps=1))
    assert _error(result) == "out_of_memory"
    if killed:
        assert isinstance(result.end, Died)
        assert result.end.signal_name == "SIGKILL"
        assert "out-of-memory killer" in result.end.info.message
        assert not result.end.ours


def test_the_kernel_would_take_the_child_and_not_its_worker(child: EngineChild) -> None:
    score = int(Path(f"/proc/{child.pid}/oom_score_adj").read_text())
    assert score > int(Path("/proc/self/oom_score_adj").read_text())


def _descriptors(pid: int) -> list[str]:
    """What a child has open, but for the last picture, which it may be about to close."""
    entries = Path(f"/proc/{pid}/fd").iterdir()
    links = [str(entry.readlink()) for entry in entries if entry.is_symlink()]
    pictures = [link for link in links if "memfd:" in link]
    assert len(pictures) <= 1
    return sorted(link for link in links if link not in pictures)


@pytest.mark.timeout(240)
def test_a_hundred_images_leave_nothing_behind(models_dir: Path) -> None:
    probe = (sys.executable, "-m", "tests.support.engine_probe", "{fd}", "--heap")
    heap: list[int] = []
    with running(probe) as child:
        for seed in range(100):
            result = outcome(child, request(models_dir, seed=seed, steps=1))
            assert result.picture is not None
            heap.append(int(re.findall(r"generate_image\", (\d+)", result.log)[-1]))
            if seed == 20:
                before = _descriptors(child.pid)
        assert _descriptors(child.pid) == before
    leaked_if_never_freed = 79 * 32 * 32 * 3
    assert heap[99] - heap[20] < leaked_if_never_freed / 4


# --- what is drawn --------------------------------------------------------------------------


def test_an_image_is_the_same_after_a_lora_as_before(
    child: EngineChild, models_dir: Path, base: bytes
) -> None:
    styled = request(models_dir, loras=[("tiny-style.safetensors", 1.0)])
    with_lora = outcome(child, styled)
    assert with_lora.pixels != base
    after = outcome(child, request(models_dir))
    assert after.pixels == base
    assert after.picture is not None
    assert after.picture.drawn.load_s == 0.0


@pytest.mark.parametrize("mode", ["auto", "immediately"])
def test_merged_loras_do_not_drift_into_later_images(
    mode: str, child: EngineChild, models_dir: Path, base: bytes
) -> None:
    wishes: dict[str, Any] = {"context": mode, "lora_apply_mode": mode}
    loras = [("tiny-style.safetensors", 1.0)]
    styled = outcome(child, request(models_dir, loras=loras, **wishes)).pixels
    assert outcome(child, request(models_dir, **wishes)).pixels == base
    again = outcome(child, request(models_dir, loras=loras, **wishes))
    assert again.pixels == styled != base
    kept = outcome(child, request(models_dir, loras=loras, **wishes))
    assert kept.pixels == styled
    assert kept.picture is not None
    assert kept.picture.drawn.load_s == 0.0


def test_an_upscaler_that_looks_at_pixels_brings_the_encoder(
    child: EngineChild, models_dir: Path
) -> None:
    taesd = {"taesd": "taesd/tiny-taesd.safetensors"}
    wishes: dict[str, Any] = {"context": "taesd", "taesd": "x"}
    plain = outcome(child, request(models_dir, files=taesd, **wishes))
    hires = wishes | {"hires": True, "hires_upscaler": "Lanczos", "hires_width": 48}
    enlarged = outcome(child, request(models_dir, files=taesd, **hires))
    assert enlarged.picture is not None, enlarged.end
    assert (enlarged.picture.drawn.width, enlarged.picture.drawn.height) == (48, 48)
    assert enlarged.picture.drawn.load_s > 0, "it was loaded without the encoder"
    again = outcome(child, request(models_dir, files=taesd, **wishes))
    assert again.picture is not None
    assert again.picture.drawn.load_s == 0.0, "a context with the encoder does for both"
    assert again.pixels == plain.pixels


def test_a_size_that_the_model_rounds_up_is_told(child: EngineChild, models_dir: Path) -> None:
    result = outcome(child, request(models_dir, hires=True, hires_scale=1.3))
    assert result.picture is not None
    drawn = result.picture.drawn
    assert (drawn.width, drawn.height) == (48, 48)
    assert any("42x42" in note and "48x48" in note for note in drawn.notes)


def test_a_wish_without_effect_is_told(child: EngineChild, models_dir: Path) -> None:
    result = outcome(child, request(models_dir, timestep_shift=250, cache_mode="ucache"))
    assert result.picture is not None
    notes = " ".join(result.picture.drawn.notes)
    assert "--timestep-shift has no effect" in notes
    assert "--cache-mode has no effect" in notes


def test_only_sampling_steps_are_counted(child: EngineChild, models_dir: Path) -> None:
    """LoRAs, tiles and the upscaler report on the sampler's channel too."""
    result = outcome(
        child,
        request(
            models_dir, steps=3, width=64, height=64, vae_tiling=True, vae_tile_size=(4, 4),
            loras=[("tiny-style.safetensors", 1.0)], upscale_model="x2", upscale_tile_size=16,
            files={"upscale_model": "esrgan/tiny-x2.safetensors"},
        ),
    )  # fmt: skip
    places = [(at.phase, at.step, at.steps) for at in result.of(At)]
    assert [place for place in places if place[2]] == [("sampling", n, 3) for n in range(4)]
    phases = list(dict.fromkeys(phase for phase, _, _ in places))
    assert phases == ["loading", "encoding", "sampling", "decoding", "upscaling"]


def test_the_prompt_is_in_no_log_line_above_debug(child: EngineChild, models_dir: Path) -> None:
    secrets: dict[str, Any] = {"prompt": "xyzzy", "negative_prompt": "plugh", "cfg_scale": 7.0}
    result = outcome(child, request(models_dir, **secrets))
    assert "xyzzy" in result.log
    for line in result.log.splitlines():
        assert line.startswith("0 ") or ("xyzzy" not in line and "plugh" not in line)


ALIKE: list[dict[str, Any]] = [
    {},
    {"negative_prompt": "deep fried", "cfg_scale": 7.0, "steps": 4},
    {"sampling_method": "euler_a", "scheduler": "karras", "cfg_scale": 2.5},
    {"vae_tiling": True, "vae_tile_size": (4, 4), "width": 64},
    {"slg_scale": 2.0, "skip_layers": (0,), "skip_layer_end": 1.0, "steps": 4},
]
#: Our name of a parameter, where the binding's differs.
THEIRS = {"sampling_method": "sample_method", "steps": "sample_steps"}


@pytest.mark.parametrize("wishes", ALIKE, ids=lambda wishes: "-".join(wishes) or "plain")
def test_pictures_equal_those_of_the_bare_binding(
    wishes: dict[str, Any], child: EngineChild, models_dir: Path
) -> None:
    plain = {"prompt": "a cat", "width": 32, "height": 32, "steps": 2, "cfg_scale": 1.0} | wishes
    theirs = {THEIRS.get(name, name): value for name, value in plain.items()}
    if "vae_tile_size" in theirs:
        theirs["vae_tile_size"] = "{}x{}".format(*theirs["vae_tile_size"])
    seeds = [11, 12, 13, 14]
    done = subprocess.run(
        [
            sys.executable, ROOT / "tests/support/bare_engine.py",
            models_dir / "stable-diffusion/tiny.safetensors", *map(str, seeds),
        ],
        input=json.dumps(theirs),
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    bare = [line for line in done.stdout.splitlines() if re.fullmatch("[0-9a-f]{1000,}", line)]
    ours = [outcome(child, request(models_dir, seed=seed, **wishes)).pixels.hex() for seed in seeds]
    assert len(set(ours)) == len(seeds)
    assert ours == bare


# --- devices --------------------------------------------------------------------------------


def test_the_cpu_is_got_when_asked_for() -> None:
    environment = device_environment("cpu", os.environ)
    with running(engine_command("cpu"), environment) as child:
        assert child.ready is not None
        assert child.ready.facts.backend == "cpu"


def test_a_device_that_is_not_there_is_a_reason_not_to_start() -> None:
    environment = {"PYTHONPATH": PYTHONPATH, **device_environment("cuda7", os.environ)}
    child = EngineChild(engine_command("cuda7"), environment)
    child.start()
    with pytest.raises(ConfigError, match="Asked for cuda7") as raised:
        child.await_ready()
    assert "SD_CUDA=ON" in str(raised.value)
    assert child.filenos() == ()
