"""stable-diffusion.cpp, driven through the binding's low-level C API only.

The binding's high-level class leaks each result, leaves dead callbacks registered, crashes on
failed loads and drops settings. Here one callback of each kind is registered once and for good,
every pointer is checked, and whatever the engine allocates for us is freed.

One object per process: the engine's callbacks are global.
"""

import ctypes
import hashlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from sdistrib import limits
from sdistrib.errors import PetitionError
from sdistrib.protocol.engine import Draw
from sdistrib.protocol.messages import EngineFacts
from sdistrib_worker.engine import capi, device
from sdistrib_worker.engine.base import Painting, RefusalError, Reporter
from sdistrib_worker.engine.capi import api
from sdistrib_worker.engine.contexts import Contexts
from sdistrib_worker.engine.generating import Generating, free
from sdistrib_worker.engine.structs import Filled, asked_size, needs_encoder
from sdistrib_worker.engine.telling import Telling
from sdistrib_worker.engine.upscaling import Upscaler, Upscaling, free_unless

#: Style strength that a PhotoMaker context is made with; 0.4.7's own default.
_STYLE_STRENGTH = 20.0
_FREED_OTHERS = "memory ran out, and was freed of what else was loaded"


class _Loaded(NamedTuple):
    """A context that is loaded, and what beside its key it was loaded for."""

    handle: Any
    #: CPU threads, and LoRAs that are merged into its weights.
    variant: tuple[object, ...]
    #: It has the VAE's encoder.
    has_encoder: bool


class SdCpp:
    """The engine: the contexts that were used last, and the last upscaler.

    An upscaler is small, so it does not count: there is one beside the contexts.

    Args:
        asked: the device that must be got: "auto", "cpu", "cuda", "vulkan0", …
        reporter: hears the log, and where the request is.

    Raises:
        DeviceError: the engine would run elsewhere.
    """

    def __init__(self, asked: str, reporter: Reporter) -> None:
        self._telling = Telling(reporter)
        self._contexts: Contexts[_Loaded] = Contexts(_free, reporter.holds)
        #: That of the request under way.
        self._context: Any = None
        self._upscaling = Upscaling(self._telling)
        self._generating = Generating(self._telling)
        _ears.engine = self
        api.sd_set_log_callback(_on_log, None)
        api.sd_set_progress_callback(_on_progress, None)
        chosen = device.choose(asked, capi.devices(), capi.VERSION)
        self._facts = _facts(chosen)
        if asked == "auto" and (warning := device.unused_gpu(chosen)):
            reporter.log(2, warning)

    #: This version of sd.cpp has no way to end a picture early; see `base.Engine.cancel`.
    cancel = None

    @property
    def facts(self) -> EngineFacts:
        """What this engine is and which device it has."""
        return self._facts

    def draw(self, request: Draw) -> list[Painting]:
        """Draw the images of a request, after loading their context if that is not loaded.

        Where memory runs out while other contexts are kept, they go, and it is tried once more.

        Raises:
            RefusalError: `engine_error`, `out_of_memory`, `unsupported`, `invalid_params` or
                `too_large`; the engine can be used on.
        """
        try:
            return self._draw(request)
        except RefusalError as refusal:
            if refusal.code != "out_of_memory":
                raise
            if not self._free_others(request):
                self.unload()  # what is loaded may be why
                raise
        self._telling.reporter.log(2, f"{_FREED_OTHERS}; drawing again")
        try:
            paintings = self._draw(request)
        except RefusalError as refusal:
            if refusal.code == "out_of_memory":
                self.unload()
            raise
        return [one._replace(notes=(*one.notes, _FREED_OTHERS)) for one in paintings]

    def _draw(self, request: Draw) -> list[Painting]:
        self._telling.begin()
        try:
            filled = _filled(request)
            if request.params.mode == "upscale":
                return [self._enlarge(request, filled)]
            if request.params.mode == "vid_gen":
                return [self._film(request, filled)]
            return self._paint(request, filled)
        except MemoryError:
            raise RefusalError("out_of_memory", "No memory is left for the picture.") from None

    def _paint(self, request: Draw, filled: Filled) -> list[Painting]:
        """Draw pictures, all in one run of the engine."""
        began = time.monotonic()
        loaded = self._load(request, filled)
        self._check_mode(film=False)
        upscaler = self._load_upscaler(request, filled, asked_size(request.params))
        load_s = time.monotonic() - began if loaded else 0.0
        self._telling.draws(request.count)
        try:
            images = self._generating.pictures(self._context, request, filled)
        finally:
            self._forget_person(request)
        notes = _size_note(asked_size(request.params), (images[0].width, images[0].height))
        try:
            for image in images:
                self._upscaling.enlarge(image, upscaler, request.params.upscale_repeats)
            self._telling.shares.ended(time.monotonic())
            sample = filled.img.sample_params
            return [
                self._painting(
                    [image], sample, number, load_s=0.0 if number else load_s, notes=notes
                )
                for number, image in enumerate(images)
            ]
        finally:
            free(images)

    def _film(self, request: Draw, filled: Filled) -> Painting:
        """Draw a video, all frames in one run of the engine."""
        began = time.monotonic()
        loaded = self._load(request, filled)
        self._check_mode(film=True)
        size = (request.params.width, request.params.height)
        upscaler = self._load_upscaler(request, filled, size)
        load_s = time.monotonic() - began if loaded else 0.0
        self._telling.draws(1)
        frames = self._generating.frames(self._context, request, filled)
        got = (frames[0].width, frames[0].height)
        lost = _frames_note(request.params.video_frames, len(frames))
        try:
            for frame in frames:
                self._upscaling.enlarge(frame, upscaler, request.params.upscale_repeats)
            self._telling.shares.ended(time.monotonic())
            notes = (*_size_note(size, got), *lost)
            return self._painting(frames, filled.vid.sample_params, load_s=load_s, notes=notes)
        finally:
            free(frames)

    def _enlarge(self, request: Draw, filled: Filled) -> Painting:
        """Make a given picture larger; the context, if there is one, stays for what comes next."""
        given = filled.img.init_image
        size = (given.width, given.height)
        if request.max_pixels and size[0] * size[1] > request.max_pixels:
            message = (
                f"{size[0]}x{size[1]} is more than the {request.max_pixels} pixels (--max-pixels)"
                " of this worker."
            )
            raise RefusalError("too_large", message)
        began = time.monotonic()
        before = self._upscaling.loaded
        upscaler = self._load_upscaler(request, filled, size)
        load_s = time.monotonic() - began if upscaler is not before else 0.0
        self._telling.draws(1)
        image = api.sd_image_t.from_buffer_copy(given)
        try:
            self._upscaling.enlarge(image, upscaler, request.params.upscale_repeats, given)
            self._telling.shares.ended(time.monotonic())
            return self._painting([image], None, load_s=load_s)
        finally:
            free_unless(given, image)

    def _painting(
        self,
        images: Sequence[Any],
        sample: Any,
        number: int = 0,
        *,
        load_s: float,
        notes: tuple[str, ...] = (),
    ) -> Painting:
        """Image `number` of the call, one or several frames; sampled with `sample`, if at all."""
        method = scheduler = ""
        if sample is not None:
            method = capi.enum_name("sample_method", sample.sample_method)
            scheduler = capi.enum_name("scheduler", sample.scheduler)
        return Painting(
            pixels=b"".join(map(_pixels, images)),
            width=images[0].width,
            height=images[0].height,
            channels=images[0].channel,
            load_s=load_s,
            draw_s=self._telling.shares.draw_s(number),
            sampling_s=self._telling.shares.sampling_s(number),
            sampling_method=method,
            scheduler=scheduler,
            notes=(*notes, *self._telling.story.notes()),
            frames=len(images),
        )

    def unload(self) -> None:
        """Free all contexts and the upscaler; nothing where there is none."""
        self._context = None
        self._contexts.free_all()
        self._upscaling.free()

    def _free_others(self, request: Draw) -> bool:
        """Free what this request does not need; False where there was nothing."""
        freed = self._contexts.free_all(but=request.context)
        if request.params.upscale_model:
            return freed
        return self._upscaling.free() or freed

    def hear_line(self, level: int, text: str) -> None:
        """One line of the engine's log, from whichever of its threads."""
        self._telling.line(level, text)

    def hear_progress(self, step: int, steps: int) -> None:
        """One report on the engine's progress channel."""
        where = self._telling.progress(step, steps)
        if where is not None and where.phase == "sampling" and where.steps:
            self._generating.stepped(where.step)

    # --- loading ----------------------------------------------------------------------------

    def _load(self, request: Draw, filled: Filled) -> bool:
        """Have the right context; True when it had to be loaded."""
        encoder = needs_encoder(request.params)
        # Merged LoRAs leave rounding errors in the weights when they are taken out again, so such
        # a context serves its own set of LoRAs only.
        merged = request.loras if request.params.lora_apply_mode != "at_runtime" else ()
        variant = (filled.ctx.n_threads, merged)
        loaded = self._contexts.use(request.context)
        if loaded and loaded.variant == variant and (loaded.has_encoder or not encoder):
            self._context = loaded.handle
            return False
        self._context, size_bytes = None, request.load_bytes
        self._contexts.make_room(request.context, size_bytes, request.keep, request.keep_bytes)
        self._telling.enter("loading")
        self._telling.dump("sd_ctx_params_t", capi.ctx_params_text(filled.ctx))
        context = api.new_sd_ctx(filled.ctx)
        if not context:
            raise self._telling.refusal("The engine could not load the model", loading=True)
        try:
            self._check_loaded(context, filled)
        except RefusalError:
            api.free_sd_ctx(context)
            raise
        self._contexts.add(request.context, size_bytes, _Loaded(context, variant, encoder))
        self._context = context
        return True

    def _check_loaded(self, context: Any, filled: Filled) -> None:
        """The engine warns and goes on where a part is missing; a picture without it is wrong."""
        story = self._telling.story
        if story.unread:
            files = ", ".join(story.unread)
            message = f"The engine could not read {files}: {story.reason()}."
            raise RefusalError("engine_error", message, loading=True)
        if story.bad_rules:
            message = f"--tensor-type-rules has {story.bad_rules[0]!r}, which is no rule."
            raise RefusalError("invalid_params", message, loading=True)
        if filled.words and not story.takes_embeddings:
            message = f"Embeddings are for SD 1, SD 2 and SDXL; this model is {story.version}."
            raise RefusalError("unsupported", message, loading=True)
        self._check_device()

    def _check_mode(self, *, film: bool) -> None:
        """The engine aborts when it is asked for what its model cannot do."""
        if film and not api.sd_ctx_supports_video_generation(self._context):
            message = "This model makes pictures, not videos; leave out -M vid_gen."
            raise RefusalError("unsupported", message)
        if not film and not api.sd_ctx_supports_image_generation(self._context):
            message = "This model makes videos, not pictures; give -M vid_gen."
            raise RefusalError("unsupported", message)

    def _check_device(self) -> None:
        story = self._telling.story
        if story.lost_device and self._facts.backend != "cpu":
            message = f"{self._facts.device} cannot be used any more: {story.reason()}."
            raise RefusalError("engine_error", message, loading=True)

    def _load_upscaler(
        self, request: Draw, filled: Filled, size: tuple[int, int]
    ) -> Upscaler | None:
        upscaler = self._upscaling.load(request, filled, size)
        if upscaler is not None:
            self._check_device()
        return upscaler

    def _forget_person(self, request: Draw) -> None:
        """Free a context that PhotoMaker has left something in.

        It keeps the style strength of one picture and plans the next one with it; a fresh context
        plans with the strength that it was made with, so such a context serves one picture. And
        one that could not use the pictures of the person does without from then on. Source:
        `SamplePlan::resolve`, `get_pmid_conditon`.
        """
        params = request.params
        styled = params.photo_maker and params.pm_style_strength != _STYLE_STRENGTH
        if styled or self._telling.story.lost_photo_maker:
            self._context = None
            self._contexts.free(request.context)


def _filled(request: Draw) -> Filled:
    try:
        return Filled(request)
    except PetitionError as error:
        raise RefusalError(error.code, str(error)) from None
    except ValueError as error:
        raise RefusalError("unsupported", f"{error}.") from None


def _pixels(image: Any) -> bytes:
    return ctypes.string_at(image.data, image.width * image.height * image.channel)


class _Ears:
    """Where the permanent callbacks find the engine object."""

    engine: SdCpp | None = None


_ears = _Ears()


# These two live as long as the process: the engine calls them whenever it likes.
@api.sd_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: object) -> None:
    if _ears.engine is not None:
        _ears.engine.hear_line(level, text.decode("utf-8", "replace"))


@api.sd_progress_callback  # type: ignore[untyped-decorator]
def _on_progress(step: int, steps: int, _time: float, _: object) -> None:
    if _ears.engine is not None:
        _ears.engine.hear_progress(step, steps)


def _free(loaded: _Loaded) -> None:
    api.free_sd_ctx(loaded.handle)
    capi.trim()


def _facts(chosen: device.Device) -> EngineFacts:
    info = capi.system_info()
    parts = (
        capi.VERSION, capi.library_digest(), chosen.backend, chosen.description, info,
    )  # fmt: skip
    return EngineFacts(
        version=capi.VERSION,
        backend=chosen.backend,
        device=f"{chosen.name}: {chosen.description}"[: limits.NAME_CHARS_MAX],
        fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
        system_info=info[: limits.TEXT_CHARS_MAX],
    )


def _frames_note(asked: int, got: int) -> tuple[str, ...]:
    return () if asked == got else (f"asked for {asked} frames; this model made it {got}",)


def _size_note(asked: tuple[int, int], got: tuple[int, int]) -> tuple[str, ...]:
    if asked == got:
        return ()
    (width, height), (wide, high) = asked, got
    return (f"asked for {width}x{height}; this model's sizes made it {wide}x{high}",)
