"""Input files of the client: read and named, sent when asked for, typed on the command line."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from sdistrib import limits
from sdistrib.errors import ErrorInfo, PetitionError
from sdistrib.params import BY_NAME, INPUT_FIELDS, Params
from sdistrib.petitions import InputFile, Petition
from sdistrib.protocol import messages as wire
from sdistrib.protocol.codec import encode_petition
from sdistrib_client import effects, events, finding
from sdistrib_client import inputs as module
from sdistrib_client.cli.bar import Bar
from sdistrib_client.cli.commands import cli
from sdistrib_client.cli.display import Lines, Quiet
from sdistrib_client.cli.events_json import JsonLines
from sdistrib_client.composing import compose, edit, prepare
from sdistrib_client.inputs import read_all, read_inputs
from sdistrib_client.uploads import Uploads
from tests.support.client_bench import ID, OTHER, Bench, ends, sent
from tests.support.input_files import digest_of
from tests.support.scripted_manager import png
from tests.unit.test_client_cli import client, drawn, run  # noqa: F401 - a fixture
from tests.unit.test_client_verbs import row

PICTURE = png(1)
ABOUT: dict[str, Any] = {"model": "m", "seed": 7}


def picture_of(width: int, height: int, path: Path) -> Path:
    Image.new("L", (width, height)).save(path)
    return path


# --- reading ----------------------------------------------------------------------------------


def test_a_file_is_named_by_its_digest_however_it_is_given(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    for given in (path, str(path), PICTURE, bytearray(PICTURE), memoryview(PICTURE)):
        petition, sources = prepare("a house", {**ABOUT, "init_image": given})
        assert petition.params.init_image == digest_of(PICTURE)
        assert petition.inputs == (InputFile(digest_of(PICTURE), len(PICTURE)),)
        assert bytes(sources[digest_of(PICTURE)].piece(1, 9)) == PICTURE[1:9]
        whole = compose({"prompt": "a", "model": "m", "init_image": given})
        assert whole.inputs == petition.inputs


def test_several_files_and_equal_ones(tmp_path):
    other = png(2)
    petition, sources = prepare(
        "a house", {**ABOUT, "ref_images": [PICTURE, other, PICTURE], "init_image": other}
    )
    assert petition.params.ref_images == tuple(map(digest_of, (PICTURE, other, PICTURE)))
    assert len(petition.inputs) == len(sources) == 2
    one, _ = prepare("a house", {**ABOUT, "ref_images": PICTURE})
    assert one.params.ref_images == (digest_of(PICTURE),)


def test_a_folder_is_its_pictures_in_the_order_of_their_names(tmp_path):
    for number, name in enumerate(["b.PNG", "a.png", "c.jpeg.png"]):
        (tmp_path / name).write_bytes(png(number))
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_inputs({"pm_id_images": tmp_path})
    assert found.params["pm_id_images"] == tuple(digest_of(png(n)) for n in (1, 0, 2))
    assert read_inputs({"pm_id_images": [PICTURE]}).params["pm_id_images"] == (digest_of(PICTURE),)
    assert read_inputs({"pm_id_images": PICTURE}).params["pm_id_images"] == (digest_of(PICTURE),)


def test_an_embedding_is_no_picture_and_need_not_be_one():
    assert read_inputs({"pm_id_embed": b"tensors"}).files == [InputFile(digest_of(b"tensors"), 7)]


def test_each_field_refuses_what_is_no_picture():
    for field in INPUT_FIELDS:
        if field != "pm_id_embed":
            flag = BY_NAME[field].spec.flags[0]
            with pytest.raises(PetitionError, match=f"{flag}: what was given is no picture"):
                read_inputs({field: b"no picture"})


def refusal(given: Any, field: str = "init_image") -> str:
    with pytest.raises(PetitionError) as caught:
        read_inputs({field: given})
    assert (caught.value.code, caught.value.info.field) == ("invalid_params", field)
    return str(caught.value)


def test_files_that_cannot_be_read_are_refused_at_once_with_their_path(tmp_path, monkeypatch):
    missing = tmp_path / "missing.png"
    assert refusal(missing) == f"--init-img: {missing} cannot be read: No such file or directory."
    assert "Is a directory" in refusal(tmp_path)
    assert "is no file name" in refusal("a\0b")
    (tmp_path / "empty.png").touch()
    assert "is empty" in refusal(tmp_path / "empty.png")
    assert "No such file" in refusal(missing, "pm_id_images")
    monkeypatch.setattr(limits, "INPUT_BYTES_MAX", len(PICTURE) - 1)
    assert "is too large" in refusal(PICTURE)
    assert "is too large" in refusal("/dev/zero")


def test_a_folder_without_pictures_is_refused(tmp_path):
    assert "has no picture in it" in refusal(tmp_path, "pm_id_images")


def test_a_picture_that_would_not_be_decoded_safely_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    assert "has too many pixels" in refusal(PICTURE)


def test_files_together_at_n_and_n_plus_1_bytes(monkeypatch):
    monkeypatch.setattr(limits, "STAGED_BYTES_MAX", 10)
    assert read_all([b"0123456789"])
    assert read_inputs({"pm_id_embed": b"0123456789"}).files
    monkeypatch.setattr(limits, "STAGED_BYTES_MAX", 9)
    with pytest.raises(PetitionError, match="have 10 bytes together"):
        read_inputs({"pm_id_embed": b"0123456789"})


def test_without_pillow_its_extra_is_named(monkeypatch):
    def fails(_: str) -> None:
        raise ImportError

    monkeypatch.setattr(module.importlib, "import_module", fails)
    with pytest.raises(Exception, match=r"sdistrib\[client\]"):
        read_inputs({"init_image": PICTURE})


def test_without_sizes_it_is_that_of_the_picture_rounded_up(tmp_path):
    path = picture_of(333, 3, tmp_path / "a.png")
    about = {**ABOUT, "init_image": path}
    assert _size(prepare("a", about)[0]) == (336, 16)
    assert _size(prepare("a", {**about, "width": 64})[0]) == (64, 16)
    assert _size(prepare("a", {**about, "width": 64, "height": 128})[0]) == (64, 128)
    # Reference pictures have no say in it, and what is edited keeps its size.
    assert _size(prepare("a", {**ABOUT, "ref_images": [path]})[0]) == (512, 512)
    plain = compose({"prompt": "a", "model": "m"})
    assert _size(edit(plain, {"init_image": path})) == (512, 512)
    upscale = {"mode": "upscale", "init_image": path, "upscale_model": "u"}
    assert _size(prepare("", upscale)[0]) == (512, 512)
    with pytest.raises(PetitionError, match="--width"):
        prepare("a", {**ABOUT, "init_image": picture_of(8193, 1, path)})


def _size(petition: Petition) -> tuple[int, int]:
    return petition.params.width, petition.params.height


def test_what_is_edited_keeps_its_files_and_takes_others():
    one = compose({"prompt": "a", "model": "m", "init_image": PICTURE, "ref_images": [png(2)]})
    assert edit(one, {"steps": 3}).inputs == one.inputs
    assert edit(one, {"ref_images": None}).inputs == one.inputs[:1]
    none = edit(one, {"ref_images": [], "init_image": None})
    assert (none.inputs, none.params.init_image) == ((), "")
    other = edit(one, {"init_image": png(3)})
    assert [file.digest for file in other.inputs] == [digest_of(png(3)), digest_of(png(2))]
    with pytest.raises(PetitionError, match="no file of digest"):
        edit(one, {"mask": "0" * 64})
    found = finding.Found(row(state="failed"), one)
    read = read_inputs({"init_image": png(4)})
    edited = finding.retry_of(found, read.params, None, read.files)
    assert edited is not None
    assert edited.inputs[0].digest == digest_of(png(4))


def test_bytes_that_were_let_go_are_read_again_and_must_be_the_same(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    (source,) = read_all([path]).values()
    source.release()
    assert bytes(source.piece(0, 4)) == PICTURE[:4]
    source.release()
    path.write_bytes(png(2))
    with pytest.raises(PetitionError, match=f"{path} was changed while it was being sent"):
        source.piece(0, 4)
    path.unlink()
    with pytest.raises(PetitionError, match=f"{path} cannot be read any more: No such file"):
        source.piece(0, 4)
    (held,) = read_all([PICTURE]).values()
    held.release()
    assert bytes(held.piece(0, 4)) == PICTURE[:4]


def test_a_pipe_gives_its_bytes_once_and_they_are_held():
    read_fd, write_fd = os.pipe()
    os.write(write_fd, PICTURE)
    os.close(write_fd)
    try:
        (source,) = read_all([f"/dev/fd/{read_fd}"]).values()
        source.release()
        assert bytes(source.piece(0, len(PICTURE))) == PICTURE
    finally:
        os.close(read_fd)


# --- the machine ------------------------------------------------------------------------------

MIB = limits.CHUNK_BYTES
BIG = InputFile("b" * 64, 6 * MIB + 7)
SMALL = InputFile("c" * 64, 5)
BODY = encode_petition(
    Petition(
        params=Params(prompt="a", model="m", ref_images=(BIG.digest, SMALL.digest)),
        seed=7,
        inputs=(BIG, SMALL),
    )
)


@pytest.fixture
def bench() -> Bench:
    """A machine with a petition that names two files, known to the manager."""
    bench = Bench()
    bench.post(events.Tick())
    bench.post(events.PetitionMade(ID, BODY, 2, inputs=(BIG, SMALL)))
    bench.welcome()
    return bench


def pieces(out: list[effects.Effect]) -> list[tuple[str, int]]:
    return [(one.digest[0], one.start // MIB) for one in out if isinstance(one, effects.SendPiece)]


def shown(out: list[effects.Effect]) -> list[tuple[int, int]]:
    found = [one for one in out if isinstance(one, effects.ShowSending)]
    return [(one.sent_bytes, one.total_bytes) for one in found]


def need(*files: InputFile, petition: str = ID) -> wire.Need:
    return wire.Need(id=petition, digests=tuple(file.digest for file in files))


def has(file: InputFile, offset: int) -> wire.ChunkSeen:
    return wire.ChunkSeen(digest=file.digest, offset=offset)


def test_files_go_one_after_the_other_under_credit(bench):
    out = bench.say(need(BIG, SMALL))
    assert pieces(out) == [("b", 0), ("b", 1), ("b", 2), ("b", 3)]
    assert shown(out) == [(0, 6 * MIB + 12)]
    assert pieces(bench.say(has(BIG, 3 * MIB))) == [("b", 4), ("b", 5), ("b", 6)]
    out = bench.say(has(BIG, BIG.size_bytes))
    assert pieces(out) == [("c", 0)]
    assert shown(out) == [(6 * MIB + 7, 6 * MIB + 12)]
    out = bench.say(has(SMALL, 5))
    assert (pieces(out), shown(out)) == ([], [(6 * MIB + 12, 6 * MIB + 12)])
    bench.say(wire.Accepted(id=ID, state="queued"))


def test_nothing_is_sent_that_is_not_asked_for(bench):
    assert pieces(bench.say(need(SMALL))) == [("c", 0)]
    assert pieces(bench.say(has(BIG, MIB))) == []
    assert pieces(bench.say(wire.ChunkSeen(digest="d" * 64, offset=1))) == []


def test_after_a_reconnect_it_goes_on_behind_what_the_manager_has(bench):
    bench.say(need(BIG))
    bench.post(events.SendFailed())
    bench.wait(1.0)
    bench.welcome()
    assert pieces(bench.say(has(BIG, 5 * MIB))) == []
    assert pieces(bench.say(need(BIG))) == [("b", 5), ("b", 6)]
    # A manager that knows nothing of it any more gets it from the beginning.
    bench.post(events.SendFailed())
    bench.wait(1.0)
    bench.welcome()
    assert pieces(bench.say(need(BIG)))[0] == ("b", 0)


def test_two_petitions_with_one_file(bench):
    bench.post(events.PetitionMade(OTHER, BODY, 2, inputs=(BIG, SMALL)))
    assert len(pieces(bench.say(need(BIG)))) == 4
    assert pieces(bench.say(has(BIG, MIB))) == [("b", 4)]
    # Should the first one go, the second one goes on where that was.
    assert pieces(bench.say(need(BIG, petition=OTHER)))[0] == ("b", 1)


def test_a_file_that_is_not_here_ends_the_petition(bench):
    out = bench.say(wire.Need(id=ID, digests=("d" * 64,)))
    (end,) = ends(out)
    assert end.ending.outcome == "refused"
    assert end.ending.error is not None
    assert (end.ending.error.code, end.ending.error.field) == ("not_found", "inputs")
    assert sent(out) == [wire.Cancel(id=ID)]
    assert not bench.say(need(BIG))


def test_a_retry_that_has_no_files_says_so():
    bench = Bench()
    bench.post(events.Tick())
    bench.post(events.RetryWished(ID, 2))
    bench.welcome()
    (end,) = ends(bench.say(need(BIG)))
    assert end.ending.error is not None
    assert "give the file again" in end.ending.error.message


def test_a_retry_sends_its_files():
    bench = Bench()
    bench.post(events.Tick())
    bench.post(events.RetryWished(ID, 2, BODY, inputs=(BIG,)))
    bench.welcome()
    assert len(pieces(bench.say(need(BIG)))) == 4


def test_a_file_that_is_lost_on_the_way_ends_the_petition(bench):
    bench.say(need(BIG))
    error = ErrorInfo(code="invalid_params", message="a.png was changed while it was being sent.")
    out = bench.post(events.InputLost(ID, error))
    assert sent(out) == [wire.Cancel(id=ID)]
    assert ends(out)[0].ending.error == error
    assert bench.post(events.InputLost(ID, error)) == []


def test_a_petition_that_is_cancelled_sends_nothing_more(bench):
    bench.post(events.CancelWished(ID))
    assert pieces(bench.say(need(BIG))) == []


def test_the_time_limit_begins_when_the_files_are_there():
    bench = Bench()
    bench.post(events.Tick())
    bench.post(events.PetitionMade(ID, BODY, 2, timeout_s=10.0, inputs=(BIG,)))
    bench.welcome()
    for beat in range(20):
        bench.say(need(BIG) if not beat else has(BIG, beat * 1000))
        assert not ends(bench.wait(5.0))
    assert ends(bench.wait(20.0))[0].ending.outcome == "expired"


def test_what_is_under_way_does_not_grow_with_the_number_of_files():
    files = [InputFile(f"{n:064x}", MIB) for n in range(limits.INPUTS_MAX)]
    uploads = Uploads(files)
    assert uploads.need(file.digest for file in files) == ""
    assert len(list(uploads.ready())) == 1


# --- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize("name", INPUT_FIELDS)
def test_every_spelling_of_every_input_file_reaches_the_petition(client, name):  # noqa: F811
    Path("a.png").write_bytes(PICTURE)
    Path("people").mkdir()
    Path("people/b.png").write_bytes(png(2))
    parameter = BY_NAME[name]
    companions = {
        "mask": ("-i", "a.png"), "control_image": ("--control-net", "c"),
        "pm_id_images": ("--photo-maker", "p"),
        "pm_id_embed": ("--photo-maker", "p", "--pm-id-images-dir", "people"),
        "end_image": ("-M", "vid_gen"), "control_frames": ("-M", "vid_gen"),
    }  # fmt: skip
    typed, data = ("people", png(2)) if parameter.spec.metavar == "DIR" else ("a.png", PICTURE)
    digest: Any = digest_of(data)
    value = digest if parameter.type is str else (digest,)
    for flag in parameter.spec.flags:
        petition = drawn(client, flag, typed, *companions.get(name, ()))
        assert getattr(petition.params, name) == value
        assert digest in {file.digest for file in petition.inputs}
    variable = f"SDISTRIB_{parameter.spec.flags[0].removeprefix('--').replace('-', '_').upper()}"
    petition = drawn(client, *companions.get(name, ()), env={variable: typed})
    assert getattr(petition.params, name) == value


def test_reference_pictures_are_given_one_by_one(client):  # noqa: F811
    for number in range(2):
        Path(f"{number}.png").write_bytes(png(number))
    both = tuple(digest_of(png(number)) for number in range(2))
    assert drawn(client, "-r", "0.png", "--ref-image", "1.png").params.ref_images == both
    env = {"SDISTRIB_REF_IMAGE": os.pathsep.join(["0.png", "1.png"])}
    assert drawn(client, env=env).params.ref_images == both


def test_the_files_go_along_with_the_petition(client, monkeypatch):  # noqa: F811
    Path("a.png").write_bytes(PICTURE)
    given: list[Any] = []
    before = client.draw

    def draw(self: Any, petition: Petition, **more: Any) -> Any:
        given.append(more["inputs"])
        return before(self, petition, **more)

    monkeypatch.setattr(client, "draw", draw)
    drawn(client, "-i", "a.png")
    assert list(given[0]) == [digest_of(PICTURE)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-i", "missing.png"], "--init-img: missing.png cannot be read: No such file"),
        (["-i", "text.png"], "--init-img: text.png is no picture that can be read"),
        (["-r", "."], "--ref-image: . cannot be read: Is a directory"),
        (["--pm-id-images-dir", "text.png"], "--pm-id-images-dir: text.png cannot be read"),
        (["--mask", "a.png"], "--mask means nothing without --init-img"),
        (["--canny"], "--canny means nothing without --control-image"),
        (["-M", "img2img"], "-M img2img needs a picture"),
        (["-M", "upscale"], "-M upscale needs a picture"),
        (["-i", "-", "-r", "-"], "--init-img and --ref-image both read standard input"),
        (["-r", "-", "-r", "-"], "--ref-image and --ref-image both read standard input"),
    ],
)
def test_files_that_do_not_fit_end_at_once_with_the_status_of_a_usage_error(client, words, said):  # noqa: F811
    Path("a.png").write_bytes(PICTURE)
    Path("text.png").write_text("text")
    result = run("h", "-m", "m", "-p", "a house", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not client.made


def test_the_modes_of_sd_cli(client):  # noqa: F811
    Path("a.png").write_bytes(PICTURE)
    assert drawn(client, "-M", "img2img", "-i", "a.png").params.mode == "img_gen"
    result = run("h", "-M", "upscale", "-i", "a.png", "--upscale-model", "u")
    assert result.exit_code == 0, result.output
    params = client.petitions[-1].params
    assert (params.mode, params.upscale_model) == ("upscale", "u")
    result = run("h", "-M", "upscale", "-i", "a.png", "--upscale-model", "u", "-p", "a house")
    assert (result.exit_code, "--prompt has no meaning" in result.stderr) == (2, True)


def test_one_file_may_come_in_on_standard_input(client):  # noqa: F811
    words = ["h", "-m", "m", "-p", "a house", "-r", "-", "-r", "a.png"]
    Path("a.png").write_bytes(png(2))
    result = CliRunner().invoke(cli, words, prog_name="sdistrib-client", input=PICTURE)
    assert result.exit_code == 0, result.output
    assert client.petitions[-1].params.ref_images == (digest_of(PICTURE), digest_of(png(2)))


# --- what is shown ----------------------------------------------------------------------------


def test_sending_is_told_in_tenths_and_only_when_it_takes_a_while(capsys):
    lines = Lines(verbose=False, color=False)
    lines.sending(0, 1_999_999)
    for sent_mb in range(31):
        lines.sending(sent_mb * 1_000_000, 30_000_000)
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == ["sending 0 of 30 MB", "sending 3 of 30 MB"]
    assert (len(told), told[-1]) == (11, "sending 30 of 30 MB")
    Quiet(verbose=False, color=False).sending(0, 30_000_000)
    assert capsys.readouterr().err == ""


def test_a_bar_shows_what_is_sent():
    stream = io.StringIO()
    bar = Bar(verbose=False, console=Console(file=stream, force_terminal=True, width=120))
    bar.submitted(ID, compose({"prompt": "a", "model": "m"}))
    bar.sending(12_000_000, 30_000_000)
    bar.close()
    assert "sending 12 of 30 MB" in stream.getvalue()


def test_json_says_sending(capsys):
    JsonLines().sending(12, 30)
    told = json.loads(capsys.readouterr().out)
    assert told == {"event": "sending", "sent_bytes": 12, "total_bytes": 30}
