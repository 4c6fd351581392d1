"""The parameter table: its rows, each bound at N and at N + 1, and what no single field can say."""

import math
from typing import Any

import msgspec
import pytest

from sdistrib import limits
from sdistrib.errors import PetitionError
from sdistrib.params import (
    _FILM_FIELDS,
    _NEEDS,
    _STILL_FIELDS,
    _UPSCALE_FIELDS,
    BY_NAME,
    HIRES_UPSCALERS,
    INPUT_FIELDS,
    MODEL_FIELDS,
    PARAMETERS,
    Parameter,
    Params,
    cache_settings,
    check,
    context_params,
    input_digests,
)
from sdistrib.petitions import Petition
from sdistrib.protocol.codec import decode_petition

ENCODER = msgspec.msgpack.Encoder()


def plain(**more: Any) -> dict[str, Any]:
    """A petition as the plain map that another language would send."""
    return {"seed": 1, "params": {"prompt": "a", "model": "m", **more}}


def accept(**more: Any) -> Params:
    """The parameters after a way over the wire."""
    return decode_petition(ENCODER.encode(plain(**more))).params


def refusal(**more: Any) -> PetitionError:
    """The error that these parameters end in."""
    with pytest.raises(PetitionError) as caught:
        accept(**more)
    return caught.value


def test_the_table_has_one_row_per_field_and_says_all_that_the_others_make_from_it():
    assert [row.name for row in PARAMETERS] == [f.name for f in msgspec.structs.fields(Params)]
    spellings = [flag for row in PARAMETERS for flag in row.spec.flags]
    assert len(spellings) == len(set(spellings)), "two parameters share a spelling"
    for row in PARAMETERS:
        assert row.spec.flags[0].startswith("--")
        assert all(f.startswith("--") or len(f) == 2 for f in row.spec.flags)
        assert row.spec.help.endswith(".")
        prefixes = {"load": "ctx.", "draw": ("img.", "vid."), "finish": ""}[row.spec.stage]
        # What is drawn, and from which picture, decides the call itself; fps is about the file.
        assert row.spec.engine.startswith(prefixes) or row.name in ("mode", "canny", "fps")
        assert row.spec.negated == (row.default is True)
    assert BY_NAME["sampling_method"].choices[:2] == ("euler", "euler_a")
    assert BY_NAME["sampling_method"].default is None
    assert MODEL_FIELDS["clip_l"] == "clip"


def _parts() -> list[tuple[str, Any, Any]]:
    """(field, what one value of it is, a maker of the whole value) of all fields."""
    found: list[tuple[str, Any, Any]] = []
    for field in msgspec.inspect.type_info(Params).fields:  # type: ignore[attr-defined]
        for kind in getattr(field.type, "types", (field.type,)):
            found.append((field.name, kind, lambda value: value))
            if isinstance(kind, msgspec.inspect.VarTupleType):
                found.append((field.name, kind.item_type, lambda value: [value]))
            elif isinstance(kind, msgspec.inspect.TupleType):
                found.append((field.name, kind.item_types[0], lambda value: [value, 1]))
                found.append((field.name, kind.item_types[1], lambda value: [1, value]))
    return found


def _numbers() -> list[Any]:
    """Each bound of each number: the field, the last value allowed, and the next one."""
    cases = []
    for name, kind, make in _parts():
        if not isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
            continue
        whole = isinstance(kind, msgspec.inspect.IntType)
        step = (kind.multiple_of or 1) if whole else None
        for bound, sign in ((kind.ge, -1), (kind.le, 1)):
            if bound is not None:
                beyond = bound + sign * step if step else math.nextafter(bound, sign * math.inf)
                cases.append(pytest.param(name, make(bound), make(beyond), id=f"{name} {beyond}"))
        if kind.gt is not None:
            inside = math.nextafter(kind.gt, math.inf)
            cases.append(pytest.param(name, make(inside), make(kind.gt), id=f"{name} {kind.gt}"))
        assert kind.le is not None, f"{name} has no upper bound"
        assert kind.ge is not None or kind.gt is not None, f"{name} has no lower bound"
    return cases


#: Fields that hold several input files.
_LISTED = [row.name for row in PARAMETERS if row.spec.input and row.type is not str]


def _lengths() -> list[Any]:
    cases = []
    for name, kind, _ in _parts():
        if isinstance(kind, msgspec.inspect.StrType | msgspec.inspect.VarTupleType):
            assert kind.max_length is not None, f"{name} has no longest value"
            one: Any = "0" if isinstance(kind, msgspec.inspect.StrType) else [0]
            if BY_NAME[name].spec.input:
                one = "0" if isinstance(kind, msgspec.inspect.StrType) else ["0" * 64]
                if isinstance(kind, msgspec.inspect.StrType) and name in _LISTED:
                    continue  # one of a list has a test of its own
            cases.append(pytest.param(name, one, kind.max_length, id=f"{name} {kind.max_length}"))
    return cases


def _as_wire(name: str, value: Any) -> Any:
    """Types and bounds only, before what no single field can say."""
    decoded = msgspec.msgpack.decode(ENCODER.encode({"prompt": "a", name: value}), type=Params)
    return getattr(decoded, name)


@pytest.mark.parametrize(("name", "last", "beyond"), _numbers())
def test_each_number_is_taken_at_its_bound_and_refused_right_behind_it(name, last, beyond):
    assert _as_wire(name, last) == (tuple(last) if isinstance(last, list) else last)
    error = refusal(**{name: beyond})
    assert error.code == "invalid_params"
    assert error.info.field == name
    assert f"`{name}" in str(error)


@pytest.mark.parametrize(("name", "one", "longest"), _lengths())
def test_each_text_and_list_is_taken_at_its_longest_and_refused_behind_it(name, one, longest):
    if name != "scm_mask":
        assert len(_as_wire(name, one * longest)) == longest
    error = refusal(**{name: one * (longest + 1)})
    assert (error.code, error.info.field) == ("invalid_params", name)


@pytest.mark.parametrize("row", [r for r in PARAMETERS if r.choices], ids=lambda r: r.name)
def test_each_choice_is_taken_and_no_other_word(row: Parameter):
    for word in row.choices:
        assert _as_wire(row.name, word) == word
    for word in ("", row.choices[0] + " ", row.choices[0].upper() + "X"):
        assert refusal(**{row.name: word}).info.field == row.name


@pytest.mark.parametrize("width", [15, 17, 511, 0, -8, 8200])
def test_sizes_that_are_zero_negative_odd_or_absurd_are_refused(width):
    assert refusal(width=width).info.field == "width"


FLOATS = sorted(
    {
        (name, str(make(0.5)))
        for name, kind, make in _parts()
        if isinstance(kind, msgspec.inspect.FloatType)
    }
)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "shape"), FLOATS)
def test_numbers_that_are_none_are_refused_on_the_wire_and_before_it(name, shape, bad):
    value: Any = bad
    if "[" in shape:
        value = [1.0, bad] if "," in shape else [bad]
    assert refusal(**{name: value}).info.field == name
    params = Params(
        prompt="a", model="m", **{name: tuple(value) if isinstance(value, list) else value}
    )
    with pytest.raises(PetitionError) as caught:
        check(params)
    assert (caught.value.code, caught.value.info.field) == ("invalid_params", name)


TEXTS = [row.name for row in PARAMETERS if row.type is str]


@pytest.mark.parametrize("bad", ["a\ud800b", "a\0b"], ids=["surrogate", "NUL"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_that_no_file_or_engine_takes_is_refused(name, bad):
    with pytest.raises(PetitionError) as caught:
        check(Params(**{"prompt": "a", "model": "m", name: bad}))
    assert (caught.value.code, caught.value.info.field) == ("invalid_params", name)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t "])
def test_an_empty_prompt_is_refused(prompt):
    error = refusal(prompt=prompt)
    assert (error.code, error.info.field) == ("invalid_params", "prompt")
    assert "-p" in str(error)


def test_a_prompt_counts_bytes_and_not_only_characters():
    longest = "é" * (limits.PROMPT_BYTES_MAX // 2)
    assert accept(prompt=longest).prompt == longest
    error = refusal(prompt=longest + "a")
    assert (error.code, error.info.field) == ("too_large", "prompt")
    assert refusal(negative_prompt=longest + "a").info.field == "negative_prompt"


def test_a_petition_names_a_model_or_a_diffusion_model():
    assert refusal(model="").info.field == "model"
    assert accept(model="", diffusion_model="d").diffusion_model == "d"


DIGEST = "0123456789abcdef" * 4
#: Fields beside which each other one makes sense.
WHOLE = {
    "init_image": DIGEST, "control_image": DIGEST, "control_net": "c", "photo_maker": "p",
    "pm_id_images": (DIGEST,),
}  # fmt: skip


@pytest.mark.parametrize("bad", ["a" * 63, "a" * 65, "A" * 64, "g" * 64, " ", "a" * 64 + "\n"])
@pytest.mark.parametrize("name", INPUT_FIELDS)
def test_an_input_file_is_a_digest(name, bad):
    assert refusal(**{name: [bad] if name in _LISTED else bad}).info.field == name


@pytest.mark.parametrize("name", _LISTED)
def test_each_of_a_list_of_input_files_is_one(name):
    assert refusal(**{name: [DIGEST, ""]}).info.field == name


def test_pictures_at_n_and_n_plus_1():
    for name in _LISTED:
        most = limits.CONTROL_FRAMES_MAX if name == "control_frames" else limits.REF_IMAGES_MAX
        assert len(_as_wire(name, [DIGEST] * most)) == most
        assert refusal(**{name: [DIGEST] * (most + 1)}).info.field == name


@pytest.mark.parametrize(
    ("field", "needed"), [(field, other) for field, others in _NEEDS.items() for other in others]
)
def test_a_field_that_means_nothing_alone_is_refused_and_says_what_is_missing(field, needed):
    value = WHOLE.get(field, DIGEST if field in INPUT_FIELDS else True)
    check(Params(prompt="a", model="m", **{**WHOLE, field: value}))
    without = {name: one for name, one in WHOLE.items() if name != needed} | {field: value}
    with pytest.raises(PetitionError) as caught:
        check(Params(prompt="a", model="m", **without))
    assert caught.value.code == "invalid_params"
    flags = BY_NAME[caught.value.info.field].spec.flags[0], BY_NAME[needed].spec.flags[0]
    assert caught.value.info.message == f"{flags[0]} means nothing without {flags[1]}."


UPSCALE = {"mode": "upscale", "init_image": DIGEST, "upscale_model": "u"}
#: A value other than the default for fields that do not take just any.
OTHERS = {
    "skip_layers": (1,), "sigmas": (1.0,), "vae_tile_size": (1, 1), "ref_images": (DIGEST,),
    "vae_relative_tile_size": (0.5, 0.5), "pm_id_images": (DIGEST,), "scm_mask": "1",
    "control_frames": (DIGEST,), "high_noise_skip_layers": (1,),
}  # fmt: skip


def _another(row: Parameter) -> Any:
    """Some value that is not the default."""
    if row.name in OTHERS:
        return OTHERS[row.name]
    if row.choices:
        return next(word for word in row.choices if word != row.default)
    if isinstance(row.default, bool):
        return not row.default
    if row.type is str:
        return DIGEST if row.spec.input else "x"
    return 1 if row.default != 1 else 2


def test_upscaling_needs_a_picture_and_an_upscaler_and_nothing_else():
    check(Params(**UPSCALE))  # type: ignore[arg-type]
    for name in ("init_image", "upscale_model"):
        with pytest.raises(PetitionError) as caught:
            check(Params(**{**UPSCALE, name: ""}))  # type: ignore[arg-type]
        assert caught.value.info.field == name
        assert BY_NAME[name].spec.flags[-1] in caught.value.info.message


#: What makes a petition one for a video.
FILM = {"mode": "vid_gen", "format": "webp", "lossless": True}


@pytest.mark.parametrize("name", sorted(_FILM_FIELDS))
def test_what_a_video_alone_has_is_refused_for_a_picture_and_taken_for_a_video(name):
    value = 0.15 if name == "high_noise_skip_layer_start" else _another(BY_NAME[name])
    check(Params(prompt="a", model="m", **FILM, **{name: value}))
    error = refusal(**{name: value})
    assert (error.code, error.info.field) == ("invalid_params", name)
    flag = BY_NAME[name].spec.flags[0]
    assert error.info.message == f"{flag} has no meaning without -M vid_gen."


@pytest.mark.parametrize("name", sorted(_STILL_FIELDS))
def test_what_a_picture_alone_has_is_refused_for_a_video_and_taken_for_a_picture(name):
    wishes = {**WHOLE, name: _another(BY_NAME[name])}
    check(Params(prompt="a", model="m", **wishes))
    with pytest.raises(PetitionError, match="no meaning with -M vid_gen") as caught:
        check(Params(prompt="a", model="m", **{**wishes, **FILM}))
    assert caught.value.code == "invalid_params"
    assert caught.value.info.field in _STILL_FIELDS
    alone = Params(prompt="a", model="m", **FILM, **{name: _another(BY_NAME[name])})
    with pytest.raises(PetitionError) as caught:
        check(alone)
    assert caught.value.info.field == name


@pytest.mark.parametrize(
    "file", [{"format": "png", "lossless": False}, {"lossless": False}, {"format": "jpeg"}]
)
def test_a_video_travels_in_one_format_only(file):
    check(Params(prompt="a", model="m", **FILM))
    with pytest.raises(PetitionError, match="travels as lossless webp") as caught:
        check(Params(prompt="a", model="m", **{**FILM, **file}))
    assert caught.value.info.field == "format"


def test_the_frames_of_a_video_have_so_many_pixels_together_and_no_more():
    assert limits.VIDEO_PIXELS_MAX == 161 * 1280 * 720
    film = {**FILM, "width": 1280, "height": 720}
    check(Params(prompt="a", model="m", **film, video_frames=161))
    with pytest.raises(PetitionError, match="162 frames of 1280x720 are more than") as caught:
        check(Params(prompt="a", model="m", **film, video_frames=162))
    assert (caught.value.code, caught.value.info.field) == ("too_large", "video_frames")


def test_the_skipped_layers_of_the_high_noise_model_begin_before_they_end():
    layers = {"high_noise_skip_layer_start": 0.3, "high_noise_skip_layer_end": 0.2}
    with pytest.raises(PetitionError, match="--high-noise-skip-layer-start must not") as caught:
        check(Params(prompt="a", model="m", **FILM, **layers))
    assert caught.value.info.field == "high_noise_skip_layer_start"


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda r: r.name)
def test_upscaling_refuses_what_has_no_meaning_with_it(row):
    params = Params(**{**UPSCALE, row.name: _another(row)})
    if row.name == "mode":
        return
    if row.name in _UPSCALE_FIELDS:
        check(params)
        return
    with pytest.raises(PetitionError, match="no meaning with -M upscale") as caught:
        check(params)
    assert (caught.value.code, caught.value.info.field) == ("invalid_params", row.name)


def _file(digest: str = DIGEST, size_bytes: int = 1) -> dict[str, Any]:
    return {"digest": digest, "size_bytes": size_bytes}


def test_a_petition_lists_exactly_the_input_files_that_it_names():
    other = DIGEST[::-1]
    named = plain(init_image=DIGEST, ref_images=[other, DIGEST])
    petition = decode_petition(ENCODER.encode({**named, "inputs": [_file(other), _file()]}))
    assert input_digests(petition.params) == (DIGEST, other)
    for files in ([], [_file()], [_file(), _file(other), _file("0" * 64)], [_file()] * 2):
        with pytest.raises(PetitionError) as caught:
            decode_petition(ENCODER.encode({**named, "inputs": files}))
        assert (caught.value.code, caught.value.info.field) == ("invalid_params", "inputs")


def test_an_input_file_at_n_and_n_plus_1_bytes():
    for size, good in (
        (1, True), (limits.INPUT_BYTES_MAX, True), (0, False), (limits.INPUT_BYTES_MAX + 1, False),
    ):  # fmt: skip
        body = ENCODER.encode({**plain(init_image=DIGEST), "inputs": [_file(size_bytes=size)]})
        if good:
            assert decode_petition(body).inputs[0].size_bytes == size
        else:
            with pytest.raises(PetitionError, match="size_bytes"):
                decode_petition(body)


def test_a_petition_at_n_and_n_plus_1_input_files():
    most = limits.INPUTS_MAX
    # No picture has as many: two lists and the files that stand alone.
    assert most > len(INPUT_FIELDS) + 2 * limits.REF_IMAGES_MAX
    digests = [f"{number:064x}" for number in range(most + 1)]
    first, last, *followed = digests[:most]
    assert len(followed) == limits.CONTROL_FRAMES_MAX
    fields = {**FILM, "init_image": first, "end_image": last, "control_frames": followed}
    files = [_file(digest) for digest in digests]
    assert decode_petition(ENCODER.encode({**plain(**fields), "inputs": files[:most]})).inputs
    with pytest.raises(PetitionError, match="inputs"):
        decode_petition(ENCODER.encode({**plain(**fields), "inputs": files}))


def test_an_unknown_parameter_is_refused_by_name_and_a_missing_prompt_too():
    assert "stepz" in str(refusal(stepz=3))
    with pytest.raises(PetitionError, match="prompt"):
        decode_petition(ENCODER.encode({"seed": 1, "params": {"model": "m"}}))


@pytest.mark.parametrize("bad", [{"steps": "20"}, {"steps": 20.5}, {"steps": True}, {"fa": 1}])
def test_nothing_is_converted_on_the_way(bad):
    (name,) = bad
    assert refusal(**bad).info.field == name


def test_pixels_at_n_and_at_the_next_size():
    most = limits.PIXELS_MAX // limits.SIDE_MAX
    assert accept(width=limits.SIDE_MAX, height=most).height == most
    error = refusal(width=limits.SIDE_MAX, height=most + limits.SIDE_STEP)
    assert (error.code, error.info.field) == ("too_large", "width")


def test_pixels_count_after_highres_fix():
    assert accept(width=4096, height=2048, hires=True).hires
    for more in ({"hires_scale": 2.001}, {"hires_width": 8192, "hires_height": 4104}):
        error = refusal(width=4096, height=2048, hires=True, **more)
        assert (error.code, error.info.field) == ("too_large", "hires_scale")
    assert accept(width=4096, height=2048, hires_scale=16.0).hires_scale == 16.0


def test_fields_that_contradict_each_other_are_refused():
    assert refusal(skip_layer_start=0.5, skip_layer_end=0.4).info.field == "skip_layer_start"
    assert refusal(sigmas=[1.0, 2.0]).info.field == "sigmas"
    assert accept(sigmas=[2.0, 2.0, 0.0]).sigmas == (2.0, 2.0, 0.0)


@pytest.mark.parametrize("mask", ["2", "1,", ",1", "1,,0", "11", "1,0\n"])
def test_a_step_mask_is_ones_and_zeros(mask):
    assert refusal(scm_mask=mask).info.field == "scm_mask"
    assert accept(scm_mask="1,0,1").scm_mask == "1,0,1"


def _cache(mode: str, option: str) -> dict[str, float | int | bool]:
    return cache_settings(Params(prompt="a", cache_mode=mode, cache_option=option))  # type: ignore[arg-type]


def test_cache_options_go_where_the_mode_reads_them():
    assert _cache("easycache", "threshold=0.3,start=0.1,end=0.9") == {
        "reuse_threshold": 0.3, "start_percent": 0.1, "end_percent": 0.9,
    }  # fmt: skip
    assert _cache("dbcache", "threshold=0.3,warmup=4,Fn=8,Bn=2") == {
        "residual_diff_threshold": 0.3, "max_warmup_steps": 4,
        "Fn_compute_blocks": 8, "Bn_compute_blocks": 2,
    }  # fmt: skip
    assert _cache("spectrum", "warmup=4,w=0.5,relative=0,reset=1") == {
        "spectrum_warmup_steps": 4, "spectrum_w": 0.5,
        "use_relative_threshold": False, "reset_error_on_compute": True,
    }  # fmt: skip
    assert _cache("disabled", "") == {}


@pytest.mark.parametrize(
    "option",
    ["nope=1", "threshold=much", "threshold=", "threshold", "threshold=nan", "fn=inf", "=1"],
)
def test_cache_options_that_mean_nothing_are_refused(option):
    assert refusal(cache_mode="dbcache", cache_option=option).info.field == "cache_option"


@pytest.mark.parametrize("option", ["start=0.9,end=0.1", "start=-0.1", "end=1.1", "start=0.95"])
def test_a_reuse_window_lies_inside_the_run(option):
    assert refusal(cache_mode="ucache", cache_option=option).info.field == "cache_option"


def test_context_params_are_the_load_time_ones_that_differ_from_their_defaults():
    params = Params(prompt="a", model="m", vae="v", steps=3, fa=True, rng="cuda", threads=0)
    assert context_params(params) == {"model": "m", "vae": "v", "fa": True}
    load = {row.name for row in PARAMETERS if row.spec.stage == "load"}
    assert "prompt" not in load
    assert {"model", "wtype", "lora_apply_mode", "chroma_dit_mask"} <= load


def test_built_in_upscalers_are_named_as_the_engine_names_them():
    assert HIRES_UPSCALERS[0] == "None"
    assert "Latent" in HIRES_UPSCALERS


@pytest.mark.parametrize(
    ("field", "last", "beyond"),
    [
        ("seed", limits.SEED_MAX, limits.SEED_MAX + 1),
        ("seed", 0, -1),
        ("images", limits.IMAGES_PER_PETITION_MAX, limits.IMAGES_PER_PETITION_MAX + 1),
        ("images", 1, 0),
        ("timeout_s", limits.DEADLINE_S_MAX, math.nextafter(limits.DEADLINE_S_MAX, math.inf)),
        ("timeout_s", 0.0, -1e-9),
        ("timeout_s", 1.0, math.nan),
    ],
)
def test_a_petitions_own_bounds(field, last, beyond):
    petition = decode_petition(ENCODER.encode({**plain(), field: last}))
    assert getattr(petition, field) == last
    with pytest.raises(PetitionError) as caught:
        decode_petition(ENCODER.encode({**plain(), field: beyond}))
    assert caught.value.info.field == field


def test_the_last_seed_of_the_largest_petition_is_still_an_int64():
    petition = Petition(
        params=Params(prompt="a"), seed=limits.SEED_MAX, images=limits.IMAGES_PER_PETITION_MAX
    )
    assert petition.seed + petition.images - 1 < 2**63
