"""Write labelled images in the formats of COCO, YOLO and Pascal VOC.

``models_mm.data.formats`` describes the formats, and how pixels are counted in them.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

import numpy as np
import yaml
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from models_mm.data.demo import outlines
from models_mm.data.formats.labels import DataSet, LabelledImage, Part
from models_mm.outputs import new_folder, write_whole

FORMATS = ("coco", "yolo", "voc")


def write_annotations(data: DataSet, folder: str | Path) -> dict[str, Path]:
    """Write the annotations in COCO's format; the images stay where they are.

    Args:
        data: the labelled images.
        folder: gets ``annotations/<part>.json``, the names of the images in ``<part>.txt``, and
            ``data.yaml``: a description (:mod:`models_mm.data.sources`) of all of it.

    Returns:
        The JSON file of each part. Its ``file_name`` are relative to the folder of the part.

    Raises:
        UserError: a file cannot be written.
    """
    folder = Path(folder)
    files, description = {}, {}
    for name, part in data.parts.items():
        files[name] = folder / "annotations" / f"{name}.json"
        write_whole(files[name], json.dumps(data.content(name)))
        write_whole(folder / f"{name}.txt", "".join(f"{image.name}\n" for image in part.images))
        description[name] = f"annotations/{name}.json"
        images, start = os.path.realpath(part.folder), os.path.realpath(folder)
        description[f"{name}_images"] = os.path.relpath(images, start)
    description["classes"] = list(data.classes)
    write_whole(folder / "data.yaml", as_yaml(description))
    return files


def changed_annotations(data: DataSet, folder: Path) -> Path | None:
    """The first file of :func:`write_annotations` that is there with other annotations."""
    for name in data.parts:
        file = folder / "annotations" / f"{name}.json"
        if file.exists() and file.read_text() != json.dumps(data.content(name)):
            return file
    return None


def convert(data: DataSet, form: str, out: str | Path, link: bool = False) -> list[str]:
    """Write a data set with its images in another format.

    Args:
        data: the labelled images.
        form: ``"coco"``, ``"yolo"`` or ``"voc"``.
        out: a new or empty folder; it is whole or not there at all.
        link: the images become symbolic links instead of copies.

    Returns:
        What the format cannot hold, one line for each kind of loss.

    Raises:
        UserError: ``out`` has files or cannot be written.
    """
    write = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}[form]
    losses: Counter[str] = Counter()
    with new_folder(out) as folder:
        write(data, folder, link, losses)
    return [f"{loss} ({number})" for loss, number in losses.items()]


def write_coco(data: DataSet, folder: Path, link: bool, losses: Counter) -> None:
    """Write ``annotations/instances_<part>.json``, and the images to ``<part>/``."""
    for name, part in data.parts.items():
        write_text(folder / f"annotations/instances_{name}.json", json.dumps(data.content(name)))
        for image in part.images:
            put_image(part, image, folder / name / image.name, link)


def write_yolo(data: DataSet, folder: Path, link: bool, losses: Counter) -> None:
    """Write ``data.yaml``, ``labels/<part>/``, and the images to ``images/<part>/``."""
    settings: dict = {}
    for name, part in data.parts.items():
        settings[name] = f"images/{name}"
        (folder / settings[name]).mkdir(parents=True)
        (folder / "labels" / name).mkdir(parents=True)
        used: set[str] = set()
        for image in part.images:
            place = unique_name(image.name, used, losses)
            put_image(part, image, folder / "images" / name / place, link)
            lines = yolo_lines(image, data.classes, losses)
            if lines:
                labels = (folder / "labels" / name / place).with_suffix(".txt")
                write_text(labels, "".join(f"{line}\n" for line in lines))
    settings["names"] = dict(enumerate(data.classes))
    write_text(folder / "data.yaml", as_yaml(settings))


def yolo_lines(image: LabelledImage, classes: tuple[str, ...], losses: Counter) -> list[str]:
    """The lines of the objects of an image; crowds have none."""
    lines = []
    for thing in image.objects:
        if thing["iscrowd"]:
            losses["crowds and difficult objects are left out"] += 1
            continue
        polygons = polygons_of(thing.get("segmentation"))
        if polygons:
            if len(polygons) > 1:
                losses["masks in several parts are joined to one polygon"] += 1
            values = joined(polygons)
        else:
            left, top, right, bottom = corners(thing, image)
            values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        size = (image.width, image.height)
        parts = [min(max(value / size[i % 2], 0), 1) for i, value in enumerate(values)]
        lines.append(" ".join([str(classes.index(thing["class"])), *map(decimal, parts)]))
    return lines


def write_voc(data: DataSet, folder: Path, link: bool, losses: Counter) -> None:
    """Write ``Annotations/``, ``ImageSets/Main/<part>.txt``, and the images to ``JPEGImages/``."""
    used: set[str] = set()
    found = {thing["class"] for part in data.parts.values() for thing in part.objects()}
    if unused := len(set(data.classes) - found):
        losses["classes without objects are left out"] = unused
    for name, part in data.parts.items():
        listed = []
        for image in part.images:
            flat = "".join(c if c.isprintable() else "_" for c in image.name.replace("/", "_"))
            if flat != image.name:
                losses["images get new names, as there is one folder"] += 1
            place = unique_name(flat, used, losses)
            put_image(part, image, folder / "JPEGImages" / place, link)
            stem = PurePosixPath(place).stem
            write_text(folder / f"Annotations/{stem}.xml", voc_annotation(image, place, losses))
            listed.append(f"{stem}\n")
        write_text(folder / f"ImageSets/Main/{name}.txt", "".join(listed))


def voc_annotation(image: LabelledImage, name: str, losses: Counter) -> str:
    """The XML of an image.

    Args:
        image: with its objects.
        name: of its file.
        losses: counts what VOC cannot hold.
    """
    lines = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{escape(name)}</filename>",
    ]
    size = f"<width>{image.width}</width><height>{image.height}</height><depth>3</depth>"
    lines.append(f"  <size>{size}</size>")
    for thing in image.objects:
        if "segmentation" in thing:
            losses["masks are left out"] += 1
        exact = corners(thing, image)
        left, top, right, bottom = map(round, exact)
        left, top = min(left, image.width - 1), min(top, image.height - 1)  # a pixel of the image
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        if exact != (left, top, right, bottom):
            losses["boxes are rounded to whole pixels"] += 1
        sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
        lines += ["  <object>", f"    <name>{escape(thing['class'])}</name>"]
        lines.append("    <pose>Unspecified</pose><truncated>0</truncated>")
        lines.append(f"    <difficult>{thing['iscrowd']}</difficult>")
        lines += [f"    <bndbox>{box}</bndbox>", "  </object>"]
    return "\n".join([*lines, "</annotation>\n"])


def corners(thing: dict, image: LabelledImage) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an object's box, cut at the border of the image."""
    x, y, width, height = thing["bbox"]
    right, bottom = min(x + width, image.width), min(y + height, image.height)
    return max(x, 0), max(y, 0), right, bottom


def polygons_of(mask: list | dict | None) -> list[list]:
    """A mask as polygons; run lengths become polygons along the edges of their pixels."""
    if not isinstance(mask, dict):
        return mask or []
    if isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, *mask["size"])
    x, y, width, height = (int(value) for value in coco_mask.toBbox(mask))
    if not width or not height:
        return []
    pixels = coco_mask.decode(mask)[y : y + height, x : x + width].astype(bool)
    moved = (np.reshape(polygon, (-1, 2)) + (x, y) for polygon in outlines(pixels))
    return [polygon.ravel().tolist() for polygon in moved]


def joined(polygons: list[list]) -> list[float]:
    """One polygon for several: each is joined to those before it by a line there and back.

    The line goes between the nearest corners, and has no area.
    """
    first, *others = (np.reshape(polygon, (-1, 2)) for polygon in polygons)
    for other in others:
        distances, nearest = cKDTree(first).query(other)
        there = distances.argmin()
        here = nearest[there]
        tour = np.concatenate([other[there:], other[: there + 1]])
        first = np.concatenate([first[: here + 1], tour, first[here:]])
    return first.ravel().tolist()


def unique_name(name: str, used: set[str], losses: Counter) -> str:
    """A name for an image whose label file no other image has; it is added to ``used``."""
    path, number = PurePosixPath(name), 1
    place = path
    while str(place.with_suffix("")) in used:
        number += 1
        place = path.with_name(f"{path.stem}_{number}{path.suffix}")
    if place != path:
        losses["images get new names, as others have the same label file"] += 1
    used.add(str(place.with_suffix("")))
    return str(place)


def put_image(part: Part, image: LabelledImage, place: Path, link: bool) -> None:
    """Copy an image, or link to it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if link:
        place.symlink_to(os.path.realpath(part.folder / image.name))
    else:
        shutil.copyfile(part.folder / image.name, place)


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def decimal(value: float) -> str:
    """A number with at most nine decimal digits: enough for a thousandth of any pixel."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def as_yaml(content: dict) -> str:
    """A mapping as YAML, in its order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
