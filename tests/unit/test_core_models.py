"""A name finds a file by every spelling that a user may choose, and nothing else ever."""

import pytest

from sdistrib import limits
from sdistrib.errors import PetitionError
from sdistrib.models import (
    EXTENSIONS,
    FOLDERS,
    Catalogue,
    ModelFile,
    Wanted,
    closest_names,
    hires_model,
    name_fits,
    not_found,
    resolve_all,
    wanted_files,
)
from sdistrib.params import HIRES_UPSCALERS, Params

DIGEST = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"


def model(name: str, digest: str = "", kind: str = "stable-diffusion") -> ModelFile:
    return ModelFile(kind, name, 1, digest)  # type: ignore[arg-type]


TREE = Catalogue(
    [
        model("SDXL/Dream Shaper.v7.safetensors", DIGEST),
        model("v1-5.ckpt"),
        model("one/twin.gguf"),
        model("two/twin.gguf"),
        model("Case.safetensors"),
        model("case.safetensors"),
        model("soft.safetensors", kind="vae"),
        model("passwd.d/notes.safetensors"),
    ]
)


@pytest.mark.parametrize(
    "wanted",
    [
        "SDXL/Dream Shaper.v7.safetensors",
        "sdxl/dream shaper.V7.SAFETENSORS",
        "SDXL\\Dream Shaper.v7.safetensors",
        "SDXL/Dream Shaper.v7",
        "sdxl\\dream shaper.v7",
        "Dream Shaper.v7.safetensors",
        "dream shaper.v7",
        "  Dream Shaper.v7 ",
        "Dream Shaper.v7 [6ce0161689]",
        "SDXL/Dream Shaper.v7.safetensors [6CE01616]",
        f"dream shaper.v7[{DIGEST}]",
    ],
)
def test_every_spelling_finds_the_file(wanted):
    found = TREE.find("stable-diffusion", wanted)
    assert found is not None
    assert found.name == "SDXL/Dream Shaper.v7.safetensors"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_extension_that_the_engine_reads_may_be_left_out(extension):
    tree = Catalogue([model("sub/a.b" + extension)])
    for wanted in ("a.b", "sub/a.b", "A.B" + extension.upper()):
        assert tree.find("stable-diffusion", wanted) is not None


def test_a_name_of_two_files_is_found_only_when_it_says_which():
    assert TREE.find("stable-diffusion", "twin") is None
    assert TREE.find("stable-diffusion", "twin.gguf") is None
    for name in ("one/twin.gguf", "TWO/twin", "one\\twin"):
        assert TREE.find("stable-diffusion", name) is not None


def test_of_two_names_that_differ_in_case_only_the_exact_one_is_meant():
    for name in ("Case.safetensors", "case.safetensors"):
        found = TREE.find("stable-diffusion", name)
        assert found is not None
        assert found.name == name
    assert TREE.find("stable-diffusion", "CASE.safetensors") is None
    assert TREE.find("stable-diffusion", "case") is None


def test_a_hash_must_fit_unless_the_digest_is_not_known_yet():
    assert TREE.find("stable-diffusion", "dream shaper.v7 [deadbeef]") is None
    assert TREE.find("stable-diffusion", "v1-5 [deadbeef]") is not None
    pair = Catalogue([model("M.ckpt", "a" * 64), model("m.ckpt", "b" * 64)])
    assert pair.find("stable-diffusion", "m.ckpt [aaaaaaaa]") is None
    assert pair.find("stable-diffusion", "m.ckpt [bbbbbbbb]") is not None


def test_a_file_is_found_for_its_kind_only():
    assert TREE.find("vae", "soft") is not None
    assert TREE.find("stable-diffusion", "soft") is None
    assert TREE.find("vae", "v1-5") is None


HOSTILE = [
    "../../etc/passwd",
    "..\\..\\etc\\passwd",
    "/etc/passwd",
    "//etc/passwd",
    "\\\\server\\share\\passwd",
    "C:\\Windows\\win.ini",
    "C:passwd",
    "file:///etc/passwd",
    "~/passwd",
    "$HOME/passwd",
    "%2e%2e%2fpasswd",
    "..%c0%afpasswd",
    "....//passwd",
    "./",
    ".",
    "..",
    "",
    " ",
    "/",
    "\\",
    "\0",
    "passwd\0.safetensors",
    "passwd\n",
    "passwd\r\n",
    "\x1b[2J",
    "a" * 100_000,
    "*",
    "*.safetensors",
    "[6ce0161689]",
    "SDXL/",
    "passwd.d",
    "v1-5.ckpt/..",
    "v1-5.ckpt\0",
    "v1-5.ckpt.",
    "\u202egpkc.5-1v",
    "v1\uff0d5.ckpt",
    "CON",
    "/proc/self/environ",
    "'; drop table models; --",
]


@pytest.mark.parametrize("wanted", HOSTILE, ids=lambda name: ascii(name)[:30])
def test_hostile_names_are_never_found(wanted):
    for kind in ("stable-diffusion", "vae", "lora"):
        assert TREE.find(kind, wanted) is None  # type: ignore[arg-type]


def test_what_is_found_is_a_file_of_the_catalogue_whatever_stood_around_its_name():
    for wanted in ("../../v1-5.ckpt", "/srv/models/v1-5.ckpt", "D:\\sd\\v1-5", "x/y/v1-5"):
        assert TREE.find("stable-diffusion", wanted) in TREE.files


def test_missing_and_resolved_are_each_others_rest():
    wanted = (Wanted("model", "stable-diffusion", "v1-5"), Wanted("vae", "vae", "hard"))
    assert TREE.missing(wanted) == [wanted[1]]
    assert {want: file.name for want, file in resolve_all(TREE, wanted).items()} == {
        wanted[0]: "v1-5.ckpt"
    }


def test_a_petition_wants_its_fields_its_loras_and_its_upscaler():
    params = Params(
        prompt="a <lora:style:0.5>", model="m", clip_l="c", hires=True, hires_upscaler="4x"
    )
    assert wanted_files(params) == (
        Wanted("model", "stable-diffusion", "m"),
        Wanted("clip_l", "clip", "c"),
        Wanted("prompt", "lora", "style"),
        Wanted("hires_upscaler", "esrgan", "4x"),
    )


@pytest.mark.parametrize("name", [*HIRES_UPSCALERS, "lanczos"])
def test_built_in_upscalers_are_no_files(name):
    params = Params(prompt="a", hires=True, hires_upscaler=name)
    assert hires_model(params) == ""
    assert wanted_files(params) == ()


def test_malformed_lora_tags_are_an_error_of_the_prompt():
    with pytest.raises(PetitionError) as caught:
        wanted_files(Params(prompt="<lora::1>"))
    assert caught.value.info.field == "prompt"


def test_the_closest_names_come_best_first_and_no_more_than_three():
    names = [f"dreamshaper_{i}.safetensors" for i in range(9)] + ["v1-5.ckpt"]
    assert closest_names("dreamshapr_3", names)[0] == "dreamshaper_3.safetensors"
    assert len(closest_names("dreamshapr_3", names)) == 3
    assert closest_names("V1-5.safetensors [6ce01616]", names) == ["v1-5.ckpt"]
    assert closest_names("zzz", names) == []


@pytest.mark.parametrize(("kind", "code"), [("lora", "lora_not_found"), ("vae", "model_not_found")])
def test_a_file_that_nobody_has_is_told_with_field_and_closest_names(kind, code):
    trees = [Catalogue([model("soft.safetensors", kind=kind)])]
    error = not_found(Wanted("prompt", kind, "sfot"), trees)
    assert (error.code, error.field, error.closest) == (code, "prompt", ("soft.safetensors",))
    assert "1 file of that kind" in error.message


def test_folders_serve_known_kinds_in_lower_case():
    kinds = {kind for served in FOLDERS.values() for kind in served}
    assert kinds >= {"stable-diffusion", "vae", "lora", "esrgan", "controlnet", "embeddings"}
    assert all(name == name.lower() for name in FOLDERS)


def test_a_long_unknown_name_makes_no_long_search():
    name = "a" * limits.NAME_CHARS_MAX
    assert TREE.find("stable-diffusion", name) is None
    assert len(not_found(Wanted("model", "stable-diffusion", name), [TREE]).message) < 700


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("", "a.gguf", True),
        ("XL", "sd_xl.safetensors", True),
        ("sdxl", "sd_xl.safetensors", False),
        ("*XL*", "sd_xl.safetensors", True),
        ("*xl", "sd_xl.safetensors", False),
        ("?.gguf", "a.gguf", True),
        ("[a]*", "[a]b.gguf", True),
        ("[a]*", "ab.gguf", False),
    ],
)
def test_names_fit_by_a_part_or_as_a_whole(pattern, name, fits):
    assert name_fits(pattern, name) is fits
