"""Predicted boxes and masks beside the true ones."""

from pathlib import Path

import cv2
import mmcv
import numpy as np
import pycocotools.mask as mask_utils
import torch
from matplotlib import colormaps
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from models_mm.data.images import check_size, read_image
from models_mm.errors import UserError
from models_mm.outputs import Outputs, files_of


def draw_comparisons(dataset, results: list, out_dir: str, number: int, score_thr: float = 0.3):
    """Write pictures with the truth on the left and the prediction on the right.

    Args:
        dataset: an mmdet ``CocoDataset`` in test mode.
        results: one result an image, as ``tools/test.py --out`` writes them.
        out_dir: folder of the pictures, made if need be.
        number: how many images, spread evenly over the data set.
        score_thr: lowest score drawn.

    Returns:
        The paths of the pictures.

    Raises:
        UserError: the data set is of another kind.
    """
    if not hasattr(dataset, "coco"):
        raise UserError(f"pictures beside the truth are for CocoDataset: {type(dataset).__name__}")
    paths = []
    places = Outputs(out_dir, files_of(dataset))
    for index in evenly(dataset, number):
        path = places.path(f"{Path(dataset.data_infos[index]['filename']).stem}.png")
        mmcv.imwrite(comparison(dataset, results[index], index, score_thr), str(path))
        paths.append(path)
    return paths


def evenly(dataset, number: int) -> np.ndarray:
    """Places of that many images, spread over the data set."""
    picks = np.linspace(0, len(dataset) - 1, min(number, len(dataset)))
    return np.unique(picks.round().astype(int))


def comparison(dataset, result, index: int, score_thr: float = 0.3) -> np.ndarray:
    """The truth of an image on the left and the prediction on the right, BGR (H, W, 3)."""
    path = Path(dataset.img_prefix or "") / dataset.data_infos[index]["filename"]
    image = read_image(path)
    check_size(str(path), image, dataset.data_infos[index])
    truth = draw(image, *true_objects(dataset, index), dataset.CLASSES)
    predicted = draw(image, *predicted_objects(result, score_thr), dataset.CLASSES)
    gap = np.full((image.shape[0], 8, 3), 255, np.uint8)
    return np.concatenate(
        [titled(truth, "truth"), titled(gap, ""), titled(predicted, "prediction")], axis=1
    )


def true_objects(dataset, index: int):
    """Boxes (n, 4), labels (n,) and masks (n, H, W) of an image's annotations, crowds left out."""
    coco = dataset.coco
    annotations = [
        a
        for a in coco.imgToAnns.get(dataset.img_ids[index], [])
        if a["category_id"] in dataset.cat2label and not a.get("iscrowd")
        if np.isfinite(a["bbox"]).all() and min(a["bbox"][2:]) >= 0
    ]
    boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([dataset.cat2label[a["category_id"]] for a in annotations], int)
    masks = [coco.annToMask(a).astype(bool) for a in annotations if a.get("segmentation")]
    return boxes, labels, np.stack(masks) if len(masks) == len(annotations) > 0 else None


def predicted_objects(result, score_thr: float):
    """Boxes (n, 5), labels (n,) and masks (n, H, W) or None of one image's result."""
    per_class, segments = result if isinstance(result, tuple) else (result, None)
    boxes = np.concatenate(per_class).reshape(-1, 5)
    labels = np.repeat(np.arange(len(per_class)), [len(b) for b in per_class])
    keep = (boxes[:, 4] >= score_thr) & np.isfinite(boxes).all(1)
    keep &= (boxes[:, 2:4] >= boxes[:, :2]).all(1)
    if segments is None or not keep.any():
        return boxes[keep], labels[keep], None
    flat = [segment for of_class in segments for segment in of_class]
    chosen = [segment for segment, wanted in zip(flat, keep, strict=True) if wanted]
    return boxes[keep], labels[keep], np.stack([_decode(segment) for segment in chosen])


def _decode(segment) -> np.ndarray:
    """A mask (H, W) from a result's RLE or array."""
    return (mask_utils.decode(segment) if isinstance(segment, dict) else segment).astype(bool)


def draw(image: np.ndarray, boxes, labels, masks, classes) -> np.ndarray:
    """The BGR image (H, W, 3) with boxes, class names, scores and translucent masks."""
    if not len(boxes):
        return image
    hues = colormaps["hsv"](np.linspace(0, 1, len(classes), endpoint=False))
    colors = [tuple(int(255 * c) for c in hues[label][:3]) for label in labels]
    picture = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)  # RGB, (3, H, W)
    if masks is not None and len(masks):
        picture = draw_segmentation_masks(picture, torch.from_numpy(masks), 0.45, colors)
        outline(picture, masks)
    scale = max(1.0, min(image.shape[:2]) / 500)
    picture = draw_bounding_boxes(
        picture, torch.from_numpy(boxes[:, :4]), colors=colors, width=round(2 * scale)
    )
    picture = np.ascontiguousarray(picture.permute(1, 2, 0).numpy()[..., ::-1])
    # the most certain last: its name lies on top
    for place in range(len(boxes))[::-1]:
        text = classes[labels[place]]
        if boxes.shape[1] == 5:
            text = f"{text} {boxes[place, 4]:.2f}"
        label(picture, text, boxes[place], colors[place][::-1], scale)
    return picture


def outline(picture: torch.Tensor, masks: np.ndarray) -> None:
    """Draw a white line around each mask (n, H, W), whose own colour may be the object's.

    Args:
        picture: RGB (3, H, W), drawn upon.
        masks: of bool.
    """
    lines = np.zeros(masks.shape[1:], np.uint8)
    for mask in masks:
        parts, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(lines, parts, -1, 1, 1)
    picture[:, torch.from_numpy(lines).bool()] = 255


def label(picture: np.ndarray, text: str, box, color: tuple[int, ...], scale: float) -> None:
    """Write a name on a bar of the box's colour above its corner, inside where there is no room.

    Args:
        picture: BGR (H, W, 3), drawn upon.
        text: the name.
        box: left, top, ... in pixels.
        color: BGR, 0 to 255.
        scale: of the letters, 1 for small pictures.
    """
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
    """The image below a white line with a title."""
    bar = np.full((24, image.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, image])
