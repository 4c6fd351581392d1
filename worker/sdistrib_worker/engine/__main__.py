"""The engine child: `python -m sdistrib_worker.engine FD [--device D]`, started by the supervisor.

FD is the inherited end of the socketpair that frames travel on. Stdout is joined to stderr, which
the supervisor reads as log lines.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import sys
from pathlib import Path

from sdistrib.protocol.engine import Declined
from sdistrib_worker.engine.base import DeviceError, Engine
from sdistrib_worker.engine.child import EXIT_REFUSED, EXIT_WORKER_GONE, Inbox, Link, serve

_PR_SET_PDEATHSIG = 1
#: When memory runs out, the kernel shall take this process and not its worker; 1000 is the most.
_OOM_SCORE = "500"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sdistrib_worker.engine")
    parser.add_argument("fd", type=int, help="number of the inherited socket")
    parser.add_argument("--device", default="auto", help="device that the engine must run on")
    arguments = parser.parse_args()
    _guard()
    sock = socket.socket(fileno=arguments.fd)
    # A debugger or anything else that the engine may start must not keep the socket open.
    sock.set_inheritable(False)
    link = Link(sock)
    inbox = Inbox(sock, link)
    try:
        engine = _engine(arguments.device, link)
    except DeviceError as error:
        link.send(Declined(ticket=0, code="unsupported", message=str(error), loading=True))
        os._exit(EXIT_REFUSED)
    serve(link, inbox, engine)


def _guard() -> None:
    """Die with the worker and by nobody's whim, and say why when dying of the engine."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):  # no /proc in some containers: then it stays as it is
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    if os.getppid() != parent:  # it died before the signal was ordered
        os._exit(EXIT_WORKER_GONE)
    # Ctrl-C and a service manager's stop reach the whole group; what to do about it, the worker
    # decides: it finishes the image first. Its end closes the socket, and that ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["GGML_NO_BACKTRACE"] = "1"  # else an abort starts a debugger and hangs in it
    os.dup2(2, 1)
    faulthandler.enable(all_threads=False)


def _engine(device: str, link: Link) -> Engine:
    try:
        # Only now: the library is large, and where it is missing the supervisor must be told.
        from sdistrib_worker.engine.sdcpp import SdCpp  # noqa: PLC0415
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            f"The engine cannot be loaded here: {error}. Install it with"
            " `pip install 'sdistrib[worker]'`, or with cmake for a GPU."
        ) from error
    return SdCpp(device, link)


if __name__ == "__main__":
    main()
