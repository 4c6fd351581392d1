"""`python -m tools.tiny_models models/`"""

import argparse
from pathlib import Path

from tools.tiny_models.tree import make_tree


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.tiny_models",
        description="Writes an A1111-style tree of tiny models that the engine draws with.",
    )
    parser.add_argument(
        "root", type=Path, help="the models folder, made if missing, for example models/"
    )
    parser.add_argument(
        "--bad", action="store_true", help="add files that the engine refuses or crashes on"
    )
    parser.add_argument(
        "--sd15",
        action="store_true",
        help="add SD1.5 at full size: 108 MB on disk, 2.1 GB of memory to draw with",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="FILE",
        help="write these files only, for example vae/tiny-vae.safetensors",
    )
    parser.add_argument(
        "--force", action="store_true", help="write also the files that are there already"
    )
    arguments = parser.parse_args()
    try:
        written = make_tree(**vars(arguments))
    except ValueError as error:
        parser.error(str(error))
    for path in written:
        print(f"{path.stat().st_size:>11,}  {path}")
    if not written:
        print(f"{arguments.root}: nothing to do")


if __name__ == "__main__":
    main()
