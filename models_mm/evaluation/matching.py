"""Detections of one image are matched with its objects, to count what is right and wrong."""

from typing import NamedTuple

import numpy as np


class Matches(NamedTuple):
    """How well the detections of an image fit.

    Attributes:
        hits: objects that have a detection.
        missed: objects that have none.
        wrong: detections without an object.
    """

    hits: int
    missed: int
    wrong: int

    @property
    def f1(self) -> float:
        """The F1 score; 1 of an image without objects and detections."""
        total = 2 * self.hits + self.missed + self.wrong
        return 2 * self.hits / total if total else 1.0


def match(
    boxes: np.ndarray,
    labels: np.ndarray,
    truth: np.ndarray,
    true_labels: np.ndarray,
    crowds: np.ndarray,
) -> Matches:
    """Match detections with objects of their class, the most confident first, from an IoU of 0.5.

    Args:
        boxes: (n, 5) left, top, right, bottom in pixels, and the score.
        labels: (n,).
        truth: (m, 4) boxes of the objects.
        true_labels: (m,).
        crowds: (k, 4) boxes of regions where detections do not count: half of one is inside.
    """
    free = np.ones(len(truth), bool)
    wrong = 0
    for place in np.argsort(-boxes[:, 4], kind="stable"):
        box = boxes[place, :4]
        shared = intersections(box, truth)
        area = np.prod(box[2:] - box[:2])
        union = area + (truth[:, 2:] - truth[:, :2]).prod(axis=1) - shared
        overlap = np.where(free & (true_labels == labels[place]), shared / union.clip(1e-9), 0)
        if len(truth) and overlap.max() >= 0.5:
            free[overlap.argmax()] = False
        elif not (intersections(box, crowds) > 0.5 * area).any():
            wrong += 1
    missed = int(free.sum())
    return Matches(len(truth) - missed, missed, wrong)


def intersections(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The areas (n,) that a box (4,) shares with others (n, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return (high - low).clip(0).prod(axis=1)
