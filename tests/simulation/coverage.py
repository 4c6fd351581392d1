"""What a run must have met: each kind of fault, and each event in each state that matters for it.

The state of an event is as much of the machine as its handling looks at, no more: a report of
progress is judged by its image, a grant by the engine that it finds, a word without a session by
that alone. So a pair that is seldom met is one whose handling is seldom tried.
"""

from collections import Counter
from collections.abc import Iterator

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
    "call of several", "call of several ends early",
)  # fmt: skip
KINDS = frozenset({*AT_POINTS, *AT_MOMENTS, *_CONSEQUENCES})

_HELLOS = {wire.verb(wire.WorkerHello), wire.verb(wire.ClientHello)}
_WORKER_WORDS = {*map(wire.verb, wire.WORKER_TO_MANAGER)}
#: What a worker hears whether or not it has a session; the rest it ignores without one.
_ALWAYS_HEARD = {wire.verb(kind) for kind in (wire.Welcome, wire.Identify, wire.Goodbye)}
_TO_WORKER = {*map(wire.verb, wire.MANAGER_TO_WORKER)}
_TO_CLIENT = {*map(wire.verb, wire.MANAGER_TO_CLIENT)}
#: Events of a worker whose handling looks at the engine, not at the session.
_BY_ENGINE = {"EngineDied", "TurnLate", "TurnEnded"} | {
    wire.verb(kind) for kind in (wire.Grant, wire.Abandon)
}
#: Events of which there is one case.
_ONE_CASE = {"FileVanished", "UserLeft", "PictureTaken", wire.verb(wire.Goodbye)}
_ONE_CASE_OF_MANAGER = {"PeerGone", "PeerFull", "BlobMissing", "StopRequested"}

#: Words of a worker that are about a lease: an image that has ended has none, nor has an unknown.
_ABOUT_LEASE = {wire.verb(kind) for kind in (wire.Started, wire.Step, wire.Revoked, wire.TooLate)}
#: Words about an image whose handling asks no more than whether it has ended.
_ABOUT_IMAGE = {wire.verb(kind) for kind in (wire.Preview, wire.PreviewSeen)}

#: What must be met often: machine, then event and the states that matter for it.
_TABLE = {
    "manager": """
        ASK: session
        ATTACH: ended, open, tombstone
        BEAT: session
        BlobFailed: in trouble, well
        BlobMissing: any
        BlobStored: well
        CANCEL: ended, open, tombstone, unknown petition
        CHUNK: session
        CHUNK_SEEN: session
        CLIENT_HELLO: no session, session
        DETACH: ended, open, tombstone, unknown petition
        ENGINE_STATE: session
        CONTROL: session
        FAILED: ended, leased, unknown image
        FETCH: session
        GOODBYE: session
        INVENTORY: session
        PREVIEW: undone
        PREVIEW_SEEN: ended, undone
        PROGRESS_SEEN: ended, open, tombstone
        PURGE: ended, open, session, tombstone
        PeerFull: any
        PeerGone: any
        RESULT: ended, leased, unknown image
        RESULT_SEEN: ended, open, tombstone
        RETRY: ended, open, tombstone
        REVOKED: no such lease, undone
        STANDING: session
        STARTED: no such lease, undone
        STEERED: session
        STEP: no such lease, undone
        SUBMIT: ended, open, tombstone, unknown petition
        StopRequested: any
        StoreRecovered: in trouble
        TurnEnded: in trouble, well
        WORKER_HELLO: no session, session
        a client's word: no session
        a worker's word: no session
    """,
    "worker": """
        ABANDON: drawing, idle, no engine
        At: no session, session
        AvailabilityChanged: no session, session
        BEAT: session
        Began: session
        CHUNK: session
        CHUNK_SEEN: session
        Declined: no session, session
        EncodingFailed: no session, session
        EngineDied: drawing, idle, no engine
        FORGET: session
        FileVanished: any
        GOODBYE: any
        GRANT: drawing, idle, no engine
        IDENTIFY: no session, session
        InputHeld: no session, session
        InputOpened: session
        InputReady: session
        InventoryChanged: no session, session
        PREVIEW_SEEN: session
        PictureDrawn: no session, session
        PictureEncoded: no session, session
        PreviewDrawn: no session, session
        PreviewEncoded: session
        RESULT_RECORDED: session
        RESULT_REFUSED: session
        REVOKE: session
        Ready: no session, session
        STEER: session
        SendFailed: no session, session
        StopRequested: at rest, drawing
        TurnEnded: drawing, idle, no engine
        TurnLate: drawing, idle, no engine
        WELCOME: no session, session
        the manager's word: no session
    """,
    "client": """
        ACCEPTED: welcome
        BEAT: welcome
        CANCELLED: welcome
        CHUNK: welcome
        CHUNK_SEEN: welcome
        CancelWished: unknown, welcome
        FINISHED: welcome
        GOODBYE: any
        IDENTIFY: unknown, welcome
        NEED: welcome
        PREVIEW: welcome
        PROGRESS: welcome
        PetitionLeft: unknown, welcome
        PetitionMade: unknown, welcome
        PictureTaken: any
        PreviewTaken: welcome
        REFUSED: welcome
        RESULT: welcome
        Tick: unknown, welcome
        UserLeft: any
        WELCOME: unknown, welcome
        the manager's word: unknown
    """,
}


def _pairs(machine: str, table: str) -> Iterator[Pair]:
    for line in filter(None, map(str.strip, table.splitlines())):
        event, states_of_it = line.split(": ")
        for state in states_of_it.split(", "):
            yield machine, event, state


EXPECTED: frozenset[Pair] = frozenset(
    pair for machine, table in _TABLE.items() for pair in _pairs(machine, table)
)
#: Met in every run, but not a hundred times: why.
RARE: dict[Pair, str] = {
    (
        "manager",
        "BlobStored",
        "in trouble",
    ): "trouble has to begin within the milliseconds that a picture takes",
    ("manager", "FAILED", "waiting"): "most are somebody else's by the time that a late word comes",
    ("manager", "PREVIEW", "ended"): "the image has to end within the milliseconds of its way",
    ("manager", "RESULT", "waiting"): "most are somebody else's by the time that a late word comes",
    ("manager", "TOO_LATE", "no such lease"): "a recall has to cross a beginning",
    ("manager", "TOO_LATE", "undone"): "a recall has to cross a beginning",
    ("worker", "Began", "no session"): "the session has to end within milliseconds",
}


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
    if event in _ONE_CASE_OF_MANAGER:
        return event, "any"
    if event in _ABOUT_LEASE:
        return event, "undone" if where in ("leased", "waiting") else "no such lease"
    if event in _ABOUT_IMAGE and where in ("leased", "waiting"):
        return event, "undone"
    if where in IMAGE_ENDS | PETITION_ENDS:
        return event, "ended"
    return event, "open" if where in ("queued", "running") else where


def _of_worker(event: str, where: str) -> tuple[str, str]:
    session, engine = where.split(", ")
    if event in _ONE_CASE:
        return event, "any"
    if session == "no session" and event in _TO_WORKER - _ALWAYS_HEARD:
        return "the manager's word", session
    if event == "StopRequested":
        return event, "drawing" if engine == "drawing" else "at rest"
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
