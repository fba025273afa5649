"""Results are packed for the way to rank 0."""

import pickle

import models_mm  # noqa: F401  isort: skip
import numpy as np
import pytest

from models_mm.evaluation.masks import encode_masks
from models_mm.mmdet2.gathering import pack, unpack


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
    with pytest.raises((ValueError, KeyError)):
        unpack(pickle.dumps([1, 2, 3]))
