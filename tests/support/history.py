"""Proves the promises from what processes wrote down while they ran.

Every process of a run appends JSON lines to a file of its own, in one folder; all times are of one
machine's monotonic clock. The checker is separate from everything it judges: it knows no class of
sdistrib, only these events:

    submit     caller, petition, images, seed     a caller asks; image i has seed + i
    accepted   caller, petition                   the manager keeps it
    picture    caller, petition, index, digest    handed to the caller
    cancel     caller, petition                   a caller wants it no more
    ended      caller, petition, outcome, code, done: [index], failures: {index: code}
    killed     caller                             it is dead and needs no answer any more
    begun      seed                               an engine begins an image
    drawn      seed                               it has made it
    stored     petition, state, pictures: {index: digest}     what the store has at the very end

A caller is one life of one client process. Seeds are unique to an image within a run.
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Where = tuple[str, int]

#: Ends that are answers; nothing else satisfies a caller that is still there.
ANSWERS = frozenset({"done", "failed", "cancelled", "expired"})
#: Errors that a run with injected deaths may give an image.
FAILURES = frozenset({"quarantined", "engine_crashed", "worker_lost"})


class Scribe:
    """Appends events to a file; what was written survives the writer's SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, **facts: object) -> None:
        """One event, now."""
        line = json.dumps({"at": time.monotonic(), "event": event, **facts})
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        """No more events."""
        os.close(self._fd)


def read(folder: Path, names: str = "*.jsonl") -> list[Event]:
    """All events of a run in order of time. Half a line, of a writer that was killed, is none."""
    events = []
    for path in sorted(folder.glob(names)):
        text = path.read_text()
        events += [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
    return sorted(events, key=lambda event: float(event["at"]))


@dataclass
class Petition:
    """Everything that was written down of one petition."""

    images: int = 0
    seed: int = 0
    #: Time of acceptance by caller.
    accepted: dict[str, float] = field(default_factory=dict)
    #: Callers that asked, and those that asked to cancel.
    asked: list[str] = field(default_factory=list)
    cancelled_by: set[str] = field(default_factory=set)
    #: Pictures handed out: (time, caller, index, digest).
    pictures: list[tuple[float, str, int, str]] = field(default_factory=list)
    #: Ends told, by caller.
    ends: dict[str, Event] = field(default_factory=dict)
    stored: Event | None = None


@dataclass
class History:
    """A run, sorted by petition."""

    petitions: dict[str, Petition] = field(default_factory=lambda: defaultdict(Petition))
    killed: set[str] = field(default_factory=set)
    begun: Counter[int] = field(default_factory=Counter)
    drawn: Counter[int] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images asked for."""
        return sum(petition.images for petition in self.petitions.values())

    @property
    def executions_per_image(self) -> float:
        """How often an engine began an image, on average."""
        return self.begun.total() / max(1, self.images)


def sort(events: Iterable[Event]) -> History:
    """Sort events by what they are about."""
    history = History()
    for event in events:
        kind, at = event["event"], event["at"]
        if kind in ("begun", "drawn"):
            getattr(history, kind)[event["seed"]] += 1
        elif kind == "killed":
            history.killed.add(event["caller"])
        elif kind in _ABOUT:
            petition = history.petitions[event["petition"]]
            _ABOUT[kind](history, petition, event, at)
        else:
            history.strange.append(f"an event {kind!r}")
    return history


def _submit(history: History, petition: Petition, event: Event, _: float) -> None:
    facts = (event["images"], event["seed"])
    if petition.asked and facts != (petition.images, petition.seed):
        history.strange.append(f"{event['petition']} was submitted with other content")
    petition.images, petition.seed = facts
    petition.asked.append(event["caller"])


def _accepted(_: History, petition: Petition, event: Event, at: float) -> None:
    petition.accepted[event["caller"]] = at


def _picture(_: History, petition: Petition, event: Event, at: float) -> None:
    petition.pictures.append((at, event["caller"], event["index"], event["digest"]))


def _cancel(_: History, petition: Petition, event: Event, __: float) -> None:
    petition.cancelled_by.add(event["caller"])


def _ended(history: History, petition: Petition, event: Event, _: float) -> None:
    if event["caller"] in petition.ends:
        history.strange.append(f"{event['petition']} ended twice for {event['caller']}")
    petition.ends[event["caller"]] = event


def _stored(_: History, petition: Petition, event: Event, __: float) -> None:
    petition.stored = event


_ABOUT = {
    "submit": _submit, "accepted": _accepted, "picture": _picture, "cancel": _cancel,
    "ended": _ended, "stored": _stored,
}  # fmt: skip


def check(events: Iterable[Event], executions_max: float = 1.3) -> list[str]:
    """Every promise that the run broke, one sentence each; empty when all were kept."""
    history = sort(events)
    found = list(history.strange)
    for petition_id, petition in history.petitions.items():
        for rule in (_kept, _answered, _pictures, _complete, _withdrawn, _executed):
            found += (f"petition {petition_id[:8]}: {what}" for what in rule(history, petition))
    if history.executions_per_image > executions_max:
        found.append(f"{history.executions_per_image:.3f} executions per image")
    return found


def _kept(_: History, petition: Petition) -> Iterable[str]:
    """Accepted means kept, and kept until an end."""
    if not petition.asked:
        yield "nobody asked for it"
    if petition.stored is None:
        if petition.accepted:
            yield "it was accepted and is lost"
    elif petition.stored["state"] not in ANSWERS:
        yield f"it never ended; it is {petition.stored['state']}"


def _answered(history: History, petition: Petition) -> Iterable[str]:
    """Everybody who is still there is told, and told what is so."""
    for caller in petition.asked:
        end = petition.ends.get(caller)
        if end is None:
            if caller not in history.killed:
                yield f"{caller} lives and has no answer"
            continue
        if end["outcome"] not in ANSWERS:
            yield f"{caller} was told {end['outcome']!r}"
        state = petition.stored["state"] if petition.stored else None
        if _handed_over(history, petition, caller, end):
            continue
        # A cancel may come too late; then it changes nothing, and `_withdrawn` looks at the list.
        late = end["outcome"] == "cancelled" and caller in petition.cancelled_by
        if state is not None and end["outcome"] != state and not late:
            yield f"{caller} was told {end['outcome']!r} and it is {state!r}"
        wrong = {code for code in end["failures"].values() if code not in FAILURES}
        if wrong:
            yield f"{caller} was told of {sorted(wrong)}"


def _handed_over(history: History, petition: Petition, caller: str, end: Event) -> bool:
    """The caller asked again for what an earlier, killed one had pictures of already."""
    earlier = petition.asked[: petition.asked.index(caller)]
    if end.get("code") != "internal" or not earlier or not history.killed.issuperset(earlier):
        return False
    mine = {index for _, who, index, _ in petition.pictures if who == caller}
    theirs = {index for _, who, index, _ in petition.pictures if who in earlier}
    return set(end["done"]) - mine <= theirs


def _pictures(_: History, petition: Petition) -> Iterable[str]:
    """One picture per image, whoever gets it, and to each caller once."""
    digests: dict[int, set[str]] = defaultdict(set)
    handed: Counter[Where] = Counter()
    for at, caller, index, digest in petition.pictures:
        digests[index].add(digest)
        handed[caller, index] += 1
        accepted_at = petition.accepted.get(caller)
        if accepted_at is None or accepted_at > at:
            yield f"image {index} was handed to {caller} before it was accepted"
        if not 0 <= index < petition.images:
            yield f"there is no image {index}"
    for index, digest in (petition.stored or {"pictures": {}})["pictures"].items():
        digests[int(index)].add(digest)
    for index, several in digests.items():
        if len(several) > 1:
            yield f"image {index} has {len(several)} digests"
    for (caller, index), times in handed.items():
        if times > 1:
            yield f"image {index} was handed to {caller} {times} times"


def _complete(history: History, petition: Petition) -> Iterable[str]:
    """Who is told of pictures has them."""
    for caller, end in petition.ends.items():
        mine = {index for _, who, index, _ in petition.pictures if who == caller}
        missing = set(end["done"]) - mine
        cancelled = caller in petition.cancelled_by and end["outcome"] == "cancelled"
        if missing and not cancelled and not _handed_over(history, petition, caller, end):
            yield f"{caller} never got {sorted(missing)}"
        ends = set(end["done"]) | {int(index) for index in end["failures"]}
        short = end["outcome"] in ("done", "failed") and len(ends) < petition.images
        if short and not _handed_over(history, petition, caller, end):
            yield f"{caller} was told of {len(ends)} of {petition.images} images"


def _withdrawn(_: History, petition: Petition) -> Iterable[str]:
    """After a cancel was confirmed nothing is done that was not listed."""
    for caller, end in petition.ends.items():
        if end["outcome"] != "cancelled" or not end.get("confirmed", True):
            continue
        listed = set(end["done"])
        late = {
            index for at, _, index, _ in petition.pictures if at > end["at"] and index not in listed
        }
        if late:
            yield f"{sorted(late)} were handed out after {caller} was told of the cancel"
        stored = {int(index) for index in (petition.stored or {"pictures": {}})["pictures"]}
        if petition.stored and stored != listed:
            yield f"{sorted(stored ^ listed)} differ between the store and what {caller} was told"


def _executed(history: History, petition: Petition) -> Iterable[str]:
    """What is done was drawn; what is quarantined was begun more than once."""
    for index in (petition.stored or {"pictures": {}})["pictures"]:
        if not history.drawn[petition.seed + int(index)]:
            yield f"image {index} is done and no engine drew it"
    for end in petition.ends.values():
        for index, code in end["failures"].items():
            if code == "quarantined" and history.begun[petition.seed + int(index)] < 2:
                yield f"image {index} is quarantined after one execution"
