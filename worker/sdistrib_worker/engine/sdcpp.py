"""stable-diffusion.cpp, driven through the binding's low-level C API only.

The binding's high-level class leaks each result, leaves dead callbacks registered, crashes on
failed loads and drops settings. Here one callback of each kind is registered once and for good,
every pointer is checked, and whatever the engine allocates for us is freed.

One object per process: the engine's callbacks are global.
"""

import ctypes
import hashlib
import time
from typing import Any, NamedTuple

from sdistrib import limits
from sdistrib.errors import PetitionError
from sdistrib.protocol.engine import Draw, PreviewWish
from sdistrib.protocol.messages import EngineFacts
from sdistrib_worker.engine import capi, device
from sdistrib_worker.engine.base import Painting, RefusalError, Reporter
from sdistrib_worker.engine.capi import api
from sdistrib_worker.engine.contexts import Contexts
from sdistrib_worker.engine.preview import Previewing
from sdistrib_worker.engine.story import Story, Where
from sdistrib_worker.engine.structs import Filled, asked_size, needs_encoder

#: Style strength that a PhotoMaker context is made with; 0.4.7's own default.
_STYLE_STRENGTH = 20.0
_FREED_OTHERS = "memory ran out, and was freed of what else was loaded"


class _Upscaling(NamedTuple):
    """An upscaler that is loaded, and what it was loaded from."""

    handle: Any
    key: tuple[object, ...]
    #: How much it enlarges each side; its own property, not ours to choose.
    factor: int


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
        self._reporter = reporter
        self._story = Story("loading", time.monotonic())
        self._contexts: Contexts[_Loaded] = Contexts(_free, reporter.holds)
        #: That of the request under way.
        self._context: Any = None
        self._upscaler: _Upscaling | None = None
        self._previewing = Previewing(reporter)
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

    def draw(self, request: Draw) -> Painting:
        """Draw one image, after loading its context if that is not loaded.

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
        self._reporter.log(2, f"{_FREED_OTHERS}; drawing again")
        try:
            painting = self._draw(request)
        except RefusalError as refusal:
            if refusal.code == "out_of_memory":
                self.unload()
            raise
        return painting._replace(notes=(*painting.notes, _FREED_OTHERS))

    def _draw(self, request: Draw) -> Painting:
        self._story = Story("loading", time.monotonic())
        try:
            filled = _filled(request)
            if request.params.mode == "upscale":
                return self._enlarge(request, filled)
            if request.params.mode == "vid_gen":
                return self._film(request, filled)
            return self._paint(request, filled)
        except MemoryError:
            raise RefusalError("out_of_memory", "No memory is left for the picture.") from None

    def _paint(self, request: Draw, filled: Filled) -> Painting:
        began = time.monotonic()
        loaded = self._load(request, filled)
        self._check_mode(film=False)
        upscaler = self._load_upscaler(request, filled, asked_size(request.params))
        drawing = time.monotonic()
        try:
            image, size = self._generate(request, filled)
        finally:
            self._forget_style(request)
        try:
            self._upscale(image, upscaler, request.params.upscale_repeats)
            pixels = _pixels(image)
        finally:
            capi.free_image(image)
        sample = filled.img.sample_params
        return Painting(
            pixels=pixels,
            width=image.width,
            height=image.height,
            channels=image.channel,
            load_s=drawing - began if loaded else 0.0,
            draw_s=time.monotonic() - drawing,
            sampling_s=self._story.sampling_s,
            sampling_method=capi.enum_name("sample_method", sample.sample_method),
            scheduler=capi.enum_name("scheduler", sample.scheduler),
            notes=(*_size_note(asked_size(request.params), size), *self._story.notes()),
        )

    def _film(self, request: Draw, filled: Filled) -> Painting:
        """Draw a video, all frames in one run of the engine."""
        began = time.monotonic()
        loaded = self._load(request, filled)
        self._check_mode(film=True)
        size = (request.params.width, request.params.height)
        upscaler = self._load_upscaler(request, filled, size)
        drawing = time.monotonic()
        frames = self._generate_frames(filled, request.preview)
        got = (frames[0].width, frames[0].height)
        try:
            for frame in frames:
                self._upscale(frame, upscaler, request.params.upscale_repeats)
            pixels = b"".join(map(_pixels, frames))
        finally:
            for frame in frames:
                capi.free_image(frame)
        sample = filled.vid.sample_params
        return Painting(
            pixels=pixels,
            width=frames[0].width,
            height=frames[0].height,
            channels=frames[0].channel,
            load_s=drawing - began if loaded else 0.0,
            draw_s=time.monotonic() - drawing,
            sampling_s=self._story.sampling_s,
            sampling_method=capi.enum_name("sample_method", sample.sample_method),
            scheduler=capi.enum_name("scheduler", sample.scheduler),
            notes=(
                *_size_note(size, got),
                *_frames_note(request.params.video_frames, len(frames)),
                *self._story.notes(),
            ),
            frames=len(frames),
        )

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
        before = self._upscaler
        upscaler = self._load_upscaler(request, filled, size)
        drawing = time.monotonic()
        image = api.sd_image_t.from_buffer_copy(given)
        try:
            self._upscale(image, upscaler, request.params.upscale_repeats, given)
            pixels = _pixels(image)
        finally:
            self._free_unless(given, image)
        return Painting(
            pixels=pixels,
            width=image.width,
            height=image.height,
            channels=image.channel,
            load_s=drawing - began if upscaler is not before else 0.0,
            draw_s=time.monotonic() - drawing,
            sampling_s=0.0,
            sampling_method="",
            scheduler="",
            notes=self._story.notes(),
        )

    def unload(self) -> None:
        """Free all contexts and the upscaler; nothing where there is none."""
        self._context = None
        self._contexts.free_all()
        self._free_upscaler()

    def _free_others(self, request: Draw) -> bool:
        """Free what this request does not need; False where there was nothing."""
        freed = self._contexts.free_all(but=request.context)
        if self._upscaler is None or request.params.upscale_model:
            return freed
        self._free_upscaler()
        return True

    def _free_upscaler(self) -> None:
        if self._upscaler is not None:
            api.free_upscaler_ctx(self._upscaler.handle)
            self._upscaler = None

    def hear_line(self, level: int, text: str) -> None:
        """One line of the engine's log, from whichever of its threads."""
        for line in filter(str.strip, text.splitlines()):
            self._reporter.log(level, line)
        if where := self._story.line(level, text):
            self._reporter.at(*where)

    def hear_progress(self, step: int, steps: int) -> None:
        """One report on the engine's progress channel."""
        if where := self._story.step(step, steps, time.monotonic()):
            self._reporter.at(*where)
            if where.phase == "sampling" and where.steps:
                self._previewing.stepped(where.step)

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
        self._tell(self._story.enter("loading"))
        self._dump("sd_ctx_params_t", capi.ctx_params_text(filled.ctx))
        context = api.new_sd_ctx(filled.ctx)
        if not context:
            raise self._refusal("The engine could not load the model", loading=True)
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
        story = self._story
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
        if self._story.lost_device and self._facts.backend != "cpu":
            message = f"{self._facts.device} cannot be used any more: {self._story.reason()}."
            raise RefusalError("engine_error", message, loading=True)

    def _load_upscaler(
        self, request: Draw, filled: Filled, size: tuple[int, int]
    ) -> _Upscaling | None:
        """Have the right upscaler for a picture of this size, or None where none is wanted.

        Source: `main` of sd-cli.
        """
        params = request.params
        if not params.upscale_model:
            return None
        ctx = filled.ctx
        path = request.files["upscale_model"]
        key = (
            path, ctx.offload_params_to_cpu, ctx.diffusion_conv_direct, ctx.n_threads,
            params.upscale_tile_size,
        )  # fmt: skip
        if self._upscaler is None or self._upscaler.key != key:
            self._free_upscaler()
            handle = api.new_upscaler_ctx(path.encode(), *key[1:])
            if not handle:
                # The context is loaded and stays.
                raise self._refusal("The engine could not load the upscaler")
            self._upscaler = _Upscaling(handle, key, int(api.get_upscale_factor(handle)))
            self._check_device()
        width, height = size
        times = self._upscaler.factor**params.upscale_repeats
        frames = params.video_frames
        most = limits.PICTURE_BYTES_MAX if frames == 1 else limits.PIXEL_BYTES_MAX
        if width * height * 3 * times**2 * frames > most:
            message = (
                f"Enlarging {width}x{height} by {times} makes {width * times}x{height * times}"
                f" pixels, more than sdistrib sends."
            )
            raise RefusalError("too_large", message)
        return self._upscaler

    # --- drawing ----------------------------------------------------------------------------

    def _generate(self, request: Draw, filled: Filled) -> tuple[Any, tuple[int, int]]:
        """The picture as an `sd_image_t` that the caller frees, and its size."""
        self._resolve_sampler(filled.img.sample_params)
        self._dump("sd_img_gen_params_t", capi.img_gen_params_text(filled.img))
        self._tell(self._story.enter("encoding"))
        self._previewing.begin(request.preview, self._story.preview_shown)
        try:
            images = api.generate_image(self._context, filled.img)
        finally:
            self._previewing.begin(None)
        if not images:
            raise self._refusal("The engine drew no picture")
        image = api.sd_image_t.from_buffer_copy(images[0])
        capi.free_images(images)
        if not image.data:
            raise self._refusal("The engine drew an empty picture")
        if self._story.unread:
            capi.free_image(image)
            raise self._refusal(f"The engine could not read {', '.join(self._story.unread)}")
        if unused := self._unused_embeddings(filled):
            capi.free_image(image)
            message = f"The embedding {unused[0]} fits no text encoder of this model."
            raise RefusalError("engine_error", message)
        if self._story.lost_photo_maker:
            capi.free_image(image)
            self._drop(request)  # it does without PhotoMaker from now on
            raise self._refusal("The engine could not use the pictures for PhotoMaker")
        return image, (image.width, image.height)

    def _unused_embeddings(self, filled: Filled) -> list[str]:
        """Those that were wanted and that the engine passed over; it says so to nobody."""
        prompts = [filled.img.prompt]
        if filled.img.sample_params.guidance.txt_cfg != 1.0:
            # Else the engine does not read the negative prompt at all.
            prompts.append(filled.img.negative_prompt)
        text = b"\n".join(prompts).decode()
        used = self._story.embeddings
        return [name for name, word in filled.words.items() if word in text and word not in used]

    def _generate_frames(self, filled: Filled, preview: PreviewWish | None) -> list[Any]:
        """The frames as `sd_image_t`s that the caller frees, at least one.

        A preview shows the first of them.
        """
        self._resolve_sampler(filled.vid.sample_params)
        high_noise = filled.vid.high_noise_sample_params
        if high_noise.sample_method == capi.COUNTS["sample_method"]:
            high_noise.sample_method = api.sd_get_default_sample_method(self._context)
        self._dump("sd_vid_gen_params_t", capi.vid_gen_params_text(filled.vid))
        self._tell(self._story.enter("encoding"))
        count = ctypes.c_int()
        self._previewing.begin(preview, self._story.preview_shown)
        try:
            images = api.generate_video(self._context, filled.vid, ctypes.byref(count))
        finally:
            self._previewing.begin(None)
        if not images or count.value < 1:
            raise self._refusal("The engine drew no video")
        frames = [api.sd_image_t.from_buffer_copy(images[i]) for i in range(count.value)]
        capi.free_images(images)
        if self._story.unread or not all(frame.data for frame in frames):
            for frame in frames:
                capi.free_image(frame)
            unread = ", ".join(self._story.unread)
            raise self._refusal(
                f"The engine could not read {unread}" if unread else "The engine lost a frame"
            )
        return frames

    def _resolve_sampler(self, sample: Any) -> None:
        """Choose what was left open, as sd-cli does before it draws.

        The engine would choose the same for the first pass, but takes the scheduler of the second
        pass of highres fix as it stands here.
        """
        if sample.sample_method == capi.COUNTS["sample_method"]:
            sample.sample_method = api.sd_get_default_sample_method(self._context)
        if sample.scheduler == capi.COUNTS["scheduler"]:
            sample.scheduler = api.sd_get_default_scheduler(self._context, sample.sample_method)

    def _forget_style(self, request: Draw) -> None:
        """PhotoMaker keeps the style strength of one picture and plans the next one with it.

        A fresh context plans with the strength that it was made with, so such a context serves one
        picture. Source: `SamplePlan::resolve`, `get_pmid_conditon`.
        """
        params = request.params
        if params.photo_maker and params.pm_style_strength != _STYLE_STRENGTH:
            self._drop(request)

    def _drop(self, request: Draw) -> None:
        """Free the request's own context; the others stay."""
        self._context = None
        self._contexts.free(request.context)

    def _upscale(
        self, image: Any, upscaler: _Upscaling | None, repeats: int, kept: Any = None
    ) -> None:
        """Enlarge `image` in place, freeing what it was unless that is `kept`."""
        if upscaler is None:
            return
        self._tell(self._story.enter("upscaling"))
        for _ in range(repeats):
            larger = api.upscale(upscaler.handle, image, upscaler.factor)
            if not larger.data:
                raise self._refusal("The engine could not enlarge the picture")
            self._free_unless(kept, image)
            image.width, image.height = larger.width, larger.height
            image.channel, image.data = larger.channel, larger.data

    def _free_unless(self, kept: Any, image: Any) -> None:
        if kept is None or ctypes.addressof(kept.data.contents) != ctypes.addressof(
            image.data.contents
        ):
            capi.free_image(image)

    def _refusal(self, what: str, *, loading: bool = False) -> RefusalError:
        message = f"{what}: {self._story.reason()}."[: limits.TEXT_CHARS_MAX]
        if self._story.out_of_memory():
            return RefusalError("out_of_memory", message, loading=loading)
        return RefusalError("engine_error", message, loading=loading)

    def _tell(self, where: Where) -> None:
        self._reporter.at(*where)

    def _dump(self, name: str, text: str) -> None:
        """The parameters as the engine itself sees them; only the debug level ever shows them."""
        for line in text.splitlines():
            self._reporter.log(0, f"{name} {line}")


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
