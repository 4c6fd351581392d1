"""Links that break, processes that stand still, clocks that jump: nothing is lost or drawn twice.

Real processes on the scripted engine; what engines did is read from the log that they all share.
"""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Process, wait_for
from tests.support.proxy import Way, link
from tests.support.rights import needs
from tests.support.two_networks import ADDRESSES, PROBE, Cut, TwoNetworks, two_networks

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

#: Longer than a worker needs to become suspect (3 s), shorter than it takes to be gone (30 s).
_CUT_S = 5.0
_FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class Farm(Cluster):
    """A durable manager, and workers whose engines write down what they begin."""

    def __init__(
        self, folder: Path, models: Path, env: dict[str, str] | None = None, *options: str
    ) -> None:
        self._folder, self._models = folder, models
        self._manager_env = env or {}
        super().__init__("--state", str(folder / "state"), *options)

    def start(self, *command: str, env: dict[str, str] | None = None) -> Process:
        more = self._manager_env if command[0] == "sdistrib_manager" else {}
        return super().start(*command, env={**more, **(env or {})})

    def join(
        self, name: str, at: str = "", image_s: float = 0.3, models: Path | None = None
    ) -> Process:
        """Start a worker and wait until the manager knows it."""
        env = {
            "SDISTRIB_SCRIPTED_IMAGE_S": str(image_s),
            "SDISTRIB_SCRIPTED_LOG": str(self._folder / "engines.jsonl"),
        }
        worker = self.start(
            "tests.support.scripted_worker", at or self.workers_at, str(models or self._models),
            "--name", name, env=env,
        )  # fmt: skip
        self.manager.says(f"worker {name} joins")
        return worker

    def petition(self, images: int, *words: str, at: str = "", name: str = "out") -> Process:
        """Start a client; seeds are 0, 1, …"""
        return self.start(
            "sdistrib_client", at or self.clients_at, "-m", "tiny", "-p", "a lighthouse",
            "-W", "64", "-H", "64", "--steps", "4", "-s", "0", "-b", str(images), "--json",
            "-o", str(self._folder / f"{name}_%03d.png"), *words,
        )  # fmt: skip

    def engines(self, event: str = "begun") -> Counter[int]:
        """How often each seed was begun, or drawn."""
        path = self._folder / "engines.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines]
        return Counter(one["seed"] for one in events if one["event"] == event)

    def begun(self, images: int) -> None:
        """Wait until engines have begun so many."""
        wait_for(lambda: len(self.engines()) >= images, f"{images} images to be begun")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def farm(tmp_path: Path, models_dir: Path, stack: ExitStack) -> Farm:
    made = Farm(tmp_path, models_dir)
    stack.callback(made.close)
    return made


def pictures(client: Process) -> list[int]:
    """Indices of the pictures that a client was handed, in order."""
    return [event["index"] for event in client.events if event["event"] == "image"]


def assert_all_once(client: Process, images: int) -> None:
    """The client ended well and was handed each image once."""
    assert client.ends() == 0, client.errors + client.output[-2000:]
    assert sorted(pictures(client)) == list(range(images))


def pass_s(seconds: float) -> None:
    """Let time pass that is itself what the test is about."""
    time.sleep(seconds)


# --- links ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [(), ("up",), ("down",)], ids=["both", "up", "down"])
def test_a_cut_worker_is_waited_for_while_nobody_else_can(
    farm: Farm, stack: ExitStack, ways: tuple[Way, ...]
) -> None:
    wire = stack.enter_context(link(farm.workers_at))
    farm.join("far", wire.address)
    client = farm.petition(8)
    farm.begun(2)
    wire.cut(*ways)
    pass_s(_CUT_S)
    wire.heal()
    assert_all_once(client, 8)
    # What was queued at the worker may have been given out anew; nothing was drawn twice.
    assert set(farm.engines().values()) == {1}
    assert "is gone" not in farm.manager.errors


def test_what_a_cut_worker_has_is_drawn_by_another_and_its_own_is_refused(
    farm: Farm, stack: ExitStack
) -> None:
    wire = stack.enter_context(link(farm.workers_at))
    far = farm.join("far", wire.address, image_s=1.0)
    client = farm.petition(2)
    farm.begun(1)
    wire.cut()
    farm.join("near", image_s=0.1)
    assert_all_once(client, 2)
    wire.heal()
    wait_for(lambda: farm.engines("drawn")[0] == 2, "the cut worker to finish")
    wait_for(lambda: "is back" in farm.manager.errors or "refused" in far.errors, "its return")
    # The one image that it was drawing, and no other, was drawn twice.
    assert farm.engines()[0] == 2
    again = farm.petition(4, "-s", "100", name="again")
    assert_all_once(again, 4)


def test_connections_that_are_torn_again_and_again_cost_nothing(
    farm: Farm, stack: ExitStack
) -> None:
    workers, clients = (stack.enter_context(link(at)) for at in (farm.workers_at, farm.clients_at))
    farm.join("far", workers.address, image_s=0.2)
    client = farm.petition(20, at=clients.address)
    for images in range(2, 20, 3):
        farm.begun(images)
        (workers if images % 2 else clients).tear()
    assert_all_once(client, 20)
    assert max(farm.engines().values()) == 1


@pytest.mark.parametrize("ways", [(), ("up",), ("down",)], ids=["both", "up", "down"])
def test_a_cut_client_gets_everything_and_nothing_twice(
    farm: Farm, stack: ExitStack, ways: tuple[Way, ...]
) -> None:
    wire = stack.enter_context(link(farm.clients_at))
    farm.join("near", image_s=0.2)
    client = farm.petition(12, at=wire.address)
    wait_for(lambda: len(pictures(client)) >= 2, "the first pictures")
    wire.cut(*ways)
    pass_s(_CUT_S)
    # Nobody's work stops for a client that cannot be reached.
    farm.begun(12)
    wire.heal()
    assert_all_once(client, 12)
    assert set(farm.engines().values()) == {1}


class Apart(Farm):
    """A manager with its clients on one machine, workers on another, as far as the network goes."""

    def __init__(self, folder: Path, models: Path, networks: TwoNetworks) -> None:
        self._networks = networks
        super().__init__(folder, models, None, "--bind", "0.0.0.0", "--insecure-lan")  # noqa: S104
        ports = {
            port: getattr(self, port).rpartition(":")[2] for port in ("clients_at", "workers_at")
        }
        self.clients_at = f"127.0.0.1:{ports['clients_at']}"
        self.workers_at = f"{ADDRESSES['here']}:{ports['workers_at']}"

    def start(self, *command: str, env: dict[str, str] | None = None) -> Process:
        away = command[0] == "tests.support.scripted_worker"
        on = str(self._networks.pid("there" if away else "here"))
        more = ("--insecure-lan",) if away else ()
        return super().start("tests.support.two_networks", on, *command, *more, env=env)


@needs("a network namespace", PROBE, "iproute2")
@pytest.mark.parametrize("how", ["up", "down", "unplugged"])
def test_packets_that_are_lost_between_two_machines_cost_nothing(
    tmp_path: Path, models_dir: Path, stack: ExitStack, how: Cut
) -> None:
    networks = stack.enter_context(two_networks())
    farm = Apart(tmp_path, models_dir, networks)
    stack.callback(farm.close)
    worker = farm.join("far")
    client = farm.petition(8)
    farm.begun(2)
    networks.cut(how)
    pass_s(_CUT_S)
    had = len(pictures(client))
    assert had < 8
    networks.heal(how)
    assert_all_once(client, 8)
    assert set(farm.engines().values()) == {1}
    assert "is gone" not in farm.manager.errors
    assert worker.popen.poll() is None


# --- processes that stand still ---------------------------------------------------------------


def test_a_zombies_result_is_taken_while_nobody_else_made_the_image(farm: Farm) -> None:
    worker = farm.join("zombie", image_s=1.0)
    client = farm.petition(2)
    farm.begun(1)
    worker.signals(signal.SIGSTOP)
    # Its engine finishes meanwhile; it is suspect by then, and its images are free for others.
    wait_for(lambda: farm.engines("drawn")[0] == 1, "the engine to finish")
    pass_s(_CUT_S)
    worker.signals(signal.SIGCONT)
    assert_all_once(client, 2)
    assert farm.engines() == {0: 1, 1: 1}


def test_a_zombies_result_is_refused_once_the_image_is_done(farm: Farm, stack: ExitStack) -> None:
    wire = stack.enter_context(link(farm.workers_at))
    zombie = farm.join("zombie", wire.address, image_s=1.0)
    client = farm.petition(1)
    farm.begun(1)
    zombie.signals(signal.SIGSTOP)
    # It must not hear that nobody wants the image any more before it hands it in.
    wire.cut("down")
    farm.join("other", image_s=0.1)
    assert_all_once(client, 1)
    (picture,) = [event for event in client.events if event["event"] == "image"]
    assert picture["worker"] == "other"
    zombie.signals(signal.SIGCONT)
    zombie.says("drawn in")
    wire.heal()
    zombie.says("is refused: the image is done")
    # It is of use again.
    assert_all_once(farm.petition(4, "-s", "100", name="again"), 4)
    assert farm.engines()[0] == 2


def test_a_manager_that_stood_still_blames_nobody(farm: Farm) -> None:
    workers = [farm.join(name, image_s=0.4) for name in ("one", "two")]
    client = farm.petition(20)
    farm.begun(4)
    said = len(farm.manager.errors)
    farm.manager.signals(signal.SIGSTOP)
    pass_s(10.0)
    farm.manager.signals(signal.SIGCONT)
    assert_all_once(client, 20)
    for word in ("is gone", "has disconnected", "joins", "is back"):
        assert word not in farm.manager.errors[said:], farm.manager.errors
    assert set(farm.engines().values()) == {1}
    assert all(worker.popen.poll() is None for worker in workers)


# --- slow links, slow readers -----------------------------------------------------------------


@pytest.mark.parametrize(
    "side", [1600, pytest.param(3200, marks=pytest.mark.slow)], ids=["8 MB", "30 MB"]
)
@pytest.mark.parametrize("slow", ["worker", "client"])
def test_a_large_picture_on_a_slow_link_holds_up_nobody(
    farm: Farm, stack: ExitStack, tmp_path: Path, slow: str, side: int
) -> None:
    wire = stack.enter_context(link(farm.workers_at if slow == "worker" else farm.clients_at))
    wire.bytes_per_s = 1e6
    # A model that only the far worker has, so that nobody else draws the large picture.
    (tmp_path / "far" / "Stable-diffusion").mkdir(parents=True)
    (tmp_path / "far" / "Stable-diffusion" / "large.safetensors").write_bytes(b"large")
    farm.join("far", wire.address if slow == "worker" else "", 0.1, tmp_path / "far")
    farm.join("near", image_s=0.1)
    size = ("-m", "large", "-W", str(side), "-H", str(side), "-p", "x !noise", "--steps", "2")
    large = farm.petition(1, *size, at=wire.address if slow == "client" else "", name="large")
    wait_for(lambda: max(wire.passed.values()) > 200_000, "the picture to be on its way")
    meanwhile = 0
    while large.popen.poll() is None:
        small = farm.petition(2, "-s", str(100 * meanwhile + 100), name=f"small{meanwhile}")
        assert_all_once(small, 2)
        meanwhile += 1
    assert meanwhile > 1
    assert_all_once(large, 1)
    assert farm.engines()[0] == 1
    assert "is gone" not in farm.manager.errors


def test_ten_clients_that_never_read_hold_up_nobody(farm: Farm) -> None:
    farm.join("one", image_s=0.01)
    words = ("-W", "800", "-H", "800", "-p", "x !noise", "--steps", "2")
    deaf = []
    for number in range(10):
        client = farm.petition(6, *words, "-s", str(1000 * number + 1000), name=f"deaf{number}")
        wait_for(lambda client=client: "accepted" in client.output, "the petition to be kept")
        client.signals(signal.SIGSTOP)
        deaf.append(client)
    # 115 MB of pictures wait for them.
    wait_for(lambda: len(farm.engines("drawn")) == 60, "their pictures to be drawn")
    assert_all_once(farm.petition(3, name="reader"), 3)
    assert rss_mib(farm.manager) < 300
    for client in deaf:
        client.signals(signal.SIGCONT)
    for client in deaf:
        assert_all_once(client, 6)


def rss_mib(process: Process) -> float:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


# --- clocks -----------------------------------------------------------------------------------


@pytest.mark.skipif(not _FAKETIME, reason="libfaketime is not installed: apt install faketime")
@pytest.mark.parametrize("jump", ["+1d", "-1d"])
def test_a_clock_that_jumps_a_day_changes_nothing(
    tmp_path: Path, models_dir: Path, stack: ExitStack, jump: str
) -> None:
    dial = tmp_path / "clock"
    dial.write_text("+0")
    env = {
        "LD_PRELOAD": str(_FAKETIME[0]), "FAKETIME_TIMESTAMP_FILE": str(dial),
        "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    farm = Farm(tmp_path, models_dir, env)
    stack.callback(farm.close)
    farm.join("one", image_s=0.2)
    before = farm.petition(2, "-s", "500", name="before")
    assert_all_once(before, 2)
    client = farm.petition(16, "--timeout", "3600")
    farm.begun(5)
    dial.write_text(jump)
    assert_all_once(client, 16)
    farm.manager.close()
    farm.start_manager("--state", str(tmp_path / "state"))
    farm.manager.says("worker one joins")
    # A day is also what ended petitions are kept for; this one ended seconds ago.
    fetched = farm.start(
        "sdistrib_client", farm.clients_at, "fetch", before.events[0]["id"],
        "-o", str(tmp_path / "again_%03d.png"),
    )  # fmt: skip
    assert fetched.ends() == 0, fetched.errors
    assert (tmp_path / "again_000.png").read_bytes() == (tmp_path / "before_000.png").read_bytes()
    assert set(farm.engines().values()) == {1}
