"""Results of a detector beside the data set that they belong to: whether they fit, what counts."""

import warnings

import numpy as np

from models_mm.errors import UserError


def check_results(results: list, images: int, classes: int) -> None:
    """Refuse results that cannot be those of a data set.

    Args:
        results: one per image: boxes (n, 5) of each class; those and masks; or proposals (n, 5).
        images: of the data set.
        classes: of the config.

    Raises:
        UserError: another number of images or classes, or an entry of another form.
    """
    if not isinstance(results, list) or len(results) != images:
        number = len(results) if isinstance(results, list) else "no list of"
        raise UserError(f"{number} results for {images} images")
    for place, result in enumerate(results):
        fault = fault_of(result, classes)
        if fault is None and type(result) is not type(results[0]):
            fault = f"is a {type(result).__name__}, the first one a {type(results[0]).__name__}"
        if fault:
            raise UserError(f"the result of image {place} {fault}")


def fault_of(result, classes: int) -> str | None:
    """What is wrong with the result of one image."""
    masks = None
    if isinstance(result, np.ndarray):
        per_class = [result]
    elif isinstance(result, list):
        per_class = result
    elif isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], list):
        per_class, masks = result
    else:
        return "is neither boxes of each class, nor boxes and masks, nor proposals"
    if not isinstance(result, np.ndarray) and len(per_class) != classes:
        return f"is of {len(per_class)} classes, the config has {classes}"
    for boxes in per_class:
        numbers = isinstance(boxes, np.ndarray) and boxes.dtype.kind in "fiu"
        if not (numbers and boxes.ndim == 2 and boxes.shape[1] == 5):
            return "has boxes that are not an array of left, top, right, bottom and score"
    for part in masks if isinstance(masks, tuple) else [masks] if masks is not None else []:
        countable = isinstance(part, list) and all(
            isinstance(of, (list, np.ndarray)) for of in part
        )
        if not countable or list(map(len, part)) != list(map(len, per_class)):
            return "has not as many masks as boxes"
    return None


def counting(results: list, labels: list[int]) -> list:
    """Results of some classes only, without detections that have no finite box and score.

    Such a detection is nowhere, or has no rank: it counts as if it had not been made, with a
    warning.

    Args:
        results: as :func:`check_results` takes them; not changed.
        labels: the classes that are kept, in order.
    """
    if not results:
        return results
    proposals = isinstance(results[0], np.ndarray)
    flat = [b for result in results for b in ([result] if proposals else boxes_of(result))]
    finite = not flat or np.isfinite(np.concatenate(flat)).all()
    if finite and (proposals or labels == list(range(len(boxes_of(results[0]))))):
        return results
    lost = 0
    kept = []
    for result in results:
        if proposals:
            good = np.isfinite(result).all(1)
            lost += np.count_nonzero(~good)
            kept.append(result[good])
            continue
        good = [np.isfinite(boxes_of(result)[label]).all(1) for label in labels]
        lost += sum(np.count_nonzero(~of_class) for of_class in good)
        kept.append(_chosen(result, labels, good))
    if lost:
        message = f"{lost} detections have a box or score that is not finite: they do not count"
        warnings.warn(message, stacklevel=2)
    return kept


def boxes_of(result) -> list[np.ndarray]:
    """The boxes (n, 5) of each class, of a result with or without masks."""
    return result[0] if isinstance(result, tuple) else result


def _chosen(part, labels: list[int], good: list[np.ndarray]):
    """Classes and, within them, detections of boxes, masks, or tuples of both."""
    if isinstance(part, tuple):
        return tuple(_chosen(inner, labels, good) for inner in part)
    chosen = []
    for label, keep in zip(labels, good, strict=True):
        of_class = part[label]
        if isinstance(of_class, np.ndarray):
            chosen.append(of_class[keep])
        else:
            chosen.append([item for item, wanted in zip(of_class, keep, strict=True) if wanted])
    return chosen
