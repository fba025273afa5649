"""Tiles cover an image; merging takes duplicates away and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_mm.evaluation.masks import PlacedMasks, run_lengths
from models_mm.evaluation.tiles import Tile, cut_boxes, merge, tiles_of


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    side=st.integers(40, 120),  # fewer than 10 000 tiles
    overlap=st.floats(0, 0.9),
)
def test_tiles_cover_the_image_and_overlap(height, width, side, overlap):
    tiles = tiles_of(height, width, side, overlap)
    covered = np.zeros((height, width), bool)
    for tile in tiles:
        assert covered[tile.region].shape == (min(side, height), min(side, width))
        covered[tile.region] = True
    assert covered.all() and len(set(tiles)) == len(tiles)
    lefts = sorted({tile.left for tile in tiles})
    assert (np.diff(lefts) <= max(round(side * (1 - overlap)), 1)).all()


def test_boxes_at_inner_borders_are_cut():
    boxes = np.array([[0, 20, 30, 40], [70, 20, 100, 40], [20, 0.5, 30, 40], [20, 20, 30, 40]])
    middle, corner = Tile(100, 100, 200, 200), Tile(0, 0, 100, 100)
    assert cut_boxes(boxes, middle, 300, 300).tolist() == [True, True, True, False]
    assert cut_boxes(boxes, corner, 300, 300).tolist() == [False, True, False, False]
    assert not cut_boxes(boxes, corner, 100, 100).any()


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "tiles", "cut", "kept"),
    [
        # the same object in two tiles; another class; the same tile
        ([[0, 0, 10, 10]] * 2, [0.5, 0.9], [1, 1], [0, 1], [0, 0], [1]),
        ([[0, 0, 10, 10]] * 2, [0.5, 0.9], [1, 2], [0, 1], [0, 0], [1, 0]),
        ([[0, 0, 10, 10]] * 2, [0.5, 0.9], [1, 1], [0, 0], [0, 0], [1, 0]),
        # a part of an object is less than the whole, whatever its score
        ([[0, 0, 4, 10], [0, 0, 10, 10]], [0.9, 0.5], [1, 1], [0, 1], [1, 0], [1]),
        # a small object in front of a large one; the large one may be cut
        ([[0, 0, 3, 3], [0, 0, 10, 10]], [0.9, 0.5], [1, 1], [0, 1], [0, 0], [0, 1]),
        ([[0, 0, 3, 3], [0, 0, 10, 10]], [0.9, 0.5], [1, 1], [0, 1], [0, 1], [0, 1]),
        # two parts of one object, the smaller one inside the other
        ([[0, 0, 10, 10], [0, 0, 4, 10]], [0.5, 0.9], [1, 1], [0, 1], [1, 1], [1]),
        # neighbours
        ([[0, 0, 10, 10], [8, 0, 18, 10]], [0.5, 0.9], [1, 1], [0, 1], [1, 1], [1, 0]),
    ],
)
def test_what_is_merged(boxes, scores, labels, tiles, cut, kept):
    arrays = (np.array(boxes, float), np.array(scores), np.array(labels), np.array(tiles))
    assert merge(*arrays, np.array(cut, bool)).tolist() == kept


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_placed_masks_are_the_whole_masks(seed):
    """Pixels and run lengths, also of masks that touch the borders, and of empty ones."""
    rng = np.random.default_rng(seed)
    whole = np.zeros((5, 12, 9), bool)
    for mask in whole[:4]:
        top, left = rng.integers(0, (12, 9))
        part = mask[top : top + rng.integers(1, 13), left : left + rng.integers(1, 10)]
        part[:] = rng.random(part.shape) < rng.choice([0.3, 0.7, 1])
    placed = PlacedMasks.cropped(whole)
    assert placed.shape == whole.shape and np.array_equal(placed, whole)
    assert [placed.run_lengths(i) for i in range(5)] == [run_lengths(mask) for mask in whole]
    some = placed[np.array([3, 0])]
    assert np.array_equal(PlacedMasks.joined([some, placed]), whole[[3, 0, 0, 1, 2, 3, 4]])
    moved = placed.placed(np.array([2, 3]), np.ones(2), (20, 15))
    assert np.array_equal(np.asarray(moved)[:, 3:15, 2:11], whole)
    larger = placed.placed(np.zeros(2), np.array([2.0, 2.0]), (24, 18))
    assert larger.shape == (5, 24, 18)
