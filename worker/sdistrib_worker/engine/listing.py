"""`python -m sdistrib_worker.engine.listing`: what the engine's library sees, as JSON on stdout.

A child of its own, since the library reads each backend's variables once, when it is loaded.
"""

import json
import os


def main() -> None:
    """Print one list of devices; a library that cannot be loaded ends it with its traceback."""
    # The library may print as it likes; the answer has the descriptor to itself.
    answer = os.dup(1)
    os.dup2(2, 1)
    os.environ["GGML_NO_BACKTRACE"] = "1"
    from sdistrib_worker.engine import capi  # noqa: PLC0415 - only now: it loads the library

    os.write(answer, json.dumps([device._asdict() for device in capi.devices()]).encode())
    # What a driver does at exit is no matter of ours, and has crashed before.
    os._exit(0)


if __name__ == "__main__":
    main()
