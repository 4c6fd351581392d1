"""What a child and its supervisor owe each other, whichever child it is.

"fake" is the real child's own loop around an engine that pretends, "scripted" the program that
stands in for the child in other tests, "real" the engine itself.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from sdistrib.protocol.engine import (
    At,
    Began,
    Declined,
    Draw,
    Drawn,
    Holds,
    Interrupt,
    PreviewWanted,
    PreviewWish,
    Ready,
    Unload,
)
from sdistrib_worker.supervisor import Died, EngineChild, Event, Glimpse, Picture, engine_command
from tests.support.engines import (
    PYTHONPATH,
    Outcome,
    died,
    outcome,
    receive_until,
    request,
    running,
)

FAKE = (sys.executable, "-m", "tests.support.fake_engine", "{fd}")
COMMANDS = {
    "fake": FAKE,
    "scripted": (sys.executable, "-m", "sdistrib.testing.scripted_engine", "{fd}"),
    "real": engine_command("auto"),
}
#: Prompts of images of 1000 steps that are not finished within the time of a test.
SLOW = {"fake": "sleep", "scripted": "!sleep=600 a cat", "real": "a cat"}
KINDS = [
    pytest.param("fake", marks=pytest.mark.process),
    pytest.param("scripted", marks=pytest.mark.process),
    pytest.param("real", marks=pytest.mark.engine),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def models(kind: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("models_dir") if kind == "real" else Path("/nowhere")


@pytest.fixture
def command(kind: str) -> tuple[str, ...]:
    return COMMANDS[kind]


@pytest.fixture
def child(command: tuple[str, ...]) -> Iterator[EngineChild]:
    with running(command) as child:
        yield child


def several(models: Path, count: int, **wishes: object) -> Draw:
    """A call of so many images, with tickets of their own."""
    first, *_ = [request(models, **wishes) for _ in range(count)]
    return replace(first, count=count)


def call(child: EngineChild, wanted: Draw) -> list[Event]:
    """All that a call brings."""
    child.send(wanted)
    events: list[Event] = []
    while sum(isinstance(event, Picture) for event in events) < wanted.count:
        events += receive_until(child, lambda event: isinstance(event, Picture))
    return events


def test_the_first_frame_says_what_the_engine_is(child: EngineChild) -> None:
    assert child.ready is not None
    facts = child.ready.facts
    assert len(facts.fingerprint) == 16
    assert facts.backend
    assert facts.device
    assert child.await_ready() is child.ready


def test_an_image_is_begun_told_and_delivered_with_its_pixels(
    child: EngineChild, models: Path
) -> None:
    wanted = request(models, steps=3)
    result = outcome(child, wanted)
    (began,) = result.of(Began)
    assert began.ticket == wanted.ticket
    places = [(at.phase, at.step, at.steps) for at in result.of(At)]
    assert places[0][0] == "loading"
    told = [step for phase, step, steps in places if phase == "sampling" and steps == 3]
    assert told == [0, 1, 2, 3]
    assert {at.ticket for at in result.of(At)} == {wanted.ticket}
    assert isinstance(result.picture, Picture)
    drawn = result.picture.drawn
    assert (drawn.ticket, drawn.width, drawn.height) == (wanted.ticket, 32, 32)
    assert drawn.load_s > 0
    assert 0 < drawn.sampling_s <= drawn.draw_s
    assert (drawn.sampling_method, drawn.scheduler) == ("euler", "discrete")
    assert len(result.pixels) == 32 * 32 * drawn.channels


def test_requests_are_answered_in_order_and_the_context_is_kept(
    child: EngineChild, models: Path
) -> None:
    wanted = [request(models, seed=seed) for seed in (1, 2, 3)]
    for one in wanted:
        child.send(one)
    events: list[Event] = []
    while sum(isinstance(event, Picture) for event in events) < 3:
        events += receive_until(child, lambda event: isinstance(event, Picture))
    pictures = [event for event in events if isinstance(event, Picture)]
    assert len({picture.pixels() for picture in pictures}) == 3
    tickets = [one.ticket for one in wanted]
    assert [picture.drawn.ticket for picture in pictures] == tickets
    loads = [event.ticket for event in events if isinstance(event, At) and event.phase == "loading"]
    assert set(loads) == {tickets[0]}


def test_after_unload_the_context_is_loaded_again(child: EngineChild, models: Path) -> None:
    first = outcome(child, request(models))
    child.send(Unload())
    second = outcome(child, request(models))
    assert second.picture is not None
    assert second.picture.drawn.load_s > 0
    assert second.pixels == first.pixels


@pytest.mark.parametrize("noisy", [False, True])
def test_previews_keep_their_interval_and_change_no_pixel(
    child: EngineChild, models: Path, noisy: bool
) -> None:
    plain = outcome(child, request(models, steps=6))
    wish = PreviewWish("proj", 2, noisy)
    child.send(replace(request(models, steps=6), preview=wish))
    frames, events = [], []
    while not any(isinstance(event, Picture) for event in events):
        events = receive_until(child, lambda event: isinstance(event, Glimpse | Picture))
        for glimpse in (event for event in events if isinstance(event, Glimpse)):
            frames.append(glimpse.previewed)
            assert len(glimpse.pixels()) == 4 * 4 * 3
            child.send(PreviewWanted())
    (drawn,) = [event for event in events if isinstance(event, Picture)]
    assert drawn.pixels() == plain.pixels
    # Steps may pass before the word arrives that there is room.
    steps = [frame.step for frame in frames]
    assert steps == sorted(set(steps))
    assert steps[0] == 2
    assert {step % 2 for step in steps} == {0}
    assert {(frame.width, frame.height, frame.noisy) for frame in frames} == {(4, 4, noisy)}


def test_without_room_for_it_no_second_preview_is_made(child: EngineChild, models: Path) -> None:
    for expected in (1, 0):
        result = outcome(child, replace(request(models, steps=6), preview=PreviewWish("proj")))
        glimpses = result.of(Glimpse)
        assert len(glimpses) == expected
        for glimpse in glimpses:
            glimpse.close()


def _held(result: Outcome) -> list[tuple[str, ...]]:
    return [frame.contexts for frame in result.of(Holds)]


def test_contexts_stay_as_many_as_are_allowed_and_each_change_is_told(
    child: EngineChild, models: Path
) -> None:
    first = {name: outcome(child, request(models, context=name, keep=2)) for name in "ab"}
    assert _held(first["a"]) == [("a",)]
    assert _held(first["b"]) == [("b", "a")]
    # No load, and it is the last used now.
    again = outcome(child, request(models, context="a", keep=2))
    assert _held(again) == [("a", "b")]
    assert not [at for at in again.of(At) if at.phase == "loading"]
    assert again.pixels == first["a"].pixels
    # What was used least lately goes before the load.
    third = outcome(child, request(models, context="c", keep=2))
    assert _held(third) == [("a",), ("c", "a")]
    kinds = [event for event in third.events if isinstance(event, Holds | At)]
    assert kinds[0] == Holds(contexts=("a",))
    assert _held(outcome(child, request(models, context="c", keep=2))) == []
    child.send(Unload())
    assert _held(outcome(child, request(models, context="c", keep=2))) == [(), ("c",)]


@pytest.mark.parametrize("kind", KINDS[::2])
def test_contexts_stay_within_a_budget(child: EngineChild, models: Path) -> None:
    bounds = {"keep": 3, "keep_bytes": 10}
    for name in "ab":
        outcome(child, request(models, context=name, load_bytes=5, **bounds))
    result = outcome(child, request(models, context="c", load_bytes=4, **bounds))
    assert _held(result) == [("b",), ("c", "b")]
    result = outcome(child, request(models, context="d", load_bytes=11, **bounds))
    assert _held(result) == [(), ("d",)]


def test_a_kill_is_told_once_and_as_ours(child: EngineChild) -> None:
    child.kill("The petition was cancelled.", "cancelled")
    last = died(child)
    assert last.ours
    assert last.was_ready
    assert (last.info.code, last.info.message) == ("cancelled", "The petition was cancelled.")
    assert (last.signal_name, last.exit_status) == ("SIGKILL", None)
    assert child.receive() == []
    assert child.filenos() == ()
    child.kill("again")
    child.send(Unload())
    assert child.receive() == []


def test_a_kill_by_somebody_else_is_not_ours(child: EngineChild) -> None:
    os.kill(child.pid, signal.SIGKILL)
    last = died(child)
    assert not last.ours
    assert last.info.code == "engine_crashed"
    assert "SIGKILL" in last.info.message
    assert last.info.signal == "SIGKILL"


def test_signals_that_go_to_the_whole_group_do_not_end_it(child: EngineChild, models: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child.pid, number)
    assert outcome(child, request(models)).picture is not None


@pytest.mark.process
@pytest.mark.parametrize("kind", ["fake", "scripted"])
def test_an_engine_that_can_ends_an_image_early_and_draws_on(kind: str) -> None:
    with running(COMMANDS[kind], {"SDISTRIB_SCRIPTED_CANCELS": "1"}) as child:
        assert child.await_ready().cancels
        before = outcome(child, request())
        assert before.picture is not None
        slow = request(steps=1000, prompt=SLOW[kind])
        # Too late for the one, in time for the other.
        child.send(Interrupt(ticket=slow.ticket - 1))
        child.send(slow)
        receive_until(child, lambda e: isinstance(e, At) and e.phase == "sampling" and e.step > 0)
        child.send(Interrupt(ticket=slow.ticket))
        events = receive_until(child, lambda e: isinstance(e, Declined))
        assert [e.code for e in events if isinstance(e, Declined)] == ["cancelled"]
        # The context is still there.
        after = outcome(child, request())
        assert after.picture is not None
        assert after.picture.drawn.load_s < 0.1


@pytest.mark.process
@pytest.mark.parametrize("kind", ["fake", "scripted"])
def test_a_cancel_that_comes_before_its_image_has_begun_counts(kind: str) -> None:
    with running(COMMANDS[kind], {"SDISTRIB_SCRIPTED_CANCELS": "1"}) as child:
        slow = request(steps=1000, prompt=SLOW[kind])
        child.send(slow)
        child.send(Interrupt(ticket=slow.ticket))
        events = receive_until(child, lambda e: isinstance(e, Declined))
        assert not [e for e in events if isinstance(e, At) and e.step > 1]


@pytest.mark.engine
def test_the_engine_of_this_version_cannot() -> None:
    with running() as child:
        assert not child.await_ready().cancels


def test_a_polite_stop_interrupts_an_image(
    kind: str, command: tuple[str, ...], models: Path
) -> None:
    with running(command) as child:
        pid = child.pid
        child.send(request(models, steps=1000, prompt=SLOW[kind]))
        receive_until(child, lambda e: isinstance(e, At) and e.phase == "sampling" and e.step > 0)
        child.stop(grace_s=50.0)
    assert not Path(f"/proc/{pid}").exists()


#: A parent that starts a child; with a twin, another process keeps the socket's end open.
_PARENT = """
import os, sys
from sdistrib_worker.supervisor import EngineChild
twin, *command = sys.argv[1:]
child = EngineChild(command)
child.start()
child.await_ready()
if twin != "twin" or os.fork():
    print(child.pid, flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.mark.parametrize("twin", ["alone", "twin"])
def test_it_dies_when_its_parent_is_killed(twin: str, command: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, twin, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        try:
            parent.kill()
            parent.wait()
            _wait_readable(watch)  # readable once the process has ended
        finally:
            os.close(watch)


def _wait_readable(descriptor: int) -> None:
    ready, _, _ = select.select([descriptor], [], [], 30)
    assert ready, "still running after 30 s"


@pytest.mark.process
def test_a_refused_image_leaves_the_child_as_it_was() -> None:
    with running(FAKE) as child:
        result = outcome(child, request(prompt="refuse"))
        assert isinstance(result.end, Declined)
        assert (result.end.code, result.end.message) == ("engine_error", "not this one")
        assert outcome(child, request(seed=7)).pixels == bytes([7]) * (32 * 32 * 3)


@pytest.mark.process
def test_the_image_before_a_crash_is_whole() -> None:
    with running(FAKE) as child:
        child.send(request(seed=5))
        child.send(request(prompt="segv"))
        events = receive_until(child, lambda e: isinstance(e, Picture))
        (picture,) = [event for event in events if isinstance(event, Picture)]
        if child.filenos():
            last = died(child)
            assert (last.signal_name, last.was_ready) == ("SIGSEGV", True)
            assert "step 1 of 2" in last.info.message
        assert picture.pixels() == bytes([5]) * (32 * 32 * 3)


@pytest.mark.process
def test_the_frames_are_typed() -> None:
    with running(FAKE) as child:
        result = outcome(child, request())
        assert isinstance(child.ready, Ready)
        assert result.picture is not None
        assert isinstance(result.picture.drawn, Drawn)
        assert result.picture.drawn.notes == ("a note",)


@pytest.mark.parametrize("count", [2, 5])
def test_a_call_of_several_gives_each_its_own_picture(
    child: EngineChild, models: Path, count: int
) -> None:
    singly = [outcome(child, request(models, seed=3 + n)).pixels for n in range(count)]
    wanted = several(models, count)
    events = call(child, wanted)
    tickets = list(range(wanted.ticket, wanted.ticket + count))
    pictures = [event for event in events if isinstance(event, Picture)]
    assert [picture.drawn.ticket for picture in pictures] == tickets
    assert [picture.pixels() for picture in pictures] == singly
    assert [event.ticket for event in events if isinstance(event, Began)] == tickets
    ats = [at for at in events if isinstance(at, At)]
    for ticket in tickets:
        own = [at for at in ats if at.ticket == ticket]
        steps = [at.step for at in own if at.phase == "sampling" and at.steps == 2]
        assert steps == [0, 1, 2]
    # All are sampled before the first is decoded, and nothing is handed out before the last is.
    phases = [at.phase for at in ats if at.phase != "encoding"]
    first = phases.index("decoding")
    assert set(phases[:first]) == {"sampling"}
    assert set(phases[first:-1]) == {"decoding"}
    assert {at.ticket for at in ats if at.phase == "decoding"} == set(tickets)
    assert (ats[-1].phase, ats[-1].ticket) == ("finishing", tickets[0])
    for picture in pictures:
        assert picture.drawn.load_s < 0.01
        assert 0 < picture.drawn.sampling_s <= picture.drawn.draw_s


def test_only_the_first_of_a_call_has_the_load(child: EngineChild, models: Path) -> None:
    events = call(child, several(models, 3))
    pictures = [event for event in events if isinstance(event, Picture)]
    first, *others = pictures
    assert first.drawn.load_s > 0
    assert [picture.drawn.load_s for picture in others] == [0.0, 0.0]
    for picture in pictures:
        picture.close()


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "prompt"), [("fake", "segv@4"), ("scripted", "x !segv@4")], indirect=["kind"]
)
def test_a_death_in_a_call_is_told_of_the_image_it_was_at(
    child: EngineChild, models: Path, prompt: str
) -> None:
    wanted = several(models, 3, prompt=prompt)
    child.send(wanted)
    events = receive_until(child, lambda event: isinstance(event, Died))
    assert not [event for event in events if isinstance(event, Picture)]
    begun = [event.ticket for event in events if isinstance(event, Began)]
    assert begun == [wanted.ticket, wanted.ticket + 1]
    assert [at for at in events if isinstance(at, At)][-1].ticket == wanted.ticket + 1


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "prompt"),
    [("fake", "refuse@4"), ("scripted", "x !decline=engine_error@4")],
    indirect=["kind"],
)
def test_a_refusal_in_a_call_names_the_image_it_was_at(
    child: EngineChild, models: Path, prompt: str
) -> None:
    wanted = several(models, 3, prompt=prompt)
    end = outcome(child, wanted).end
    assert isinstance(end, Declined)
    assert end.ticket == wanted.ticket + 1
    # It goes on, and takes the next numbers.
    assert outcome(child, request(models)).picture is not None
