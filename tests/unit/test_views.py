"""Pictures at hand between disk and client: what stays, and what gives its place."""

from sdistrib_manager.views import Views


def held(views: Views, *names: str) -> str:
    return " ".join(name for name in names if views.get(name) is not None)


def test_the_newest_stay_out_while_older_ones_wait_to_be_sent() -> None:
    views = Views(3)
    for name in "abcd":
        views.put(name, b"1", 0.0)
    assert held(views, *"abcd") == "a b c", "in this order they are sent"
    views.sent("a")
    views.put("e", b"1", 0.0)
    assert held(views, *"abcde") == "b c e"


def test_a_slow_reader_finds_a_third_of_its_pictures_and_not_none() -> None:
    views, hits = Views(100), 0
    for number in range(1200):
        views.put(str(number), b"1", 0.0)
        if number % 4 == 0:  # it takes one where four are made
            hits += views.get(str(number // 4)) is not None
            views.sent(str(number // 4))
    assert hits > 100


def test_what_nobody_was_sent_gives_its_place_in_the_end() -> None:
    views = Views(1)
    views.put("a", b"1", 0.0)
    views.put("b", b"1", 4.9)
    assert held(views, "a", "b") == "a"
    views.put("b", b"1", 5.0)
    assert held(views, "a", "b") == "b"


def test_what_was_sent_is_still_there_for_a_second_client_until_another_comes() -> None:
    views = Views(2)
    views.put("a", b"1", 0.0)
    views.sent("a")
    assert views.get("a") == b"1"
    views.put("b", b"22", 0.0)
    assert held(views, "a", "b") == "b"
    views.sent("a")  # nothing to say about it any more


def test_bytes_are_counted_once_and_bounded() -> None:
    views = Views(4)
    for _ in range(3):
        views.put("a", b"123", 0.0)
    views.put("b", b"1", 0.0)
    assert held(views, "a", "b") == "a b"
    views.put("c", b"12345", 10.0)
    assert held(views, "a", "b", "c") == "a b", "too large: nothing makes room for it"
    views.put("c", b"12345", 10.0, force=True)
    assert held(views, "a", "b", "c") == "c"
    views.clear()
    assert held(views, "c") == ""
