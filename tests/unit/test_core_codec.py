"""Frames to messages and back, and every way in which frames can be wrong."""

import hashlib
from typing import Any

import msgpack
import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo, PetitionError, ProtocolError
from sdistrib.models import ModelFile
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import (
    Codec,
    as_plain,
    decode_inventory,
    decode_petition,
    encode,
    encode_inventory,
    encode_petition,
)

ID = "0123456789abcdef" * 2
ATTEMPT = wire.Attempt(ID, 3, 2)
CLIENTS, WORKERS = Codec(wire.CLIENT_TO_MANAGER), Codec(wire.WORKER_TO_MANAGER)
SIDES = {
    "client to manager": wire.CLIENT_TO_MANAGER,
    "manager to client": wire.MANAGER_TO_CLIENT,
    "worker to manager": wire.WORKER_TO_MANAGER,
    "manager to worker": wire.MANAGER_TO_WORKER,
}


def header(**fields: Any) -> bytes:
    """A header as another language would make it."""
    packed: bytes = msgpack.packb(fields)
    return packed


def refused(codec: Codec, *frames: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        codec.decode(list(frames))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_message_is_version_and_verb_then_a_plain_map_then_its_body():
    frames = encode(wire.Chunk(digest="a" * 64, offset=5), b"pixels")
    assert frames[0] == b"\x01CHUNK"
    assert msgpack.unpackb(bytes(frames[1])) == {"digest": "a" * 64, "offset": 5}
    assert frames[2] == b"pixels"
    received = WORKERS.decode(frames)
    assert (received.message, received.body) == (wire.Chunk(digest="a" * 64, offset=5), b"pixels")


def test_verbs_are_upper_snake_case_and_each_is_one_class():
    assert wire.verb(wire.WorkerHello) == "WORKER_HELLO"
    assert wire.verb(wire.Beat) == "BEAT"
    every = {kind for side in SIDES.values() for kind in side}
    assert len({wire.verb(kind) for kind in every}) == len(every)
    known = {k for k in vars(wire).values() if isinstance(k, type) and issubclass(k, wire.Message)}
    assert every == known - {wire.Message}, "a message that nobody may send"


@pytest.mark.parametrize("side", SIDES)
def test_a_verb_of_the_other_side_is_refused_by_name(side):
    codec = Codec(SIDES[side])
    every = {kind for kinds in SIDES.values() for kind in kinds}
    for kind in every - set(SIDES[side]):
        head = b"\x01" + wire.verb(kind).encode()
        assert refused(codec, head, header()) == f"the verb {wire.verb(kind)!r} is not known here"


@pytest.mark.parametrize("verb", [b"", b"NOPE", b"beat", b"BEAT ", b"\xff\xfe", b"A" * 1000])
def test_an_unknown_verb_is_refused_by_name_and_not_at_length(verb):
    assert len(refused(CLIENTS, b"\x01" + verb, header())) < 400


def test_another_version_is_told_both_numbers():
    text = refused(CLIENTS, b"\x02SUBMIT", header(id=ID))
    assert "version 2" in text
    assert "only 1" in text


def test_the_cpp_ancestor_is_recognised_by_its_empty_delimiter_frame():
    for frames in ([b"", b"{}"], [b"", b"READY"], [b"", b"", b"body"]):
        assert "C++ sdistrib" in refused(WORKERS, *frames)


@pytest.mark.parametrize(
    "frames", [[], [b"\x01BEAT"], [b"\x01BEAT", b"\x80", b"", b""], [b"GET / HTTP/1.1", b"x"]]
)
def test_other_shapes_are_no_message(frames):
    assert refused(CLIENTS, *frames)


def test_unknown_fields_are_ignored_so_that_versions_can_mix():
    frames = [b"\x01CANCEL", header(id=ID, why="changed my mind", later={"deep": [1, 2]})]
    assert CLIENTS.decode(list(frames)).message == wire.Cancel(id=ID)


@pytest.mark.parametrize(
    ("head", "fields", "names"),
    [
        (b"\x01CANCEL", {}, "id"),
        (b"\x01CANCEL", {"id": "x"}, "id"),
        (b"\x01CANCEL", {"id": ID + "\n"}, "id"),
        (b"\x01CANCEL", {"id": ID.upper()}, "id"),
        (b"\x01CANCEL", {"id": 7}, "id"),
        (b"\x01ASK", {"number": -1, "what": "models"}, "number"),
        (b"\x01ASK", {"number": 1, "what": "secrets"}, "what"),
        (b"\x01RESULT_SEEN", {"id": ID, "index": limits.IMAGES_PER_PETITION_MAX}, "index"),
        (b"\x01CHUNK_SEEN", {"digest": "a" * 64, "offset": -1}, "offset"),
        (b"\x01CHUNK_SEEN", {"digest": "a" * 63, "offset": 1}, "digest"),
        (b"\x01CHUNK_SEEN", {"digest": "a" * 64 + "\n", "offset": 1}, "digest"),
        (b"\x01CLIENT_HELLO", {"protocols": [1], "software": "s" * 513}, "software"),
        (b"\x01GOODBYE", {"reason": "r" * (limits.TEXT_CHARS_MAX + 1)}, "reason"),
    ],
)
def test_a_wrong_field_is_named(head, fields, names):
    assert names in refused(CLIENTS, head, header(**fields))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e300])
def test_seconds_are_a_finite_length_of_time(seconds):
    step = {"attempt": [ID, 0, 1], "phase": "sampling", "step_s": seconds}
    step["attempt"] = {"id": ID, "index": 0, "number": 1}
    assert "step_s" in refused(WORKERS, b"\x01STEP", header(**step))


def test_a_header_at_n_and_n_plus_1():
    pad = limits.HEADER_BYTES_MAX - len(header(id=ID, pad=b"\0" * 40_000)) + 40_000
    last = header(id=ID, pad=b"\0" * pad)
    assert len(last) == limits.HEADER_BYTES_MAX
    assert CLIENTS.decode([b"\x01CANCEL", last]).message == wire.Cancel(id=ID)
    text = refused(CLIENTS, b"\x01CANCEL", header(id=ID, pad=b"\0" * (pad + 1)))
    assert str(limits.HEADER_BYTES_MAX) in text


PREVIEW = wire.Preview(
    attempt=wire.Attempt(ID, 0, 1), step=1, steps=2, width=8, height=8, format="png", worker="w"
)


@pytest.mark.parametrize(
    ("codec", "message", "most"),
    [
        (CLIENTS, wire.Submit(id=ID), limits.BODY_BYTES_MAX),
        (WORKERS, wire.Inventory(), limits.INVENTORY_BYTES_MAX),
        (WORKERS, wire.Chunk(digest="0" * 64, offset=0), limits.CHUNK_BYTES),
        (WORKERS, PREVIEW, limits.PREVIEW_BYTES_MAX),
        (CLIENTS, wire.Beat(), 0),
    ],
)
def test_a_body_at_n_and_n_plus_1(codec, message, most):
    assert len(codec.decode(encode(message, bytes(most))).body) == most
    frames = [bytes(frame) for frame in encode(message, bytes(most + 1))]
    assert f"{most} is most" in refused(codec, *frames)


def test_the_largest_body_fits_into_a_frame_that_zeromq_takes():
    bodies = (limits.BODY_BYTES_MAX, limits.INVENTORY_BYTES_MAX, limits.CHUNK_BYTES)
    assert max(*bodies, limits.HEADER_BYTES_MAX) <= limits.FRAME_BYTES_MAX


def test_frames_as_views_are_as_good_as_bytes():
    data = encode_petition(Petition(params=Params(prompt="a", model="m"), seed=1))
    frames = [memoryview(frame) for frame in encode(wire.Submit(id=ID), data)]
    received = CLIENTS.decode(list(frames))
    assert decode_petition(received.body).params.prompt == "a"


def test_a_petition_from_before_there_were_priorities_is_an_ordinary_one():
    old = {"params": {"prompt": "a", "model": "m"}, "seed": 1, "images": 2}
    petition = decode_petition(msgpack.packb(old))
    assert (petition.priority, petition.hedge, petition.exact) == ("normal", True, False)
    assert petition.on_oom == "retry"
    # Whoever knows the fields still makes the same bytes: a resend is no conflict.
    assert msgpack.unpackb(encode_petition(petition)) == old


def test_a_petition_is_the_same_bytes_each_time():
    petition = Petition(params=Params(prompt="a", model="m", steps=3), seed=1, images=2)
    assert encode_petition(petition) == encode_petition(decode_petition(encode_petition(petition)))
    plain = msgpack.unpackb(encode_petition(petition))
    assert plain == {"params": {"prompt": "a", "model": "m", "steps": 3}, "seed": 1, "images": 2}


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling_method": "x" * 100_000},
        {"y" * 100_000: 1},
        {"width": "`$.params.height`" * 1000},
        {"cache_mode": "dbcache", "cache_option": "k" * 1024},
    ],
    ids=["choice", "field", "type", "key"],
)
def test_a_refusal_quotes_no_more_of_a_peer_than_fits_a_header(fields):
    body = msgpack.packb({"seed": 1, "params": {"prompt": "a", "model": "m", **fields}})
    with pytest.raises(PetitionError) as caught:
        decode_petition(body)
    frames = encode(wire.Refused(id=ID, error=caught.value.info))
    assert len(frames[1]) < limits.HEADER_BYTES_MAX // 8
    assert Codec(wire.MANAGER_TO_CLIENT).decode(frames)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x00", b"[]", header(seed=1)])
def test_a_body_that_is_no_petition_is_a_typed_error(body):
    with pytest.raises(PetitionError) as caught:
        decode_petition(body)
    assert caught.value.code == "invalid_params"


def test_inventories_go_both_ways_and_hold_n_files_and_no_more():
    files = tuple(
        ModelFile("lora", f"{i}.safetensors", i) for i in range(limits.INVENTORY_FILES_MAX + 1)
    )
    assert decode_inventory(encode_inventory(files[:-1])) == files[:-1]
    with pytest.raises(ProtocolError, match=f"{limits.INVENTORY_FILES_MAX} is most"):
        decode_inventory(encode_inventory(files))


@pytest.mark.parametrize(
    "file",
    [
        {"kind": "lora", "name": "n" * (limits.NAME_CHARS_MAX + 1), "size_bytes": 1},
        {"kind": "lora", "name": "", "size_bytes": 1},
        {"kind": "script", "name": "x", "size_bytes": 1},
        {"kind": "lora", "name": "x", "size_bytes": -1},
    ],
)
def test_an_inventory_of_files_that_cannot_be_is_refused(file):
    with pytest.raises(ProtocolError, match="inventory"):
        decode_inventory(msgpack.packb([file]))
    good = {"kind": "lora", "name": "n" * limits.NAME_CHARS_MAX, "size_bytes": 0}
    assert len(decode_inventory(msgpack.packb([good]))) == 1


def test_an_inventory_of_usual_names_at_the_limit_fits_its_frame():
    files = tuple(
        ModelFile("lora", f"{i:05}".ljust(150, "x"), 10**10, hashlib.sha256().hexdigest())
        for i in range(limits.INVENTORY_FILES_MAX)
    )
    assert len(encode_inventory(files)) <= limits.INVENTORY_BYTES_MAX


def test_a_message_as_plain_data_for_json():
    failed = wire.Failed(attempt=ATTEMPT, error=ErrorInfo(code="engine_hung", message="x"))
    assert as_plain(failed) == {
        "attempt": {"id": ID, "index": 3, "number": 2},
        "error": {"code": "engine_hung", "message": "x"},
    }
