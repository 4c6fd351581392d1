"""What the command line does with previews."""

from collections.abc import Mapping
from typing import Any

import click

from sdistrib_client.callbacks import OnPreview
from sdistrib_client.cli.display import Display
from sdistrib_client.errors import OutputError
from sdistrib_client.images import Outputs
from sdistrib_client.pictures import Preview
from sdistrib_client.preview_file import PreviewFile


def previews_to(values: Mapping[str, Any], outputs: Outputs) -> PreviewFile:
    """Where previews go.

    Raises:
        click.UsageError: they cannot go there.
    """
    try:
        previews = PreviewFile(values["preview_path"])
    except OutputError as error:
        raise click.UsageError(str(error)) from None
    if previews.path in {outputs.path(index) for index in range(outputs.images)}:
        raise click.UsageError(f"{previews.path} cannot be both a picture and its preview.")
    return previews


def watcher(previews: PreviewFile | None, display: Display) -> OnPreview | None:
    """What is done with each preview; one that cannot be written is told once, and costs nothing.

    None where none are wanted.
    """
    if previews is None:
        return None
    told = False

    def show(preview: Preview) -> None:
        nonlocal told
        try:
            display.preview(preview, previews.write(preview))
        except OutputError as error:
            if not told:
                display.notice(f"{error} The pictures are drawn all the same.")
            told = True

    return show
