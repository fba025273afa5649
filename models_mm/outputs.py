"""Tools write inside the folder that they were given, and never over a file that they read."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from models_mm.disk import replacing
from models_mm.errors import UserError

LONGEST = 200  # bytes of a part of a path; most file systems accept 255


class Outputs:
    """Paths for the output files of one run of a tool, whose names come from data.

    A name keeps its folders if they stay inside the output folder: ``..``, the root of an absolute
    name, and links that lead elsewhere are removed. Two names never get the same path, and no input
    is overwritten; a number is added instead. Files of earlier runs are replaced.

    Args:
        folder: the output folder; it is made when the first path is asked for.
        inputs: all files that the run reads.
    """

    def __init__(self, folder: str | Path, inputs: Iterable[str | Path] = ()):
        self.folder = Path(folder)
        self.inputs = inputs
        self.placed: set[str] = set()

    @cached_property
    def protected(self) -> set[str]:
        """The inputs, each as a path in its folder and as the file that a link leads to."""
        return {name for path in self.inputs for name in (_entry(path), os.path.realpath(path))}

    def path(self, name: str) -> Path:
        """The path for a file; its folder is made. A link at that path is removed, not followed.

        Raises:
            UserError: the output folder is a file, or cannot be made.
        """
        parts = [_fitting(part) for part in Path(name.replace("\0", "_")).parts]
        parts = [part for part in parts if part.strip("/") not in ("..", "")] or ["unnamed"]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} is no folder to write to: {error.strerror}") from error
        place = self._inside(parts)
        free, number = place, 1
        while not self._free(free):
            number += 1
            free = place.with_name(f"{place.stem}_{number}{place.suffix}")
        self.placed.add(_entry(free))
        if free.is_symlink() or (free.exists() and free.stat().st_nlink > 1):
            free.unlink()
        return free

    def _inside(self, parts: list[str]) -> Path:
        """The path of a name; folders that lead outside or cannot be made become part of it."""
        place = self.folder.joinpath(*parts)
        root = Path(os.path.realpath(self.folder))
        if Path(os.path.realpath(place.parent)).is_relative_to(root):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                return place
            except OSError:  # a file is where the folder should be
                pass
        return self.folder / _fitting("_".join(parts))

    def _free(self, place: Path) -> bool:
        entry = _entry(place)
        if entry in self.placed or (place.is_dir() and not place.is_symlink()):
            return False
        return not os.path.lexists(place) or entry not in self.protected


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``out`` at the end; after an error nothing is left.

    Args:
        out: a folder that is missing or empty.

    Raises:
        UserError: ``out`` has files or cannot be written.
    """
    out = Path(out)
    refuse_files(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:60]}-") as scratch:
            made = Path(scratch) / "made"  # the scratch folder itself is private
            made.mkdir()
            yield made
            os.replace(made, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error


def refuse_files(out: Path) -> None:
    """Refuse a folder that has files, and a file.

    Raises:
        UserError: ``out`` is neither missing nor an empty folder.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise UserError(f"{out} is a file: give a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give a new folder")


def write_whole(path: Path, content: str) -> None:
    """Write a text file in UTF-8, so that the path never has a part of it.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def refuse_input(out: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to overwrite a file that the tool reads.

    Raises:
        UserError: ``out`` is one of the inputs, possibly under another name.
    """
    if not os.path.exists(out):
        return
    for path in inputs:
        if os.path.exists(path) and os.path.samefile(path, out):
            raise UserError(f"{out} is read by this command: write to another file")


def _entry(path: str | Path) -> str:
    """A path with its folder resolved; a link as the last part is kept."""
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))


def _fitting(part: str) -> str:
    """The end of a part of a path that fits a file system, in bytes that it can encode."""
    try:
        encoded = os.fsencode(part)
    except UnicodeEncodeError:
        encoded = part.encode("utf-8", "replace")
    return os.fsdecode(encoded[-LONGEST:])
