"""The worker's machine hands in results: whole, in pieces, again."""

import math

import pytest

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib_worker import effects as fx
from sdistrib_worker import events
from tests.support.rig import (
    Rig,
    asked,
    attempt,
    big,
    digest,
    log_of,
    of,
    one,
    said,
    tiny_context,
)

# --- results ----------------------------------------------------------------------------------


def test_a_small_result_travels_whole_and_is_kept_until_recorded() -> None:
    rig = Rig()
    rig.connect()
    ticket = rig.begin(attempt(3), seed=5)
    told = {"sampling_method": "euler", "scheduler": "karras", "notes": ("n",)}
    made = rig.draw(ticket, load_s=1.5, sampling_s=1.25, **told)
    order = one(of(made, fx.EncodePicture))
    assert order.facts is not None
    assert (order.facts.seed, order.facts.scheduler) == (8, "karras")
    assert order.form == fx.FileForm("png", 90, lossless=False)
    made = rig.encoded(attempt(3), b"0123")
    assert said(made) == [
        wire.Result(
            attempt=attempt(3), seed=8, digest=digest(b"0123"), size_bytes=4, format="png",
            width=64, height=64, worker="box", fingerprint="f" * 16, context=tiny_context(),
            load_s=1.5, draw_s=2.0, encode_s=0.01, sampling_s=1.25, notes=("n",),
        )
    ]  # fmt: skip
    assert one(of(made, fx.Send)).body == b"0123"
    ticket = rig.begin(attempt(4))
    hello = one(said(rig.hear(wire.Identify()), wire.WorkerHello))
    assert (hello.running, hello.holding) == ((attempt(4),), (attempt(3),))
    # Finished without a session: kept for the next one.
    rig.draw(ticket)
    assert said(rig.encoded(attempt(4), b"4"), wire.Result) == []
    made = rig.welcome()
    assert [result.digest for result in said(made, wire.Result)] == [digest(b"0123"), digest(b"4")]
    rig.hear(wire.ResultRecorded(attempt=attempt(3)))
    rig.hear(wire.ResultRecorded(attempt=attempt(4)))
    hello = one(said(rig.hear(wire.Identify()), wire.WorkerHello))
    assert hello.holding == ()


@pytest.mark.parametrize(
    ("said_s", "told_s"), [(-1.0, 0.0), (0.5, 0.5), (2.0, 2.0), (2.5, 2.0), (math.inf, 0.0)]
)
def test_sampling_takes_no_more_than_the_whole_picture(said_s: float, told_s: float) -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt()), sampling_s=said_s)
    result = one(said(rig.encoded(attempt()), wire.Result))
    assert (result.sampling_s, result.draw_s) == (told_s, 2.0)


def test_a_refused_result_is_forgotten() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt()))
    rig.encoded(attempt())
    made = rig.hear(wire.ResultRefused(attempt=attempt(), reason="the image is done"))
    assert "the image is done" in log_of(made)
    assert one(said(rig.hear(wire.Identify()), wire.WorkerHello)).holding == ()


def test_the_file_is_what_the_petition_asks_for_and_the_result_says_so() -> None:
    rig = Rig()
    rig.connect()
    made = rig.draw(rig.begin(attempt(), format="webp", lossless=True), notes=("drawn",))
    assert one(of(made, fx.EncodePicture)).form == fx.FileForm("webp", 90, lossless=True)
    made = rig.turn(events.PictureEncoded(attempt(), b"w", digest(b"w"), 0.01, ("no room",)))
    result = one(said(made, wire.Result))
    assert (result.format, result.notes) == ("webp", ("drawn", "no room"))
    made = rig.draw(rig.begin(attempt(1), format="jpeg", quality=70))
    assert one(of(made, fx.EncodePicture)).form == fx.FileForm("jpeg", 70, lossless=False)


def test_metadata_off_leaves_nothing() -> None:
    rig = Rig()
    rig.connect()
    made = rig.draw(rig.begin(attempt(), metadata=False))
    assert one(of(made, fx.EncodePicture)).facts is None


@pytest.mark.parametrize("more", [0, 1])
def test_large_results_travel_in_pieces_from_n_plus_one(more: int) -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt()))
    made = rig.encoded(attempt(), bytes(limits.CHUNK_BYTES + more))
    chunks = said(made, wire.Chunk)
    assert len(chunks) == 2 * more
    bodies = [send.body for send in of(made, fx.Send)]
    assert all(body is None or len(body) <= limits.CHUNK_BYTES for body in bodies)


def _offsets(made: list[fx.Effect]) -> list[int]:
    return [chunk.offset // limits.MIB for chunk in said(made, wire.Chunk)]


def test_pieces_follow_credit_one_picture_at_a_time() -> None:
    rig = Rig()
    rig.connect()
    assert _offsets(big(rig, 0, 6)) == [0, 1, 2, 3]
    name = one(said(rig.effects, wire.Result)).digest
    made = big(rig, 1, 2)
    assert said(made, wire.Result) == []
    seen = lambda mib: wire.ChunkSeen(digest=name, offset=mib * limits.MIB)  # noqa: E731
    assert _offsets(rig.hear(seen(1))) == [4]
    assert _offsets(rig.hear(seen(3))) == [5]
    assert rig.hear(wire.ChunkSeen(digest="9" * 64, offset=0)) == []
    # A small one need not wait for the large one.
    rig.draw(rig.begin(attempt(7)))
    assert said(rig.encoded(attempt(7)), wire.Result)
    made = rig.hear(seen(6))
    assert one(said(made, wire.Result)).attempt == attempt(1)
    assert _offsets(made) == [0, 1, 2]
    # All of it is there, yet the manager asks for it anew: what it had was damaged.
    assert _offsets(rig.hear(seen(4))) == [4, 5]


def test_a_recorded_result_frees_the_way_for_the_next() -> None:
    rig = Rig()
    rig.connect()
    big(rig, 0, 9)
    big(rig, 1, 2)
    made = rig.hear(wire.ResultRecorded(attempt=attempt(0)))
    assert one(said(made, wire.Result)).attempt == attempt(1)
    assert rig.hear(wire.ResultRecorded(attempt=attempt(0))) == []
    # Words about a small picture's pieces mean nothing.
    rig.draw(rig.begin(attempt(7)))
    name = one(said(rig.encoded(attempt(7)), wire.Result)).digest
    assert rig.hear(wire.ChunkSeen(digest=name, offset=1)) == []


def test_a_new_session_resumes_where_the_manager_says() -> None:
    rig = Rig()
    rig.connect()
    big(rig, 0, 8)
    name = one(said(rig.effects, wire.Result)).digest
    rig.hear(wire.ChunkSeen(digest=name, offset=2 * limits.MIB))
    rig.hear(wire.Identify())
    assert _offsets(rig.turn(after_s=1.0)) == []
    made = rig.welcome()
    assert one(said(made, wire.Result)).digest == name
    assert _offsets(made) == [0, 1, 2, 3]
    made = rig.hear(wire.ChunkSeen(digest=name, offset=5 * limits.MIB))
    assert _offsets(made) == [5, 6, 7]


def test_an_unanswered_result_is_offered_again() -> None:
    rig = Rig()
    rig.connect()
    big(rig, 0, 2)
    rig.turn(after_s=0.5)
    rig.draw(rig.begin(attempt(1)))
    rig.encoded(attempt(1))
    for _ in range(29):
        made = rig.hear(wire.Beat(), after_s=1.0)
        assert not said(made, wire.Result)
    made = rig.hear(wire.Beat(), after_s=0.5)
    assert one(said(made, wire.Result)).attempt == attempt(0)
    assert _offsets(made) == [0, 1]
    made = rig.hear(wire.Beat(), after_s=0.5)
    assert one(said(made, wire.Result)).attempt == attempt(1)


def test_no_image_is_begun_while_too_many_results_wait() -> None:
    rig = Rig()
    rig.connect()
    most = limits.WORKER_RESULTS_HELD_MAX
    rig.grant(*(attempt(index) for index in range(most + 1)))
    for index in range(most):
        made = rig.draw(index + 1)
        assert len(asked(made)) == (1 if index < most - 1 else 0)
        rig.encoded(attempt(index))
    assert log_of(rig.effects).count("no new image is begun") == 1
    assert one(asked(rig.hear(wire.ResultRecorded(attempt=attempt(0))))).ticket == most + 1


def test_encoding_that_fails_is_told() -> None:
    rig = Rig()
    rig.connect()
    rig.draw(rig.begin(attempt()))
    error = ErrorInfo(code="engine_error", message="half of the pixels")
    made = rig.turn(events.EncodingFailed(attempt(), error))
    failed = one(said(made, wire.Failed))
    assert (failed.error.message, failed.error.worker) == ("half of the pixels", "box")
