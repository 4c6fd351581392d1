"""A worker whose engine keeps several contexts: what it asks for, believes and tells."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from sdistrib.errors import ConfigError, ErrorInfo
from sdistrib.models import ModelFile
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib_worker import cli, events
from sdistrib_worker import effects as fx
from sdistrib_worker.allowed import parse_size
from sdistrib_worker.shelf import StoredFile
from tests.support.rig import FACTS, FILES, Rig, asked, attempt, crash, log_of, of, one, said

THIRD = StoredFile(ModelFile("stable-diffusion", "third.safetensors", 5_000_000), "/m/3", 3)


@pytest.fixture
def rig() -> Rig:
    made = Rig((*FILES, THIRD), declared=wire.Declared(keep=2), keep_bytes=20_000_000)
    made.connect()
    return made


class Engine:
    """The child: says what it holds when it is told to."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.keys: dict[str, str] = {}
        self._index = 0

    def draws(self, model: str, holds: str = "", load_s: float = 2.0) -> list[fx.Effect]:
        """An image is granted and drawn; before a load, and behind it, these are held: "a b"."""
        made = self.rig.grant(attempt(self._index), model=model)
        self._index += 1
        draw = one(asked(made))
        self.keys[model] = draw.context
        made = list(made)
        made += self.rig.engine(child.Began(ticket=draw.ticket))
        if holds:
            before = [name for name in holds.split() if name != model]
            made += self.says(*before)
            made += self.rig.engine(child.At(ticket=draw.ticket, phase="loading"))
            made += self.rig.engine(self.holds(*holds.split()), after_s=load_s)
        made += self.rig.engine(child.At(ticket=draw.ticket, phase="encoding"))
        return made + self.rig.draw(draw.ticket, load_s=load_s if holds else 0.0)

    def holds(self, *models: str) -> child.Holds:
        return child.Holds(contexts=tuple(self.keys[model] for model in models))

    def says(self, *models: str) -> list[fx.Effect]:
        return self.rig.engine(self.holds(*models))


@pytest.fixture
def engine(rig: Rig) -> Engine:
    return Engine(rig)


def states(made: list[fx.Effect]) -> list[tuple[str, ...]]:
    """What the manager hears: the state, then models, the last used first."""
    return [
        (state.state, *filter(None, [state.loaded, *(kept.model for kept in state.kept)]))
        for state in said(made, wire.EngineState)
    ]


TINY, OTHER = "tiny.safetensors", "other.safetensors"


def test_the_owner_bounds_travel_with_each_request_and_the_hello(rig: Rig) -> None:
    draw = one(asked(rig.grant(attempt())))
    assert (draw.keep, draw.keep_bytes, draw.load_bytes) == (2, 20_000_000, 14_000_000)
    assert one(said(rig.effects, wire.WorkerHello)).declared.keep == 2


def test_loads_and_unloads_are_states_and_lines_of_the_log(engine: Engine) -> None:
    made = engine.draws("tiny", "tiny")
    assert states(made) == [("loading",), ("drawing", TINY), ("idle", TINY)]
    assert "Loaded tiny.safetensors in 2.0 s, 14.0 MB." in log_of(made, "info").splitlines()
    made = engine.draws("other", "other tiny", load_s=1.5)
    assert states(made) == [("loading", TINY), ("drawing", OTHER, TINY), ("idle", OTHER, TINY)]
    wanted = "Loaded other.safetensors in 1.5 s, 9.0 MB. 2 contexts are kept, 23.0 MB."
    assert wanted in log_of(made, "info").splitlines()
    engine.rig.now += 30.0
    made = engine.draws("third", "third other")
    assert states(made)[0] == ("loading", OTHER, TINY)
    assert states(made)[1] == ("loading", OTHER)
    wanted = "Unloaded tiny.safetensors, 14.0 MB, last used 32 s ago."
    assert wanted in log_of(made, "info").splitlines()


def test_what_is_kept_is_used_without_a_load_and_told_as_the_last_used(engine: Engine) -> None:
    engine.draws("tiny", "tiny")
    engine.draws("other", "other tiny")
    made = engine.draws("tiny")
    assert states(made) == [("drawing", TINY, OTHER), ("idle", TINY, OTHER)]
    assert "oaded" not in log_of(made)


def test_the_manager_hears_the_digest_of_each(engine: Engine) -> None:
    engine.draws("tiny", "tiny")
    first = said(engine.rig.effects, wire.EngineState)[-1].context
    made = engine.draws("other", "other tiny")
    state = said(made, wire.EngineState)[-1]
    assert state.kept == (wire.Kept(first, TINY),)
    assert state.context not in ("", first)


def test_the_child_alone_decides_what_goes(engine: Engine) -> None:
    engine.draws("tiny", "tiny")
    made = engine.draws("other", "other")
    assert "Unloaded tiny.safetensors" in log_of(made, "info")
    assert states(made)[-1] == ("idle", OTHER)
    # Also between two requests.
    assert states(engine.says()) == [("idle",)]


def test_a_child_that_tells_nothing_is_taken_to_keep_the_last_used(engine: Engine) -> None:
    rig = engine.rig
    for index, model in enumerate(("tiny", "other", "third")):
        ticket = rig.begin(attempt(index), model=model)
        rig.engine(child.At(ticket=ticket, phase="loading"))
        rig.engine(child.At(ticket=ticket, phase="encoding"))
        made = rig.draw(ticket)
    assert states(made) == [("idle", "third.safetensors", OTHER)]


def test_a_failed_load_leaves_the_others(engine: Engine) -> None:
    engine.draws("tiny", "tiny")
    rig = engine.rig
    ticket = rig.begin(attempt(7), model="other")
    rig.engine(child.At(ticket=ticket, phase="loading"))
    no = child.Declined(ticket=ticket, code="engine_error", message="no", loading=True)
    made = rig.engine(no)
    assert states(made) == [("idle", TINY)]


def test_a_context_that_is_loaded_anew_is_not_there_meanwhile(engine: Engine) -> None:
    """As when it needs the VAE's encoder now."""
    engine.draws("tiny", "tiny")
    rig = engine.rig
    made = rig.grant(attempt(7))
    ticket = one(asked(made)).ticket
    assert states(made) == [("drawing", TINY)]
    made = rig.engine(engine.holds(), child.At(ticket=ticket, phase="loading"))
    assert states(made) == [("loading",)]
    assert states(rig.engine(engine.holds("tiny"))) == [("drawing", TINY)]


def test_a_death_takes_all(engine: Engine) -> None:
    engine.draws("tiny", "tiny")
    engine.draws("other", "other tiny")
    rig = engine.rig
    made = rig.turn(crash()) + rig.turn(after_s=5.0)
    assert states(made) == [("starting",)]
    assert "Unloaded" not in log_of(made)
    assert states(rig.engine(child.Ready(facts=one_facts(rig)))) == [("idle",)]


def one_facts(rig: Rig) -> wire.EngineFacts:
    return one(said(rig.effects, wire.WorkerHello)).engine


def test_unload_frees_all(engine: Engine) -> None:
    engine.draws("tiny", "tiny")
    engine.draws("other", "other tiny")
    rig = engine.rig
    made = rig.hear(wire.Steer(number=1, wish="unload", by="ana"))
    assert one(said(made, wire.Steered)).did == f"unloads {OTHER}, {TINY}"
    assert of(made, fx.KillEngine)
    info = ErrorInfo(code="cancelled", message="x")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert states(made) == [("starting",)]


@pytest.mark.parametrize(
    ("text", "size"),
    [("8G", 8 << 30), ("500m", 500 << 20), ("1.5 GiB", 3 << 29), ("2TB", 2 << 40), ("7", 7),
     ("12kb", 12 << 10)],
)  # fmt: skip
def test_a_size_is_written_as_people_do(text: str, size: int) -> None:
    assert parse_size("--keep-bytes", text) == size


@pytest.mark.parametrize("text", ["", "0", "G", "-1G", "8X", "8 G G", "0.0000001", "1e9"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--keep-bytes .*: write a size such as 8G or 500M"):
        parse_size("--keep-bytes", text)


def test_the_command_line_reaches_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[cli.Options] = []
    monkeypatch.setattr(cli, "run", lambda options, _: started.append(options) or 0)
    words = ["localhost", str(tmp_path), "--keep", "3", "--keep-bytes", "2G"]
    assert CliRunner().invoke(cli.command, words).exit_code == 0
    assert CliRunner().invoke(cli.command, words[:2]).exit_code == 0
    assert [(one.declared.keep, one.keep_bytes) for one in started] == [(3, 2 << 30), (1, 0)]


@pytest.mark.parametrize(
    "words", [("--keep", "0"), ("--keep", "17"), ("--keep-bytes", "much")], ids=" ".join
)
def test_wrong_bounds_are_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli.command, ["localhost", str(tmp_path), *words])
    assert result.exit_code == 2
    assert words[0] in result.output


# --- memory that others take --------------------------------------------------------------------


def killed() -> events.EngineDied:
    return events.EngineDied(
        ErrorInfo(code="out_of_memory", message="The kernel killed it.", signal="SIGKILL")
    )


def _back(rig: Rig) -> list[fx.Effect]:
    """The next engine child is ready."""
    return [*rig.turn(after_s=1.0), *rig.engine(child.Ready(facts=FACTS))]


def test_an_engine_killed_beside_other_contexts_costs_the_image_nothing(engine: Engine) -> None:
    """It is drawn by a new engine that holds nothing else, and only then is its end told."""
    engine.draws("tiny", "tiny")
    rig = engine.rig
    rig.begin(attempt(7), model="other")
    made = rig.turn(killed())
    assert not said(made, wire.Failed)
    assert "drawn again, alone" in log_of(made, "warning")
    made = _back(rig)
    draw = one(asked(made))
    assert one(said(rig.engine(child.Began(ticket=draw.ticket)), wire.Started)).attempt == attempt(
        7
    )
    rig.draw(draw.ticket)
    result = one(said(rig.encoded(attempt(7)), wire.Result))
    assert "other loaded contexts" in result.notes[0]


def test_an_engine_killed_alone_is_a_failure_also_the_second_time(engine: Engine) -> None:
    rig = engine.rig
    engine.draws("tiny", "tiny")
    rig.begin(attempt(7))
    assert one(said(rig.turn(killed()), wire.Failed)).error.code == "out_of_memory"
    _back(rig)
    engine.draws("tiny", "tiny")
    rig.begin(attempt(8), model="other")
    assert not said(rig.turn(killed()), wire.Failed)
    made = _back(rig)
    rig.engine(child.Began(ticket=one(asked(made)).ticket))
    assert one(said(rig.turn(killed()), wire.Failed)).attempt == attempt(8)


@pytest.mark.parametrize("ours", [True, False])
def test_what_nobody_wants_or_a_crash_is_not_drawn_again(engine: Engine, ours: bool) -> None:
    rig = engine.rig
    engine.draws("tiny", "tiny")
    rig.begin(attempt(7), model="other")
    if ours:
        rig.hear(wire.Abandon(attempt=attempt(7)))
        made = rig.turn(killed())
    else:
        made = rig.turn(crash())
    made = [*made, *_back(rig)]
    assert not asked(made)
    assert len(said(made, wire.Failed)) == (not ours)


def test_a_worker_that_leaves_stays_for_what_is_drawn_again(engine: Engine) -> None:
    rig = engine.rig
    engine.draws("tiny", "tiny")
    rig.encoded(attempt(0))
    rig.hear(wire.ResultRecorded(attempt=attempt(0)))
    rig.begin(attempt(7), model="other")
    made = rig.turn(events.StopRequested(), killed())
    assert not of(made, fx.Stop)
    made = _back(rig)
    rig.draw(one(asked(made)).ticket)
    rig.encoded(attempt(7))
    assert of(rig.hear(wire.ResultRecorded(attempt=attempt(7))), fx.Stop)
