"""How many images of one client may be in workers' hands at a time, where an operator limits that.

A client is a user, as for shares. On the plain port nobody can be told from anybody else: there
each petition counts for itself.
"""

from collections import Counter

from sdistrib_manager.queue import LOCAL, Entry
from sdistrib_manager.state import State


def held_by(entry: Entry) -> str:
    """Whose images are counted together."""
    return entry.id if entry.owner == LOCAL else entry.owner


def count(state: State) -> None:
    """Count anew what workers hold and have not drawn."""
    state.held = Counter()
    if state.settings.client_running_max:
        state.held.update(
            held_by(state.queue.entries[lease.attempt.id])
            for worker in state.roster
            for lease in worker.leases.values()
            if not lease.drawn
        )


def is_full(state: State, entry: Entry) -> bool:
    """Its client has as many images in workers' hands as it may."""
    most = state.settings.client_running_max
    return 0 < most <= state.held[held_by(entry)]
