"""What the engine child has loaded, and the operator's log of it. Pure.

The child alone decides what goes when room is needed, and tells (`Holds`). What a request's own
progress says is believed at once: while it loads, its context is not there, and behind that it is.
A request that only makes a given picture larger loads none, and leaves those that are there.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sdistrib.protocol.messages import Kept
from sdistrib_worker.session import Turn
from sdistrib_worker.shelf import Plan

_MB = 1e6


@dataclass(frozen=True, slots=True)
class Context:
    """A context in the child's memory."""

    #: Local key.
    key: str
    #: As others see it.
    digest: str
    model: str
    #: Size of the files that it was loaded from.
    size_bytes: int
    #: When it was last asked for.
    used_at: float


class Loaded:
    """The contexts of one child, the last used first.

    Args:
        turn: the time.
        keep: how many the child keeps at most.
    """

    def __init__(self, turn: Turn, keep: int) -> None:
        self._turn = turn
        self._keep = keep
        self._contexts: list[Context] = []
        #: What is being asked for, and since when it is being loaded.
        self._asked: Plan | None = None
        self._since = 0.0

    def __contains__(self, plan: Plan) -> bool:
        return any(one.key == plan.key for one in self._contexts)

    def __bool__(self) -> bool:
        return bool(self._contexts)

    def has_others(self, plan: Plan) -> bool:
        """Contexts are kept that this request does not need."""
        return any(one.key != plan.key for one in self._contexts)

    @property
    def models(self) -> str:
        """Names of the models, for people."""
        return ", ".join(one.model for one in self._contexts)

    @property
    def size_bytes(self) -> int:
        """Size of all files that they were loaded from."""
        return sum(one.size_bytes for one in self._contexts)

    def kept(self) -> list[Kept]:
        """The same for the manager."""
        return [Kept(one.digest, one.model) for one in self._contexts]

    def asked(self, plan: Plan) -> None:
        """An image of this context is the child's next."""
        self._asked, self._since = None if plan.upscales else plan, self._turn.now
        if plan in self:
            # The same files; their digests may have become known since the load.
            self._put_first(plan)

    def loads(self, plan: Plan) -> None:
        """The child loads this, or has tried to: it is not there, nor what had to go before."""
        if plan.upscales:
            return
        self._since = self._turn.now
        others = [one for one in self._contexts if one.key != plan.key]
        self._become(others[: self._keep - 1])

    def has(self, plan: Plan) -> None:
        """The child works with this: it is there."""
        if plan in self or plan.upscales:
            return
        self._put_first(plan)
        self._become(self._contexts[: self._keep])
        took_s, count = self._turn.now - self._since, len(self._contexts)
        more = f" {count} contexts are kept, {_size(self.size_bytes)}." if count > 1 else ""
        size = _size(plan.load_bytes)
        self._turn.log("info", f"Loaded {plan.model} in {took_s:.1f} s, {size}.{more}")

    def told(self, keys: Iterable[str]) -> None:
        """The child says what it has."""
        known = {one.key: one for one in self._contexts}
        wanted = list(keys)
        self._become([known[key] for key in wanted if key in known])
        if self._asked is not None and self._asked.key in wanted:
            self.has(self._asked)

    def clear(self) -> None:
        """The child is gone, and all that it had."""
        self._contexts, self._asked = [], None

    def _put_first(self, plan: Plan) -> None:
        now = Context(plan.key, plan.context, plan.model, plan.load_bytes, self._turn.now)
        self._contexts = [now, *(one for one in self._contexts if one.key != plan.key)]

    def _become(self, contexts: list[Context]) -> None:
        gone = [one for one in self._contexts if one not in contexts]
        self._contexts = contexts
        for one in gone:
            unused_s = self._turn.now - one.used_at
            text = f"Unloaded {one.model}, {_size(one.size_bytes)}, last used {unused_s:.0f} s ago."
            self._turn.log("info", text)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / _MB:.1f} MB"
