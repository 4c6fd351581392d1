"""Runs a soak: faults as the plan has them, while images are handed out; then the proof."""

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.farm import Farm
from tests.soak.plan import Fault, Scale, SoakPlan, make
from tests.support.history import check, read, sort

#: How often what was handed out is counted.
_LOOK_S = 0.05


@dataclass
class Report:
    """What a soak has shown."""

    seed: int
    seconds: float = 0.0
    #: Faults that were carried out.
    faults: dict[str, int] = field(default_factory=dict)
    images: int = 0
    #: Ends that callers were told, by outcome, and images that failed, by code.
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    executions_per_image: float = 0.0
    #: Broken promises.
    anomalies: list[str] = field(default_factory=list)


class Soak:
    """One run in one folder."""

    def __init__(self, scale: Scale, seed: int, folder: Path, models: Path) -> None:
        self._scale, self._folder = scale, folder
        self._plan: SoakPlan = make(scale, seed)
        self._chance = random.Random(f"{seed} where")
        self._farm = Farm(folder, models, scale.workers)
        self._report = Report(seed)
        self._read: dict[Path, int] = {}
        self._handed_out = 0

    def run(self, limit_s: float) -> Report:
        """Carry out the plan, wait for every client, and check.

        Raises:
            TimeoutError: not all clients were answered in time.
        """
        began_at = time.monotonic()
        try:
            for number, petitions in enumerate(self._plan.petitions):
                (self._folder / f"plan-{number}.json").write_text(json.dumps(petitions))
                self._farm.start_client(number)
            self._carry_out(began_at + limit_s)
            self._wait_for_clients(began_at + limit_s)
        finally:
            self._farm.close()
        self._report.seconds = time.monotonic() - began_at
        return self._checked()

    def _carry_out(self, until: float) -> None:
        for after, fault in self._plan.faults:
            while self._count() < after and self._somebody_waits(until):
                time.sleep(_LOOK_S)
            while not self._happen(fault) and self._somebody_waits(until):
                time.sleep(_LOOK_S)

    def _happen(self, fault: Fault) -> bool:
        """Make one fault happen; False when nobody can be hit now."""
        if fault == "manager":
            self._farm.restart_manager()
            done = True
        elif fault == "client":
            done = self._farm.kill_client(self._chance.randrange(self._scale.clients))
        else:
            # Only one that is at work: killing one that starts proves little and takes long.
            ready = [n for n, one in enumerate(self._farm.workers) if "Connected" in one.said()]
            number = self._chance.choice(ready) if ready else None
            if number is None:
                return False
            if fault == "engine":
                done = self._farm.kill_engine(number)
            else:
                self._farm.kill_worker(number)
                done = True
        self._report.faults[fault] = self._report.faults.get(fault, 0) + done
        return done

    def _somebody_waits(self, until: float) -> bool:
        self._revive()
        if time.monotonic() > until:
            raise TimeoutError(self._story())
        return any(client.alive for client in self._farm.clients)

    def _wait_for_clients(self, until: float) -> None:
        while self._somebody_waits(until):
            time.sleep(_LOOK_S)
        for client in self._farm.clients:
            assert client.popen.returncode == 0, client.said()[-2000:]

    def _revive(self) -> None:
        """Nothing dies but by our hand."""
        assert self._farm.manager.alive, self._farm.manager.said()[-3000:]
        for worker in self._farm.workers:
            assert worker.alive, worker.said()[-3000:]

    def _count(self) -> int:
        """Pictures handed out so far; a caller's next life may get some again."""
        for path in self._farm.history.glob("client-*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            self._handed_out += whole.count(b'"event": "picture"')
        return self._handed_out

    def _story(self) -> str:
        logs = "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self._folder.glob("*.log"))
        )
        return f"{self._count()} pictures, faults {self._report.faults}\n{logs}"

    def _checked(self) -> Report:
        self._farm.write_what_is_stored()
        events, report = read(self._farm.history), self._report
        history = sort(events)
        report.images = history.images
        report.executions_per_image = round(history.executions_per_image, 4)
        for petition in history.petitions.values():
            for end in petition.ends.values():
                report.outcomes[end["outcome"]] = report.outcomes.get(end["outcome"], 0) + 1
                for code in end["failures"].values():
                    report.failures[code] = report.failures.get(code, 0) + 1
        report.anomalies = check(events)
        return report
