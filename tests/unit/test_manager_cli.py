"""What is typed at the manager is what it works by."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sdistrib import limits
from sdistrib.errors import EXIT_USAGE
from sdistrib_manager import cli
from sdistrib_manager.state import Settings
from sdistrib_manager.storage import Storage


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Settings of each manager that would have run."""
    found: list[Settings] = []

    def run(bind: str, client_port: int, worker_port: int, storage: Storage) -> None:
        found.append(storage._settings)
        storage.close()

    monkeypatch.setattr(cli, "run", run)
    return found


def typed(*words: str) -> Result:
    return CliRunner().invoke(cli.command, words)


def test_without_options_a_manager_keeps_to_the_limits(
    started: list[Settings], tmp_path: Path
) -> None:
    assert typed("--state", str(tmp_path)).exit_code == 0
    plain = Settings(started[0].software, retention_bytes=limits.RETENTION_BYTES)
    assert started == [plain]


def test_each_option_reaches_its_setting(started: list[Settings], tmp_path: Path) -> None:
    result = typed(
        "--state", str(tmp_path), "--retries", "0", "--suspect-after", "10", "--gone-after", "60",
        "--restart-grace", "0", "--overtaken-max", "9",
        "--retention-hours", "0.5", "--retention-bytes", "7",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (found,) = started
    assert (found.attempts_max, found.suspect_s, found.gone_s) == (1, 10.0, 60.0)
    assert found.overtaken_s == 9.0
    assert (found.restart_grace_s, found.retention_s, found.retention_bytes) == (0.0, 1800.0, 7)


def test_in_memory_pictures_that_clients_have_are_not_kept(started: list[Settings]) -> None:
    assert typed("--store", "memory").exit_code == 0
    assert started[0].retention_bytes == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--gone-after", "3"), "--gone-after 3 must be longer than --suspect-after 3"),
        (("--suspect-after", "1"), "--suspect-after"),
        (("--retries", "-1"), "--retries"),
        (("--store", "memory", "--state", "x"), "--state has no meaning"),
    ],
)
def test_what_makes_no_sense_is_refused(
    started: list[Settings], words: tuple[str, ...], text: str
) -> None:
    result = typed(*words)
    assert result.exit_code == EXIT_USAGE
    assert text in result.output
    assert not started
