"""What is known of one petition while it is under way. Pure bookkeeping for `requests`."""

from collections.abc import Mapping

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.petitions import PETITION_ENDS, InputFile, PetitionState
from sdistrib.protocol import messages as wire
from sdistrib.transfer import Incoming
from sdistrib_client.effects import Ending, Outcome
from sdistrib_client.uploads import Uploads

#: The manager ends a petition at its time limit; only then, and this much later, we do.
EXPIRY_GRACE_S = 5.0
#: With all pictures safe, the manager's own word for the end is worth no longer wait than this.
FINISH_WAIT_S = 3.0

#: How a petition is brought to the manager, or found there.
Opening = wire.Submit | wire.Attach | wire.Retry


class Tracked:
    """One petition, from the wish to its end."""

    def __init__(
        self,
        opening: Opening,
        body: bytes,
        images: int,
        timeout_s: float = 0.0,
        inputs: tuple[InputFile, ...] = (),
    ) -> None:
        self.id = opening.id
        #: What is said to the manager, now and after each new connection.
        self.opening = opening
        self.body = body
        self.images = images
        self.timeout_s = timeout_s
        #: Input files that are here, should the manager ask for them.
        self.uploads = Uploads(inputs)
        #: The manager may know it.
        self.submitted = not isinstance(opening, wire.Submit)
        self.accepted = False
        #: Indices handed to the caller, and those he is done with.
        self.given: set[int] = set()
        self.taken: set[int] = set()
        #: A cancel is asked for and counts as lost at this time.
        self.cancel_by: float | None = None
        #: Recorded indices, when somebody else cancelled it.
        self.withdrawn: frozenset[int] | None = None
        self.expires_at: float | None = None
        self.closes_at: float | None = None

    @property
    def detached(self) -> bool:
        """Only its acceptance is waited for."""
        return not isinstance(self.opening, wire.Attach) and self.opening.detach

    @property
    def owned(self) -> bool:
        """It is drawn for us, and nobody else need want it."""
        return not isinstance(self.opening, wire.Attach)

    @property
    def whole(self) -> bool:
        """All its pictures must come here, and not only those that nobody has seen."""
        return isinstance(self.opening, wire.Submit) or (
            isinstance(self.opening, wire.Attach) and self.opening.again
        )

    def said(self) -> bytes | None:
        """The opening is being said; its body."""
        self.submitted = True
        self.uploads.begin_again()
        return self.body or None

    def needs(self, digests: tuple[str, ...]) -> ErrorInfo | None:
        """The manager asks for input files; why it cannot have them, None when it can."""
        unknown = self.uploads.need(digests)
        if not unknown:
            return None
        text = (
            f"The manager does not keep input file {unknown[:16]} of the petition any more; give"
            " the file again."
        )
        return ErrorInfo(code="not_found", message=text, field="inputs")

    def was_accepted(self) -> None:
        """The manager keeps it. A retry is not to be carried out twice."""
        self.accepted = True
        if isinstance(self.opening, wire.Retry) and not self.opening.detach:
            self.opening = wire.Attach(id=self.id, previews=self.opening.previews)
            self.body = b""

    def asks_again(self, message: wire.Finished) -> bool:
        """Others saw pictures that did not come here: we want them too, once.

        Others are those who attached, and an earlier process that made the same petition.
        """
        if not (isinstance(self.opening, wire.Submit) and self._missing(message)):
            return False
        previews = self.opening.previews
        self.opening, self.body = wire.Attach(id=self.id, again=True, previews=previews), b""
        return True

    def start_clock(self, now: float) -> None:
        """The time limit runs from here."""
        if self.timeout_s:
            self.expires_at = now + self.timeout_s + EXPIRY_GRACE_S

    def take(self, index: int, now: float) -> None:
        """The caller is done with one picture."""
        self.taken.add(index)
        if len(self.taken) == self.images:
            self.closes_at = now + FINISH_WAIT_S

    def wish_cancel(self, now: float) -> None:
        """From now on only its end is waited for."""
        self.cancel_by = now + limits.CANCEL_CONFIRM_S

    @property
    def drained(self) -> bool:
        """Somebody else cancelled it, and what was recorded by then is all here."""
        return self.withdrawn is not None and self.withdrawn <= self.taken

    def deadlines(self) -> list[float]:
        """Times at which `overdue` may have something to say."""
        return [at for at in (self.cancel_by, self.closes_at, self.expires_at) if at is not None]

    def overdue(self, now: float) -> Ending | None:
        """The end that the clock brings, if any."""
        if self.cancel_by is not None and now >= self.cancel_by:
            return self.cancelled(confirmed=False)
        if self.closes_at is not None and now >= self.closes_at:
            return Ending(outcome="done", done=tuple(sorted(self.taken)), confirmed=False)
        if self.expires_at is not None and now >= self.expires_at:
            return self._bad("expired", self._expired(), confirmed=False)
        return None

    def cancelled(
        self, *, confirmed: bool, done: tuple[int, ...] = (), state: PetitionState = "cancelled"
    ) -> Ending:
        """The end by cancel; of one known by id only, the end that it had before."""
        if not self.images and state in _EARLIER:
            return Ending(outcome=_EARLIER[state], done=done)
        text = "The petition was cancelled." if confirmed else "The cancel is not confirmed."
        error = ErrorInfo(code="cancelled", message=text)
        return self._bad("cancelled", error, confirmed=confirmed, done=done or None)

    def finished(self, message: wire.Finished) -> Ending:
        """The end as the manager says it, or how far the petition is."""
        brief = isinstance(self.opening, wire.Attach) and not self.opening.wait
        if brief and message.state not in PETITION_ENDS:
            return self._unfinished(message)
        error = self._why(message.state, message)
        outcome: Outcome = "done" if error is None else _OUTCOMES.get(message.state, "failed")
        return Ending(outcome=outcome, error=error, done=message.done, failures=message.failures)

    def _why(self, state: PetitionState, message: wire.Finished) -> ErrorInfo | None:
        missing = self._missing(message)
        if missing and (state == "done" or self.owned):
            return self._incomplete(missing)
        if state == "done" and len(message.done) == self.images:
            return None
        if state == "expired":
            return self._expired()
        if state == "cancelled":
            return ErrorInfo(code="cancelled", message="The petition was cancelled.")
        if state == "failed" and message.failures:
            return message.failures[0].error
        text = f"The manager ended the petition as {state}, with {len(self.given)} pictures."
        return ErrorInfo(code="internal", message=text)

    def _incomplete(self, missing: list[int]) -> ErrorInfo:
        if self.owned:
            text = f"The manager has pictures {missing} and never sent them."
            return ErrorInfo(code="internal", message=text)
        text = f"Pictures {missing} were delivered before and are not kept any more."
        return ErrorInfo(code="not_found", message=text)

    def _missing(self, message: wire.Finished) -> list[int]:
        return sorted(set(message.done) - self.given) if self.whole else []

    def _unfinished(self, message: wire.Finished) -> Ending:
        text = (
            f"The petition is {message.state}: {len(message.done)} of {self.images} pictures are"
            f" done. `sdistrib-client HOST attach {self.id[:8]}` waits for the rest."
        )
        return Ending(
            outcome="unfinished", reason=text, done=message.done, failures=message.failures
        )

    def _expired(self) -> ErrorInfo:
        limit = f" of {self.timeout_s:g} s" if self.timeout_s else ""
        text = (
            f"The time limit{limit} passed with {len(self.given)} of {self.images} pictures done."
        )
        return ErrorInfo(code="expired", message=text)

    def _bad(
        self,
        outcome: Outcome,
        error: ErrorInfo,
        *,
        confirmed: bool,
        done: tuple[int, ...] | None = None,
    ) -> Ending:
        known = tuple(sorted(self.given)) if done is None else done
        return Ending(outcome=outcome, error=error, done=known, confirmed=confirmed)


_EARLIER: dict[PetitionState, Outcome] = {"done": "done", "failed": "failed", "expired": "expired"}
_OUTCOMES: dict[PetitionState, Outcome] = {
    "cancelled": "cancelled",
    "expired": "expired",
    "failed": "failed",
}


class Transfer:
    """One picture coming in, and the images that it is for: equal pictures come once."""

    def __init__(self, result: wire.Result, waiting: Mapping[tuple[str, int], wire.Result]) -> None:
        self.incoming = Incoming(result.digest, result.size_bytes)
        #: By petition and index.
        self.wanted: dict[tuple[str, int], wire.Result] = dict(waiting)
