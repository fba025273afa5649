"""Random small data sets and results: both engines are compared with pycocotools, bit by bit.

The reference is pycocotools alone, fed by a few lines of its own: no code of the package is in it.
It gets annotation ids from 1 on, because it takes a match with annotation 0 for none, and only the
detections that are finite, because the others count nowhere here. Everything else is as in the
file. All 12 statistics of boxes, masks and proposals must be equal to the last bit.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)
import numpy as np
import pycocotools.mask as mask_utils
from mmdet.datasets import build_dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models_mm.evaluation.coco import ENGINES, CocoMetrics
from models_mm.mmdet2.datasets import CocoDataset

from .tally import Tally

ID_RANGES = ((0, 12), (-9, 9), (2**40, 2**40 + 9), (2**53 - 5, 2**53 + 9), (2**62, 2**62 + 40))
SIDES = np.array([1, 2, 3, 8, 16, 31.9, 32, 32.5, 40, 95.5, 96, 97, 150])
NUMBERS = ((100, 300, 1000), (1, 10, 100), (2, 3, 100), (100, 1, 2))
THRESHOLDS = (None, None, [0.5], [0.5, 0.75], [0.3, 0.5, 0.999999, 1.0], [0.0, 0.5])
QUIET = logging.getLogger("tests.soak.evaluations")
QUIET.setLevel(logging.CRITICAL)


class Detection(NamedTuple):
    """One detection: image id, class (``None`` of proposals), corners, and its mask, if any."""

    image: int
    label: int | None
    box: list[float]
    score: float
    mask: dict | None
    mask_score: float


def soak(count: int, seed: int, folder: Path) -> Tally:
    """Evaluate random cases with both engines and with pycocotools alone.

    Args:
        count: cases.
        seed: other cases.
        folder: for annotation files.
    """
    tally = Tally()
    for number in range(count):
        case = (seed, number)
        try:
            difference = compare(case, folder / "truth.json")
        except Exception as error:  # whatever it is, the next case is tried
            difference = f"{type(error).__name__}: {error}"
        if difference:
            tally.fail(f"compare({case}, file): {difference}")
        else:
            tally.count("equal to pycocotools")
    return tally


def compare(case: tuple[int, int], file: Path) -> str | None:
    """What differs in a case; ``None`` if nothing does.

    Args:
        case: seed and number.
        file: where its annotations go.
    """
    rng = np.random.default_rng(case)
    content = draw_truth(rng)
    file.write_text(json.dumps(content))
    names = draw_classes(rng, content)
    results, finite = draw_results(rng, content, names)
    kinds = ["proposal"] if isinstance(results[0], np.ndarray) else ["bbox", "proposal"]
    if isinstance(results[0], tuple):
        kinds.append("segm")
    metric = str(rng.choice(kinds))
    numbers = NUMBERS[rng.integers(len(NUMBERS))]
    thresholds = THRESHOLDS[rng.integers(len(THRESHOLDS))]
    expected = by_pycocotools(content, names, finite, metric, numbers, thresholds)
    for engine in ENGINES:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            settings = dict(type="CocoDataset", ann_file=str(file), classes=names, pipeline=[])
            dataset = build_dataset(settings, dict(test_mode=True))
            found = statistics(dataset, copy.deepcopy(results), metric, numbers, thresholds, engine)
        if expected is None or found is None:
            if expected is not found:
                return f"{metric}, {engine}: {found} instead of {expected}"
        elif not np.array_equal(expected, found):
            return f"{metric}, {engine}: differs by {np.abs(expected - found).max():.1e}"
    return None


def statistics(dataset, results, metric, numbers, thresholds, engine) -> np.ndarray | None:
    """All 12 statistics of ``dataset.evaluate``, unrounded; ``None`` without a detection."""
    kept = []

    def coco_metrics(*args) -> CocoMetrics | None:
        kept.append(CocoDataset.coco_metrics(dataset, *args))
        return kept[-1]

    dataset.coco_metrics = coco_metrics
    options = dict(proposal_nums=numbers, iou_thrs=thresholds, engine=engine)
    dataset.evaluate(results, metric, logger=QUIET, classwise=metric != "proposal", **options)
    return None if kept[0] is None else kept[0].statistics


def by_pycocotools(content, names, finite, metric, numbers, thresholds) -> np.ndarray | None:
    """The statistics of pycocotools alone.

    Args:
        content: of the annotation file.
        names: the classes.
        finite: the detections that count.
        metric: ``bbox``, ``segm``, ``proposal``.
        numbers: detections that count.
        thresholds: of the overlap, or ``None``.
    """
    content = copy.deepcopy(content)
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number
    ids = {category["name"]: category["id"] for category in content["categories"]}
    known = [ids[name] for name in names if name in ids]
    entries = []
    for one in finite:
        if one.label is not None and names[one.label] not in ids:
            continue
        category = known[0] if one.label is None else ids[names[one.label]]
        entry = {"image_id": one.image, "category_id": category, "score": one.score}
        if metric == "segm":
            entry |= {"segmentation": dict(one.mask), "score": one.mask_score}
        else:
            left, top, right, bottom = one.box
            entry["bbox"] = [left, top, right - left, bottom - top]
        entries.append(entry)
    if not entries:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(entries), "segm" if metric == "segm" else "bbox")
        evaluation.params.catIds = known
        evaluation.params.useCats = int(metric != "proposal")
        evaluation.params.maxDets = sorted(numbers)
        if thresholds is not None:
            evaluation.params.iouThrs = np.array(thresholds)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.array(evaluation.stats)


def draw_ids(rng: np.random.Generator, count: int) -> list[int]:
    """Different ids in any order: small, negative, around and far above 2**53."""
    low, high = ID_RANGES[rng.integers(len(ID_RANGES))]
    return [low + int(i) for i in rng.permutation(max(high - low, count))[:count]]


def draw_truth(rng: np.random.Generator) -> dict:
    """An annotation file: images without objects, crowds, objects of no known image or class."""
    images = draw_ids(rng, int(rng.integers(1, 6)))
    categories = draw_ids(rng, int(rng.integers(1, 5)))
    side = int(rng.integers(40, 200))
    content: dict = {
        "images": [
            {"id": i, "width": side, "height": side - 7, "file_name": f"{i}.jpg"} for i in images
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in categories],
        "annotations": [],
    }
    count = int(rng.choice([0, 1, 3, 8, 25], p=[0.05, 0.1, 0.2, 0.35, 0.3]))
    for number in draw_ids(rng, count):
        box = draw_box(rng, side)
        annotation = {
            "id": number,
            "image_id": images[rng.integers(len(images))],
            "category_id": categories[rng.integers(len(categories))],
            "bbox": box,
            "area": float(rng.choice([box[2] * box[3], 1024, 9216, 0, 500, -3, 1e11])),
            "iscrowd": int(rng.choice([0, 1], p=[0.85, 0.15])),
        }
        annotation["segmentation"] = draw_mask(rng, box, side)
        if rng.random() < 0.1:
            annotation["ignore"] = int(rng.integers(2))
        content["annotations"].append(annotation)
    return content


def draw_box(rng: np.random.Generator, side: int) -> list[float]:
    """x, y, width, height, often whole numbers, now and then without an area."""
    width, height = np.minimum(rng.choice(SIDES, 2), side)
    x, y = rng.uniform(-5, side, 2).round(int(rng.integers(0, 3)))
    if rng.random() < 0.05:
        width = 0.0
    return [float(x), float(y), float(width), float(height)]


def draw_mask(rng: np.random.Generator, box: list[float], side: int):
    """Polygons, run lengths as a list, or compressed ones."""
    height = side - 7
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    if rng.random() < 0.5:
        other = rng.uniform(0, side, int(rng.integers(3, 7)) * 2).round(1).tolist()
        return [polygon, other] if rng.random() < 0.3 else [polygon]
    pixels = mask_utils.decode(mask_utils.frPyObjects([polygon], height, side))[..., 0]
    pixels |= (rng.random(pixels.shape) < rng.choice([0, 0.01])).astype(np.uint8)
    if rng.random() < 0.5:
        return compressed(pixels)
    runs = np.diff([0, *np.flatnonzero(np.diff(pixels.ravel("F"))) + 1, pixels.size]).tolist()
    return {"size": [height, side], "counts": [0, *runs] if pixels[0, 0] else runs}


def compressed(pixels: np.ndarray) -> dict:
    """Run lengths as text."""
    rle = mask_utils.encode(np.asfortranarray(pixels))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def draw_classes(rng: np.random.Generator, content: dict) -> list[str]:
    """Names in any order: not all of the file's, and some that it lacks."""
    names = [category["name"] for category in content["categories"]]
    kept = rng.permutation(names)[: rng.integers(1, len(names) + 1)].tolist()
    for unknown in ("unicorn", "dragon")[: rng.integers(3)]:
        kept.insert(int(rng.integers(len(kept) + 1)), unknown)
    return kept


def draw_results(rng: np.random.Generator, content: dict, names: list[str]) -> tuple[list, list]:
    """Results of a detector, and those of its detections that count, in order.

    True boxes, moved or not, and random ones; equal scores; images and classes without any.
    """
    form = rng.choice(["boxes", "masks", "proposals", "scored masks"], p=[0.4, 0.3, 0.2, 0.1])
    places = len(names) if form != "proposals" else 1
    amount = int(rng.choice([0, 1, 4, 12, 60], p=[0.05, 0.15, 0.4, 0.35, 0.05]))
    decimals = int(rng.choice([1, 2, 6]))
    bad = rng.random() < 0.1  # a network that gives NaN
    results: list = []
    counted: list = []
    for image in content["images"]:
        true = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        rows: list[list] = [[] for _ in range(places)]
        for _ in range(int(rng.integers(amount + 1))):
            label = int(rng.integers(places))
            box = draw_box(rng, image["width"])
            mask = None
            if true and rng.random() < 0.7:
                near = true[rng.integers(len(true))]
                box = [v + d for v, d in zip(near["bbox"], draw_moves(rng), strict=True)]
                name = f"class {near['category_id']}"
                if form != "proposals" and name in names and rng.random() < 0.8:
                    label = names.index(name)
            if "masks" in form:
                mask = draw_mask(rng, [*box[:2], max(box[2], 0), max(box[3], 0)], image["width"])
                if isinstance(mask, list) or isinstance(mask["counts"], list):
                    mask = as_run_lengths(mask, image)
            row = np.array([box[0], box[1], box[0] + box[2], box[1] + box[3], 0], np.float32)
            row[4] = np.float32(round(rng.beta(2, 2), decimals))
            if bad and rng.random() < 0.3:
                row[rng.integers(5)] = rng.choice([np.nan, np.inf, -np.inf])
            rows[label].append((row, mask, round(rng.random(), decimals)))
        results.append(as_result(rows, form))
        for label, of_class in enumerate(rows):
            for row, mask, own in of_class:
                if np.isfinite(row).all():
                    place = None if form == "proposals" else label
                    *box, score = row.tolist()
                    own = own if form == "scored masks" else score
                    counted.append(Detection(image["id"], place, box, score, mask, own))
    return results, counted


def draw_moves(rng: np.random.Generator) -> np.ndarray:
    """Nothing, or a little, to add to a box."""
    return rng.normal(0, 3, 4).round(1) * (rng.random() < 0.7)


def as_run_lengths(mask, image: dict) -> dict:
    """Any mask as a detector's."""
    height, width = image["height"], image["width"]
    rle = mask_utils.frPyObjects(mask, height, width)
    rle = mask_utils.merge(rle) if isinstance(mask, list) else rle
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def as_result(rows: list[list], form: str):
    """The detections of an image in mmdet's form."""
    boxes = [np.array([r for r, _, _ in of], np.float32).reshape(-1, 5) for of in rows]
    if form == "proposals":
        return boxes[0]
    if form == "boxes":
        return boxes
    masks = [[mask for _, mask, _ in of] for of in rows]
    if form == "masks":
        return boxes, masks
    return boxes, (masks, [[own for _, _, own in of] for of in rows])
