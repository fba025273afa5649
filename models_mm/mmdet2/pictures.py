"""Pictures of mmdet's data sets: predictions beside the truth, and training samples."""

from pathlib import Path

import cv2
import mmcv
import numpy as np

from models_mm.data.images import check_size, read_image
from models_mm.data.sampling import SeededSamples, image_metas, name_of
from models_mm.errors import UserError
from models_mm.evaluation.results import confident_objects
from models_mm.mmdet2.data_files import files_of
from models_mm.outputs import Outputs, refuse_input
from models_mm.visualization.pictures import compare, draw, grid, write_picture

TILE = 360  # pixels; the longer side of the picture of a training sample has at least about as many


def draw_comparisons(
    dataset, results: list, out_dir: str, number: int, score_thr: float = 0.3
) -> list[Path]:
    """Write pictures with the truth on the left and the prediction on the right.

    Args:
        dataset: an mmdet ``CocoDataset`` in test mode.
        results: one result per image, as ``tools/test.py --out`` writes them.
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
        write_picture(comparison(dataset, results[index], index, score_thr), path)
        paths.append(path)
    return paths


def evenly(dataset, number: int) -> np.ndarray:
    """The positions of at most ``number`` images, spread evenly over a data set."""
    picks = np.linspace(0, len(dataset) - 1, min(number, len(dataset)))
    return np.unique(picks.round().astype(int))


def comparison(
    dataset, result, index: int, score_thr: float = 0.3, longest: int | None = None
) -> np.ndarray:
    """The truth of an image on the left and the prediction on the right, BGR (H, W, 3).

    Args:
        dataset: as of :func:`draw_comparisons`.
        result: of the image.
        index: of the image.
        score_thr: lowest score drawn.
        longest: pixels of the longer side; a larger image is shrunk before it is drawn upon.

    Raises:
        UserError: the image cannot be read, or its size is not that of its annotations.
    """
    path = Path(dataset.img_prefix or "") / dataset.data_infos[index]["filename"]
    image = read_image(path, mmcv.imfrombytes)
    check_size(str(path), image, dataset.data_infos[index])
    pictures = []
    for boxes, labels, masks in (
        true_objects(dataset, index),
        confident_objects(result, score_thr),
    ):
        small, boxes, masks = shrink(image, boxes, masks, longest or max(image.shape))
        pictures.append(draw(small, boxes, labels, masks, dataset.CLASSES))
    return compare(*pictures)


def shrink(image: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None, longest: int):
    """Shrink an image with its objects before it is drawn upon, so that names keep their size.

    Args:
        image: (H, W, 3).
        boxes: (n, 4) in pixels, or (n, 5) with scores.
        masks: (n, H, W) of bool, or ``None``.
        longest: pixels of the longer side; a smaller image is left as it is.

    Returns:
        The three in the new size.
    """
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image, boxes, masks
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    boxes = np.concatenate([boxes[:, :4] * scale, boxes[:, 4:]], axis=1)
    if masks is not None and len(masks):
        masks = np.stack([cv2.resize(m.astype(np.uint8), size) for m in masks]).astype(bool)
    elif masks is not None:
        masks = np.zeros((0, *size[::-1]), bool)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), boxes, masks


def true_objects(dataset, index: int):
    """Boxes (n, 4), labels (n,) and masks (n, H, W) of the annotations of an image, without crowds.

    The masks are ``None`` unless every object has one.
    """
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


def draw_samples(dataset, out: str, number: int, draws: int, seed: int) -> Path:
    """Draw images of a training data set, each several times, into one picture.

    Each row of the picture shows one image.

    Args:
        dataset: with its training pipeline.
        out: the picture.
        number: how many images, spread evenly over the data set.
        draws: how often each image goes through the pipeline.
        seed: of the draws.

    Raises:
        UserError: ``out`` is a file of the data set.
    """
    refuse_input(out, files_of(dataset))
    samples = SeededSamples(dataset)
    rows = []
    for index in map(int, np.unique(np.linspace(0, len(dataset) - 1, number).round())):
        drawn = [samples[index, (seed, index, i)] for i in range(draws)]
        pictures = [sample_picture(sample, dataset) for sample in drawn]
        rows.append((name_of(dataset, index), pictures))
    write_picture(grid(rows), out)
    return Path(out)


def sample_picture(sample: dict, dataset) -> np.ndarray:
    """A sample of the training pipeline as a picture, BGR (H, W, 3), without normalisation."""
    meta = image_metas(sample)[0]
    image = sample["img"].data.numpy().transpose(1, 2, 0)  # (H, W, C)
    settings = meta["img_norm_cfg"]
    image = mmcv.imdenormalize(image, settings["mean"], settings["std"], settings["to_rgb"])
    image = np.ascontiguousarray(image.clip(0, 255).round().astype(np.uint8))
    boxes = sample["gt_bboxes"].data.numpy()
    labels = sample["gt_labels"].data.numpy()
    masks = sample["gt_masks"].data.to_ndarray().astype(bool) if "gt_masks" in sample else None
    image, boxes, masks = shrink(image, boxes, masks, TILE)
    return draw(image, boxes, labels, masks, dataset.CLASSES)
