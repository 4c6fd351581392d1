"""Two machines as far as the network is concerned: namespaces of our own, joined by one cable.

`python -m tests.support.two_networks PID MODULE …` becomes a program on the machine that PID holds.
No rights are needed where a user may make namespaces. A packet that is lost here is lost for the
kernel's TCP, which a proxy between two connections cannot show.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

#: up: what *there* sends is lost; down: what *here* sends; unplugged: the cable's end is down.
Cut = Literal["up", "down", "unplugged"]

ADDRESSES = {"here": "10.99.0.1", "there": "10.99.0.2"}
#: Where frames go that shall reach nobody.
_NOBODY = "02:00:00:00:00:99"
#: Ends with 0 where all of this is allowed.
PROBE = ("unshare", "-rUn", "ip", "link", "add", "cable", "type", "veth")


class TwoNetworks:
    """The machines *here*, with 10.99.0.1, and *there*, with 10.99.0.2."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[str]] = {}

    def open(self) -> None:
        """Make both and the cable."""
        self._hold("here", "unshare", "-rUn")
        # In the same user namespace, so that who may use one may use the other.
        self._hold("there", *_enter(self.pid("here")), "unshare", "-n")
        self._ip("here", "link", "add", "cable", "type", "veth", "peer", "name", "cable",
                 "netns", str(self.pid("there")))  # fmt: skip
        for side, address in ADDRESSES.items():
            self._ip(side, "addr", "add", f"{address}/24", "dev", "cable")
            for name in ("lo", "cable"):
                self._ip(side, "link", "set", name, "up")

    def close(self) -> None:
        """End both; the cable goes with them."""
        for holder in reversed(self._holders.values()):
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.close()
            holder.wait(10)
            holder.stdout.close()

    def pid(self, side: str) -> int:
        """The process that holds a machine."""
        return self._holders[side].pid

    def cut(self, how: Cut) -> None:
        """Lose all packets of one side, or pull the cable."""
        if how == "unplugged":
            self._ip("there", "link", "set", "cable", "down")
        else:
            sender, receiver = self._ends(how)
            self._ip(sender, "neigh", "replace", receiver, "lladdr", _NOBODY,
                     "nud", "permanent", "dev", "cable")  # fmt: skip

    def heal(self, how: Cut) -> None:
        """Take a cut back."""
        if how == "unplugged":
            self._ip("there", "link", "set", "cable", "up")
        else:
            sender, receiver = self._ends(how)
            self._ip(sender, "neigh", "del", receiver, "dev", "cable")

    @staticmethod
    def _ends(way: Cut) -> tuple[str, str]:
        """Who sends, and the address of who receives."""
        sender, receiver = ("there", "here") if way == "up" else ("here", "there")
        return sender, ADDRESSES[receiver]

    def _hold(self, side: str, *how: str) -> None:
        holder = subprocess.Popen(
            [*how, "sh", "-c", "echo held && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._holders[side] = holder
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

    def _ip(self, side: str, *words: str) -> None:
        subprocess.run([*_enter(self.pid(side)), "ip", *words], check=True)


def _enter(pid: int) -> tuple[str, ...]:
    return ("nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials")


@contextmanager
def two_networks() -> Iterator[TwoNetworks]:
    """Two machines for one test."""
    made = TwoNetworks()
    try:
        made.open()
        yield made
    finally:
        made.close()


def main() -> None:
    """Become the program."""
    pid, *module = sys.argv[1:]
    command = [*_enter(int(pid)), sys.executable, "-m", *module]
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
