"""What supervisor and engine child say to each other, cut from a stream."""

import tracemalloc

import msgpack
import pytest

from sdistrib import limits
from sdistrib.errors import ProtocolError
from sdistrib.params import Params
from sdistrib.protocol.engine import (
    FROM_CHILD,
    TO_CHILD,
    At,
    Began,
    Declined,
    Draw,
    Drawn,
    FrameReader,
    Holds,
    Interrupt,
    LogLine,
    LoraFile,
    Previewed,
    PreviewWanted,
    PreviewWish,
    Ready,
    Unload,
    encode_frame,
)
from sdistrib.protocol.messages import EngineFacts

#: The head of a log line whose text is a list of lists, each of 65,535 items.
LONG_LIST = b"\x92\xa7LogLine" + b"\xdd\x00\x00\xff\xff" * 20
FACTS = EngineFacts(version="0.4.7", backend="cpu", device="test", fingerprint="f" * 16)
TOLD = [
    Ready(facts=FACTS),
    Began(ticket=1),
    At(ticket=1, phase="sampling", step=3, steps=20, step_s=0.5),
    Previewed(ticket=1, step=3, width=1, height=1, channels=3, noisy=True),
    Drawn(ticket=1, width=8, height=8, channels=3, load_s=0.1, draw_s=2.0, notes=("rounded",)),
    Declined(ticket=1, code="engine_error", message="no", loading=True),
    LogLine(level=1, text="loading"),
    Holds(contexts=("c", "d")),
]
ASKED = [
    Draw(
        ticket=1, context="c", params=Params(prompt="a", steps=3), seed=7,
        files={"model": "m"}, loras=(LoraFile("l", 0.5, True),), threads=2,
        preview=PreviewWish("proj", 2, True),
        load_bytes=9, keep=2, keep_bytes=20,
    ),
    Unload(),
    PreviewWanted(),
    Interrupt(ticket=1),
]  # fmt: skip


def test_every_kind_of_frame_is_tested_here():
    assert {type(frame) for frame in TOLD} == set(FROM_CHILD)
    assert {type(frame) for frame in ASKED} == set(TO_CHILD)


def test_frames_come_out_as_they_went_in_however_the_stream_is_cut():
    for kinds, frames in ((FROM_CHILD, TOLD), (TO_CHILD, ASKED)):
        stream = b"".join(map(encode_frame, frames))
        assert list(FrameReader(kinds).feed(stream)) == frames
        for size in (1, 7, 100):
            reader, out = FrameReader(kinds), []
            for start in range(0, len(stream), size):
                out += reader.feed(stream[start : start + size])
            assert out == frames


def test_a_reader_is_as_large_behind_many_frames_as_it_was_at_first():
    # With a buffer of 1 MiB each image seemed to leave a page of 4 kB behind, for 250 images.
    frame = encode_frame(Began(ticket=4))
    tracemalloc.start()
    try:
        reader = FrameReader(FROM_CHILD)
        fed = sum(len(list(reader.feed(frame))) for _ in range(20_000))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fed == 20_000
    assert peak_bytes < 128 * limits.KIB


def test_frames_before_a_garbled_one_count():
    frames = FrameReader(FROM_CHILD).feed(encode_frame(Began(ticket=4)) + b"\xc1")
    assert next(frames) == Began(ticket=4)
    with pytest.raises(ProtocolError, match="garbled"):
        next(frames)


def test_a_frame_is_a_plain_array_of_name_and_map():
    assert msgpack.unpackb(encode_frame(Began(ticket=4))) == ["Began", {"ticket": 4}]


@pytest.mark.parametrize(
    "value",
    [
        7,
        "Began",
        [],
        ["Began"],
        ["Began", {"ticket": 1}, 3],
        ["Ended", {}],
        ["Draw", {}],
        [None, {}],
        [["Began"], {"ticket": 1}],
        [{"Began": 1}, {"ticket": 1}],
        [b"Began", {"ticket": 1}],
        ["Began", {}],
        ["Began", {"ticket": "one"}],
        ["At", {"ticket": 1, "phase": "dreaming"}],
        ["Declined", {"ticket": 1, "code": "nope", "message": ""}],
        {"Began": {"ticket": 1}},
    ],
)
def test_what_is_no_frame_is_garbled(value):
    with pytest.raises(ProtocolError, match="garbled"):
        list(FrameReader(FROM_CHILD).feed(msgpack.packb(value)))


@pytest.mark.parametrize(
    "stream",
    [
        b"Segmentation fault\n",
        b"\xc1",
        b"\xc7\x01\x05x",
        b"\xd4\x01\x00",
        b"\x92\xa1\xff\x80",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x81\x90\x01",
        b"[INFO ] stable-diffusion.cpp:173 - loading",
    ],
    ids=lambda stream: ascii(stream[:8]),
)
def test_bytes_of_a_broken_child_end_in_one_kind_of_error(stream):
    with pytest.raises(ProtocolError, match="garbled"):
        list(FrameReader(FROM_CHILD).feed(stream))


def test_a_frame_at_n_and_n_plus_1():
    most = limits.ENGINE_FRAME_BYTES_MAX
    frame = LogLine(level=1, text="x" * most)
    assert list(FrameReader(FROM_CHILD).feed(encode_frame(frame))) == [frame]
    with pytest.raises(ProtocolError, match="garbled"):
        list(FrameReader(FROM_CHILD).feed(encode_frame(LogLine(level=1, text="x" * (most + 1)))))


@pytest.mark.parametrize("start", [b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", LONG_LIST])
@pytest.mark.parametrize("piece", [b"\xda\x10\x00" + b"x" * 4096, b"\x00" * 4096])
def test_a_frame_without_end_is_not_waited_for(start, piece):
    reader = FrameReader(FROM_CHILD)

    def feed_for_ever():
        list(reader.feed(start))
        for _ in range(3 * limits.ENGINE_FRAME_BYTES_MAX // len(piece)):
            list(reader.feed(piece))

    with pytest.raises(ProtocolError, match="garbled"):
        feed_for_ever()


def test_a_long_stream_of_short_frames_goes_on_for_ever():
    reader, frame = FrameReader(FROM_CHILD), LogLine(level=1, text="x" * 50_000)
    for _ in range(6 * limits.ENGINE_FRAME_BYTES_MAX // 50_000):
        assert list(reader.feed(encode_frame(frame))) == [frame]
