"""Input files in real processes: a manager killed in the middle, one upload, a full disk."""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdistrib.errors import ERROR_TABLE
from sdistrib_client import AsyncClient, Client, PetitionError
from tests.support.cluster import Process, wait_for
from tests.support.input_files import digest_of
from tests.support.scripted_farm import Farm, drawn
from tests.support.scripted_manager import png
from tests.support.small_disk import WritesFail

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

#: So large that it is under way for a while.
BIG = png(1, 30_000_000)
SMALL = png(2)
ABOUT = {"model": "tiny", "width": 64, "height": 64, "steps": 4, "seed": 0}


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    yield made
    made.close()


def put(farm: Farm, data: bytes, name: str = "in.png") -> str:
    path = farm.folder / name
    path.write_bytes(data)
    return str(path)


def kept(farm: Farm) -> set[str]:
    folder = farm.folder / "state" / "pictures"
    return {path.name for path in folder.iterdir() if path.is_file()}


def told(farm: Farm, event: str) -> list[str]:
    """Digests that workers wrote down."""
    path = farm.folder / "engines.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [row["digest"] for row in rows if row["event"] == event]


def sending(client: Process) -> list[int]:
    return [row["sent_bytes"] for row in client.events if row["event"] == "sending"]


def test_a_manager_killed_while_a_file_is_sent_gets_it_from_the_next_one(farm):
    farm.join("gpu1")
    client = farm.wish(1, "out.png", "-i", put(farm, BIG))
    wait_for(lambda: any(sending(client)), "the first pieces")
    farm.manager.signals(signal.SIGKILL)
    farm.manager.ends()
    assert digest_of(BIG) not in kept(farm)
    farm.start_manager("--state", str(farm.folder / "state"))
    assert client.ends() == 0, client.errors
    assert drawn(client) == [0]
    assert digest_of(BIG) in kept(farm)
    wait_for(lambda: told(farm, "fetched") == [digest_of(BIG)], "the worker to have the file")


def test_an_input_file_is_sent_once_and_fetched_once_and_forgotten_everywhere(farm):
    farm.join("gpu1")
    path = put(farm, BIG)
    first = farm.wish(2, "one.png", "-r", path)
    assert first.ends() == 0, first.errors
    assert sending(first)[-1] == len(BIG)
    second = farm.wish(2, "two.png", "-i", path, "-p", "a lake")
    assert second.ends() == 0, second.errors
    assert sending(second) == []
    wait_for(lambda: told(farm, "fetched"), "the worker to have the file")
    assert told(farm, "fetched") == [digest_of(BIG)]
    # A picture that was received is not sent back either.
    picture = farm.folder / "one_0.png"
    third = farm.wish(1, "three.png", "-i", str(picture))
    assert third.ends() == 0, third.errors
    assert sending(third) == []
    farm.does("purge", "--all", "--yes")
    assert kept(farm) == set()
    wait_for(lambda: digest_of(BIG) in told(farm, "forgotten"), "the worker to forget it")


def test_two_clients_with_one_file_at_a_time(farm):
    farm.join("gpu1")
    path = put(farm, BIG)
    clients = [farm.wish(1, f"out{n}.png", "-i", path) for n in range(2)]
    for client in clients:
        assert client.ends() == 0, client.errors
        assert drawn(client) == [0]
    # One connection sends it; the other one is asked for nothing, or for nothing any more.
    assert sum(bool(sending(client)) for client in clients) == 1
    assert told(farm, "fetched") == [digest_of(BIG)]


def test_a_disk_that_takes_no_file_is_a_typed_busy_and_then_all_is_well(farm):
    farm.join("gpu1")
    path = put(farm, BIG)
    disk = WritesFail(farm.manager)
    disk.begin()
    client = farm.wish(1, "out.png", "-i", path)
    assert client.ends() == ERROR_TABLE["busy"].exit_status, client.errors
    assert "busy" in [row["code"] for row in client.events if row["event"] == "error"]
    disk.end()

    def is_drawn() -> bool:
        again = farm.wish(1, "out.png", "-i", path)
        return again.ends() == 0

    wait_for(is_drawn, "the disk to be well again")


def test_detached_it_is_accepted_when_the_file_is_there(farm):
    path = put(farm, BIG)
    petition_id = farm.does(
        "-m", "tiny", "-p", "a lighthouse", "-W", "64", "-H", "64", "-i", path, "--detach"
    ).strip()
    assert digest_of(BIG) in kept(farm)
    farm.join("gpu1")
    fetched = farm.client("attach", petition_id, "-o", str(farm.folder / "out.png"), "--json")
    assert fetched.ends() == 0, fetched.errors
    assert drawn(fetched) == [0]


def test_a_retry_with_another_file(farm):
    farm.join("gpu1")
    first = farm.wish(1, "out.png", "-i", put(farm, SMALL), "-p", "a lake !decline=invalid_params")
    assert first.ends() == ERROR_TABLE["invalid_params"].exit_status
    petition_id = first.events[0]["id"]
    other = png(3)
    again = farm.client(
        "retry", petition_id, "-i", put(farm, other, "other.png"), "-p", "a lake", "--json",
        "-o", str(farm.folder / "out.png"),
    )  # fmt: skip
    assert again.ends() == 0, again.errors
    assert {digest_of(SMALL), digest_of(other)} & kept(farm) == {digest_of(other)}


def test_the_library_takes_paths_and_bytes(farm):
    farm.join("gpu1")
    path = Path(put(farm, SMALL))
    seen: list[tuple[int, int]] = []
    with Client(farm.clients_at) as client:
        drawing = client.txt2img(
            "a lake", init_image=path, on_sending=lambda *how_far: seen.append(how_far), **ABOUT
        )
        assert [picture.index for picture in drawing] == [0]
        assert seen[-1] == (len(SMALL), len(SMALL))
        petition_id = client.submit("a lake", ref_images=[SMALL, png(4)], **ABOUT)
        assert [picture.index for picture in client.attach(petition_id)] == [0]
        with pytest.raises(PetitionError, match="no picture"):
            client.txt2img("a lake", init_image=b"text", **ABOUT)


def test_the_library_for_asyncio_takes_them_too(farm):
    farm.join("gpu1")

    async def draw() -> list[int]:
        async with AsyncClient(farm.clients_at) as client:
            return [p.index async for p in client.txt2img("a lake", init_image=SMALL, **ABOUT)]

    assert asyncio.run(draw()) == [0]


def test_a_slow_upload_holds_up_nobody(farm):
    farm.join("gpu1")
    big = farm.wish(1, "big.png", "-i", put(farm, BIG))
    quick: list[Process] = []

    def draws() -> None:
        quick.extend(farm.draw(
            "-m", "tiny", "-p", "a house", "-W", "64", "-H", "64", "-o",
            str(farm.folder / f"quick{n}.png"), "--json",
        ) for n in range(3))  # fmt: skip

    thread = threading.Thread(target=draws)
    thread.start()
    thread.join()
    assert [client.popen.returncode for client in quick] == [0, 0, 0]
    assert big.ends() == 0, big.errors
