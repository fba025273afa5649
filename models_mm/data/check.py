"""Find all problems of a data set in COCO's format before a training does.

A data set without findings of :func:`check_coco` can be trained on, evaluated, drawn and analysed.
Training and evaluation refuse the problems that :mod:`models_mm.data.fields` finds. The other
problems disturb them without stopping them; the harmless findings have no effect.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pycocotools import mask as coco_mask

from models_mm.data import images as image_files
from models_mm.data.fields import (
    Problem,
    annotation_problem,
    field_problems,
    mask_fault,
    read,
    shown,
    used_categories,
)
from models_mm.errors import UserError

MIN_SIZE = 32  # pixels; mmdet does not train on smaller images

# Kinds of findings that have no effect.
HARMLESS = {"no boxes", "small image", "four channels", "crowd as polygons"}


def check_coco(
    ann_file: str,
    img_prefix: str,
    classes: tuple[str, ...] | None = None,
    threads: int = 8,
    masks: str | None = None,
    training: bool = True,
) -> list[Problem]:
    """Find all problems of a data set.

    Args:
        ann_file: annotations in COCO's format.
        img_prefix: folder of the images; if it is empty, the images are not read.
        classes: the names of the trained categories (default: all).
        threads: images that are read at the same time.
        masks: how masks are used: ``None`` (not at all), ``"pixels"`` or ``"polygons"``.
        training: the data set is used for training, and not only for evaluation.

    Raises:
        UserError: the file is missing, is not JSON, or is not in COCO's format.
    """
    content = read(ann_file)
    problems = list(field_problems(content, classes))
    sound = without(content, problems)
    problems += check_categories(sound["categories"].values(), classes)
    problems += check_file_names(sound["images"].values())
    used = used_categories(content_of(sound), classes) if masks else frozenset()
    problems += check_annotations(sound, masks, used, training)
    problems += check_boxes_of_images(sound, problems)
    problems += check_anything_left(sound, classes, training)
    if img_prefix:
        folder, images = Path(img_prefix), sound["images"]
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(lambda at: check_image(at, images[at], folder), images):
                problems += found
    return problems


def without(content: dict, problems: list[Problem]) -> dict[str, dict[int, dict]]:
    """The entries without problems, as ``{list: {position: entry}}``."""
    wrong = {problem.entry for problem in problems}
    return {
        kind: {
            number: entry
            for number, entry in enumerate(content[kind])
            if (kind, number) not in wrong
        }
        for kind in ("images", "annotations", "categories")
    }


def content_of(sound: dict[str, dict[int, dict]]) -> dict[str, list[dict]]:
    """The entries as the lists of an annotation file."""
    return {kind: list(entries.values()) for kind, entries in sound.items()}


def check_categories(categories, classes: tuple[str, ...] | None) -> Iterator[Problem]:
    """Names that only the config or only the data set has."""
    if classes is None:
        return
    names = [category["name"] for category in categories]
    for name in classes:
        if name not in names:
            yield Problem(
                "class without category",
                shown(name),
                "name: the config trains it, the data lack it",
            )
    for name in names:
        if name not in classes:
            yield Problem(
                "category without class", shown(name), "name: its objects are not trained"
            )


def check_file_names(images) -> Iterator[Problem]:
    """File names that occur more than once."""
    for name, count in collections.Counter(image["file_name"] for image in images).items():
        if count > 1:
            yield Problem("duplicated image", shown(name), f"file_name: {count} times")


def check_annotations(
    sound: dict, masks: str | None, used: frozenset, training: bool
) -> Iterator[Problem]:
    """Check each object: its image, its category, its box, and its mask.

    Args:
        sound: as :func:`without` returns it.
        masks: as of :func:`check_coco`.
        used: the ids of the categories whose objects need masks.
        training: as of :func:`check_coco`.
    """
    images = {image["id"]: image for image in sound["images"].values()}
    categories = {category["id"] for category in sound["categories"].values()}
    for number, annotation in sound["annotations"].items():

        def problem(kind: str, field: str, reason: str, at=(number, annotation)) -> Problem:
            return annotation_problem(*at, field, reason)._replace(kind=kind)

        image = images.get(annotation["image_id"])
        if image is None:
            reason = f"no image has the id {shown(annotation['image_id'])}"
            yield problem("unknown image", "image_id", reason)
            continue
        if annotation["category_id"] not in categories:
            reason = f"no category has the id {shown(annotation['category_id'])}"
            yield problem("unknown category", "category_id", reason)
        (x, y, width, height), area = annotation["bbox"], annotation["area"]
        if width < 1 or height < 1 or area <= 0:
            reason = f"{annotation['bbox']}, area {area}"
            yield problem("degenerate box", "bbox", reason)
        elif x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
            reason = f"{annotation['bbox']} in {image['width']}x{image['height']}"
            yield problem("box outside", "bbox", reason)
        mask, crowd = annotation.get("segmentation"), annotation.get("iscrowd")
        needed = annotation["category_id"] in used and not (crowd and training)
        if mask is None and not needed:
            continue
        if (reason := mask_fault(mask, image, masks if needed else "pixels")) is not None:
            yield problem("bad segmentation", "segmentation", reason)
        elif not pixels(mask, image):
            yield problem("empty mask", "segmentation", "no pixel")
        elif crowd and isinstance(mask, list):
            yield problem("crowd as polygons", "segmentation", "COCO's crowds are run lengths")


def pixels(mask: list | dict, image: dict) -> int:
    """The number of pixels of a valid mask."""
    size = (image["height"], image["width"])
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, *size))
    elif isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, *size)
    return int(coco_mask.area(mask))


def check_boxes_of_images(sound: dict, problems: list[Problem]) -> Iterator[Problem]:
    """Images that have no object without a problem."""
    at_fault = {
        problem.entry[1]
        for problem in problems
        if problem.entry and problem.entry[0] == "annotations" and problem.kind not in HARMLESS
    }
    boxes = {
        annotation["image_id"]
        for number, annotation in sound["annotations"].items()
        if number not in at_fault and not annotation.get("iscrowd")
    }
    for number, image in sound["images"].items():
        if image["id"] not in boxes:
            yield image_problem("no boxes", number, image, "id", "left out of the training")


def check_anything_left(
    sound: dict, classes: tuple[str, ...] | None, training: bool
) -> Iterator[Problem]:
    """A data set of which mmdet would use no image."""
    used = used_categories(content_of(sound), classes)
    annotated = {
        annotation["image_id"]
        for annotation in sound["annotations"].values()
        if annotation["category_id"] in used
    }
    images = list(sound["images"].values())
    if training:
        images = [
            image
            for image in images
            if image["id"] in annotated and min(image["width"], image["height"]) >= MIN_SIZE
        ]
    if not images:
        reason = f"none with an object of a used category and at least {MIN_SIZE} pixels a side"
        yield Problem("nothing to use", "images", reason if training else "there are none")
    elif not used:
        yield Problem("nothing to use", "categories", "none is among the classes")


def image_problem(kind: str, number: int, image: dict, field: str, reason: str) -> Problem:
    """A problem of an image."""
    where = f"images[{number}] (id {shown(image['id'])}) {shown(image['file_name'])}"
    return Problem(kind, where, f"{field}: {reason}", ("images", number))


def check_image(number: int, image: dict, folder: Path) -> list[Problem]:
    """Compare an image file with its entry."""
    name, field = image["file_name"], "file_name"
    path = folder / name
    try:
        content = image_files.read_file(path)
    except UserError as error:
        return [image_problem("missing image", number, image, field, str(error))]
    try:
        # training and evaluation read it upright, as the EXIF tag of the camera says
        upright = image_files.decode(content, str(path))
        shape = image_files.decode(content, str(path), image_files.decode_unchanged).shape
    except UserError as error:
        return [image_problem("corrupt image", number, image, field, str(error))]
    found = []
    try:
        image_files.check_size(str(path), upright, image)
    except UserError as error:
        found.append(image_problem("wrong size", number, image, "width, height", str(error)))
    if len(shape) == 3 and shape[2] == 4:
        found.append(
            image_problem("four channels", number, image, field, "its transparency is ignored")
        )
    size = upright.shape[1::-1]
    if min(size) < MIN_SIZE:
        reason = f"{size[0]}x{size[1]}, left out of the training"
        found.append(image_problem("small image", number, image, "width, height", reason))
    return found
