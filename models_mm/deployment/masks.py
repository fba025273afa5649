"""Masks of the size of a photo from the small ones that a mask head gives."""

import numpy as np


def paste(
    mask: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float
) -> np.ndarray:
    """Enlarge a mask to its box, bilinearly between the centres of its pixels, as mmdet does.

    Args:
        mask: (S, S), probabilities within the box.
        box: left, top, right, bottom in pixels.
        height: of the photo.
        width: of the photo.
        threshold: the lowest probability of the object.

    Returns:
        bool (height, width).
    """
    pasted = np.zeros((height, width), bool)
    left, top, right, bottom = box.astype(np.float32)
    x, y = near(left, right, width), near(top, bottom, height)
    columns = weights(x, left, right, mask.shape[1])  # (W', S)
    rows = weights(y, top, bottom, mask.shape[0])  # (H', S)
    pasted[y, x] = rows @ mask.astype(np.float32) @ columns.T >= np.float32(threshold)
    return pasted


def near(start: np.float32, end: np.float32, size: int) -> slice:
    """The pixels between two places and one more; what is farther is outside of the object."""
    first, last = max(int(np.floor(start)) - 1, 0), min(int(np.ceil(end)) + 1, size)
    return slice(first, max(first, last))


def weights(pixels: slice, start: np.float32, end: np.float32, size: int) -> np.ndarray:
    """How much each of ``size`` values between two places counts for each pixel, (pixels, size).

    Beyond the outermost values there is zero.
    """
    centres = np.arange(pixels.start, pixels.stop, dtype=np.float32) + 0.5
    with np.errstate(divide="ignore", invalid="ignore"):  # a box may be empty
        place = (centres - start) / (end - start) * 2 - 1
    place[np.isinf(place)] = 0
    place = ((place + 1) * size - 1) / 2
    return np.clip(1 - np.abs(place[:, None] - np.arange(size, dtype=np.float32)), 0, None)
