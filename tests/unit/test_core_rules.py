"""LoRA tags, the moves of petitions and images, liveness, and pictures in pieces."""

import hashlib
from typing import get_args

import pytest

from sdistrib import limits
from sdistrib.errors import PetitionError, ProtocolError
from sdistrib.liveness import Liveness
from sdistrib.petitions import (
    IMAGE_ENDS,
    IMAGE_MOVES,
    PETITION_ENDS,
    PETITION_MOVES,
    ImageState,
    InvalidTransitionError,
    PetitionState,
    check_image_move,
    check_petition_move,
)
from sdistrib.prompts import LoraTag, split_loras
from sdistrib.transfer import Incoming, Outgoing, Piece

# --- LoRA tags ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "rest", "tags"),
    [
        ("a house", "a house", ()),
        ("a <lora:ink:0.5> house", "a  house", (LoraTag("ink", 0.5),)),
        ("<lora:ink>", "", (LoraTag("ink", 1.0),)),
        ("<lora:ink:>", "", (LoraTag("ink", 1.0),)),
        ("<lora:ink:-1.5>", "", (LoraTag("ink", -1.5),)),
        ("<lora: ink :1>", "", (LoraTag("ink", 1.0),)),
        ("<lora:ink:0.5:0.9>", "", (LoraTag("ink", 0.5),)),
        ("<lora:sub/ink:1>", "", (LoraTag("sub/ink", 1.0),)),
        ("<lora:a:0.5><lora:a:0.25>", "", (LoraTag("a", 0.75),)),
        ("<lora:|high_noise|a:2>", "", (LoraTag("a", 2.0, high_noise=True),)),
        ("<lora:|high_noise|a:2><lora:a:1>", "", (LoraTag("a", 2.0, True), LoraTag("a", 1.0))),
        ("<LORA:a:1> <lora:a", "<LORA:a:1> <lora:a", ()),
    ],
)
def test_lora_tags_are_taken_out_as_sd_cli_does(prompt, rest, tags):
    assert split_loras(prompt) == (rest, tags)


@pytest.mark.parametrize(
    "tag",
    ["<lora::1>", "<lora: >", "<lora:a:b>", "<lora:a:nan>", "<lora:a:inf>", "<lora:a:1e308>" * 2],
)
def test_lora_tags_that_mean_nothing_are_refused(tag):
    with pytest.raises(PetitionError) as caught:
        split_loras(f"a {tag} house")
    assert (caught.value.code, caught.value.info.field) == ("invalid_params", "prompt")


def test_loras_at_n_and_n_plus_1():
    tags = [f"<lora:l{i}:1>" for i in range(limits.LORAS_MAX + 1)]
    assert len(split_loras("".join(tags[:-1]))[1]) == limits.LORAS_MAX
    with pytest.raises(PetitionError) as caught:
        split_loras("".join(tags))
    assert caught.value.code == "too_large"


def test_the_name_of_a_lora_is_no_longer_than_any_other_name():
    longest = "n" * limits.NAME_CHARS_MAX
    assert split_loras(f"<lora:{longest}:1>")[1][0].name == longest
    with pytest.raises(PetitionError) as caught:
        split_loras(f"<lora:{longest}n:1>")
    assert caught.value.info.field == "prompt"
    assert len(caught.value.info.message) < 2 * limits.NAME_CHARS_MAX


def test_a_refusal_quotes_a_tag_only_in_part():
    with pytest.raises(PetitionError) as caught:
        split_loras(f"<lora:a:{'x' * 10_000}>")
    assert len(caught.value.info.message) < 2 * limits.NAME_CHARS_MAX


# --- The moves ------------------------------------------------------------------------------


def test_an_end_is_left_only_by_a_retry_or_for_a_lost_picture():
    left = {(before, after) for before, after in PETITION_MOVES if before in PETITION_ENDS}
    assert left == {(end, "queued") for end in ("failed", "cancelled", "expired")}
    undone = {(before, after) for before, after in IMAGE_MOVES if before in IMAGE_ENDS}
    assert undone == {(end, "waiting") for end in ("done", "failed", "cancelled")}
    assert set(get_args(PetitionState)) - {"queued", "running"} == PETITION_ENDS
    assert set(get_args(ImageState)) - {"waiting", "leased"} == IMAGE_ENDS


def test_every_state_can_be_reached():
    for states, moves in (
        (get_args(PetitionState), PETITION_MOVES),
        (get_args(ImageState), IMAGE_MOVES),
    ):
        assert {after for _, after in moves} == set(states)


@pytest.mark.parametrize("before", get_args(PetitionState))
@pytest.mark.parametrize("after", get_args(PetitionState))
def test_petition_moves_are_those_of_the_table(before, after):
    if (before, after) in PETITION_MOVES:
        check_petition_move(before, after)
    else:
        with pytest.raises(InvalidTransitionError, match=f"petition {before} -> {after}: tale"):
            check_petition_move(before, after, "tale")


@pytest.mark.parametrize("before", get_args(ImageState))
@pytest.mark.parametrize("after", get_args(ImageState))
def test_image_moves_are_those_of_the_table(before, after):
    if (before, after) in IMAGE_MOVES:
        check_image_move(before, after)
    else:
        with pytest.raises(InvalidTransitionError, match=f"image {before} -> {after}: tale"):
            check_image_move(before, after, "tale")


# --- Liveness -------------------------------------------------------------------------------


def test_silence_becomes_suspicion_and_then_the_end():
    peer = Liveness(100.0)
    assert peer.state(100.0 + limits.SUSPECT_S - 0.001) == "alive"
    assert peer.state(100.0 + limits.SUSPECT_S) == "suspect"
    assert peer.state(100.0 + limits.GONE_S - 0.001) == "suspect"
    assert peer.state(100.0 + limits.GONE_S) == "gone"
    peer.heard(200.0)
    assert peer.state(202.0) == "alive"


def test_an_owner_may_choose_its_own_patience():
    peer = Liveness(100.0, suspect_s=10.0, gone_s=20.0)
    assert [peer.state(100.0 + s) for s in (9.9, 10.0, 19.9, 20.0)] == [
        "alive", "suspect", "suspect", "gone",
    ]  # fmt: skip


def test_a_pause_of_our_own_is_forgiven():
    peer = Liveness(100.0)
    peer.forgive(40.0)
    assert peer.state(142.0) == "alive"
    assert peer.state(140.0 + limits.SUSPECT_S) == "suspect"


def test_a_beat_is_due_after_a_whole_beat_without_a_word():
    peer = Liveness(100.0)
    assert not peer.beat_due(100.0 + limits.BEAT_S - 0.001)
    assert peer.beat_due(100.0 + limits.BEAT_S)
    peer.sent(101.0)
    assert not peer.beat_due(101.5)


# --- Pieces ---------------------------------------------------------------------------------

SIZE = 6 * limits.CHUNK_BYTES + 7


def test_a_sender_keeps_to_its_credit_and_ends_with_the_rest():
    out = Outgoing(SIZE)
    first = list(out.ready())
    assert first == [
        Piece(i * limits.CHUNK_BYTES, (i + 1) * limits.CHUNK_BYTES)
        for i in range(limits.CHUNK_CREDIT)
    ]
    assert list(out.ready()) == []
    out.seen(limits.CHUNK_BYTES)
    assert [piece.offset for piece in out.ready()] == [4 * limits.CHUNK_BYTES]
    out.seen(5 * limits.CHUNK_BYTES)
    assert list(out.ready())[-1] == Piece(6 * limits.CHUNK_BYTES, SIZE)
    out.seen(SIZE)
    assert list(out.ready()) == []


def test_acknowledgements_that_come_late_twice_or_from_nowhere_change_nothing():
    out = Outgoing(SIZE)
    list(out.ready())
    out.seen(3 * limits.CHUNK_BYTES)
    out.seen(limits.CHUNK_BYTES)
    assert out.acknowledged == 3 * limits.CHUNK_BYTES
    out.seen(10**15)
    assert (out.acknowledged, out.sent) == (SIZE, SIZE)


def test_a_receiver_that_kept_what_it_had_is_sent_the_rest_only():
    out = Outgoing(SIZE)
    list(out.ready())
    out.resume(2 * limits.CHUNK_BYTES)
    assert [p.offset // limits.CHUNK_BYTES for p in out.ready()] == [2, 3, 4, 5]
    out.resume(0)
    assert next(out.ready()).offset == 0
    ahead = Outgoing(SIZE)
    ahead.seen(5 * limits.CHUNK_BYTES)
    assert next(ahead.ready()).offset == 5 * limits.CHUNK_BYTES


def test_pieces_make_a_picture_and_a_repeated_one_is_harmless():
    data = bytes(range(256)) * 4
    into = Incoming(hashlib.sha256(data).hexdigest(), len(data))
    assert into.take(0, data[:500]) is False
    assert into.take(0, data[:500]) is False
    assert into.take(500, memoryview(data)[500:]) is True
    assert b"".join(into.parts()) == data
    assert into.take(500, data[500:]) is False


@pytest.mark.parametrize(
    ("offset", "piece"), [(1, b"x"), (0, b"12345"), (0, b""), (0, b"1235")],
    ids=["gap", "too long", "empty", "damaged"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(offset, piece):
    into = Incoming(hashlib.sha256(b"1234").hexdigest(), 4)
    with pytest.raises(ProtocolError):
        into.take(offset, piece)
