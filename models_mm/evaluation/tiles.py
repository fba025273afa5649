"""Large images are cut into tiles that overlap; the detections of all tiles become one list."""

from typing import NamedTuple

import numpy as np

from models_mm.errors import UserError

MOST = 10_000  # tiles of an image
# Two boxes of a class in different tiles are of one object if they overlap more. A whole box beside
# a whole one (IoU): less than within an image, because boxes near the border of a tile are less
# exact. A cut box: the share of it that is inside the other one.
SAME_WHOLE, SAME_CUT = 0.3, 0.5


class Tile(NamedTuple):
    """A rectangle of an image, in pixels; right and bottom are not part of it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of its pixels."""
        return np.s_[self.top : self.bottom, self.left : self.right]


def tiles_of(height: int, width: int, side: int, overlap: float) -> list[Tile]:
    """Tiles of one size that cover an image, row by row.

    They are spread evenly, so that neighbours overlap by at least what is asked for. A side of the
    image that is shorter than a tile has one tile of its length.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        side: of the tiles in pixels.
        overlap: of neighbours, as a share of the side.

    Raises:
        UserError: there would be more than 10 000 tiles.
    """
    rows, columns = starts(height, side, overlap), starts(width, side, overlap)
    if len(rows) * len(columns) > MOST:
        raise UserError(
            f"{len(rows) * len(columns):,} tiles of {side} pixels in an image of {width}x{height}: "
            "give larger tiles or less overlap"
        )
    return [Tile(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where the tiles along one axis begin; arguments as of :func:`tiles_of`."""
    step = max(round(side * (1 - overlap)), 1)
    last = max(length - side, 0)
    gaps = -(-last // step)
    return [round(last * place / max(gaps, 1)) for place in range(gaps + 1)]


def cut_boxes(boxes: np.ndarray, tile: Tile, height: int, width: int) -> np.ndarray:
    """Which boxes reach a border of their tile that is not the border of the image.

    Their objects may go on in the neighbouring tile.

    Args:
        boxes: (n, 4) in the tile's pixels.
        tile: where the boxes are.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        (n,) of bool.
    """
    inner = (tile.left > 0, tile.top > 0, tile.right < width, tile.bottom < height)
    size = (tile.right - tile.left, tile.bottom - tile.top)
    near = np.concatenate([boxes[:, :2] <= 1, boxes[:, 2:] >= np.array(size) - 1], axis=1)
    return (near & inner).any(axis=1)


def merge(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, tiles: np.ndarray, cut: np.ndarray
) -> np.ndarray:
    """Non-maximum suppression per class between the detections of different tiles.

    Of two boxes of one object, the one is kept that is not cut, or else that has the higher score.
    Two whole boxes are of one object if their IoU is more than 0.3. A cut box is of the object of a
    whole one if more than half of it is inside; two cut boxes, if more than half of the smaller one
    is. Detections of one tile do not suppress each other: the detector
    has decided between them.

    Args:
        boxes: (n, 4) in the pixels of the image.
        scores: (n,).
        labels: (n,).
        tiles: (n,) the number of the tile of each.
        cut: (n,) of bool, as :func:`cut_boxes` gives it.

    Returns:
        The positions of those that are kept, the highest score first.
    """
    order = np.lexsort((-scores, cut))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept: list[int] = []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[order, :2])
        high = np.minimum(boxes[first, 2:], boxes[order, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        whole = ~cut[first] & ~cut[order]
        union = areas[first] + areas[order] - shared
        part = np.minimum(areas[first], areas[order]) if cut[first] else areas[order]
        least = np.where(whole, SAME_WHOLE * union, SAME_CUT * part)
        same = (labels[order] == labels[first]) & (tiles[order] != tiles[first])
        order = order[~(same & (shared > least))]
    return np.array(sorted(kept, key=lambda i: -scores[i]), np.int64)
