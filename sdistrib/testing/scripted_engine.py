"""An engine child without an engine: it does what directives in the prompt say.

    python -m sdistrib.testing.scripted_engine FD [--device D]

It speaks `sdistrib.protocol.engine` on the inherited socket as the real child does, and draws small
deterministic pictures from (prompt, seed, size) with the directives left out of the prompt.

Of a call of several images the directives of a load are those of the first.

A directive is a word of the prompt: `!name`, `!name=value`, either followed by `@SEED` when it is
for the image of that seed only. Those that end the child do so in the middle of the sampling steps.

    !sleep=S      the steps of the image take S seconds together
    !load=S       loading takes S seconds
    !load_segv    a real SIGSEGV while loading
    !segv !abort !kill !exit=N    a real death: SIGSEGV, SIGABRT, SIGKILL, exit status N
    !hang         alive, but silent for ever, in the middle of the steps
    !silent       alive, but does not even begin
    !garbage      bytes that are no frames, on the socket
    !half         only half of the pixels
    !decline=CODE says no with that error code; !load_decline=CODE while loading
    !oom=NEED     has no memory for an image that is not drawn in tiles (NEED is tile) or with
                  offloaded weights (offload), or for any (more): says so and lives
    !oom_abort=NEED   the same, and dies of it as the engine does
    !flood        64 MiB of lines on standard error, then on with the image
    !steps=N      reports N steps, whatever was asked for
    !noise        a picture that does not compress
    !peeks=N      shows N previews at each step, asked for or not, and waits for no word
    !once=PATH    all other directives act only while PATH does not exist; it is made then

SDISTRIB_SCRIPTED_IMAGE_S gives the seconds per image where no `!sleep` does, 0 by default.
SDISTRIB_SCRIPTED_LOG=FILE gets a JSON line for each image begun and each one drawn, with its seed;
one begun also says of how many images its call is.
SDISTRIB_SCRIPTED_CANCELS=1 makes it an engine that can end a picture early.
SDISTRIB_SCRIPTED_START=exit=N or =hang makes the child end or hang before it is ready.
SDISTRIB_SCRIPTED_BACKEND is the backend that it says it has, "cpu" by default.
SDISTRIB_SCRIPTED_DEVICES=cuda0,cuda1 are devices that it takes beside auto and cpu; it then says
what CUDA_VISIBLE_DEVICES is for it.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import queue
import signal
import socket
import struct
import sys
import termios
import threading
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from sdistrib import limits
from sdistrib.errors import ERROR_CODES, ErrorCode
from sdistrib.params import Params
from sdistrib.protocol.engine import (
    TO_CHILD,
    At,
    Began,
    Declined,
    Draw,
    Drawn,
    EngineFrame,
    FrameReader,
    Holds,
    Interrupt,
    LogLine,
    Previewed,
    PreviewWanted,
    Ready,
    Unload,
    encode_frame,
)
from sdistrib.protocol.messages import EngineFacts, Phase

FACTS = EngineFacts(
    version="scripted",
    backend="cpu",
    device="scripted engine",
    fingerprint=hashlib.sha256(b"scripted engine").hexdigest()[:16],
)
_PR_SET_PDEATHSIG = 1
_EXIT_REFUSED = 2
_FLOOD_BYTES = 64 * limits.MIB
#: Longest sleep of a child that hangs; its worker's watchdog or end comes long before.
_FOR_EVER_S = 3600.0

Directives = dict[str, str]


def read_directives(prompt: str, seed: int) -> tuple[str, Directives]:
    """The prompt without directives, and the directives that are for this seed."""
    plain: list[str] = []
    found: Directives = {}
    for word in prompt.split():
        if not word.startswith("!"):
            plain.append(word)
            continue
        body, _, only = word[1:].partition("@")
        name, _, value = body.partition("=")
        if not only or int(only) == seed:
            found[name] = value
    return " ".join(plain), found


def picture(prompt: str, seed: int, width: int, height: int, noise: bool = False) -> bytes:
    """`height * width * 3` bytes: a gradient between colours that prompt and seed choose."""
    key = hashlib.sha256(f"{prompt}\0{seed}".encode()).digest()
    if noise:
        return hashlib.shake_256(key).digest(width * height * 3)
    row = bytes((key[x % 24] + x) % 256 for x in range(width * 3))
    return b"".join(bytes([key[y % 32]]) + row[1:] for y in range(height))


class _Image(NamedTuple):
    """One image of a request."""

    seed: int
    #: Without directives.
    prompt: str
    directives: Directives
    sampling_s: float = 0.0


class Child:
    """The child program."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._requests: queue.SimpleQueue[EngineFrame] = queue.SimpleQueue()
        #: What is loaded, the last used first.
        self._contexts: tuple[str, ...] = ()
        #: The request under way, and the image of it.
        self._request = self._ticket = 0
        #: The newest request that shall end early, and word of it.
        self._cancelled = 0
        self._told = threading.Event()
        #: The supervisor has taken the last preview.
        self._takes_preview = True
        threading.Thread(target=self._read, daemon=True).start()

    def serve(self) -> NoReturn:
        """Serve requests until the process ends."""
        self._send(LogLine(level=1, text="scripted engine is ready"))
        cancels = "SDISTRIB_SCRIPTED_CANCELS" in os.environ
        backend = os.environ.get("SDISTRIB_SCRIPTED_BACKEND", FACTS.backend)
        device = FACTS.device
        if "SDISTRIB_SCRIPTED_DEVICES" in os.environ:
            device += f" {os.environ.get('CUDA_VISIBLE_DEVICES', 'of any number')}"
        facts = msgspec.structs.replace(FACTS, backend=backend, device=device)
        self._send(Ready(facts=facts, cancels=cancels))
        while True:
            request = self._requests.get()
            if isinstance(request, Draw):
                self._draw(request)
            elif isinstance(request, Unload):
                self._hold(())

    def refuse(self, message: str) -> NoReturn:
        """End instead of becoming ready."""
        self._send(Declined(ticket=0, code="unsupported", message=message, loading=True))
        os._exit(_EXIT_REFUSED)

    def _read(self) -> None:
        reader = FrameReader(TO_CHILD)
        while data := self._socket.recv(65536):
            for frame in reader.feed(data):
                if isinstance(frame, Interrupt):
                    self._cancelled = frame.ticket
                    self._told.set()
                elif isinstance(frame, PreviewWanted):
                    self._takes_preview = True
                else:
                    self._requests.put(frame)
        os._exit(0)

    def _send(self, frame: EngineFrame, descriptor: int | None = None) -> None:
        data = encode_frame(frame)
        if descriptor is not None:
            data = data[socket.send_fds(self._socket, [data], [descriptor]) :]
        self._socket.sendall(data)

    def _at(self, phase: Phase, step: int = 0, steps: int = 0, step_s: float = 0.0) -> None:
        self._send(At(ticket=self._ticket, phase=phase, step=step, steps=steps, step_s=step_s))

    def _decline(self, code: str, loading: bool) -> None:
        known: ErrorCode = "engine_error"
        if code in ERROR_CODES:
            known = code  # type: ignore[assignment]
        message = "The scripted engine was told to decline."
        self._send(Declined(ticket=self._ticket, code=known, message=message, loading=loading))

    def _draw(self, request: Draw) -> None:
        """Draw as the real engine does: sample all images, decode them all, hand them all out."""
        self._request = request.ticket
        images: list[_Image] = []
        for number in range(request.count):
            image = self._begin(request, number)
            if number == 0:
                began_at = time.perf_counter()
                if not self._load(request, image.directives):
                    return
                loaded_at = time.perf_counter()
                self._at("encoding")
            sampling_at = time.perf_counter()
            if not self._sample(request, image):
                return
            images.append(image._replace(sampling_s=time.perf_counter() - sampling_at))
        pictures = [self._decode(request, number, image) for number, image in enumerate(images)]
        draw_s = time.perf_counter() - loaded_at
        common_s = (draw_s - sum(image.sampling_s for image in images)) / request.count
        if request.count > 1:
            self._ticket = request.ticket
            self._at("finishing")
        for number, (image, pixels) in enumerate(zip(images, pictures, strict=True)):
            drawn = Drawn(
                ticket=request.ticket + number,
                width=request.params.width,
                height=request.params.height,
                channels=3,
                frames=request.params.video_frames,
                load_s=0.0 if number else loaded_at - began_at,
                draw_s=image.sampling_s + common_s,
                sampling_s=image.sampling_s,
                sampling_method=request.params.sampling_method or "euler",
                scheduler=request.params.scheduler or "discrete",
            )
            _write_history("drawn", image.seed)
            self._send_pixels(drawn, pixels)

    def _begin(self, request: Draw, number: int) -> "_Image":
        """Turn to an image of the request."""
        seed = request.seed + number
        prompt, directives = read_directives(request.params.prompt, seed)
        if "once" in directives and not _first_time(Path(directives["once"])):
            directives = {}
        if "silent" in directives:
            time.sleep(_FOR_EVER_S)
        self._ticket = request.ticket + number
        _write_history("begun", seed, call=request.count)
        self._send(Began(ticket=self._ticket))
        self._send(LogLine(level=1, text=f"drawing the image of seed {seed}"))
        # As the real engine does, which tells its log what it was asked for.
        self._send(LogLine(level=2, text=f"prompt: {prompt}"))
        return _Image(seed, prompt, directives)

    def _decode(self, request: Draw, number: int, image: "_Image") -> bytes:
        self._ticket = request.ticket + number
        self._at("decoding")
        width, height = request.params.width, request.params.height
        noise = "noise" in image.directives
        pixels = b"".join(
            picture(f"{image.prompt}{n or ''}", image.seed, width, height, noise)
            for n in range(request.params.video_frames)
        )
        return pixels[: len(pixels) // 2] if "half" in image.directives else pixels

    def _send_pixels(self, frame: EngineFrame, pixels: bytes) -> None:
        descriptor = os.memfd_create("picture")
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(pixels)
            self._send(frame, descriptor)
        finally:
            os.close(descriptor)

    def _peek(self, request: Draw, step: int, image: _Image) -> None:
        """Show a preview of the step, as the real engine does: when asked for, and in turn."""
        wish = request.preview
        due = wish is not None and step % wish.interval == 0 and self._takes_preview
        for _ in range(int(image.directives.get("peeks", due))):
            self._takes_preview = False
            noisy = wish is not None and wish.noisy
            eighth = wish is not None and wish.mode == "proj"
            width, height = request.params.width, request.params.height
            if eighth:
                width, height = width // 8, height // 8
            shown = Previewed(
                ticket=self._ticket, step=step, width=width, height=height, channels=3,
                noisy=noisy,
            )  # fmt: skip
            self._send_pixels(shown, picture(f"step {step}", image.seed + noisy, width, height))

    def _hold(self, contexts: tuple[str, ...]) -> None:
        if contexts != self._contexts:
            self._contexts = contexts
            self._send(Holds(contexts=contexts))

    def _load(self, request: Draw, directives: Directives) -> bool:
        context, keep = request.context, request.keep
        others = tuple(other for other in self._contexts if other != context)
        if context in self._contexts:
            self._hold((context, *others))
            return True
        self._hold(others[: keep - 1])
        self._at("loading")
        time.sleep(float(directives.get("load", "0")))
        if "load_segv" in directives:
            _die("segv", "")
        if "load_decline" in directives:
            self._decline(directives["load_decline"], loading=True)
            return False
        self._hold((context, *self._contexts))
        return True

    def _sample(self, request: Draw, image: _Image) -> bool:
        """Report steps, and in their middle do what the directives say; False when declined."""
        directives = image.directives
        steps = int(directives.get("steps", request.params.steps))
        seconds = float(directives.get("sleep", os.environ.get("SDISTRIB_SCRIPTED_IMAGE_S", "0")))
        self._at("sampling", 0, steps)
        for step in range(1, steps + 1):
            if self._cancelled_within(seconds / steps):
                self._decline("cancelled", loading=False)
                return False
            if step == (steps + 1) // 2 and not self._misbehave(directives, request.params):
                return False
            self._peek(request, step, image)
            self._at("sampling", step, steps, seconds / steps)
        return True

    def _cancelled_within(self, seconds: float) -> bool:
        """Let time pass, or not all of it when the request is cancelled meanwhile."""
        self._told.clear()
        if self._cancelled != self._request:
            self._told.wait(seconds)
        return self._cancelled == self._request

    def _misbehave(self, directives: Directives, params: Params) -> bool:
        for name, value in directives.items():
            if name in ("oom", "oom_abort"):
                if _has_room(value, params):
                    continue
                if name == "oom_abort":
                    _say("ggml_aligned_malloc: insufficient memory")
                    _die("abort", "")
                self._decline("out_of_memory", loading=False)
                return False
            if name in ("segv", "abort", "kill", "exit"):
                _die(name, value)
            elif name == "hang":
                time.sleep(_FOR_EVER_S)
            elif name == "garbage":
                self._let_it_be_read()
                self._socket.sendall(b"\xc1 this is no frame" * 100)
                time.sleep(_FOR_EVER_S)
            elif name == "flood":
                _flood()
            elif name == "decline":
                self._decline(value, loading=False)
                return False
        return True

    def _let_it_be_read(self) -> None:
        """Wait until the worker has read all that was sent."""
        while struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)))[0]:
            time.sleep(0.001)


def _write_history(event: str, seed: int, **facts: object) -> None:
    """One line in one write, so that any number of children may share the file."""
    path = os.environ.get("SDISTRIB_SCRIPTED_LOG")
    if path:
        line = json.dumps({"at": time.monotonic(), "event": event, "seed": seed, **facts}) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def _first_time(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _die(how: str, value: str) -> NoReturn:
    _say(f"scripted engine dies now: {how}")
    if how == "segv":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(_FOR_EVER_S)
    os._exit(int(value or "1"))


def _flood() -> None:
    line = b"the scripted engine has a lot to say " * 27 + b"\n"
    for _ in range(_FLOOD_BYTES // len(line)):
        os.write(2, line)


def _has_room(need: str, params: Params) -> bool:
    """Whether an image with this need is drawn so that it fits."""
    return {"tile": params.vae_tiling, "offload": params.offload_to_cpu}.get(need, False)


def _say(text: str) -> None:
    os.write(2, text.encode() + b"\n")


def _start(child: Child, device: str) -> None:
    how, _, value = os.environ.get("SDISTRIB_SCRIPTED_START", "").partition("=")
    if how == "exit":
        _die("exit", value)
    elif how == "hang":
        time.sleep(_FOR_EVER_S)
    more = os.environ.get("SDISTRIB_SCRIPTED_DEVICES", "").split(",")
    if device not in ("auto", "cpu", *more):
        child.refuse(f"The scripted engine has no {device}, only a cpu.")


def main() -> NoReturn:
    """Be the child; ends with the worker."""
    parser = argparse.ArgumentParser(prog="python -m sdistrib.testing.scripted_engine")
    parser.add_argument("fd", type=int)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = Child(socket.socket(fileno=arguments.fd))
    _start(child, arguments.device)
    child.serve()


if __name__ == "__main__":
    main()
