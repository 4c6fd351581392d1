"""The checker of histories: it passes a good one, and no corrupted one."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.history import Event, Scribe, check, read

GOOD_ID, CANCELLED_ID = "a" * 32, "b" * 32


def good() -> list[Event]:
    """A client of three lives: killed once, one petition cancelled, one image quarantined."""
    facts: list[tuple[str, dict[str, object]]] = [
        ("submit", {"caller": "c.1", "petition": GOOD_ID, "images": 3, "seed": 100}),
        ("accepted", {"caller": "c.1", "petition": GOOD_ID}),
        ("begun", {"seed": 100}),
        ("drawn", {"seed": 100}),
        ("picture", {"caller": "c.1", "petition": GOOD_ID, "index": 0, "digest": "00"}),
        ("killed", {"caller": "c.1"}),
        ("submit", {"caller": "c.2", "petition": GOOD_ID, "images": 3, "seed": 100}),
        ("accepted", {"caller": "c.2", "petition": GOOD_ID}),
        ("picture", {"caller": "c.2", "petition": GOOD_ID, "index": 0, "digest": "00"}),
        ("begun", {"seed": 101}),
        ("begun", {"seed": 102}),
        ("begun", {"seed": 101}),
        ("drawn", {"seed": 102}),
        ("picture", {"caller": "c.2", "petition": GOOD_ID, "index": 2, "digest": "02"}),
        ("ended", {"caller": "c.2", "petition": GOOD_ID, "outcome": "failed", "code": "quarantined",
                   "done": [0, 2], "failures": {"1": "quarantined"}}),
        ("submit", {"caller": "c.2", "petition": CANCELLED_ID, "images": 2, "seed": 200}),
        ("accepted", {"caller": "c.2", "petition": CANCELLED_ID}),
        ("begun", {"seed": 200}),
        ("drawn", {"seed": 200}),
        ("cancel", {"caller": "c.2", "petition": CANCELLED_ID}),
        ("ended", {"caller": "c.2", "petition": CANCELLED_ID, "outcome": "cancelled",
                   "code": "cancelled", "done": [0], "failures": {}}),
        ("stored", {"petition": GOOD_ID, "state": "failed", "pictures": {"0": "00", "2": "02"}}),
        ("stored", {"petition": CANCELLED_ID, "state": "cancelled", "pictures": {"0": "10"}}),
    ]  # fmt: skip
    return [{"at": float(at), "event": kind, **more} for at, (kind, more) in enumerate(facts)]


def first(events: list[Event], kind: str, **facts: object) -> Event:
    return next(e for e in events if e["event"] == kind and facts.items() <= e.items())


def lost(events: list[Event]) -> None:
    events.remove(first(events, "stored", petition=GOOD_ID))


def endless(events: list[Event]) -> None:
    first(events, "stored", petition=GOOD_ID)["state"] = "running"


def two_digests(events: list[Event]) -> None:
    first(events, "picture", caller="c.1")["digest"] = "ff"


def other_bytes_stored(events: list[Event]) -> None:
    first(events, "stored", petition=GOOD_ID)["pictures"]["2"] = "ff"


def handed_twice(events: list[Event]) -> None:
    events.append({**first(events, "picture", caller="c.2", index=2), "at": 13.5})


def handed_out_after_the_cancel(events: list[Event]) -> None:
    late = {"at": 20.5, "event": "picture", "caller": "c.1", "petition": CANCELLED_ID}
    events.append({"at": 16.5, "event": "accepted", "caller": "c.1", "petition": CANCELLED_ID})
    events.append({**late, "index": 1, "digest": "11"})


def recorded_after_the_cancel(events: list[Event]) -> None:
    first(events, "stored", petition=CANCELLED_ID)["pictures"]["1"] = "11"
    events.append({"at": 21.0, "event": "drawn", "seed": 201})


def recorded_and_taken_back(events: list[Event]) -> None:
    del first(events, "stored", petition=CANCELLED_ID)["pictures"]["0"]


def drawn_too_often(events: list[Event]) -> None:
    events += [{"at": 12.0, "event": "begun", "seed": 102}] * 20


def unanswered(events: list[Event]) -> None:
    events.remove(first(events, "ended", petition=GOOD_ID))


def given_up(events: list[Event]) -> None:
    first(events, "ended", petition=GOOD_ID)["outcome"] = "unreachable"


def told_otherwise(events: list[Event]) -> None:
    first(events, "ended", petition=GOOD_ID)["outcome"] = "done"


def incomplete(events: list[Event]) -> None:
    events.remove(first(events, "picture", caller="c.2", index=2))


def an_image_forgotten(events: list[Event]) -> None:
    first(events, "ended", petition=GOOD_ID)["failures"] = {}


def before_it_was_accepted(events: list[Event]) -> None:
    first(events, "picture", caller="c.2", index=0)["at"] = 6.5


def out_of_thin_air(events: list[Event]) -> None:
    events.remove(first(events, "drawn", seed=102))


def quarantined_at_once(events: list[Event]) -> None:
    events.remove(first(events, "begun", seed=101))


def a_bug_for_an_answer(events: list[Event]) -> None:
    first(events, "ended", petition=GOOD_ID)["failures"] = {"1": "internal"}


def other_content(events: list[Event]) -> None:
    first(events, "submit", caller="c.2", petition=GOOD_ID)["seed"] = 7


def ended_twice(events: list[Event]) -> None:
    events.append(copy.deepcopy(first(events, "ended", petition=GOOD_ID)))


CORRUPTED: list[tuple[Callable[[list[Event]], None], str]] = [
    (lost, "accepted and is lost"),
    (endless, "never ended; it is running"),
    (two_digests, "image 0 has 2 digests"),
    (other_bytes_stored, "image 2 has 2 digests"),
    (handed_twice, "image 2 was handed to c.2 2 times"),
    (handed_out_after_the_cancel, "after c.2 was told of the cancel"),
    (recorded_after_the_cancel, "[1] differ between the store and what c.2 was told"),
    (recorded_and_taken_back, "[0] differ"),
    (drawn_too_often, "executions per image"),
    (unanswered, "c.2 lives and has no answer"),
    (given_up, "c.2 was told 'unreachable'"),
    (told_otherwise, "was told 'done' and it is 'failed'"),
    (incomplete, "c.2 never got [2]"),
    (an_image_forgotten, "told of 2 of 3 images"),
    (before_it_was_accepted, "handed to c.2 before it was accepted"),
    (out_of_thin_air, "image 2 is done and no engine drew it"),
    (quarantined_at_once, "quarantined after one execution"),
    (a_bug_for_an_answer, "told of ['internal']"),
    (other_content, "submitted with other content"),
    (ended_twice, "ended twice"),
]


def test_a_good_history_passes() -> None:
    assert check(good()) == []


@pytest.mark.parametrize(("corrupt", "words"), CORRUPTED, ids=[c.__name__ for c, _ in CORRUPTED])
def test_a_corrupted_history_is_caught(corrupt: Callable[[list[Event]], None], words: str) -> None:
    events = good()
    corrupt(events)
    assert any(words in found for found in check(events)), check(events)


def test_a_caller_that_was_killed_needs_no_answer() -> None:
    events = good()
    events.remove(first(events, "ended", petition=GOOD_ID))
    events.append({"at": 22.0, "event": "killed", "caller": "c.2"})
    assert check(events) == []


def test_who_asks_again_for_a_dead_ones_petition_may_be_sent_only_the_rest() -> None:
    events = good()
    events.remove(first(events, "picture", caller="c.2", index=0))
    first(events, "ended", petition=GOOD_ID)["code"] = "internal"
    assert check(events) == []
    # The rest is only what the dead one had.
    events.remove(first(events, "picture", caller="c.1"))
    assert check(events)


def test_an_event_that_nobody_knows_is_no_proof() -> None:
    assert check([*good(), {"at": 99.0, "event": "who knows"}]) == ["an event 'who knows'"]


def test_what_was_written_is_read_in_order_of_time(tmp_path: Path) -> None:
    one, two = Scribe(tmp_path / "one.jsonl"), Scribe(tmp_path / "two.jsonl")
    for number in range(4):
        (one, two)[number % 2].write("begun", seed=number)
    one.close()
    two.close()
    with (tmp_path / "two.jsonl").open("a") as file:
        file.write('{"at": 1, "ev')  # its writer was killed
    assert [event["seed"] for event in read(tmp_path)] == [0, 1, 2, 3]
