"""COCO's evaluation, measured: drawn truth and detections, and the time of each engine."""

import contextlib
import importlib
import os
import time
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
from mmdet.core import encode_mask_results
from mmdet.datasets import build_dataset
from pycocotools.cocoeval import COCOeval

from models_mm.data.demo import run_lengths
from models_mm.evaluation import coco
from models_mm.evaluation.masks import encode_masks

CORNERS = 8  # of a mask's polygon


def draw_truth(images: int, classes: int, rng: np.random.Generator) -> dict:
    """COCO's annotation file with 7.3 objects per image, of which 1.2% are crowds, as val2017."""
    content = dict(
        info={},
        licenses=[],
        images=[],
        annotations=[],
        categories=[dict(id=i + 1, name=f"class {i + 1}") for i in range(classes)],
    )
    for image in range(1, images + 1):
        width, height = (640, 480) if rng.random() < 0.7 else (480, 640)
        name = f"{image:012d}.jpg"
        content["images"].append(dict(id=image, width=width, height=height, file_name=name))
        count = rng.poisson(7.3)
        boxes = random_boxes(count, width, height, rng)
        few = rng.integers(1, classes + 1, 3)  # images show several objects of a class
        for box, polygon, label in zip(
            boxes, polygons(boxes, rng), rng.choice(few, count), strict=True
        ):
            crowd = rng.random() < 0.012
            mask = mask_utils.frPyObjects([polygon], height, width)[0]
            content["annotations"].append(
                dict(
                    id=len(content["annotations"]) + 1,
                    image_id=image,
                    category_id=int(label),
                    bbox=box.tolist(),
                    area=float(mask_utils.area(mask)),
                    iscrowd=int(crowd),
                    segmentation=run_lengths(mask_utils.decode(mask)) if crowd else [polygon],
                )
            )
    return content


def random_boxes(count: int, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes (count, 4) of x, y, width, height, from 8 to 300 pixels."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    sides = np.minimum(sides, [width - 2, height - 2])
    corners = rng.random((count, 2)) * ([width, height] - sides)
    return np.concatenate([corners, sides], 1).round(2)


def polygons(boxes: np.ndarray, rng: np.random.Generator) -> list[list[float]]:
    """A ragged round polygon in each box."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radii = 0.5 * rng.uniform(0.6, 1, (len(boxes), CORNERS))
    x = boxes[:, :1] + boxes[:, 2:3] * (0.5 + radii * np.cos(angles))
    y = boxes[:, 1:2] + boxes[:, 3:] * (0.5 + radii * np.sin(angles))
    return np.stack([x, y], 2).reshape(len(boxes), 2 * CORNERS).round(2).tolist()


def draw_results(dataset, detections: int, rng: np.random.Generator) -> list:
    """Results as a detector with masks gives them: six guesses per object, the rest at random."""
    classes, results = len(dataset.CLASSES), []
    for info, image in zip(dataset.data_infos, dataset.img_ids, strict=True):
        width, height = info["width"], info["height"]
        truth = dataset.coco.imgToAnns[image]
        true = np.array([a["bbox"] for a in truth], float).reshape(-1, 4)
        labels = np.array([dataset.cat2label[a["category_id"]] for a in truth], int)
        source = np.repeat(np.arange(len(true)), 6)[:detections]
        boxes = true[source] * (1 + rng.normal(0, 0.08, (len(source), 4)))
        other = detections - len(source)
        boxes = np.concatenate([boxes, random_boxes(other, width, height, rng)])
        boxes[:, :2] = boxes[:, :2].clip(0, [width - 2, height - 2])
        boxes[:, 2:] = np.minimum(boxes[:, 2:].clip(1), [width, height] - boxes[:, :2])
        wrong = rng.random(len(source)) < 0.1
        found = np.where(wrong, rng.integers(0, classes, len(source)), labels[source])
        found = np.concatenate([found, rng.integers(0, classes, other)])
        scores = np.concatenate([rng.beta(3, 2, len(source)), rng.beta(1, 4, other)])
        tied = rng.random(detections) < 0.2
        scores = np.where(tied, scores.round(2), scores)  # equal scores must not matter
        masks = mask_utils.frPyObjects(polygons(boxes, rng), height, width)
        rows = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:], scores])
        rows = rows.astype(np.float32)
        of_class = [np.flatnonzero(found == label) for label in range(classes)]
        results.append(([rows[i] for i in of_class], [[masks[j] for j in i] for i in of_class]))
    return results


class Recorded:
    """Keep the statistics and the time from an engine's first step to its last."""

    last: "Recorded"

    def __init__(self, *args, **kwargs):
        self.began = time.perf_counter()
        super().__init__(*args, **kwargs)

    def summarize(self):
        super().summarize()
        self.seconds = time.perf_counter() - self.began
        Recorded.last = self


def measure(dataset_of, results: list, metric: str, engine: str) -> dict:
    """The statistics of a fresh data set's evaluation, and its times."""
    dataset = dataset_of()
    base = COCOeval
    if engine == "faster_coco_eval":
        base = importlib.import_module(engine).COCOeval_faster
    recorded = type("RecordedEval", (Recorded, base), {})
    coco.COCOeval = recorded
    way = "hotcoco" if engine == "hotcoco" else "pycocotools"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        start = time.perf_counter()
        dataset.evaluate(results, metric, engine=way)
        whole = time.perf_counter() - start
    return dict(
        engine=engine,
        metric=metric,
        whole=whole,
        matching=Recorded.last.seconds,
        statistics=np.array(Recorded.last.stats[:12]).tolist(),
    )


def measure_masks(number: int) -> list[dict]:
    """Milliseconds per mask of mmdet's encoding and of this package's."""
    rng = np.random.default_rng(0)
    rows = []
    for height, width in ((480, 640), (800, 1333)):
        masks = np.zeros((number, height, width), bool)
        masks[:, 100:300, 150:400] = rng.random((number, 200, 250)) < 0.999
        row = dict(size=f"{height}x{width}")
        for name, encode in (("mmdet", encode_mask_results), ("here", encode_masks)):
            start = time.perf_counter()
            row[f"{name} result"] = encode([list(masks)])
            row[name] = 1e3 * (time.perf_counter() - start) / number
        theirs, ours = row.pop("mmdet result")[0], row.pop("here result")[0]
        pairs = zip(theirs, ours, strict=True)
        row["equal"] = all(a["counts"].decode() == b["counts"] for a, b in pairs)
        rows.append(row)
    return rows


def loader_of(file: str | Path, names: list[str]):
    """A function that reads a data set of these classes anew, since pycocotools changes its own."""

    def dataset_of():
        settings = dict(type="CocoDataset", ann_file=str(file), classes=names, pipeline=[])
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return build_dataset(settings, dict(test_mode=True))

    return dataset_of
