"""Find all problems of labelled images of any format before a training does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from models_mm.data.check import MIN_SIZE, check_coco, check_image
from models_mm.data.fields import Problem
from models_mm.data.formats.labels import DataSet, LabelledImage, Part, named

THREADS = 8  # images that are read at the same time


def check_labels(data: DataSet, masks: bool = False) -> list[Problem]:
    """Find all problems of labelled images.

    Args:
        data: as it was read, with its faults.
        masks: every object needs a mask.

    Raises:
        UserError: a file cannot be read any more.
    """
    problems: list[Problem] = []
    for name, part in data.parts.items():
        if part.file.suffix.lower() == ".json":
            problems += check_json(part, "pixels" if masks else None, training=name == "train")
        else:
            problems += check_images(part)
            if name == "train" and not any(map(is_used, part.images)):
                reason = f"none with an object and at least {MIN_SIZE} pixels a side"
                problems.append(Problem("nothing to use", named(part.file), reason))
            if masks:
                problems += filter(None, (without_mask(part, image) for image in part.images))
    known = {(problem.where, problem.detail) for problem in problems}
    faults = [fault for fault in data.faults if (fault.where, fault.reason) not in known]
    return [Problem("fault", fault.where, fault.reason) for fault in faults] + problems


def is_used(image: LabelledImage) -> bool:
    """Whether a training uses an image."""
    return bool(image.objects) and min(image.width, image.height) >= MIN_SIZE


def check_json(part: Part, masks: str | None, training: bool) -> Iterator[Problem]:
    """Find what is wrong with a part in COCO's format; messages begin with its file."""
    found = check_coco(str(part.file), str(part.folder), masks=masks, training=training)
    for problem in found:
        yield problem._replace(where=f"{named(part.file)}: {problem.where}")


def check_images(part: Part) -> Iterator[Problem]:
    """Read all images of a part; messages begin with the file of the image."""

    def check(image: LabelledImage) -> list[Problem]:
        entry = {"id": 0, "file_name": image.name, "width": image.width, "height": image.height}
        return check_image(0, entry, part.folder)

    with ThreadPoolExecutor(THREADS) as pool:
        for image, found in zip(part.images, pool.map(check, part.images), strict=True):
            for kind, _, detail, _ in found:
                yield Problem(kind, named(part.folder / image.name), detail)
            if not any(not thing["iscrowd"] for thing in image.objects):
                where = named(part.folder / image.name)
                yield Problem("no boxes", where, "left out of the training")


def without_mask(part: Part, image: LabelledImage) -> Problem | None:
    """The problem of an image that has an object with a box only."""
    number = sum("segmentation" not in t and not t["iscrowd"] for t in image.objects)
    if not number:
        return None
    return Problem("no mask", named(part.folder / image.name), f"{number} objects have a box only")
