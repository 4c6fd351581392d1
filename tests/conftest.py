"""What all tests share: skip policy, models, the watch for leaks, hypothesis profiles."""

import contextlib
import gc
import importlib.util
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq
from hypothesis import HealthCheck, settings
from zmq.utils.garbage import gc as collector

from tests.support.rights import NOT_ALLOWED
from tools.tiny_models.tree import make_tree

T = TypeVar("T", int, str)

#: Set in CI: all that a test wants is there, so a skip is a failure, unless the kernel says no.
REQUIRE_ALL = os.environ.get("SDISTRIB_REQUIRE_ALL") == "1"
#: Inherited by every process that tests start, so that none can outlive the run unseen.
_RUN_MARK = "SDISTRIB_TEST_RUN"
#: A process or descriptor that is on its way out gets this long.
_SETTLE_S = 5.0
#: Descriptors of these kinds leak; plain files are pytest's captures, coverage's data and the like.
_WATCHED_FDS = ("socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/shm/", "/dev/ptmx")  # noqa: S108

# No deadlines: a busy machine is no failure. The same examples in each run: a red test stays red.
settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# HYPOTHESIS_PROFILE=hunt looks for new ones.
settings.register_profile("hunt", settings.get_profile("ci"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write what happens into tests/scenarios/*.txt"
    )


def pytest_configure() -> None:
    os.environ.setdefault(_RUN_MARK, uuid.uuid4().hex)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("stable_diffusion_cpp") is not None:
        return
    reason = "the engine's binding, stable_diffusion_cpp, is not installed"
    for item in items:
        if item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.skip(reason=reason))


def _skip_is_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    if REQUIRE_ALL and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        if NOT_ALLOWED in str(why):
            return
        report.outcome = "failed"
        report.longrepr = f"{why}; with SDISTRIB_REQUIRE_ALL=1 a skip is a failure"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _skip_is_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _skip_is_failure(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests and input files that tests and their processes keep stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of tiny real models, the broken ones included. Tests do not write into it."""
    root = tmp_path_factory.mktemp("models", numbered=False)
    make_tree(root, bad=True)
    return root


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found.update(map(int, task.read_text().split()))
    return found


def _fds() -> set[str]:
    """What the open descriptors point to; inode numbers make each socket and pipe its own."""
    targets = set()
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path.iterdir would follow the links
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        except FileNotFoundError:  # the one that listed them
            continue
        if target.startswith(_WATCHED_FDS):
            # anon_inode links carry no number of their own.
            targets.add(f"{fd} {target}" if target.startswith("anon_inode:") else target)
    return targets


def _left(look: Callable[[], set[T]], before: set[T]) -> set[T]:
    """What is there beyond `before`, once it has had time to go."""
    if not look() - before:
        return set()
    gc.collect()
    deadline = time.monotonic() + _SETTLE_S
    while (left := look() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves a child process, a socket, a pipe or shared memory behind."""
    children, fds = _children(), _fds()
    yield
    left = {f"process {pid} ({_name(pid)})" for pid in _left(_children, children)}
    left |= _left(_fds, fds)
    assert not left, f"the test left behind: {', '.join(sorted(left))}"


@pytest.fixture(scope="session", autouse=True)
def zmq_collector() -> Iterator[None]:
    """Starts, and ends, what pyzmq keeps from the first frame on that it sends without a copy."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        one.bind("inproc://collector")
        two.connect("inproc://collector")
        one.send(bytes(100_000), copy=False)
        two.recv()
    yield
    collector.stop()


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip() or "a zombie"
    except OSError:
        return "gone now"


def _outliving() -> set[int]:
    """Processes, of whatever parent, that tests of this run started."""
    found, mark = set(), f"{_RUN_MARK}={os.environ[_RUN_MARK]}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                found.add(int(environ.parent.name))
        except OSError:  # another user's, or gone
            continue
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run that leaves grandchildren behind, an engine without its worker for example."""
    if hasattr(session.config, "workerinput"):
        return  # xdist's controller looks, for all its workers
    left = _left(_outliving, {os.getpid(), *_children()})
    if left:
        names = "\n".join(f"  {pid} {_name(pid)}" for pid in sorted(left))
        print(f"\nThese processes outlived their tests:\n{names}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
