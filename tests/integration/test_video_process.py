"""Videos through real processes: drawn on the scripted engine, refused by a model of pictures."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from PIL import Image

from sdistrib.errors import ERROR_TABLE
from sdistrib.infotext import parse_chunk
from sdistrib.testing.scripted_engine import picture
from sdistrib_client import Client
from sdistrib_client.reading import texts_of
from tests.support.cluster import cluster
from tests.support.scripted_farm import Farm, drawn

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

FILM = ("-M", "vid_gen", "--video-frames", "5", "--fps", "8")
PROMPT = "a lighthouse"


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    made.join("gpu1")
    yield made
    made.close()


def expected(seed: int) -> list[bytes]:
    """What the scripted engine draws."""
    return [picture(f"{PROMPT}{n or ''}", seed, 64, 64) for n in range(5)]


def frames_of(data: bytes) -> list[bytes]:
    with Image.open(io.BytesIO(data)) as film:
        found = []
        for number in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(number)
            found.append(film.convert("RGB").tobytes())
        return found


def test_a_video_is_drawn_and_kept_and_fetched_in_any_form(farm):
    client = farm.wish(2, "clip.webp", *FILM)
    assert client.ends() == 0, client.errors
    assert sorted(drawn(client)) == [0, 1]
    for index in range(2):
        data = (farm.folder / f"clip_{index}.webp").read_bytes()
        assert frames_of(data) == expected(index)
        made = parse_chunk(texts_of(data, "clip")["sdistrib"])
        assert (made.params.mode, made.params.video_frames, made.seed) == ("vid_gen", 5, index)
    shown = [row for row in client.events if row["event"] == "image"]
    assert {(row["width"], row["height"]) for row in shown} == {(64, 64)}

    petition = shown[0]["id"]
    farm.does("fetch", petition[:8], "-o", str(farm.folder / "late.webp"))
    farm.does("fetch", petition, "-o", str(farm.folder / "late.avi"))
    farm.does("fetch", petition, "-o", str(farm.folder / "late.png"))
    for index in range(2):
        late = (farm.folder / f"late_{index}.webp").read_bytes()
        assert late == (farm.folder / f"clip_{index}.webp").read_bytes()
        with av.open(farm.folder / f"late_{index}.avi") as film:
            assert len(list(film.decode(video=0))) == 5
            assert film.streams.video[0].average_rate == 8
        for number, frame in enumerate(expected(index)):
            with Image.open(farm.folder / f"late_{index}_{number:03d}.png") as image:
                assert image.tobytes() == frame


def test_frames_are_numbered_as_o_says_and_a_video_is_drawn_again(farm):
    client = farm.wish(1, "f_%03d.png", *FILM)
    assert client.ends() == 0, client.errors
    for number, frame in enumerate(expected(0)):
        with Image.open(farm.folder / f"f_{number:03d}.png") as image:
            assert image.tobytes() == frame

    clip, again = str(farm.folder / "clip.webp"), farm.folder / "again.webp"
    first = farm.wish(1, "clip.webp", *FILM, "--upscale-repeats", "2")
    assert first.ends() == 0, first.errors
    second = farm.draw("--from", clip, "-o", str(again))
    assert second.popen.returncode == 0, second.errors
    assert "The new pixels are the same." in second.errors
    # To the byte, metadata and all: the worker, and what it was asked for, are the same.
    assert again.read_bytes() == Path(clip).read_bytes()


def test_python_gets_a_video_as_it_travels(farm):
    with Client(farm.clients_at) as client:
        (one,) = client.txt2img(
            PROMPT, model="tiny", mode="vid_gen", video_frames=5, width=64, height=64, seed=3
        )
    assert one.format == "webp"
    assert one.sha256 == hashlib.sha256(one.data).hexdigest()
    assert frames_of(one.data) == expected(3)


@pytest.mark.engine
def test_a_model_of_pictures_is_refused_through_the_whole_farm(models_dir, tmp_path):
    with cluster() as running:
        worker = running.worker(models_dir)
        # A video needs the encoder, which the tiny VAE has not.
        words = ("-m", "tiny", "--taesd", "tiny-taesd", "-p", PROMPT, "-W", "64", "-H", "64")
        out = tmp_path / "clip.webp"
        refused = running.draw(*words, *FILM, "-o", str(out))
        assert refused.popen.returncode == ERROR_TABLE["unsupported"].exit_status
        assert "This model makes pictures, not videos; leave out -M vid_gen." in refused.errors
        assert "[unsupported]" in refused.errors
        assert list(tmp_path.iterdir()) == []
        # Neither the worker nor its engine came to harm.
        fine = running.draw(*words, "--steps", "1", "-o", str(tmp_path / "a.png"))
        assert fine.popen.returncode == 0, fine.errors
        assert "ended by" not in worker.errors
