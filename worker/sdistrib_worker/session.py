"""The worker's side of its connection to the manager. Pure.

A session begins with our hello and stands from the manager's `Welcome` on. It ends when the manager
says `Identify` or `Goodbye`, when a message cannot be handed to the socket, or after 30 s of
silence; then we say hello again until somebody answers. A manager that is merely *suspect* changes
nothing here: the engine goes on, and what it makes is handed in.
"""

from dataclasses import dataclass, field

from sdistrib import limits
from sdistrib.liveness import Liveness
from sdistrib.protocol.codec import Buffer
from sdistrib.protocol.messages import (
    VERSION,
    Attempt,
    Beat,
    Declared,
    EngineFacts,
    Message,
    Standing,
    WorkerHello,
)
from sdistrib_worker.choices import Choices
from sdistrib_worker.effects import Effect, Level, Log, Send

#: A hello that found nobody connected is tried again this soon; it costs one refused send.
_DIAL_S = 0.25
#: A hello that was sent is given this long before it is said again: the answer may be under way,
#: or the connection that took it may have been a dying one.
_ANSWER_S = limits.SUSPECT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What this worker is; told to the manager and written into pictures."""

    #: Stable name.
    name: str
    #: 16 hex digits, drawn at start.
    instance: str
    #: The manager's address as a person writes it.
    address: str
    #: Version of sdistrib.
    version: str
    #: CPU threads for the engine; 0 leaves it to the petition, and then to the engine.
    threads: int = 0
    #: What else the owner decides whatever petitions wish, see `choices`.
    choices: Choices = field(default_factory=dict)
    #: Factor on the limits for loading and drawing.
    patience: float = 1.0
    #: What the owner allows.
    declared: Declared = field(default_factory=Declared)
    #: Size of the files that the engine keeps contexts of, at most; 0 is no bound of the owner's.
    keep_bytes: int = 0
    #: Seconds without work after which all contexts are unloaded; 0 is never.
    unload_after_s: float = 0.0
    #: No grants while another process uses the device.
    yield_when_busy: bool = False
    #: A copy of each picture that is handed over is kept here.
    autosave: bool = False


@dataclass(slots=True)
class Turn:
    """The time of the event under way, and the effects that it has so far."""

    now: float = 0.0
    effects: list[Effect] = field(default_factory=list)

    def log(self, level: Level, text: str) -> None:
        """Tell the operator."""
        self.effects.append(Log(level, text))


class Session:
    """Hello, beats and silence."""

    def __init__(self, settings: Settings, turn: Turn) -> None:
        self._settings = settings
        self._turn = turn
        self._liveness: Liveness | None = None
        #: When the next hello is due; None before the engine is known.
        self._hello_at: float | None = None
        #: Since when we wait for a first or a new answer.
        self._waiting_since = 0.0
        self._noticed = False
        self._last_complaint = ""
        #: A manager has welcomed us at least once.
        self.was_welcome = False

    @property
    def is_open(self) -> bool:
        """The manager has welcomed us and has not let go since."""
        return self._liveness is not None

    def begin(self) -> None:
        """From now on hellos are due."""
        if self._hello_at is None and not self.is_open:
            self._hello_at = self._waiting_since = self._turn.now

    def hello_due(self) -> bool:
        """Say hello now."""
        return self._hello_at is not None and self._turn.now >= self._hello_at

    def hello(
        self,
        engine: EngineFacts,
        running: tuple[Attempt, ...],
        holding: tuple[Attempt, ...],
        standing: Standing,
        inventory: Buffer,
    ) -> None:
        """Say hello, and again later if nobody answers."""
        self._hello_at = self._turn.now + _ANSWER_S
        message = WorkerHello(
            protocols=(VERSION,),
            software=f"sdistrib {self._settings.version}",
            name=self._settings.name,
            instance=self._settings.instance,
            engine=engine,
            running=running,
            holding=holding,
            standing=standing.state,
            reason=standing.reason,
            declared=self._settings.declared,
        )
        self._turn.effects.append(Send(message, inventory))

    def welcomed(self) -> None:
        """The manager answered our hello."""
        if not self.is_open:
            self._turn.log("info", f"Connected to the manager at {self._settings.address}.")
        self._liveness = Liveness(self._turn.now)
        self._hello_at = None
        self._noticed = False
        self._last_complaint = ""
        self.was_welcome = True

    def heard(self) -> None:
        """Something arrived from the manager."""
        if self._liveness is None:
            return
        self._liveness.heard(self._turn.now)
        if self._noticed:
            self._noticed = False
            self._turn.log("info", "The manager answers again.")

    def lose(self, reason: str) -> None:
        """The session is over; hellos are due again."""
        if self.is_open:
            self._turn.log("info", f"No session with the manager any more: {reason}.")
            self._liveness = None
            self._hello_at = self._waiting_since = self._turn.now
        elif self._hello_at is not None:
            # Our last hello went down with its connection; the next need not wait long.
            self._hello_at = min(self._hello_at, self._turn.now + _DIAL_S)

    def hello_failed(self) -> None:
        """The hello could not be sent."""
        self._hello_at = self._turn.now + _DIAL_S

    def say(self, message: Message, body: Buffer | None = None) -> None:
        """Send, if there is a session."""
        if self._liveness is not None:
            self._liveness.sent(self._turn.now)
            self._turn.effects.append(Send(message, body))

    def complain(self, text: str) -> None:
        """Warn of something that the manager does wrong; the same thing once in a row."""
        if text != self._last_complaint:
            self._last_complaint = text
            self._turn.log("warning", text)

    def tick(self) -> None:
        """Beat, notice silence, give up."""
        now = self._turn.now
        if self._liveness is not None and self._liveness.state(now) == "gone":
            self.lose(f"it was silent for {limits.GONE_S:.0f} s")
        if self._liveness is not None and self._liveness.beat_due(now):
            self.say(Beat())
        if not self._noticed and now >= self._notice_at():
            self._noticed = True
            self._turn.log(
                "warning",
                f"No answer from the manager at {self._settings.address} for"
                f" {limits.SILENCE_NOTICE_S:.0f} s. Is sdistrib-manager running there, and are"
                " host and worker port right? Still trying.",
            )

    def forgive(self, delay_s: float) -> None:
        """Move what is due by a delay that was this machine's own fault."""
        self._waiting_since += delay_s
        if self._liveness is not None:
            self._liveness.forgive(delay_s)

    def deadlines(self) -> list[float]:
        """When `tick` or a hello has something to do."""
        times: list[float] = []
        if self._hello_at is not None:
            times.append(self._hello_at)
        if not self._noticed:
            times.append(self._notice_at())
        if self._liveness is not None:
            times.append(self._liveness.sent_at + limits.BEAT_S)
            times.append(self._liveness.heard_at + limits.GONE_S)
        return times

    def _notice_at(self) -> float:
        if self._liveness is not None:
            return self._liveness.heard_at + limits.SILENCE_NOTICE_S
        if self._hello_at is None:
            return float("inf")
        return self._waiting_since + limits.SILENCE_NOTICE_S
