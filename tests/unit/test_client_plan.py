"""Dry runs on the client's side: the machine, both clients, and the command line."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sdistrib.errors import ErrorInfo, PetitionError
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import decode_petition, encode, encode_petition
from sdistrib_client import AsyncClient, Client, compose, effects, events, finding
from sdistrib_client.cli.commands import cli
from sdistrib_client.requests import ANSWER_TIMEOUT_S, Requests
from tests.support.scripted_manager import ScriptedManager

BODY = encode_petition(Petition(params=Params(prompt="a house", model="m"), seed=7, images=4))
LACKING = ErrorInfo(code="model_not_found", message="No worker has vae 'x'.", closest=("y",))
PLACED = (
    wire.PlannedWorker(worker="gpu\x1b1", images=3, image_s=2.04, load_s=12.4, known=True),
    wire.PlannedWorker(worker="gpu2", images=1, image_s=30.0),
    wire.PlannedWorker(worker="gpu3", lacks=("vae 'x.safetensors'", "lora 'l'")),
    wire.PlannedWorker(worker="gpu4", reason="paused by ana"),
)


class Bench:
    """A welcomed machine and its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.machine = Requests("host:4133", "test", self.now)
        self.post(events.Tick())
        self.welcome()

    def post(self, event: events.Event) -> list[effects.Effect]:
        return self.machine.handle(event, self.now)

    def say(self, message: wire.Message) -> list[effects.Effect]:
        return self.post(events.FramesReceived(encode(message)))

    def welcome(self) -> list[effects.Effect]:
        return self.say(wire.Welcome(protocol=wire.VERSION, software="manager"))


def replies(out: list[effects.Effect]) -> list[effects.Reply]:
    return [effect for effect in out if isinstance(effect, effects.Reply)]


def test_a_plan_is_answered_once_and_by_its_number():
    bench = Bench()
    asked = effects.Send(wire.Plan(number=1), BODY)
    assert bench.post(events.PlanWished(1, BODY)) == [asked]
    assert bench.machine.busy
    assert replies(bench.say(wire.Planned(number=9))) == []
    planned = wire.Planned(number=1, eta_s=4.0, error=LACKING)
    (reply,) = replies(bench.say(planned))
    assert finding.planned_of(reply) == planned, "a refusal is part of the answer"
    assert not bench.machine.busy
    assert replies(bench.say(planned)) == []


def test_a_plan_whose_answer_was_lost_is_said_again_with_its_petition():
    bench = Bench()
    asked = effects.Send(wire.Plan(number=1), BODY)
    bench.post(events.PlanWished(1, BODY))
    bench.say(wire.Identify())
    assert asked in bench.welcome()


def test_a_plan_that_nobody_answers_ends():
    bench = Bench()
    bench.post(events.PlanWished(1, BODY))
    while bench.now < 1000 + ANSWER_TIMEOUT_S:
        bench.now += 1.0
        bench.say(wire.Beat())
    (reply,) = replies(bench.post(events.Tick()))
    with pytest.raises(PetitionError, match="did not answer 'plan'"):
        finding.planned_of(reply)


# --- Python and the command line, against a scripted manager ----------------------------------


def planning(**facts: Any) -> ScriptedManager:
    """A manager that answers every plan with these facts."""

    def answer(manager: ScriptedManager, route: bytes, plan: wire.Plan, _body: bytes) -> None:
        manager.say(route, wire.Planned(number=plan.number, **facts))

    return ScriptedManager({wire.Plan: answer})


def test_both_clients_plan_a_prompt_or_a_petition():
    async def ask(host: str) -> wire.Planned:
        async with AsyncClient(host) as client:
            return await client.plan("a house", model="m", images=3, priority="high")

    petition = compose({"prompt": "a house", "model": "m"}, images=2, seed=5)
    with ScriptedManager() as manager:
        with Client(manager.host) as client:
            first = client.plan(petition, steps=3)
        second = asyncio.run(ask(manager.host))
        bodies = [body for _, message, body in manager.heard if isinstance(message, wire.Plan)]
        assert not manager.of(wire.Submit)
    (worker,) = first.workers
    assert (worker.worker, worker.images, first.eta_s) == ("gpu1", 2, 4.0)
    assert second.workers[0].images == 3
    edited, made = map(decode_petition, bodies)
    assert (edited.seed, edited.images, edited.params.steps) == (5, 2, 3)
    assert (made.images, made.priority, made.params.prompt) == (3, "high", "a house")


def dry(manager: ScriptedManager, *words: str) -> Result:
    line = [manager.host, "-m", "m", "-p", "a house", "-b", "4", "--dry-run", *words]
    return CliRunner().invoke(cli, line, prog_name="sdistrib-client")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dry_run_shows_the_placement_and_submits_and_writes_nothing(here):
    with planning(workers=PLACED, eta_s=42.0, ahead=3, reason="both are busy") as manager:
        result = dry(manager, "--exact")
        assert not manager.of(wire.Submit)
        (body,) = [body for _, message, body in manager.heard if isinstance(message, wire.Plan)]
    assert decode_petition(body).exact
    assert list(here.iterdir()) == []
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert result.stdout.splitlines() == [
        "WORKER  PICTURES  EACH   LOADING  LACKS                          WHY NONE",
        "gpu 1   3         2.0 s  12 s     -                              -",
        "gpu2    1         ~30 s  -        -                              -",
        "gpu3    0         -      -        vae 'x.safetensors', lora 'l'  -",
        "gpu4    0         -      -        -                              paused by ana",
        "4 pictures in about 42 s, 3 pictures ahead: both are busy",
    ]


def test_a_dry_run_of_an_unknown_farm_says_so():
    with planning(reason="no worker is connected", cut=True) as manager:
        result = dry(manager)
    assert (result.exit_code, result.stdout.splitlines()[1:]) == (
        0, ["(none)", "4 pictures in a time not known yet: no worker is connected"],
    )  # fmt: skip
    assert "There are more" in result.stderr


def test_a_dry_run_that_would_be_refused_shows_the_table_and_has_the_refusals_status():
    with planning(workers=PLACED[2:], error=LACKING) as manager:
        result = dry(manager)
        assert not manager.of(wire.Submit)
    assert result.exit_code == 4, result.output
    assert "vae 'x.safetensors', lora 'l'" in result.stdout
    assert "in a time" not in result.stdout
    assert "No worker has vae 'x'." in result.stderr
    assert "closest: y" in result.stderr


@pytest.mark.parametrize(("error", "status"), [(None, 0), (LACKING, 4)])
def test_a_dry_run_as_json_ends_with_finished(error: ErrorInfo | None, status: int):
    with planning(workers=PLACED[:1], eta_s=42.0, error=error) as manager:
        result = dry(manager, "--json")
    planned, *told, finished = map(json.loads, result.stdout.splitlines())
    assert planned == {
        "event": "planned", "eta_s": 42.0, "ahead": 0, "reason": "", "cut": False,
        "workers": [
            {"worker": "gpu\x1b1", "images": 3, "image_s": 2.04, "load_s": 12.4, "known": True,
             "lacks": [], "reason": ""}
        ],
    }  # fmt: skip
    assert [one["code"] for one in told] == (["model_not_found"] if error else [])
    assert (finished["event"], finished["exit_status"]) == ("finished", status)
    assert finished["outcome"] == ("refused" if error else "done")
    assert result.exit_code == status
