"""A durable manager with workers on scripted engines, and clients: real processes.

What engines began is read from the log that they all share, so that "once" is counted where the
work is done.
"""

import json
from collections import Counter
from pathlib import Path

from tests.support.cluster import Cluster, Process


class Farm(Cluster):
    """A durable manager, workers that write down what they begin, and clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        (self.models / "Stable-diffusion").mkdir(parents=True)
        (self.models / "Stable-diffusion" / "tiny.safetensors").write_bytes(b"tiny")
        super().__init__("--state", str(folder / "state"))

    def launch(self, name: str, *options: str, **env: str) -> Process:
        """Start a worker."""
        env = {
            "SDISTRIB_SCRIPTED_IMAGE_S": "0.3",
            "SDISTRIB_SCRIPTED_LOG": str(self.folder / "engines.jsonl"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            **env,
        }
        words = (self.workers_at, str(self.models), "--name", name, *options)
        return self.start("tests.support.scripted_worker", *words, env=env)

    def join(self, name: str, *options: str, **env: str) -> Process:
        """Start a worker and wait until the manager knows it."""
        worker = self.launch(name, *options, **env)
        self.manager.says(f"worker {name} joins")
        return worker

    def wish(self, images: int, output: str = "out.png", *words: str) -> Process:
        """Start a client that draws."""
        out = str(self.folder / output)
        return self.client(
            "-m", "tiny", "-p", "a lighthouse", "-W", "64", "-H", "64", "--steps", "4", "-s", "0",
            "-b", str(images), "-o", out, "--json", *words,
        )  # fmt: skip

    def does(self, *words: str) -> str:
        """Run a verb to its good end; what it says."""
        client = self.draw(*words)
        assert client.popen.returncode == 0, client.errors
        return client.output

    def state(self, name: str) -> dict[str, object]:
        """One worker as the manager sees it."""
        rows = [json.loads(line) for line in self.does("workers", "--json").splitlines()]
        (row,) = [row for row in rows if row["name"] == name]
        return dict(row)

    def begun(self) -> Counter[int]:
        """How often each seed was begun."""
        path = self.folder / "engines.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        return Counter(row["seed"] for row in rows if row["event"] == "begun")


def drawn(client: Process, worker: str = "") -> list[int]:
    """Indices of the pictures that a client has, of one worker or all."""
    rows = [row for row in client.events if row["event"] == "image"]
    return [row["index"] for row in rows if worker in ("", row["worker"])]
