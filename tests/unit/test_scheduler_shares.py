"""Fair shares of clients, in rounds of expected seconds."""

import pytest

from sdistrib_manager.scheduler import shares as shares_module
from sdistrib_manager.scheduler.shares import Shares


@pytest.fixture
def shares() -> Shares:
    return Shares(quantum_s=10.0)


def _settled(shares: Shares, *clients: str, now: float = 0.0) -> None:
    for client in clients:
        shares.wait(client, 1, now)
        shares.granted(client)


def test_full_quanta_are_rounds(shares: Shares) -> None:
    _settled(shares, "ana")
    rounds = []
    for _ in range(4):
        rounds.append(shares.round("ana"))
        shares.charge("ana", 5.0, 0.0)
    assert rounds == [0, 0, 1, 1]


def test_who_comes_from_nothing_is_new_until_an_image_is_handed_out(shares: Shares) -> None:
    shares.wait("ana", 3, 0.0)
    assert shares.round("ana") == -1
    shares.granted("ana")
    assert shares.round("ana") == 0


@pytest.mark.parametrize(("away_s", "new"), [(300.0, False), (300.5, True)])
def test_who_was_served_lately_is_not_new(shares: Shares, away_s: float, new: bool) -> None:
    _settled(shares, "ana")
    shares.charge("ana", 5.0, 0.0)
    shares.wait("ana", -1, 0.0)
    shares.wait("ana", 1, away_s)
    assert (shares.round("ana") == -1) is new


def test_more_images_of_a_waiting_client_make_nobody_new(shares: Shares) -> None:
    _settled(shares, "ana")
    shares.wait("ana", 1, 1000.0)
    assert shares.round("ana") == 0


def test_what_was_not_used_is_not_saved_up(shares: Shares) -> None:
    _settled(shares, "ana", "ben")
    shares.wait("ben", -1, 0.0)
    for _ in range(10):
        shares.charge("ana", 10.0, 400.0)
    shares.wait("ben", 1, 401.0)
    shares.granted("ben")
    # The round of the day is that of the last who was served: ben is at most one before ana.
    assert shares.round("ana") - shares.round("ben") == 1


def test_what_was_used_is_not_forgotten_by_going_away(shares: Shares) -> None:
    _settled(shares, "ana", "ben")
    shares.charge("ben", 55.0, 0.0)
    before = shares.round("ben")
    shares.wait("ben", -1, 0.0)
    shares.wait("ben", 1, 1.0)
    assert shares.round("ben") == before == 5


def test_who_could_not_be_served_falls_back_eight_rounds_and_no_more(shares: Shares) -> None:
    _settled(shares, "ana", "ben")
    for _ in range(31):
        shares.charge("ana", 10.0, 0.0)
    assert shares.round("ana") == 31
    assert shares.round("ben") == 30 - 8
    # And catches up by as much as it gets.
    shares.charge("ben", 10.0, 0.0)
    assert shares.round("ben") == 23


def test_a_share_is_charged_though_nothing_of_it_waits(shares: Shares) -> None:
    shares.charge("ana", 25.0, 0.0)
    assert shares.round("ana") == 2


def test_beyond_the_limit_clients_without_waiting_images_are_forgotten(
    shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares_module, "CLIENTS_MAX", 2)
    _settled(shares, "ana", "ben")
    for client in ("ana", "ben"):
        shares.charge(client, 35.0, 0.0)
    shares.wait("ana", -1, 0.0)
    shares.wait("cat", 1, 0.0)
    assert shares._shares.keys() == {"ben", "cat"}
    # Nobody can be forgotten while all wait.
    shares.wait("dan", 1, 0.0)
    assert shares._shares.keys() == {"ben", "cat", "dan"}
