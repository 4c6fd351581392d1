"""What the engine is doing, told from its own log and its progress reports. Pure.

Theory of operation. The engine has one progress channel, and everybody reports on it: the loader
counts tensors, LoRAs count tensors, the sampler counts steps, the VAE and the upscalers count
tiles. The numbers alone do not tell which is meant; the log lines before them do. A block of
reports begins with step 0. It is about tiles when "processing N tiles" was said just before, and
about sampling when it follows "generating image" or, in highres fix, the line with its steps. A
call of several images samples one after the other ("generating image: 2/4"), and only then decodes
them ("latent 2 decoded" ends the second). A
video begins with "generate_video" and its size; with a high-noise model it is sampled twice.
Source of all lines: `generate_image`, `generate_video` and `process_tiles_2d` of engine 0.4.7.
"""

import re
from collections import deque
from pathlib import PurePath
from typing import NamedTuple

from sdistrib import limits
from sdistrib.protocol.messages import Phase
from sdistrib_worker.engine.death import says_out_of_memory

#: "stable-diffusion.cpp:212  - ", which each line begins with.
_PLACE = re.compile(r"^[\w.+-]+:\d+\s*- ")
_TILES = re.compile(r"processing \d+ tiles")
#: Said when the sampling of an image begins, and when it is decoded.
_IMAGE = re.compile(r"generating image: (\d+)/\d+")
_DECODING = re.compile(r"decoding (\d+) latents")
_DECODED = re.compile(r"latent (\d+) decoded")
#: Said when the prompt of a video is encoded; "generate_video completed" is its end.
_FILM = re.compile(r"generate_video \d+x\d+x\d+")
#: The engine warns and draws on without the file; we do not.
_UNREAD = re.compile(
    r"loading .* from '(?P<named>.*)' failed"
    r"|init model loader from file failed: '(?P<model>.*)'"
    r"|load lora tensors from (?P<lora>.*) failed"
)
_LORA_FIT = re.compile(r"\((?P<fit>\d+) / \d+\) LoRA tensors have been applied, .* = (?P<path>.*)")
#: Said when the model file was recognised, and each time an embedding's word is met in a prompt.
_VERSION = re.compile(r"Version: (.+)")
_EMBEDDED = re.compile(r"embedding '(?P<new>\w+)' applied|embedding already read in: (?P<old>\w+)")
#: The model families whose text encoder takes embeddings: those with a UNet.
_CLIP_FAMILIES = ("SD 1", "SD 2", "SDXS", "SDXL", "Instruct-Pix2Pix")
#: Warnings that a wish has no effect on this model, and what to tell the user.
_NO_EFFECT = (
    (re.compile("SLG is incompatible"), "--slg-scale has no effect on this kind of model"),
    (
        re.compile("No latent to RGB projection known"),
        "--preview proj shows nothing of this kind of model; tae and vae do",
    ),
    (
        re.compile("timestep shifting is only"),
        "--timestep-shift has no effect on this kind of model",
    ),
    (
        re.compile(r"\w+ requested but (not supported|could not be)|Cache disabled due to"),
        "--cache-mode has no effect with this model and these settings",
    ),
)
#: A rule of --tensor-type-rules that the engine cannot read: it would load without.
_BAD_RULE = re.compile(r'ignoring invalid quant override "(.*)"')
#: Where a worker keeps its files is nobody's business but its own.
_FOLDERS = re.compile(r"(?<=')/[^']*/(?=[^/']+')|(?<= )/(?:[^/\s']+/)+")
#: The device that was there at the start does not work any more; the engine goes on without it.
_LOST_DEVICE = "loading CPU backend"
#: The engine cannot use the pictures of the person and draws on without, then and ever after.
_NO_PHOTO_MAKER = "Turn off PhotoMaker"
#: A block of reports that is not about sampling is passed on as a sign of life this often.
_SIGN_OF_LIFE_S = 1.0


class Where(NamedTuple):
    """A place in the work on one image; the fields of an `At` frame."""

    phase: Phase
    step: int = 0
    steps: int = 0
    step_s: float = 0.0
    #: Which image of the call, from 0.
    image: int = 0


class Story:
    """One request as its log tells it."""

    def __init__(self, phase: Phase, now: float) -> None:
        #: What is under way.
        self.phase: Phase = phase
        #: Last lines of level error, else of level warning, oldest first.
        self.errors: deque[str] = deque(maxlen=limits.LOG_TAIL_LINES)
        self.warnings: deque[str] = deque(maxlen=limits.LOG_TAIL_LINES)
        #: Names of files that were named and could not be read; a dict keeps their order.
        self.unread: dict[str, None] = {}
        #: Rules of --tensor-type-rules that were not understood.
        self.bad_rules: list[str] = []
        #: The engine gave its GPU up and went on on the CPU.
        self.lost_device = False
        #: The model's family as the engine calls it; empty when this request loaded nothing.
        self.version = ""
        #: Words of embeddings that were found in a prompt and in their file.
        self.embeddings: set[str] = set()
        #: PhotoMaker is off until the next load.
        self.lost_photo_maker = False
        self._no_effect: dict[str, None] = {}
        self._lora_fits: dict[str, int] = {}
        self._sampling_next = False
        self._tiles_next = False
        self._in_sampling = False
        self._steps = 0
        #: The image that the engine is at, and how many it decodes.
        self._image = 0
        self._latents = 0
        self._block_at = now
        self._life_at = now

    def enter(self, phase: Phase) -> Where:
        """The caller itself begins something else."""
        self.phase = phase
        self._in_sampling = False
        return Where(phase, image=self._image)

    def line(self, level: int, text: str) -> Where | None:
        """Hear one line of the log; gives the new place when it begins another phase."""
        said = _PLACE.sub("", text.strip())
        if level >= 3:
            self.errors.append(said)
        elif level == 2:
            self.warnings.append(said)
            self._hear_warning(said)
        if unread := _UNREAD.search(said):
            self.unread.update({PurePath(path).name: None for path in unread.groups() if path})
        if fit := _LORA_FIT.search(said):
            name = PurePath(fit["path"]).name
            self._lora_fits[name] = self._lora_fits.get(name, 0) + int(fit["fit"])
        if version := _VERSION.match(said):
            self.version = version[1].strip()
        elif embedded := _EMBEDDED.match(said):
            self.embeddings.add(embedded["new"] or embedded["old"])
        return self._turn(said)

    def _hear_image(self, said: str) -> bool:
        """Note which image the engine is at; True when it goes on to decode another one."""
        if image := _IMAGE.match(said):
            self._image = int(image[1]) - 1
        elif latents := _DECODING.match(said):
            self._image, self._latents = 0, int(latents[1])
        elif (decoded := _DECODED.match(said)) and int(decoded[1]) < self._latents:
            self._image = int(decoded[1])
            return True
        return False

    def _turn(self, said: str) -> Where | None:
        another = self._hear_image(said)
        if _TILES.match(said):
            self._tiles_next = True
        elif said.startswith("generating image: ") or _FILM.match(said):
            self._sampling_next = True
            return self.enter("sampling")
        elif said.startswith("sampling(high noise) completed"):
            self._sampling_next = True
        elif said.startswith("hires fix: upscaling to"):
            return self.enter("upscaling")
        elif said.startswith("hires fix: ") and " steps, " in said:
            self._sampling_next = True
        elif another or said.startswith(("decoding ", "generating latent video completed")):
            return self.enter("decoding")
        elif said.startswith("upscaling from ("):
            return self.enter("upscaling")
        return None

    def step(self, step: int, steps: int, now: float) -> Where | None:
        """Hear one report; gives the place to tell, None when it is not worth telling."""
        if step == 0:
            # A sampler that looks at the model twice in a step begins the first step twice.
            again = self._in_sampling and steps == self._steps
            self._in_sampling = (self._sampling_next or again) and not self._tiles_next
            if self._in_sampling:
                self._sampling_next, self._steps = False, steps
                self.phase = "sampling"
            self._tiles_next = False
        step_s, self._block_at = now - self._block_at, now
        if self._in_sampling:
            self._life_at = now
            step_s = step_s if step else 0.0
            return Where("sampling", step, steps, step_s, self._image)
        if now - self._life_at < _SIGN_OF_LIFE_S:
            return None
        self._life_at = now
        return Where(self.phase, image=self._image)

    @property
    def takes_embeddings(self) -> bool:
        """The model that was loaded is of a family that takes embeddings."""
        return self.version.startswith(_CLIP_FAMILIES)

    def preview_shown(self) -> None:
        """The engine has shown a preview, which it does while sampling only.

        Decoding it in tiles was reported on the same channel; what follows are steps again.
        """
        self._in_sampling = True

    def _hear_warning(self, said: str) -> None:
        self.lost_device = self.lost_device or said.startswith(_LOST_DEVICE)
        self.lost_photo_maker = self.lost_photo_maker or said.startswith(_NO_PHOTO_MAKER)
        self.bad_rules += _BAD_RULE.findall(said)
        for warning, meaning in _NO_EFFECT:
            if warning.match(said):
                self._no_effect[meaning] = None

    def notes(self) -> tuple[str, ...]:
        """Wishes that the engine said it cannot follow with this model, as sentences."""
        idle = [name for name, count in self._lora_fits.items() if not count]
        return (*self._no_effect, *(f"LoRA {name} fits no layer of this model" for name in idle))

    def out_of_memory(self) -> bool:
        """The log says that memory could not be had."""
        return says_out_of_memory(self.errors) or says_out_of_memory(self.warnings)

    def reason(self) -> str:
        """The last lines that complain, for an error's message; files lose their folders."""
        lines = [_FOLDERS.sub("", line) for line in self.errors or self.warnings]
        return "; ".join(list(dict.fromkeys(lines))[-3:]) or "it gave no reason"
