"""Photos to the input of an exported detector: resized, side by side in one array."""

import cv2
import numpy as np

from models_mm.deployment.description import Description
from models_mm.errors import UserError

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
LARGEST = 2**26  # pixels of the input; a file's metadata could ask for any number


def resized_size(height: int, width: int, rule: Description) -> tuple[int, int]:
    """Height and width of a photo after it has been resized, as mmcv computes them."""
    if rule.keep_ratio:
        factor = min(
            max(rule.scale) / max(height, width),
            min(rule.scale) / min(height, width),
        )
    else:
        factor = None
    if factor is None:
        size = rule.scale[1], rule.scale[0]
    else:
        size = _scaled(height, width, factor)
    if rule.shape is None or (size[0] <= rule.shape[0] and size[1] <= rule.shape[1]):
        return size
    if factor is None:
        return rule.shape
    return _scaled(height, width, min(rule.shape[0] / height, rule.shape[1] / width))


def _scaled(height: int, width: int, factor: float) -> tuple[int, int]:
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resized(photo: np.ndarray, rule: Description) -> np.ndarray:
    """A photo (H, W, 3), uint8, in the size and number format of the graph's input.

    Raises:
        UserError: it would have no pixels, or more than 67 million; or the rule needs Pillow, which
            is not installed.
    """
    height, width = resized_size(*photo.shape[:2], rule)
    if not 0 < height * width <= LARGEST:
        raise UserError(
            f"the detector cannot resize {photo.shape[1]}x{photo.shape[0]} pixels to "
            f"{width}x{height}"
        )
    if rule.backend == "pillow":
        try:
            from PIL import Image  # only some detectors need it
        except ImportError as error:
            raise UserError(
                "this detector resizes photos with Pillow, which is not installed: "
                "`pip install pillow`"
            ) from error
        way = Image.Resampling[rule.interpolation.upper()]
        return np.asarray(Image.fromarray(photo).resize((width, height), way))
    return cv2.resize(
        photo.astype(rule.dtype, copy=False),
        (width, height),
        interpolation=INTERPOLATIONS[rule.interpolation],
    )


def graph_inputs(photos: list[np.ndarray], rule: Description) -> dict[str, np.ndarray]:
    """The inputs of the graph for photos.

    Args:
        photos: BGR (H, W, 3) of uint8.
        rule: how they are prepared.

    Returns:
        ``images`` (N, 3, H, W), RGB, zero to the right of and below smaller photos; ``image_sizes``
        (N, 2), height and width of each in it; ``original_sizes`` (N, 2), those of the photos.

    Raises:
        UserError: as :func:`resized`; or side by side the photos would have too many pixels.
    """
    small = [resized(photo, rule) for photo in photos]
    sizes = np.array([photo.shape[:2] for photo in small], np.int64)
    shape = rule.shape or tuple(map(int, sizes.max(0)))
    if shape[0] * shape[1] > LARGEST:
        raise UserError(f"the detector's input would have {shape[1]}x{shape[0]} pixels per photo")
    images = np.zeros((len(photos), 3, *shape), rule.dtype)
    for image, photo in zip(images, small, strict=True):
        image[:, : photo.shape[0], : photo.shape[1]] = photo[:, :, ::-1].transpose(2, 0, 1)
    originals = np.array([photo.shape[:2] for photo in photos], np.int64)
    return {"images": images, "image_sizes": sizes, "original_sizes": originals}
