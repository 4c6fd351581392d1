"""What a client or its owner may wish of a worker: the machine, by hand-made events."""

import itertools

import pytest

from sdistrib import limits
from sdistrib.errors import ConfigError
from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.protocol import engine as child
from sdistrib.protocol import messages as wire
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from sdistrib_worker.allowed import allowed_files, parse_pixels, too_large
from sdistrib_worker.shelf import StoredFile
from tests.support.rig import FACTS, Rig, asked, attempt, crash, log_of, of, one, said

OPEN = wire.Standing(state="open")
PAUSED = wire.Standing(state="paused", reason="paused by ana")
DRAINED = wire.Standing(state="draining", reason="drained by ana")
NUMBERS = itertools.count(1)


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.connect()
    return made


def wish(rig: Rig, what: wire.WorkerWish, by: str = "ana") -> list[fx.Effect]:
    """A client wishes something."""
    return rig.hear(wire.Steer(number=next(NUMBERS), wish=what, by=by))


def did(made: list[fx.Effect]) -> str:
    """What the worker says it did."""
    return str(one(said(made, wire.Steered)).did)


def shut(rig: Rig, source: str, reason: str) -> list[fx.Effect]:
    """Hours or the device forbid work, or allow it."""
    return rig.turn(events.AvailabilityChanged(source, reason))


def finish(rig: Rig, ticket: int, index: int = 0) -> list[fx.Effect]:
    """The image under way is drawn, made into a file and recorded."""
    rig.draw(ticket)
    rig.encoded(attempt(index))
    return rig.hear(wire.ResultRecorded(attempt=attempt(index)))


# --- pause and resume -------------------------------------------------------------------------


def test_a_pause_tells_first_gives_back_what_has_not_begun_and_finishes_the_rest(rig):
    ticket = rig.begin(attempt(0), attempt(1), attempt(2))
    made = rig.hear(wire.Steer(number=7, wish="pause", by="ana"))
    steered = one(said(made, wire.Steered))
    assert (steered.number, steered.did) == (7, "paused; it finishes the image under way")
    revoked = [wire.Revoked(attempt=attempt(index)) for index in (1, 2)]
    assert said(made)[1:] == [PAUSED, *revoked]
    assert "paused by ana" in log_of(made)
    assert not asked(rig.draw(ticket))
    assert one(said(rig.encoded(attempt(0)), wire.Result)).attempt == attempt(0)


def test_a_grant_that_crosses_a_pause_is_given_back(rig):
    wish(rig, "pause")
    made = rig.grant(attempt(0), attempt(1))
    assert said(made) == [wire.Revoked(attempt=attempt(0)), wire.Revoked(attempt=attempt(1))]
    assert not asked(made)


def test_resume_takes_grants_again(rig):
    wish(rig, "pause")
    made = wish(rig, "resume")
    assert did(made) == "resumed"
    assert said(made)[1:] == [OPEN]
    assert "again" in log_of(made)
    assert one(asked(rig.grant(attempt(0)))).ticket == 1


def test_wishes_that_are_fulfilled_already_say_so_and_change_nothing(rig):
    assert did(wish(rig, "resume")) == "nothing: it was not paused"
    wish(rig, "pause", "ben")
    made = wish(rig, "pause")
    assert did(made) == "nothing: it was paused before, by ben"
    assert len(said(made)) == 1


def test_a_pause_outlives_the_session_and_the_manager(rig):
    wish(rig, "pause")
    hello = one(said(rig.hear(wire.Identify()), wire.WorkerHello))
    assert (hello.standing, hello.reason) == ("paused", "paused by ana")
    assert not said(rig.welcome(), wire.Standing)
    assert said(rig.grant(attempt(0))) == [wire.Revoked(attempt=attempt(0))]


def test_a_pause_that_the_socket_did_not_take_is_in_the_next_hello(rig):
    made = rig.turn(
        events.MessageArrived(wire.Steer(number=1, wish="pause", by="ana")),
        events.SendFailed(PAUSED),
    )
    assert one(said(made, wire.WorkerHello)).standing == "paused"


def test_what_changed_between_hello_and_welcome_is_told(rig):
    rig.hear(wire.Identify())
    assert not said(shut(rig, "hours", "outside its hours"))
    assert said(rig.welcome())[0] == wire.Standing(state="paused", reason="outside its hours")
    shut(rig, "hours", "")
    # A hello that says it all is not followed by it once more.
    rig.hear(wire.Identify(), after_s=1.0)
    assert not said(rig.welcome(), wire.Standing)


def test_what_is_given_back_while_nobody_listens_is_told_in_the_next_session(rig):
    rig.begin(attempt(0), attempt(1))
    event = events.MessageArrived(wire.Identify())
    rig.turn(event, events.AvailabilityChanged("hours", "outside its hours"))
    assert one(said(rig.welcome(), wire.Revoked)).attempt == attempt(1)


# --- hours and a busy device ------------------------------------------------------------------


def test_outside_its_hours_the_image_is_finished_and_no_grant_taken(rig):
    ticket = rig.begin(attempt(0), attempt(1))
    made = shut(rig, "hours", "outside its hours 22-08, until 22:00 there")
    standing = one(said(made, wire.Standing))
    assert (standing.state, standing.reason) == (
        "paused", "outside its hours 22-08, until 22:00 there",
    )  # fmt: skip
    assert one(said(made, wire.Revoked)).attempt == attempt(1)
    assert "outside its hours 22-08" in log_of(made)
    finish(rig, ticket)
    assert said(rig.grant(attempt(2))) == [wire.Revoked(attempt=attempt(2))]
    assert said(shut(rig, "hours", "")) == [OPEN]
    assert asked(rig.grant(attempt(3)))


def test_it_is_open_only_when_nothing_shuts_it(rig):
    wish(rig, "pause")
    shut(rig, "hours", "outside its hours")
    made = shut(rig, "device", "another process uses the GPU")
    reasons = "paused by ana; outside its hours; another process uses the GPU"
    assert one(said(made)).reason == reasons
    assert "still takes no grants: outside its hours; another" in did(wish(rig, "resume"))
    assert did(wish(rig, "resume")).startswith("nothing: it was not paused; it still takes")
    assert one(said(shut(rig, "hours", ""))).state == "paused"
    assert said(shut(rig, "device", "")) == [OPEN]
    assert said(shut(rig, "device", "")) == []


def test_shut_from_the_start_is_in_the_first_hello():
    rig = Rig()
    shut(rig, "hours", "outside its hours")
    assert one(said(rig.ready(), wire.WorkerHello)).standing == "paused"


def test_the_device_is_watched_when_that_is_wished_and_the_engine_known():
    assert of(Rig(yield_when_busy=True).ready(), fx.WatchDevice) == [fx.WatchDevice(FACTS)]
    assert not of(Rig().ready(), fx.WatchDevice)


# --- drain ------------------------------------------------------------------------------------


def test_a_drain_of_an_idle_worker_answers_says_goodbye_and_ends_well(rig):
    made = wish(rig, "drain")
    assert did(made) == "drains: it hands in what it holds, and leaves"
    assert said(made)[1:] == [DRAINED, wire.Goodbye(reason="drained by ana")]
    assert one(of(made, fx.Stop)) == fx.Stop(0)


def test_a_drain_waits_for_the_image_and_for_its_record(rig):
    ticket = rig.begin(attempt(0), attempt(1))
    made = wish(rig, "drain")
    assert did(made).startswith("drains: it finishes the image under way")
    assert one(said(made, wire.Revoked)).attempt == attempt(1)
    assert not of(rig.draw(ticket), fx.Stop)
    assert not of(rig.encoded(attempt(0)), fx.Stop)
    made = rig.hear(wire.ResultRecorded(attempt=attempt(0)))
    assert one(of(made, fx.Stop)).exit_status == 0


def test_a_drain_that_is_called_off_goes_on_working(rig):
    ticket = rig.begin(attempt(0))
    wish(rig, "drain")
    assert did(wish(rig, "drain", "ben")) == "nothing: it drains already, by ana"
    assert did(wish(rig, "pause")) == "nothing: it drains already, by ana"
    rig.draw(ticket)
    rig.encoded(attempt(0))  # now a deadline runs
    assert said(wish(rig, "resume"))[1:] == [OPEN]
    made = rig.turn(after_s=0.5)
    for _ in range(int(limits.GONE_S) + 1):
        made += rig.hear(wire.Beat(), after_s=1.0)
    assert not of(made, fx.Stop)
    assert asked(rig.grant(attempt(1)))


def test_nobody_calls_the_owners_stop_off(rig):
    rig.begin(attempt(0))
    rig.turn(events.StopRequested())
    for what in ("pause", "resume", "drain"):
        made = wish(rig, what)  # type: ignore[arg-type]
        assert did(made) == "nothing: its owner has stopped it, and it leaves"
        assert len(said(made)) == 1
    assert of(rig.turn(events.StopRequested()), fx.Stop)


# --- unload -----------------------------------------------------------------------------------


def loaded(rig: Rig) -> None:
    """An image has been drawn: its model stays loaded."""
    ticket = rig.begin(attempt(0))
    finish(rig, ticket)
    assert rig.worker._making.drawing.loaded.models == "tiny.safetensors"


def kills(made: list[fx.Effect]) -> list[fx.KillEngine]:
    return of(made, fx.KillEngine)


def unloaded(rig: Rig) -> list[fx.Effect]:
    """The child that was ended is gone and the next one ready."""
    info = wire.ErrorInfo(code="cancelled", message="Its context is unloaded.")
    made = rig.turn(events.EngineDied(info, ours=True))
    assert of(made, fx.StartEngine)
    return made + rig.engine(child.Ready(facts=FACTS))


def test_unload_replaces_the_idle_engine_and_the_worker_goes_on(rig):
    loaded(rig)
    made = wish(rig, "unload")
    assert did(made) == "unloads tiny.safetensors"
    assert one(kills(made)).code == "cancelled"
    assert "as was wished" in log_of(made)
    # What comes meanwhile waits for the fresh engine.
    assert not asked(rig.grant(attempt(1)))
    made = unloaded(rig)
    assert said(made, wire.EngineState)[0] == wire.EngineState(state="starting")
    assert one(asked(made)).seed == 101
    assert not said(made, wire.Failed)
    assert not kills(rig.turn(after_s=1.0))


def test_unload_with_nothing_loaded_says_so_and_is_forgotten(rig):
    made = wish(rig, "unload")
    assert did(made) == "nothing: no model was loaded"
    loaded(rig)
    assert not kills(rig.turn(after_s=1.0))


def test_unload_waits_until_there_is_nothing_to_draw(rig):
    loaded(rig)
    ticket = rig.begin(attempt(1), attempt(2))
    made = wish(rig, "unload")
    assert did(made) == "unloads tiny.safetensors when it has nothing to draw"
    made = rig.draw(ticket)
    assert not kills(made)
    assert kills(rig.draw(one(asked(made)).ticket))


def test_a_wish_to_unload_ends_with_the_engine_that_it_was_for(rig):
    loaded(rig)
    rig.begin(attempt(1))
    wish(rig, "unload")
    rig.turn(crash())
    rig.turn(after_s=1.0)
    rig.engine(child.Ready(facts=FACTS))
    loaded(rig)
    assert not kills(rig.effects)


def test_a_model_that_is_only_just_loading_is_unloaded_too(rig):
    rig.begin(attempt(0))
    assert did(wish(rig, "unload")) == "unloads its model when it has nothing to draw"


def test_the_context_is_unloaded_after_some_time_without_work():
    rig = Rig(unload_after_s=600.0)
    rig.connect()
    loaded(rig)
    for _ in range(59):
        assert not kills(rig.hear(wire.Beat(), after_s=10.0))
    made = rig.hear(wire.Beat(), after_s=10.0)
    assert one(kills(made)).code == "cancelled"
    assert "unused for 10 min" in log_of(made)
    assert not kills(unloaded(rig))
    # Work starts the time anew, and a worker that never loaded has nothing to unload.
    for _ in range(70):
        assert not kills(rig.hear(wire.Beat(), after_s=10.0))


def test_work_starts_the_time_anew():
    rig = Rig(unload_after_s=600.0)
    rig.connect()
    loaded(rig)
    for _ in range(30):
        rig.hear(wire.Beat(), after_s=10.0)
    finish(rig, rig.begin(attempt(1)), 1)
    for _ in range(59):
        assert not kills(rig.hear(wire.Beat(), after_s=10.0))
    assert kills(rig.hear(wire.Beat(), after_s=10.0))


# --- what the owner allows --------------------------------------------------------------------


def test_declared_limits_are_announced_and_kept():
    declared = wire.Declared(max_pixels=512 * 512, max_batch=2)
    rig = Rig(declared=declared)
    assert one(said(rig.ready(), wire.WorkerHello)).declared == declared
    rig.welcome()
    assert asked(rig.grant(attempt(0), width=512, height=512))
    failed = one(said(rig.grant(attempt(1), width=520, height=512), wire.Failed))
    assert failed.error.code == "too_large"
    assert "520x512 is more than the 262144 pixels (--max-pixels)" in failed.error.message


def test_pixels_count_after_highres_fix():
    declared = wire.Declared(max_pixels=512 * 512)
    assert too_large(Params(prompt="x", width=512, height=512), declared) is None
    assert too_large(Params(prompt="x", width=512, height=512), wire.Declared()) is None
    assert too_large(Params(prompt="x", width=512, height=512, hires=True), declared)


@pytest.mark.parametrize(("text", "pixels"), [("100", 100), ("64x32", 2048), (" 64X32 ", 2048)])
def test_pixels_are_a_number_or_a_size(text, pixels):
    assert parse_pixels(text) == pixels


@pytest.mark.parametrize("text", ["", "0", "0x64", "x", "64x", "-1", "64x64x64", "1e6", "9" * 10])
def test_what_is_no_number_of_pixels_is_refused(text):
    with pytest.raises(ConfigError, match="--max-pixels"):
        parse_pixels(text)


def stored(kind: str, name: str) -> StoredFile:
    return StoredFile(ModelFile(kind, name, 1), f"/m/{name}", 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("globs", "left"),
    [
        ((), ("a/SDXL_base.safetensors", "sd15.ckpt", "flux.gguf", "sd15.vae.pt")),
        (("sdxl*",), ("a/SDXL_base.safetensors", "sd15.vae.pt")),
        (("A/*",), ("a/SDXL_base.safetensors", "sd15.vae.pt")),
        (("SD15", "flux.gguf"), ("sd15.ckpt", "flux.gguf", "sd15.vae.pt")),
        (("sd1?.ckpt", "nothing"), ("sd15.ckpt", "sd15.vae.pt")),
        (("x",), ("sd15.vae.pt",)),
    ],
)
def test_models_are_allowed_by_pattern_and_parts_of_models_stay(globs, left):
    files = (
        stored("stable-diffusion", "a/SDXL_base.safetensors"),
        stored("stable-diffusion", "sd15.ckpt"),
        stored("diffusion", "flux.gguf"),
        stored("vae", "sd15.vae.pt"),
    )
    assert tuple(entry.file.name for entry in allowed_files(files, globs)) == left
