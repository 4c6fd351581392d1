"""The command `sdistrib-manager`."""

import ipaddress
import logging
import signal
import sys
import time
from pathlib import Path

import click
from platformdirs import user_state_path

from sdistrib import limits, log
from sdistrib.errors import EXIT_FAILED, EXIT_USAGE, ConfigError, StoreError
from sdistrib.transport import CLIENT_PORT, WORKER_PORT, Address, Router, zmq_context
from sdistrib.version import SOFTWARE, VERSION
from sdistrib_manager.events import Port
from sdistrib_manager.loop import Loop
from sdistrib_manager.scheduler.policy import OVERTAKEN_S
from sdistrib_manager.state import Settings
from sdistrib_manager.storage import Storage, open_folder, open_memory

_log = logging.getLogger("sdistrib.manager")

#: Time that peers have to read our goodbye before their connections break.
_GOODBYE_S = 0.3
_STORE_ADVICE = (
    "Check that disk and folder and start again; what is damaged can be replaced by its backup,"
    " and --state takes another folder."
)


@click.command(
    context_settings={
        "auto_envvar_prefix": "SDISTRIB_MANAGER",
        "help_option_names": ["-h", "--help"],
    }
)
@click.option(
    "--bind", default="127.0.0.1", show_default=True, metavar="ADDR", help="Address to listen on."
)
@click.option(
    "--client-port",
    default=CLIENT_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port for clients; 0 takes a free one and says which.",
)
@click.option(
    "--worker-port",
    default=WORKER_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port for workers; 0 takes a free one and says which.",
)
@click.option(
    "--insecure-lan",
    is_flag=True,
    help="Listen beyond this machine, without keys or encryption: anybody who can reach the ports"
    " can draw, see and cancel.",
)
@click.option(
    "--retries",
    default=limits.ATTEMPTS_MAX - 1,
    show_default=True,
    type=click.IntRange(0, 9),
    help="Further tries of an image that failed; 0 returns the error at the first crash.",
)
@click.option(
    "--suspect-after",
    default=limits.SUSPECT_S,
    show_default=True,
    type=click.FloatRange(2 * limits.BEAT_S, 3600),
    metavar="SECONDS",
    help="After this silence a worker's images may be given to others.",
)
@click.option(
    "--gone-after",
    default=limits.GONE_S,
    show_default=True,
    type=click.FloatRange(2 * limits.BEAT_S, 24 * 3600),
    metavar="SECONDS",
    help="After this silence a worker is given up, and what it had begun counts as lost.",
)
@click.option(
    "--restart-grace",
    default=limits.RESTART_GRACE_S,
    show_default=True,
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="After a start, images that a worker was drawing wait this long for it to come back.",
)
@click.option(
    "--overtaken-max",
    default=OVERTAKEN_S,
    show_default=True,
    type=click.FloatRange(0, 24 * 3600),
    metavar="SECONDS",
    help="A petition may be overtaken for so long by others whose model a worker has loaded.",
)
@click.option(
    "--client-running-max",
    default=0,
    show_default="no limit",
    type=click.IntRange(0, limits.IMAGES_MAX),
    metavar="IMAGES",
    help="So many images of one user (without keys: of one petition) are drawn at a time.",
)
@click.option(
    "--store",
    "store",
    default="sqlite",
    show_default=True,
    type=click.Choice(["sqlite", "memory"]),
    help="Where petitions and pictures are kept; memory forgets all when the manager ends.",
)
@click.option(
    "--state",
    "state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for what is kept.  [default: sdistrib in your system's place for such data]",
)
@click.option(
    "--retention-hours",
    default=limits.RETENTION_S / 3600,
    show_default=True,
    type=click.FloatRange(0, 24 * 366),
    help="Ended petitions are kept this long, counted while a manager runs.",
)
@click.option(
    "--retention-bytes",
    default=limits.RETENTION_BYTES,
    show_default=True,
    type=click.IntRange(0),
    help="Pictures that clients have are kept up to this many bytes, for fetching again.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.option("--log-json", is_flag=True, help="Log as JSON, one object per line.")
@click.version_option(VERSION, prog_name="sdistrib-manager")
def command(  # noqa: PLR0913, PLR0917 - one argument an option, as click has it
    bind: str,
    client_port: int,
    worker_port: int,
    insecure_lan: bool,
    retries: int,
    suspect_after: float,
    gone_after: float,
    restart_grace: float,
    overtaken_max: float,
    client_running_max: int,
    store: str,
    state: Path | None,
    retention_hours: float,
    retention_bytes: int,
    verbose: bool,
    log_json: bool,
) -> None:
    """Queue petitions of clients and hand their images to free workers.

    Needs no GPU and no engine. Clients and workers dial this program.
    """
    log.setup(logging.DEBUG if verbose else logging.INFO, json=log_json)
    try:
        check_bind(bind, insecure_lan=insecure_lan)
        check_patience(suspect_after, gone_after)
        settings = Settings(
            SOFTWARE,
            attempts_max=retries + 1,
            suspect_s=suspect_after,
            gone_s=gone_after,
            restart_grace_s=restart_grace,
            overtaken_s=overtaken_max,
            client_running_max=client_running_max,
            retention_s=retention_hours * 3600,
            retention_bytes=retention_bytes if store == "sqlite" else 0,
        )
        run(bind, client_port, worker_port, open_storage(settings, store, state))
    except ConfigError as error:
        click.echo(f"sdistrib-manager: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except StoreError as error:
        click.echo(f"sdistrib-manager: {error}. {_STORE_ADVICE}", err=True)
        sys.exit(EXIT_FAILED)


def check_bind(bind: str, *, insecure_lan: bool) -> None:
    """Refuse to listen beyond this machine unless a person has typed the word.

    Raises:
        ConfigError: the address is none, or is reachable by others and `insecure_lan` is False.
    """
    text = "127.0.0.1" if bind == "localhost" else bind
    try:
        loopback = ipaddress.ip_address(text).is_loopback
    except ValueError:
        raise ConfigError(f"--bind {bind!r} is no IP address, for example 127.0.0.1.") from None
    if not loopback and not insecure_lan:
        raise ConfigError(
            f"--bind {bind} would let anybody who can reach this machine in, without keys."
            " Add --insecure-lan if that is what you want."
        )


def check_patience(suspect_s: float, gone_s: float) -> None:
    """Refuse to give a worker up before its images are free for others.

    Raises:
        ConfigError: the second is not longer than the first.
    """
    if gone_s <= suspect_s:
        raise ConfigError(
            f"--gone-after {gone_s:g} must be longer than --suspect-after {suspect_s:g}."
        )


def open_storage(settings: Settings, store: str, state: Path | None) -> Storage:
    """What the manager keeps, where the options say.

    Raises:
        ConfigError: the folder cannot be used.
        StoreError: what is in it cannot be read.
    """
    if store == "memory":
        if state is not None:
            raise ConfigError("--store memory keeps nothing, so --state has no meaning with it.")
        return open_memory(settings)
    return open_folder(settings, state or user_state_path("sdistrib") / "manager")


def run(bind: str, client_port: int, worker_port: int, storage: Storage) -> None:
    """Listen and serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: a port cannot be bound.
        StoreError: what is kept cannot be read, or neither written nor read any more.
    """
    host = "127.0.0.1" if bind == "localhost" else bind
    with zmq_context() as context:
        ports: dict[Port, Router] = {
            "client": Router(context, Address(host, client_port)),
            "worker": Router(context, Address(host, worker_port)),
        }
        loop = Loop(storage, ports)
        loop.stop_on(signal.SIGTERM, signal.SIGINT)
        clients, workers = (Address(host, ports[p].port) for p in ("client", "worker"))
        # One line that scripts can wait for.
        click.echo(f"sdistrib-manager: clients {clients}, workers {workers}", err=True)
        loop.run()
        # libzmq lets a peer lose what it has not read by the time the connection breaks.
        time.sleep(_GOODBYE_S)
        _log.info("stopped")
