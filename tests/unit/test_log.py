"""Logging: short lines for people, JSON for programs."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from sdistrib import log


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)


def test_short_lines_name_the_level_where_it_matters() -> None:
    stream = io.StringIO()
    log.setup(logging.INFO, stream=stream)
    logging.getLogger("x").debug("hidden")
    logging.getLogger("x").info("hello %s", "you")
    logging.getLogger("x").warning("careful")
    first, second = stream.getvalue().splitlines()
    assert first[8:] == " hello you"
    assert second[8:] == " warning: careful"


def test_json_lines_are_one_object_each() -> None:
    stream = io.StringIO()
    log.setup(logging.DEBUG, json=True, stream=stream)
    logging.getLogger("x").debug("日本\nzwei")
    try:
        int("broken")
    except ValueError:
        logging.getLogger("y").exception("oh")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("debug", "x", "日本\nzwei")
    assert first["time"].endswith("+00:00")
    assert "ValueError: invalid literal" in second["exception"]


def test_a_second_setup_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    log.setup(logging.INFO, stream=stream)
    log.setup(logging.INFO)
    logging.getLogger("x").info("once")
    assert stream.getvalue() == ""
    assert capsys.readouterr().err.count("once") == 1
