"""All that can be wrong with a data set in COCO's format, found before a training meets it.

What :func:`check_coco` does not object to can be trained on, evaluated, drawn and analysed. What
:mod:`models_mm.data.fields` refuses is refused by these too; the rest of the problems disturb
them without stopping them, and the harmless findings do not even that.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmdet.datasets import DATASETS
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from pycocotools import mask as coco_mask

from models_mm.data import images as image_files
from models_mm.data.fields import Problem, field_problems, mask_fault, of_annotation, read, shown, used_categories
from models_mm.data.annotations import masks_of
from models_mm.errors import UserError

MIN_SIZE = 32  # pixels; mmdet leaves smaller images out of the training

# Kinds that are only worth knowing.
HARMLESS = {"no boxes", "small image", "four channels", "crowd as polygons"}


def check_coco(
    ann_file: str,
    img_prefix: str,
    classes: tuple[str, ...] | None = None,
    threads: int = 8,
    masks: str | None = None,
    training: bool = True,
) -> list[Problem]:
    """All problems of a data set.

    Args:
        ann_file: annotations in COCO's format.
        img_prefix: folder of the images; an empty one leaves them unread.
        classes: the names that a config trains, if any.
        threads: images read at a time.
        masks: what is made of masks: nothing, ``"pixels"`` or ``"polygons"``.
        training: the data set is to be trained on, and not only evaluated.

    Raises:
        UserError: the file is missing, not JSON, or not COCO's.
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
    """The entries of each list by their places, those with problems left out."""
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
    """The entries as an annotation file has them."""
    return {kind: list(entries.values()) for kind, entries in sound.items()}


def check_categories(categories, classes: tuple[str, ...] | None) -> Iterator[Problem]:
    """Names that the config and the data set do not share."""
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
    """Files that occur twice."""
    for name, count in collections.Counter(image["file_name"] for image in images).items():
        if count > 1:
            yield Problem("duplicated image", shown(name), f"file_name: {count} times")


def check_annotations(
    sound: dict, masks: str | None, used: frozenset, training: bool
) -> Iterator[Problem]:
    """Each object: its references, its box, its mask, which those of used categories need."""
    images = {image["id"]: image for image in sound["images"].values()}
    categories = {category["id"] for category in sound["categories"].values()}
    for number, annotation in sound["annotations"].items():

        def problem(kind: str, field: str, reason: str, at=(number, annotation)) -> Problem:
            return of_annotation(*at, field, reason)._replace(kind=kind)

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
    """The number of an object's pixels, of a mask without faults."""
    size = (image["height"], image["width"])
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, *size))
    elif isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, *size)
    return int(coco_mask.area(mask))


def check_boxes_of_images(sound: dict, problems: list[Problem]) -> Iterator[Problem]:
    """Images without an object, or without one that is not at fault."""
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
            yield of_image("no boxes", number, image, "id", "left out of the training")


def check_anything_left(
    sound: dict, classes: tuple[str, ...] | None, training: bool
) -> Iterator[Problem]:
    """Whether mmdet keeps any image."""
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


def of_image(kind: str, number: int, image: dict, field: str, reason: str) -> Problem:
    """A finding about an image."""
    where = f"images[{number}] (id {shown(image['id'])}) {shown(image['file_name'])}"
    return Problem(kind, where, f"{field}: {reason}", ("images", number))


def check_image(number: int, image: dict, folder: Path) -> list[Problem]:
    """One image file against its entry."""
    name, field = image["file_name"], "file_name"
    path = folder / name
    try:
        content = image_files.read_file(path)
    except UserError as error:
        return [of_image("missing image", number, image, field, str(error))]
    try:
        # as training and evaluation read it: with the orientation of the camera applied
        upright = image_files.decode(content, str(path))
        shape = image_files.decode(content, str(path), "unchanged").shape
    except UserError as error:
        return [of_image("corrupt image", number, image, field, str(error))]
    found = []
    try:
        image_files.check_size(str(path), upright, image)
    except UserError as error:
        found.append(of_image("wrong size", number, image, "width, height", str(error)))
    if len(shape) == 3 and shape[2] == 4:
        found.append(of_image("four channels", number, image, field, "its transparency is ignored"))
    size = upright.shape[1::-1]
    if min(size) < MIN_SIZE:
        reason = f"{size[0]}x{size[1]}, left out of the training"
        found.append(of_image("small image", number, image, "width, height", reason))
    return found


def sources(
    dataset, training: bool = True, metrics: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict | None]]:
    """The parts of a data set of a config, wrappers and lists taken apart.

    Args:
        dataset: ``cfg.data.train`` or another.
        training: as :func:`check_coco`.
        metrics: of the evaluation.

    Yields:
        What messages call the part, and the arguments of :func:`check_coco`, or ``None`` where it
        is not in COCO's format.
    """
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from sources(part, training, metrics)
        return
    inner = dataset.get("dataset") or dataset.get("datasets")
    if inner is not None:
        yield from sources(inner, training, metrics)
        return
    kind = DATASETS.get(dataset.get("type"))
    files, folders = dataset.get("ann_file"), dataset.get("img_prefix")
    files = list(files) if isinstance(files, (list, tuple)) else [files]
    if not isinstance(folders, (list, tuple)):
        folders = [folders] * len(files)
    root = Path(dataset.get("data_root") or "")
    evaluated = "pixels" if "segm" in metrics else None
    for file, folder in zip(files, folders, strict=False):
        name = f"{dataset.get('type')} {file}"
        if kind is None or not issubclass(kind, MMDetCocoDataset) or not isinstance(file, str):
            yield name, None
            continue
        yield (
            name,
            dict(
                ann_file=str(root / file),
                img_prefix=str(root / (folder or "")),
                classes=tuple(kind.get_classes(dataset.get("classes")) or ()) or None,
                masks=masks_of(dataset.get("pipeline")) if training else evaluated,
                training=training,
            ),
        )
