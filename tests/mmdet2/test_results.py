"""Masks as run lengths, and results packed for the way to rank 0."""

import models_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
from mmdet.core import encode_mask_results

from models_mm.mmdet2.results import encode_masks, encoded, pack, unpack


@pytest.mark.parametrize("dtype", [bool, np.uint8])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 33)])
def test_run_lengths_are_those_of_mmdet(shape, dtype):
    """Empty, full and ragged masks; a slice of a larger array; all columns and rows at the rim."""
    rng = np.random.default_rng(0)
    larger = rng.random((shape[0], shape[1] + 3)) < 0.5
    masks = [np.zeros(shape), np.ones(shape), rng.random(shape) < 0.3, larger[:, 1:-2]]
    masks = [mask.astype(dtype) for mask in masks] + [larger[:, 1:-2]]
    theirs = encode_mask_results([masks, []])
    ours = encode_masks([masks, []])
    assert ours[1] == [] and len(ours[0]) == len(masks)
    for mask, other in zip(ours[0], theirs[0], strict=True):
        assert mask == {"size": other["size"], "counts": other["counts"].decode()}


def test_every_structure_of_results_is_encoded():
    boxes, mask = [np.zeros((1, 5), np.float32)], np.ones((4, 4), bool)
    assert encoded(boxes) is boxes
    assert isinstance(encoded((boxes, [[mask]]))[1][0][0]["counts"], str)
    masks, scores = encoded((boxes, ([[mask]], [[0.5]])))[1]
    assert isinstance(masks[0][0]["counts"], str) and scores == [[0.5]]
    panoptic = encoded({"pan_results": mask, "ins_results": (boxes, [[mask]])})
    assert panoptic["pan_results"] is mask and "counts" in panoptic["ins_results"][1][0][0]


def test_packing_gives_back_the_same():
    rng = np.random.default_rng(0)
    rle = encode_masks([[np.ones((4, 6), bool)]])[0][0]
    value = [
        ([rng.random((2, 5)).astype(np.float32), np.zeros((0, 5), np.float32)], [[rle, rle], []]),
        ([], ([[rle]], [[np.float32(0.1)]])),
        {"pan_results": np.arange(12).reshape(3, 4), "names": {"1": None, "b": "ü"}},
        rng.random(3) < 0.5,
    ]
    back = unpack(pack(value))
    assert [type(v) for v in back] == [type(v) for v in value]
    assert [type(v) for v in back[0]] == [list, list] and back[0][1] == value[0][1]
    for got, sent in zip(back[0][0], value[0][0], strict=True):
        assert got.dtype == sent.dtype and np.array_equal(got, sent)
    assert back[1][1][0] == [[rle]] and back[1][1][1][0][0] == np.float32(0.1)
    assert np.array_equal(back[2]["pan_results"], value[2]["pan_results"])
    assert back[2]["names"] == value[2]["names"] and np.array_equal(back[3], value[3])
    back[3][0] = True  # writable like any result


def test_packed_results_hold_no_pickle():
    """Neither a pickle's end nor its beginning is anything that unpack would follow."""
    import pickle

    with pytest.raises((ValueError, KeyError)):
        unpack(pickle.dumps([1, 2, 3]))
