"""The simulation as part of the suite: no seed breaks a promise, and no planted fault hides.

Played in a process of its own, by the command that a person would use: a failing seed is printed
with the command that tells its story again.
"""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter

import pytest

from sdistrib.protocol import messages as wire
from tests.simulation import coverage
from tests.simulation.plants import PLANTS

#: Seeds of one run, each of at least so many events.
SEEDS, EVENTS = 2000, 200
#: Seconds of one core that finding all planted faults may take.
PLANTS_S = 60.0
#: Said only to peers that break the protocol, which nobody here does; or nobody here asks for it.
_UNHEARD: dict[str, set[type[wire.Message]]] = {
    "manager": {wire.Fault, wire.Plan},
    "worker": {wire.Fault},
    "client": {wire.Fault, wire.Answer, wire.Purged, wire.Planned, wire.Controlled},
}
_DEADLINE_S = 900.0


def _simulation(*words: str, status: int = 0, hash_seed: str = "random") -> str:
    # Not measured for coverage: each machine's branches are the business of its own tests.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE", "COV_"))}
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    assert done.returncode == status, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.timeout(_DEADLINE_S)
def test_no_seed_breaks_a_promise_and_everything_happens_often() -> None:
    text = _simulation("--seeds", str(SEEDS), "--coverage", "--jobs", "2")
    assert f"{SEEDS} seeds, 0 broken" in text
    least = re.search(r" events, (\d+) at least;", text)
    assert least is not None
    assert int(least[1]) >= EVENTS


@pytest.mark.timeout(_DEADLINE_S)
def test_each_planted_fault_is_found_soon() -> None:
    text = _simulation("--plants")
    found = re.search(
        r"^(\d+) of (\d+) found in ([\d.]+) s of one core's time$", text, re.MULTILINE
    )
    assert found is not None
    assert int(found[1]) == int(found[2]) == len(PLANTS) >= 10
    assert float(found[3]) < PLANTS_S


@pytest.mark.timeout(_DEADLINE_S)
def test_a_seed_tells_the_same_story_whatever_the_hash_seed() -> None:
    for seed in ("7", "8"):
        told = _simulation(seed, hash_seed="0")
        assert told == _simulation(seed, hash_seed="1")
        assert told.endswith("every promise was kept\n")


@pytest.mark.timeout(_DEADLINE_S)
def test_a_failing_seed_is_printed_with_the_command_that_plays_it() -> None:
    plant = "replies leave before the commit"
    text = _simulation("--seeds", "5", "--jobs", "1", "--plant", plant, status=1)
    failed = re.search(r"^seed (\d+): (.*)$", text, re.MULTILINE)
    command = re.search(r"^its story: python -m tests\.simulation (.*)$", text, re.MULTILINE)
    assert failed is not None
    assert command is not None
    words = shlex.split(command[1])
    assert words == ["--plant", plant, failed[1]]
    assert _simulation(*words, status=1).endswith(failed[2] + "\n")


def test_each_word_of_the_protocol_is_to_be_heard_often() -> None:
    heard: dict[str, set[type[wire.Message]]] = {
        "manager": {*wire.CLIENT_TO_MANAGER, *wire.WORKER_TO_MANAGER},
        "worker": {*wire.MANAGER_TO_WORKER},
        "client": {*wire.MANAGER_TO_CLIENT},
    }
    for machine, kinds in heard.items():
        listed = {event for who, event, _ in (*coverage.EXPECTED, *coverage.RARE) if who == machine}
        assert {wire.verb(kind) for kind in kinds - _UNHEARD[machine]} <= listed, machine


def test_what_is_met_too_seldom_is_named() -> None:
    faults = Counter(dict.fromkeys(coverage.KINDS, coverage.OFTEN))
    met = Counter(dict.fromkeys(coverage.EXPECTED, coverage.OFTEN)) + Counter(coverage.RARE.keys())
    assert coverage.missing(faults, met) == []
    faults["cancel"] -= 1
    pair = ("manager", wire.verb(wire.Cancel), "open")
    met[pair] -= 1
    assert coverage.missing(faults, met) == [
        "cancel, 99 times",
        "manager: CANCEL [open], 99 times",
    ]


@pytest.mark.slow
@pytest.mark.timeout(3 * _DEADLINE_S)
def test_ten_thousand_other_seeds() -> None:
    assert "10000 seeds, 0 broken" in _simulation("--seeds", "10000", "--start", "1000000")
