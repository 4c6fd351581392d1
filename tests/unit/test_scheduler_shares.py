"""Fair shares of clients, in rounds of expected seconds."""

import pytest

from sdistrib_manager.scheduler import shares as shares_module
from sdistrib_manager.scheduler.shares import Shares


@pytest.fixture
def shares() -> Shares:
    return Shares(quantum_s=10.0)


def _waits(shares: Shares, *clients: str, now: float = 0.0) -> None:
    for client in clients:
        shares.arrive(client, now)
        shares.wait(client, 1)


def test_full_quanta_are_rounds(shares: Shares) -> None:
    _waits(shares, "ana")
    rounds = []
    for _ in range(4):
        rounds.append(shares.round("ana"))
        shares.charge("ana", 5.0, 0.0)
    assert rounds == [0, 0, 1, 1]


def test_who_comes_from_nothing_is_new_and_a_newcomer(shares: Shares) -> None:
    assert shares.arrive("ana", 0.0) == (True, True)
    # Until something of it waits, it still has nothing.
    assert shares.arrive("ana", 0.0) == (True, True)
    assert shares.round("ana") == 0


@pytest.mark.parametrize(("away_s", "newcomer"), [(300.0, False), (300.5, True)])
def test_who_was_served_lately_is_new_but_no_newcomer(
    shares: Shares, away_s: float, newcomer: bool
) -> None:
    _waits(shares, "ana")
    shares.charge("ana", 5.0, 0.0)
    shares.wait("ana", -1)
    assert shares.arrive("ana", away_s) == (True, newcomer)


def test_more_images_of_a_waiting_client_make_nobody_new(shares: Shares) -> None:
    _waits(shares, "ana")
    assert shares.arrive("ana", 1000.0) == (False, False)


def test_what_was_not_used_is_not_saved_up(shares: Shares) -> None:
    _waits(shares, "ana", "ben")
    shares.wait("ben", -1)
    for _ in range(10):
        shares.charge("ana", 10.0, 400.0)
    shares.arrive("ben", 401.0)
    # The round of the day is that of the last who was served: ben is at most one before ana.
    assert shares.round("ana") - shares.round("ben") == 1


def test_what_was_used_is_not_forgotten_by_going_away(shares: Shares) -> None:
    _waits(shares, "ana", "ben")
    shares.charge("ben", 55.0, 0.0)
    before = shares.round("ben")
    shares.wait("ben", -1)
    shares.arrive("ben", 1.0)
    assert shares.round("ben") == before == 5


def test_who_could_not_be_served_falls_back_eight_rounds_and_no_more(shares: Shares) -> None:
    _waits(shares, "ana", "ben")
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
    _waits(shares, "ana", "ben")
    for client in ("ana", "ben"):
        shares.charge(client, 35.0, 0.0)
    shares.wait("ana", -1)
    _waits(shares, "cat")
    assert shares._shares.keys() == {"ben", "cat"}
    # Nobody can be forgotten while all wait.
    _waits(shares, "dan")
    assert shares._shares.keys() == {"ben", "cat", "dan"}


def test_what_comes_back_of_a_forgotten_client_waits_as_that_of_any(
    shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares_module, "CLIENTS_MAX", 1)
    _waits(shares, "ana")
    # Its only image is in somebody's hands.
    shares.wait("ana", -1)
    _waits(shares, "ben")
    for _ in range(3):
        shares.charge("ben", 10.0, 0.0)
    assert shares.round("ana") == 2
    assert "ana" not in shares._shares
    shares.wait("ana", 1)
    assert shares.round("ana") == 2
    assert shares.arrive("ana", 0.0) == (False, False)


def test_the_version_changes_with_the_rounds_only(shares: Shares) -> None:
    _waits(shares, "ana", "ben")
    versions = []
    for seconds in (4.0, 4.0, 4.0, 0.0):
        shares.charge("ana", seconds, 0.0)
        versions.append(shares.version)
    # In the second round from the third on; and that is the round of the day at the fourth.
    assert versions == [0, 0, 1, 2]
