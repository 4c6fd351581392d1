"""What goes wrong for people: each with the exit status and the sentence they get.

Real managers, workers and clients; the engine is scripted, since no picture is looked at.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, cluster, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A models tree of files that only the scripted engine can draw with."""
    for name in ("stable-diffusion/tiny", "vae/soft", "lora/style"):
        file = tmp_path / "models" / f"{name}.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(name.encode())
    return tmp_path / "models"


@pytest.fixture
def farm(tree: Path) -> Iterator[Cluster]:
    with cluster() as running:
        running.worker(tree, "--name", "box1", scripted=True)
        yield running


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "output.png"


@pytest.mark.parametrize(
    ("words", "named", "closest"),
    [
        (("-m", "tinny", "-p", "x"), "tinny", "tiny.safetensors"),
        (("-m", "../../etc/passwd", "-p", "x"), "passwd", ""),
        (("-m", "tiny", "--vae", "sofd", "-p", "x"), "sofd", "soft.safetensors"),
        (("-m", "tiny", "-p", "x <lora:stile:1>"), "stile", "style.safetensors"),
    ],
    ids=["model", "traversal", "vae", "lora"],
)
def test_an_unknown_file_is_refused_at_the_door(farm, out, words, named, closest):
    client = farm.draw(*words, "-o", str(out))
    assert client.ends() == 4, client.errors
    assert named in client.errors
    assert closest in client.errors
    assert " accepted" not in farm.manager.errors
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("-W", "0"), ("-W", "-64"), ("-W", "65"), ("-H", "100000"), ("--steps", "0"),
        ("--steps", "1001"), ("-b", "0"), ("-b", "1001"), ("--cfg-scale", "nan"),
        ("--cfg-scale", "-1"), ("--cfg-scale", "inf"), ("-p", ""), ("-p", "x" * 20000),
 ("--sampling-method", "nope"), ("--bogus", "1"),
        ("--init-img", "a.png"), ("-s", "x"), ("-s", str(2**63)),
    ],
)  # fmt: skip
def test_wrong_values_are_usage_errors_that_name_the_flag(farm, out, words):
    prompt = () if words[0] == "-p" else ("-p", "x")
    client = farm.draw("-m", "tiny", *prompt, *words, "-o", str(out))
    assert client.ends() == 2, client.errors
    long_names = {"-W": "width", "-H": "height", "-b": "batch", "-p": "prompt", "-s": "seed"}
    assert long_names.get(words[0], words[0].lstrip("-")) in client.errors
    assert "Traceback" not in client.errors
    assert " accepted" not in farm.manager.errors


def test_bytes_that_are_no_text_are_a_usage_error(farm, out):
    client = farm.draw("-m", "tiny", "-p", os.fsdecode(b"caf\xe9"), "-o", str(out))
    assert client.ends() == 2, client.errors
    assert "not valid UTF-8" in client.errors


def test_an_output_that_cannot_be_written_is_found_before_anything_is_drawn(farm, tmp_path):
    (tmp_path / "file").write_text("in the way")
    client = farm.draw("-m", "tiny", "-p", "x", "-o", str(tmp_path / "file" / "out.png"))
    assert client.ends() == 2, client.errors
    assert " accepted" not in farm.manager.errors


def test_no_manager_is_exit_3_with_the_address_and_what_to_try(farm, out):
    farm.manager.close()
    client = farm.draw("-m", "tiny", "-p", "x", "--connect-timeout", "1", "-o", str(out))
    assert client.ends() == 3, client.errors
    assert farm.clients_at in client.errors
    assert "sdistrib-manager" in client.errors


def test_a_silent_manager_is_told_once_after_five_seconds(farm, out):
    farm.manager.signals(signal.SIGSTOP)
    client = farm.client("-m", "tiny", "-p", "x", "--connect-timeout", "30", "-o", str(out))
    assert farm.clients_at in client.says("No answer")
    farm.manager.signals(signal.SIGCONT)
    assert client.ends() == 0, client.errors
    assert client.errors.count("No answer") == 1


def test_without_a_worker_it_waits_and_says_so_until_the_time_limit(out):
    with cluster() as running:
        client = running.draw("-m", "tiny", "-p", "x", "--timeout", "2", "-o", str(out))
        assert client.ends() == 6, client.errors
        assert "no worker is connected" in client.errors


def test_a_worker_that_comes_later_draws_what_waits(tree, out):
    with cluster() as running:
        client = running.client("-m", "tiny", "-p", "x", "-o", str(out))
        client.says("no worker is connected")
        running.worker(tree, scripted=True)
        assert client.ends() == 0, client.errors
    assert out.exists()


def test_a_manager_that_is_killed_and_restarted_is_found_again(farm, out):
    client = farm.client("-m", "tiny", "-p", "x !sleep=3", "-o", str(out))
    wait_for(lambda: " accepted" in farm.manager.errors, "the petition")
    farm.manager.signals(signal.SIGKILL)
    farm.manager.ends()
    farm.start_manager()
    assert client.ends() == 0, client.errors
    assert out.exists()


def test_a_manager_that_is_gone_for_good_is_no_hang(farm, out):
    client = farm.client("-m", "tiny", "-p", "x !sleep=60", "--timeout", "3", "-o", str(out))
    wait_for(lambda: " accepted" in farm.manager.errors, "the petition")
    farm.manager.signals(signal.SIGKILL)
    assert client.ends() == 6, client.errors


def test_ctrl_c_cancels_this_petition_only(farm, tmp_path):
    first = farm.client("-m", "tiny", "-p", "x !sleep=30", "-o", str(tmp_path / "a.png"))
    wait_for(lambda: farm.manager.errors.count(" accepted") == 1, "the first petition")
    second = farm.client("-m", "tiny", "-p", "y", "-o", str(tmp_path / "b.png"))
    wait_for(lambda: farm.manager.errors.count(" accepted") == 2, "the second petition")
    first.signals(signal.SIGINT)
    assert first.ends() == 130, first.errors
    assert second.ends() == 0, second.errors


@pytest.mark.parametrize(
    ("directive", "status", "words"),
    [
        ("!segv", 5, ("engine_crashed", "SIGSEGV")),
        ("!abort", 5, ("engine_crashed", "SIGABRT")),
        ("!kill", 5, ("engine_crashed", "SIGKILL")),
        ("!exit=3", 5, ("engine_crashed", "3")),
        ("!garbage", 5, ("engine_crashed", "garbled")),
        ("!half", 5, ("engine_crashed",)),
        ("!load_segv", 5, ("engine_crashed", "SIGSEGV")),
    ],
)
def test_each_way_an_engine_dies_is_a_typed_error_and_the_next_petition_is_drawn(
    farm, out, directive, status, words
):
    client = farm.draw("-m", "tiny", "-p", f"x {directive}", "-o", str(out))
    assert client.ends() == status, client.errors
    for word in words:
        assert word in client.errors
    assert farm.draw("-m", "tiny", "-p", "x", "-o", str(out)).ends() == 0


def test_a_finished_picture_survives_the_crash_of_the_next(farm, tmp_path):
    client = farm.draw(
        "-m", "tiny", "-p", "x !segv@8", "-b", "3", "-s", "7", "-o", str(tmp_path / "o.png")
    )
    assert client.ends() == 5, client.errors
    assert sorted(p.name for p in tmp_path.glob("o_*.png")) == ["o_0.png", "o_2.png"]


def test_a_crash_on_one_worker_is_cured_on_another(farm, tree, tmp_path):
    farm.worker(tree, "--name", "box2", scripted=True)
    once = tmp_path / "once"
    client = farm.draw("-m", "tiny", "-p", f"x !once={once} !segv", "-o", str(tmp_path / "o.png"))
    assert client.ends() == 0, client.errors


def test_a_worker_that_is_killed_loses_nothing(farm, tree, tmp_path):
    victim = farm.worker(tree, "--name", "box2", scripted=True)
    client = farm.client(
        "-m", "tiny", "-p", "x !sleep=0.3", "-b", "8", "-o", str(tmp_path / "o.png"), "--json"
    )
    wait_for(lambda: any(e["event"] == "image" for e in client.events), "a picture")
    victim.signals(signal.SIGKILL)
    assert client.ends() == 0, client.errors
    assert len(list(tmp_path.glob("o_*.png"))) == 8


@pytest.mark.parametrize("state", ["missing", "a-file", "unreadable"])
def test_a_models_folder_that_cannot_be_used_is_a_refusal_to_start(farm, tmp_path, state):
    folder = tmp_path / state
    if state == "a-file":
        folder.write_text("no folder")
    elif state == "unreadable":
        if os.geteuid() == 0:
            folder = Path("/proc/1/does-not-exist")  # nothing is unreadable for root
        else:
            folder.mkdir(mode=0)
    worker = farm.start("tests.support.scripted_worker", farm.workers_at, str(folder))
    assert worker.ends() == 2, worker.errors
    assert str(folder) in worker.errors


def test_an_empty_models_folder_is_said_and_the_worker_waits_for_files(farm, tmp_path):
    (tmp_path / "empty").mkdir()
    worker = farm.worker(tmp_path / "empty", "--name", "box2", scripted=True)
    assert "stable-diffusion" in worker.errors
