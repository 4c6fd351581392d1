"""Which format a command's pictures get, and where they go."""

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from sdistrib.params import Params, PictureFormat
from sdistrib_client.cli.values import IMG2VID
from sdistrib_client.errors import OutputError
from sdistrib_client.films import FilmOutputs
from sdistrib_client.images import Outputs, extension_of, format_in


def is_said(name: str) -> bool:
    """A flag was typed or its variable set; its value is not the default."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def is_typed(name: str) -> bool:
    """A flag stands on the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def format_wish(values: Mapping[str, Any], mode: str) -> dict[str, PictureFormat]:
    """The format as a parameter, when --format or the extension of -o says one.

    A video has the one that it travels in, whatever `-o` makes of it.

    The variable of --format is a habit and gives way to an extension. A typed --format does not;
    whether both fit together is seen when the names of the files are made.
    """
    if mode in ("vid_gen", IMG2VID) and not is_typed("format"):
        return {"format": "webp"}
    meant = format_in(values["output"]) if is_said("output") and values["output"] != "-" else None
    wish = values["format"] if is_typed("format") or meant is None else meant
    return {} if wish is None else {"format": wish}


def outputs_of(
    values: Mapping[str, Any], images: int, params: Params, output: str | None = None
) -> Outputs:
    """Where the pictures of these parameters go; `output` is another default than that of -o.

    Raises:
        click.UsageError: they cannot go there.
    """
    if values["output"] == "-" and values["json"]:
        raise click.UsageError("--json and -o - both write to standard output; choose one.")
    name = values["output"]
    if not is_said("output"):
        # Nobody asked for this extension: it follows the format.
        name = (output or name.removesuffix(".png")) + extension_of(params.format)
    begin = values["output_begin_idx"]
    try:
        if params.mode == "vid_gen":
            outputs: Outputs = FilmOutputs(name, images, begin, params.fps)
        else:
            outputs = Outputs(name, images, begin, params.format)
        outputs.check()
    except OutputError as error:
        raise click.UsageError(str(error)) from None
    return outputs
