"""A manager whose queue or disk is full says so, loses nothing, and goes on when there is room."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sdistrib import limits
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Codec, encode, encode_petition
from sdistrib.transport import Dealer, Watch, parse_address, zmq_context
from tests.support.cluster import PATIENCE_S, Cluster, Process, cluster, wait_for
from tests.support.rights import needs
from tests.support.small_disk import PROBE, Full, Trouble, WritesFail

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

#: Submits under way at a time: far below the mark at which ZeroMQ refuses to queue more.
_AT_ONCE = 200
_SUBMITS = 100_000


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def farm(tmp_path: Path, stack: ExitStack) -> Cluster:
    return stack.enter_context(cluster("--state", str(tmp_path / "state")))


class Submitter:
    """A client that submits without waiting for pictures."""

    def __init__(self, stack: ExitStack, address: str) -> None:
        context = stack.enter_context(zmq_context())
        self._dealer = Dealer(context, parse_address(address, 0))
        stack.callback(self._dealer.close)
        self._codec = Codec(wire.MANAGER_TO_CLIENT)
        self._watch = Watch()
        self._watch.add(self._dealer)
        self._say(wire.ClientHello(protocols=(1,), software="test"))

    def _say(self, message: wire.Message, body: bytes | None = None) -> None:
        wait_for(lambda: self._dealer.send(encode(message, body)) == "sent", "room to send")

    def submit(self, numbers: range) -> dict[str, wire.Accepted | wire.Refused]:
        """Submit petitions of one image each; the answers by id."""
        params = Params(prompt="a lighthouse " * 20, model="tiny", width=64, height=64)
        answers: dict[str, wire.Accepted | wire.Refused] = {}
        sent, deadline = 0, time.monotonic() + PATIENCE_S * 2
        while len(answers) < len(numbers):
            while sent < len(numbers) and sent - len(answers) < _AT_ONCE:
                number = numbers[sent]
                body = encode_petition(Petition(params=params, seed=number, images=1))
                self._say(wire.Submit(id=f"{number:032x}", detach=True), body)
                sent += 1
            self._watch.wait(1.0)
            while (frames := self._dealer.receive()) is not None:
                message = self._codec.decode(frames).message
                if isinstance(message, wire.Accepted | wire.Refused):
                    answers[message.id] = message
            assert time.monotonic() < deadline, f"{len(answers)} of {len(numbers)} answers"
        return answers


def rss_mib(process: Process) -> float:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def test_without_a_worker_the_queue_fills_to_its_limit_and_no_further(
    farm: Cluster, stack: ExitStack, tmp_path: Path
) -> None:
    client = Submitter(stack, farm.clients_at)
    answers = client.submit(range(_SUBMITS))
    refused = [answer for answer in answers.values() if isinstance(answer, wire.Refused)]
    assert len(refused) == _SUBMITS - limits.PETITIONS_MAX
    assert {(answer.error.code, answer.error.retry_after_s) for answer in refused} == {
        ("busy", 30.0)
    }
    assert rss_mib(farm.manager) < 300
    # What was accepted is there after a crash, and the limit holds as before.
    farm.manager.popen.kill()
    farm.manager.close()
    farm.start_manager("--state", str(tmp_path / "state"))
    again = Submitter(stack, farm.clients_at)
    kept = next(iter(answers))
    assert isinstance(again.submit(range(int(kept, 16), int(kept, 16) + 1))[kept], wire.Accepted)
    (late,) = again.submit(range(10**6, 10**6 + 1)).values()
    assert isinstance(late, wire.Refused)
    assert rss_mib(farm.manager) < 300


class OnSmallDisk(Cluster):
    """A manager with 20 MB of room."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        super().__init__("--state", str(folder / "state"))

    def start(self, *command: str, env: dict[str, str] | None = None) -> Process:
        small = ("tests.support.small_disk", str(self._folder), "20m")
        there = command[0] == "sdistrib_manager"
        return super().start(*(small if there else ()), *command, env=env)


@pytest.fixture
def full(stack: ExitStack, tmp_path: Path) -> tuple[Cluster, Trouble]:
    made = OnSmallDisk(tmp_path / "disk")
    stack.callback(made.close)
    return made, Full(made.manager, tmp_path / "disk")


@pytest.fixture
def barred(farm: Cluster) -> tuple[Cluster, Trouble]:
    return farm, WritesFail(farm.manager)


@pytest.mark.parametrize(
    "disk",
    [pytest.param("full", marks=needs("a file system of one's own", PROBE, "mount")), "barred"],
)
def test_a_disk_in_trouble_refuses_keeps_and_recovers(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path: Path, disk: str
) -> None:
    farm, trouble = request.getfixturevalue(disk)
    worker = farm.worker(models_dir, "--name", "one", scripted=True)
    words = ("-m", "tiny", "-p", "a !sleep=0.3", "-W", "64", "-H", "64", "--json")
    done = farm.draw(*words, "-s", "1", "-o", str(tmp_path / "done.png"))
    assert done.popen.returncode == 0, done.errors
    running = farm.client(*words, "-b", "12", "-s", "100", "-o", str(tmp_path / "run_%03d.png"))
    wait_for(lambda: running.output.count('"image"') >= 2, "the first pictures")
    trouble.begin()
    farm.manager.says("nothing new is accepted until writing works again")
    refused = farm.draw(*words, "-s", "2", "-o", str(tmp_path / "refused.png"))
    assert refused.popen.returncode == 7, refused.output
    assert '"code": "busy"' in refused.output
    # What is finished stays readable all the while.
    before = str(tmp_path / "fetched.png")
    fetched = farm.start(
        "sdistrib_client", farm.clients_at, "fetch", done.events[0]["id"], "-o", before
    )
    assert fetched.ends() == 0, fetched.errors
    assert (tmp_path / "fetched.png").read_bytes() == (tmp_path / "done.png").read_bytes()
    trouble.end()
    farm.manager.says("writing works again")
    assert running.ends() == 0, running.errors
    indices = [event["index"] for event in running.events if event["event"] == "image"]
    assert sorted(indices) == list(range(12))
    assert farm.draw(*words, "-s", "3", "-o", str(tmp_path / "after.png")).popen.returncode == 0
    assert worker.popen.poll() is None


def test_a_second_manager_on_the_same_folder_is_refused(farm: Cluster, tmp_path: Path) -> None:
    second = farm.start(
        "sdistrib_manager", "--client-port", "0", "--worker-port", "0",
        "--state", str(tmp_path / "state"),
    )  # fmt: skip
    assert second.ends() == 2
    assert "Another manager uses" in second.errors
    assert farm.manager.popen.poll() is None
