"""The command `sdistrib-worker`."""

import logging
import os
import platform
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import click
import msgspec

from sdistrib import limits, log
from sdistrib.errors import EXIT_USAGE, ConfigError
from sdistrib.protocol.messages import Declared
from sdistrib.transport import WORKER_PORT, Address, Dealer, parse_address, zmq_context
from sdistrib.version import VERSION
from sdistrib_worker.allowed import is_model, parse_pixels, parse_size
from sdistrib_worker.autosave import Autosaver
from sdistrib_worker.cache import InputCache, default_cache_dir
from sdistrib_worker.choices import Choices, told
from sdistrib_worker.digests import DigestCache, default_cache_file
from sdistrib_worker.engine.device import device_environment
from sdistrib_worker.flags import (
    EngineCommand,
    Programs,
    choice_options,
    chosen_devices,
    show_devices,
)
from sdistrib_worker.guarding import guard
from sdistrib_worker.hours import Hours, parse_hours
from sdistrib_worker.inventory import Librarian, check_root, empty_warning
from sdistrib_worker.loop import Loop
from sdistrib_worker.machine import Worker
from sdistrib_worker.naming import DEFAULT_TEMPLATE, FIELDS
from sdistrib_worker.session import Settings
from sdistrib_worker.supervisor import engine_command

_LOG = logging.getLogger("sdistrib.worker")


class Options(NamedTuple):
    """How a worker is started."""

    #: The manager's address.
    address: Address
    models_dir: Path
    #: Stable name.
    name: str
    #: "auto", "cpu", "cuda0", …
    device: str = "auto"
    #: CPU threads for the engine; 0 leaves it to the petition, and then to the engine.
    threads: int = 0
    #: What else the owner decides whatever petitions wish.
    choices: Choices = MappingProxyType({})
    #: Factor on the engine's time limits.
    patience: float = 1.0
    #: What the owner allows.
    declared: Declared = Declared()
    #: Patterns of the models that are allowed; none allows all.
    models: tuple[str, ...] = ()
    #: Size of the files that the engine keeps contexts of; 0 is no bound.
    keep_bytes: int = 0
    #: When it may work; None is always.
    hours: Hours | None = None
    #: Minutes without work after which the context is unloaded; 0 is never.
    unload_after_min: float = 0.0
    #: No grants while another process uses the device.
    yield_when_busy: bool = False
    #: Where copies of pictures are kept, and how they are called; None keeps none.
    autosave: Path | None = None
    autosave_name: str = DEFAULT_TEMPLATE
    #: Where input files are kept; None is the user's cache folder.
    cache: Path | None = None


@click.command(
    context_settings={
        "auto_envvar_prefix": "SDISTRIB_WORKER",
        "help_option_names": ["-h", "--help"],
    }
)
@click.argument("host")
@click.argument("models_dir", type=click.Path(path_type=Path, readable=False))
@click.option("--name", default=None, help="Name that others see.  [default: this host's name]")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="Device to draw on: auto, cpu, metal, or cuda, hip, vulkan, sycl with a number (cuda0),"
    " as --list-devices shows them. One that is not there is a refusal to start.",
)
@click.option(
    "--devices",
    metavar="all|DEVICE,…",
    help="Several devices of this box, each a worker of its own with its own engine, called"
    " NAME-cuda0, NAME-cuda1, … One that dies is started again.",
)
@click.option(
    "--list-devices",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=show_devices,
    help="List the devices that the engine sees, with their memory, and exit.",
)
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(0, 1024),
    help="CPU threads of the engine, whatever petitions wish.  [default: as they wish, else the"
    " engine's own]",
)
@choice_options
@click.option(
    "--patience",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.001, 1000.0),
    help="Factor on the time limits for loading and drawing, for slow disks and devices.",
)
@click.option(
    "--max-pixels",
    metavar="N|WxH",
    help="Draw no picture of more pixels, highres fix included.  [default: no limit]",
)
@click.option(
    "--max-batch",
    default=0,
    type=click.IntRange(0, limits.IMAGES_PER_PETITION_MAX),
    metavar="N",
    help="Most images in one call of the engine.  [default: no limit]",
)
@click.option(
    "--keep",
    default=1,
    show_default=True,
    type=click.IntRange(1, limits.CONTEXTS_KEPT_MAX),
    metavar="N",
    help="Most contexts (models as loaded with their parts) that stay in memory; for another one"
    " goes that which was used least lately.",
)
@click.option(
    "--keep-bytes",
    metavar="SIZE",
    help="Size of the files of all contexts that stay, for example 8G or 500M; a larger one stays"
    " alone.  [default: no limit]",
)
@click.option(
    "--models",
    multiple=True,
    metavar="GLOB",
    help="Draw only with models (of stable-diffusion and diffusion folders) of such names, in any"
    " case, for example 'sd_xl*'; may be given several times.  [default: all]",
)
@click.option(
    "--hours",
    multiple=True,
    metavar="FROM-TO",
    help="Work only then, local time: 22-08 goes over midnight, 9:30-12,14-17 is two; may be given"
    " several times. An image that is under way at the end is finished.  [default: always]",
)
@click.option(
    "--yield-when-busy",
    is_flag=True,
    help="Take no work while another process uses the device: on a CUDA card one that takes a tenth"
    " of it (needs nvidia-ml-py), on a CPU others that take a quarter of all cores. Where that"
    " cannot be measured it is a refusal to start.",
)
@click.option(
    "--unload-after",
    default=0.0,
    type=click.FloatRange(0.0, 100_000.0),
    metavar="MINUTES",
    help="Give the device's memory back after so long without work.  [default: never]",
)
@click.option(
    "--autosave",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep a copy of every finished picture here, on this machine. `purge` does not reach these"
    " copies.",
)
@click.option(
    "--autosave-name",
    default=DEFAULT_TEMPLATE,
    show_default=True,
    metavar="TEMPLATE",
    help="How the copies are called below that folder: / makes folders, and the fields are"
    f" {', '.join(FIELDS)}. A name that is taken gets -1, -2, …",
)
@click.option(
    "--cache",
    default=None,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the clients' input files here, up to 2 GiB, those used last; several workers may"
    " share it.  [default: inputs in the user's cache folder]",
)
@click.option(
    "--insecure-lan",
    is_flag=True,
    help="Dial a manager on another machine without keys or encryption: prompts and pictures can"
    " be read on the way.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more; prompts may be among it.")
@click.option("--log-json", is_flag=True, help="Log as JSON, one object per line.")
@click.version_option(VERSION, prog_name="sdistrib-worker")
@click.pass_obj
def command(  # noqa: PLR0913 - click hands over one argument for each option
    programs: Programs | None,
    /,
    *,
    host: str,
    models_dir: Path,
    name: str | None,
    device: str,
    devices: str | None,
    threads: int,
    patience: float,
    max_pixels: str | None,
    max_batch: int,
    keep: int,
    keep_bytes: str | None,
    models: tuple[str, ...],
    hours: tuple[str, ...],
    yield_when_busy: bool,
    unload_after: float,
    autosave: Path | None,
    autosave_name: str,
    cache: Path | None,
    insecure_lan: bool,
    verbose: bool,
    log_json: bool,
    **choices: bool | float | None,
) -> None:
    """Draw images of MODELS_DIR's models for the manager at HOST (host or host:port).

    MODELS_DIR is a tree as A1111 or ComfyUI have it: stable-diffusion, vae, lora, … in any case.
    SIGTERM or Ctrl-C finishes the current image first; a second one leaves at once.
    """
    log.setup(logging.DEBUG if verbose else logging.INFO, json=log_json)
    programs = programs or Programs()
    try:
        address = parse_address(host, WORKER_PORT)
        check_host(address, insecure_lan=insecure_lan)
        chosen = chosen_devices(device, devices, programs.listing)
        options = Options(
            address,
            models_dir.absolute(),
            check_name(name),
            chosen[0],
            threads,
            patience=patience,
            choices={name: value for name, value in choices.items() if value is not None},
            declared=Declared(
                max_pixels=parse_pixels(max_pixels) if max_pixels else 0,
                max_batch=max_batch,
                keep=keep,
            ),
            keep_bytes=parse_size("--keep-bytes", keep_bytes) if keep_bytes else 0,
            models=models,
            hours=parse_hours(hours) if hours else None,
            unload_after_min=unload_after,
            yield_when_busy=yield_when_busy,
            autosave=autosave,
            autosave_name=autosave_name,
            cache=cache,
        )
        status = (
            run(options, programs.engine)
            if len(chosen) == 1
            else run_all(chosen, options, programs.worker)
        )
    except ConfigError as error:
        click.echo(f"sdistrib-worker: {error}", err=True)
        status = EXIT_USAGE
    sys.exit(status)


def check_host(address: Address, *, insecure_lan: bool) -> None:
    """Refuse to dial another machine in plain unless a person has typed the word.

    Raises:
        ConfigError: the address is not this machine's and `insecure_lan` is False.
    """
    if not address.is_loopback and not insecure_lan:
        raise ConfigError(
            f"{address} is another machine, and everything would travel there unencrypted."
            " Add --insecure-lan if that is what you want."
        )


def check_name(name: str | None) -> str:
    """The worker's stable name, by default that of this host.

    Raises:
        ConfigError: it is empty, too long, or not printable.
    """
    wanted = platform.node() or "worker" if name is None else name
    if not wanted.strip() or len(wanted) > limits.NAME_CHARS_MAX or not wanted.isprintable():
        raise ConfigError(
            f"--name {wanted[:40]!r}: a name has 1 to {limits.NAME_CHARS_MAX} printable characters."
        )
    return wanted


def run_all(devices: Sequence[str], options: Options, worker: Sequence[str]) -> int:
    """Keep a worker for each device, until SIGTERM or SIGINT; gives the worst exit status.

    Must be called from the main thread.

    Raises:
        ConfigError: the models folder is not to be had, or the name leaves no room for the device.
    """
    check_root(options.models_dir)
    names = {device: check_name(f"{options.name}-{device}") for device in devices}
    _LOG.info("One worker each for %s.", ", ".join(devices))

    def command_of(device: str) -> tuple[str, ...]:
        given = sys.argv[1:]
        end = given.index("--") if "--" in given else len(given)
        # The last of two counts.
        own = ("--devices", "", "--device", device, "--name", names[device])
        return (*worker, *given[:end], *own, *given[end:])

    return guard(devices, command_of)


def run(options: Options, engine: EngineCommand = engine_command) -> int:
    """Be a worker until SIGTERM or SIGINT; gives the exit status.

    Must be called from the main thread.

    Raises:
        ConfigError: the models folder or the device is not to be had.
    """
    check_root(options.models_dir)
    environment = device_environment(options.device, os.environ)
    decided = {**options.choices, **({"threads": options.threads} if options.threads else {})}
    settings = Settings(
        name=options.name,
        instance=secrets.token_hex(8),
        address=str(options.address),
        version=VERSION,
        threads=options.threads,
        patience=options.patience,
        choices=options.choices,
        declared=msgspec.structs.replace(options.declared, placement=told(decided)),
        keep_bytes=options.keep_bytes,
        unload_after_s=60.0 * options.unload_after_min,
        yield_when_busy=options.yield_when_busy,
        autosave=options.autosave is not None,
    )
    autosaver = Autosaver(options.autosave, options.autosave_name) if options.autosave else None
    with zmq_context() as context:
        # The loop exists before the librarian's thread, and its `publish` with it.
        digests = DigestCache(default_cache_file())
        librarian = Librarian(options.models_dir, digests, options.models)
        if not librarian.first_files:
            _LOG.warning(empty_warning(options.models_dir))
        elif options.models and not any(map(is_model, librarian.first_files)):
            _LOG.warning("No model in %s is allowed by --models.", options.models_dir)
        worker = Worker(settings, librarian.first_files)
        dealer = Dealer(context, options.address)
        cache = InputCache((options.cache or default_cache_dir()).absolute())
        command_of_engine = engine(options.device)
        loop = Loop(worker, dealer, command_of_engine, environment, cache, options.hours, autosaver)
        loop.stop_on(signal.SIGTERM, signal.SIGINT)
        librarian.begin(loop.publish)
        try:
            return loop.run()
        finally:
            librarian.stop()
