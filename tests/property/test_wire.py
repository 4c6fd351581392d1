"""Any message survives its way, and no bytes whatever end in anything but the two typed errors."""

from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdistrib.errors import PetitionError, ProtocolError
from sdistrib.models import Catalogue, ModelFile
from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.prompts import split_loras
from sdistrib.protocol import engine, messages
from sdistrib.protocol.codec import (
    Codec,
    decode_inventory,
    decode_petition,
    encode,
    encode_inventory,
    encode_petition,
)
from tests.support.wire_values import values

SIDES = (
    messages.CLIENT_TO_MANAGER,
    messages.MANAGER_TO_CLIENT,
    messages.WORKER_TO_MANAGER,
    messages.MANAGER_TO_WORKER,
)
CODECS = [(side, Codec(side)) for side in SIDES]
EVERY = sorted({kind for side in SIDES for kind in side}, key=lambda kind: kind.__name__)
#: Plain MessagePack of any shape, as a peer in another language could send it.
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text("abcdefghij_", max_size=8), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def tried(kind: type[Exception], call: Callable[..., Any], argument: Any) -> tuple[Any, Any]:
    """What the call gives, or its error of this one kind; any other goes through."""
    try:
        return call(argument), None
    except kind as error:
        return None, error


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=30)
def test_each_message_survives_its_way_and_is_plain_messagepack(kind, data):
    message = data.draw(values(kind))
    frames = encode(message)
    for side, codec in CODECS:
        if kind in side:
            assert codec.decode(list(frames)).message == message
    plain = msgpack.unpackb(bytes(frames[1]), strict_map_key=False)
    assert msgspec.convert(plain, kind) == message
    again = msgpack.packb(plain)
    assert next(c for s, c in CODECS if kind in s).decode([frames[0], again]).message == message


@pytest.mark.parametrize(
    "kind", [*engine.FROM_CHILD, *engine.TO_CHILD], ids=lambda kind: kind.__name__
)
@given(data=st.data())
@settings(max_examples=20)
def test_each_engine_frame_survives_its_way_in_any_pieces(kind, data):
    frames = data.draw(st.lists(values(kind), min_size=1, max_size=3))
    stream = b"".join(map(engine.encode_frame, frames))
    cut = data.draw(st.integers(0, len(stream)))
    reader = engine.FrameReader((*engine.FROM_CHILD, *engine.TO_CHILD))
    assert [*reader.feed(stream[:cut]), *reader.feed(stream[cut:])] == frames


@given(values(Petition))
@settings(max_examples=100)
def test_each_petition_survives_its_way_or_is_refused(petition):
    body = encode_petition(petition)
    decoded, error = tried(PetitionError, decode_petition, body)
    if error:
        assert error.code in ("invalid_params", "too_large")
        assert error.info.field
    else:
        assert decoded == petition
        assert encode_petition(decoded) == body


@given(st.lists(values(ModelFile), max_size=5).map(tuple))
def test_each_inventory_survives_its_way_and_each_of_its_files_is_found(files):
    assert decode_inventory(encode_inventory(files)) == files
    tree = Catalogue(files)
    for file in files:
        names = [other.name for other in files if other.kind == file.kind]
        assume(names.count(file.name) == 1)
        found = tree.find(file.kind, file.name)
        assert found is None or found in files


def attacked(codec: Codec, frames: list[Any]) -> None:
    """Decoding ends well or in `ProtocolError`, which is short enough to send back."""
    received, error = tried(ProtocolError, codec.decode, frames)
    assert isinstance(received.message, messages.Message) if received else len(str(error)) < 700


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_random_frames(frames):
    for _, codec in CODECS:
        attacked(codec, list(frames))


@given(st.sampled_from(EVERY), st.binary(max_size=300))
def test_random_headers_behind_known_verbs(kind, header):
    head = encode_head(kind)
    for _, codec in CODECS:
        attacked(codec, [head, header])


@given(st.sampled_from(EVERY), PLAIN)
@settings(max_examples=300)
def test_plain_values_of_any_shape_behind_known_verbs(kind, value):
    for _, codec in CODECS:
        attacked(codec, [encode_head(kind), msgpack.packb(value)])


@given(st.sampled_from(EVERY), st.data())
@settings(max_examples=150)
def test_one_field_of_a_good_message_replaced_by_anything(kind, data):
    plain = msgspec.to_builtins(data.draw(values(kind)))
    assume(kind.__struct_fields__)
    name = data.draw(st.sampled_from(kind.__struct_fields__))
    header = msgpack.packb({**plain, name: data.draw(PLAIN)})
    for _, codec in CODECS:
        attacked(codec, [encode_head(kind), header])


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=3)
def test_a_message_truncated_at_every_byte_and_with_each_byte_changed(kind, data):
    head, header = encode(data.draw(values(kind)))
    codec = next(codec for side, codec in CODECS if kind in side)
    header = bytes(header)[:400]
    for end in range(len(header)):
        attacked(codec, [head, header[:end]])
        attacked(codec, [head, header[:end] + bytes([header[end] ^ 0x80]) + header[end + 1 :]])
    attacked(codec, [head, header + b"\0"])


#: Headers that aim at the decoder itself.
BOMBS = {
    "deep lists": b"\x91" * 60_000,
    "deep maps": b"\x81\xa1a" * 20_000,
    "deep unknown field": b"\x81\xa7unknown" + b"\x91" * 60_000 + b"\xc0",
    "a list of 4 GiB": b"\xdd\xff\xff\xff\xff",
    "a map of 4 GiB": b"\xdf\xff\xff\xff\xff",
    "a text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "an extension of 4 GiB": b"\xc9\xff\xff\xff\xff\x01",
    "an unknown field of 4 GiB": b"\x81\xa7unknown\xdb\xff\xff\xff\xff",
    "an extension": b"\xd4\x05\x00",
    "a date beyond all dates": b"\xc7\x0c\xff" + b"\xff" * 12,
    "the byte that means nothing": b"\xc1",
    "invalid UTF-8 in a key": b"\x81\xa2\xff\xfe\xc0",
    "invalid UTF-8 in a value": b"\x81\xa2id\xa2\xff\xfe",
    "a lone surrogate": b"\x81\xa2id\xa3\xed\xa0\x80",
    "keys that are no text": b"\x83\x01\x01\xc0\x02\x90\x03",
    "a key that cannot be hashed": b"\x81\x90\x01",
    "one key many times": b"\xde\x10\x00" + b"\xa2id\xa1x" * 4096,
    "an id many times": b"\x82" + b"\xa2id\xd9\x20" + b"a" * 32 + b"\xa2id\xd9\x20" + b"b" * 32,
}


def frames_of(data: bytes) -> list[engine.EngineFrame]:
    return list(engine.FrameReader(engine.FROM_CHILD).feed(data))


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_disarmed(name):
    bomb = BOMBS[name]
    for side, codec in CODECS:
        for kind in side:
            attacked(codec, [encode_head(kind), bomb])
    with pytest.raises(PetitionError):
        decode_petition(bomb)
    with pytest.raises(ProtocolError):
        decode_inventory(bomb)
    _, error = tried(ProtocolError, frames_of, bomb)
    assert error is None or "garbled" in str(error)


@given(st.binary(max_size=300) | PLAIN.map(msgpack.packb))
@settings(max_examples=300)
def test_bodies_and_streams_of_anything(data):
    tried(PetitionError, decode_petition, data)
    tried(ProtocolError, decode_inventory, data)
    tried(ProtocolError, frames_of, data)


@given(st.sampled_from([f.name for f in msgspec.structs.fields(Params)]), PLAIN)
@settings(max_examples=300)
def test_a_petition_with_anything_in_a_parameter(name, value):
    params = {"prompt": "a", "model": "m", name: value}
    body = msgpack.packb({"seed": 1, "params": params})
    _, error = tried(PetitionError, decode_petition, body)
    if error:
        assert error.info.field or "petition" in str(error)
        assert len(str(error)) < 1000


@given(st.text(st.sampled_from("<>lora:|high_noise0.5 e-naif\\/()[]")))
@settings(max_examples=200)
def test_any_prompt_has_lora_tags_or_an_error(prompt):
    found, error = tried(PetitionError, split_loras, prompt)
    if error:
        assert error.info.field == "prompt"
    else:
        assert (found[0] == prompt) == (not found[1])


def encode_head(kind: type[messages.Message]) -> bytes:
    """The first frame of a message."""
    return bytes([messages.VERSION]) + messages.verb(kind).encode()
