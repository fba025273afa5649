"""All that can be wrong with a data set in COCO's format, found before a training meets it."""

import collections
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from models_mm.errors import UserError

MIN_SIZE = 32  # pixels; mmdet leaves smaller images out of the training


class Problem(NamedTuple):
    """One finding: its kind, what it concerns, and details."""

    kind: str
    where: str
    detail: str


# What each kind means for a training; the rest are only worth knowing.
HARMLESS = {"no boxes", "small image", "four channels", "crowd as polygons"}


def check_coco(
    ann_file: str, img_prefix: str, classes: tuple[str, ...] | None = None, threads: int = 8
) -> list[Problem]:
    """All problems of a data set.

    Args:
        ann_file: annotations in COCO's format.
        img_prefix: folder of the images; an empty one leaves them unread.
        classes: the names that a config trains, if any.
        threads: images read at a time.

    Raises:
        UserError: the file is missing, not JSON, or not COCO's.
    """
    content = read(ann_file)
    images = {image["id"]: image for image in content["images"]}
    problems = [*check_ids(content), *check_categories(content["categories"], classes)]
    boxes = collections.Counter()
    categories = {category.get("id") for category in content["categories"]}
    for annotation in content["annotations"]:
        found = list(check_annotation(annotation, images, categories))
        problems += found
        if not any(problem.kind not in HARMLESS for problem in found):
            boxes[annotation["image_id"]] += not annotation.get("iscrowd")
    for key, image in images.items():
        if not boxes[key]:
            problems.append(Problem("no boxes", image["file_name"], "left out of the training"))
    if img_prefix:
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(
                lambda image: check_image(image, Path(img_prefix)), images.values()
            ):
                problems += found
    return problems


def read(ann_file: str) -> dict:
    """The content of an annotation file, with the three lists that it must have.

    Raises:
        UserError: as :func:`check_coco`.
    """
    try:
        content = json.loads(Path(ann_file).read_bytes())
    except OSError as error:
        raise UserError(f"{ann_file} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{ann_file} is not JSON: {error}") from error
    wanted = {
        "images": {"id", "file_name", "width", "height"},
        "annotations": {"id", "image_id", "category_id", "bbox"},
        "categories": {"id", "name"},
    }
    for key, fields in wanted.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{ann_file} is not in COCO's format: it has no list of {key!r}")
        for number, entry in enumerate(entries):
            if not fields <= entry.keys():
                lacking = ", ".join(sorted(fields - entry.keys()))
                raise UserError(
                    f"{ann_file} is not in COCO's format: {key}[{number}] has no {lacking}"
                )
    return content


def check_ids(content: dict) -> Iterator[Problem]:
    """Ids and files that occur twice."""
    for kind in ("images", "annotations", "categories"):
        counts = collections.Counter(entry["id"] for entry in content[kind])
        for key, count in counts.items():
            if count > 1:
                yield Problem("duplicated id", f"{kind} {key}", f"{count} times")
    names = collections.Counter(image["file_name"] for image in content["images"])
    for name, count in names.items():
        if count > 1:
            yield Problem("duplicated image", name, f"{count} times")


def check_categories(categories: list[dict], classes: tuple[str, ...] | None) -> Iterator[Problem]:
    """Names that the config and the data set do not share."""
    if classes is None:
        return
    names = [category["name"] for category in categories]
    for name in classes:
        if name not in names:
            yield Problem("class without category", name, "the config trains it, the data lack it")
    for name in names:
        if name not in classes:
            yield Problem("category without class", name, "its objects are not trained")
    wanted = [name for name in names if name in classes]
    if len(wanted) != len(set(wanted)):
        yield Problem("duplicated category", ", ".join(sorted(set(wanted))), "the same name twice")


def check_annotation(annotation: dict, images: dict, categories: set) -> Iterator[Problem]:
    """One object: its references, its box, its mask."""
    where = f"annotation {annotation['id']}"
    image = images.get(annotation["image_id"])
    if image is None:
        yield Problem("unknown image", where, f"image {annotation['image_id']}")
        return
    where += f" of {image['file_name']}"
    if annotation["category_id"] not in categories:
        yield Problem("unknown category", where, f"category {annotation['category_id']}")
    box = annotation["bbox"]
    if not _numbers(box) or len(box) != 4 or not np.isfinite(box).all():
        yield Problem("bad box", where, f"{box} is not x, y, width, height")
    else:
        x, y, width, height = box
        if width < 1 or height < 1 or annotation.get("area", 1) <= 0:
            yield Problem("degenerate box", where, f"{box}, area {annotation.get('area')}")
        elif x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
            yield Problem("box outside", where, f"{box} in {image['width']}x{image['height']}")
    if annotation.get("segmentation") is not None:
        yield from check_mask(annotation, image, where)


def _numbers(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
    )


def check_mask(annotation: dict, image: dict, where: str) -> Iterator[Problem]:
    """Polygons or run lengths of one object."""
    mask, height, width = annotation["segmentation"], image["height"], image["width"]
    if isinstance(mask, list):
        if annotation.get("iscrowd"):
            yield Problem("crowd as polygons", where, "COCO's crowds are run lengths")
        if not mask:
            yield Problem("empty mask", where, "no polygon")
        for polygon in mask:
            if not _numbers(polygon):
                yield Problem("bad mask", where, "a polygon is not a list of numbers")
                return
            if len(polygon) < 6 or len(polygon) % 2:
                # pycocotools takes four numbers for a box
                yield Problem("bad polygon", where, f"{len(polygon)} numbers are no polygon")
                return
    if mask:
        try:
            decoded = decode(mask, height, width)
        except Exception as error:  # pycocotools raises whatever it stumbles over
            yield Problem("bad mask", where, f"does not decode ({type(error).__name__}: {error})")
            return
        if decoded.shape[:2] != (height, width):
            size = f"{decoded.shape[1]}x{decoded.shape[0]}"
            yield Problem("bad mask", where, f"{size} in an image of {width}x{height}")
        elif not decoded.any():
            yield Problem("empty mask", where, "no pixel")


def decode(mask, height: int, width: int) -> np.ndarray:
    """A mask of polygons or run lengths as pixels ``(H, W)``."""
    if isinstance(mask, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(mask, height, width)))
    rows, columns = mask["size"]
    counts = mask["counts"]
    if isinstance(counts, list):
        # pycocotools does not look whether they fill the image
        if not _numbers(counts) or min(counts, default=0) < 0 or sum(counts) != rows * columns:
            raise ValueError("its run lengths do not fill the image")
        mask = coco_mask.frPyObjects(mask, rows, columns)
    elif (rows, columns) != (height, width):
        raise ValueError(f"its size is {columns}x{rows}")
    return coco_mask.decode(mask)


def check_image(image: dict, folder: Path) -> list[Problem]:
    """One image file against its entry."""
    name = image["file_name"]
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        return [Problem("missing image", name, error.strerror)]
    for kind, start, end in (("JPEG", b"\xff\xd8", b"\xff\xd9"), ("PNG", b"\x89PNG", b"IEND")):
        # a little may follow the end; data of an image hold no such mark
        if content.startswith(start) and end not in content[-1024:]:
            return [Problem("corrupt image", name, f"the {kind} is cut off")]
    buffer = np.frombuffer(content, np.uint8)
    pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if content else None
    if pixels is None:
        return [Problem("corrupt image", name, f"{len(content):,} bytes that are no image")]
    found = []
    # as the training reads it: with the orientation of the camera applied
    upright = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    size, said = (upright.shape[1], upright.shape[0]), (image["width"], image["height"])
    if size != said:
        found.append(Problem("wrong size", name, f"{size} instead of {said}"))
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        found.append(Problem("four channels", name, "transparency is ignored"))
    if min(size) < MIN_SIZE:
        found.append(Problem("small image", name, f"{size}, left out of the training"))
    return found
