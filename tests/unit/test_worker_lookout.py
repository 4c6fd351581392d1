"""What allows or forbids work beside the manager: hours, and other processes on the device."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdistrib.errors import ConfigError
from sdistrib.protocol.messages import EngineFacts
from sdistrib_worker import busy, lookout
from sdistrib_worker.busy import BUSY_LOOKS, FREE_LOOKS, CpuProbe, Steady, probe_for
from sdistrib_worker.events import AvailabilityChanged
from sdistrib_worker.hours import parse_hours
from sdistrib_worker.lookout import Lookout
from sdistrib_worker.nvml import BUSY_PERCENT, NvmlProbe
from sdistrib_worker.processes import own_processes


def facts(backend: str) -> EngineFacts:
    return EngineFacts(version="0.4.7", backend=backend, device="card", fingerprint="f" * 16)


# --- hours ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at", "is_open"),
    [
        ("22-08", "22:00", True),
        ("22-08", "23:59", True),
        ("22-08", "00:00", True),
        ("22-08", "07:59", True),
        ("22-08", "08:00", False),
        ("22-08", "21:59", False),
        ("9:30-12,14-17", "09:29", False),
        ("9:30-12,14-17", "09:30", True),
        ("9:30-12,14-17", "12:00", False),
        ("9:30-12, 14-17", "16:59", True),
        ("00-24", "00:00", True),
        ("00-24", "23:59", True),
        ("20-24", "23:59", True),
        ("20-24:00", "00:00", False),
        ("0-1", "0:59", True),
    ],
)
def test_hours_begin_at_their_minute_and_end_before_it(text, at, is_open):
    hour, minute = map(int, at.split(":"))
    assert (parse_hours([text]).shut(60 * hour + minute) == "") is is_open


def test_several_options_are_one_list_and_the_next_opening_is_told():
    hours = parse_hours(["22-06:30", "12-13"])
    assert hours.shut(8 * 60) == "outside its hours 22-06:30, 12-13, until 12:00 there"
    assert hours.shut(13 * 60).endswith("until 22:00 there")


@pytest.mark.parametrize(
    "text", ["", "22", "22-", "-08", "25-08", "22-24:01", "24-08", "22:60-23", "a-b", "8-8", "1-2,"]
)
def test_what_is_no_hours_is_refused_by_name(text):
    with pytest.raises(ConfigError, match="--hours"):
        parse_hours([text])


# --- a steady answer --------------------------------------------------------------------------


def test_busy_and_free_count_when_several_looks_agree():
    steady = Steady()
    for _ in range(BUSY_LOOKS - 1):
        assert steady.take("a game") == ""
    assert steady.take("") == ""
    for _ in range(BUSY_LOOKS - 1):
        assert steady.take("a game") == ""
    assert steady.take("a game") == "a game"
    for _ in range(FREE_LOOKS - 1):
        assert steady.take("") == "a game"
    assert steady.take("another") == "a game"
    for _ in range(FREE_LOOKS - 1):
        assert steady.take("") == "a game"
    assert steady.take("") == ""


# --- the CPU ----------------------------------------------------------------------------------


class Machine:
    """A /proc by hand: 4 cores at 100 ticks a second, worker 10 with engine 11, a stranger 12."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ticks = {10: 0, 11: 0, 12: 0}
        self.parents = {10: 1, 11: 10, 12: 1}
        self.total = 0
        self.write()

    def passes(self, seconds: int, **work: int) -> None:
        """Time passes, in which processes work."""
        self.total += 400 * seconds
        for who, ticks in work.items():
            self.ticks[int(who.removeprefix("p"))] += ticks
        self.write()

    def dies(self, pid: int) -> None:
        """A child is gone and its parent has its time."""
        self.dead = self.ticks.pop(pid)
        (self.folder / str(pid) / "stat").unlink()
        self.write(waited=self.dead)

    def write(self, waited: int = 0) -> None:
        worked = sum(self.ticks.values()) + waited
        # user nice system idle iowait irq softirq steal guest guest_nice; guest is in user.
        counts = (worked, 0, 0, self.total - worked, 0, 0, 0, 0, worked, 0)
        (self.folder / "stat").write_text(f"cpu  {' '.join(map(str, counts))}\ncpu0 1 2 3\n")
        for pid, ticks in self.ticks.items():
            (self.folder / str(pid)).mkdir(exist_ok=True)
            zeros = " ".join("0" * 9)
            own_children = f"{waited if pid == 10 else 0} 0"
            text = f"{pid} (a) (b 1 2) S {self.parents[pid]} {zeros} {ticks} 0 {own_children} 20"
            (self.folder / str(pid) / "stat").write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_others_work_counts_and_not_what_the_engine_does(machine):
    probe = CpuProbe(machine.folder, 10)
    machine.passes(2, p10=10, p11=780)
    assert probe.look() == ""
    machine.passes(2, p11=500, p12=200)
    assert probe.look() == ""
    machine.passes(2, p11=500, p12=201)
    assert probe.look() == "other processes use the CPU"
    machine.passes(2)
    assert probe.look() == ""
    # Two looks at one moment.
    assert probe.look() == ""


def test_an_engine_that_died_was_no_stranger(machine):
    probe = CpuProbe(machine.folder, 10)
    machine.passes(2, p11=700)
    machine.dies(11)
    assert probe.look() == ""


def test_a_process_that_ends_during_the_look_is_left_out(machine):
    (machine.folder / "13" / "stat").mkdir(parents=True)  # it can be listed and not be read
    assert {one.pid for one in own_processes(machine.folder, 10)} == {10, 11}


def test_without_proc_the_cpu_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--yield-when-busy: the use of the CPU"):
        CpuProbe(tmp_path / "none")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_can_be_measured():
    probe = probe_for(facts("cpu"), {})
    assert isinstance(probe, CpuProbe)
    assert probe.look() in ("", "other processes use the CPU")
    own = {one.pid: one.ticks for one in own_processes(Path("/proc"), os.getpid())}
    assert own[os.getpid()] > 0


@pytest.mark.parametrize("backend", ["vulkan", "hip", "sycl", "metal"])
def test_what_cannot_be_measured_is_refused_by_name(backend):
    with pytest.raises(ConfigError, match=f"on {backend} other processes' use of card cannot"):
        probe_for(facts(backend), {})


# --- CUDA -------------------------------------------------------------------------------------


class NVMLError(Exception):
    """As pynvml's."""


class NotFoundError(NVMLError):
    """No process has worked since."""


class NotSupportedError(NVMLError):
    """The card cannot say."""


class Nvml:
    """The module `pynvml`, by hand."""

    NVMLError, NVMLError_NotFound, NVMLError_NotSupported = (
        NVMLError,
        NotFoundError,
        NotSupportedError,
    )

    def __init__(self, cards: int = 1) -> None:
        self.cards = cards
        self.used: list[tuple[int, int]] = []
        self.fault: Exception | None = None
        self.computing: list[int] = []
        self.asked: list[tuple[str, int]] = []
        self.started = False

    def nvmlInit(self) -> None:  # noqa: N802
        self.started = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.cards

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"card {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetProcessUtilization(self, card: str, since: int) -> list[Any]:  # noqa: N802
        self.asked.append((card, since))
        if self.fault is not None:
            raise self.fault
        if not self.used:
            raise NotFoundError
        at = since + 1000
        return [SimpleNamespace(pid=p, smUtil=u, timeStamp=at) for p, u in self.used]

    def nvmlDeviceGetComputeRunningProcesses(self, card: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.computing]


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc in which this process is worker, in the first namespace, and 11 its engine."""
    me = tmp_path / str(os.getpid())
    for folder, parent in ((me, 1), (tmp_path / "11", os.getpid())):
        folder.mkdir()
        zeros = " ".join("0" * 20)
        (folder / "stat").write_text(f"{folder.name} (x) S {parent} {zeros}")
    (me / "ns").mkdir()
    (me / "ns" / "pid").symlink_to("pid:[4026531836]")
    (tmp_path / "self").symlink_to(me)
    return tmp_path


def test_a_process_that_works_on_the_card_counts_unless_it_is_ours(proc):
    nvml = Nvml()
    probe = NvmlProbe({}, nvml, proc)
    assert nvml.started
    assert probe.look() == ""
    nvml.used = [(11, 99), (os.getpid(), 50), (12, BUSY_PERCENT - 1)]
    assert probe.look() == ""
    nvml.used = [(11, 99), (12, BUSY_PERCENT)]
    assert probe.look() == "another process uses the GPU"
    # Each look is about the time since the last one.
    assert [since for _, since in nvml.asked] == [0, 0, 0, 1000]


def test_on_a_card_that_cannot_say_who_works_who_computes_counts(proc):
    nvml = Nvml()
    nvml.fault, nvml.computing = NotSupportedError(), [11]
    probe = NvmlProbe({}, nvml, proc)
    assert probe.look() == ""
    nvml.computing = [11, 12]
    assert probe.look() == "another process uses the GPU"


@pytest.mark.parametrize(
    ("cards", "environment", "card"),
    [
        (1, {}, "card 0"),
        (1, {"CUDA_VISIBLE_DEVICES": "0"}, "card 0"),
        (3, {"CUDA_VISIBLE_DEVICES": "GPU-77,GPU-8"}, "GPU-77"),
        (3, {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "card 2"),
        (3, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "card 0"),
    ],
)
def test_the_card_is_the_engines(proc, cards, environment, card):
    nvml = Nvml(cards)
    NvmlProbe(environment, nvml, proc)
    assert nvml.asked == [(card, 0)]


def test_a_card_that_may_be_another_one_is_refused(proc):
    with pytest.raises(ConfigError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        NvmlProbe({"CUDA_VISIBLE_DEVICES": "1"}, Nvml(2), proc)


def test_in_a_container_processes_cannot_be_told_apart(proc):
    (proc / "self/ns/pid").unlink()
    (proc / "self/ns/pid").symlink_to("pid:[4026532999]")
    with pytest.raises(ConfigError, match="container"):
        NvmlProbe({}, Nvml(), proc)
    with pytest.raises(ConfigError, match="container"):
        NvmlProbe({}, Nvml(), proc / "none")


def test_a_driver_that_fails_is_a_refusal_at_start_and_an_error_later(proc):
    nvml = Nvml()
    nvml.fault = NVMLError("Driver Not Loaded")
    with pytest.raises(ConfigError, match="NVML says Driver Not Loaded"):
        NvmlProbe({}, nvml, proc)
    nvml.fault = None
    probe = NvmlProbe({}, nvml, proc)
    nvml.fault = NVMLError("GPU is lost")
    with pytest.raises(OSError, match="GPU is lost"):
        probe.look()


def test_without_the_module_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ConfigError, match="pip install nvidia-ml-py"):
        probe_for(facts("cuda"), {})


# --- the thread -------------------------------------------------------------------------------


class Looked:
    """A probe that says what the test says."""

    def __init__(self) -> None:
        self.says: str | OSError = ""

    def look(self) -> str:
        if isinstance(self.says, OSError):
            raise self.says
        return self.says


def clock(text: str) -> Callable[[], time.struct_time]:
    return lambda: time.strptime(text, "%H:%M")


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread does not look by itself."""
    monkeypatch.setattr(lookout, "LOOK_S", 3600.0)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Looked:
    made = Looked()
    monkeypatch.setattr(lookout, "probe_for", lambda facts, environment: made)
    return made


@pytest.fixture
def told() -> list[AvailabilityChanged]:
    return []


@pytest.fixture
def watching(told: list[AvailabilityChanged], never: None, probe: Looked) -> Iterator[Lookout]:
    made = Lookout(told.append, {})
    made.watch(facts("cpu"))
    yield made
    made.stop()


def test_without_hours_or_device_there_is_no_thread(told):
    before = threading.active_count()
    Lookout(told.append, {}).stop()
    assert threading.active_count() == before
    assert told == []


def test_hours_are_looked_at_before_anything_else_happens(told, never):
    out = Lookout(told.append, {}, parse_hours(["22-08"]), clock("12:00"))
    try:
        (first,) = told
        assert first.source == "hours"
        assert "until 22:00" in first.reason
        out.look()
        assert len(told) == 1
        out._clock = clock("22:00")
        out.look()
        assert told[1:] == [AvailabilityChanged("hours", "")]
    finally:
        out.stop()


def test_hours_and_device_are_looked_at_by_one_thread(told, never, probe):
    before = threading.active_count()
    out = Lookout(told.append, {}, parse_hours(["22-08"]), clock("23:00"))
    out.watch(facts("cpu"))
    # Another engine than before is another device to look at.
    out.watch(facts("cuda"))
    assert threading.active_count() == before + 1
    out.stop()
    assert threading.active_count() == before


def test_the_device_is_told_when_it_is_steadily_in_use(told, watching, probe):
    probe.says = "other processes use the CPU"
    for _ in range(BUSY_LOOKS):
        assert told == []
        watching.look()
    assert told == [AvailabilityChanged("device", "other processes use the CPU")]
    probe.says = ""
    for _ in range(FREE_LOOKS):
        assert len(told) == 1
        watching.look()
    assert told[1:] == [AvailabilityChanged("device", "")]


def test_a_probe_that_fails_shuts_and_says_why(told, watching, probe):
    probe.says = OSError("GPU is lost")
    watching.look()
    assert told[0].reason == "who uses the device cannot be told: GPU is lost"


def test_the_thread_looks_by_itself(told, probe, monkeypatch):
    monkeypatch.setattr(lookout, "LOOK_S", 0.001)
    monkeypatch.setattr(busy, "BUSY_LOOKS", 1)
    came = threading.Event()
    probe.says = "another process uses the GPU"

    def publish(event: AvailabilityChanged) -> None:
        told.append(event)
        came.set()

    out = Lookout(publish, {})
    out.watch(facts("cuda"))
    assert came.wait(30)
    out.stop()
    assert told == [AvailabilityChanged("device", "another process uses the GPU")]
