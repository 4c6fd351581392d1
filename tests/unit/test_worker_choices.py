"""What an owner decides whatever petitions wish: what is used, what is told, whose bits it is."""

import msgspec
import pytest
from click.testing import CliRunner

from sdistrib.params import Params
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib_manager.jobs import context_key
from sdistrib_worker import cli
from sdistrib_worker import effects as fx
from sdistrib_worker.choices import SWITCHES, marked, overruled, told
from tests.support.farm import Farm, Worker
from tests.support.rig import FACTS, Rig, asked, attempt, of, one, said

GPU = msgspec.structs.replace(FACTS, backend="cuda")


def params(**wishes) -> Params:
    return Params(prompt="x", model="tiny", **wishes)


@pytest.mark.parametrize(
    ("choices", "wishes", "used", "notes"),
    [
        ({}, {"clip_on_cpu": True, "threads": 3}, {"clip_on_cpu": True, "threads": 3}, []),
        ({"clip_on_cpu": False}, {"clip_on_cpu": True}, {}, ["keeps the text encoder on its dev"]),
        ({"vae_on_cpu": False}, {"vae_on_cpu": True}, {}, ["keeps the VAE on its device"]),
        ({"control_net_cpu": False}, {"control_net_cpu": True}, {}, ["the ControlNet on its"]),
        ({"offload_to_cpu": False}, {"offload_to_cpu": True}, {}, ["the weights on its device"]),
        ({"mmap": False}, {"mmap": True}, {}, ["instead of mapping"]),
        ({"max_vram": 6.0}, {"max_vram": 4.0}, {"max_vram": 6.0}, ["memory at 6 GiB"]),
        ({"max_vram": 0.0}, {"max_vram": 4.0}, {}, ["sets no bound"]),
        ({"threads": 4}, {"threads": 8}, {}, ["uses 4 CPU threads"]),
        # What nobody wished for, or what is done as wished, needs no words.
        ({"clip_on_cpu": True}, {}, {"clip_on_cpu": True}, []),
        ({"clip_on_cpu": True}, {"clip_on_cpu": True}, {"clip_on_cpu": True}, []),
        ({"max_vram": 6.0}, {}, {"max_vram": 6.0}, []),
        ({"threads": 4}, {}, {}, []),
        ({"threads": 4}, {"threads": 4}, {}, []),
    ],
)
def test_what_is_used_and_what_is_said_of_it(choices, wishes, used, notes):
    got, said_of_it = overruled(params(**wishes), choices)
    assert got == params(**used)
    assert len(said_of_it) == len(notes)
    for sentence, words in zip(said_of_it, notes, strict=True):
        assert words in sentence
        assert sentence.startswith("this worker ")
        assert sentence.endswith("(its owner's choice)")


def test_choices_are_told_by_the_names_of_their_parameters():
    assert told({"mmap": True, "clip_on_cpu": False, "max_vram": 6.5, "threads": 4}) == (
        "clip_on_cpu=false", "max_vram=6.5", "mmap=true", "threads=4",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "choices", "same"),
    [
        (FACTS, {"clip_on_cpu": True}, True),  # on a CPU nothing moves
        (GPU, {}, True),
        (GPU, {"offload_to_cpu": True, "mmap": False, "max_vram": 4.0, "threads": 2}, True),
        (GPU, {"clip_on_cpu": True}, False),
        (GPU, {"vae_on_cpu": False}, False),
        (GPU, {"control_net_cpu": True}, False),
    ],
)
def test_who_moves_computations_on_a_gpu_has_another_fingerprint(facts, choices, same):
    got = marked(facts, choices)
    assert (got == facts) is same
    assert len(got.fingerprint) == 16
    assert got == msgspec.structs.replace(facts, fingerprint=got.fingerprint)


def test_equal_choices_have_equal_fingerprints_and_others_have_others():
    on, off = marked(GPU, {"clip_on_cpu": True}), marked(GPU, {"clip_on_cpu": False})
    assert on.fingerprint != off.fingerprint
    assert marked(GPU, {"mmap": True, "clip_on_cpu": True}) == on


# --- the worker -------------------------------------------------------------------------------


def test_the_engine_gets_what_the_owner_decided_and_the_user_hears_of_it():
    rig = Rig(threads=2, choices={"clip_on_cpu": False, "offload_to_cpu": True})
    rig.connect()
    draw = one(asked(rig.grant(attempt(), clip_on_cpu=True, threads=8, prompt="a cat")))
    used = {"prompt": "a cat", "model": "tiny", "steps": 4, "offload_to_cpu": True}
    assert draw.params == Params(**used)
    assert draw.threads == 2
    rig.engine(child.Began(ticket=draw.ticket))
    made = rig.draw(draw.ticket, notes=("of the engine",))
    # The file says what the petition asked for, so that it can be asked for again.
    written = one(of(made, fx.EncodePicture)).facts
    assert (written.params.clip_on_cpu, written.params.threads) == (True, 8)
    result = one(said(rig.encoded(attempt()), wire.Result))
    assert [note.split(" (")[0] for note in result.notes] == [
        "this worker keeps the text encoder on its device", "this worker uses 2 CPU threads",
        "of the engine",
    ]  # fmt: skip


def test_wishes_that_are_not_followed_need_no_reload():
    rig = Rig(threads=2, choices={"clip_on_cpu": False})
    rig.connect()
    keys = set()
    for index, wishes in enumerate(({}, {"clip_on_cpu": True}, {"threads": 5}, {"threads": 2})):
        ticket = rig.begin(attempt(index), **wishes)
        keys.add(asked(rig.effects)[-1].context)
        rig.draw(ticket)
        rig.encoded(attempt(index))
    assert len(keys) == 1
    plain = Rig()
    plain.connect()
    assert one(asked(plain.grant(attempt()))).context in keys


def test_the_fingerprint_that_is_announced_is_in_results_too():
    rig = Rig(choices={"vae_on_cpu": True})
    rig.turn()
    hello = one(said(rig.engine(child.Ready(facts=GPU)), wire.WorkerHello))
    assert hello.engine == marked(GPU, {"vae_on_cpu": True}) != GPU
    rig.welcome()
    rig.draw(rig.begin(attempt()))
    assert one(said(rig.encoded(attempt()), wire.Result)).fingerprint == hello.engine.fingerprint
    # A new child of the same kind is no other engine.
    assert not said(rig.engine(child.Ready(facts=GPU)), wire.WorkerHello)


# --- the command ------------------------------------------------------------------------------


def chosen(monkeypatch, tmp_path, *words):
    """Options of a worker started with these words."""
    seen = []
    monkeypatch.setattr(cli, "run", lambda options, _engine: seen.append(options) or 0)
    result = CliRunner().invoke(cli.command, ["127.0.0.1", str(tmp_path), *words])
    assert result.exit_code == 0, result.output
    return one(seen)


def test_nothing_is_decided_unless_it_is_typed(monkeypatch, tmp_path):
    assert chosen(monkeypatch, tmp_path).choices == {}


def test_each_choice_can_be_typed_either_way(monkeypatch, tmp_path):
    on = [f"--{name.replace('_', '-')}" for name in SWITCHES]
    off = [f"--no-{name.replace('_', '-')}" for name in SWITCHES]
    more = ["--max-vram", "6"]
    assert chosen(monkeypatch, tmp_path, *on, *more).choices == {
        **dict.fromkeys(SWITCHES, True), "max_vram": 6.0,
    }  # fmt: skip
    assert chosen(monkeypatch, tmp_path, *off).choices == dict.fromkeys(SWITCHES, False)
    monkeypatch.setenv("SDISTRIB_WORKER_CLIP_ON_CPU", "0")
    assert chosen(monkeypatch, tmp_path).choices == {"clip_on_cpu": False}


# --- the manager ------------------------------------------------------------------------------


def nobody(_kind, _name):
    return None


def test_the_managers_key_leaves_out_what_is_decided():
    wish, plain = params(clip_on_cpu=True, fa=True), params(fa=True)
    assert context_key(wish, nobody) != context_key(plain, nobody)
    decided = frozenset({"clip_on_cpu", "mmap"})
    assert context_key(wish, nobody, decided) == context_key(plain, nobody, decided)
    assert context_key(wish, nobody, decided) == context_key(plain, nobody)


def test_decided_is_what_all_workers_that_are_here_decide():
    farm = Farm()
    assert farm.manager.state.roster.decided() == frozenset()
    Worker(farm, declared=wire.Declared(placement=("clip_on_cpu=false", "threads=4")))
    assert farm.manager.state.roster.decided() == {"clip_on_cpu", "threads"}
    other = Worker(farm, "gpu2", declared=wire.Declared(placement=("threads=8", "mmap=true")))
    assert farm.manager.state.roster.decided() == {"threads"}
    other.says(wire.Goodbye())
    assert farm.manager.state.roster.decided() == {"clip_on_cpu", "threads"}
