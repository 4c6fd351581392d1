"""One run of the engine: structs in, its own pictures out. The caller frees these."""

import ctypes
from typing import Any

from sdistrib.protocol.engine import Draw
from sdistrib_worker.engine import capi
from sdistrib_worker.engine.base import RefusalError
from sdistrib_worker.engine.capi import api
from sdistrib_worker.engine.preview import Previewing
from sdistrib_worker.engine.structs import Filled
from sdistrib_worker.engine.telling import Telling


class Generating:
    """Draws with a context that is loaded."""

    def __init__(self, telling: Telling) -> None:
        self._telling = telling
        self._previewing = Previewing(telling.reporter)

    def stepped(self, step: int) -> None:
        """A step of the sampling is done."""
        self._previewing.stepped(step)

    def pictures(self, context: Any, request: Draw, filled: Filled) -> list[Any]:
        """The pictures as `sd_image_t`s, as many as the request has images.

        Raises:
            RefusalError: no picture came of it, or one without something that was wished for.
        """
        resolve_sampler(context, filled.img.sample_params)
        self._telling.dump("sd_img_gen_params_t", capi.img_gen_params_text(filled.img))
        self._begin(request)
        try:
            images = api.generate_image(context, filled.img)
        finally:
            self._previewing.begin(None)
        if not images:
            raise self._telling.refusal("The engine drew no picture")
        pictures = [api.sd_image_t.from_buffer_copy(images[i]) for i in range(request.count)]
        capi.free_images(images)
        try:
            if not all(picture.data for picture in pictures):
                raise self._telling.refusal("The engine drew an empty picture")
            self._check_wishes(filled)
        except RefusalError:
            free(pictures)
            raise
        return pictures

    def frames(self, context: Any, request: Draw, filled: Filled) -> list[Any]:
        """The frames of a video as `sd_image_t`s, at least one. A preview shows the first of them.

        Raises:
            RefusalError: no video came of it, or one without something that was wished for.
        """
        resolve_sampler(context, filled.vid.sample_params)
        high_noise = filled.vid.high_noise_sample_params
        if high_noise.sample_method == capi.COUNTS["sample_method"]:
            high_noise.sample_method = api.sd_get_default_sample_method(context)
        self._telling.dump("sd_vid_gen_params_t", capi.vid_gen_params_text(filled.vid))
        self._begin(request)
        count = ctypes.c_int()
        try:
            images = api.generate_video(context, filled.vid, ctypes.byref(count))
        finally:
            self._previewing.begin(None)
        if not images or count.value < 1:
            raise self._telling.refusal("The engine drew no video")
        frames = [api.sd_image_t.from_buffer_copy(images[i]) for i in range(count.value)]
        capi.free_images(images)
        unread = ", ".join(self._telling.story.unread)
        if unread or not all(frame.data for frame in frames):
            free(frames)
            raise self._telling.refusal(
                f"The engine could not read {unread}" if unread else "The engine lost a frame"
            )
        return frames

    def _begin(self, request: Draw) -> None:
        self._telling.enter("encoding")
        self._previewing.begin(request.preview, self._telling.story.preview_shown)

    def _check_wishes(self, filled: Filled) -> None:
        """The engine warns and goes on where something is missing; such a picture is wrong."""
        story = self._telling.story
        if story.unread:
            raise self._telling.refusal(f"The engine could not read {', '.join(story.unread)}")
        if unused := self._unused_embeddings(filled):
            message = f"The embedding {unused[0]} fits no text encoder of this model."
            raise RefusalError("engine_error", message)
        if story.lost_photo_maker:
            raise self._telling.refusal("The engine could not use the pictures for PhotoMaker")

    def _unused_embeddings(self, filled: Filled) -> list[str]:
        """Those that were wanted and that the engine passed over; it says so to nobody."""
        prompts = [filled.img.prompt]
        if filled.img.sample_params.guidance.txt_cfg != 1.0:
            # Else the engine does not read the negative prompt at all.
            prompts.append(filled.img.negative_prompt)
        text = b"\n".join(prompts).decode()
        used = self._telling.story.embeddings
        return [name for name, word in filled.words.items() if word in text and word not in used]


def free(images: list[Any]) -> None:
    """Free pictures of the engine."""
    for image in images:
        capi.free_image(image)


def resolve_sampler(context: Any, sample: Any) -> None:
    """Choose what was left open, as sd-cli does before it draws.

    The engine would choose the same for the first pass, but takes the scheduler of the second pass
    of highres fix as it stands here.
    """
    if sample.sample_method == capi.COUNTS["sample_method"]:
        sample.sample_method = api.sd_get_default_sample_method(context)
    if sample.scheduler == capi.COUNTS["scheduler"]:
        sample.scheduler = api.sd_get_default_scheduler(context, sample.sample_method)
