"""Results of a detector: their form is checked, detections that do not count are removed.

The result of one image has one of these forms:

- boxes (n, 5) per class, as a list: left, top, right, bottom in pixels, and the score;
- a pair of such boxes and of masks per class, or of boxes and a pair of masks and mask scores;
- proposals (n, 5), as one array.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from models_mm.errors import UserError
from models_mm.evaluation.masks import decoded


class FlatResults(NamedTuple):
    """The n detections of all images, image by image and class by class.

    Attributes:
        images: (n,) the position of the image in the results.
        labels: (n,) the position of the class in a result; 0 of proposals.
        boxes: (n, 4) left, top, right, bottom in pixels.
        scores: (n,).
        masks: run lengths of the n masks, or ``None``.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: list[dict] | None


def check_results(results: list, images: int, classes: int) -> None:
    """Refuse results that cannot be those of a data set.

    Args:
        results: one result per image.
        images: number of images of the data set.
        classes: number of classes of the config.

    Raises:
        UserError: another number of images or classes, or a result of another form.
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
    """What is wrong with the result of one image; ``None`` if nothing is."""
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


def select_finite(results: list, labels: list[int]) -> list:
    """Keep some classes, and of these the detections whose box and score are finite.

    A detection with NaN or infinity has no place or no rank. It is removed with a warning.

    Args:
        results: one result per image; not changed.
        labels: the classes to keep, in the order of the returned results.
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
        kept.append(_select(result, labels, good))
    if lost:
        message = f"{lost} detections have a box or score that is not finite: they do not count"
        warnings.warn(message, stacklevel=2)
    return kept


def _select(part, labels: list[int], good: list[np.ndarray]):
    """Select classes and their good detections from boxes, masks, or tuples of both."""
    if isinstance(part, tuple):
        return tuple(_select(inner, labels, good) for inner in part)
    selected = []
    for label, keep in zip(labels, good, strict=True):
        of_class = part[label]
        if isinstance(of_class, np.ndarray):
            selected.append(of_class[keep])
        else:
            selected.append([item for item, wanted in zip(of_class, keep, strict=True) if wanted])
    return selected


def boxes_of(result) -> list[np.ndarray]:
    """The boxes (n, 5) per class of a result with or without masks."""
    return result[0] if isinstance(result, tuple) else result


def masks_of(result) -> Iterator:
    """All masks of the result of one image, class by class; none of a result without masks."""
    if isinstance(result, tuple):
        masks = result[1][0] if isinstance(result[1], tuple) else result[1]
        yield from (mask for of_class in masks for mask in of_class)


def flatten(results: list, masks: bool = False) -> FlatResults:
    """Put the detections of all images into arrays.

    Args:
        results: one result per image.
        masks: the masks are wanted, and the scores are theirs if they have their own.
    """
    proposals = isinstance(results[0], np.ndarray)
    per_class = [[result] if proposals else boxes_of(result) for result in results]
    classes = len(per_class[0])
    arrays = [boxes for of_image in per_class for boxes in of_image]
    counts = np.array([len(boxes) for boxes in arrays]).reshape(len(results), -1)
    boxes = np.concatenate(arrays).astype(np.float64)
    scores = boxes[:, 4]
    if masks and isinstance(results[0][1], tuple):  # Mask Scoring R-CNN
        own = [score for _, (_, own) in results for of_class in own for score in of_class]
        scores = np.array(own, np.float64)
    return FlatResults(
        images=np.repeat(np.arange(len(results)), counts.sum(1)),
        labels=np.repeat(np.tile(np.arange(classes), len(results)), counts.ravel()),
        boxes=boxes[:, :4],
        scores=scores,
        masks=[mask for result in results for mask in masks_of(result)] if masks else None,
    )


def confident_objects(result, score_thr: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The objects of one image that can be drawn.

    Args:
        result: boxes, or boxes and masks.
        score_thr: the lowest score.

    Returns:
        Boxes (n, 5), labels (n,), and masks (n, H, W) of bool; ``None`` if there is no mask.
    """
    per_class = boxes_of(result)
    boxes = np.concatenate(per_class).reshape(-1, 5)
    labels = np.repeat(np.arange(len(per_class)), [len(b) for b in per_class])
    keep = (boxes[:, 4] >= score_thr) & np.isfinite(boxes).all(1)
    keep &= (boxes[:, 2:4] >= boxes[:, :2]).all(1)
    if not isinstance(result, tuple) or not keep.any():
        return boxes[keep], labels[keep], None
    chosen = [mask for mask, wanted in zip(masks_of(result), keep, strict=True) if wanted]
    return boxes[keep], labels[keep], np.stack([_decoded(mask) for mask in chosen])


def _decoded(mask) -> np.ndarray:
    """A mask (H, W) of bool, from run lengths or an array."""
    return decoded(mask) if isinstance(mask, dict) else mask.astype(bool)
