"""Where tools write: inside the folder that they were given, and never over what they read."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import cv2

from models_mm.errors import UserError

LONGEST = 200  # bytes of a part of a name; most file systems take 255


class Outputs:
    """Places for the files of one run of a tool, whose names come from data.

    A name keeps its folders as far as they stay inside: ``..``, the root of an absolute name, and
    links that lead elsewhere do not. Two names never get the same place, and no file that is an
    input is written over; a number is added instead. Files of earlier runs are replaced.

    Args:
        folder: made when the first file is placed.
        inputs: all files that the run reads.
    """

    def __init__(self, folder: str | Path, inputs: Iterable[str | Path] = ()):
        self.folder = Path(folder)
        self.inputs = inputs
        self.placed: set[str] = set()

    @cached_property
    def protected(self) -> set[str]:
        """The inputs, each as an entry of its folder and as the file that it leads to."""
        return {name for path in self.inputs for name in (_entry(path), os.path.realpath(path))}

    def picture(self, name: str) -> Path:
        """A place for a picture of that name; ``.jpg`` is added to suffixes without a writer."""
        return self.path(name if writable(name) else f"{name}.jpg")

    def path(self, name: str) -> Path:
        """A place for a file, its folder made; a link that was there is removed, not followed.

        Raises:
            UserError: the folder is a file, or cannot be made.
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
        """The place of a name, without its folders where they lead outside or cannot be made."""
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


def refuse_input(out: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write over a file that the tool reads.

    Raises:
        UserError: ``out`` is one of the inputs, by whatever name.
    """
    if not os.path.exists(out):
        return
    for path in inputs:
        if os.path.exists(path) and os.path.samefile(path, out):
            raise UserError(f"{out} is read by this command: write to another file")


def files_of(dataset) -> list[str]:
    """All files that a data set reads, through mmdet's wrappers."""
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    if inner != [None]:
        return [file for part in inner for file in files_of(part)]
    folder = getattr(dataset, "img_prefix", None) or ""
    infos = getattr(dataset, "data_infos", None) or []
    names = [info["filename"] for info in infos if isinstance(info.get("filename"), str)]
    annotations = getattr(dataset, "ann_file", None)
    found = [os.path.join(folder, name) for name in names]
    return [*found, annotations] if isinstance(annotations, str) else found


def writable(name: str | Path) -> bool:
    """Whether OpenCV writes pictures with the suffix of a name."""
    suffix = Path(name).suffix
    return bool(suffix) and cv2.haveImageWriter(f"picture{suffix}")


def _entry(path: str | Path) -> str:
    """A path whose folder is resolved, but not the file itself, which may be a link."""
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))


def _fitting(part: str) -> str:
    """A part of a name that a file system takes: its end, in bytes that it can encode."""
    try:
        encoded = os.fsencode(part)
    except UnicodeEncodeError:
        encoded = part.encode("utf-8", "replace")
    return os.fsdecode(encoded[-LONGEST:])
