"""The forms of results, and the arrays that are made of them."""

import numpy as np
import pytest

from models_mm.evaluation.masks import encode_masks
from models_mm.evaluation.results import confident_objects, flatten, select_finite


def boxes(*scores: float) -> np.ndarray:
    """Boxes of these scores, each at another place."""
    return np.array([[10 * i, 5, 10 * i + 8, 9, s] for i, s in enumerate(scores)]).reshape(-1, 5)


def masks(number: int) -> list[np.ndarray]:
    return [np.full((4, 6), i % 2 == 0) for i in range(number)]


def test_flat_results_go_image_by_image_and_class_by_class():
    flat = flatten([[boxes(0.9), boxes(0.8, 0.1)], [boxes(), boxes(0.5)]])
    assert flat.images.tolist() == [0, 0, 0, 1] and flat.labels.tolist() == [0, 1, 1, 1]
    assert flat.scores.tolist() == [0.9, 0.8, 0.1, 0.5] and flat.masks is None
    assert flat.boxes[2].tolist() == [10, 5, 18, 9]
    proposals = flatten([boxes(0.9, 0.8), boxes(0.5)])
    assert proposals.images.tolist() == [0, 0, 1] and not proposals.labels.any()


def test_masks_may_have_scores_of_their_own():
    encoded = encode_masks([masks(1), masks(2)])
    found = [boxes(0.9), boxes(0.8, 0.1)]
    plain = flatten([(found, encoded)], masks=True)
    own = flatten([(found, (encoded, [[0.3], [0.2, 0.1]]))], masks=True)
    assert plain.masks == own.masks == [encoded[0][0], *encoded[1]]
    assert plain.scores.tolist() == [0.9, 0.8, 0.1] and own.scores.tolist() == [0.3, 0.2, 0.1]
    without = flatten([(found, (encoded, [[0.3], [0.2, 0.1]]))])
    assert without.scores.tolist() == [0.9, 0.8, 0.1] and without.masks is None


def test_classes_are_selected_with_their_masks():
    bad = boxes(0.8, 0.1)
    bad[0, 2] = np.nan
    result = ([boxes(0.9), boxes(0.7), bad], (encode_masks([masks(1)] * 2 + [masks(2)]), [[1]] * 3))
    result[1][1][2] = [0.5, 0.6]
    with pytest.warns(UserWarning, match="1 detections have a box or score that is not finite"):
        ((found, (encoded, scores)),) = select_finite([result], [2, 0])
    assert [len(of_class) for of_class in found] == [1, 1]
    assert encoded == encode_masks([masks(2)[1:], masks(1)]) and scores == [[0.6], [1]]
    assert len(result[0][2]) == 2  # the given results stay as they are


@pytest.mark.parametrize("encode", [True, False])
def test_confident_objects_of_an_image(encode):
    found = [boxes(0.9, 0.2), boxes(0.5)]
    pixels = [masks(2), masks(1)]
    drawn, labels, chosen = confident_objects(
        (found, encode_masks(pixels) if encode else pixels), 0.3
    )
    assert drawn[:, 4].tolist() == [0.9, 0.5] and labels.tolist() == [0, 1]
    assert chosen.dtype == bool and np.array_equal(chosen, [pixels[0][0], pixels[1][0]])
    assert confident_objects((found, pixels), 0.95)[2] is None
    assert confident_objects(found, 0.3)[2] is None
