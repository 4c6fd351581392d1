"""Entry point of `sdistrib-worker`."""

import importlib.util
import sys

from sdistrib.errors import EXIT_USAGE

#: What the extra brings: module and what it is.
_NEEDED = {"PIL": "Pillow", "stable_diffusion_cpp": "the engine, stable-diffusion-cpp-python"}


def main() -> None:
    """Run the command, if what it needs is installed."""
    lacking = [what for module, what in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if lacking:
        sys.stderr.write(
            f"sdistrib-worker: {' and '.join(lacking)} not installed;"
            " run pip install 'sdistrib[worker]'\n"
        )
        sys.exit(EXIT_USAGE)
    # Only now: the command needs what was looked for.
    from sdistrib_worker.cli import command  # noqa: PLC0415

    command()


if __name__ == "__main__":
    main()
