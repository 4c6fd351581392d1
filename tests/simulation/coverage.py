"""What a run must have met: each kind of fault, and each event in each state that matters for it.

The state of an event is as much of the machine as its handling looks at, no more: a report of
progress is judged by its image, a grant by the engine that it finds, a word without a session by
that alone. So a pair that is seldom met is one whose handling is seldom tried.
"""

from collections import Counter

from sdistrib.petitions import IMAGE_ENDS, PETITION_ENDS
from sdistrib.protocol import messages as wire
from tests.simulation.faults import AT_MOMENTS, AT_POINTS

#: Machine, event, state.
Pair = tuple[str, str, str]

#: How often each must be met.
OFTEN = 100

#: Faults that nobody rolls for: they follow from others.
_CONSEQUENCES = (
    "crash before picture kept", "message lost on its way to the manager",
    "message lost on its way to a peer", "peer full", "poison drawn",
)  # fmt: skip
KINDS = frozenset({*AT_POINTS, *AT_MOMENTS, *_CONSEQUENCES})

_HELLOS = {wire.verb(wire.WorkerHello), wire.verb(wire.ClientHello)}
_WORKER_WORDS = {*map(wire.verb, wire.WORKER_TO_MANAGER)}
#: What a worker hears whether or not it has a session; the rest it ignores without one.
_ALWAYS_HEARD = {wire.verb(kind) for kind in (wire.Welcome, wire.Identify, wire.Goodbye)}
_TO_WORKER = {*map(wire.verb, wire.MANAGER_TO_WORKER)}
_TO_CLIENT = {*map(wire.verb, wire.MANAGER_TO_CLIENT)}
#: Events of a worker whose handling looks at the engine, not at the session.
_BY_ENGINE = {"EngineDied", "StopRequested", "TurnLate", "TurnEnded"} | {
    wire.verb(kind) for kind in (wire.Grant, wire.Abandon)
}
#: Events of a worker, and of a client, of which there is one case.
_ONE_CASE = {"FileVanished", "UserLeft", wire.verb(wire.Goodbye)}

#: Words of a worker that are about a lease: an image that has ended has none, nor has an unknown.
_ABOUT_LEASE = {wire.verb(kind) for kind in (wire.Started, wire.Step, wire.Revoked, wire.TooLate)}

EXPECTED: frozenset[Pair] = frozenset()
RARE: dict[Pair, str] = {}


def states(met: Counter[Pair]) -> Counter[Pair]:
    """The pairs that were met, by the states that matter."""
    found: Counter[Pair] = Counter()
    for (who, event, where), count in met.items():
        found[who, *_MATTERS.get(who, _as_it_is)(event, where)] += count
    return found


def _as_it_is(event: str, where: str) -> tuple[str, str]:
    return event, where


def _of_manager(event: str, where: str) -> tuple[str, str]:
    if where == "no session" and event not in _HELLOS:
        port = "worker" if event in _WORKER_WORDS else "client"
        return f"a {port}'s word", where
    if event in _ABOUT_LEASE and where not in ("leased", "waiting"):
        return event, "no such lease"
    if where in IMAGE_ENDS | PETITION_ENDS:
        return event, "ended"
    return event, "open" if where in ("queued", "running") else where


def _of_worker(event: str, where: str) -> tuple[str, str]:
    session, engine = where.split(", ")
    if event in _ONE_CASE:
        return event, "any"
    if session == "no session" and event in _TO_WORKER - _ALWAYS_HEARD:
        return "the manager's word", session
    if event in _BY_ENGINE:
        return event, {"down": "no engine", "starting": "no engine", "ready": "idle"}.get(
            engine, engine
        )
    return event, session


def _of_client(event: str, where: str) -> tuple[str, str]:
    if event in _ONE_CASE:
        return event, "any"
    if where == "unknown" and event in _TO_CLIENT - _ALWAYS_HEARD:
        return "the manager's word", where
    return event, where


_MATTERS = {"manager": _of_manager, "worker": _of_worker, "client": _of_client}


def name(pair: Pair) -> str:
    """A pair as people read it."""
    who, event, where = pair
    return f"{who}: {event} [{where}]"


def remark(pair: Pair) -> str:
    """What is special about a pair in the report."""
    if pair in RARE:
        return f"  (rare: {RARE[pair]})"
    return "" if pair in EXPECTED or pair[0] == "visitor" else "  (not in the table)"


def missing(faults: Counter[str], counts: Counter[Pair]) -> list[str]:
    """What should have been met often and was not, with how often it was."""
    found = [f"{kind}, {faults[kind]} times" for kind in sorted(KINDS) if faults[kind] < OFTEN]
    found += [
        f"{name(pair)}, {counts[pair]} times" for pair in sorted(EXPECTED) if counts[pair] < OFTEN
    ]
    return found + [f"{name(pair)}, never" for pair in sorted(RARE) if not counts[pair]]
