"""The command line without a network: forms, flags, values, refusals, completion, exit codes."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
import pytest
from click.testing import CliRunner, Result

from sdistrib import limits
from sdistrib.errors import EXIT_UNREACHABLE, EXIT_USAGE, ErrorInfo, PetitionError
from sdistrib.models import ModelFile
from sdistrib.params import _FILM_FIELDS, PARAMETERS, Parameter
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib_client import images, samplers
from sdistrib_client.cli import draw, lists
from sdistrib_client.cli.commands import cli
from sdistrib_client.cli.refused import REFUSED, REFUSED_MODES
from sdistrib_client.cli.report import clean
from sdistrib_client.composing import compose
from sdistrib_client.effects import Ending
from sdistrib_client.errors import OutputError, Unreachable, error_of
from sdistrib_client.pictures import Picture, Timings
from tests.support.scripted_manager import png

#: Every flag of sd-cli 97d29908 (context, generation, program) and of the C++ sdistrib's client.
_KNOWN = """
--model -m --clip_l --clip_g --clip_vision --t5xxl --llm --llm_vision --qwen2vl --qwen2vl_vision
--diffusion-model --high-noise-diffusion-model --uncond-diffusion-model --embeddings-connectors
--vae --vae-format --audio-vae --taesd --tae --control-net --ip-adapter --motion-module --embd-dir
--lora-model-dir --hires-upscalers-dir --tensor-type-rules --model-args --photo-maker
--pulid-weights --upscale-model --backend --params-backend --split-mode --rpc-servers --max-vram
-t --threads --stream-layers --eager-load --auto-fit --force-sdxl-vae-conv-scale --offload-to-cpu
--mmap --control-net-cpu --clip-on-cpu --vae-on-cpu --fa --diffusion-fa --diffusion-conv-direct
--vae-conv-direct --type --rng --sampler-rng --prediction --lora-apply-mode --list-devices
-p --prompt -n --negative-prompt --ad-model --ad-prompt --ad-negative-prompt --extra-ad-args
-i --init-img --end-img --mask --control-image --ip-adapter-image --control-video
--pm-id-images-dir --pm-id-embed-path --pulid-id-embedding --hires-upscaler --extra-sample-args
--extra-tiling-args --ref-image-args -H --height -W --width --steps --high-noise-steps --clip-skip
-b --batch-count --qwen-image-layers --video-frames --fps --timestep-shift --upscale-repeats
--upscale-tile-size --hires-width --hires-height --hires-steps --hires-upscale-tile-size
--cfg-scale --img-cfg-scale --guidance --slg-scale --skip-layer-start --skip-layer-end --eta
--flow-shift --high-noise-cfg-scale --high-noise-img-cfg-scale --high-noise-guidance
--high-noise-slg-scale --high-noise-skip-layer-start --high-noise-skip-layer-end --high-noise-eta
--strength --pm-style-strength --pulid-id-weight --control-strength --ip-adapter-strength
--moe-boundary --vace-strength --vae-tile-overlap --hires-scale --hires-denoising-strength
--increase-ref-index --disable-auto-resize-ref-image --circular --circularx --circulary
--disable-image-metadata --vae-tiling --temporal-tiling --hires -s --seed --sampling-method
--high-noise-sampling-method --scheduler --schedule --sigmas --hires-sigmas --skip-layers
--high-noise-skip-layers -r --ref-image --ref-video --ref-video-audio --ref-audio --cache-mode
--cache-option --scm-mask --scm-policy --vae-tile-size --vae-relative-tile-size --prompt-file
--negative-prompt-file
-o --output --image --metadata-format --preview-path --imat-out --preview-interval
--output-begin-idx --canny --convert-name -v --verbose --color --taesd-preview-only
--preview-noisy --metadata-raw --metadata-brief --metadata-all -M --mode --preview -h --help
--imat-in
--normalize-input --stacked-id-embd-dir --input-id-images-dir --style-ratio
"""
KNOWN_FLAGS = _KNOWN.split()

#: The C++ client's README, its command word by word.
ANCESTOR = [
    "-m", "768-v-ema.safetensors", "-p", "a house in the beach", "-n", "deep fried",
    "--steps", "32", "-H", "768", "-W", "768", "--vae-tiling", "--clip-on-cpu",
    "-o", "output.png", "--seed", "-1", "--sampling-method", "dpm2", "--guidance", "4",
    "--schedule", "exponential",
]  # fmt: skip


#: Input files have tests of their own, in `test_client_inputs`.
INPUTS_APART = [row for row in PARAMETERS if not row.spec.input]


class FakeDrawing:
    """One picture per image, then the ending."""

    id = "ab" * 16

    def __init__(self, client: "FakeClient", petition: Petition, **callbacks: Any) -> None:
        self._client = client
        self.petition = petition
        self._callbacks = callbacks
        self.ending: Ending | None = None

    def __iter__(self) -> Iterator[Picture]:
        self._callbacks["on_accepted"](wire.Accepted(id=self.id, state="queued", ahead=3))
        for progress in self._client.progresses:
            self._callbacks["on_progress"](progress)
        for index in range(self.petition.images if self._client.ending.outcome == "done" else 0):
            drawn = picture(index, self.petition.seed + index)
            yield dataclasses.replace(drawn, format=self.petition.params.format)
        self.ending = self._client.ending
        error = error_of(self.ending)
        if error is not None:
            raise error

    def cancel(self) -> None:
        """Not reached."""

    def close(self) -> None:
        """Nothing is open."""


class FakeClient:
    """Stands where `draw` and `lists` make their client; keeps what it is given."""

    ending = Ending(outcome="done")
    progresses: tuple[wire.Progress, ...] = ()
    answer = wire.Answer(number=1)
    error: Exception | None = None
    made: ClassVar[list[tuple[str, dict[str, Any]]]]
    petitions: ClassVar[list[Petition]]

    def __init__(self, host: str, **options: Any) -> None:
        type(self).made.append((host, options))
        if self.error is not None:
            raise self.error
        self.on_notice = options["on_notice"]

    def draw(self, petition: Petition, **callbacks: Any) -> FakeDrawing:
        type(self).petitions.append(petition)
        self.on_notice("the manager is slow")
        return FakeDrawing(self, petition, **callbacks)

    def ask(self, what: str, **_: Any) -> wire.Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self, *, wait: bool = True) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def picture(index: int, seed: int) -> Picture:
    return Picture(
        index=index,
        seed=seed,
        data=b"png%d" % index,
        width=8,
        height=8,
        format="png",
        sha256="0" * 64,
        worker="gpu1",
        fingerprint="f" * 16,
        timings=Timings(1.0, 2.0, 3.0),
        notes=("odd \x1b[31m size",),
    )


@pytest.fixture
def client(monkeypatch, tmp_path) -> type[FakeClient]:
    """Fresh notes, and an empty folder to write into."""

    class Client(FakeClient):
        made: ClassVar[list[tuple[str, dict[str, Any]]]] = []
        petitions: ClassVar[list[Petition]] = []

    monkeypatch.setattr(draw, "Client", Client)
    monkeypatch.setattr(lists, "Client", Client)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SDISTRIB_")]:
        monkeypatch.delenv(name)
    return Client


def run(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, list(words), prog_name="sdistrib-client", env=env)


def drawn(client: type[FakeClient], *words: str, env: dict[str, str] | None = None) -> Petition:
    result = run("h", "-m", "m", "-p", "a house", *words, env=env)
    assert result.exit_code == 0, result.output
    return client.petitions[-1]


def refused(*words: str) -> str:
    """The one line with which a command line is refused."""
    result = run("h", "-m", "m", "-p", "a house", *words)
    assert result.exit_code == EXIT_USAGE, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("sdistrib-client: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# --- Forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_alone_names_the_verbs_and_the_way_to_the_flags(words):
    result = run(*words)
    assert result.exit_code == 0
    assert "Usage: sdistrib-client HOST [VERB] [FLAGS]" in result.stdout
    for word in ("models", "workers", "queue", "status", "txt2img", "HOST --help"):
        assert word in result.stdout


def test_version_alone():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("sdistrib-client ")


@pytest.mark.parametrize("words", [["h"], ["h", "--help"], ["h", "txt2img", "-h"]])
def test_host_alone_or_with_help_shows_flags_and_verbs(words):
    result = run(*words)
    assert result.exit_code == 0
    for text in ("--sampling-method", "-b, --batch-count", "Model files:", "HOST workers"):
        assert text in result.stdout


def test_every_flag_is_in_the_help_once():
    words = run("h", "--help").stdout.replace(",", " ").split()
    for row in PARAMETERS:
        for flag in row.spec.flags:
            assert flag in words


@pytest.mark.parametrize("verb", [[], ["txt2img"]])
def test_drawing_is_the_default_verb(client, verb):
    result = run("gpu:7", *verb, "-m", "m", "-p", "a house")
    assert result.exit_code == 0, result.output
    assert client.made[0][0] == "gpu:7"
    assert client.petitions[0].params.prompt == "a house"
    assert Path("output.png").read_bytes() == b"png0"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "HOST is missing"),
        (["-m", "m", "h"], "-m stands where HOST belongs"),
        (["--seed=3", "h"], "--seed=3 stands where HOST belongs"),
        (["models"], "'models' is a verb and stands where HOST belongs"),
        (["txt2img", "-m", "m"], "sdistrib-client HOST txt2img"),
        (["h", "modelz"], "did you mean 'models'?"),
        (["h", "--json", "attach", "ab"], "HOST attach [FLAGS]"),
        (["h", "zzz", "-p", "x"], "'zzz' belongs to no flag; verbs are txt2img, models"),
        (["h", "--promt", "x"], "--prompt"),
        (["h", "models", "--kind", "x"], "--kind"),
        (["h", "-p"], "-p"),
        (["h", "-p", "x"], "No model is named"),
        (["h", "-m", "x"], "The prompt is empty"),
        (["h", "-m", "x", "-p", "x", "-o", "-", "--json"], "choose one"),
        (["h", "-m", "x", "-p", "x", "-o", "-", "-b", "2"], "writes one picture"),
        (
            ["h", "-m", "x", "-p", "x", "-o", "a.webm"],
            ".webm is for videos, which -M vid_gen draws",
        ),
        (["h", "-M", "vid_gen", "-m", "x", "-p", "x", "--hires"], "--hires has no meaning with -M"),
        (["h", "-m", "x", "-p", "x", "-o", "a.png", "--format", "jpeg"], "name it a.jpg"),
        (["h", "-m", "x", "-p", "x", "--quality", "80"], "PNG loses nothing"),
        (["h", "-m", "x", "-p", "x", "-o", "a.jpg", "--lossless"], "is for webp files"),
        (["h", "-m", "x", "-p", "x", "-o", "a.webp", "--lossless", "--quality", "3"], "loses"),
        (["h", "-m", "x", "-p", "x \udcff"], "'x \\\\udcff' holds bytes that are not valid UTF-8"),
    ],
)
def test_usage_errors_say_what_is_wrong(client, words, text):
    result = run(*words)
    assert result.exit_code == EXIT_USAGE
    assert result.stderr.startswith("sdistrib-client: ")
    assert text in result.stderr
    assert result.stdout == ""
    assert client.made == []


def test_a_host_that_is_none_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (
        ["http://x/", "-m", "m", "-p", "p"],
        ["a b", "status"],
        ["h:0", "queue"],
    ):
        result = run(*words)
        assert result.exit_code == EXIT_USAGE, result.output
        assert "is no HOST" in result.stderr


def test_another_machine_needs_the_word_insecure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["192.0.2.1", "-m", "m", "-p", "p"], ["192.0.2.1", "workers"]):
        result = run(*words)
        assert result.exit_code == 7
        assert "--insecure-lan" in result.stderr
    result = run("192.0.2.1", "-m", "m", "-p", "p", "--json")
    assert result.exit_code == 7
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["error", "finished"]
    assert events[0]["code"] == "unauthorized"


# --- Flags ----------------------------------------------------------------------------------


def sample(row: Parameter) -> tuple[str, Any]:
    """A value that is not the default, as typed and as it arrives."""
    special = {
        "width": ("256", 256),
        "height": ("256", 256),
        "hires_width": ("256", 256),
        "hires_height": ("256", 256),
        "skip_layers": ("[1, 2]", (1, 2)),
        "high_noise_skip_layers": ("[1, 2]", (1, 2)),
        "high_noise_skip_layer_start": ("0.125", 0.125),
        "sigmas": ("14.5,7,0", (14.5, 7.0, 0.0)),
        "vae_tile_size": ("16x24", (16, 24)),
        "vae_relative_tile_size": ("0.5x2", (0.5, 2.0)),
        "scm_mask": ("1,0,1", "1,0,1"),
        "cache_option": ("fn=8", "fn=8"),
        "upscale_tile_size": ("64", 64),
        "skip_layer_start": ("0.125", 0.125),
        "skip_layer_end": ("0.25", 0.25),
        "hires_scale": ("1.5", 1.5),
        "quality": ("75", 75),
        "mode": ("txt2img", "img_gen"),
    }
    if row.name in special:
        return special[row.name]
    if row.choices:
        return row.choices[-1], row.choices[-1]
    if row.type is str:
        return "some name", "some name"
    if row.type is int:
        return "3", 3
    return "0.5", 0.5


#: What must stand beside a flag for it to mean something.
BESIDE = {
    "quality": ("--format", "jpeg"),
    "lossless": ("--format", "webp"),
    "control_net": ("--control-image", "a.png"),
    "canny": ("--control-image", "a.png", "--control-net", "c"),
    "photo_maker": ("--pm-id-images-dir", "people"),
    **dict.fromkeys(_FILM_FIELDS, ("-M", "vid_gen")),
}


@pytest.mark.parametrize("row", INPUTS_APART, ids=lambda row: row.name)
def test_every_spelling_of_every_parameter_reaches_the_petition(client, row):
    beside = BESIDE.get(row.name, ())
    Path("people").mkdir()
    for path in (Path("a.png"), Path("people/a.png")):
        path.write_bytes(png(1))
    for flag in row.spec.flags:
        if row.type is bool:
            assert getattr(drawn(client, *beside, flag).params, row.name) is not row.default
            continue
        typed, value = sample(row)
        assert getattr(drawn(client, *beside, flag, typed).params, row.name) == value
        if flag.startswith("--"):
            assert getattr(drawn(client, *beside, f"{flag}={typed}").params, row.name) == value


@pytest.mark.parametrize(
    ("words", "env", "format_", "name"),
    [
        (["-o", "a.jpg"], {}, "jpeg", "a.jpg"),
        (["-o", "a.JPEG"], {}, "jpeg", "a.JPEG"),
        (["-o", "a.webp"], {}, "webp", "a.webp"),
        (["-o", "a.bmp"], {}, "png", "a.bmp.png"),
        (["-o", "a", "--format", "webp"], {}, "webp", "a.webp"),
        (["-o", "a.jpg", "--format", "jpeg"], {}, "jpeg", "a.jpg"),
        (["--format", "jpeg"], {}, "jpeg", "output.jpg"),
        ([], {"SDISTRIB_FORMAT": "webp"}, "webp", "output.webp"),
        (["-o", "a.png"], {"SDISTRIB_FORMAT": "webp"}, "png", "a.png"),
        ([], {"SDISTRIB_OUTPUT": "b.jpg"}, "jpeg", "b.jpg"),
    ],
)
def test_the_extension_and_the_flag_choose_the_format(client, words, env, format_, name):
    assert drawn(client, *words, env=env).params.format == format_
    assert [path.name for path in Path().iterdir()] == [name]


def test_nothing_said_means_the_defaults_of_the_table(client):
    petition = drawn(client)
    for row in PARAMETERS:
        if row.name not in ("model", "prompt"):
            assert getattr(petition.params, row.name) == row.default
    assert (petition.seed, petition.images, petition.timeout_s) == (42, 1, 0.0)
    assert client.made[0][1]["connect_timeout_s"] == 10.0
    assert not client.made[0][1]["insecure_lan"]


def test_flags_of_the_petition(client):
    petition = drawn(
        client, "-b", "3", "-s", "7", "--timeout", "60", "-M", "img_gen", "--connect-timeout", "2"
    )
    assert (petition.seed, petition.images, petition.timeout_s) == (7, 3, 60.0)
    assert client.made[0][1]["connect_timeout_s"] == 2.0
    assert drawn(client, "--mode", "txt2img").images == 1
    assert not drawn(client).cancel_on_disconnect
    petition = drawn(client)
    assert (petition.priority, petition.hedge, petition.exact) == ("normal", True, False)
    assert petition.on_oom == "retry"
    petition = drawn(client, "--priority", "high", "--no-hedge", "--exact", "--on-oom", "tile")
    assert (petition.priority, petition.hedge, petition.exact) == ("high", False, True)
    assert petition.on_oom == "tile"


def test_the_command_of_the_cpp_client_means_the_same(client):
    result = run("127.0.0.1", *ANCESTOR)
    assert result.exit_code == 0, result.output
    (petition,) = client.petitions
    params = petition.params
    assert params.model == "768-v-ema.safetensors"
    assert (params.prompt, params.negative_prompt) == ("a house in the beach", "deep fried")
    assert (params.width, params.height, params.steps) == (768, 768, 32)
    assert (params.vae_tiling, params.clip_on_cpu) == (True, True)
    assert (params.sampling_method, params.scheduler) == ("dpm2", "exponential")
    assert params.guidance == 4.0
    assert petition.seed >= 0
    assert f"seed {petition.seed} -> output.png" in result.stderr


def test_a_seed_below_zero_is_drawn_anew_from_all(client):
    seeds = {drawn(client, "-s", str(-n)).seed for n in range(1, 9)}
    assert len(seeds) == 8
    assert max(seeds) > 2**40
    assert drawn(client, "--seed=-1").seed not in seeds
    assert drawn(client, "-s", str(limits.SEED_MAX)).seed == limits.SEED_MAX


def test_lists_are_read_however_the_shell_splits_them(client):
    for words in (
        ["--skip-layers", "[7, 8, 9]"],
        ["--skip-layers", "[7,", "8,", "9]"],
        ["--skip-layers", "[7", ",8,9", "]"],
        ["--skip-layers=[7,", "8,", "9]"],
        ["--skip-layers", "7,8,9"],
        ["--skip-layers", "7 8 9"],
    ):
        assert drawn(client, *words, "--steps", "5").params.skip_layers == (7, 8, 9)
        assert client.petitions[-1].params.steps == 5
    assert drawn(client, "--skip-layers", "[]").params.skip_layers == ()
    assert drawn(client, "--sigmas", "[14.6,", "7.8,", "0]").params.sigmas == (14.6, 7.8, 0.0)
    assert "--skip-layers" in refused("--skip-layers", "[7, 8")
    assert "--skip-layers" in refused("--skip-layers")


def test_tile_sizes_may_be_one_number(client):
    assert drawn(client, "--vae-tile-size", "32").params.vae_tile_size == (32, 32)
    assert drawn(client, "--vae-tile-size", "32X48").params.vae_tile_size == (32, 48)


def test_threads_below_zero_leave_it_to_the_worker(client):
    assert drawn(client, "-t", "-1").params.threads == 0
    assert drawn(client, "-t", "4").params.threads == 4


@pytest.mark.parametrize(
    ("typed", "method", "scheduler"),
    [
        ("euler_a", "euler_a", None),
        ("Euler a", "euler_a", None),
        ("EULER", "euler", None),
        ("DPM++ 2M Karras", "dpm++2m", "karras"),
        ("DPM++ 2S a Exponential", "dpm++2s_a", "exponential"),
        ("dpm++2mv2", "dpm++2mv2", None),
        ("Euler SGM Uniform", "euler", "sgm_uniform"),
        ("k_euler_a", "euler_a", None),
        ("DDIM", "ddim_trailing", None),
        ("Euler Automatic", "euler", None),
    ],
)
def test_samplers_have_many_names(client, typed, method, scheduler):
    params = drawn(client, "--sampling-method", typed).params
    assert (params.sampling_method, params.scheduler) == (method, scheduler)


def test_a_schedule_of_its_own_beats_the_one_in_the_samplers_name(client):
    params = drawn(client, "--sampling-method", "Euler Karras", "--scheduler", "Simple").params
    assert (params.sampling_method, params.scheduler) == ("euler", "simple")
    assert drawn(client, "--schedule", "default").params.scheduler is None
    assert drawn(client, "--schedule", "normal").params.scheduler == "discrete"
    assert drawn(client, "--scheduler", "Align Your Steps").params.scheduler == "ays"


def test_every_name_that_help_and_readers_show_is_understood():
    for table, read in (
        (samplers.SAMPLERS, lambda name: samplers.read_sampler(name).method),
        (samplers.SCHEDULERS, samplers.read_scheduler),
    ):
        for word, shown in table.items():
            assert read(word) == read(shown) == word


def test_variables_stand_in_for_flags_and_flags_win(client):
    env = {"SDISTRIB_STEPS": "9", "SDISTRIB_TYPE": "f16", "SDISTRIB_BATCH_COUNT": "2"}
    petition = drawn(client, "--steps", "8", env=env)
    assert (petition.params.steps, petition.params.wtype, petition.images) == (8, "f16", 2)
    assert not drawn(client, env={"SDISTRIB_DISABLE_IMAGE_METADATA": "1"}).params.metadata
    assert drawn(client, env={"SDISTRIB_DISABLE_IMAGE_METADATA": "0"}).params.metadata


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["-W", "100"], ["-W", "'100'", "from 16 to 8192 in steps of 8"]),
        (["-W", "0"], ["-W", "'0'"]),
        (["-H", "-64"], ["-H", "'-64'"]),
        (["-H", "99999999999999999999"], ["-H"]),
        (["--steps", "0"], ["--steps", "'0'", "a whole number from 1 to 1000"]),
        (["--steps", "2.5"], ["--steps", "'2.5'"]),
        (["--steps", "1_0"], ["--steps", "'1_0'"]),
        (["--cfg-scale", "nan"], ["--cfg-scale", "'nan'", "a number from 0 to 1000"]),
        (["--cfg-scale", "inf"], ["--cfg-scale"]),
        (["--eta", "x"], ["--eta", "'x'"]),
        (["--hires-denoising-strength", "0"], ["a number above 0 to 1"]),
        (["-b", "0"], ["-b", "'0'", "from 1 to 1000"]),
        (["-b", "1001"], ["-b", "'1001'"]),
        (["-s", str(limits.SEED_MAX + 1)], ["-s", "--seed"]),
        (["--timeout", "-1"], ["--timeout", "'-1'"]),
        (["--connect-timeout", "0"], ["--connect-timeout", "above 0"]),
        (["--output-begin-idx", "-1"], ["--output-begin-idx"]),
        (["--rng", "dice"], ["--rng", "'dice'", "std_default, cuda, cpu"]),
        (["--type", "q9"], ["--type", "q8_0"]),
        (["--sampling-method", "magic"], ["--sampling-method", "'magic' is none of euler"]),
        (["--sampling-method", "lms"], ["'lms' needs an engine newer than 0.4.7"]),
        (["--scheduler", "beta"], ["--scheduler", "'beta' needs an engine newer than 0.4.7"]),
        (["--vae-tile-size", "ax3"], ["--vae-tile-size", "'a'"]),
        (["--skip-layers", "7,x"], ["--skip-layers", "'x'"]),
        (["--skip-layers", ",".join("1" * 65)], ["65 numbers; at most 64"]),
        (["-M", "magic"], ["-M", "'magic'; allowed is img_gen"]),
        (["--hires", "--hires-scale", "17"], ["--hires-scale"]),
        (["--scm-mask", "2"], ["--scm-mask"]),
        (["--vae", "x" * 513], ["--vae", "512"]),
        (["--cache-option", "zz=1"], ["--cache-option has no 'zz'"]),
        (["--sigmas", "1,2"], ["--sigmas must go from high to low"]),
    ],
)
def test_wrong_values_get_one_line_with_flag_value_and_what_is_allowed(client, words, texts):
    result = run("h", "-m", "m", "-p", "a house", *words)
    assert result.exit_code == EXIT_USAGE
    first = result.stderr.splitlines()[0]
    for text in texts:
        assert text in first
    assert client.made == []


# --- Into the prompts -----------------------------------------------------------------------


def test_loras_and_embeddings_of_flags_stand_in_the_prompts(client):
    params = drawn(
        client, "--lora", "ink:0.5", "--lora", "wash", "-n", "easynegative, red", "--embedding",
        "easynegative",
    ).params  # fmt: skip
    assert params.prompt == "a house<lora:ink:0.5><lora:wash:1>"
    assert params.negative_prompt == "embedding:easynegative, red"
    env = {"SDISTRIB_LORA": "ink:2 wash"}
    assert drawn(client, env=env).params.prompt == "a house<lora:ink:2><lora:wash:1>"
    assert "--embedding bad: write 'bad'" in run(
        "h", "-m", "m", "-p", "a house", "--embedding", "bad"
    ).stderr  # fmt: skip


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a red\nhouse\n", "a red\nhouse"),
        (b"a house\r\n\r\n", "a house"),
        (b"\xef\xbb\xbf a h\xc3\xa4user ", " a h\u00e4user "),
        (b"x" * limits.PROMPT_BYTES_MAX + b"\n", "x" * limits.PROMPT_BYTES_MAX),
    ],
)
def test_a_prompt_may_come_from_a_file(client, content, text):
    Path("p.txt").write_bytes(content)
    result = run("h", "-m", "m", "--prompt-file", "p.txt", "--negative-prompt-file=p.txt")
    assert result.exit_code == 0, result.output
    params = client.petitions[-1].params
    assert (params.prompt, params.negative_prompt) == (text, text)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory."),
        (b"a\xff", "is not valid UTF-8."),
        (b"x" * limits.PROMPT_BYTES_MAX + b"y", "has more than 16384 bytes."),
        (b"\xc3\xa4" * limits.PROMPT_BYTES_MAX, "has more than 16384 bytes."),
    ],
)
def test_a_prompt_file_that_cannot_be_taken(client, content, why):
    if content is not None:
        Path("p.txt").write_bytes(content)
    assert refused("--negative-prompt-file", "p.txt").endswith(f"p.txt{_gap(why)}{why}\n")
    assert client.made == []


def _gap(why: str) -> str:
    return ": " if why.startswith("No") else " "


def test_a_prompt_is_given_once_and_what_is_typed_comes_before_variables(client):
    Path("p.txt").write_text("a tower", encoding="utf-8")
    assert "-p and --prompt-file are the same; give one." in refused("--prompt-file", "p.txt")
    assert drawn(client, env={"SDISTRIB_PROMPT_FILE": "p.txt"}).params.prompt == "a house"
    env = {"SDISTRIB_PROMPT": "a house"}
    result = run("h", "-m", "m", "--prompt-file", "p.txt", env=env)
    assert result.exit_code == 0, result.output
    assert client.petitions[-1].params.prompt == "a tower"
    both = {"SDISTRIB_PROMPT": "a house", "SDISTRIB_PROMPT_FILE": "p.txt"}
    assert run("h", "-m", "m", env=both).exit_code == EXIT_USAGE


# --- Refused flags --------------------------------------------------------------------------


def accepted_flags() -> set[str]:
    params = cli.commands["txt2img"].params
    return {opt for param in params for opt in param.opts} | {"-h", "--help"}


def test_every_flag_of_sd_cli_and_the_cpp_client_is_accepted_or_refused_by_name():
    assert [flag for flag in KNOWN_FLAGS if flag not in accepted_flags() | set(REFUSED)] == []
    assert len(set(KNOWN_FLAGS)) == len(KNOWN_FLAGS)


def test_no_flag_is_both_and_none_is_refused_that_nobody_has():
    assert accepted_flags() & set(REFUSED) == set()
    assert set(REFUSED) - set(KNOWN_FLAGS) == set()


@pytest.mark.parametrize("flag", sorted(REFUSED))
def test_a_refused_flag_is_named_with_its_reason(client, flag):
    line = refused(flag, "value")
    assert line == f"sdistrib-client: {flag} is refused: {REFUSED[flag]}.\n"
    if flag.startswith("--"):
        assert refused(f"{flag}=value") == line
    assert client.made == []


@pytest.mark.parametrize("mode", sorted(REFUSED_MODES))
def test_a_refused_mode_is_named_with_its_reason(client, mode):
    assert REFUSED_MODES[mode] in refused("-M", mode)


# --- What is shown --------------------------------------------------------------------------

RUNNING = wire.Progress(
    id="ab" * 16,
    state="running",
    done=1,
    images=4,
    running=(
        wire.ImageProgress(1, "gpu1", "sampling", 5, 20, 0.125),
        wire.ImageProgress(2, "gpu\x1b2", "loading"),
        wire.ImageProgress(3, "gpu3", "sampling", 5, 20, 2.5),
    ),
    eta_s=200.0,
)
WAITING = wire.Progress(
    id="ab" * 16, state="queued", ahead=2, images=4, reason="no worker is connected"
)
STUCK = wire.Progress(id="ab" * 16, state="queued", done=1, images=4, reason="only on gpu2")
CRASH = ErrorInfo(
    code="engine_crashed",
    message="The engine died.",
    worker="gpu1",
    attempt=2,
    signal="SIGSEGV",
    log_tail=("one", "two", "three", "four \x1b[2J"),
)


def test_plain_lines_one_per_change(client):
    client.progresses = (WAITING, WAITING, RUNNING, STUCK)
    result = run("h", "-m", "m", "-p", "a house", "-b", "2")
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "the manager is slow",
        "queued, 3 pictures ahead",
        "queued, 2 pictures ahead: no worker is connected",
        "1/4 done; picture 1 on gpu1: sampling 5/20 8.00 it/s; picture 2 on gpu 2: loading;"
        " picture 3 on gpu3: sampling 5/20 2.50 s/it; about 3 min left",
        "1/4 done; only on gpu2",
        "picture 0: seed 42 -> output_0.png",
        "  note: odd  [31m size",
        "picture 1: seed 43 -> output_1.png",
        "  note: odd  [31m size",
    ]


def test_quiet_shows_pictures_and_warnings_only(client):
    client.progresses = (RUNNING,)
    result = run("h", "-m", "m", "-p", "a house", "-q")
    assert result.stderr.splitlines() == [
        "the manager is slow",
        "picture 0: seed 42 -> output.png",
        "  note: odd  [31m size",
    ]


def test_verbose_shows_worker_fingerprint_and_timings(client):
    result = run("h", "-m", "m", "-p", "a house", "-v", "-q")
    assert f"petition {FakeDrawing.id}: 1 pictures from 42" in result.stderr
    assert "8x8 on gpu1 (ffffffffffffffff): load 1.00 s, draw 2.00 s, encode 3.00 s" in (
        result.stderr
    )


def test_color_only_when_asked_for_or_at_a_terminal(client):
    assert "\x1b[" not in run("h", "-m", "m", "-p", "a house").stderr
    assert "\x1b[32mpicture 0" in run("h", "-m", "m", "-p", "a house", "--color").stderr


def test_json_events_and_their_keys(client):
    client.progresses = (RUNNING,)
    result = run("h", "-m", "m", "-p", "a house", "--json", "--output-begin-idx", "3", "-b", "2")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert [event["event"] for event in events] == [
        "notice", "accepted", "progress", "image", "image", "finished",
    ]  # fmt: skip
    assert {event.pop("id") for event in events[1:]} == {FakeDrawing.id}
    _, accepted, progress, image, second, finished = events
    assert accepted == {
        "event": "accepted", "state": "queued", "seed": 42, "images": 2, "ahead": 3, "reason": "",
    }  # fmt: skip
    assert set(progress) == {
        "event", "state", "done", "images", "ahead", "reason", "eta_s", "running",
    }  # fmt: skip
    assert progress["running"][0] == {
        "index": 1, "worker": "gpu1", "phase": "sampling", "step": 5, "steps": 20, "step_s": 0.125,
    }  # fmt: skip
    assert image == {
        "event": "image", "index": 0, "seed": 42, "path": "output_3.png", "sha256": "0" * 64,
        "size_bytes": 4, "width": 8, "height": 8, "format": "png", "worker": "gpu1",
        "fingerprint": "f" * 16, "load_s": 1.0, "draw_s": 2.0, "encode_s": 3.0,
        "notes": ["odd \x1b[31m size"],
    }  # fmt: skip
    assert second["path"] == "output_4.png"
    assert finished == {
        "event": "finished", "outcome": "done", "done": [], "confirmed": True, "exit_status": 0,
    }  # fmt: skip


def test_json_errors_have_the_index_and_the_next_step(client):
    failures = (wire.ImageFailure(1, CRASH),)
    client.ending = Ending(outcome="failed", error=CRASH, done=(0,), failures=failures)
    result = run("h", "-m", "m", "-p", "a house", "--json")
    assert result.exit_code == 5
    error, finished = [json.loads(line) for line in result.stdout.splitlines()][-2:]
    assert error.pop("next_step").startswith("Read the log lines")
    assert error == {
        "event": "error", "id": FakeDrawing.id, "index": 1, "code": "engine_crashed",
        "message": "The engine died.", "field": "", "worker": "gpu1", "attempt": 2,
        "signal": "SIGSEGV", "log_tail": list(CRASH.log_tail), "closest": [], "retry_after_s": 0.0,
    }  # fmt: skip
    assert (finished["outcome"], finished["done"], finished["exit_status"]) == ("failed", [0], 5)


def test_json_of_an_unreachable_manager(client):
    client.ending = Ending(outcome="unreachable", reason="nobody", confirmed=False)
    result = run("h", "-m", "m", "-p", "a house", "--json")
    assert result.exit_code == EXIT_UNREACHABLE
    error, finished = [json.loads(line) for line in result.stdout.splitlines()][-2:]
    assert (error["code"], error["message"]) == ("unreachable", "nobody")
    assert (finished["outcome"], finished["confirmed"]) == ("unreachable", False)


def test_a_picture_that_cannot_be_written_is_an_error_event(client, monkeypatch):
    def full(*_arguments: object) -> None:
        raise OutputError("Cannot write output.png: No space left on device.")

    monkeypatch.setattr(images, "write_atomically", full)
    result = run("h", "-m", "m", "-p", "a house", "--json")
    assert result.exit_code == 1
    error, finished = [json.loads(line) for line in result.stdout.splitlines()][-2:]
    assert error["code"] == "output_error"
    assert "No space left on device. Picture 0 stays with the manager" in error["message"]
    assert "--seed 42" in error["message"]
    assert (finished["outcome"], finished["exit_status"]) == ("failed", 1)


def test_an_error_says_what_where_last_words_close_names_and_next_step(client):
    client.ending = Ending(outcome="failed", error=CRASH)
    result = run("h", "-m", "m", "-p", "a house", "-q")
    assert result.exit_code == 5
    assert result.stderr.splitlines()[1:] == [
        "error: The engine died. (on gpu1, attempt 2) [SIGSEGV] [engine_crashed]",
        "  | two",
        "  | three",
        "  | four  [2J",
        "  Read the log lines in the error; another model or other options may do.",
    ]
    assert "  | one\n" in run("h", "-m", "m", "-p", "a house", "-v").stderr
    missing = ErrorInfo(
        code="busy", message="Full.", worker="gpu1", closest=("a", "b"), retry_after_s=30.0
    )
    client.ending = Ending(outcome="refused", error=missing)
    result = run("h", "-m", "m", "-p", "a house", "-q")
    assert result.exit_code == 7
    assert result.stderr.splitlines()[1:4] == [
        "error: Full. (on gpu1) [busy]",
        "  closest: a, b",
        "  try again in 30 s",
    ]


def test_many_failures_are_told_shortly(client):
    failures = tuple(wire.ImageFailure(index, CRASH) for index in range(6))
    client.ending = Ending(outcome="failed", error=CRASH, failures=failures)
    stderr = run("h", "-m", "m", "-p", "a house").stderr
    assert stderr.count("error: picture ") == 4
    assert "error: 2 more pictures failed" in stderr


def test_names_from_elsewhere_cannot_steer_a_terminal():
    assert clean("a\x1b[2Jb\x07\x9bc\u202ed\u2028e\udcff") == "a [2Jb  c d e "
    assert clean("Grüße 日本 🎨") == "Grüße 日本 🎨"


def test_bars_at_a_terminal():
    import io  # noqa: PLC0415 - beside the only test that draws

    from rich.console import Console  # noqa: PLC0415

    from sdistrib_client.cli.bar import Bar  # noqa: PLC0415

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, color_system=None)
    bar = Bar(verbose=True, console=console)
    petition = Petition(params=compose({"prompt": "p", "model": "m"}).params, seed=1, images=4)
    bar.accepted(wire.Accepted(id="ab" * 16, state="queued"))
    bar.submitted("ab" * 16, petition)
    bar.accepted(wire.Accepted(id="ab" * 16, state="queued", ahead=2))
    for progress in (WAITING, RUNNING, STUCK):
        bar.progress(progress)
    bar.picture(picture(0, 1), Path("[red].png"))
    bar.close()
    shown = stream.getvalue()
    for text in (
        "queued, 2 pictures ahead",
        "no worker is connected",
        "picture 1 on gpu1",
        "sampling 5/20 8.00 it/s",
        "1/4, about 3 min left",
        "picture 0: seed 1 -> [red].png",
    ):
        assert text in shown
    assert "gpu\x1b2" not in shown


# --- Lists ----------------------------------------------------------------------------------

WORKER = wire.WorkerFacts(
    name="gpu\x1b1",
    state="away",
    engine=wire.EngineFacts(version="0.4.7", backend="cuda", device="RTX", fingerprint="f" * 16),
    files=3,
    running=(wire.Attempt("ab" * 16, 0, 1),),
    last_seen_s=40.0,
    declared=wire.Declared(max_pixels=2_000_000),
    speeds=(
        wire.SpeedFacts(model="seen", pixels=262_144, load_s=9.0),
        wire.SpeedFacts(model="m", pixels=262_144, step_s=0.2, image_s=4.2, load_s=3.0),
        wire.SpeedFacts(model="n", pixels=262_144, step_s=0.4, image_s=9.2),
    ),
    max_pixels_learned=1_048_576,
)
ANSWER = wire.Answer(
    number=1,
    models=(
        wire.FoundModel(ModelFile("vae", "v.safetensors", 1_234_567, "0123456789ab"), ("gpu1",)),
        wire.FoundModel(ModelFile("lora", "l.gguf", 12), ("gpu1", "gpu2"), conflict=True),
        wire.FoundModel(ModelFile("t5", "t.gguf", 12_000_000_000), ("gpu1",)),
    ),
    workers=(WORKER,),
    queue=(
        wire.QueuedPetition(
            id="ab" * 16,
            state="queued",
            model="m",
            images=4,
            done=1,
            age_s=9000.0,
            reason="why",
            eta_s=75.0,
            priority="high",
        ),
    ),
    software="sdistrib x",
    uptime_s=7.0,
    waiting_images=1,
    running_images=2,
    done_images=3,
    eta_error=0.13,
)


@pytest.mark.parametrize(
    ("verb", "lines"),
    [
        (
            ["models"],
            [
                "KIND  NAME           SIZE     HASH           WORKERS",
                "vae   v.safetensors  1.23 MB  0123456789     1",
                "lora  l.gguf         12 B     not known yet  2 (contents differ!)",
                "t5    t.gguf         12 GB    not known yet  1",
            ],
        ),
        (
            ["models", "L.g", "--where"],
            [
                "KIND  NAME    SIZE  HASH           WORKERS",
                "lora  l.gguf  12 B  not known yet  gpu1, gpu2 (contents differ!)",
            ],
        ),
        (["models", "--kind", "vae", "l.*"], ["KIND  NAME  SIZE  HASH  WORKERS", "(none)"]),
        (
            ["workers"],
            [
                "NAME   STATE      BACKEND  DEVICE  ENGINE  FILES  DONE  FAILED  LOADED"
                "  SPEED                     UP TO             WHY NO GRANTS",
                "gpu 1  away 40 s  cuda     RTX     0.4.7   3      0     0       -     "
                "  4.2 s at 0.26 MP, m (+1)  1.05 MP (memory)  -",
            ],
        ),
        (
            ["queue"],
            [
                "PETITION  STATE          MODEL  DONE  RUNNING  FAILED  AGE    ETA   WHY IT WAITS",
                "abababab  queued (high)  m      1/4   0        0       2.5 h  75 s  why",
            ],
        ),
        (
            ["status"],
            [
                "manager  sdistrib x, up 7 s",
                "workers  1 away",
                "images   1 waiting, 2 running, 3 done",
                "times    the first estimates were off by 13% (median)",
            ],
        ),
    ],
)
def test_lists_are_tables(client, verb, lines):
    client.answer = ANSWER
    result = run("h", *verb)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == lines


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({}, ("-", "-")),
        ({"loaded": "n"}, ("12 s at 0.26 MP (+1)", "-")),
        ({"loaded": "other"}, ("4.2 s at 0.26 MP, m (+1)", "-")),
        ({"declared": wire.Declared(max_pixels=500_000)}, ("-", "0.50 MP")),
        ({"declared": wire.Declared(max_pixels=4096)}, ("-", "0.004 MP")),
        ({"declared": wire.Declared(max_pixels=1_000_000)}, ("-", "1.00 MP")),
        ({"max_pixels_learned": 1_000_000}, ("-", "1.00 MP (memory)")),
    ],
)
def test_a_worker_shows_how_fast_it_is_and_what_it_may(client, facts, shown):
    speeds = (
        wire.SpeedFacts(model="m", pixels=262_144, image_s=4.2),
        wire.SpeedFacts(model="n", pixels=262_144, image_s=12.0),
    )
    if "declared" in facts:
        facts = {**facts, "max_pixels_learned": 1_000_000}
    known = {"speeds": speeds} if "loaded" in facts else {"speeds": ()}
    worker = msgspec.structs.replace(
        WORKER, **{"declared": wire.Declared(), "max_pixels_learned": 0, **known, **facts}
    )
    client.answer = wire.Answer(number=1, workers=(worker,))
    cells = re.split(r" {2,}", run("h", "workers").stdout.splitlines()[1])
    assert tuple(cells[-3:-1]) == shown


def test_lists_as_json(client):
    client.answer = ANSWER
    rows = [json.loads(line) for line in run("h", "models", "--json").stdout.splitlines()]
    assert rows[0] == {
        "kind": "vae", "name": "v.safetensors", "size_bytes": 1_234_567, "digest": "0123456789ab",
        "workers": ["gpu1"], "conflict": False,
    }  # fmt: skip
    (row,) = [
        json.loads(line)
        for line in run("h", "models", "--kind", "lora", "--json").stdout.splitlines()
    ]
    assert row["kind"] == "lora"
    (row,) = [json.loads(line) for line in run("h", "workers", "--json").stdout.splitlines()]
    assert row["engine"]["backend"] == "cuda"
    assert row["max_pixels_learned"] == 1_048_576
    assert row["speeds"][1] == {
        "model": "m", "pixels": 262_144, "step_s": 0.2, "image_s": 4.2, "load_s": 3.0,
    }  # fmt: skip
    assert row["running"] == [{"id": "ab" * 16, "index": 0, "number": 1}]
    (row,) = [json.loads(line) for line in run("h", "queue", "--json").stdout.splitlines()]
    assert (row["id"], row["running"]) == ("ab" * 16, 0)
    assert (row["eta_s"], row["priority"]) == (75.0, "high")
    (row,) = [json.loads(line) for line in run("h", "status", "--json").stdout.splitlines()]
    assert row == {
        "software": "sdistrib x", "uptime_s": 7.0, "workers": {"away": 1}, "waiting_images": 1,
        "running_images": 2, "done_images": 3, "eta_error": 0.13, "loaded": {},
    }  # fmt: skip


def test_all_that_is_loaded_is_listed(client):
    facts = msgspec.structs.replace(WORKER, state="idle", loaded="b", kept=("a", "b"))
    far = msgspec.structs.replace(facts, name="gone", state="away")
    two = msgspec.structs.replace(facts, name="gpu2", loaded="a", kept=())
    client.answer = wire.Answer(number=1, workers=(facts, far, two), software="x")
    lines = run("h", "workers").stdout.splitlines()
    assert "b, a, b" in lines[1]
    assert "loaded   a (gpu 1, gpu2); b (gpu 1)" in run("h", "status").stdout.splitlines()
    (row,) = [json.loads(line) for line in run("h", "status", "--json").stdout.splitlines()]
    assert row["loaded"] == {"gpu\x1b1": ["b", "a", "b"], "gpu2": ["a"]}


def test_empty_and_cut_lists_say_so(client):
    client.answer = wire.Answer(number=1, cut=True)
    result = run("h", "queue")
    assert result.stdout.endswith("(none)\n")
    assert "There are more" in result.stderr
    assert "workers  none" in run("h", "status").stdout


def test_lists_of_an_unreachable_manager(client):
    client.answer = Unreachable("nobody answers")
    result = run("h", "workers")
    assert result.exit_code == EXIT_UNREACHABLE
    assert result.stderr == "sdistrib-client: nobody answers\n"
    client.answer = PetitionError.of("protocol_error", "Strange.")
    result = run("h", "status")
    assert result.exit_code == 7
    assert "sdistrib-client: Strange. [protocol_error]" in result.stderr


# --- Start-up, extras, completion -----------------------------------------------------------


def python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("words", [["--help"], ["h", "--help"]])
def test_help_loads_nothing_heavy(words):
    code = f"""
import sys
from sdistrib_client.__main__ import main
sys.argv = ["sdistrib-client", *{words!r}]
try:
    main()
except SystemExit as leaving:
    assert leaving.code == 0
heavy = {{"PIL", "rich", "asyncio", "zmq", "msgpack", "numpy", "logging", "importlib.metadata"}}
print("LOADED", sorted(heavy & set(sys.modules)))
"""
    assert python(code).splitlines()[-1] == "LOADED []"


def test_the_package_loads_its_names_when_they_are_used():
    code = """
import sys, sdistrib_client
assert "zmq" not in sys.modules
assert sorted(sdistrib_client.__all__) == sdistrib_client.__all__
for name in sdistrib_client.__all__:
    assert getattr(sdistrib_client, name) is not None
assert "zmq" in sys.modules
try:
    sdistrib_client.nonsense
except AttributeError as error:
    print(error)
"""
    assert "has no attribute 'nonsense'" in python(code)


def test_a_missing_extra_is_named(client, monkeypatch):
    found = draw.importlib.util.find_spec
    monkeypatch.setattr(
        draw.importlib.util, "find_spec", lambda name: None if name == "rich" else found(name)
    )
    result = run("h", "-m", "m", "-p", "p")
    assert result.exit_code == EXIT_USAGE
    assert "pip install 'sdistrib[client]'" in result.stderr
    assert result.stderr.count("\n") == 1


def completions(*words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(["sdistrib-client", *words])
    result = run(
        env={
            "_SDISTRIB_CLIENT_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
        }
    )
    return [row.partition(",")[2] for row in result.stdout.splitlines() if row]


def test_completion_of_a_flag():
    for words in (["h"], ["h", "txt2img"], ["h", "-p", "x"]):
        assert set(completions(*words, "--sam")) == {"--sampling-method", "--sampler-rng"}
    assert completions("h", "-m", "x", "--batch") == ["--batch-count"]
    assert completions("h", "models", "--ki") == ["--kind"]


def test_completion_of_a_verb():
    assert completions("h", "mo") == ["models"]
    assert completions("h", "") == [
        *("txt2img", "models", "workers", "queue", "status"),
        *("attach", "fetch", "cancel", "retry", "purge"),
        *("pause", "resume", "drain", "unload"),
    ]
    assert completions("h", "--steps", "4", "mo") == []
    assert completions("--ver") == ["--version"]
    assert completions("mod") == []


def test_completion_of_a_word():
    assert completions("h", "--sampling-method", "eul") == ["euler", "euler_a"]
    assert completions("h", "--schedule", "kar") == ["karras"]
    assert completions("h", "--steps", "4", "--rng", "c") == ["cuda", "cpu"]
    assert "lora" in completions("h", "models", "--kind", "")
