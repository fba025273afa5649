"""Masks as COCO's run lengths: ``{"size": [height, width], "counts": text}``; masks by region."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

try:
    from hotcoco import mask as coco_mask
except ImportError:  # where only exported detectors run
    coco_mask = None

from models_mm.data.fields import lengths_from_text, text_from_lengths

MAX_SIDE = 2**16  # pixels; a mask of this height or width is refused


def run_lengths(mask: np.ndarray) -> dict:
    """Encode a mask (H, W) of bool or uint8.

    Run lengths go down the columns. They are equal to those of pycocotools, with and without
    hotcoco, which is faster.
    """
    # OpenCV transposes in a tenth of the time that NumPy needs
    columns = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8))
    if coco_mask is None:
        return {"size": list(mask.shape), "counts": text_from_lengths(_lengths(columns.ravel()))}
    encoded = coco_mask.encode(columns.T)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def _lengths(pixels: np.ndarray) -> np.ndarray:
    """The lengths of the runs of zeros and ones (L,) in turn; the first ones are zeros."""
    changes = np.flatnonzero(np.diff(pixels, prepend=0))
    return np.diff(changes, prepend=0, append=len(pixels))


def decoded(lengths: dict) -> np.ndarray:
    """The mask (H, W) of bool of compressed run lengths that :func:`check_mask` accepts."""
    height, width = lengths["size"]
    counts = lengths["counts"]
    text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    runs = lengths_from_text(text) or []
    return np.repeat(np.arange(len(runs)) % 2 > 0, runs).reshape(width, height).T


class PlacedMasks(Sequence):
    """The masks of a large image, of which only the rectangle around each mask is kept.

    An index gives a whole mask (H, W) of bool; ``numpy.asarray`` gives all of them, (n, H, W).

    Args:
        patches: (h, w) of bool: the pixels of each rectangle.
        corners: (n, 2): left and top of each rectangle in the image.
        size: height and width of the image.
    """

    def __init__(self, patches: list[np.ndarray], corners: np.ndarray, size: tuple[int, int]):
        self.patches, self.size = patches, size
        self.corners = np.asarray(corners, np.int64).reshape(-1, 2)

    @classmethod
    def cropped(cls, masks) -> "PlacedMasks":
        """Masks (n, H, W) of bool, cropped; the memory of the whole masks can be freed."""
        if isinstance(masks, cls):
            return masks
        corners, patches = [], []
        for mask in masks:
            x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
            corners.append((x, y))
            patches.append(mask[y : y + height, x : x + width].copy())
        return cls(patches, np.array(corners), masks.shape[1:])

    @classmethod
    def joined(cls, parts: "list[PlacedMasks]") -> "PlacedMasks":
        """The masks of several lists, all of one image."""
        patches = [patch for part in parts for patch in part.patches]
        return cls(patches, np.concatenate([part.corners for part in parts]), parts[0].size)

    def placed(self, corner: np.ndarray, scale: np.ndarray, size: tuple[int, int]) -> "PlacedMasks":
        """The masks of a part of an image, or of a smaller copy, in the image.

        Args:
            corner: (2,): left and top of the part.
            scale: (2,): how many times wider and higher the image is than the copy.
            size: height and width of the image.
        """
        sizes = np.array([patch.shape[::-1] for patch in self.patches]).reshape(-1, 2)
        low = np.round(self.corners * scale + corner).astype(int)
        high = np.round((self.corners + sizes) * scale + corner).astype(int)
        patches = self.patches
        if (scale != 1).any():
            patches = [enlarged(*pair) for pair in zip(patches, high - low, strict=True)]
        return PlacedMasks(patches, low, size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of all masks as one array."""
        return (len(self.patches), *self.size)

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index):
        """A whole mask, or the masks of an array of positions."""
        if isinstance(index, (int, np.integer)):
            whole = np.zeros(self.size, bool)
            region, patch = self.region(index)
            whole[region] = patch
            return whole
        chosen = np.arange(len(self))[index]
        return PlacedMasks([self.patches[i] for i in chosen], self.corners[chosen], self.size)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        whole = np.stack([self[i] for i in range(len(self))]) if len(self) else np.zeros(self.shape)
        return whole.astype(bool if dtype is None else dtype)

    def region(self, index: int) -> tuple[tuple[slice, slice], np.ndarray]:
        """Where in the image the rectangle of a mask is, and its pixels."""
        (x, y), patch = self.corners[index].tolist(), self.patches[index]
        return np.s_[y : y + patch.shape[0], x : x + patch.shape[1]], patch

    def run_lengths(self, index: int) -> dict:
        """COCO's run lengths of a mask; those of the whole mask, without making it."""
        (rows, columns), patch = self.region(index)
        padded = np.pad(patch.T, ((0, 0), (1, 1))).view(np.int8)  # a row per column of the image
        column, row = np.nonzero(np.diff(padded))  # where a run begins or is over, in turn
        places = (column + columns.start) * self.size[0] + row + rows.start
        # a run that goes on at the top of the next column is one
        joined = np.flatnonzero(places[1:-1:2] == places[2::2]) * 2 + 1
        places = np.delete(places, np.concatenate([joined, joined + 1]))
        counts = np.diff(places, prepend=0, append=self.size[0] * self.size[1])
        counts = counts if counts[-1] else counts[:-1]
        return {"size": list(self.size), "counts": text_from_lengths(counts)}


def enlarged(patch: np.ndarray, size: np.ndarray) -> np.ndarray:
    """A mask (h, w) of bool in another size: width and height, with smooth borders."""
    if not patch.size:
        return np.zeros(size[::-1], bool)
    return cv2.resize(patch.astype(np.float32), size.tolist()) > 0.5


def regions(masks) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Region and pixels of each mask of an array (n, H, W) or of :class:`PlacedMasks`."""
    if isinstance(masks, PlacedMasks):
        yield from map(masks.region, range(len(masks)))
    else:
        yield from ((np.s_[:, :], mask) for mask in masks)


def encode_masks(masks):
    """Encode the masks (H, W) of each class of one image.

    Args:
        masks: a list of masks per class. Mask Scoring R-CNN gives a pair of these lists and the
            scores of the masks, which are not changed.
    """
    if isinstance(masks, tuple):
        return encode_masks(masks[0]), masks[1]
    return [[run_lengths(mask) for mask in of_class] for of_class in masks]


def encode_result(result):
    """Encode the masks in the result of one image; a result without masks is returned as it is.

    Args:
        result: boxes per class; a pair of boxes and masks; or the dict of a panoptic detector.
    """
    if isinstance(result, tuple):
        boxes, masks = result
        return boxes, encode_masks(masks)
    if isinstance(result, dict) and "ins_results" in result:
        return {**result, "ins_results": encode_result(result["ins_results"])}
    return result


def check_mask(mask, height: int | None, width: int | None) -> None:
    """Check a mask from a file before it is decoded.

    Args:
        mask: an array (H, W), or run lengths, which can claim any size.
        height: of the image, if known.
        width: of the image, if known.

    Raises:
        ValueError: it is no mask, it has another size than the image, or its run lengths do not
            fill that size.
    """
    lengths = isinstance(mask, dict) and isinstance(mask.get("counts"), (str, bytes))
    size = mask.get("size") if lengths else getattr(mask, "shape", None)
    if not isinstance(size, (list, tuple)) or {int} != {type(n) for n in size} or len(size) != 2:
        raise ValueError("has a mask without size")
    if any(
        side < 0 or side != (known or side)
        for side, known in zip(size, (height, width), strict=True)
    ):
        raise ValueError(f"has a mask of the size {tuple(size)} instead of {(height, width)}")
    if max(size) >= MAX_SIDE:
        raise ValueError(f"has a mask of the size {tuple(size)}")
    if lengths and not _fills(mask["counts"], size[0] * size[1]):
        raise ValueError("has a mask of invalid RLE: the run lengths do not fill its size")


def _fills(counts: str | bytes, pixels: int) -> bool:
    """Whether compressed run lengths are valid and have this many pixels together."""
    text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    lengths = lengths_from_text(text)
    return lengths is not None and min(lengths) >= 0 and sum(lengths) == pixels
