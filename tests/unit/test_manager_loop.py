"""The manager's loop when what it keeps fails under it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdistrib.errors import StoreError
from sdistrib_manager.events import StopRequested
from sdistrib_manager.folder import StateFolder
from sdistrib_manager.loop import Loop
from sdistrib_manager.state import Settings
from sdistrib_manager.storage import open_folder


def _failing(text: str) -> Callable[..., Any]:
    def fails(*_: object) -> Any:
        raise StoreError(text)

    return fails


def test_what_can_neither_be_written_nor_read_back_ends_it_with_both_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = open_folder(Settings("t"), tmp_path)
    loop = Loop(kept, {})
    monkeypatch.setattr(kept.store, "commit", _failing("cannot write x"))
    monkeypatch.setattr(kept.store, "load", _failing("cannot read x"))
    with pytest.raises(StoreError, match=r"^cannot write x; nor read it back: cannot read x$"):
        loop.run()
    StateFolder(tmp_path).close()  # the folder is free for the next manager


def test_what_cannot_be_written_but_read_back_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = open_folder(Settings("t"), tmp_path)
    loop = Loop(kept, {})
    with monkeypatch.context() as broken:
        broken.setattr(kept.store, "commit", _failing("cannot write x"))
        loop.turn()
    loop._events.append(StopRequested())
    loop.run()
