"""Previews through a real manager, worker and client, of pictures that the real engine draws."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

from sdistrib.protocol.engine import PreviewWanted, PreviewWish
from sdistrib_client import Client, Preview
from sdistrib_worker.supervisor import EngineChild, Glimpse, Picture
from tests.support.cluster import cluster
from tests.support.engines import receive_until, request, running

pytestmark = [pytest.mark.engine, pytest.mark.process, pytest.mark.timeout(300)]

DRAW = ("-m", "tiny", "-p", "a red house", "-W", "128", "-H", "96", "--steps", "6", "-s", "5")
TAE = {"files": {"taesd": "taesd/tiny-taesd.safetensors"}, "taesd": "tiny-taesd"}


def look(
    child: EngineChild, models: Path, wish: PreviewWish | None, **wishes: Any
) -> tuple[bytes, dict[int, bytes]]:
    """Draw with previews, each taken at once: the picture's pixels, and each shown step's."""
    child.send(replace(request(models, width=64, height=48, steps=6, **wishes), preview=wish))
    shown: dict[int, bytes] = {}
    while True:
        for event in receive_until(child, lambda one: isinstance(one, Glimpse | Picture)):
            if isinstance(event, Glimpse):
                frame = event.previewed
                assert wish is not None
                assert frame.noisy is wish.noisy
                eighth = 8 if wish.mode == "proj" else 1
                assert (frame.width, frame.height) == (64 // eighth, 48 // eighth)
                shown[frame.step] = event.pixels()
                child.send(PreviewWanted())
            elif isinstance(event, Picture):
                return event.pixels(), shown


def test_no_mode_changes_a_pixel_and_the_interval_is_kept(models_dir):
    with running() as child:
        plain, nothing = look(child, models_dir, None)
        assert nothing == {}
        for wish in (
            PreviewWish("proj"), PreviewWish("vae", 2), PreviewWish("tae", 3),
            PreviewWish("vae", 3, True), PreviewWish("proj", 1, True),
        ):  # fmt: skip
            pixels, shown = look(child, models_dir, wish)
            assert pixels == plain, wish
            assert shown, wish
            assert {step % wish.interval for step in shown} == {0}, wish
            assert max(shown) <= 6
        # The last step decoded is the picture itself.
        assert look(child, models_dir, PreviewWish("vae", 6))[1] == {6: plain}
        assert look(child, models_dir, None) == (plain, {})


def test_noise_differs_from_what_is_made_of_it(models_dir):
    with running() as child:
        _, clear = look(child, models_dir, PreviewWish("vae", 3))
        _, noisy = look(child, models_dir, PreviewWish("vae", 3, True))
    assert clear[3] != noisy[3]


def test_taesd_for_previews_only_leaves_the_picture_to_the_vae(models_dir):
    with running() as child:
        plain, _ = look(child, models_dir, None)
        fast, _ = look(child, models_dir, None, context="with tae", **TAE)
        pixels, shown = look(
            child, models_dir, PreviewWish("tae", 6), context="only", taesd_preview_only=True, **TAE
        )
    assert pixels == plain
    assert fast != plain
    assert shown[6] not in (plain, b"")


def test_a_sampler_that_looks_twice_and_tiles_show_each_step_once(models_dir):
    with running() as child:
        for wishes in ({"sampling_method": "heun"}, {"vae_tiling": True}):
            plain, _ = look(child, models_dir, None, **wishes)
            pixels, shown = look(child, models_dir, PreviewWish("vae"), **wishes)
            assert pixels == plain, wishes
            assert len(shown) > 1, wishes


def test_a_client_writes_the_preview_and_the_picture_is_what_it_is_without(models_dir, tmp_path):
    with cluster() as farm:
        farm.worker(models_dir, "--threads", "1")
        pictures = {}
        for mode in ("none", "proj", "tae", "vae"):
            path = tmp_path / f"{mode}.jpg" if mode == "vae" else tmp_path / f"{mode}.preview.png"
            client = farm.draw(
                *DRAW, "--preview", mode, "--preview-path", str(path), "--preview-interval", "2",
                "-o", str(tmp_path / f"{mode}.png"), "--json",
            )  # fmt: skip
            assert client.ends() == 0, client.errors
            pictures[mode] = (tmp_path / f"{mode}.png").read_bytes()
            told = [event for event in client.events if event["event"] == "preview"]
            assert path.exists() is bool(told) is (mode != "none")
            assert {event["step"] % 2 for event in told} <= {0}
            if told:
                size = (16, 12) if mode == "proj" else (128, 96)
                with Image.open(path) as shown:
                    shown.load()
                    assert shown.size == size
                    assert shown.format == ("JPEG" if mode == "vae" else "PNG")
                assert (told[-1]["width"], told[-1]["height"]) == size
    pixels = set()
    for mode in pictures:
        with Image.open(tmp_path / f"{mode}.png") as picture:
            pixels.add(hashlib.sha256(picture.tobytes()).digest())
    assert len(pixels) == 1


def test_a_picture_that_is_enlarged_is_shown_while_it_is_sampled(models_dir):
    with cluster() as farm:
        farm.worker(models_dir, "--threads", "1")
        shown: list[Preview] = []
        with Client(farm.clients_at) as client:
            (picture,) = client.txt2img(
                "a house", model="tiny", width=64, height=64, steps=4, upscale_model="tiny-x2",
                preview="proj", on_preview=shown.append,
            )  # fmt: skip
    assert (picture.width, shown[0].width) == (128, 8)
    assert shown[0].image().size == (8, 8)
