"""The maker of tiny models writes the same real files every time, and only those it must."""

import hashlib
import json
import math

import pytest

from tools.tiny_models.__main__ import main
from tools.tiny_models.layers import Layers, bell
from tools.tiny_models.safetensors import encode
from tools.tiny_models.tree import BAD, FOLDERS, GOOD, make_tree

LORA = "lora/tiny-style.safetensors"
TYPE_BYTES = {"F32": 4, "F16": 2, "F8_E4M3": 1}

#: Changes only together with METADATA's revision, and with the figures of tests that pin pixels.
LORA_SHA256 = "572a768901b2431aba9ed68b9ffc93598d67219aa4be0ecffe23f809fa85f046"


def read_header(path):
    """Returns name -> {dtype, shape, data_offsets}, and the number of bytes behind the header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__")["maker"] == "sdistrib tools.tiny_models"
    return header, len(data) - 8 - length


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_bytes_are_the_same_everywhere(tmp_path):
    make_tree(tmp_path, only=[LORA])

    assert sha256(tmp_path / LORA) == LORA_SHA256


def test_values_are_centred_and_as_wide_as_asked():
    values = bell("any key", (100, 100), 2.0)

    assert abs(values.mean()) < 0.1
    assert values.std() == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("name", [LORA, "esrgan/tiny-x2.safetensors", "clip/abort.safetensors"])
def test_offsets_follow_one_another_and_fill_the_file(tmp_path, name):
    make_tree(tmp_path, only=[name])

    tensors, data_bytes = read_header(tmp_path / name)
    end = 0
    for tensor in tensors.values():
        start, stop = tensor["data_offsets"]
        assert start == end
        assert stop - start == math.prod(tensor["shape"]) * TYPE_BYTES[tensor["dtype"]]
        end = stop
    assert end == data_bytes


def test_a_prefix_renames_a_tensor_and_keeps_its_values():
    plain, prefixed = Layers(1), Layers(1, "model.")
    for layers in (plain, prefixed):
        layers.linear("proj", 4, 4)

    assert list(prefixed.tensors) == ["model.proj.weight", "model.proj.bias"]
    for name, tensor in plain.tensors.items():
        assert (tensor.values() == prefixed.tensors["model." + name].values()).all()


def test_another_seed_gives_other_values():
    one, two = Layers(1), Layers(2)
    for layers in (one, two):
        layers.linear("proj", 4, 4)

    assert (one.tensors["proj.weight"].values() != two.tensors["proj.weight"].values()).any()


def test_shared_matrices_start_at_one_offset_behind_the_rest(tmp_path):
    layers = Layers(1, shared=True)
    layers.linear("wide", 8, 16)
    layers.linear("narrow", 4, 4)
    encode(layers.tensors).write(tmp_path / "shared.safetensors")

    tensors, data_bytes = read_header(tmp_path / "shared.safetensors")
    assert {name: tensor["data_offsets"] for name, tensor in tensors.items()} == {
        "wide.bias": [0, 32],
        "narrow.bias": [32, 48],
        "wide.weight": [48, 48 + 256],
        "narrow.weight": [48, 48 + 32],
    }
    assert data_bytes == 48 + 256


def test_a_second_run_writes_nothing_unless_forced(tmp_path):
    path = tmp_path / LORA

    assert make_tree(tmp_path, only=[LORA]) == [path]
    assert make_tree(tmp_path, only=[LORA]) == []
    assert make_tree(tmp_path, only=[LORA], force=True) == [path]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\0" + data[1:]])
def test_a_file_of_another_size_or_header_is_written_again(tmp_path, damage):
    path = tmp_path / LORA
    make_tree(tmp_path, only=[LORA])
    path.write_bytes(damage(path.read_bytes()))

    assert make_tree(tmp_path, only=[LORA]) == [path]
    assert sha256(path) == LORA_SHA256


def test_every_folder_is_there_and_no_scratch_file_stays(tmp_path):
    make_tree(tmp_path, only=[LORA])

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FOLDERS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / LORA]


def test_the_bad_files_are_bad_in_their_own_ways(tmp_path):
    make_tree(tmp_path, only=BAD)

    checkpoints = tmp_path / "stable-diffusion"
    assert (checkpoints / "empty.safetensors").read_bytes() == b""
    corrupt = (checkpoints / "corrupt.safetensors").read_bytes()
    assert int.from_bytes(corrupt[:8], "little") > len(corrupt)
    tensors, data_bytes = read_header(checkpoints / "truncated.safetensors")
    assert max(tensor["data_offsets"][1] for tensor in tensors.values()) > data_bytes
    tensors, _ = read_header(checkpoints / "wrong-architecture.safetensors")
    assert not any("diffusion" in name for name in tensors)
    tensors, _ = read_header(tmp_path / "diffusion/tiny-flux.safetensors")
    assert tensors["txt_in.weight"]["shape"] == [128, 4096]


def test_only_the_good_files_are_made_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tools.tiny_models.safetensors.Blob.write", lambda _blob, path: path.touch()
    )

    assert make_tree(tmp_path) == [tmp_path / name for name in GOOD]
    assert make_tree(tmp_path / "b", bad=True) == [tmp_path / "b" / n for n in (*GOOD, *BAD)]


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no tiny model named x\.gguf; there are .*tiny-x2"):
        make_tree(tmp_path, only=["x.gguf"])


def test_the_command_lists_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tiny_models", str(tmp_path), "--only", LORA])

    main()
    assert capsys.readouterr().out.split() == ["15,412", str(tmp_path / LORA)]
    main()
    assert capsys.readouterr().out == f"{tmp_path}: nothing to do\n"
