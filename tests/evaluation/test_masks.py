"""Masks as run lengths: equal to pycocotools', and checked before they are decoded."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from models_mm.evaluation.masks import check_mask, encode_masks, encode_result, run_lengths


@pytest.mark.parametrize("dtype", [bool, np.uint8])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 33)])
def test_run_lengths_are_those_of_pycocotools(shape, dtype):
    """Empty, full and ragged masks; a slice of a larger array; all columns and rows at the rim."""
    rng = np.random.default_rng(0)
    larger = rng.random((shape[0], shape[1] + 3)) < 0.5
    masks = [np.zeros(shape), np.ones(shape), rng.random(shape) < 0.3, larger[:, 1:-2]]
    masks = [mask.astype(dtype) for mask in masks] + [larger[:, 1:-2]]
    ours = encode_masks([masks, []])
    assert ours[1] == [] and len(ours[0]) == len(masks)
    for encoded, mask in zip(ours[0], masks, strict=True):
        other = mask_utils.encode(np.asfortranarray(mask, np.uint8))
        assert encoded == {"size": other["size"], "counts": other["counts"].decode()}


def test_every_structure_of_results_is_encode_result():
    boxes, mask = [np.zeros((1, 5), np.float32)], np.ones((4, 4), bool)
    assert encode_result(boxes) is boxes
    assert isinstance(encode_result((boxes, [[mask]]))[1][0][0]["counts"], str)
    masks, scores = encode_result((boxes, ([[mask]], [[0.5]])))[1]
    assert isinstance(masks[0][0]["counts"], str) and scores == [[0.5]]
    panoptic = encode_result({"pan_results": mask, "ins_results": (boxes, [[mask]])})
    assert panoptic["pan_results"] is mask and "counts" in panoptic["ins_results"][1][0][0]


def test_masks_from_files_are_checked():
    """Run lengths that do not fill the size would be decoded into uninitialised memory."""
    mask = np.zeros((8, 6), bool)
    mask[2:5, 1:3] = True
    sound = run_lengths(mask)
    for good in (mask, sound, sound | {"counts": sound["counts"].encode()}):
        check_mask(good, 8, 6)
        check_mask(good, None, None)
    for wrong, message in (
        ({"size": [8, 6], "counts": ""}, "do not fill"),
        ({"size": [8, 6], "counts": "0"}, "do not fill"),
        ({"size": [8, 6], "counts": sound["counts"] + "3"}, "do not fill"),
        ({"size": [8, 6], "counts": "\u1234"}, "do not fill"),
        ({"size": [6, 8], "counts": sound["counts"]}, r"\(6, 8\) instead of \(8, 6\)"),
        ({"size": [8, "6"], "counts": sound["counts"]}, "without size"),
        (mask.T, r"\(6, 8\) instead of \(8, 6\)"),
        (None, "without size"),
    ):
        with pytest.raises(ValueError, match=message):
            check_mask(wrong, 8, 6)
    with pytest.raises(ValueError, match="of the size"):
        check_mask({"size": [1 << 20, 1 << 20], "counts": "P2"}, None, None)
