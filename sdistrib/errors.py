"""Every way in which sdistrib says no.

The family:

    SdistribError
    ├── ProtocolError          a peer's bytes cannot be understood
    ├── PetitionError          a petition, or one image of it, ended badly; carries a stable `code`
    ├── EngineError            the engine child died, hung, or said something we cannot read
    ├── StoreError             the store could not keep what it was given
    └── ConfigError            this program was started in a way that cannot work

`ERROR_TABLE` is the one place where a code gets its meaning, its exit status, its HTTP status and
the next step to take. `docs/reference/errors.md` is made from it.
"""

from typing import Literal, NamedTuple, get_args

import msgspec

ErrorCode = Literal[
    "invalid_params",
    "unsupported",
    "model_not_found",
    "lora_not_found",
    "too_large",
    "out_of_memory",
    "engine_crashed",
    "engine_hung",
    "engine_error",
    "no_capable_worker",
    "worker_lost",
    "quarantined",
    "cancelled",
    "expired",
    "busy",
    "conflict",
    "not_found",
    "unauthorized",
    "protocol_error",
    "internal",
]


class ErrorRow(NamedTuple):
    """What one error code means to a script, a browser and a person."""

    #: Exit status of `sdistrib-client`.
    exit_status: int
    #: Status the HTTP gateway answers with.
    http_status: int
    #: One sentence: what happened.
    meaning: str
    #: One sentence: what to do next.
    next_step: str


#: Exit statuses that do not come from an error code.
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

ERROR_TABLE: dict[ErrorCode, ErrorRow] = {
    "invalid_params": ErrorRow(
        2, 422, "A parameter is missing, malformed or out of range.", "Correct the parameter named."
    ),
    "unsupported": ErrorRow(
        2,
        422,
        "This version, engine or worker cannot do what was asked.",
        "Leave the option out, or use a version or worker that has it.",
    ),
    "model_not_found": ErrorRow(
        4,
        404,
        "No worker has a model file of that kind and name.",
        "Run `sdistrib-client HOST models`, or copy the file into a worker's models folder.",
    ),
    "lora_not_found": ErrorRow(
        4,
        404,
        "No worker that has the model has that LoRA as well.",
        "Run `sdistrib-client HOST models --kind lora`, or copy the file into the lora folder.",
    ),
    "too_large": ErrorRow(
        7, 413, "The petition or picture is beyond a limit.", "Ask for fewer or smaller pictures."
    ),
    "out_of_memory": ErrorRow(
        5,
        507,
        "The engine ran out of memory on every worker tried.",
        "Try --on-oom tile, --vae-tiling, a smaller size, or a worker with more memory.",
    ),
    "engine_crashed": ErrorRow(
        5,
        500,
        "The engine process died while drawing.",
        "Read the log lines in the error; another model or other options may do.",
    ),
    "engine_hung": ErrorRow(
        5,
        504,
        "The engine stayed silent for too long and was ended.",
        "Try fewer steps or a smaller size, or raise the worker's time limits.",
    ),
    "engine_error": ErrorRow(
        1,
        500,
        "The engine refused the model or the parameters.",
        "Read the log lines in the error; the model file may be damaged or of an unknown kind.",
    ),
    "no_capable_worker": ErrorRow(
        7,
        503,
        "No worker can do this petition.",
        "Run `sdistrib-client HOST workers` to see what each worker has and can do.",
    ),
    "worker_lost": ErrorRow(
        1, 502, "Workers vanished while drawing.", "Check the workers' machines and send it again."
    ),
    "quarantined": ErrorRow(
        5,
        500,
        "The image killed an engine on each try and is not tried again.",
        "Read the log lines; `sdistrib-client HOST retry ID` with other flags tries it again.",
    ),
    "cancelled": ErrorRow(1, 409, "The petition was cancelled.", "Send it again if you want it."),
    "expired": ErrorRow(
        6, 504, "The time limit of the petition passed.", "Raise --timeout or add workers."
    ),
    "busy": ErrorRow(
        7, 429, "The manager's queue is full.", "Wait as long as the message says, then try again."
    ),
    "conflict": ErrorRow(
        7,
        409,
        "The petition's id is in use with other content.",
        "Let the client make a new id for each petition.",
    ),
    "not_found": ErrorRow(
        1,
        404,
        "The manager knows no petition or worker of that id or name.",
        "Run `sdistrib-client HOST queue --all` or `workers` to see those it knows.",
    ),
    "unauthorized": ErrorRow(
        7,
        401,
        "The manager does not let this peer in.",
        "Ask its owner; plain connections to other machines need --insecure-lan.",
    ),
    "protocol_error": ErrorRow(
        7,
        400,
        "The two programs do not speak the same protocol.",
        "Install the same sdistrib version on both machines.",
    ),
    "internal": ErrorRow(
        1, 500, "A bug in sdistrib.", "Please report it with the manager's and worker's log."
    ),
}

ERROR_CODES: frozenset[str] = frozenset(get_args(ErrorCode))


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it crosses the wire: what happened, where, and the engine's last words."""

    #: Stable code, a key of `ERROR_TABLE`.
    code: ErrorCode
    #: What happened, what was got, what is allowed: one or two sentences.
    message: str
    #: The parameter or model field that is to blame, by its wire name.
    field: str = ""
    #: Stable name of the worker on which it happened.
    worker: str = ""
    #: Attempt in which it happened, from 1.
    attempt: int = 0
    #: Signal that ended the engine, for example "SIGSEGV".
    signal: str = ""
    #: Last lines of the engine's log, oldest first.
    log_tail: tuple[str, ...] = ()
    #: Names close to the one that was not found, best first.
    closest: tuple[str, ...] = ()
    #: Seconds after which trying again makes sense (code `busy`).
    retry_after_s: float = 0.0

    def sentence(self) -> str:
        """The error as a person reads it on one line, next step included."""
        where = f" (on {self.worker}, attempt {self.attempt})" if self.worker else ""
        near = f" Closest: {', '.join(self.closest)}." if self.closest else ""
        return f"{self.message}{where}{near} {ERROR_TABLE[self.code].next_step}"


class SdistribError(Exception):
    """Base of all errors raised on purpose."""


class ProtocolError(SdistribError):
    """A peer sent bytes that this version cannot understand, or in a state that forbids them."""


class PetitionError(SdistribError):
    """A petition was refused or ended badly. `info` says all that is known, `code` is stable."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info

    @property
    def code(self) -> ErrorCode:
        """The stable code, a key of `ERROR_TABLE`."""
        return self.info.code

    @classmethod
    def of(cls, code: ErrorCode, message: str, **facts: object) -> "PetitionError":
        """Build from a code, a message and any further fields of `ErrorInfo`."""
        return cls(msgspec.convert({"code": code, "message": message, **facts}, ErrorInfo))


class EngineError(SdistribError):
    """The engine child failed; `info` has the code, the signal and the log tail."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


class StoreError(SdistribError):
    """The store could not keep or find what it was asked for."""


class ConfigError(SdistribError):
    """The program cannot run as it was started; the message names the option and the remedy."""
