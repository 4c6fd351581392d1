"""A client that draws what its plan says and writes down all it is told.

    python -m tests.soak.client HOST PLAN HISTORY CALLER

PLAN is a JSON file with a list of petitions: id, images, seed, cancel (pictures after which it is
cancelled, or null). Those that HISTORY (this client's own file) says are ended are left out, so
that the next life of a killed client submits again, under the same ids, what it still waits for.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sdistrib.params import Params
from sdistrib.petitions import Petition
from sdistrib.protocol.codec import encode_petition
from sdistrib.transport import Watch
from sdistrib_client import events
from sdistrib_client.effects import Ending
from sdistrib_client.session import Inbox, Session, dial_address
from tests.support.history import Scribe, read

#: Petitions that one client waits for at a time.
_AT_ONCE = 6
#: A manager that is killed is started again at once; this is only the bound of a bug.
_PATIENCE_S = 120.0

Plan = dict[str, Any]


class Caller:
    """One life of one client."""

    def __init__(self, host: str, name: str, scribe: Scribe) -> None:
        self._session = Session(dial_address(host, insecure_lan=False), _PATIENCE_S, _ignore)
        self._watch = Watch()
        self._watch.add(self._session.dealer)
        self._name, self._scribe = name, scribe
        self._open: dict[str, tuple[Inbox, Plan]] = {}
        self._seen: dict[str, int] = {}

    def draw(self, plans: list[Plan]) -> None:
        """Draw all of them, a few at a time."""
        waiting = list(reversed(plans))
        while waiting or self._open:
            while waiting and len(self._open) < _AT_ONCE:
                self._submit(waiting.pop())
            self._watch.wait(self._session.wait_s())
            self._session.turn()
            for box, plan in list(self._open.values()):
                self._look(box, plan)
        self._session.close()

    def _submit(self, plan: Plan) -> None:
        params = Params(prompt="a lighthouse", model="tiny", width=64, height=64, steps=2)
        petition = Petition(params=params, seed=plan["seed"], images=plan["images"])
        box = Inbox(petition, plan["id"])
        self._open[box.id], self._seen[box.id] = (box, plan), 0
        self._write("submit", box, images=petition.images, seed=petition.seed)
        self._session.inboxes[box.id] = box
        body = encode_petition(petition)
        self._session.post(events.PetitionMade(box.id, body, petition.images))

    def _look(self, box: Inbox, plan: Plan) -> None:
        accepted, box.accepted = box.accepted, None
        if accepted is not None:
            self._write("accepted", box)
        while box.pictures:
            picture = box.hand_out()
            self._write("picture", box, index=picture.index, digest=picture.sha256)
            self._session.acknowledge(box)
            self._seen[box.id] += 1
            if self._seen[box.id] == plan["cancel"]:
                self._write("cancel", box)
                self._session.post(events.CancelWished(box.id))
        if box.ending is not None:
            del self._open[box.id]
            self._ended(box, box.ending)

    def _ended(self, box: Inbox, ending: Ending) -> None:
        self._write(
            "ended",
            box,
            outcome=ending.outcome,
            code=ending.error.code if ending.error else "",
            done=list(ending.done),
            failures={failure.index: failure.error.code for failure in ending.failures},
            confirmed=ending.confirmed,
        )

    def _write(self, event: str, box: Inbox, **facts: object) -> None:
        self._scribe.write(event, caller=self._name, petition=box.id, **facts)


def _ignore(_: str) -> None:
    """Managers come and go here; that they do is no news."""


def main() -> None:
    """Draw what is left of the plan."""
    host, plan, history, name = sys.argv[1:]
    path = Path(history)
    before = read(path.parent, path.name) if path.exists() else []
    over = {event["petition"] for event in before if event["event"] == "ended"}
    scribe = Scribe(path)
    plans = json.loads(Path(plan).read_text())
    Caller(host, name, scribe).draw([one for one in plans if one["id"] not in over])
    scribe.close()


if __name__ == "__main__":
    main()
