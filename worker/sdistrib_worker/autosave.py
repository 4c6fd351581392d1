"""The thread that keeps pictures on the worker's own disk, after they were handed over.

Nothing waits for it: a disk that is full, slow or gone costs these copies and one warning, never a
picture on its way to the manager.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from sdistrib.errors import ConfigError
from sdistrib_worker.effects import SavePicture
from sdistrib_worker.naming import alternatives, check_template, name_of

_LOG = logging.getLogger("sdistrib.worker")
#: Pictures that may wait for the disk; what comes then is not saved.
WAITING_MAX = 64
#: Names that are tried for one picture; more of one name are no names.
_TRIES_MAX = 100_000
#: At the worker's end the disk has this long for what waits.
_STOP_S = 5.0


class Autosaver:
    """Takes `SavePicture`s and writes them below a folder, in order.

    Args:
        folder: is made if it is not there.
        template: of the names, see `naming`.
        clock: gives the local time.

    Raises:
        ConfigError: the template is none, or the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        template: str,
        clock: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        self._folder = folder
        self._template = check_template(template)
        self._clock = clock
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise ConfigError(f"--autosave {folder}: {error.strerror}.") from None
        if not writable:
            raise ConfigError(f"--autosave {folder}: this user cannot write there.")
        self._orders: queue.Queue[SavePicture | None] = queue.Queue(WAITING_MAX)
        self._trouble = False
        self._thread = threading.Thread(target=self._run, name="autosave", daemon=True)
        self._thread.start()

    def order(self, order: SavePicture) -> None:
        """Save when everything ordered before is saved; never blocks."""
        try:
            self._orders.put_nowait(order)
        except queue.Full:
            self._warn(f"{WAITING_MAX} pictures wait for the disk; the next are not saved")

    def stop(self) -> None:
        """End when what waits is saved, or after some seconds."""
        with contextlib.suppress(queue.Full):  # then it ends as the daemon that it is
            self._orders.put(None, timeout=_STOP_S)
            self._thread.join(timeout=_STOP_S)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self._save(order)
            except (OSError, ValueError) as error:
                self._warn(str(error))
            else:
                self._well()

    def _save(self, order: SavePicture) -> None:
        now = self._clock()
        date, clock = time.strftime("%Y-%m-%d", now), time.strftime("%H-%M-%S", now)
        name = name_of(self._template, order.facts, date, clock)
        for one in islice(alternatives(name), _TRIES_MAX):
            path = self._folder / one
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = path.open("xb")
            except FileExistsError:
                continue
            try:
                with file:
                    file.write(order.data)
            except OSError:
                path.unlink(missing_ok=True)  # half a picture is none
                raise
            return
        raise ValueError(f"{_TRIES_MAX} files are called {name}")

    def _warn(self, why: str) -> None:
        """Say it once, until something is saved again."""
        if not self._trouble:
            self._trouble = True
            _LOG.warning("Pictures are not saved in %s: %s.", self._folder, why)

    def _well(self) -> None:
        if self._trouble and self._orders.qsize() <= WAITING_MAX // 2:
            self._trouble = False
            _LOG.info("Pictures are saved in %s again.", self._folder)
