"""COCO's metrics from plain truth and arrays of detections.

pycocotools' Python loops match detections with objects slowly. hotcoco
(https://github.com/derekallman/hotcoco, Rust) does the same from arrays, and pycocotools' own
summary turns its precision and recall into COCO's 12 statistics. Without hotcoco pycocotools does
all of it. The statistics of both engines are equal to the last bit (docs/speed.md).
"""

import contextlib
import io
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models_mm.errors import UserError
from models_mm.evaluation.results import FlatResults

try:
    import hotcoco
except ImportError:
    hotcoco = None

ENGINES = ("hotcoco", "pycocotools")


class CocoMetrics(NamedTuple):
    """The result of an evaluation.

    Attributes:
        statistics: COCO's 12 statistics; -1 where there is no object. The first six are the AP at
            all thresholds, at 0.5, at 0.75, and of small, medium and large objects. The others are
            the AR for the three numbers of detections, and of small, medium and large objects.
        table: the statistics as pycocotools prints them.
        class_precisions: the AP per category id, NaN where there is no object; empty for the metric
            ``proposal``.
    """

    statistics: np.ndarray
    table: str
    class_precisions: dict[int, float]


class Truth(NamedTuple):
    """The images, categories and objects that are evaluated, numbered from 1.

    Numbers replace the ids of the file, which may have any size. pycocotools would take a match
    with annotation 0 for none, and would confuse ids that a float cannot hold.

    Attributes:
        images: the entries of the images, in the order of their ids.
        image_numbers: the number of each image id.
        category_numbers: the number of each category id.
        annotations: of these images and categories.
    """

    images: list[dict]
    image_numbers: dict[int, int]
    category_numbers: dict[int, int]
    annotations: list[dict]


def check_engine(engine: str | None) -> str:
    """The name of the engine that is used: the one asked for, or the fastest that is installed.

    Raises:
        UserError: the engine is unknown or not installed.
    """
    if engine not in (None, *ENGINES):
        raise UserError(f"evaluation.engine: {' or '.join(ENGINES)}, not {engine!r}")
    if engine == "hotcoco" and hotcoco is None:
        raise UserError(
            "evaluation.engine: hotcoco is not installed: `pip install hotcoco` (without the "
            "setting pycocotools is used, with the same numbers)"
        )
    return engine or ENGINES[hotcoco is None]


def counted_annotations(content: dict, image_ids: Sequence, category_ids: Sequence) -> list[dict]:
    """The annotations of some images and categories.

    Args:
        content: of an annotation file.
        image_ids: the images.
        category_ids: the categories.
    """
    images, categories = set(image_ids), set(category_ids)
    return [
        annotation
        for annotation in content["annotations"]
        if annotation["image_id"] in images and annotation["category_id"] in categories
    ]


def evaluate_coco(
    content: dict,
    results: FlatResults,
    image_ids: Sequence,
    category_ids: Sequence,
    metric: str = "bbox",
    max_detections: Sequence[int] = (1, 10, 100),
    iou_thrs: Sequence[float] | None = None,
    engine: str | None = None,
) -> CocoMetrics | None:
    """Compute COCO's metrics.

    Args:
        content: of an annotation file, checked by :func:`models_mm.data.annotations.load`.
        results: the detections.
        image_ids: the id of each position in ``results.images``.
        category_ids: the id of each position in ``results.labels``.
        metric: ``bbox``, ``segm``, or ``proposal`` (boxes, whatever their category).
        max_detections: three numbers of detections per image that count.
        iou_thrs: thresholds of the overlap (default: 0.5 to 0.95 in steps of 0.05).
        engine: ``hotcoco`` or ``pycocotools`` (default: hotcoco if it is installed).

    Returns:
        The metrics; ``None`` if there is no detection.

    Raises:
        UserError: the engine is unknown or not installed.
    """
    match = match_hotcoco if check_engine(engine) == "hotcoco" else match_pycocotools
    if not len(results.boxes):
        return None
    # without categories, their order decides which of equal scores comes first
    ordered = list(category_ids) if metric == "proposal" else sorted(category_ids)
    truth = number_truth(content, sorted(set(image_ids)), ordered)
    evaluation = COCOeval(iouType="segm" if metric == "segm" else "bbox")
    params = evaluation.params
    params.imgIds = list(truth.image_numbers.values())
    params.catIds = list(truth.category_numbers.values())
    params.useCats = int(metric != "proposal")
    params.maxDets = sorted(max_detections)
    if iou_thrs is not None:
        params.iouThrs = np.asarray(iou_thrs)  # pycocotools compares it as a whole
    images = np.array([truth.image_numbers[key] for key in image_ids])[results.images]
    categories = np.array([truth.category_numbers[key] for key in category_ids])[results.labels]
    corners = results.boxes
    boxes = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])  # x, y, w, h
    table = np.column_stack([images, boxes, results.scores, categories])
    match(evaluation, truth, table, results.masks)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        evaluation.summarize()
    precisions = {}
    if metric != "proposal":
        precisions = dict(zip(ordered, class_precisions(evaluation), strict=True))
    return CocoMetrics(np.array(evaluation.stats), printed.getvalue(), precisions)


def number_truth(content: dict, image_ids: list, category_ids: list) -> Truth:
    """Number images and categories in the given order.

    Args:
        content: of an annotation file.
        image_ids: the images, each once.
        category_ids: the categories, each once.
    """
    entries = {image["id"]: image for image in content["images"]}
    return Truth(
        images=[entries[key] for key in image_ids],
        image_numbers={key: number for number, key in enumerate(image_ids, 1)},
        category_numbers={key: number for number, key in enumerate(category_ids, 1)},
        annotations=counted_annotations(content, image_ids, category_ids),
    )


def match_hotcoco(
    evaluation: COCOeval, truth: Truth, table: np.ndarray, masks: list[dict] | None
) -> None:
    """Fill an evaluation with hotcoco's precision and recall.

    Args:
        evaluation: pycocotools', with its parameters.
        truth: what is to be found.
        table: (n, 7) image, x, y, width, height, score and category of each detection.
        masks: run lengths of the n masks for the metric ``segm``.
    """
    annotations, kind = truth.annotations, evaluation.params.iouType
    objects = hotcoco.COCO.from_arrays(
        [
            {"id": number, "width": image["width"], "height": image["height"]}
            for number, image in enumerate(truth.images, 1)
        ],
        [{"id": number, "name": str(number)} for number in truth.category_numbers.values()],
        [truth.image_numbers[annotation["image_id"]] for annotation in annotations],
        [truth.category_numbers[annotation["category_id"]] for annotation in annotations],
        np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4),
        ids=list(range(1, len(annotations) + 1)),
        area=np.array([a["area"] for a in annotations], np.float64),
        iscrowd=[bool(annotation.get("iscrowd")) for annotation in annotations],
        segmentation=[a["segmentation"] for a in annotations] if kind == "segm" else None,
    )
    found = objects.load_res(table, segmentation=masks)
    if masks is not None:
        # small, medium and large are sizes of the masks; boxes are not part of the metric
        areas = hotcoco.mask.area(masks).astype(float)
        found.update_anns(ids=np.arange(1, len(masks) + 1), area=areas)
    engine = hotcoco.COCOeval(objects, found, kind)
    engine.params.img_ids = evaluation.params.imgIds
    engine.params.cat_ids = evaluation.params.catIds
    engine.params.max_dets = [int(number) for number in evaluation.params.maxDets]
    engine.params.iou_thrs = [float(threshold) for threshold in evaluation.params.iouThrs]
    engine.params.use_cats = bool(evaluation.params.useCats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of parameters other than the leaderboard's
        engine.evaluate()
        engine.accumulate()
    evaluation.eval = engine.eval


def match_pycocotools(
    evaluation: COCOeval, truth: Truth, table: np.ndarray, masks: list[dict] | None
) -> None:
    """Fill an evaluation with pycocotools' precision and recall; arguments as of hotcoco's."""
    objects = COCO()
    objects.dataset = {
        "images": [image | {"id": number} for number, image in enumerate(truth.images, 1)],
        "categories": [{"id": number} for number in truth.category_numbers.values()],
        "annotations": [
            # a copy, because pycocotools writes into the annotations
            annotation
            | {
                "id": number,
                "image_id": truth.image_numbers[annotation["image_id"]],
                "category_id": truth.category_numbers[annotation["category_id"]],
                "iscrowd": int(annotation.get("iscrowd", 0)),
            }
            for number, annotation in enumerate(truth.annotations, 1)
        ],
    }
    entries = [
        {"image_id": int(row[0]), "category_id": int(row[6]), "score": row[5]}
        | ({"bbox": row[1:5]} if masks is None else {"segmentation": masks[place]})
        for place, row in enumerate(table.tolist())
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        objects.createIndex()
        evaluation.cocoGt, evaluation.cocoDt = objects, objects.loadRes(entries)
        evaluation.evaluate()
        evaluation.accumulate()


def class_precisions(evaluation: COCOeval) -> list[float]:
    """The AP of each category of an evaluation; NaN of a category without objects."""
    # (thresholds, recalls, categories), of all areas and the largest number of detections
    precision = evaluation.eval["precision"][..., 0, -1]
    of_categories = (of[of > -1] for of in np.moveaxis(precision, 2, 0))
    return [float(known.mean()) if known.size else float("nan") for known in of_categories]
