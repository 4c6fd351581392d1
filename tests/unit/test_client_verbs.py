"""Petitions of before, on the client's side: the machine, the editing, and the command line."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
import pytest
from click.testing import CliRunner, Result

from sdistrib.errors import ErrorInfo, PetitionError
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode, encode_petition
from sdistrib_client import effects, events, finding
from sdistrib_client.cli import draw, lists, verbs
from sdistrib_client.cli.commands import cli
from sdistrib_client.composing import compose, edit
from sdistrib_client.effects import Ending
from sdistrib_client.errors import OutputError, Unreachable, error_of
from sdistrib_client.finding import Found
from sdistrib_client.pictures import Picture, Timings
from sdistrib_client.requests import ANSWER_TIMEOUT_S, Requests

ID, OTHER = "a" * 32, "b" * 32
PETITION = Petition(params=Params(prompt="a house", model="m", steps=9), seed=7, images=2)
BODY = encode_petition(PETITION)


class Bench:
    """A welcomed machine, its time, and a manager played by the test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.machine = Requests("host:4133", "test", self.now)
        self.post(events.Tick())
        self.welcome()

    def post(self, event: events.Event) -> list[effects.Effect]:
        return self.machine.handle(event, self.now)

    def say(self, message: wire.Message, body: bytes | None = None) -> list[effects.Effect]:
        return self.post(events.FramesReceived(encode(message, body)))

    def welcome(self) -> list[effects.Effect]:
        return self.say(wire.Welcome(protocol=wire.VERSION, software="manager"))

    def reconnects(self) -> list[wire.Message]:
        """The manager is another one; what is said to it."""
        self.say(wire.Identify())
        return sent(self.welcome())

    def picture(self, index: int, *, taken: bool = True) -> list[effects.Effect]:
        data = b"picture %d" % index
        out = self.say(result(index, data), data)
        return out + (self.post(events.PictureTaken(ID, index)) if taken else [])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def sent(out: list[effects.Effect]) -> list[wire.Message]:
    return [effect.message for effect in out if isinstance(effect, effects.Send)]


def end(out: list[effects.Effect]) -> Ending:
    (found,) = [effect.ending for effect in out if isinstance(effect, effects.End)]
    return found


def replies(out: list[effects.Effect]) -> list[effects.Reply]:
    return [effect for effect in out if isinstance(effect, effects.Reply)]


def result(index: int, data: bytes) -> wire.Result:
    return wire.Result(
        attempt=wire.Attempt(ID, index, 1), seed=7 + index, size_bytes=len(data), format="png",
        digest=hashlib.sha256(data).hexdigest(), width=8, height=8, worker="gpu1",
        fingerprint="f" * 16, context="c",
    )  # fmt: skip


# --- The machine ----------------------------------------------------------------------------


def test_a_detached_petition_ends_here_once_it_is_accepted(bench):
    out = bench.post(events.PetitionMade(ID, BODY, 2, detach=True))
    assert sent(out) == [wire.Submit(id=ID, detach=True)]
    out = bench.say(wire.Accepted(id=ID, state="queued"))
    assert isinstance(out[0], effects.ShowAccepted)
    assert (end(out).outcome, end(out).error) == ("detached", None)
    assert not bench.machine.busy


def test_a_detached_petition_whose_answer_was_lost_is_sent_again(bench):
    bench.post(events.PetitionMade(ID, BODY, 2, detach=True))
    assert bench.reconnects() == [wire.Submit(id=ID, detach=True)]


def test_an_attached_petition_is_done_without_pictures_that_others_had(bench):
    out = bench.post(events.PetitionSought(ID, 2))
    assert sent(out) == [wire.Attach(id=ID)]
    bench.say(wire.Accepted(id=ID, state="running", images=2))
    bench.picture(1)
    out = bench.say(wire.Finished(id=ID, state="done", done=(0, 1)))
    assert end(out) == Ending(outcome="done", done=(0, 1))


def test_attaching_is_said_again_on_a_new_connection(bench):
    bench.post(events.PetitionSought(ID, 2))
    bench.say(wire.Accepted(id=ID, state="running", images=2))
    assert bench.reconnects() == [wire.Attach(id=ID)]


def test_a_fetch_that_gets_all_is_done(bench):
    out = bench.post(events.PetitionSought(ID, 2, again=True, wait=False))
    assert sent(out) == [wire.Attach(id=ID, again=True, wait=False)]
    bench.picture(0)
    bench.picture(1)
    assert end(bench.say(wire.Finished(id=ID, state="done", done=(0, 1)))).error is None


def test_a_fetch_of_what_goes_on_is_unfinished_and_no_error(bench):
    bench.post(events.PetitionSought(ID, 2, again=True, wait=False))
    bench.picture(0)
    ending = end(bench.say(wire.Finished(id=ID, state="running", done=(0,))))
    assert (ending.outcome, ending.error, ending.done) == ("unfinished", None, (0,))
    assert "1 of 2 pictures are done" in ending.reason
    assert error_of(ending) is None


def test_a_fetch_without_pictures_that_are_gone_says_which(bench):
    bench.post(events.PetitionSought(ID, 2, again=True, wait=False))
    bench.picture(1)
    ending = end(bench.say(wire.Finished(id=ID, state="done", done=(0, 1))))
    assert ending.error is not None
    assert (ending.error.code, "[0]" in ending.error.message) == ("not_found", True)


def test_leaving_detaches_and_cancels_nothing(bench):
    bench.post(events.PetitionSought(ID, 2))
    bench.picture(0, taken=False)
    out = bench.post(events.PetitionLeft(ID))
    assert sent(out) == [wire.Detach(id=ID)]
    assert end(out).outcome == "detached"
    assert sent(bench.post(events.PetitionLeft(ID))) == []


def test_a_cancel_of_an_attached_petition_asks_the_manager_whenever_it_comes():
    bench = Bench()
    bench.say(wire.Identify())
    bench.post(events.PetitionSought(ID, 2))
    assert sent(bench.post(events.CancelWished(ID))) == []
    assert sent(bench.welcome()) == [wire.Cancel(id=ID)]
    out = bench.say(wire.Cancelled(id=ID, done=(1,)))
    assert (end(out).outcome, end(out).done) == ("cancelled", (1,))


@pytest.mark.parametrize("state", ["done", "failed", "expired"])
def test_a_cancel_by_id_of_what_had_ended_says_how(bench, state):
    bench.post(events.CancelWished(ID))
    out = bench.say(wire.Cancelled(id=ID, done=(0,), state=state))
    assert end(out) == Ending(outcome=state, done=(0,))


def test_a_damaged_picture_does_not_cancel_a_petition_that_is_only_attached(bench):
    bench.post(events.PetitionSought(ID, 2))
    out = bench.say(result(0, b"picture"), b"damaged")
    assert wire.Detach(id=ID) in sent(out)
    assert end(out).outcome == "failed"


def test_a_retry_is_said_until_it_is_accepted_and_then_it_is_an_attach(bench):
    out = bench.post(events.RetryWished(ID, 2, BODY))
    assert sent(out) == [wire.Retry(id=ID)]
    assert isinstance(out[0], effects.Send)
    assert out[0].body == BODY
    assert bench.reconnects() == [wire.Retry(id=ID)]
    bench.say(wire.Accepted(id=ID, state="queued"))
    assert bench.reconnects() == [wire.Attach(id=ID)]
    bench.picture(1)
    assert end(bench.say(wire.Finished(id=ID, state="done", done=(0, 1)))).outcome == "done"


def test_a_detached_retry_ends_here_once_it_is_accepted(bench):
    out = bench.post(events.RetryWished(ID, 2, detach=True))
    assert sent(out) == [wire.Retry(id=ID, detach=True)]
    assert end(bench.say(wire.Accepted(id=ID, state="queued"))).outcome == "detached"


def test_pictures_that_others_saw_while_the_line_was_down_are_asked_for_once(bench):
    bench.post(events.PetitionMade(ID, BODY, 2))
    bench.say(wire.Accepted(id=ID, state="queued"))
    bench.picture(0)
    assert bench.reconnects() == [wire.Submit(id=ID)]
    finished = wire.Finished(id=ID, state="done", done=(0, 1))
    assert sent(bench.say(finished)) == [wire.Attach(id=ID, again=True)]
    repeat = bench.picture(0, taken=False)
    assert sent(repeat) == [wire.ResultSeen(id=ID, index=0)]
    assert not [effect for effect in repeat if isinstance(effect, effects.Deliver)]
    bench.picture(1)
    assert end(bench.say(finished)).outcome == "done"


def test_a_petition_that_is_purged_while_it_is_fetched_ends(bench):
    bench.post(events.PetitionSought(ID, 2))
    bench.say(wire.Accepted(id=ID, state="done"))
    error = ErrorInfo(code="not_found", message="It was forgotten.")
    assert end(bench.say(wire.Refused(id=ID, error=error))).error == error


def test_a_question_keeps_its_words_over_a_reconnect(bench):
    out = bench.post(events.QuestionAsked(1, "petition", id="ab"))
    asked = wire.Ask(number=1, what="petition", id="ab")
    assert sent(out) == bench.reconnects() == [asked]
    (reply,) = replies(bench.say(wire.Answer(number=1), BODY))
    assert reply.body == BODY


def test_a_purge_is_answered_by_purged(bench):
    assert sent(bench.post(events.PurgeWished(1, ID))) == [wire.Purge(id=ID)]
    assert bench.reconnects() == [wire.Purge(id=ID)]
    assert replies(bench.say(wire.Purged(id=OTHER, petitions=1))) == []
    (reply,) = replies(bench.say(wire.Purged(id=ID, petitions=1)))
    assert finding.count_of(reply) == 1
    assert not bench.machine.busy


def test_a_refused_purge_ends_neither_the_drawing_nor_hangs(bench):
    bench.post(events.PetitionMade(ID, BODY, 2))
    bench.say(wire.Accepted(id=ID, state="running"))
    bench.post(events.PurgeWished(1, ID))
    error = ErrorInfo(code="invalid_params", message="Cancel it first.")
    out = bench.say(wire.Refused(id=ID, error=error))
    assert not [effect for effect in out if isinstance(effect, effects.End)]
    with pytest.raises(PetitionError, match="Cancel it first"):
        finding.count_of(replies(out)[0])


def test_a_purge_that_nobody_answers_ends(bench):
    bench.post(events.PurgeWished(1, ""))
    while bench.now < 1000 + ANSWER_TIMEOUT_S:
        bench.now += 1.0
        bench.say(wire.Beat())
    (reply,) = replies(bench.post(events.Tick()))
    with pytest.raises(PetitionError, match="did not answer 'purge'"):
        finding.count_of(reply)


# --- Ids and edits --------------------------------------------------------------------------


def row(petition_id: str = ID, **more: Any) -> wire.QueuedPetition:
    facts: dict[str, Any] = {"state": "failed", "model": "m", "images": 2, "done": 1, "failed": 1}
    return wire.QueuedPetition(id=petition_id, **{**facts, **more})


@pytest.mark.parametrize("text", ["", " ", "xyz", "-1", "a" * 33, "../a", "a b"])
def test_what_is_no_id_is_refused_before_anything_is_sent(text):
    with pytest.raises(PetitionError) as caught:
        finding.id_start(text)
    assert caught.value.code == "invalid_params"


def test_an_id_may_be_shortened_and_typed_in_any_case():
    assert finding.id_start(" AB12 ") == "ab12"
    assert not finding.is_whole("a" * 31)
    assert finding.is_whole(ID)


def test_the_beginning_of_an_id_must_name_one_petition():
    rows = (row("ab" * 16), row("ac" * 16))
    assert finding.only_row(wire.Answer(number=1, queue=rows[:1]), "ab") == rows[0]
    with pytest.raises(PetitionError, match="No petition's id begins with a"):
        finding.only_row(wire.Answer(number=1), "a")
    with pytest.raises(PetitionError, match=r"abababab.*acacacac.*Give more digits") as caught:
        finding.only_row(wire.Answer(number=1, queue=rows), "a")
    assert caught.value.code == "not_found"


def test_an_edit_keeps_what_is_not_named():
    edited = edit(PETITION, {"steps": 3, "sampling_method": "DPM++ 2M Karras"})
    assert (edited.seed, edited.images, edited.params.prompt) == (7, 2, "a house")
    assert (edited.params.steps, edited.params.sampling_method) == (3, "dpm++2m")
    assert edited.params.scheduler == "karras"
    assert edit(edited, {"scheduler": None}).params.scheduler is None
    assert edit(edited, {"sampling_method": "Euler Exponential"}).params.scheduler == "exponential"


def test_an_edit_may_change_how_it_stands_beside_others():
    assert (PETITION.priority, PETITION.hedge, PETITION.exact) == ("normal", True, False)
    edited = edit(
        PETITION,
        {"priority": "high", "hedge": False, "exact": True, "timeout_s": 9.0, "on_oom": "fail"},
    )
    assert edited == msgspec.structs.replace(
        PETITION, priority="high", hedge=False, exact=True, timeout_s=9.0, on_oom="fail"
    )


@pytest.mark.parametrize(
    "changes",
    [{"stpes": 3}, {"steps": 0}, {"prompt": " "}, {"width": 17}, {"priority": "urgent"},
     {"hedge": 2}, {"exact": "yes"}, {"timeout_s": -1.0}, {"images": 3}, {"seed": 1}],
)  # fmt: skip
def test_an_edit_is_checked_as_a_new_petition_is(changes):
    with pytest.raises(PetitionError) as caught:
        edit(PETITION, changes)
    assert caught.value.code == "invalid_params"


def test_a_retry_without_changes_sends_no_parameters():
    assert finding.retry_of(Found(row(), PETITION), {}, None) is None
    assert finding.retry_of(Found(row(), PETITION), {"steps": 9}, None) is None
    edited = finding.retry_of(Found(row(), PETITION), {}, 60.0)
    assert edited is not None
    assert edited.timeout_s == 60.0


@pytest.mark.parametrize("facts", [{"state": "running"}, {"state": "done", "done": 2}])
def test_there_must_be_something_to_retry(facts):
    with pytest.raises(PetitionError, match="nothing to try again"):
        finding.retry_of(Found(row(**facts), PETITION), {}, None)


# --- The command line -----------------------------------------------------------------------


class FakeDrawing:
    """Two pictures, then the ending."""

    id = ID
    petition = PETITION

    def __init__(self, client: "FakeClient", **callbacks: Any) -> None:
        self._client = client
        self._callbacks = callbacks
        self.ending: Ending | None = None

    def __iter__(self) -> Iterator[Picture]:
        accepted = wire.Accepted(id=ID, state=self._client.row.state, images=2)
        self._callbacks["on_accepted"](accepted)
        for index in self._client.pictures:
            yield Picture(
                index=index, seed=7 + index, data=b"png%d" % index, width=8, height=8,
                format=self._client.format, sha256="0" * 64, worker="gpu1", fingerprint="f" * 16,
                timings=Timings(1.0, 2.0, 3.0),
            )  # fmt: skip
        self.ending = self._client.ending
        error = error_of(self.ending)
        if error is not None:
            raise error

    def wait(self) -> str:
        for _ in self:
            raise AssertionError("a detached petition has no pictures here")
        return self.id

    def cancel(self) -> None:
        """Not reached."""

    def close(self) -> None:
        self._client.did.append(("close", {}))


class FakeClient:
    """Stands where the verbs make their client; keeps what it is asked."""

    row = row()
    petition = PETITION
    format = "png"
    ending = Ending(outcome="done", done=(0, 1))
    pictures: tuple[int, ...] = (0, 1)
    error: Exception | None = None
    cancelled = True
    cut = False
    did: ClassVar[list[tuple[str, dict[str, Any]]]]

    def __init__(self, host: str, **options: Any) -> None:
        self.on_notice = options["on_notice"]

    def _do(self, what: str, **about: Any) -> None:
        self.did.append((what, about))
        if self.error is not None:
            raise self.error

    def find(self, petition_id: str) -> wire.QueuedPetition:
        self._do("find", id=petition_id)
        return self.row

    def look(self, petition_id: str) -> Found:
        self._do("look", id=petition_id)
        return Found(self.row, self.petition)

    def ask(self, what: str, *, every: bool, **_: Any) -> wire.Answer:
        self._do(what, every=every)
        return wire.Answer(number=1, queue=(self.row, row(OTHER, state="running")), cut=self.cut)

    def draw(self, petition: Petition, *, detach: bool, on_accepted: Any, **_: Any) -> FakeDrawing:
        self._do("draw", detach=detach, steps=petition.params.steps)
        return FakeDrawing(self, on_accepted=on_accepted)

    def attach(self, petition_id: str, **callbacks: Any) -> FakeDrawing:
        self._do("attach", id=petition_id)
        return FakeDrawing(self, **callbacks)

    def fetch(self, petition_id: str, **callbacks: Any) -> FakeDrawing:
        self._do("fetch", id=petition_id)
        return FakeDrawing(self, **callbacks)

    def retry(
        self, petition_id: str, *, on_accepted: Any, on_progress: Any, on_preview: Any,
        on_sending: Any, **about: Any,
    ) -> FakeDrawing:  # fmt: skip
        self._do("retry", id=petition_id, **about)
        return FakeDrawing(self, on_accepted=on_accepted)

    def cancel(self, petition_id: str) -> bool:
        self._do("cancel", id=petition_id)
        return self.cancelled

    def purge(self, petition_id: str | None) -> int:
        self._do("purge", id=petition_id)
        return 1

    def close(self, *, wait: bool = True) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeClient]:
    """Fresh notes, and an empty folder to write into."""

    class Client(FakeClient):
        did: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    monkeypatch.setattr(draw, "Client", Client)
    monkeypatch.setattr(lists, "Client", Client)
    monkeypatch.chdir(tmp_path)
    return Client


def run(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, ["h", *words], prog_name="sdistrib-client", env=env)


def did(client: type[FakeClient], what: str) -> dict[str, Any]:
    (about,) = [about for name, about in client.did if name == what]
    return about


def test_detach_prints_the_id_and_writes_nothing(client, tmp_path):
    client.pictures, client.ending = (), Ending(outcome="detached")
    result = run("-m", "m", "-p", "a house", "--detach")
    assert (result.exit_code, result.stdout) == (0, f"{ID}\n"), result.output
    assert did(client, "draw")["detach"]
    assert list(tmp_path.iterdir()) == []
    events_ = run("-m", "m", "-p", "a house", "--detach", "--json").stdout.splitlines()
    told = [json.loads(line) for line in events_]
    assert [event["event"] for event in told] == ["accepted", "finished"]
    assert all(event["id"] == ID for event in told)
    assert (told[-1]["outcome"], told[-1]["exit_status"]) == ("detached", 0)


def test_detach_of_what_is_refused_prints_no_id(client):
    error = ErrorInfo(code="busy", message="Full.")
    client.pictures, client.ending = (), Ending(outcome="refused", error=error)
    result = run("-m", "m", "-p", "a house", "--detach")
    assert (result.exit_code, result.stdout) == (7, "")


@pytest.mark.parametrize("words", [["-o", "x.png"], ["--output-begin-idx", "3"]])
@pytest.mark.parametrize("verb", [["-m", "m", "-p", "p"], ["retry", "aa"]])
def test_detach_and_a_file_exclude_each_other(client, verb, words):
    result = run(*verb, "--detach", *words)
    assert result.exit_code == 2
    assert "--detach writes no picture" in result.stderr
    assert run(*verb, "--detach", env={"SDISTRIB_OUTPUT": "x.png"}).exit_code != 2


@pytest.mark.parametrize("verb", ["attach", "fetch"])
def test_pictures_are_named_as_in_drawing(client, verb):
    result = run(verb, "aa", "-o", "house.png", "-v")
    assert result.exit_code == 0, result.output
    assert did(client, "look") == {"id": "aa"}
    assert did(client, verb) == {"id": ID}
    assert Path("house_0.png").read_bytes() == b"png0"
    assert Path("house_1.png").read_bytes() == b"png1"
    assert f"petition {ID} is accepted\n" in result.stderr
    assert "a house" not in result.output


def test_attaching_to_an_ended_petition_points_to_fetch(client):
    assert "`fetch aaaaaaaa` writes all" in run("attach", "aa").stderr
    client.row = row(state="running")
    assert "fetch" not in run("attach", "aa").stderr


def test_fetch_of_what_goes_on_is_1_with_a_sentence(client):
    client.ending = Ending(outcome="unfinished", reason="The petition is running.", done=(0,))
    result = run("fetch", "aa")
    assert result.exit_code == 1
    assert result.stderr.endswith("The petition is running.\n")
    told = [json.loads(line) for line in run("fetch", "aa", "--json").stdout.splitlines()]
    assert [event["event"] for event in told] == ["accepted", "image", "image", "finished"]
    assert (told[-1]["outcome"], told[-1]["exit_status"]) == ("unfinished", 1)


def test_fetch_of_what_failed_has_the_failures_status(client):
    error = ErrorInfo(code="quarantined", message="It killed two engines.")
    client.ending = Ending(
        outcome="failed", error=error, done=(0,), failures=(wire.ImageFailure(1, error),)
    )
    result = run("fetch", "aa")
    assert result.exit_code == 5
    assert "retry ID" in result.stderr


def test_a_file_that_cannot_be_written_cancels_nothing_of_a_fetch(client, monkeypatch):
    def fail(*_: object) -> None:
        raise OutputError("The disk is full.")

    monkeypatch.setattr("sdistrib_client.images.Outputs.write", fail)
    result = run("fetch", "aa")
    assert result.exit_code == 1
    assert ("close", {}) in client.did
    assert "stays with the manager" in result.stderr


@pytest.mark.parametrize("verb", ["attach", "fetch", "cancel", "retry", "status"])
def test_an_id_nobody_knows_is_1_and_says_what_to_do(client, verb):
    client.error = PetitionError.of("not_found", "No petition's id begins with aa.")
    result = run(verb, "aa")
    assert result.exit_code == 1
    assert "queue --all" in result.stderr


def test_an_unreachable_manager_is_3_in_both_forms(client):
    client.error = Unreachable("Nobody answers.")
    assert run("attach", "aa").exit_code == 3
    result = run("fetch", "aa", "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 3
    assert (told[0]["code"], told[-1]["outcome"]) == ("unreachable", "unreachable")


def test_retry_changes_what_was_typed_and_nothing_else(client):
    env = {"SDISTRIB_STEPS": "30", "SDISTRIB_TIMEOUT": "5"}
    result = run("retry", "aa", "-p", "a tower", "--vae-tiling", env=env)
    assert result.exit_code == 0, result.output
    assert did(client, "retry") == {
        "id": ID, "detach": False, "timeout_s": None, "prompt": "a tower", "vae_tiling": True,
    }  # fmt: skip
    assert Path("output_1.png").exists()


def test_retry_takes_loras_embeddings_and_prompt_files_that_were_typed(client):
    Path("p.txt").write_text("a tower\n", encoding="utf-8")
    env = {"SDISTRIB_EMBEDDING": "red", "SDISTRIB_NEGATIVE_PROMPT_FILE": "p.txt"}
    result = run("retry", "aa", "--lora", "ink:2", "--prompt-file", "p.txt", env=env)
    assert result.exit_code == 0, result.output
    assert did(client, "retry") == {
        "id": ID, "detach": False, "timeout_s": None, "prompt": "a tower", "loras": ("ink:2",),
    }  # fmt: skip


def test_retry_changes_the_urgency_that_was_typed(client):
    words = ("--priority", "low", "--no-hedge", "--exact", "--on-oom", "fail")
    assert run("retry", "aa", *words).exit_code == 0
    assert did(client, "retry") == {
        "id": ID, "detach": False, "timeout_s": None, "priority": "low", "hedge": False,
        "exact": True, "on_oom": "fail",
    }  # fmt: skip


def test_retry_with_a_time_limit_and_detached(client):
    client.pictures, client.ending = (), Ending(outcome="detached")
    result = run("retry", "aa", "--timeout", "60", "--detach")
    assert (result.exit_code, result.stdout) == (0, f"{ID}\n"), result.output
    assert did(client, "retry") == {"id": ID, "detach": True, "timeout_s": 60.0}


@pytest.mark.parametrize("words", [["-b", "3"], ["-s", "1"], ["more"]])
def test_retry_does_not_take_what_it_keeps(client, words):
    assert run("retry", "aa", *words).exit_code == 2
    assert client.did == []


def test_cancel_says_what_stays(client):
    client.row = row(state="cancelled")
    result = run("cancel", "aa")
    assert (result.exit_code, result.stdout) == (
        0, "aaaaaaaa is cancelled; 1 of 2 pictures are done and stay.\n",
    )  # fmt: skip
    assert json.loads(run("cancel", "aa", "--json").stdout) == {
        "id": ID, "cancelled": True, "state": "cancelled", "done": 1,
    }  # fmt: skip


def test_a_cancel_that_is_not_confirmed_is_1(client):
    client.row, client.cancelled = row(state="running"), False
    result = run("cancel", "aa")
    assert result.exit_code == 1
    assert "not confirmed" in result.stdout


def test_purge_asks_first(client, monkeypatch):
    assert run("purge", "aa").exit_code == 2
    assert not [what for what, _ in client.did if what == "purge"]
    asked: list[str] = []
    monkeypatch.setattr(verbs, "_confirm", asked.append)
    assert run("purge", "--all").stdout == "1 petition forgotten.\n"
    assert asked == ["Forget all petitions that have ended (1) for good?"]
    assert did(client, "purge") == {"id": None}


def test_purge_does_not_claim_to_have_counted_a_list_that_was_cut(client, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(verbs, "_confirm", asked.append)
    monkeypatch.setattr(client, "cut", True)
    assert run("purge", "--all").exit_code == 0
    assert asked == ["Forget all petitions that have ended (1 or more) for good?"]


def test_purge_unasked(client):
    assert json.loads(run("purge", "aa", "--yes", "--json").stdout) == {"petitions": 1}
    assert did(client, "purge") == {"id": ID}


@pytest.mark.parametrize("words", [[], ["aa", "--all"]])
def test_purge_wants_one_or_all(client, words):
    env = {"SDISTRIB_ALL": "1", "SDISTRIB_YES": "1"}
    result = run("purge", *words, "--yes", env=env)
    assert result.exit_code == 2
    assert client.did == []


def test_queue_lists_ended_ones_when_asked(client):
    run("queue")
    run("queue", "--all")
    assert [about["every"] for _, about in client.did] == [False, True]


def test_status_of_a_petition_is_one_line(client):
    client.row = row(state="queued", done=0, failed=0, ahead=5, reason="only on gpu2")
    result = run("status", "aa")
    assert result.stdout == "aaaaaaaa: queued, 0/2 done, 5 pictures ahead: only on gpu2\n"
    client.row = row(state="running", running=1)
    assert run("status", "aa").stdout == "aaaaaaaa: running, 1/2 done, 1 running, 1 failed\n"
    assert json.loads(run("status", "aa", "--json").stdout)["state"] == "running"


def test_every_verb_has_help_with_its_id(client):
    for verb in ("attach", "fetch", "cancel", "retry", "purge", "status"):
        assert "ID" in run(verb, "--help").stdout
    assert "HOST attach" in run("--help").stdout
    assert "HOST attach" not in run("retry", "--help").stdout


@pytest.mark.parametrize("verb", ["attach", "fetch"])
@pytest.mark.parametrize(("words", "name"), [([], "output_0.jpg"), (["-o", "a"], "a_0.jpg")])
def test_a_petitions_own_format_names_its_pictures(client, monkeypatch, verb, words, name):
    params = msgspec.structs.replace(PETITION.params, format="jpeg")
    monkeypatch.setattr(client, "petition", msgspec.structs.replace(PETITION, params=params))
    monkeypatch.setattr(client, "format", "jpeg")
    result = run(verb, "aa", *words)
    assert result.exit_code == 0, result.output
    assert Path(name).read_bytes() == b"png0"
    refused = run(verb, "aa", "-o", "a.png")
    assert refused.exit_code == 2
    assert "name it a.jpg" in refused.stderr


def test_a_retry_in_another_format_leaves_the_quality_of_before_behind(client):
    petition = compose({"prompt": "x", "model": "m", "format": "jpeg", "quality": 80})
    assert edit(petition, {"format": "png"}).params.quality is None
    assert edit(petition, {"format": "webp", "quality": 30}).params.quality == 30
    assert edit(petition, {"steps": 3}).params.quality == 80
    result = run("retry", "aa", "-o", "a.webp")
    assert result.exit_code == 0, result.output
    assert did(client, "retry")["format"] == "webp"
