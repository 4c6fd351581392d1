"""Warnings of one name for different files: they are never mixed, and rarely meant."""

from sdistrib_manager.roster import Worker, same_file
from sdistrib_manager.state import State


def warn(state: State, worker: Worker) -> None:
    """A worker told what it has: compare with the others, once for each name and pair."""
    mine = {(file.kind, file.name): file for file in worker.catalogue.files}
    for other in state.roster.present():
        if other.name == worker.name:
            continue
        for file in other.catalogue.files:
            have = mine.get((file.kind, file.name))
            if have is None or have == file or same_file(have, file):
                continue
            first, second = sorted((worker.name, other.name))
            conflict = file.kind, file.name, first, second
            if conflict not in state.conflicts:
                state.conflicts.add(conflict)
                state.log(
                    "warning",
                    f"{file.kind} {file.name!r} on {first} is another file than on {second};"
                    " no petition is drawn from both",
                )
