"""The thread that makes picture files, so that encoding overlaps the engine's next image."""

import hashlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable

from sdistrib import limits
from sdistrib.errors import EngineError, ErrorInfo
from sdistrib_worker import preview_files
from sdistrib_worker.effects import EncodePicture, EncodePreview
from sdistrib_worker.events import EncodingFailed, PictureEncoded, PreviewEncoded
from sdistrib_worker.frames import encode_film
from sdistrib_worker.pictures import encode
from sdistrib_worker.supervisor import Picture

#: Urgency of orders.
_PICTURE, _PREVIEW, _LAST = range(3)

_LOG = logging.getLogger("sdistrib.worker")


Order = EncodePicture | EncodePreview
Outcome = PictureEncoded | EncodingFailed | PreviewEncoded


class Encoder:
    """Takes orders in turn, previews only while no picture waits.

    Gives each one's outcome to `done`, from its own thread.
    """

    def __init__(self, done: Callable[[Outcome], None]) -> None:
        self._done = done
        #: Urgency, number, order: no two are alike in the first two. None ends the thread.
        self._orders: queue.PriorityQueue[tuple[int, int, Order | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def order(self, order: Order) -> None:
        """Encode when everything is done that is as urgent and was ordered before."""
        urgency = _PICTURE if isinstance(order, EncodePicture) else _PREVIEW
        self._orders.put((urgency, next(self._numbers), order))

    def stop(self) -> None:
        """End after the picture under way; what waits is dropped."""
        while not self._orders.empty():
            waiting = self._orders.get()[2]
            if isinstance(waiting, EncodePicture):
                waiting.picture.close()
            elif waiting is not None:
                waiting.pixels.close()
        self._orders.put((_LAST, next(self._numbers), None))
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (order := self._orders.get()[2]) is not None:
            if isinstance(order, EncodePicture):
                self._done(_encode(order))
            else:
                self._done(preview_files.encode(order))


def _check_size(data: bytes) -> None:
    if len(data) > limits.PICTURE_BYTES_MAX:
        message = f"The file has {len(data)} bytes; at most {limits.PICTURE_BYTES_MAX} are sent."
        raise EngineError(ErrorInfo(code="too_large", message=message))


def _encode(order: EncodePicture) -> PictureEncoded | EncodingFailed:
    began_at = time.perf_counter()
    picture: Picture = order.picture
    drawn = picture.drawn
    try:
        pixels = picture.pixels()
        sizes = drawn.width, drawn.height, drawn.channels
        if order.form.fps:
            data, notes = encode_film(pixels, (*sizes, drawn.frames), order.facts, order.form.fps)
        else:
            data, notes = encode(pixels, *sizes, order.facts, order.form)
        _check_size(data)
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
