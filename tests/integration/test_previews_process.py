"""Previews between real processes: hostile engines, clients that never answer, memory."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdistrib import limits
from sdistrib.petitions import Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_client import AsyncClient, Client, compose
from tests.support.cluster import Cluster, cluster, wait_for
from tests.support.manager_process import Client as RawClient
from tests.support.manager_process import Worker as RawWorker
from tests.support.manager_process import petition_id, running_manager

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A tree that the scripted engine is content with."""
    path = tmp_path / "models" / "Stable-diffusion" / "tiny.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"tiny")
    return tmp_path / "models"


@pytest.fixture
def farm(models: Path) -> Iterator[Cluster]:
    with cluster() as running:
        running.worker(models, scripted=True)
        yield running


def wanted(prompt: str, **wishes: object) -> Petition:
    size = {"width": 512, "height": 512, "steps": 20}
    preview = wishes.pop("preview", "vae")
    return compose({"prompt": prompt, "model": "tiny", **size, **wishes}, seed=1, preview=preview)


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_pictures_arrive_as_without_previews_and_the_steps_ascend(farm):
    with Client(farm.clients_at) as client:
        shown = []
        (plain,) = client.draw(wanted("a house", preview="none"))
        (picture,) = client.draw(wanted("!sleep=2 a house"), on_preview=shown.append)
    assert picture.image().tobytes() == plain.image().tobytes()
    steps = [preview.step for preview in shown]
    assert steps == sorted(set(steps))
    assert len(steps) > 3
    assert {(one.width, one.height, one.format, one.steps) for one in shown} == {
        (512, 512, "jpeg", 20)
    }
    assert shown[0].image().size == (512, 512)


def test_asyncio_shows_the_same(farm):
    shown = []

    async def main() -> int:
        async with AsyncClient(farm.clients_at) as client:
            drawing = client.txt2img(
                "!sleep=1 a house", model="tiny", steps=10, preview="proj", on_preview=shown.append
            )
            return len([picture async for picture in drawing])

    assert asyncio.run(main()) == 1
    assert shown
    assert {(one.width, one.format) for one in shown} == {(64, "png")}


def test_whoever_attaches_sees_it_too(farm):
    shown: list[str] = []
    watched = threading.Event()

    def note(_: object) -> None:
        shown.append("attached")
        watched.set()

    with Client(farm.clients_at) as owner, Client(farm.clients_at) as visitor:
        petition_id_ = owner.submit("!sleep=3 a house", model="tiny", steps=60, preview="proj")
        list(visitor.attach(petition_id_, on_preview=note))
    assert watched.is_set()
    assert len(shown) > 3


def test_the_command_line_shows_an_attached_petition(farm, tmp_path):
    detached = farm.draw(
        "-m", "tiny", "-p", "!sleep=4 x", "--steps", "60", "--preview", "proj", "--detach"
    )
    assert detached.ends() == 0, detached.errors
    path = tmp_path / "p.webp"
    client = farm.draw(
        "attach",
        detached.output.strip(),
        "-o",
        str(tmp_path / "o.png"),
        "--preview-path",
        str(path),
    )
    assert client.ends() == 0, client.errors
    assert path.read_bytes()[8:12] == b"WEBP"


def test_a_flooding_engine_grows_neither_worker_nor_manager(farm):
    (worker,) = [one for one in farm._processes if one is not farm.manager]
    with Client(farm.clients_at) as client:
        list(client.draw(wanted("a house"), on_preview=lambda _: None))
        before = rss_kib(worker.pid), rss_kib(farm.manager.pid)
        # 600 of 786 KiB each, whatever the supervisor says.
        (picture,) = client.draw(wanted("!peeks=30 a house"), on_preview=lambda _: None)
        after = rss_kib(worker.pid), rss_kib(farm.manager.pid)
    assert picture.width == 512
    for grown in (later - now for now, later in zip(before, after, strict=True)):
        assert grown < 40 * 1024


def test_two_hundred_previews_leave_no_memory_behind(farm):
    (worker,) = [one for one in farm._processes if one is not farm.manager]
    count = 0
    sizes: list[tuple[int, int]] = []

    def note(_: object) -> None:
        nonlocal count
        count += 1

    deadline = time.monotonic() + 100
    with Client(farm.clients_at) as client:
        while count < 240 and time.monotonic() < deadline:
            list(client.draw(wanted("!sleep=2 a house", steps=60), on_preview=note))
            sizes.append((rss_kib(worker.pid), rss_kib(farm.manager.pid)))
    assert count >= 240
    # Pixels of 786 KiB or files of 10 KiB, kept 200 times, would be 150 MiB and 2 MiB.
    assert sizes[-1][0] - sizes[0][0] < 20 * 1024
    assert sizes[-1][1] - sizes[0][1] < 5 * 1024


def test_a_client_that_never_answers_slows_no_picture_and_gets_one_preview(tmp_path):
    with running_manager(tmp_path) as manager:
        client, worker = RawClient(manager), RawWorker(manager, "gpu1", draw_s=600.0)
        pid = petition_id(1)
        petition = wanted("a house")
        client.says(wire.Submit(id=pid, previews=True), encode_petition(petition))
        grant = worker.waits_for(wire.Grant)
        before = manager.rss_bytes
        data = bytes(limits.PREVIEW_BYTES_MAX)
        for step in range(1, 201):
            preview = wire.Preview(
                attempt=grant.attempts[0], step=step, steps=200, width=8, height=8, format="png",
                worker="gpu1",
            )  # fmt: skip
            worker.says(preview, data)
            if step % 20 == 0:
                worker.waits_for(wire.PreviewSeen, step)
        assert [preview.step for preview in client.all(wire.Preview)] == [1]
        assert manager.rss_bytes - before < 20e6
        client.says(wire.PreviewSeen(attempt=grant.attempts[0]))
        manager.until(lambda: len(client.all(wire.Preview)) == 2)
        assert client.all(wire.Preview)[-1].step == 200


def test_previews_are_logged_nowhere(farm):
    with Client(farm.clients_at) as client:
        before = farm.manager.errors
        list(client.draw(wanted("a secret house"), on_preview=lambda _: None))
        wait_for(lambda: "done" in farm.manager.errors, "the end")
    said = farm.manager.errors[len(before) :].lower()
    assert "preview" not in said
    assert "secret" not in said
