"""What clients wish of workers: pause, resume, drain, unload.

A worker owns its standing: the manager only takes a wish to it and its answer back, and grants
nothing to one that says it is not open. So a pause outlives reconnects and managers. Each wish is
answered, also when a worker leaves or is silent meanwhile.
"""

import difflib

from sdistrib import limits
from sdistrib.errors import ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import Buffer
from sdistrib_manager import answers
from sdistrib_manager.clients import Client
from sdistrib_manager.roster import Steering, Worker
from sdistrib_manager.state import LOCAL, State

#: Characters of a worker's words that are passed on.
_WORDS_CHARS = 300
#: Names shown that are close to an unknown one.
_CLOSEST = 3


def control(state: State, client: Client, message: wire.Control, _: Buffer) -> None:
    """A client wishes something of workers."""
    error = _unknown(state, message)
    if error is not None:
        answer = wire.Controlled(number=message.number, error=error)
        state.say("client", client.route, answer)
        return
    state.steered += 1
    chosen = [worker for worker in state.roster if _is_meant(worker, message.workers)]
    steering = Steering(
        route=client.route,
        number=message.number,
        wish=message.wish,
        waiting={worker.instance: worker for worker in chosen if worker.present},
        deadline=state.now + limits.STEER_ANSWER_S,
    )
    steering.answers += [_not_done(w, "nothing: it is away") for w in chosen if not w.present]
    steer = wire.Steer(number=state.steered, wish=message.wish, by=user_of(client))
    for worker in steering.waiting.values():
        state.tell_worker(worker, steer)
    state.log("info", f"{steer.by} wishes {message.wish} of {len(chosen)} workers")
    state.steering[state.steered] = steering
    _settle(state, state.steered)


def user_of(client: Client) -> str:
    """Whose wish it is. On the plain port everybody is `local`, and `local` may control workers."""
    return LOCAL


def _unknown(state: State, message: wire.Control) -> ErrorInfo | None:
    """Why nothing can be done: a name that no worker has, or no worker at all."""
    names = {worker.name for worker in state.roster}
    for name in message.workers:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), n=_CLOSEST, cutoff=0.4)
            text = f"No worker is called {name[:80]!r}; nothing was done."
            return state.error("not_found", text, closest=tuple(near))
    if not message.workers and not any(state.roster.present()):
        return state.error("not_found", "No worker is here; nothing was done.")
    return None


def _is_meant(worker: Worker, names: tuple[str, ...]) -> bool:
    return worker.name in names if names else worker.present


def steered(state: State, worker: Worker, message: wire.Steered, _: Buffer) -> None:
    """A worker has answered a wish."""
    steering = state.steering.get(message.number)
    if steering is not None and steering.waiting.pop(worker.instance, None) is not None:
        steering.answers.append(wire.ControlAnswer(worker.name, message.did[:_WORDS_CHARS]))
        _settle(state, message.number)


def standing(state: State, worker: Worker, message: wire.Standing, _: Buffer) -> None:
    """A worker takes grants, or none, from now on."""
    worker.standing = message
    why = f" ({message.reason})" if message.reason else ""
    state.log("info", f"worker {worker.name} is {message.state}{why}")
    state.schedule_due = True


def review(state: State) -> None:
    """Once a beat: workers that will not answer any more."""
    for number, steering in list(state.steering.items()):
        for instance, worker in list(steering.waiting.items()):
            if not worker.present:
                words = "no answer: its connection is lost; it may have done it"
            elif state.now >= steering.deadline:
                words = f"no answer for {limits.STEER_ANSWER_S:.0f} s; it may still do it"
            else:
                continue
            del steering.waiting[instance]
            steering.answers.append(_not_done(worker, words))
        _settle(state, number)


def _not_done(worker: Worker, words: str) -> wire.ControlAnswer:
    return wire.ControlAnswer(worker.name, words, obeyed=False)


def _settle(state: State, number: int) -> None:
    """Tell the client, if it is still there, when nothing is waited for."""
    steering = state.steering[number]
    if steering.waiting:
        return
    del state.steering[number]
    if steering.route not in state.clients:
        return
    rows = tuple(sorted(steering.answers, key=lambda answer: answer.worker))
    found = answers.fitting(rows)
    told = wire.Controlled(number=steering.number, answers=found, cut=len(found) < len(rows))
    state.say("client", steering.route, told)
