"""`sdistrib-client HOST --from PICTURE`: a picture is drawn again, and what differs is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from sdistrib.errors import PetitionError
from sdistrib.infotext import CHUNK_KEY, PictureFacts, parse_chunk
from sdistrib.params import BY_NAME, INPUT_FIELDS, PARAMETERS
from sdistrib.petitions import Petition
from sdistrib_client import comparing
from sdistrib_client.cli.display import Display
from sdistrib_client.cli.flags import params_of, previews_of, urgency_of, variable
from sdistrib_client.cli.formats import format_wish, is_said, is_typed
from sdistrib_client.cli.prompts import prompts_of
from sdistrib_client.composing import compose_wishes, edit, settle_file
from sdistrib_client.images import Outputs
from sdistrib_client.inputs import InputSource, read_inputs
from sdistrib_client.pictures import Picture
from sdistrib_client.reading import pixels_of, read_bytes, texts_of
from sdistrib_client.recipes import Recipe, recipe_of
from sdistrib_client.sync import Client


class Again(NamedTuple):
    """A picture that is to be drawn again."""

    #: The picture's file, and what it holds.
    path: Path
    data: bytes
    recipe: Recipe
    petition: Petition
    #: Parameters that were typed, and stand before the picture's own.
    typed: frozenset[str]
    #: Input files that were given again, by digest.
    inputs: dict[str, InputSource]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Again":
        """Read the picture that --from names, and put the typed flags before what it says.

        Variables set for drawing change no picture of before; those of the petition's urgency do.

        Raises:
            PetitionError: it cannot be read, says nothing, or what it says does not pass.
        """
        path = Path(values["from_picture"])
        data = read_bytes(path)
        recipe = recipe_of(texts_of(data, path.name), path.name)
        given = params_of(values)
        typed = {row.name: given[row.name] for row in PARAMETERS if is_typed(variable(row))}
        typed |= prompts_of(values, typed_only=True)
        if is_said("output") or is_typed("format"):
            mode = typed.get("mode", recipe.params.get("mode", ""))
            typed |= format_wish(values, mode)
        typed = {name: value for name, value in typed.items() if recipe.params.get(name) != value}
        read = read_inputs(typed)
        params = {**recipe.params, **settle_file(recipe.params, read.params)}
        _need_inputs(recipe, read.params, path)
        seed = values["seed"] if is_typed("seed") or recipe.seed is None else recipe.seed
        about = {
            "images": values["batch_count"] if is_typed("batch_count") else 1,
            "seed": seed,
            "timeout_s": values["timeout"],
            **urgency_of(values),
            **previews_of(values),
        }
        petition = compose_wishes(params.pop("prompt", ""), {**params, **about}, read.files)
        # The same picture given again is no change.
        changed = {name for name, value in read.params.items() if recipe.params.get(name) != value}
        other_seed = {"seed"} if seed != recipe.seed else set()
        return cls(path, data, recipe, petition, frozenset(changed) | other_seed, read.sources)

    @property
    def output(self) -> str:
        """Where it goes when -o does not say, without extension: beside nothing, never over it."""
        return f"{self.path.stem}_again"

    def spare(self, outputs: Outputs) -> None:
        """The picture that is read stays what it is.

        Raises:
            click.UsageError: a new one would overwrite it.
        """
        own = self.path.resolve()
        for index in range(self.petition.images):
            path = outputs.path(index)
            if path is not None and path.resolve() == own:
                raise click.UsageError(f"-o would overwrite {path}, which --from reads.")

    def matched(self, client: Client, display: Display) -> Petition:
        """The petition with the farm's names for the files by content; says what is not the same.

        Raises:
            PetitionError, Unreachable: the manager does not say which files there are.
        """
        for note in self.recipe.notes:
            display.notice(f"{self.path.name}: {note}")
        contents = [one for one in self.recipe.contents if one.field not in self.typed]
        if not contents:
            return self.petition
        params = msgspec.structs.asdict(self.petition.params)
        found = comparing.match(params, contents, client.models())
        for note in found.notes:
            display.notice(f"{self.path.name}: {note}")
        return edit(self.petition, found.changes) if found.changes else self.petition

    def compare(self, picture: Picture, display: Display) -> None:
        """Say how the new picture was made differently, and whether its pixels are the same."""
        before = self.recipe.facts
        if before is None or picture.index:
            return
        name = self.path.name
        try:
            told = self._differences(before, picture)
            if not self.typed:
                same = pixels_of(self.data, name) == pixels_of(picture.data, "The new picture")
                told.append(f"The new pixels are {'' if same else 'not '}the same.")
        except (PetitionError, ValueError) as error:
            told = [f"It cannot be compared: {error}"]
        for text in told:
            display.notice(f"{name}: {text}")

    def _differences(self, before: PictureFacts, picture: Picture) -> list[str]:
        chunk = texts_of(picture.data, "The new picture").get(CHUNK_KEY)
        if chunk is not None:
            return list(comparing.differences(before, parse_chunk(chunk), self.typed))
        # Without metadata the result itself names the fingerprint.
        engine = msgspec.structs.replace(before.engine, fingerprint=picture.fingerprint)
        return list(comparing.engines(before.engine, engine))


def _need_inputs(recipe: Recipe, typed: Mapping[str, Any], path: Path) -> None:
    """A picture holds the digests of the files that it was made from, and not these files.

    Raises:
        PetitionError: `invalid_params`: they are to be given again.
    """
    lost = [name for name in INPUT_FIELDS if recipe.params.get(name) and name not in typed]
    if lost:
        flags = ", ".join(BY_NAME[name].spec.flags[0] for name in lost)
        text = f"{path.name} was made from other files, which are not in it; give again: {flags}."
        raise PetitionError.of("invalid_params", text, field=lost[0])
