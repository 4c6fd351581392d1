"""The one file in which a person watches a picture grow, as sd-cli's `--preview-path` is.

It is rewritten whole each time, so that a viewer never reads half a picture. Of several pictures
under way it shows whichever was heard of last.
"""

import io
from pathlib import Path

from sdistrib_client.errors import OutputError
from sdistrib_client.images import write_atomically
from sdistrib_client.pictures import Preview

#: Ends of file names -> media formats.
_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


class PreviewFile:
    """Where previews go; the end of its name decides the format.

    Raises:
        OutputError: the name has another end.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        form = _FORMATS.get(self.path.suffix.lower())
        if form is None or "\0" in path:
            ends = ", ".join(_FORMATS)
            raise OutputError(f"--preview-path {path}: its name must end in one of {ends}.")
        self._format = form

    def write(self, preview: Preview) -> Path:
        """Replace what the file shows; gives the file.

        Raises:
            OutputError: it cannot be written, or the preview is no picture.
            ConfigError: it must be converted, and Pillow is not installed.
        """
        data = preview.data
        if preview.format != self._format:
            data = self._converted(preview)
        write_atomically(self.path, data, durable=False)
        return self.path

    def _converted(self, preview: Preview) -> bytes:
        file = io.BytesIO()
        try:
            preview.image().convert("RGB").save(file, self._format)
        except (OSError, SyntaxError, ValueError) as error:
            raise OutputError(f"A preview cannot be read: {error}.") from None
        return file.getvalue()
