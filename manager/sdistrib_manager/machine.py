"""The manager's decisions, as one pure machine.

Theory of operation. The loop turns everything that happens into events and gives each to
`Manager.handle` with the monotonic time. Handlers change `State` and put effects into its outbox:
what is to be kept, sent and logged. They never call each other back; an event that may let an image
go out only marks scheduling as due. The last event of each turn is `TurnEnded`: then timers fire,
`schedule` hands out work, and progress is sent. The loop commits what is to be kept before it sends
anything, so that no promise leaves before it is true.

An image goes waiting -> leased -> done or failed. Attempts are numbered per image and never reused;
a result counts when its attempt was issued to that worker process and the image is still undone, so
a late result of a worker that was given up is welcome, and a zombie's is refused.

There is no clock, socket, disk, thread or chance in here.
"""

from typing import assert_never

from sdistrib import limits
from sdistrib.errors import ErrorInfo, ProtocolError
from sdistrib.protocol import messages as wire
from sdistrib_manager import (
    arrival,
    blobs,
    controls,
    delivery,
    dispatch,
    door,
    floor,
    inputs,
    intake,
    outcome,
    serving,
)
from sdistrib_manager.effects import Effect, Stop
from sdistrib_manager.events import (
    BlobFailed,
    BlobMissing,
    BlobStored,
    Event,
    Malformed,
    MessageArrived,
    PeerFull,
    PeerGone,
    StopRequested,
    StoreRecovered,
    TurnEnded,
)
from sdistrib_manager.restore import end_grace, restore
from sdistrib_manager.rows import Snapshot
from sdistrib_manager.scheduler.policy import Policy, Scheduler
from sdistrib_manager.state import Settings, State


class Manager:
    """Takes events and the time, gives back effects."""

    def __init__(
        self, settings: Settings, now: float, wall: float = 0.0, kept: Snapshot | None = None
    ) -> None:
        self.state = State(
            settings,
            started_at=now,
            now=now,
            wall=wall,
            scheduler=Scheduler(Policy(overtaken_s=settings.overtaken_s)),
        )
        if kept is not None:
            restore(self.state, kept)

    def is_held(self, digest: str) -> bool:
        """A picture or input file is needed, also by what no row names yet."""
        return digest in self.state.blob_uses

    def handle(self, event: Event, now: float, wall: float = 0.0) -> list[Effect]:
        """What is to be done about one event, in order.

        Args:
            event: what has happened.
            now: monotonic seconds; everything is decided by these.
            wall: seconds since 1970, for display only.
        """
        self.state.now, self.state.wall = now, wall
        match event:
            case MessageArrived():
                self._message(event)
            case Malformed(port, route, reason):
                self._fault(port, route, reason)
            case PeerGone(port, route) | PeerFull(port, route):
                self._lost(port, route)
            case BlobStored(digest):
                self._stored(digest)
            case BlobFailed(digest, reason):
                arrival.failed(self.state, digest, reason)
                inputs.failed(self.state, digest, reason)
            case BlobMissing(digest, reason):
                self.state.log("error", f"lost from the store: {reason}")
                arrival.missing(self.state, digest, reason)
                inputs.missing(self.state, digest, reason)
            case StoreRecovered():
                delivery.store_recovered(self.state)
            case StopRequested():
                self._stop()
            case TurnEnded():
                self._turn_ended()
            case _:
                assert_never(event)
        effects, self.state.outbox = self.state.outbox, []
        return effects

    def next_deadline(self) -> float:
        """Time at which the machine wants to be called even if nothing happens."""
        return self.state.next_review_at

    def forgive(self, delay_s: float) -> None:
        """This machine slept through a turn: nobody else is to blame for the silence."""
        for worker in self.state.roster:
            worker.liveness.forgive(delay_s)
        for client in self.state.clients.values():
            client.liveness.forgive(delay_s)

    def _message(self, event: MessageArrived) -> None:
        on_message = intake.on_message if event.port == "client" else floor.on_message
        try:
            on_message(self.state, event.route, event.message, event.body)
        except ProtocolError as error:
            self._fault(event.port, event.route, str(error))

    def _stored(self, digest: str) -> None:
        arrival.stored(self.state, digest)
        for staged in inputs.stored(self.state, digest):
            door.take_staged(self.state, staged)
        # Whoever wanted it may have ended while it was being kept.
        blobs.drop_unused(self.state, digest)

    def _fault(self, port: str, route: bytes, reason: str) -> None:
        self.state.log("warning", f"protocol_error on the {port} port: {reason}")
        error = ErrorInfo(code="protocol_error", message=f"{reason[:500]}.")
        self.state.say(port, route, wire.Fault(error=error))

    def _lost(self, port: str, route: bytes) -> None:
        if port == "worker":
            floor.connection_lost(self.state, route)
        elif (client := self.state.clients.get(route)) is not None:
            intake.leave(self.state, client)

    def _stop(self) -> None:
        state = self.state
        if state.stopping:
            return
        state.stopping = True
        for route in list(state.clients):
            state.say("client", route, wire.Goodbye(reason="the manager is stopping"))
        for worker in list(state.roster.present()):
            state.say("worker", worker.route, wire.Goodbye(reason="the manager is stopping"))
        state.outbox.append(Stop())

    def _turn_ended(self) -> None:
        state = self.state
        if state.now >= state.next_review_at:
            state.next_review_at = state.now + limits.BEAT_S
            floor.review(state)
            intake.review(state)
            inputs.review(state)
            outcome.review(state)
            controls.review(state)
            for entry, image in end_grace(state):
                outcome.wait_again(state, entry, image)
        if state.schedule_due and not state.stopping and not state.store_trouble:
            dispatch.schedule(state)
        serving.forget(state)
        intake.send_progress(state)
