"""COCO's data set with a fast evaluation: hotcoco matches and accumulates, pycocotools sums up.

mmdet writes all results into JSON files, reads them again, and lets pycocotools' Python loops match
them. Here the results go to hotcoco (https://github.com/derekallman/hotcoco, Rust) as arrays, and
the precision and recall that it returns, which are those of pycocotools to the bit, through
pycocotools' own summary. ``engine="pycocotools"`` takes mmdet's way.
"""

import contextlib
import io
import itertools
import logging
import warnings

import hotcoco
import numpy as np
from mmcv.utils import print_log
from mmdet.datasets import DATASETS
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from models_mm.errors import UserError

ENGINES = ("hotcoco", "pycocotools")
METRICS = ("bbox", "segm", "proposal", "proposal_fast")
# the places of pycocotools' 12 statistics, under mmdet's names
PRECISIONS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
RECALLS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
STATISTICS = {name: place for place, name in enumerate(PRECISIONS + RECALLS)}


@DATASETS.register_module(force=True)
class CocoDataset(MMDetCocoDataset):
    """mmdet's ``CocoDataset``; only the evaluation is another one."""

    def evaluate(
        self,
        results: list,
        metric: str | list[str] = "bbox",
        logger=None,
        jsonfile_prefix: str | None = None,
        classwise: bool = False,
        proposal_nums: tuple[int, ...] = (100, 300, 1000),
        iou_thrs=None,
        metric_items: str | list[str] | None = None,
        engine: str = "hotcoco",
    ) -> dict:
        """COCO's metrics, under the names and rounded as mmdet does.

        Args:
            results: one result an image, of boxes, of boxes and masks, or of proposals.
            metric: of ``bbox``, ``segm``, ``proposal``, ``proposal_fast``.
            logger: where the tables go (default: printed).
            jsonfile_prefix: also write the results there as COCO's JSON files.
            classwise: also show the AP of each class.
            proposal_nums: detections per image that count, for the three ARs.
            iou_thrs: (default: 0.5 to 0.95 in steps of 0.05).
            metric_items: the statistics to return (default: APs; of proposals, ARs).
            engine: ``hotcoco`` or ``pycocotools``; their numbers are the same.

        Raises:
            UserError: unknown engine.
            KeyError: unknown metric or item, or one that the results do not have.
        """
        if engine not in ENGINES:
            raise UserError(f"evaluation.engine: {' or '.join(ENGINES)}, not {engine!r}")
        if iou_thrs is not None:
            iou_thrs = np.asarray(iou_thrs)  # pycocotools compares it as a whole
        options = (logger, classwise, proposal_nums, iou_thrs, metric_items)
        metrics = metric if isinstance(metric, list) else [metric]
        if engine == "pycocotools":
            given = (results, metrics, logger, jsonfile_prefix, *options[1:])
            return super().evaluate(*given)
        for name in metrics:
            if name not in METRICS:
                raise KeyError(f"metric {name} is not supported")
        assert len(results) == len(self), f"{len(results)} results for {len(self)} images"
        self.cat_ids = self.coco.get_cat_ids(cat_names=self.CLASSES)
        if jsonfile_prefix is not None:
            self.format_results(results, jsonfile_prefix)
        items = [metric_items] if isinstance(metric_items, str) else metric_items
        values = {}
        for name in metrics:
            if name == "proposal_fast":
                values |= super().evaluate_det_segm(results, {}, self.coco, [name], *options)
                continue
            print_log(f"Evaluating {name}...", logger)
            counted = self.count(results, name, proposal_nums, iou_thrs)
            if counted is None:
                message = "The testing results of the whole dataset is empty."
                print_log(message, logger, logging.ERROR)
                break
            table = io.StringIO()
            with contextlib.redirect_stdout(table):
                counted.summarize()
            print_log("\n" + table.getvalue(), logger)
            if classwise and name != "proposal":
                print_log("\n" + self.class_table(counted), logger)
            values |= chosen(counted.stats, name, items)
        return values

    def count(self, results: list, metric: str, proposal_nums, iou_thrs) -> COCOeval | None:
        """pycocotools' evaluation, matched and accumulated; ``None`` without any detection.

        Raises:
            KeyError: the results have no such thing.
        """
        kind = "bbox" if metric == "proposal" else metric
        table, masks = self.columns(results, kind)
        if not len(table):
            return None
        truth = self.truth(kind)
        found = truth.load_res(table, segmentation=masks)
        if masks is not None:
            # boxes of results with masks are no part of the metric: sizes are those of the masks
            areas = hotcoco.mask.area(masks).astype(float)
            found.update_anns(ids=np.arange(1, len(masks) + 1), area=areas)
        counted = COCOeval(iouType=kind)
        counted.params.imgIds = sorted(set(self.img_ids))
        # where classes do not count, their order says which of equal scores comes first
        counted.params.catIds = self.cat_ids if metric == "proposal" else sorted(self.cat_ids)
        counted.params.useCats = int(metric != "proposal")
        counted.params.maxDets = sorted(proposal_nums)
        if iou_thrs is not None:
            counted.params.iouThrs = iou_thrs
        counted.eval = accumulated(truth, found, counted.params)
        return counted

    def columns(self, results: list, kind: str) -> tuple[np.ndarray, list[dict] | None]:
        """All detections in the order of the JSON files, and their masks.

        Returns:
            A table (n, 7) of image, x, y, width, height, score and category; n run lengths or
            ``None``.
        """
        if isinstance(results[0], np.ndarray):  # proposals: every category is 1
            if kind == "segm":
                raise KeyError("segm is not in results")
            per_class, masks = [[boxes] for boxes in results], None
        elif isinstance(results[0], tuple):
            per_class, masks = zip(*results, strict=True)
        elif kind == "segm":
            raise KeyError("segm is not in results")
        else:
            per_class, masks = results, None
        categories = [1] if isinstance(results[0], np.ndarray) else self.cat_ids
        known = len(categories)  # a file may lack classes of the model; they count nowhere
        flat = [boxes for of_image in per_class for boxes in of_image[:known]]
        counts = np.array([len(boxes) for boxes in flat]).reshape(len(results), -1)
        boxes = np.concatenate(flat).astype(np.float64)
        images = np.repeat(self.img_ids, counts.sum(1))
        labels = np.repeat(np.tile(categories[: counts.shape[1]], len(results)), counts.ravel())
        scores = boxes[:, 4]
        if kind == "bbox":
            masks = None
        else:
            if isinstance(masks[0], tuple):  # Mask Scoring R-CNN: masks have scores of their own
                masks, own = zip(*masks, strict=True)
                scores = np.array([float(s) for image in own for of in image[:known] for s in of])
            kept = (of_class for of_image in masks for of_class in of_image[:known])
            masks = [mask for of_class in kept for mask in of_class]
        size = boxes[:, 2:4] - boxes[:, :2]
        return np.column_stack([images, boxes[:, :2], size, scores, labels]), masks

    def truth(self, kind: str) -> hotcoco.COCO:
        """The annotations, for hotcoco."""
        annotations = self.coco.dataset["annotations"]

        def column(name: str) -> list:
            return [annotation[name] for annotation in annotations]

        return hotcoco.COCO.from_arrays(
            [{key: v[key] for key in ("id", "width", "height")} for v in self.coco.imgs.values()],
            [{key: v[key] for key in ("id", "name")} for v in self.coco.cats.values()],
            column("image_id"),
            column("category_id"),
            np.array(column("bbox"), np.float64).reshape(-1, 4),
            ids=column("id"),
            area=np.array(column("area"), np.float64),
            iscrowd=[annotation.get("iscrowd", 0) for annotation in annotations],
            segmentation=column("segmentation") if kind == "segm" else None,
        )

    def class_table(self, counted: COCOeval) -> str:
        """The AP of each class, as mmdet lays it out."""
        cells = []
        for place, category in enumerate(counted.params.catIds):
            # (thresholds, recalls) of all areas, with as many detections as count
            precision = counted.eval["precision"][:, :, place, 0, -1]
            known = precision[precision > -1]
            cells.append(self.coco.cats[category]["name"])
            cells.append(f"{known.mean() if known.size else float('nan'):0.3f}")
        width = min(6, len(cells))
        rows = itertools.zip_longest(*[cells[start::width] for start in range(width)])
        return AsciiTable([["category", "AP"] * (width // 2), *rows]).table


def accumulated(truth: hotcoco.COCO, found: hotcoco.COCO, params) -> dict:
    """Precision, recall and scores as pycocotools' ``COCOeval.eval`` has them."""
    engine = hotcoco.COCOeval(truth, found, params.iouType)
    engine.params.img_ids = [int(image) for image in params.imgIds]
    engine.params.cat_ids = [int(category) for category in params.catIds]
    engine.params.max_dets = [int(number) for number in params.maxDets]
    engine.params.iou_thrs = [float(threshold) for threshold in params.iouThrs]
    engine.params.use_cats = bool(params.useCats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these are not the numbers of COCO's leaderboard
        engine.evaluate()
        engine.accumulate()
    return engine.eval


def chosen(statistics: np.ndarray, metric: str, items: list[str] | None) -> dict:
    """The wanted ones of the 12 statistics, under mmdet's names.

    Raises:
        KeyError: unknown item.
    """
    proposals = metric == "proposal"
    items = items or (RECALLS if proposals else PRECISIONS)
    prefix = "" if proposals else f"{metric}_"
    for item in items:
        if item not in STATISTICS:
            raise KeyError(f"metric item {item} is not supported")
    values = {prefix + item: float(f"{statistics[STATISTICS[item]]:.4f}") for item in items}
    if not proposals:
        values[f"{metric}_mAP_copypaste"] = " ".join(f"{value:.4f}" for value in statistics[:6])
    return values
