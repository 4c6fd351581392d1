"""Plans and questions of a client, and workers whose speeds are known."""

from typing import Any

from sdistrib.models import ModelFile
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from tests.support.farm import MODEL, Client, Farm, Worker, petition

OTHER = ModelFile("stable-diffusion", "other.safetensors", 1, "b" * 64)
BOTH = (MODEL, OTHER)


def plan(client: Client, **about: Any) -> wire.Planned:
    envelope = {k: about.pop(k) for k in ("priority", "exact", "hedge") if k in about}
    plain = petition(**about)
    wanted = Petition(params=plain.params, seed=plain.seed, images=plain.images, **envelope)
    client.says(wire.Plan(number=7), encode_petition(wanted))
    return client.last(wire.Planned)


def row(planned: wire.Planned, name: str) -> wire.PlannedWorker:
    return next(row for row in planned.workers if row.worker == name)


def ask(client: Client, what: Any, **more: Any) -> wire.Answer:
    client.says(wire.Ask(number=1, what=what, **more))
    return client.last(wire.Answer)


def facts(client: Client, name: str = "gpu1") -> wire.WorkerFacts:
    return next(one for one in ask(client, "workers").workers if one.name == name)


def drew(client: Client, worker: Worker, number: int, draw_s: float, **about: Any) -> None:
    """The only open worker draws an image, which so becomes known."""
    pid = client.submits(number, **about)
    model = about.get("model", "tiny")
    digest = f"context of {model}"
    worker.starts()
    worker.says(wire.EngineState(state="drawing", loaded=f"{model}.safetensors", context=digest))
    worker.draws(worker.attempts[-1], draw_s=draw_s, load_s=3.0, context=digest)
    client.sees(pid, 0)


def stands(worker: Worker, state: wire.StandingState = "paused", reason: str = "by ana") -> None:
    worker.says(wire.Standing(state=state, reason=reason))


def two_speeds(farm: Farm) -> tuple[Client, Worker, Worker]:
    """gpu1 takes 2 s, gpu2 5 s; both have the model loaded and are idle."""
    client, fast = Client(farm), Worker(farm)
    drew(client, fast, 101, 2.0)
    stands(fast)
    slow = Worker(farm, "gpu2")
    drew(client, slow, 102, 5.0)
    fast.says(wire.Standing(state="open"))
    return client, fast, slow
