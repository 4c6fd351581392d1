"""The thread that makes picture files, so that encoding overlaps the engine's next image."""

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from sdistrib.errors import EngineError, ErrorInfo
from sdistrib_worker.effects import EncodePicture
from sdistrib_worker.events import EncodingFailed, PictureEncoded
from sdistrib_worker.pictures import encode
from sdistrib_worker.supervisor import Picture

_LOG = logging.getLogger("sdistrib.worker")


class Encoder:
    """Takes `EncodePicture`s in order; gives each one's outcome to `done`, from its own thread."""

    def __init__(self, done: Callable[[PictureEncoded | EncodingFailed], None]) -> None:
        self._done = done
        self._orders: queue.SimpleQueue[EncodePicture | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def order(self, order: EncodePicture) -> None:
        """Encode when everything ordered before is done."""
        self._orders.put(order)

    def stop(self) -> None:
        """End after the picture under way; what waits is dropped."""
        while not self._orders.empty():
            waiting = self._orders.get()
            if waiting is not None:
                waiting.picture.close()
        self._orders.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            self._done(_encode(order))


def _encode(order: EncodePicture) -> PictureEncoded | EncodingFailed:
    began_at = time.perf_counter()
    picture: Picture = order.picture
    drawn = picture.drawn
    try:
        pixels = picture.pixels()
        sizes = drawn.width, drawn.height, drawn.channels
        data, notes = encode(pixels, *sizes, order.facts, order.form)
    except EngineError as error:
        return EncodingFailed(order.attempt, error.info)
    except Exception as error:  # noqa: BLE001 - the attempt needs an answer, and the next its turn
        _LOG.exception("a picture could not be encoded")
        message = f"The picture could not be encoded: {type(error).__name__}."
        return EncodingFailed(order.attempt, ErrorInfo(code="internal", message=message))
    finally:
        picture.close()
    digest = hashlib.sha256(data).hexdigest()
    return PictureEncoded(order.attempt, data, digest, time.perf_counter() - began_at, notes)
