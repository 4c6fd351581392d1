"""Tests that need more than some machines allow: namespaces, a look into other processes.

Where the tool is missing the skip is as any other, and a failure in CI, which installs the tools.
Where the kernel says no, nobody can do anything about it, and the skip stays one.
"""

import shutil
import subprocess
from collections.abc import Sequence

import pytest

#: A skip whose reason begins so is no failure, whatever else is asked for.
NOT_ALLOWED = "this machine does not allow it: "


def needs(what: str, command: Sequence[str], package: str) -> pytest.MarkDecorator:
    """Skip a test where a harmless command shows that it cannot run.

    Args:
        what: what the kernel does not allow when `command` fails.
        command: ends with 0 where the test can run.
        package: the Debian package of the command.
    """
    tool = command[0]
    if shutil.which(tool) is None:
        return pytest.mark.skip(reason=f"{tool} is not installed: apt install {package}")
    tried = subprocess.run(command, capture_output=True, check=False)
    return pytest.mark.skipif(tried.returncode != 0, reason=NOT_ALLOWED + what)
