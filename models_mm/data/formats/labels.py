"""Labelled images in memory, the same for all formats, and what the readers of formats share.

An object is a dict with these fields. Coordinates are pixels of the upright image; the left edge of
the first pixel is 0:

* ``class``: the name of its class;
* ``bbox``: ``[x, y, width, height]``;
* ``area``: of the mask, or of the box if there is no mask;
* ``iscrowd``: 1 for a region that is neither trained on nor counted, else 0;
* ``segmentation``: polygons ``[[x, y, x, y, ...], ...]``, or run lengths of COCO. Objects without a
  mask lack this field.

Numbers that are whole have the type ``int``, so that equal data have equal files.
"""

import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from models_mm.data.fields import shown
from models_mm.data.images import regular_file
from models_mm.data.inputs import IMAGES
from models_mm.disk import open_regular
from models_mm.errors import UserError

OVERHANG = 1.0  # pixels; tools disagree whether the first pixel is 0 or 1, and they round
PARTS = ("train", "val", "test")
PART_FOLDERS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
EXIF_ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)  # orientations in which width and height change places


class Fault(NamedTuple):
    """Something that is wrong with a data set.

    Attributes:
        where: the file, with the line or the field.
        reason: what is wrong there, and the way out if it is not obvious.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass
class LabelledImage:
    """An image with its objects.

    Attributes:
        name: its file under the folder of its part, with ``/`` between folders.
        width: in pixels, of the upright image.
        height: in pixels, of the upright image.
        objects: as the module describes them.
    """

    name: str
    width: int
    height: int
    objects: list[dict] = field(default_factory=list)


@dataclass
class Part:
    """The images of one purpose: training, validation or testing.

    Attributes:
        folder: of the images.
        file: the file (or the folder) that the labels come from.
        images: sorted by name.
    """

    folder: Path
    file: Path
    images: list[LabelledImage]

    def __post_init__(self):
        self.images.sort(key=lambda image: image.name)

    def paths(self) -> set[str]:
        """The images as absolute paths, with links to folders resolved."""
        folder = os.path.realpath(self.folder)
        return {os.path.join(folder, image.name) for image in self.images}

    def objects(self) -> list[dict]:
        """The objects of all images."""
        return [thing for image in self.images for thing in image.objects]


@dataclass
class DataSet:
    """Labelled images of one source.

    Attributes:
        source: the file or folder that was given.
        format: ``"COCO"``, ``"YOLO"``, ``"VOC"`` or ``"description"``.
        classes: the names of the classes, in the order of the labels.
        parts: by name: ``train``, and perhaps ``val`` and ``test``.
        notes: what a user should know, but need not change.
        faults: what must be changed before the data set is used.
    """

    source: Path
    format: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def masks(self) -> str:
        """``"all"``, ``"some"`` or ``"none"`` of the objects have a mask; crowds do not count."""
        things = [t for part in self.parts.values() for t in part.objects() if not t["iscrowd"]]
        number = sum("segmentation" in thing for thing in things)
        return "none" if not number else "all" if number == len(things) else "some"

    def facts(self) -> list[str]:
        """What the data are, in lines: images, classes, and the notes."""
        numbers = ", ".join(f"{len(part.images)} {name}" for name, part in self.parts.items())
        number, shown = len(self.classes), ", ".join(self.classes[:8])
        rest = f" and {number - 8} more" if number > 8 else ""
        return [
            f"{numbers} images of {self.source} ({self.format})",
            f"{number} class{'es' * (number != 1)}: {shown}{rest}",
            *self.notes,
        ]

    def content(self, part: str) -> dict:
        """A part in COCO's format: the lists ``images``, ``annotations`` and ``categories``.

        All ids count from 1. Images are in the order of their names, categories in that of the
        classes, and the objects of an image in the order of category and box. So the same labels
        give the same lists, whatever format they are read from.
        """
        ids = {name: number for number, name in enumerate(self.classes, 1)}
        images: list[dict] = []
        annotations: list[dict] = []
        for number, image in enumerate(self.parts[part].images, 1):
            size = {"width": image.width, "height": image.height}
            images.append({"id": number, "file_name": image.name, **size})
            things = [t for t in image.objects if t["class"] in ids]
            for thing in sorted(things, key=lambda thing: (ids[thing["class"]], thing["bbox"])):
                entry = {"id": len(annotations) + 1, "image_id": number}
                entry["category_id"] = ids[thing["class"]]
                entry |= {key: value for key, value in thing.items() if key != "class"}
                annotations.append(entry)
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        return {"images": images, "annotations": annotations, "categories": categories}


def labelled_object(
    name: str,
    bbox: list,
    segmentation: list | dict | None = None,
    area: float | None = None,
    crowd: bool = False,
) -> dict:
    """An object as the module describes it.

    Args:
        name: of its class.
        bbox: x, y, width, height.
        segmentation: its mask, if it has one.
        area: default: that of the polygons or of the box.
        crowd: it is neither trained on nor counted.
    """
    if area is None:
        polygons = segmentation if isinstance(segmentation, list) else []
        area = sum(map(polygon_area, polygons)) if polygons else bbox[2] * bbox[3]
        area = round(area, 2)  # no digits that only come of the calculation
    thing = {"class": name, "bbox": [tidy(v) for v in bbox], "area": tidy(area)}
    thing["iscrowd"] = int(crowd)
    if isinstance(segmentation, list):
        thing["segmentation"] = [[tidy(v) for v in polygon] for polygon in segmentation]
    elif segmentation is not None:
        thing["segmentation"] = segmentation
    return thing


def tidy(value: float) -> float:
    """A number, as ``int`` if it is whole."""
    return int(value) if value == int(value) else value


def polygon_area(polygon: list) -> float:
    """The area of a polygon ``[x, y, x, y, ...]`` (the shoelace formula)."""
    xs, ys = polygon[::2], polygon[1::2]
    pairs = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in pairs)) / 2


def box_in_image(corners: Iterable[float], size: tuple[int, int], digits: int) -> list[float]:
    """A box as x, y, width, height; it is cut at the border of the image.

    Args:
        corners: left, top, right, bottom in pixels.
        size: width and height of the image.
        digits: the corners are rounded to so many decimal digits.

    Raises:
        ValueError: the box has no area, or extends beyond the image by more than ``OVERHANG``.
    """
    left, top, right, bottom = (round(value, digits) for value in corners)
    width, height = size
    said = f"the box from {left:g}, {top:g} to {right:g}, {bottom:g}"
    if min(left, top) < -OVERHANG or right > width + OVERHANG or bottom > height + OVERHANG:
        raise ValueError(f"{said} lies outside of the image of {width}x{height} pixels")
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise ValueError(f"{said} has no area")
    return [left, top, round(right - left, digits), round(bottom - top, digits)]


def class_name(value: object) -> str:
    """The name of a class; white space at its ends is removed.

    Raises:
        ValueError: it is no text, is empty, or has characters that cannot be printed.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value} is no name: YAML reads yes, no, on and off so; use quotes")
    name = str(value).strip() if isinstance(value, (str, int, float)) else ""
    if not name:
        raise ValueError(f"there is no name in {shown(value) or 'an empty text'}")
    if not name.isprintable():
        raise ValueError(f"{shown(value)} is no name of a class")
    return name


def finite(word: str) -> float:
    """A finite number.

    Raises:
        ValueError: it is none.
    """
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{shown(word)} is not a number")
    return value


def unlabelled_note(part: str, unlabelled: list[str], images: int, kind: str) -> list[str]:
    """A note about the images that have no labels, if there are any.

    Args:
        part: its name.
        unlabelled: the names of these images.
        images: the number of all images of the part.
        kind: of the file that they lack.
    """
    if not unlabelled:
        return []
    return [
        f"{part}: {len(unlabelled)} of {images} images have no {kind} and count as images without "
        f"objects, the first: {shown(unlabelled[0])}"
    ]


def similar_names(classes: Iterable[str]) -> list[str]:
    """A note about each pair of names that differ only in upper and lower case."""
    seen: dict[str, str] = {}
    notes = []
    for name in classes:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            notes.append(
                f"the classes {other!r} and {name!r} differ only in upper and lower case: they are "
                "two classes; rename one if they are meant to be one"
            )
    return notes


def read_text(path: Path, limit: int) -> str:
    """Read a text file in UTF-8.

    Args:
        path: of a regular file.
        limit: its largest size in bytes.

    Raises:
        UserError: the file is missing, too large, not UTF-8, or no regular file.
    """
    name = named(path)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise UserError(f"{name} has {size:,} bytes; at most {limit:,} are read")
            return file.read(limit).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UserError(f"{name} cannot be read: {reason}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is shown: upright. Only its header is read.

    Raises:
        UserError: the file is missing, or is no image.
    """
    regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and odd EXIF data
            with Image.open(path) as image:
                # Pillow would decode a whole PNG to look for EXIF data behind its pixels
                known = image.format != "PNG" or "exif" in image.info
                turned = known and image.getexif().get(EXIF_ORIENTATION) in TURNED
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise UserError(f"image {named(path)} is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{named(path)} is no image, or a damaged one") from error
    except Exception as error:  # Pillow raises errors of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"image {named(path)} cannot be read: {reason}") from error
    return (height, width) if turned else (width, height)


def named(path: Path) -> str:
    """A path for a message."""
    return shown(str(path))


def is_image(path: Path) -> bool:
    """Whether a path has the suffix of an image."""
    return path.suffix.lower() in IMAGES


def leads_outside(name: str) -> bool:
    """Whether a file name is absolute or has ``..`` in it."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or "\0" in name


def same_label_file(images: Iterable[Path]) -> list[Fault]:
    """A fault for each image with the name of another one in its folder except for the suffix."""
    first: dict[Path, Path] = {}
    faults = []
    for image in images:
        other = first.setdefault(image.with_suffix(""), image)
        if other != image:
            reason = f"{shown(other.name)} has the same label file; rename or remove one of them"
            faults.append(Fault(named(image), reason))
    return faults
