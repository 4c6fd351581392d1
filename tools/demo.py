"""`make demo`: a manager, two workers and a client on this machine draw four pictures.

Everything runs as real processes on loopback, on free ports, and is gone when this ends, however it
ends.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "demo" / "output.png"
MODELS = ROOT / "models"
PROMPT = "a lighthouse on a cliff, evening light"
#: The manager says where it listens within this time, or something is wrong.
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0

_LISTENING = re.compile(r"clients (\S+:\d+), workers (\S+:\d+)")


def main() -> int:
    """Run the demo; its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        with contextlib.ExitStack() as processes:
            return _draw(processes)
    except KeyboardInterrupt:
        print("demo: interrupted; everything is stopped.", file=sys.stderr)
        return 130


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _draw(processes: contextlib.ExitStack) -> int:
    manager = processes.enter_context(
        _process("manager", "--client-port", "0", "--worker-port", "0", "--store", "memory")
    )
    clients, workers = _addresses(manager)
    for name in ("box1", "box2"):
        command = (workers, str(MODELS), "--name", name, "--threads", "1")
        processes.enter_context(_process("worker", *command, echo=name))
    client = [
        *_command("client"),
        clients, "-m", "tiny", "-p", PROMPT, "-b", "4", "--steps", "8", "--cfg-scale", "1",
        "-W", "128", "-H", "128", "-s", "42", "--timeout", "300", "-o", str(OUTPUT),
    ]  # fmt: skip
    print(f"\n$ {_shown(client)}\n", flush=True)
    status = subprocess.run(client, check=False, stdin=subprocess.DEVNULL).returncode
    if status == 0:
        _what_next()
    else:
        print(f"demo: the client ended with exit status {status}; see above.", file=sys.stderr)
    return status


def _command(role: str) -> list[str]:
    return [sys.executable, "-m", f"sdistrib_{role}"]


def _shown(command: list[str]) -> str:
    role = command[2].removeprefix("sdistrib_")
    return f"sdistrib-{role} {shlex.join(command[3:])}"


@contextlib.contextmanager
def _process(role: str, *arguments: str, echo: str = "") -> Iterator[subprocess.Popen[str]]:
    """One program, its standard error shown line by line; ended with the block."""
    command = _command(role) + list(arguments)
    print(f"$ {_shown(command)}", flush=True)
    # A session of its own: Ctrl-C in the terminal reaches this script alone, which then stops all.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        if echo:
            threading.Thread(target=_echo, args=(process, echo), daemon=True).start()
        yield process
    finally:
        _end(process)


def _echo(process: subprocess.Popen[str], name: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        print(f"  [{name}] {line}", end="", file=sys.stderr, flush=True)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _addresses(manager: subprocess.Popen[str]) -> tuple[str, str]:
    """Where the manager listens, from the line that it prints for this purpose."""
    assert manager.stderr is not None
    watchdog = threading.Timer(START_TIMEOUT_S, manager.kill)
    watchdog.start()
    try:
        for line in manager.stderr:
            print(f"  [manager] {line}", end="", file=sys.stderr, flush=True)
            if found := _LISTENING.search(line):
                threading.Thread(target=_echo, args=(manager, "manager"), daemon=True).start()
                return found[1], found[2]
    finally:
        watchdog.cancel()
    raise SystemExit("demo: the manager did not start; see above.")


def _what_next() -> None:
    pictures = sorted(OUTPUT.parent.glob("output_*.png"))
    print("\nDrawn by two workers:")
    for picture in pictures:
        print(f"  {picture.relative_to(ROOT)}")
    print(
        "\nThe model is a tiny one with random weights, so the pictures are only clouds. With your"
        " own models:\n"
        "  .venv/bin/sdistrib-manager &\n"
        "  .venv/bin/sdistrib-worker 127.0.0.1 PATH/TO/A1111/models &\n"
        '  .venv/bin/sdistrib-client 127.0.0.1 -m MODEL -p "a house on the beach" -o output.png'
    )


if __name__ == "__main__":
    sys.exit(main())
