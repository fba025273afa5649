"""Annotation files are read in one place for training, evaluation, browsing and analysis."""

import warnings

from models_mm.data.fields import (
    Problem,
    annotation_problem,
    field_problems,
    mask_fault,
    read,
    used_categories,
)
from models_mm.errors import UserError


def load(
    ann_file: str,
    classes: tuple[str, ...] | None = None,
    masks: str | None = None,
    testing: bool = False,
) -> dict:
    """Read an annotation file and check every field.

    A missing ``iscrowd`` becomes 0. A mask that cannot be used is removed with a warning if the
    object needs no mask.

    Args:
        ann_file: annotations in COCO's format.
        classes: the names of the used categories (default: all).
        masks: how the training uses masks: ``None`` (not at all), ``"pixels"`` or ``"polygons"``.
        testing: the list of annotations may be missing.

    Returns:
        The content of the file.

    Raises:
        UserError: names the file, and the entry and field of the first problem.
    """
    content = read(ann_file, testing)
    for problem in field_problems(content, classes):
        raise refusal(ann_file, problem)
    left_out = []
    images = {image["id"]: image for image in content["images"]}
    used = used_categories(content, classes) if masks else frozenset()
    for number, annotation in enumerate(content.get("annotations", ())):
        crowd = annotation["iscrowd"] = int(annotation.get("iscrowd", 0))
        image, mask = images.get(annotation["image_id"]), annotation.get("segmentation")
        needed = not crowd and annotation["category_id"] in used
        if image is None or not (needed or mask):  # nothing reads this mask
            continue
        reason = mask_fault(mask, image, masks if needed else "pixels")
        if reason is not None:
            problem = annotation_problem(number, annotation, "segmentation", reason)
            if needed:
                raise refusal(ann_file, problem)
            del annotation["segmentation"]
            left_out.append(problem)
    if left_out:
        first = left_out[0]
        warnings.warn(
            f"{ann_file}: {len(left_out)} masks cannot be used and are left out, the first: "
            f"{first.where}: {first.detail}",
            stacklevel=2,
        )
    return content


def refusal(ann_file: str, problem: Problem) -> UserError:
    """The error for a file with a problem that cannot be worked around."""
    return UserError(
        f"{ann_file}: {problem.where}: {problem.detail} (tools/check_dataset.py lists all problems)"
    )
