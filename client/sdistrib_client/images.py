"""Where pictures go: names as sd-cli gives them, files that are there whole or not at all.

Naming is that of sd-cli's `save_results` (stable-diffusion.cpp 97d29908, examples/cli/main.cpp):
one picture goes to exactly `-o`, several to `stem_0.png`, `stem_1.png` …; a `%d` or `%03d` in `-o`
numbers them instead; a name without a known extension gets the format's appended; folders are made.

`-o -` writes the PNG to standard output and takes exactly one picture: several PNGs in one stream
are legal, but next to no program reads them.
"""

import contextlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sdistrib.params import PictureFormat
from sdistrib_client.errors import OutputError

_NUMBER = re.compile(r"((?:[^%]|^)(?:%%)*)%(\d{0,3})d")
#: Extensions, in lower case, and the formats that they mean. The first of a format is appended.
EXTENSIONS: dict[str, PictureFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".webp": "webp",
}
#: Extensions of videos alone.
_FILMS = (".avi", ".webm")


def extension_of(format_: str) -> str:
    """The usual extension of a format; of one that this version does not know, its own name."""
    usual = {known: suffix for suffix, known in reversed(EXTENSIONS.items())}
    return usual.get(format_, f".{format_}")  # type: ignore[call-overload,no-any-return]


def format_in(output: str) -> PictureFormat | None:
    """The format that a file name's extension means; None when it means none."""
    return EXTENSIONS.get(Path(output).suffix.lower())


class Outputs:
    """The files of one petition's pictures."""

    def __init__(
        self,
        output: str,
        images: int,
        begin_index: int = 0,
        format_: PictureFormat = "png",
    ) -> None:
        """Decide all names. The extension, if `output` has one, must be of `format_`.

        Raises:
            OutputError: the format is not supported, or several pictures go to standard output.
        """
        self.images = images
        self._begin_index = begin_index
        self.to_stdout = output == "-"
        if self.to_stdout and images > 1:
            raise OutputError("-o - writes one picture; give -o a file name for several.")
        if not output or "\0" in output or output.endswith("/"):
            raise OutputError(f"-o {output!r} is no file name.")
        path = Path(output)
        suffix = path.suffix
        if suffix.lower() in _FILMS:
            raise OutputError(f"-o {output}: {suffix} is for videos, which -M vid_gen draws.")
        meant = format_in(output)
        if meant not in (None, format_) and not self.to_stdout:
            usual = output[: -len(suffix)] + extension_of(format_)
            raise OutputError(
                f"-o {output} means {meant}, and the format is {format_}: name it {usual}, or leave"
                " the extension out."
            )
        self._format = format_
        if meant is not None:
            self._base, self._suffix = output[: -len(suffix)], suffix
        else:
            self._base, self._suffix = output, extension_of(format_)
        self._numbered = _NUMBER.search(output) is not None

    def path(self, index: int, format_: str = "") -> Path | None:
        """File of the picture of this index; None is standard output.

        A picture of another format than expected, from before a retry, gets its own extension.
        """
        if self.to_stdout:
            return None
        same = format_ in ("", self._format)
        suffix = self._suffix if same else extension_of(format_)
        number = self._begin_index + index
        if self._numbered:
            return Path(_fill(self._base, number) + suffix)
        tail = f"_{number}" if self.images > 1 else ""
        return Path(self._base + tail + suffix)

    def check(self) -> None:
        """Make the folder and try it, so that no picture is drawn in vain.

        Raises:
            OutputError: the files could not be written.
        """
        for index in range(0 if self.to_stdout else self.images):
            path = self.path(index) or Path()
            with _explained(path):
                if index == 0:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _temporary(path.parent).unlink()
                _check_target(path)

    def write(self, index: int, data: bytes, format_: str = "") -> Path | None:
        """Write one picture; returns its file, or None for standard output.

        Raises:
            OutputError: it could not be written.
        """
        path = self.path(index, format_)
        if path is None:
            write_stream(sys.stdout.buffer, data)
        else:
            write_atomically(path, data)
        return path


def write_stream(stream: BinaryIO, data: bytes) -> None:
    """Write a picture to an open stream.

    Raises:
        OutputError: the reader is gone, or the disk behind it is full.
    """
    try:
        stream.write(data)
        stream.flush()
    except OSError as error:
        raise OutputError(f"Standard output cannot be written: {error.strerror}.") from None


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file that is there whole or not at all; an older one stays until then.

    A symbolic link is followed, so that it stays a link. What is not `durable` may be lost when the
    machine fails.

    Raises:
        OutputError: it could not be written.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_target(path)
        target = path.resolve()
        temporary = _temporary(target.parent)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(target)
            if durable:
                _sync_folder(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _temporary(folder: Path) -> Path:
    """A new empty file that nobody else uses, with the rights of any new file."""
    path = folder / f".sdistrib-{secrets.token_hex(8)}.part"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return path


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: the manager forgets a picture once it is told that it is safe."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_target(path: Path) -> None:
    """What stands there already must be a file that may be replaced."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise OutputError(f"Cannot write {path}: it is a folder.")
    if not stat.S_ISREG(mode):
        raise OutputError(f"Cannot write {path}: it is no regular file.")
    if not os.access(path, os.W_OK):
        raise OutputError(f"Cannot write {path}: it is write-protected.")


def _fill(pattern: str, number: int) -> str:
    """Put the number in for each `%d` or `%0Nd`; then `%%` is a percent sign."""
    while (found := _NUMBER.search(pattern)) is not None:
        before, width = pattern[: found.end(1)], found[2]
        # "00" is C's way to write no width at all.
        text = f"{number:{width}d}" if width.strip("0") else str(number)
        pattern = before + text + pattern[found.end() :]
    return pattern.replace("%%", "%")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An operating-system error becomes one that names the picture's file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}.") from error
