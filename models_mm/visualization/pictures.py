"""Boxes, masks and names are drawn into images; images are put together and written."""

import colorsys
from pathlib import Path

import cv2
import numpy as np

from models_mm.errors import UserError, printable
from models_mm.evaluation.masks import regions
from models_mm.outputs import Outputs

MASK_OPACITY = 0.45
GAP = 8  # pixels between the pictures of a row


def writable(name: str | Path) -> bool:
    """Whether OpenCV writes pictures with the suffix of a name."""
    suffix = Path(name).suffix
    return bool(suffix) and cv2.haveImageWriter(f"picture{suffix}")


def picture_path(places: Outputs, name: str) -> Path:
    """A place for a picture; ``.jpg`` is added if OpenCV cannot write the suffix of the name.

    Raises:
        UserError: as :meth:`models_mm.outputs.Outputs.path`.
    """
    return places.path(name if writable(name) else f"{name}.jpg")


def write_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a BGR picture (H, W, 3); missing folders are made, and the suffix decides the format.

    Raises:
        UserError: OpenCV cannot write the format.
    """
    path = Path(path)
    if not writable(path):
        raise UserError(f"{path}: OpenCV cannot write pictures of this format; use .png or .jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(picture))[1].tobytes())


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray | None,
    classes: tuple[str, ...],
) -> np.ndarray:
    """Draw objects into an image.

    Args:
        image: BGR (H, W, 3) of uint8; not changed.
        boxes: (n, 4) left, top, right, bottom in pixels; or (n, 5) with scores, sorted by them.
        labels: (n,) positions in ``classes``.
        masks: (n, H, W) of bool, an array or :class:`PlacedMasks`; or ``None``.
        classes: the names of all classes.

    Returns:
        The picture, BGR (H, W, 3), with boxes, class names, scores and translucent masks.
    """
    if not len(boxes):
        return image
    hues = [colorsys.hsv_to_rgb(label / len(classes), 1, 1) for label in labels]
    colors = [tuple(int(255 * c) for c in hue[::-1]) for hue in hues]  # BGR
    picture = np.array(image, order="C")
    if masks is not None and len(masks):
        picture = blend_masks(picture, masks, colors)
        outline(picture, masks)
    # larger letters and lines in larger pictures, unless they would cover small objects
    sides = np.sqrt((boxes[:, 2:4] - boxes[:, :2]).clip(0).prod(axis=1))
    scale = max(1.0, min(min(image.shape[:2]) / 500, float(np.median(sides)) / 30))
    for box, color in zip(boxes, colors, strict=True):
        draw_box(picture, box, color, round(2 * scale))
    # the most confident last, so that its name is on top
    for place in range(len(boxes))[::-1]:
        text = classes[labels[place]]
        if boxes.shape[1] == 5:
            text = f"{text} {boxes[place, 4]:.2f}"
        label(picture, text, boxes[place], colors[place], scale)
    return picture


def blend_masks(image: np.ndarray, masks: np.ndarray, colors: list[tuple]) -> np.ndarray:
    """An image (H, W, 3) with each mask (n, H, W) in its colour; overlaps become dark."""
    picture = image.copy()
    painted, count = image.copy(), np.zeros(image.shape[:2], np.uint8)
    for (region, mask), color in zip(regions(masks), colors, strict=True):
        painted[region][mask] = color
        count[region] += mask & (count[region] < 2)
    painted[count > 1] = 0
    opacity = np.float32(MASK_OPACITY)
    for rows in np.array_split(np.arange(len(image)), max(len(image) // 256, 1)):
        some = np.s_[rows[0] : rows[-1] + 1]  # a part after the other, which saves memory
        rest = image[some].astype(np.float32) * np.float32(1 - MASK_OPACITY)
        picture[some] = (rest + painted[some].astype(np.float32) * opacity).astype(np.uint8)
    return picture


def draw_box(picture: np.ndarray, box: np.ndarray, color: tuple[int, ...], width: int) -> None:
    """Draw a frame inside a box; a box that is smaller than the lines of its frame is filled.

    Args:
        picture: (H, W, 3), drawn upon.
        box: left, top, right, bottom, ... in pixels.
        color: of the frame.
        width: of its lines in pixels.
    """
    left, top, right, bottom = map(int, box[:4])
    for x1, y1, x2, y2 in (
        (left, top, right, min(top + width - 1, bottom)),
        (left, max(bottom - width + 1, top), right, bottom),
        (left, top, min(left + width - 1, right), bottom),
        (max(right - width + 1, left), top, right, bottom),
    ):
        picture[max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)] = color


def outline(picture: np.ndarray, masks: np.ndarray) -> None:
    """Draw a white line around each mask, which may have the colour of the object.

    Args:
        picture: (H, W, 3), drawn upon.
        masks: (n, H, W) of bool.
    """
    lines = np.zeros(masks.shape[1:], np.uint8)
    for (rows, columns), mask in regions(masks):
        corner = (columns.start or 0, rows.start or 0)
        parts, _ = cv2.findContours(
            *(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE), offset=corner
        )
        cv2.drawContours(lines, parts, -1, 1, 1)
    picture[lines.astype(bool)] = 255


def label(picture: np.ndarray, text: str, box, color: tuple[int, ...], scale: float) -> None:
    """Write a name on a coloured bar above the corner of a box, or inside if there is no room.

    Args:
        picture: BGR (H, W, 3), drawn upon.
        text: the name.
        box: left, top, ... in pixels.
        color: BGR, 0 to 255.
        scale: of the letters; 1 for small pictures.
    """
    text = printable(text)  # OpenCV crashes with half a letter
    size, thick = 0.36 * scale, max(1, round(scale))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
    height += below + 2
    left = int(np.clip(box[0], 0, max(picture.shape[1] - width - 2, 0)))
    top = int(np.clip(box[1] - height, 0, max(picture.shape[0] - height, 0)))
    cv2.rectangle(picture, (left, top), (left + width + 2, top + height), color, -1)
    bright = np.dot(color, (0.11, 0.59, 0.3)) > 120
    ink = (0, 0, 0) if bright else (255, 255, 255)
    corner = (left + 1, top + height - below)
    cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, size, ink, thick, cv2.LINE_AA)


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """Put a white line with a title above an image."""
    bar = np.full((24, image.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def compare(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Put two pictures (H, W, 3) side by side: the truth left, the prediction right."""
    gap = np.full((truth.shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate(
        [titled(truth, "truth"), titled(gap, ""), titled(prediction, "prediction")], axis=1
    )


def grid(rows: list[tuple[str, list[np.ndarray]]]) -> np.ndarray:
    """Put rows of pictures (H, W, 3) into one picture.

    Args:
        rows: title and pictures of each row. The pictures get the titles "draw 1", "draw 2", ...
    """
    drawn = []
    for title, pictures in rows:
        row = beside([titled(picture, f"draw {i}") for i, picture in enumerate(pictures, 1)])
        drawn.append(titled(row, title))
    width = max(row.shape[1] for row in drawn)
    return np.concatenate([padded(row, row.shape[0], width) for row in drawn])


def beside(pictures: list[np.ndarray]) -> np.ndarray:
    """Put pictures into a row, with white between and below them."""
    height = max(picture.shape[0] for picture in pictures) + GAP
    return np.concatenate(
        [padded(picture, height, picture.shape[1] + GAP) for picture in pictures], axis=1
    )


def padded(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Add white on the right of a picture and below it."""
    rest = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, rest, constant_values=255)
