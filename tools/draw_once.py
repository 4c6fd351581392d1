#!/usr/bin/env python3
"""Draws one tiny picture with the installed engine and says on which backend: does it work here?

The engine runs in a child process, so that a signal that ends it becomes an exit code and a
sentence. The tiny model is made first if it is not there (that needs numpy).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What ggml calls the first device of each backend, its number left out.
DEVICES = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "vulkan": "Vulkan",
    "sycl": "SYCL",
    "hipblas": "ROCm",
    "metal": "MTL",
}
SIDE_PX, STEPS, SEED = 64, 2, 42

DRAWN, FAILED, OTHER_BACKEND, ILLEGAL_INSTRUCTION = 0, 1, 3, 4


def draw(model: Path, output: Path) -> None:
    """In the child: loads, draws, writes, and leaves without the engine's own clean-up."""
    import stable_diffusion_cpp as engine  # noqa: PLC0415 - loading it may end the process

    @engine.sd_log_callback  # type: ignore[untyped-decorator]
    def log(_level: int, text: bytes, _data: ctypes.c_void_p) -> None:
        sys.stderr.buffer.write(text)

    engine.sd_set_log_callback(log, None)
    # verbose=False would redirect the whole process's stdout and stderr.
    made = engine.StableDiffusion(model_path=str(model), vae_decode_only=True, verbose=True)
    engine.sd_set_log_callback(log, None)  # the constructor installed its own
    # A model that does not load gives a null pointer, which the binding's destructor would free.
    if made._model.model:  # noqa: SLF001 - the binding has no public way to ask
        images = made.generate_image(
            prompt="a house on a beach",
            width=SIDE_PX,
            height=SIDE_PX,
            sample_steps=STEPS,
            cfg_scale=1.0,
            seed=SEED,
        )
        images[0].convert("RGB").save(output)
    sys.stderr.flush()
    os._exit(DRAWN if output.exists() else FAILED)


def device_used(log: str) -> str:
    """The device the engine's log says it runs on, empty when it does not say."""
    if "Using CPU backend" in log:
        return "CPU"
    named = re.findall(r"Initializing backend: (\S+)", log)
    return named[-1] if named else ""


def is_png(path: Path) -> bool:
    """Whether a whole PNG was written."""
    data = path.read_bytes() if path.exists() else b""
    return data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")


def judge(returncode: int, log: str, output: Path, backend: str | None) -> tuple[int, str]:
    """The exit code and the sentence for what the child did."""
    device = device_used(log)
    last = "\n".join(f"  {line[:200]}" for line in log.splitlines()[-12:])
    if returncode == -signal.SIGILL:
        return ILLEGAL_INSTRUCTION, "the engine uses instructions that this CPU does not have"
    if returncode < 0:
        return FAILED, f"{last}\nthe engine died of {signal.Signals(-returncode).name}"
    if returncode or not is_png(output):
        return FAILED, f"{last}\nthe engine drew nothing (exit code {returncode})"
    if backend and not device.startswith(DEVICES[backend]):
        return OTHER_BACKEND, (
            f"asked for {backend} but the engine drew on {device or 'an unnamed device'}: "
            "is the card visible and its driver loaded?"
        )
    return DRAWN, f"drew {SIDE_PX}x{SIDE_PX}, {STEPS} steps, on {device}"


def find_model(models: Path) -> Path:
    """The tiny checkpoint, made now if need be."""
    name = "stable-diffusion/tiny.safetensors"
    if not (models / name).exists():
        maker = [sys.executable, "-m", "tools.tiny_models", str(models), "--only", name]
        subprocess.run(maker, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    return models / name


def run_child(model: Path, output: Path, timeout_s: float) -> tuple[int, str]:
    """Draws in a child; gives its return code and everything it said."""
    command = [sys.executable, __file__, "--child", str(model), "--output", str(output)]
    environ = os.environ | {"GGML_NO_BACKTRACE": "1"}  # an abort must not start a debugger
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
        return FAILED, f"{said}\nno picture after {timeout_s:.0f} s"
    return done.returncode, done.stdout.decode(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws and tells; gives one of the exit codes above."""
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="draw_once.py", description=summary)
    parser.add_argument("--models", type=Path, default=ROOT / "models", metavar="DIR")
    parser.add_argument("--backend", choices=list(DEVICES), help="fail if it draws on another one")
    parser.add_argument("--output", type=Path, metavar="PNG", help="default: not kept")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        draw(options.child, options.output)
    with tempfile.TemporaryDirectory(prefix="sdistrib-") as scratch:
        output = (options.output or Path(scratch, "drawn.png")).absolute()
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        started = time.monotonic()
        model = find_model(options.models.absolute())
        returncode, log = run_child(model, output, options.timeout)
        code, sentence = judge(returncode, log, output, options.backend)
    where = f", {time.monotonic() - started:.1f} s" if code == DRAWN else ""
    where += f": {options.output}" if code == DRAWN and options.output else ""
    print(f"sdistrib: {sentence}{where}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
