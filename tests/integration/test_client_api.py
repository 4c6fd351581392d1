"""`Client` and `AsyncClient` against a manager that does what the test says, in one process."""

import asyncio
import gc
import select
import threading
from pathlib import Path

import pytest

from sdistrib import limits
from sdistrib.errors import ConfigError, ErrorInfo
from sdistrib.protocol import messages as wire
from sdistrib_client import (
    AsyncClient,
    Client,
    PetitionError,
    PicturesFailedError,
    Unreachable,
    compose,
    session,
)
from tests.support.scripted_manager import ScriptedManager, png

WORKER = wire.WorkerFacts(
    name="gpu1",
    state="idle",
    engine=wire.EngineFacts(version="0.4.7", backend="cpu", device="CPU", fingerprint="f" * 16),
)


def answer(manager: ScriptedManager, route: bytes, ask: wire.Ask, _body: bytes) -> None:
    file = wire.ModelFile(kind="vae", name="v.safetensors", size_bytes=5)
    manager.say(
        route,
        wire.Answer(
            number=ask.number,
            models=(wire.FoundModel(file, ("gpu1",)),),
            workers=(WORKER,),
            queue=(),
            software="scripted",
            waiting_images=3,
        ),
    )


def refuse(manager: ScriptedManager, route: bytes, submit: wire.Submit, _body: bytes) -> None:
    error = ErrorInfo(code="model_not_found", message="No worker has it.", closest=("tiny",))
    manager.say(route, wire.Refused(id=submit.id, error=error))


def accept_only(manager: ScriptedManager, route: bytes, submit: wire.Submit, body: bytes) -> None:
    manager.accept(route, submit.id, body)


def test_pictures_come_with_their_seeds_and_origin_and_are_acknowledged(tmp_path):
    seen = []
    with ScriptedManager() as manager, Client(manager.host) as client:
        drawing = client.txt2img(
            "a house",
            model="m",
            images=3,
            seed=7,
            steps=4,
            sampling_method="DPM++ 2M Karras",
            on_progress=seen.append,
        )
        pictures = {picture.index: picture for picture in drawing}
        assert list(drawing) == []
        assert drawing.ending.outcome == "done"
        assert drawing.seed == 7
        assert {(m.id, m.index) for m in manager.of(wire.ResultSeen)} == {
            (drawing.id, index) for index in range(3)
        }
    petition = manager.petitions[drawing.id]
    assert (petition.params.steps, petition.images) == (4, 3)
    assert (petition.params.sampling_method, petition.params.scheduler) == ("dpm++2m", "karras")
    assert [progress.running[0].step for progress in seen] == [3]
    for index in range(3):
        picture = pictures[index]
        assert picture.seed == 7 + index
        assert picture.data == png(7 + index)
        assert picture.image().size == (8, 8)
        assert picture.metadata["parameters"].startswith("a picture\nSteps: 1, Seed: ")
        assert picture.timings == (1.0, 2.0, 0.25)
        assert picture.notes == ("the size was rounded up",)
        assert (picture.worker, picture.fingerprint) == ("gpu1", "0123456789abcdef")
    pictures[0].save(tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == png(7)
    pictures[1].save(str(tmp_path / "b.png"))
    assert "data" not in repr(pictures[0])


def test_a_big_picture_comes_in_pieces():
    with ScriptedManager() as manager, Client(manager.host) as client:
        manager.size_bytes = 5 * limits.MIB
        (picture,) = client.txt2img("a house", model="m", seed=1)
        assert picture.data == png(1, 5 * limits.MIB)
        assert len(manager.of(wire.ChunkSeen)) == 6


def test_a_picture_is_safe_only_when_the_next_one_is_asked_for():
    with ScriptedManager() as manager, Client(manager.host) as client:
        drawing = client.txt2img("a house", model="m", images=2)
        next(drawing)
        assert manager.of(wire.ResultSeen) == []
        next(drawing)
        assert len(manager.wait_for(wire.ResultSeen)) == 1
        drawing.close()


def test_two_petitions_on_one_client_do_not_mix():
    with ScriptedManager() as manager, Client(manager.host) as client:
        one = client.txt2img("a", model="m", images=2, seed=10)
        two = client.txt2img("b", model="m", images=2, seed=20)
        assert sorted(p.seed for p in two) == [20, 21]
        assert sorted(p.seed for p in one) == [10, 11]


def test_a_random_seed_is_drawn_from_all_and_reported():
    petitions = [compose({"prompt": "p", "model": "m"}, seed=-1) for _ in range(50)]
    assert len({petition.seed for petition in petitions}) == 50
    assert max(petition.seed for petition in petitions) > limits.SEED_MAX // 2
    assert (
        compose({"prompt": "p", "model": "m"}).seed != compose({"prompt": "p", "model": "m"}).seed
    )


def test_a_refusal_is_a_typed_error_with_closest_names():
    with ScriptedManager({wire.Submit: refuse}) as manager, Client(manager.host) as client:
        drawing = client.txt2img("a house", model="x")
        with pytest.raises(PetitionError) as caught:
            next(drawing)
        assert caught.value.code == "model_not_found"
        assert caught.value.info.closest == ("tiny",)
        assert list(drawing) == []


def test_failed_pictures_are_listed_and_the_others_delivered():
    error = ErrorInfo(code="engine_crashed", message="died", worker="gpu1", signal="SIGSEGV")

    def some(manager: ScriptedManager, route: bytes, submit: wire.Submit, body: bytes) -> None:
        manager.accept(route, submit.id, body)
        manager.send_picture(route, submit.id, 0)
        finished = wire.Finished(
            id=submit.id, state="failed", done=(0,), failures=(wire.ImageFailure(1, error),)
        )
        manager.answers[wire.ResultSeen] = lambda m, r, _msg, _body: m.say(r, finished)

    with ScriptedManager({wire.Submit: some}) as manager, Client(manager.host) as client:
        drawing = client.txt2img("a house", model="m", images=2)
        assert next(drawing).index == 0
        with pytest.raises(PicturesFailedError) as caught:
            next(drawing)
    assert caught.value.code == "engine_crashed"
    assert caught.value.done == (0,)
    assert [failure.index for failure in caught.value.failures] == [1]


def test_nobody_there_is_unreachable():
    with Client("127.0.0.1:1", connect_timeout_s=0.2) as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 "):
            next(client.txt2img("a house", model="m"))
        with pytest.raises(Unreachable):
            client.workers()


def test_another_machine_is_not_dialled_unprotected():
    with pytest.raises(PetitionError, match="--insecure-lan") as caught:
        Client("192.0.2.1")
    assert caught.value.code == "unauthorized"
    with (
        Client("192.0.2.1", insecure_lan=True, connect_timeout_s=0.1) as client,
        pytest.raises(Unreachable),
    ):
        client.status()
    with pytest.raises(ConfigError):
        Client("http://nonsense/")
    # `localhost` may be ::1, where no manager listens by default.
    assert str(session.dial_address("localhost", insecure_lan=False)) == "127.0.0.1:4133"


def test_wrong_parameters_are_found_before_anything_is_sent():
    with ScriptedManager() as manager, Client(manager.host) as client:
        for wrong, field in (
            ({"width": 100}, "width"),
            ({"steps": 0}, "steps"),
            ({"cfg_scale": float("nan")}, "cfg_scale"),
            ({"stepz": 3}, "stepz"),
            ({"sampling_method": "magic"}, "sampling_method"),
            ({"sampling_method": 3}, "sampling_method"),
            ({"scheduler": "beta"}, "scheduler"),
            ({"images": 0}, "images"),
            ({"seed": 2**63}, "seed"),
            ({"timeout_s": -1.0}, "timeout_s"),
            ({"sigmas": ["x"]}, "sigmas"),
            ({"prompt": "<lora::1>"}, "prompt"),
        ):
            with pytest.raises(PetitionError) as caught:
                client.txt2img(**{"prompt": "a house", "model": "m", **wrong})
            assert (caught.value.code, caught.value.info.field) == ("invalid_params", field)
        assert manager.heard == []


def test_leaving_the_loop_early_cancels():
    with ScriptedManager({wire.Submit: accept_only}) as manager:
        with Client(manager.host) as client:
            drawing = client.txt2img("a house", model="m", images=2)
            manager.answers[wire.Ask] = answer
            client.status()
            petition_id = drawing.id
            del drawing
            gc.collect()
            client.status()
            assert [m.id for m in manager.wait_for(wire.Cancel)] == [petition_id]
        manager.wait_for(wire.Goodbye)


def test_closing_the_client_cancels_what_is_under_way_and_says_goodbye():
    with ScriptedManager({wire.Submit: accept_only, wire.Ask: answer}) as manager:
        with Client(manager.host) as client:
            drawing = client.txt2img("a house", model="m")
            client.status()
        assert drawing.ending.outcome == "cancelled"
        assert drawing.ending.confirmed
        manager.wait_for(wire.Goodbye)
        client.close()


def test_a_drawing_as_a_block_is_cancelled_at_its_end():
    answers = {wire.Submit: accept_only, wire.Ask: answer}
    with ScriptedManager(answers) as manager, Client(manager.host) as client:
        with client.txt2img("a house", model="m") as drawing:
            client.status()
        assert drawing.ending.confirmed
        assert list(drawing) == []


def test_cancel_from_another_thread_ends_the_iteration():
    with ScriptedManager({wire.Submit: accept_only}) as manager, Client(manager.host) as client:
        drawing = client.txt2img("a house", model="m")

        def later() -> None:
            manager.wait_for(wire.Submit)
            drawing.cancel()

        thread = threading.Thread(target=later)
        thread.start()
        with pytest.raises(PetitionError) as caught:
            next(drawing)
        thread.join()
        assert caught.value.code == "cancelled"


def test_a_cancel_from_elsewhere_wakes_the_loop():
    with ScriptedManager({wire.Submit: accept_only}) as manager, Client(manager.host) as client:
        drawing = client.txt2img("a house", model="m")
        bell = client._bell.fd
        assert not select.select([bell], [], [], 0)[0]
        for _ in range(100_000):
            drawing.cancel()
        assert select.select([bell], [], [], 0)[0]
        with pytest.raises(PetitionError):
            next(drawing)
        assert not select.select([bell], [], [], 0)[0]


def test_what_cannot_be_sent_is_known_at_once(monkeypatch):
    """Not only when a hello stays without a welcome for a whole beat."""
    with Client("127.0.0.1:1") as client:
        monkeypatch.setattr(client._session.dealer, "send", lambda _frames: "full")
        client._session.ask("status")
        client._session.turn()
        assert client._session.wait_s() < limits.BEAT_S / 2


def test_a_petition_of_another_process_is_cancelled_by_id():
    with ScriptedManager() as manager, Client(manager.host) as client:
        assert client.cancel("ab" * 16)
        assert [m.id for m in manager.of(wire.Cancel)] == ["ab" * 16]


def test_an_own_petition_is_cancelled_by_id():
    answers = {wire.Submit: accept_only, wire.Ask: answer}
    with ScriptedManager(answers) as manager, Client(manager.host) as client:
        drawing = client.txt2img("a house", model="m")
        client.status()
        assert client.cancel(drawing.id)


def test_two_threads_on_one_client_are_told():
    with ScriptedManager({wire.Submit: accept_only}) as manager, Client(manager.host) as client:
        drawing = client.txt2img("a house", model="m")
        caught: list[BaseException] = []

        def draw() -> None:
            try:
                next(drawing)
            except PetitionError as error:
                caught.append(error)

        thread = threading.Thread(target=draw)
        thread.start()
        manager.wait_for(wire.Submit)
        with pytest.raises(RuntimeError, match="one thread at a time"):
            client.status()
        drawing.cancel()
        thread.join()
        assert len(caught) == 1


def test_a_drawing_dropped_while_another_thread_draws_is_cancelled():
    answers = {wire.Submit: accept_only}
    with ScriptedManager(answers) as manager, Client(manager.host) as client:
        kept = client.txt2img("a house", model="m")
        dropped = client.txt2img("a tree", model="m")
        caught: list[BaseException] = []

        def draw() -> None:
            try:
                next(kept)
            except PetitionError as error:
                caught.append(error)

        thread = threading.Thread(target=draw)
        thread.start()
        manager.wait_for(wire.Submit, 2)
        dropped_id = dropped.id
        del dropped
        gc.collect()
        assert [m.id for m in manager.wait_for(wire.Cancel)] == [dropped_id]
        kept.cancel()
        thread.join()
        assert len(caught) == 1


def test_lists():
    with ScriptedManager({wire.Ask: answer}) as manager, Client(manager.host) as client:
        assert [model.file.name for model in client.models()] == ["v.safetensors"]
        assert client.models("lora") == ()
        assert client.workers() == (WORKER,)
        assert client.queue() == ()
        assert client.status().waiting_images == 3


def test_a_fault_ends_questions_too():
    def fault(manager: ScriptedManager, route: bytes, _message: wire.Ask, _body: bytes) -> None:
        error = ErrorInfo(code="protocol_error", message="never heard of it")
        manager.say(route, wire.Fault(error=error))

    with (
        ScriptedManager({wire.Ask: fault}) as manager,
        Client(manager.host) as client,
        pytest.raises(PetitionError, match="never heard of it"),
    ):
        client.status()


def test_pillow_is_asked_for_by_name_when_missing(monkeypatch):
    with ScriptedManager() as manager, Client(manager.host) as client:
        (picture,) = client.txt2img("a house", model="m")
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ConfigError, match=r"pip install 'sdistrib\[client\]'"):
        picture.image()


# --- asyncio --------------------------------------------------------------------------------


def test_async_pictures_of_many_petitions_at_once():
    async def draw(client: AsyncClient, seed: int) -> list[int]:
        seen = []
        drawing = client.txt2img("a house", model="m", images=3, seed=seed, on_progress=seen.append)
        seeds = [picture.seed async for picture in drawing]
        assert [progress.images for progress in seen] == [3]
        assert drawing.ending.outcome == "done"
        assert [picture async for picture in drawing] == []
        assert manager.petitions[drawing.id].seed == drawing.seed
        return sorted(seeds)

    async def main() -> None:
        async with AsyncClient(manager.host) as client:
            manager.size_bytes = 2 * limits.MIB
            seeds = await asyncio.gather(*(draw(client, 10 * i) for i in range(5)))
            assert seeds == [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(5)]

    with ScriptedManager() as manager:
        asyncio.run(main())
        manager.wait_for(wire.Goodbye)
        assert len(manager.of(wire.ResultSeen)) == 15


def test_async_errors_lists_and_cancels():
    async def main() -> None:
        async with AsyncClient(manager.host) as client:
            assert [m.file.kind for m in await client.models()] == ["vae"]
            assert await client.models("lora") == ()
            assert await client.workers() == (WORKER,)
            assert await client.queue() == ()
            assert (await client.status()).software == "scripted"
            drawing = client.txt2img("a house", model="m")
            await client.status()
            assert await drawing.cancel()
            with pytest.raises(PetitionError) as caught:
                await anext(drawing)
            assert caught.value.code == "cancelled"
            assert not await drawing.cancel()
            assert await client.cancel("cd" * 16)
            async with client.txt2img("a house", model="m") as drawing:
                await client.status()
            assert drawing.ending.confirmed
            client.txt2img("left behind", model="m")
            gc.collect()
            await client.status()
            assert len(manager.of(wire.Cancel)) == 4
            under_way = client.txt2img("a house", model="m")
            await client.status()
        assert under_way.ending.confirmed

    with ScriptedManager({wire.Submit: accept_only, wire.Ask: answer}) as manager:
        asyncio.run(main())


def test_async_connection_lives_while_the_caller_works():
    """No turn of the caller's is needed for a beat."""

    async def main() -> None:
        async with AsyncClient(manager.host) as client:
            await client.status()
            count = len(manager.of(wire.Beat))
            await asyncio.to_thread(manager.wait_for, wire.Beat, count + 2)

    with ScriptedManager({wire.Ask: answer}) as manager:
        asyncio.run(main())


def test_async_a_dead_background_task_is_an_error_and_no_hang(monkeypatch):
    async def main() -> None:
        async with AsyncClient(manager.host) as client:
            await client.status()

            def broken() -> None:
                raise ZeroDivisionError

            monkeypatch.setattr(client._session, "turn", broken)
            with pytest.raises(ZeroDivisionError):
                await client.status()

    with ScriptedManager({wire.Ask: answer}) as manager, pytest.raises(ZeroDivisionError):
        asyncio.run(main())


def test_async_nobody_there_is_unreachable():
    async def main() -> None:
        async with AsyncClient("127.0.0.1:1", connect_timeout_s=0.2) as client:
            with pytest.raises(Unreachable):
                await anext(client.txt2img("a house", model="m"))

    asyncio.run(main())


def test_the_example_of_the_docstring_is_true(tmp_path: Path):
    with ScriptedManager() as manager, Client(manager.host) as client:
        for picture in client.txt2img("a house on the beach", model="v2", images=4):
            picture.save(tmp_path / f"house_{picture.index}.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"house_{index}.png" for index in range(4)
    ]
