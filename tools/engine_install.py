#!/usr/bin/env python3
"""Installs the engine into a Python environment, then draws one tiny picture with it.

An engine that dies of an illegal instruction was compiled for another CPU: it is compiled again,
for this one, and as a last resort for any. Takes the options of engine_wheel.py, and three more:
`--target` the environment's Python (default: this one), `--wheels DIR` to install what
`cmake --build` left there, sdistrib included, `--models DIR` to draw with (default: do not draw).
Standard library only, beside pip.
"""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import draw_once, engine_wheel
from tools.watched import BuildError, catch_signals, tell

CONSTRAINTS = engine_wheel.ROOT / "constraints.txt"


def only(folder: Path, pattern: str) -> Path:
    """The one file of that pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise BuildError(f"{folder} holds {len(found)} files {pattern}: run cmake --build first")
    return found[0]


def candidates(options: argparse.Namespace) -> Iterator[Path]:
    """Engine wheels to try, until one runs on this CPU."""
    recipe = engine_wheel.make_recipe(options)
    given = only(options.wheels, engine_wheel.WHEEL_GLOB) if options.wheels else None
    first = given or engine_wheel.engine_wheel(recipe)
    yield first
    tell("this engine was compiled for another CPU: compiling it for this one")
    own = engine_wheel.engine_wheel(recipe)
    if not filecmp.cmp(first, own, shallow=False):
        yield own
    tell("the compiler and this CPU disagree: compiling the engine for any CPU")
    options.portable = True
    yield engine_wheel.engine_wheel(engine_wheel.make_recipe(options))


def pip_install(target: str, *arguments: str) -> None:
    """Runs our pip on the target's environment, which need not have one."""
    command = [sys.executable, "-m", "pip", "--python", target, "install", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "-c", str(CONSTRAINTS), *arguments]
    if subprocess.run(command, check=False).returncode:
        raise BuildError("pip could not install, for the reason above")


def install(options: argparse.Namespace, engine: Path) -> None:
    """The engine's wheel (and sdistrib's, where there is one) with what they need."""
    wheels = [str(engine)]
    if options.wheels:
        engine = engine_wheel.copy_wheel(engine, options.wheels)
        wheels = [str(engine), str(only(options.wheels, "sdistrib-*.whl"))]
        pip_install(options.target, wheels[0], f"{wheels[1]}[worker]")
    else:
        pip_install(options.target, *wheels)
    # pip leaves an equal version alone, even one of another backend.
    pip_install(options.target, "--no-deps", "--force-reinstall", *wheels)


def draw(options: argparse.Namespace, backend: str) -> int:
    """One picture in the target's environment; gives draw_once's exit code."""
    command = [options.target, str(Path(draw_once.__file__)), "--models", str(options.models)]
    return subprocess.run([*command, "--backend", backend], check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Installs and draws; gives the exit code."""
    parser = engine_wheel.parser()
    parser.prog, parser.description = "engine_install.py", (__doc__ or "").partition("\n")[0]
    parser.add_argument("--target", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--wheels", type=Path, metavar="DIR")
    parser.add_argument("--models", type=Path, metavar="DIR")
    options = parser.parse_args(argv)
    try:
        backend = engine_wheel.make_recipe(options).backend
        for engine in candidates(options):
            install(options, engine)
            code = draw(options, backend) if options.models else draw_once.DRAWN
            if code != draw_once.ILLEGAL_INSTRUCTION:
                return code
        tell("this CPU lacks what even the portable engine needs (AVX2)")
    except BuildError as error:
        tell(str(error))
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    return 1


if __name__ == "__main__":
    catch_signals()
    sys.exit(main())
