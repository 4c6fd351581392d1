"""Devices that this machine does not have: `python -m tests.support.fake_listing`.

FAKE_DEVICES is JSON: a list of [name, description, kind]; one CPU by default. Vulkan devices obey
GGML_VK_VISIBLE_DEVICES as ggml's do: FAKE_VULKAN is what the driver has.
"""

import json
import os
import sys

from sdistrib_worker.engine.device import Device


def main() -> None:
    """Print what the real listing would."""
    rows = json.loads(os.environ.get("FAKE_DEVICES", '[["CPU", "Some CPU", "cpu"]]'))
    wanted = os.environ.get("GGML_VK_VISIBLE_DEVICES")
    if wanted:
        driver = json.loads(os.environ["FAKE_VULKAN"])
        if int(wanted) >= len(driver):
            sys.exit("ggml_vulkan: Invalid device index")
        rows = [["Vulkan0", driver[int(wanted)], "gpu"]]
    gib = 2**30
    found = [Device(*row, memory_bytes_free=gib, memory_bytes=2 * gib) for row in rows]
    print(json.dumps([device._asdict() for device in found]))


if __name__ == "__main__":
    main()
