"""Detections are matched with objects one to one."""

import numpy as np
import pytest

from models_mm.evaluation.matching import match

SQUARE, BESIDE = [0, 0, 10, 10], [20, 0, 30, 10]


@pytest.mark.parametrize(
    ("boxes", "truth", "crowds", "expected"),
    [
        ([], [], [], (0, 0, 0)),
        ([], [(SQUARE, 0)], [], (0, 1, 0)),
        ([(SQUARE, 0.9, 0)], [(SQUARE, 0)], [], (1, 0, 0)),
        ([(SQUARE, 0.9, 1)], [(SQUARE, 0)], [], (0, 1, 1)),  # another class
        ([(SQUARE, 0.9, 0), (SQUARE, 0.8, 0)], [(SQUARE, 0)], [], (1, 0, 1)),  # twice
        ([(SQUARE, 0.9, 0), (SQUARE, 0.8, 0)], [(SQUARE, 0), (SQUARE, 0)], [], (2, 0, 0)),
        ([(BESIDE, 0.9, 0)], [(SQUARE, 0)], [], (0, 1, 1)),
        ([(BESIDE, 0.9, 0)], [(SQUARE, 0)], [[15, 0, 40, 40]], (0, 1, 0)),  # in a crowd
    ],
)
def test_match(boxes, truth, crowds, expected):
    found = match(
        np.array([[*box, score] for box, score, _ in boxes]).reshape(-1, 5),
        np.array([label for _, _, label in boxes], int),
        np.array([box for box, _ in truth], float).reshape(-1, 4),
        np.array([label for _, label in truth], int),
        np.array(crowds, float).reshape(-1, 4),
    )
    assert tuple(found) == expected
    hits, missed, wrong = expected
    assert found.f1 == (2 * hits / (2 * hits + missed + wrong) if any(expected) else 1)
