"""Masks as COCO's run lengths: ``{"size": [height, width], "counts": text}``."""

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
