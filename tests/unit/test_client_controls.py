"""Wishes about workers, on the client's side: the machine, and the command line."""

import json
from typing import Any, ClassVar, Self

import pytest
from click.testing import CliRunner, Result

from sdistrib.errors import ErrorInfo, PetitionError
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode
from sdistrib_client import effects, events, finding
from sdistrib_client.cli import lists
from sdistrib_client.cli.commands import cli
from sdistrib_client.requests import ANSWER_TIMEOUT_S, Requests

PAUSE = wire.Control(number=1, wish="pause", workers=("gpu1",))
DONE = wire.ControlAnswer("gpu1", "paused")


class Bench:
    """A welcomed machine and its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.machine = Requests("host:4133", "test", self.now)
        self.machine.handle(events.Tick(), self.now)
        self.welcome()

    def post(self, event: events.Event) -> list[effects.Effect]:
        return self.machine.handle(event, self.now)

    def say(self, message: wire.Message) -> list[effects.Effect]:
        return self.post(events.FramesReceived(encode(message)))

    def welcome(self) -> list[effects.Effect]:
        return self.say(wire.Welcome(protocol=wire.VERSION, software="manager"))

    def wish(self) -> list[effects.Effect]:
        return self.post(events.ControlWished(1, "pause", ("gpu1",)))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def sent(out: list[effects.Effect]) -> list[wire.Message]:
    return [effect.message for effect in out if isinstance(effect, effects.Send)]


def replies(out: list[effects.Effect]) -> list[effects.Reply]:
    return [effect for effect in out if isinstance(effect, effects.Reply)]


def test_a_wish_is_answered_by_what_each_did(bench):
    assert sent(bench.wish()) == [PAUSE]
    assert replies(bench.say(wire.Controlled(number=9, answers=(DONE,)))) == []
    (reply,) = replies(bench.say(wire.Controlled(number=1, answers=(DONE,))))
    assert finding.answers_of(reply) == (DONE,)
    assert not bench.machine.busy


def test_a_wish_whose_answer_was_lost_is_said_again(bench):
    bench.wish()
    bench.say(wire.Identify())
    assert sent(bench.welcome()) == [PAUSE]


def test_a_worker_that_nobody_knows_is_an_error_with_the_closest(bench):
    bench.wish()
    error = ErrorInfo(code="not_found", message="No worker is called 'gpu1'.", closest=("gpu2",))
    (reply,) = replies(bench.say(wire.Controlled(number=1, error=error)))
    with pytest.raises(PetitionError) as caught:
        finding.answers_of(reply)
    assert (caught.value.code, caught.value.info.closest) == ("not_found", ("gpu2",))


def test_a_wish_that_nobody_answers_ends(bench):
    bench.wish()
    while bench.now < 1000 + ANSWER_TIMEOUT_S:
        bench.now += 1.0
        bench.say(wire.Beat())
    (reply,) = replies(bench.post(events.Tick()))
    with pytest.raises(PetitionError, match="did not answer 'pause'"):
        finding.answers_of(reply)


@pytest.mark.parametrize("workers", [("x" * 513,), ("x",) * 257])
def test_names_that_the_wire_does_not_take_are_refused_here(workers):
    finding.checked_workers(("x" * 512,) * 256)
    with pytest.raises(PetitionError) as caught:
        finding.checked_workers(workers)
    assert caught.value.code == "invalid_params"


class FakeClient:
    """Notes what was wished."""

    did: ClassVar[list[tuple[str, tuple[str, ...]]]] = []
    answers: ClassVar[tuple[wire.ControlAnswer, ...]] = (DONE,)

    def __init__(self, host: str, **about: Any) -> None:
        self.host = host

    def control(self, wish: wire.WorkerWish, *workers: str) -> tuple[wire.ControlAnswer, ...]:
        self.did.append((wish, workers))
        return self.answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    class Client(FakeClient):
        did: ClassVar[list[tuple[str, tuple[str, ...]]]] = []

    monkeypatch.setattr(lists, "Client", Client)
    return Client


def run(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, ["h", *words], prog_name="sdistrib-client", env=env)


@pytest.mark.parametrize("wish", ["pause", "resume", "drain", "unload"])
def test_each_verb_is_a_wish_and_says_what_was_done(client, wish):
    client.answers = (DONE, wire.ControlAnswer("gpu\x1b2", "paused too"))
    result = run(wish, "gpu1", "gpu2")
    assert (result.exit_code, result.stdout) == (0, "gpu1: paused\ngpu 2: paused too\n")
    assert client.did == [(wish, ("gpu1", "gpu2"))]
    assert "WORKER" in run(wish, "--help").stdout
    assert f"HOST {wish}" in run("--help").stdout


def test_all_is_no_name(client):
    assert run("pause", "--all").exit_code == 0
    assert client.did == [("pause", ())]


@pytest.mark.parametrize("words", [[], ["gpu1", "--all"]])
def test_names_or_all_and_no_variable_decides_it(client, words):
    result = run("drain", *words, env={"SDISTRIB_ALL": "1"})
    assert result.exit_code == 2
    assert "names of workers, or --all" in result.output
    assert client.did == []


def test_one_that_did_not_obey_is_1_and_goes_to_standard_error(client):
    client.answers = (DONE, wire.ControlAnswer("gpu2", "nothing: it is away", obeyed=False))
    result = run("pause", "--all")
    assert result.exit_code == 1
    assert result.stdout == "gpu1: paused\n"
    assert result.stderr == "gpu2: nothing: it is away\n"


def test_json_has_a_row_for_each(client):
    client.answers = (DONE, wire.ControlAnswer("gpu2", "nothing: it is away", obeyed=False))
    result = run("pause", "--all", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"worker": "gpu1", "did": "paused", "obeyed": True},
        {"worker": "gpu2", "did": "nothing: it is away", "obeyed": False},
    ]


def test_a_paused_worker_is_listed_with_the_reason(capsys):
    facts = wire.WorkerFacts(
        name="gpu1", state="paused", reason="paused by ana",
        engine=wire.EngineFacts(version="1", backend="cpu", device="c", fingerprint="f"),
        declared=wire.Declared(max_pixels=9),
    )  # fmt: skip
    answer = wire.Answer(number=1, workers=(facts,))
    lists.show_workers(answer, as_json=False)
    assert "paused by ana" in capsys.readouterr().out.splitlines()[1]
    lists.show_workers(answer, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["reason"] == "paused by ana"
    assert shown["declared"] == {"max_pixels": 9, "max_batch": 0, "placement": [], "keep": 1}
