"""From what a user says to a petition, checked as the manager will check it."""

import difflib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sdistrib import limits
from sdistrib.errors import PetitionError
from sdistrib.models import wanted_files
from sdistrib.params import BY_NAME, INPUT_FIELDS, check
from sdistrib.petitions import InputFile, Petition
from sdistrib_client.inputs import InputSource, read_inputs
from sdistrib_client.naming import write_names
from sdistrib_client.samplers import read_sampler, read_scheduler

#: Of what a petition has beside its parameters, what may change at a retry.
_EDITABLE = (
    "timeout_s", "priority", "hedge", "exact", "on_oom",
    "preview", "preview_interval", "preview_noisy",
)  # fmt: skip
#: On its way a video is a file that loses nothing; what it becomes is the caller's business.
_FILM_FILE: dict[str, Any] = {"format": "webp", "lossless": True}
#: What a petition has beside its parameters.
ENVELOPE = ("images", "seed", "cancel_on_disconnect", *_EDITABLE)


def compose(
    params: Mapping[str, Any], *, images: int = 1, seed: int | None = None, **about: Any
) -> Petition:
    """Make a petition. `params` are fields of `sdistrib.params.Params`; None means not given.

    `loras` and `embeddings` may be among them: `naming.write_names` puts them into the prompts. An
    input file is its path or its bytes.

    `about` are other fields of the petition: timeout_s, cancel_on_disconnect, priority, hedge,
    exact, on_oom, preview, preview_interval, preview_noisy. A seed of None, or below 0, is drawn
    from all that the engine has.

    Raises:
        PetitionError: `invalid_params` or `too_large`, naming the field.
    """
    return _composed(params, {"images": images, "seed": seed, **about})


def _composed(
    params: Mapping[str, Any], about: Mapping[str, Any], files: Iterable[InputFile] = ()
) -> Petition:
    """`compose`; `files` are those that `params` names by digest."""
    if strange := about.keys() - set(ENVELOPE):
        raise TypeError(f"a petition has no {', '.join(sorted(strange))}")
    given = {name: value for name, value in params.items() if value is not None}
    write_names(given)
    _check_names(given)
    if given.get("mode") == "vid_gen":
        given = _FILM_FILE | given
    read = read_inputs(given, sized=True)
    given = read.params
    _name_sampling(given)
    seed = about.get("seed")
    petition = _convert(
        {
            **about,
            "params": given,
            "seed": secrets.randbelow(limits.SEED_MAX + 1) if seed is None or seed < 0 else seed,
            "inputs": _files_named(given, [*files, *read.files]),
        }
    )
    check(petition.params)
    # A malformed LoRA tag is found here, not at the manager's door.
    wanted_files(petition.params)
    return petition


def compose_wishes(
    prompt: str, wishes: Mapping[str, Any], files: Iterable[InputFile] = ()
) -> Petition:
    """`compose`, from wishes of both kinds: fields of the petition and of its parameters."""
    about = {key: wishes[key] for key in ENVELOPE if key in wishes}
    params = {key: value for key, value in wishes.items() if key not in about}
    return _composed({"prompt": prompt, **params}, about, files)


def prepare(prompt: str, wishes: Mapping[str, Any]) -> tuple[Petition, dict[str, InputSource]]:
    """`compose_wishes`, with the input files that were read for it, by digest."""
    read = read_inputs(wishes, sized=True)
    return compose_wishes(prompt, read.params, read.files), read.sources


def petition_of(wanted: str | Petition, wishes: Mapping[str, Any]) -> Petition:
    """A petition from a prompt and wishes, or one that was composed before, edited by them."""
    return compose_wishes(wanted, wishes) if isinstance(wanted, str) else edit(wanted, wishes)


def edit(
    petition: Petition, changes: Mapping[str, Any], files: Iterable[InputFile] = ()
) -> Petition:
    """The same petition with other parameters; None takes one back to the engine's own choice.

    Input files are as `compose` takes them, or digests where `files` has their sizes; those that
    stay need not be given again. Changes may name `timeout_s`, `priority`, `hedge`, `exact`,
    `on_oom` and the previews' fields too.

    Raises:
        PetitionError: `invalid_params` or `too_large`, naming the field.
    """
    about = {key: changes[key] for key in _EDITABLE if key in changes}
    changed = {key: value for key, value in changes.items() if key not in about}
    write_names(changed, petition.params)
    _check_names(changed)
    _name_sampling(changed)
    read = read_inputs(changed)
    before = msgspec.structs.asdict(petition.params)
    params = before | settle_file(before, read.params)
    known = [*petition.inputs, *files, *read.files]
    edited = _convert(
        {
            **msgspec.structs.asdict(petition),
            **about,
            "params": params,
            "inputs": _files_named(params, known),
        }
    )
    check(edited.params)
    wanted_files(edited.params)
    return edited


def _files_named(params: Mapping[str, Any], known: Iterable[InputFile]) -> list[InputFile]:
    """The files that `params` names by digest, each once."""
    files = {file.digest: file for file in known}
    named: dict[str, InputFile] = {}
    for field in INPUT_FIELDS:
        value = params.get(field, ())
        for digest in [value] if isinstance(value, str) else value:
            if digest and digest not in files:
                text = f"{BY_NAME[field].spec.flags[0]}: no file of digest {digest[:16]} is given."
                raise PetitionError.of("invalid_params", text, field=field)
            if digest:
                named[digest] = files[digest]
    return list(named.values())


def settle_file(params: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, and with another format its own settings instead of the ones of before.

    What becomes a video gets the format that videos travel in.
    """
    settled = dict(changes)
    if settled.get("mode") == "vid_gen":
        settled = _FILM_FILE | settled
    if settled.get("format", params.get("format", "png")) != params.get("format", "png"):
        settled = {"quality": None, "lossless": False, **settled}
    return settled


def _check_names(given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in BY_NAME:
            near = difflib.get_close_matches(name, BY_NAME, n=3)
            message = f"There is no parameter {name!r}."
            raise PetitionError.of("invalid_params", message, field=name, closest=near)


def _name_sampling(given: dict[str, Any]) -> None:
    """Replace the names of sampler and schedule by the engine's; a schedule of its own wins."""
    field = "sampling_method"
    try:
        if isinstance(given.get(field), str):
            method, scheduler = read_sampler(given[field])
            given[field] = method
            if scheduler:
                given.setdefault("scheduler", scheduler)
        field = "scheduler"
        if isinstance(given.get(field), str):
            given[field] = read_scheduler(given[field]) or None
    except ValueError as error:
        text = f"{BY_NAME[field].spec.flags[0]}: {error}"
        raise PetitionError.of("invalid_params", text, field=field) from None


def _convert(fields: dict[str, Any]) -> Petition:
    try:
        return msgspec.convert(fields, Petition)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at `$.")
        field = path.rstrip("`").removeprefix("params.").partition("[")[0]
        row = BY_NAME.get(field)
        where = row.spec.flags[0] if row is not None else field
        message = f"{where}: {expected[:1].lower()}{expected[1:]}."
        raise PetitionError.of("invalid_params", message, field=field) from None
