"""Training samples as the model sees them."""

from pathlib import Path

import cv2
import mmcv
import numpy as np

from models_mm.data.samples import Samples, metas, name_of
from models_mm.outputs import files_of, refuse_input
from models_mm.visualization.pictures import draw, titled

TILE = 360  # pixels of a picture's longer side at least and about
GAP = 8


def draw_samples(dataset, out: str, number: int, draws: int, seed: int) -> Path:
    """Draw images of a training data set several times each, a row an image, into one picture.

    Args:
        dataset: with its training pipeline.
        out: the picture.
        number: how many images, spread evenly over the data set.
        draws: how often each goes through the pipeline.
        seed: of the draws.

    Raises:
        UserError: ``out`` is a file of the data set.
    """
    refuse_input(out, files_of(dataset))
    samples = Samples(dataset)
    picks = np.unique(np.linspace(0, len(dataset) - 1, number).round().astype(int))
    rows = []
    for index in picks:
        drawn = [
            sample_picture(samples[int(index), (seed, int(index), i)], dataset)
            for i in range(draws)
        ]
        row = beside([titled(picture, f"draw {i + 1}") for i, picture in enumerate(drawn)])
        rows.append(titled(row, name_of(dataset, int(index))))
    width = max(row.shape[1] for row in rows)
    rows = [widened(row, row.shape[0], width) for row in rows]
    mmcv.imwrite(np.concatenate(rows), out)
    return Path(out)


def sample_picture(sample: dict, dataset) -> np.ndarray:
    """A sample of the pipeline as a picture, BGR (H, W, 3), its normalisation undone."""
    meta = metas(sample)[0]
    image = sample["img"].data.numpy().transpose(1, 2, 0)  # (H, W, C)
    settings = meta["img_norm_cfg"]
    image = mmcv.imdenormalize(image, settings["mean"], settings["std"], settings["to_rgb"])
    image = np.ascontiguousarray(image.clip(0, 255).round().astype(np.uint8))
    boxes = sample["gt_bboxes"].data.numpy()
    labels = sample["gt_labels"].data.numpy()
    masks = sample["gt_masks"].data.to_ndarray().astype(bool) if "gt_masks" in sample else None
    scale = TILE / max(image.shape[:2])
    if scale < 1:  # names keep their size
        size = [round(side * scale) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        boxes = boxes * scale
        if masks is not None and len(masks):
            small = [cv2.resize(m.astype(np.uint8), size) for m in masks]
            masks = np.stack(small).astype(bool)
    return draw(image, boxes, labels, masks, dataset.CLASSES)


def beside(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures in a row, white between and below them."""
    height = max(picture.shape[0] for picture in pictures) + GAP
    return np.concatenate(
        [widened(picture, height, picture.shape[1] + GAP) for picture in pictures], axis=1
    )


def widened(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture with white on its right and below."""
    rest = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, rest, constant_values=255)
