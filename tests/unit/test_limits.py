"""Each constant of `sdistrib.limits` has a test that names it and shows it at N and behind N.

The registry says which; a constant without a test, or a test that no longer names its constant,
fails here. What has no home elsewhere is tested in this file.
"""

import ast
import inspect
import math
from pathlib import Path

import msgspec
import pytest

from sdistrib import limits
from sdistrib.errors import ProtocolError
from sdistrib.params import Params
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Codec, encode, encode_petition
from sdistrib_manager import outcome
from sdistrib_manager.clients import Client as Connection
from sdistrib_manager.clients import Delivery
from sdistrib_manager.door import _accept, make_entry
from sdistrib_manager.events import StopRequested
from sdistrib_manager.loop import Loop
from sdistrib_manager.machine import Manager
from sdistrib_manager.queue import Entry
from sdistrib_manager.room import no_room
from sdistrib_manager.rows import Clock
from sdistrib_manager.state import Settings
from sdistrib_manager.storage import open_memory
from sdistrib_worker.supervisor import EngineChild
from tests.support.farm import Client, Farm, Worker, petition, petition_id

TESTS = Path(__file__).parents[1]

UNITS = {"KIB", "MIB", "GIB"}
CODEC, RULES, PARAMS = "test_core_codec", "test_core_rules", "test_core_params"
SOCKETS, WATCHDOGS, HERE = "test_core_transport", "test_worker_watchdogs", "test_limits"
RELIEF, FILMS = "test_manager_relief", "test_client_video"
SHOWN, WATCHED = "test_manager_previews", "test_client_previews"
CALLS = "test_worker_calls"
REGISTRY = {
    "HEADER_BYTES_MAX": (CODEC, "test_a_header_at_n_and_n_plus_1"),
    "BODY_BYTES_MAX": (CODEC, "test_a_body_at_n_and_n_plus_1"),
    "INVENTORY_BYTES_MAX": (CODEC, "test_a_body_at_n_and_n_plus_1"),
    "INVENTORY_FILES_MAX": (CODEC, "test_inventories_go_both_ways_and_hold_n_files_and_no_more"),
    "CHUNK_BYTES": (CODEC, "test_a_body_at_n_and_n_plus_1"),
    "FRAME_BYTES_MAX": (
        SOCKETS,
        "test_frames_at_n_arrive_and_at_n_plus_1_cut_the_connection_only_of_their_sender",
    ),
    "FRAMES_MAX": (SOCKETS, "test_a_message_of_endless_frames_makes_no_endless_list"),
    "VIDEO_FRAMES_MAX": (FILMS, "test_frames_at_n_and_n_plus_1"),
    "VIDEO_PIXELS_MAX": (
        PARAMS,
        "test_the_frames_of_a_video_have_so_many_pixels_together_and_no_more",
    ),
    "CONTROL_FRAMES_MAX": (PARAMS, "test_a_petition_at_n_and_n_plus_1_input_files"),
    "PIXEL_BYTES_MAX": ("test_frames", "test_pixels_at_n_and_n_plus_1_bytes"),
    "PICTURE_BYTES_MAX": (HERE, "test_a_picture_at_n_and_n_plus_1_bytes"),
    "CHUNK_CREDIT": (RULES, "test_a_sender_keeps_to_its_credit_and_ends_with_the_rest"),
    "CLIENT_RESULTS_IN_FLIGHT_MAX": (HERE, "test_a_clients_credit_at_n_and_n_plus_1_pictures"),
    "CLIENT_BYTES_IN_FLIGHT_MAX": (HERE, "test_a_clients_credit_at_n_and_n_plus_1_bytes"),
    "CLIENT_PETITIONS_MAX": (HERE, "test_a_connection_listens_to_n_petitions_and_no_more"),
    "WORKER_RESULTS_HELD_MAX": (
        "test_worker_results",
        "test_no_image_is_begun_while_too_many_results_wait",
    ),
    "PREVIEW_SIDE_MAX": (
        WATCHED,
        "test_a_preview_that_is_no_small_picture_is_an_error_and_leaves_the_old_one",
    ),
    "PREVIEW_BYTES_MAX": (CODEC, "test_a_body_at_n_and_n_plus_1"),
    "CLIENT_PREVIEWS_IN_FLIGHT_MAX": (
        SHOWN,
        "test_a_client_may_be_shown_n_petitions_at_a_time_and_the_rest_waits_in_turn",
    ),
    "PREVIEWS_BYTES_MAX": (
        SHOWN,
        "test_what_waits_is_bounded_in_bytes_and_the_newcomer_is_dropped",
    ),
    "CONTEXTS_KEPT_MAX": (HERE, "test_a_worker_keeps_n_contexts_and_no_more"),
    "HIGH_WATER_MARK": (SOCKETS, "test_a_peer_that_does_not_read_is_full_and_others_go_on"),
    "IMAGES_PER_PETITION_MAX": (PARAMS, "test_a_petitions_own_bounds"),
    "PETITIONS_MAX": (HERE, "test_what_a_manager_keeps_is_limited_unless_its_owner_says_otherwise"),
    "IMAGES_MAX": (HERE, "test_the_door_at_n_and_n_plus_1_images"),
    "BLOB_BYTES_MAX": (
        HERE,
        "test_what_a_manager_keeps_is_limited_unless_its_owner_says_otherwise",
    ),
    "OWNER_SHARE": (HERE, "test_one_of_several_users_at_n_and_n_plus_1"),
    "RETENTION_BYTES": (HERE, "test_seen_pictures_are_kept_up_to_n_bytes"),
    "REF_IMAGES_MAX": (PARAMS, "test_pictures_at_n_and_n_plus_1"),
    "INPUTS_MAX": (PARAMS, "test_a_petition_at_n_and_n_plus_1_input_files"),
    "INPUT_BYTES_MAX": (PARAMS, "test_an_input_file_at_n_and_n_plus_1_bytes"),
    "STAGED_BYTES_MAX": ("test_manager_inputs", "test_one_user_has_n_bytes_under_way_and_no_more"),
    "FORGOTTEN_INPUTS_MAX": (
        "test_manager_inputs_room",
        "test_n_files_are_remembered_for_workers_that_were_away",
    ),
    "UPLOAD_SILENCE_S": (
        "test_manager_inputs_room",
        "test_who_sends_nothing_for_n_seconds_is_not_waited_for",
    ),
    "TOMBSTONE_S": (HERE, "test_ended_ids_are_remembered_for_n_seconds"),
    "TOMBSTONES_MAX": (HERE, "test_n_ended_ids_are_remembered"),
    "CLOCK_KEEP_S": (HERE, "test_the_uptime_is_kept_each_n_seconds"),
    "LOSSES_MAX": (HERE, "test_an_image_fails_when_n_workers_vanished_with_it"),
    "RESTART_GRACE_S": (HERE, "test_after_a_restart_a_lost_worker_has_n_seconds"),
    "RETENTION_S": (HERE, "test_an_ended_petition_is_kept_for_n_seconds"),
    "PROMPT_BYTES_MAX": (PARAMS, "test_a_prompt_counts_bytes_and_not_only_characters"),
    "NAME_CHARS_MAX": (RULES, "test_the_name_of_a_lora_is_no_longer_than_any_other_name"),
    "TEXT_CHARS_MAX": (HERE, "test_what_a_worker_says_of_a_failure_is_cut"),
    "LOG_TAIL_LINES": (HERE, "test_what_a_worker_says_of_a_failure_is_cut"),
    "LORAS_MAX": (RULES, "test_loras_at_n_and_n_plus_1"),
    "EMBEDDINGS_MAX": ("test_embeddings", "test_embeddings_at_n_and_n_plus_1"),
    "INPUT_CACHE_BYTES": (
        "test_input_cache",
        "test_a_cache_at_n_and_n_plus_1_bytes",
    ),
    "SIDE_MIN": (HERE, "test_sides_and_steps_are_bounded_by_the_limits"),
    "SIDE_MAX": (HERE, "test_sides_and_steps_are_bounded_by_the_limits"),
    "SIDE_STEP": (HERE, "test_sides_and_steps_are_bounded_by_the_limits"),
    "STEPS_MAX": (HERE, "test_sides_and_steps_are_bounded_by_the_limits"),
    "PIXELS_MAX": (PARAMS, "test_pixels_at_n_and_at_the_next_size"),
    "SEED_MAX": (PARAMS, "test_a_petitions_own_bounds"),
    "ATTEMPTS_MAX": (HERE, "test_an_image_is_tried_n_times"),
    "OOM_TRIES_MAX": (RELIEF, "test_each_way_is_tried_on_n_workers_and_no_more"),
    "CEILINGS_MAX": (RELIEF, "test_n_ceilings_are_remembered_and_the_oldest_goes"),
    "KINDS_MAX": (RELIEF, "test_answers_about_n_kinds_of_petitions_are_remembered"),
    "BEAT_S": (RULES, "test_a_beat_is_due_after_a_whole_beat_without_a_word"),
    "SUSPECT_S": (RULES, "test_silence_becomes_suspicion_and_then_the_end"),
    "GONE_S": (RULES, "test_silence_becomes_suspicion_and_then_the_end"),
    "REMEMBER_WORKER_S": (HERE, "test_a_worker_is_remembered_for_n_seconds"),
    "LATE_TURN_S": (HERE, "test_a_turn_is_late_behind_n_seconds"),
    "SILENCE_NOTICE_S": (
        "test_client_link",
        "test_silence_is_told_once_with_the_address_and_then_unreachable",
    ),
    "ZMTP_HEARTBEAT_TIMEOUT_S": (SOCKETS, "test_sockets_are_set_up_as_the_protocol_wants"),
    "RECONNECT_S_MAX": (SOCKETS, "test_sockets_are_set_up_as_the_protocol_wants"),
    "CANCEL_CONFIRM_S": ("test_client_requests", "test_a_cancel_without_answer_ends_unconfirmed"),
    "STEER_ANSWER_S": (
        "test_manager_controls",
        "test_a_worker_that_does_not_answer_for_n_seconds_is_spoken_for",
    ),
    "NO_WORKER_TIMEOUT_S": (HERE, "test_a_petition_waits_n_seconds_for_a_worker_that_can"),
    "SECONDS_MAX": (HERE, "test_a_length_of_time_at_n_and_behind_n"),
    "DEADLINE_S_MAX": (PARAMS, "test_a_petitions_own_bounds"),
    "ENGINE_FRAME_BYTES_MAX": ("test_core_engine_frames", "test_a_frame_at_n_and_n_plus_1"),
    "STEP_SILENCE_S": (WATCHDOGS, "test_watchdog_of_steps_learns"),
    "STEP_SILENCE_PIXELS": (WATCHDOGS, "test_watchdog_of_other_phases_goes_by_pixels"),
    "STEP_SILENCE_FACTOR": (WATCHDOGS, "test_watchdog_of_steps_learns"),
    "STEP_SILENCE_S_MIN": (WATCHDOGS, "test_quick_steps_still_get_the_least_patience"),
    "LOAD_S_BASE": (WATCHDOGS, "test_watchdog_of_loading_goes_by_size"),
    "LOAD_S_PER_GIB": (WATCHDOGS, "test_watchdog_of_loading_goes_by_size"),
    "ENGINE_START_S": (WATCHDOGS, "test_watchdog_of_the_start"),
    "CALL_S_MAX": (CALLS, "test_a_call_at_n_and_n_plus_1_seconds"),
    "CALL_IMAGES_MAX": (CALLS, "test_a_call_at_n_and_n_plus_1_images"),
    "ENGINE_STOP_S": (HERE, "test_an_engine_has_n_seconds_to_end"),
    "RESTART_BACKOFF_S": (WATCHDOGS, "test_backoff_grows_with_deaths_and_ends_with_a_picture"),
}


def constants() -> set[str]:
    return {name for name in vars(limits) if name.isupper()}


def test_every_limit_is_registered_and_nothing_else():
    assert set(REGISTRY) | UNITS == constants()


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_the_registered_test_exists_and_names_its_limit(name):
    module, test = REGISTRY[name]
    source = (TESTS / "unit" / f"{module}.py").read_text(encoding="utf-8")
    found = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == test
    ]
    assert found, f"{module} has no {test}"
    (node,) = found
    parts = [*node.decorator_list, *node.body]
    used = {n.attr for part in parts for n in ast.walk(part) if isinstance(n, ast.Attribute)}
    assert name in used, f"{test} does not name limits.{name}"


def test_every_limit_is_used_by_the_program():
    roots = ("sdistrib", "manager", "worker", "client")
    files = [f for root in roots for f in (TESTS.parent / root).rglob("*.py")]
    text = "".join(f.read_text(encoding="utf-8") for f in files if f.name != "limits.py")
    unused = {name for name in constants() if f"limits.{name}" not in text}
    assert not unused, "limits that nothing enforces"


def test_a_picture_at_n_and_n_plus_1_bytes():
    codec = Codec(wire.WORKER_TO_MANAGER)
    facts = {
        "attempt": wire.Attempt(petition_id(1), 0, 1), "seed": 1, "digest": "0" * 64,
        "format": "png", "width": 8, "height": 8, "worker": "w", "fingerprint": "f", "context": "c",
    }  # fmt: skip
    last = wire.Result(**facts, size_bytes=limits.PICTURE_BYTES_MAX)  # type: ignore[arg-type]
    assert codec.decode(encode(last)).message == last
    beyond = msgspec.structs.replace(last, size_bytes=limits.PICTURE_BYTES_MAX + 1)
    with pytest.raises(ProtocolError, match="size_bytes"):
        codec.decode(encode(beyond))


def test_a_length_of_time_at_n_and_behind_n():
    codec = Codec(wire.MANAGER_TO_CLIENT)
    last = wire.Progress(id=petition_id(1), state="running", eta_s=limits.SECONDS_MAX)
    assert codec.decode(encode(last)).message == last
    longer = msgspec.structs.replace(last, eta_s=math.nextafter(limits.SECONDS_MAX, math.inf))
    with pytest.raises(ProtocolError, match="eta_s"):
        codec.decode(encode(longer))


def test_whatever_workers_say_the_expected_end_is_a_length_of_time():
    farm = Farm()
    client, worker = Client(farm), Worker(farm)
    pid = client.submits(images=limits.IMAGES_PER_PETITION_MAX)
    for step, steps in ((0, 2**60), (2**60, 0)):
        attempt = worker.starts(worker.attempts[0])
        said = wire.Step(
            attempt=attempt, phase="sampling", step=step, steps=steps, step_s=limits.SECONDS_MAX
        )
        worker.says(said)
        client.says(wire.ProgressSeen(id=pid))
        assert 0.0 <= client.last(wire.Progress).eta_s <= limits.SECONDS_MAX
    worker.draws(worker.attempts[0], draw_s=limits.SECONDS_MAX)
    client.says(wire.ProgressSeen(id=pid))
    assert 0.0 <= client.last(wire.Progress).eta_s <= limits.SECONDS_MAX


def _connection(sizes: list[int]) -> Connection:
    client = Connection(b"\0abcd", Farm().manager.state)  # type: ignore[arg-type]
    entry = make_entry("e", "local", b"", "", petition())
    for index, size in enumerate(sizes):
        assert client.may_send(size)
        client.launch(Delivery(entry, index, size))
    return client


def test_a_clients_credit_at_n_and_n_plus_1_pictures():
    assert not _connection([1] * limits.CLIENT_RESULTS_IN_FLIGHT_MAX).may_send(1)


def test_a_connection_listens_to_n_petitions_and_no_more():
    farm = Farm()
    client = Client(farm)
    for number in range(limits.CLIENT_PETITIONS_MAX):
        client.submits(number)
    assert not client.got(wire.Refused)
    beyond = petition_id(limits.CLIENT_PETITIONS_MAX)
    body = encode_petition(petition())
    for message in (wire.Submit(id=beyond), wire.Attach(id=beyond), wire.Retry(id=beyond)):
        client.says(message, body if message.BODY else b"")
        error = client.last(wire.Refused).error
        assert (error.code, error.retry_after_s) == ("busy", 5.0)
        assert "listens to 200 petitions" in error.message
    assert len(farm.manager.state.queue.entries) == limits.CLIENT_PETITIONS_MAX
    # What it listens to already it may ask for again, and what it does not listen to it may send.
    client.submits(0)
    client.says(wire.Submit(id=beyond, detach=True), body)
    assert client.last(wire.Accepted).id == beyond
    client.says(wire.Detach(id=petition_id(0)))
    client.says(wire.Attach(id=beyond))
    assert len(client.got(wire.Refused)) == 3


def test_what_a_client_that_does_not_read_is_told_at_once_stays_below_the_mark():
    farm = Farm(petitions_max=limits.CLIENT_PETITIONS_MAX)
    client, other = Client(farm), Client(farm, "oth")
    for number in range(limits.CLIENT_PETITIONS_MAX):
        client.submits(number)
    for number in range(limits.CLIENT_PETITIONS_MAX):
        client.says(wire.Cancel(id=petition_id(number)))
    told = [m for m in farm.sent[client.route] if not isinstance(m, wire.Welcome)]
    pictures = limits.CLIENT_RESULTS_IN_FLIGHT_MAX * (1 + limits.CHUNK_CREDIT)
    beats = limits.GONE_S / limits.BEAT_S
    assert len(client.got(wire.Finished)) == limits.CLIENT_PETITIONS_MAX
    assert len(told) + pictures + beats < limits.HIGH_WATER_MARK
    assert not other.got(wire.Finished)


def test_a_clients_credit_at_n_and_n_plus_1_bytes():
    half = limits.CLIENT_BYTES_IN_FLIGHT_MAX // 2
    assert _connection([half]).may_send(half)
    assert not _connection([half]).may_send(half + 1)
    assert _connection([]).may_send(100 * half)


def test_what_a_manager_keeps_is_limited_unless_its_owner_says_otherwise():
    settings = Settings("test")
    assert settings.petitions_max == limits.PETITIONS_MAX
    assert settings.images_max == limits.IMAGES_MAX
    assert settings.blob_bytes_max == limits.BLOB_BYTES_MAX


def test_the_door_at_n_and_n_plus_1_images():
    # A queue that long takes a while to fill; the door looks at the count alone.
    state = Farm().manager.state
    state.queue.open_images = limits.IMAGES_MAX - 5
    assert no_room(state, make_entry("e", "local", b"", "", petition(images=5))) is None
    refusal = no_room(state, make_entry("e", "local", b"", "", petition(images=6)))
    assert refusal is not None
    assert refusal.code == "busy"


def _asked_by(owner: str, number: int, images: int = 1) -> Entry:
    entry = make_entry(petition_id(number), owner, b"", "", petition(images=images))
    entry.number = number
    return entry


def _refused(farm: Farm, entry: Entry) -> str:
    refusal = no_room(farm.manager.state, entry)
    assert refusal is None or (refusal.code, refusal.retry_after_s) == ("busy", 30.0)
    return refusal.message if refusal is not None else ""


@pytest.mark.parametrize(
    ("settings", "images", "words"),
    [
        ({"petitions_max": 8}, (1, 1), "2 petitions at most"),
        ({"images_max": 40}, (5, 5), "10 images at most"),
    ],
    ids=["petitions", "images"],
)
def test_one_of_several_users_at_n_and_n_plus_1(settings, images, words):
    assert Settings("t").owner_share == limits.OWNER_SHARE == 0.25
    farm = Farm(**settings)
    for number, size in enumerate(images, start=1):
        last = _asked_by("ana", number, size)
        assert not _refused(farm, last)
        _accept(farm.manager.state, last)
    assert f"one user may have: {words}" in _refused(farm, _asked_by("ana", 9))
    assert not _refused(farm, _asked_by("bob", 9))
    # The only user of the loopback port has all that is left.
    for number in range(10, 16):
        more = _asked_by("local", number, max(images))
        assert not _refused(farm, more)
        _accept(farm.manager.state, more)
    assert "queue is full" in _refused(farm, _asked_by("local", 16))
    outcome.end(farm.manager.state, last, "cancelled")
    farm.turn()  # which checks what each user has
    assert not _refused(farm, _asked_by("ana", 9))


def test_pictures_of_one_of_several_users_at_n_and_n_plus_1_bytes():
    farm = Farm(blob_bytes_max=400)
    share = farm.manager.state.queue.share("ana")
    share.picture_bytes = int(400 * limits.OWNER_SHARE)
    assert not _refused(farm, _asked_by("ana", 1))
    share.picture_bytes += 1
    assert "100 bytes of input files and of pictures not fetched at most" in _refused(
        farm, _asked_by("ana", 1)
    )
    assert not _refused(farm, _asked_by("bob", 1))
    # Equal pictures are kept once: the user who has all the room is held to what is kept.
    farm.manager.state.queue.share("local").picture_bytes = 401
    assert not _refused(farm, _asked_by("local", 1))


def test_an_ended_petition_is_kept_for_n_seconds():
    farm = Farm()
    client, worker = Client(farm), Worker(farm)
    pid = client.submits()
    worker.draws(worker.starts())
    client.sees(pid, 0)
    farm.turn(limits.RETENTION_S - 1.0)
    assert pid in farm.manager.state.queue.entries
    farm.turn(1.0)
    assert pid not in farm.manager.state.queue.entries


def test_seen_pictures_are_kept_up_to_n_bytes():
    assert limits.RETENTION_BYTES == 5_000_000_000  # the manager's default, see its --help
    farm = Farm(retention_bytes=20)
    client, worker = Client(farm), Worker(farm)
    for number in (1, 2, 3):
        pid = client.submits(number)
        worker.draws(worker.starts(), data=b"%010d" % number)
        client.sees(pid, 0)
        kept = {e.id for e in farm.manager.state.queue for i in e.images.values() if i.kept}
        assert kept == {petition_id(n) for n in range(max(1, number - 1), number + 1)}


def _buried(farm: Farm, client: Client, number: int = 1) -> str:
    client.says(wire.Cancel(id=petition_id(number)))
    return petition_id(number)


def test_ended_ids_are_remembered_for_n_seconds():
    farm = Farm()
    pid = _buried(farm, Client(farm))
    farm.turn(limits.TOMBSTONE_S - limits.CLOCK_KEEP_S)
    assert pid in farm.manager.state.tombstones
    farm.turn(2 * limits.CLOCK_KEEP_S)
    assert pid not in farm.manager.state.tombstones


def test_n_ended_ids_are_remembered(monkeypatch):
    assert limits.TOMBSTONES_MAX == 100_000
    monkeypatch.setattr(limits, "TOMBSTONES_MAX", 3)
    farm = Farm()
    client = Client(farm)
    for number in range(1, 5):
        _buried(farm, client, number)
    farm.turn(2 * limits.CLOCK_KEEP_S)
    assert list(farm.manager.state.tombstones) == [petition_id(n) for n in (2, 3, 4)]


def test_the_uptime_is_kept_each_n_seconds():
    farm = Farm()
    farm.turn()
    before = len(farm.rows(Clock))
    farm.turn(limits.CLOCK_KEEP_S - 1.0)
    assert len(farm.rows(Clock)) == before
    farm.turn(1.0)
    assert len(farm.rows(Clock)) == before + 1


def test_an_image_fails_when_n_workers_vanished_with_it():
    farm = Farm()
    client = Client(farm)
    client.submits()
    for number in range(limits.LOSSES_MAX):
        assert not client.got(wire.Finished)
        worker = Worker(farm, f"gpu{number}")
        worker.starts()
        farm.wait(limits.GONE_S + 1, client)
    assert client.last(wire.Finished).failures[0].error.code == "worker_lost"


def test_after_a_restart_a_lost_worker_has_n_seconds():
    farm = Farm()
    client, worker = Client(farm), Worker(farm)
    client.submits()
    worker.starts()
    farm.restart()
    other = Worker(farm, "gpu2")
    farm.wait(limits.RESTART_GRACE_S - 2, other)
    assert not other.attempts
    farm.wait(3, other)
    assert other.attempts


def test_a_worker_is_remembered_for_n_seconds():
    farm = Farm()
    worker = Worker(farm)
    worker.says(wire.Goodbye())
    farm.turn(limits.REMEMBER_WORKER_S)
    assert len(farm.manager.state.roster) == 1
    farm.turn(1.0)
    assert len(farm.manager.state.roster) == 0


def test_a_petition_waits_n_seconds_for_a_worker_that_can():
    farm = Farm()
    client = Client(farm)
    client.submits(model="gone")
    worker = Worker(farm)
    # The wait begins when somebody is known who cannot.
    farm.turn(1.0)
    for seconds in (limits.NO_WORKER_TIMEOUT_S - 1.0, 1.0):
        assert not client.got(wire.Finished)
        farm.now += seconds
        farm.manager.forgive(seconds)
        farm.turn()
    assert client.last(wire.Finished).failures[0].error.code == "no_capable_worker"
    assert worker


def test_an_image_is_tried_n_times():
    farm = Farm()
    client, worker = Client(farm), Worker(farm)
    client.submits()
    for tried in range(limits.ATTEMPTS_MAX):
        assert len(worker.attempts) == tried + 1
        assert not client.got(wire.Finished)
        worker.fails(worker.starts())
    assert client.last(wire.Finished).state == "failed"


def test_what_a_worker_says_of_a_failure_is_cut():
    farm = Farm()
    client, worker = Client(farm), Worker(farm)
    client.submits()
    error = wire.ErrorInfo(
        code="unsupported",
        message="m" * (limits.TEXT_CHARS_MAX + 1),
        log_tail=tuple(str(line) for line in range(limits.LOG_TAIL_LINES + 1)),
    )
    worker.says(wire.Failed(attempt=worker.starts(), error=error))
    told = client.last(wire.Finished).failures[0].error
    assert len(told.message) <= limits.TEXT_CHARS_MAX
    assert told.log_tail == error.log_tail[1:]


def test_sides_and_steps_are_bounded_by_the_limits():
    fields = {f.name: f.type for f in msgspec.inspect.type_info(Params).fields}  # type: ignore[attr-defined]
    for name in ("width", "height"):
        side = fields[name]
        assert (side.ge, side.le) == (limits.SIDE_MIN, limits.SIDE_MAX)
        assert side.multiple_of == limits.SIDE_STEP
    assert fields["steps"].le == limits.STEPS_MAX


def test_a_worker_keeps_n_contexts_and_no_more():
    most = limits.CONTEXTS_KEPT_MAX
    kept = (wire.Kept("c", "m"),) * most
    codec, state = Codec(wire.WORKER_TO_MANAGER), wire.EngineState(state="idle", kept=kept)
    assert codec.decode(encode(state)).message == state
    with pytest.raises(ProtocolError, match="kept"):
        codec.decode(encode(wire.EngineState(state="idle", kept=(*kept, kept[0]))))
    assert msgspec.convert({"keep": most}, wire.Declared).keep == most
    with pytest.raises(msgspec.ValidationError, match="keep"):
        msgspec.convert({"keep": most + 1}, wire.Declared)


def test_an_engine_has_n_seconds_to_end():
    # That it is killed behind them, tests of the supervisor show on a real child.
    assert inspect.signature(EngineChild.stop).parameters["grace_s"].default == limits.ENGINE_STOP_S


@pytest.mark.parametrize(
    ("late_s", "forgiven"), [(limits.LATE_TURN_S, []), (limits.LATE_TURN_S + 0.5, [1.5])]
)
def test_a_turn_is_late_behind_n_seconds(late_s, forgiven):
    assert limits.LATE_TURN_S == 1.0
    clock, seen = [1000.0], []

    class Patient(Manager):
        def forgive(self, delay_s: float) -> None:
            seen.append(delay_s)

    storage = open_memory(Settings("t"))
    storage.manager = lambda *_: Patient(Settings("t"), clock[0])  # type: ignore[assignment]
    loop = Loop(storage, {}, lambda: clock[0])

    def sleeps(planned_s: float) -> None:
        clock[0] += planned_s + (0.0 if loop._events else late_s)
        loop._events.append(StopRequested())

    loop._watch.wait = sleeps  # type: ignore[method-assign]
    loop.run()
    assert seen == pytest.approx(forgiven)
