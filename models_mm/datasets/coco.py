"""COCO's data set: classes by their names, and a fast evaluation.

mmdet numbers the classes in the order of the annotation file and skips those that the file lacks;
here a label is the place of its name in ``CLASSES``, whatever the file has.

mmdet writes all results into JSON files, reads them again, and lets pycocotools' Python loops match
them. Here the results go to hotcoco (https://github.com/derekallman/hotcoco, Rust) as arrays, and
the precision and recall that it returns through pycocotools' own summary. ``engine="pycocotools"``
matches with pycocotools. docs/speed.md says where their numbers differ.
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
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from models_mm.datasets.loading import CheckedCocoDataset
from models_mm.datasets.results import boxes_of, check_results, counting
from models_mm.engine.cli import this_rank
from models_mm.errors import UserError
from models_mm.outputs import refuse_input

ENGINES = ("hotcoco", "pycocotools")
METRICS = ("bbox", "segm", "proposal", "proposal_fast")
# the places of pycocotools' 12 statistics, under mmdet's names
PRECISIONS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
RECALLS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
STATISTICS = {name: place for place, name in enumerate(PRECISIONS + RECALLS)}


@DATASETS.register_module(force=True)
class CocoDataset(CheckedCocoDataset):
    """mmdet's ``CocoDataset`` with labels by name and another evaluation.

    Attributes:
        cat_ids: the categories of those ``CLASSES`` that the file has, in the order of ``CLASSES``.
        cat2label: their labels, places in ``CLASSES``.
    """

    def load_annotations(self, ann_file: str) -> list[dict]:
        """mmdet's entries of all images; warns once of classes that the file of a test lacks.

        Raises:
            UserError: a field is not what it must be; a class is twice in the config; the file of
                a test has none of them.
        """
        infos = super().load_annotations(ann_file)
        self.cat2label = labels_by_name(self.coco.dataset["categories"], self.CLASSES)
        self.cat_ids = list(self.cat2label)
        labels = set(self.cat2label.values())
        lacking = [name for label, name in enumerate(self.CLASSES) if label not in labels]
        if lacking and self.test_mode:
            if not self.cat_ids:
                raise UserError(f"{ann_file} has none of the classes {listed(lacking)}")
            if this_rank() == 0:  # the process group is not there yet
                message = f"{ann_file} lacks {listed(lacking)}: left out of the evaluation"
                warnings.warn(message, stacklevel=2)
        return infos

    def get_cat2imgs(self) -> dict[int, list[int]]:
        """The images of each label, for ``class_aware_sampler``; mmdet takes ids for labels."""
        images: dict[int, list[int]] = {label: [] for label in range(len(self.CLASSES))}
        for index in range(len(self)):
            for category in sorted(set(self.get_cat_ids(index)) & set(self.cat_ids)):
                images[self.cat2label[category]].append(index)
        return images

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
            results: one per image, of boxes, of boxes and masks, or of proposals.
            metric: of ``bbox``, ``segm``, ``proposal``, ``proposal_fast``.
            logger: where the tables go (default: printed).
            jsonfile_prefix: also write the results there as COCO's JSON files.
            classwise: also show and return the AP of each class, as ``bbox_mAP:<name>``; -1 of a
                class without objects.
            proposal_nums: detections per image that count, for the three ARs.
            iou_thrs: (default: 0.5 to 0.95 in steps of 0.05).
            metric_items: the statistics to return (default: APs; of proposals, ARs).
            engine: ``hotcoco`` or ``pycocotools``.

        Raises:
            UserError: unknown engine; results that are not those of this data set; annotations
                without a mask that the metric needs.
            KeyError: unknown metric or item, or one that the results do not have.
        """
        if engine not in ENGINES:
            raise UserError(f"evaluation.engine: {' or '.join(ENGINES)}, not {engine!r}")
        metrics = metric if isinstance(metric, list) else [metric]
        for name in metrics:
            if name not in METRICS:
                raise KeyError(f"metric {name} is not supported")
        check_results(results, len(self), len(self.CLASSES))
        self.check_truth(metrics)
        if jsonfile_prefix is not None:
            self.results2json(results, jsonfile_prefix)
        results = counting(results, list(self.cat2label.values()))
        items = [metric_items] if isinstance(metric_items, str) else metric_items
        values: dict = {}
        by_class: dict = {}
        for name in metrics:
            if name == "proposal_fast":
                values |= self.fast_recalls(results, logger, proposal_nums, iou_thrs)
                continue
            print_log(f"Evaluating {name}...", logger)
            counted = self.count(results, name, proposal_nums, iou_thrs, engine)
            if counted is None:
                message = "The testing results of the whole dataset is empty."
                print_log(message, logger, logging.ERROR)
                break
            table = io.StringIO()
            with contextlib.redirect_stdout(table):
                counted.summarize()
            print_log("\n" + table.getvalue(), logger)
            if classwise and name != "proposal":
                precisions = self.class_precisions(counted)
                print_log("\n" + class_table(precisions), logger)
                for key, value in precisions.items():
                    by_class[f"{name}_mAP:{key}"] = -1.0 if np.isnan(value) else round(value, 4)
            values |= chosen(counted.stats, name, items)
        return values | by_class

    def results2json(self, results: list, outfile_prefix: str) -> dict[str, str]:
        """mmdet's JSON files, of the classes that the annotation file has.

        Raises:
            UserError: results that are not those of this data set; a file would be written over
                the annotations.
        """
        check_results(results, len(self), len(self.CLASSES))
        for kind in ("bbox", "segm", "proposal"):
            refuse_input(f"{outfile_prefix}.{kind}.json", [self.ann_file])
        results = counting(results, list(self.cat2label.values()))
        return super().results2json(results, outfile_prefix)

    def fast_recalls(self, results: list, logger, proposal_nums, iou_thrs) -> dict:
        """mmdet's recall of all true boxes, without their classes."""
        if isinstance(results[0], list):
            results = [np.concatenate(per_class) for per_class in results]
        options = (logger, False, proposal_nums, iou_thrs, None)
        return dict(super().evaluate_det_segm(results, {}, self.coco, ["proposal_fast"], *options))

    def count(
        self, results: list, metric: str, proposal_nums, iou_thrs, engine: str
    ) -> COCOeval | None:
        """pycocotools' evaluation, matched and accumulated; ``None`` without any detection.

        Args:
            results: of the classes in ``cat_ids``.
            metric: of ``bbox``, ``segm``, ``proposal``.
            proposal_nums: as of :meth:`evaluate`.
            iou_thrs: as of :meth:`evaluate`.
            engine: what matches.

        Raises:
            KeyError: the results have no such thing.
        """
        if metric == "segm" and not isinstance(results[0], tuple):
            raise KeyError("segm is not in results")
        counted = COCOeval(iouType="bbox" if metric == "proposal" else metric)
        counted.params.imgIds = sorted(set(self.img_ids))
        # where classes do not count, their order says which of equal scores comes first
        counted.params.catIds = self.cat_ids if metric == "proposal" else sorted(self.cat_ids)
        counted.params.useCats = int(metric != "proposal")
        counted.params.maxDets = sorted(proposal_nums)
        if iou_thrs is not None:
            counted.params.iouThrs = np.asarray(iou_thrs)  # pycocotools compares it as a whole
        match = self.match if engine == "hotcoco" else self.match_slowly
        return counted if match(results, counted) else None

    def match(self, results: list, counted: COCOeval) -> bool:
        """Fill an evaluation with hotcoco's precision and recall.

        Returns:
            Whether there is any detection.
        """
        # numbers from 1 on, in the order of the ids: ids may be of any size, or no numbers
        images = {key: number for number, key in enumerate(counted.params.imgIds, 1)}
        categories = {key: number for number, key in enumerate(counted.params.catIds, 1)}
        kind = counted.params.iouType
        table, masks = self.columns(results, kind, images, categories)
        if not len(table):
            return False
        truth = self.truth(kind, images, categories)
        found = truth.load_res(table, segmentation=masks)
        if masks is not None:
            # boxes of results with masks are no part of the metric: sizes are those of the masks
            areas = hotcoco.mask.area(masks).astype(float)
            found.update_anns(ids=np.arange(1, len(masks) + 1), area=areas)
        counted.eval = accumulated(truth, found, counted.params)
        return True

    def match_slowly(self, results: list, counted: COCOeval) -> bool:
        """Fill an evaluation by pycocotools itself, with the ids of the file."""
        kind = counted.params.iouType
        if isinstance(results[0], np.ndarray):
            entries = self._proposal2json(results)
            for entry in entries:  # all of category 1 for mmdet, which the file may not have
                entry["category_id"] = self.cat_ids[0]
        elif isinstance(results[0], tuple):
            entries = self._segm2json(results)[kind == "segm"]
        else:
            entries = self._det2json(results)
        if not entries:
            return False
        if kind == "segm":
            for entry in entries:  # sizes are those of the masks
                del entry["bbox"]
        truth = COCO()
        # pycocotools writes into what it evaluates
        truth.dataset = self.coco.dataset | {"annotations": [dict(a) for a in self.annotations()]}
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            counted.cocoGt, counted.cocoDt = truth, truth.loadRes(entries)
            counted.evaluate()
            counted.accumulate()
        return True

    def columns(
        self, results: list, kind: str, images: dict, categories: dict
    ) -> tuple[np.ndarray, list[dict] | None]:
        """All detections in the order of the JSON files, and their masks.

        Args:
            results: of the classes in ``cat_ids``.
            kind: ``bbox`` or ``segm``.
            images: numbers by id.
            categories: numbers by id.

        Returns:
            A table (n, 7) of image, x, y, width, height, score and category; n run lengths or
            ``None``.
        """
        masks = None
        if isinstance(results[0], np.ndarray):  # proposals: of any category, which does not count
            per_class, labels = [[boxes] for boxes in results], [1]
        else:
            per_class = [boxes_of(result) for result in results]
            labels = [categories[category] for category in self.cat_ids]
        flat = [boxes for of_image in per_class for boxes in of_image]
        counts = np.array([len(boxes) for boxes in flat]).reshape(len(results), -1)
        boxes = np.concatenate(flat).astype(np.float64)
        image_numbers = np.repeat([images[key] for key in self.img_ids], counts.sum(1))
        label_numbers = np.repeat(np.tile(labels, len(results)), counts.ravel())
        scores = boxes[:, 4]
        if kind == "segm":
            masks = [masks for _, masks in results]
            if isinstance(masks[0], tuple):  # Mask Scoring R-CNN: masks have scores of their own
                masks, own = zip(*masks, strict=True)
                scores = np.array([float(s) for image in own for of in image for s in of])
            masks = [mask for of_image in masks for of_class in of_image for mask in of_class]
        size = boxes[:, 2:4] - boxes[:, :2]
        table = (image_numbers, boxes[:, :2], size, scores, label_numbers)
        return np.column_stack(table), masks

    def annotations(self) -> list[dict]:
        """The annotations that count: of the images and the classes of this data set."""
        images, categories = set(self.img_ids), set(self.cat_ids)
        return [
            annotation
            for annotation in self.coco.dataset["annotations"]
            if annotation["image_id"] in images and annotation["category_id"] in categories
        ]

    def check_truth(self, metrics: list[str]) -> None:
        """Refuse annotations that cannot be evaluated; warn if there is none.

        Raises:
            UserError: no annotations at all; one without a mask, if masks are evaluated.
        """
        if "annotations" not in self.coco.dataset:
            raise UserError(
                f"{self.ann_file} has no annotations to evaluate with; `test.py --format-only` "
                "writes results for a test server"
            )
        annotations = self.annotations()
        if not annotations:
            message = f"{self.ann_file} has no object of these classes: all metrics are -1"
            warnings.warn(message, stacklevel=2)
        for annotation in annotations if "segm" in metrics else ():
            if not annotation.get("segmentation"):
                raise UserError(
                    f"{self.ann_file}: annotation {annotation['id']} has no segmentation, which "
                    "the metric segm needs"
                )

    def truth(self, kind: str, images: dict, categories: dict) -> hotcoco.COCO:
        """The annotations, for hotcoco, with these numbers instead of the file's ids."""
        annotations = self.annotations()
        sizes = [(number, self.coco.imgs[key]) for key, number in images.items()]
        return hotcoco.COCO.from_arrays(
            [{"id": n, "width": v["width"], "height": v["height"]} for n, v in sizes],
            [{"id": number, "name": str(number)} for number in categories.values()],
            [images[annotation["image_id"]] for annotation in annotations],
            [categories[annotation["category_id"]] for annotation in annotations],
            np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4),
            ids=list(range(1, len(annotations) + 1)),
            area=np.array([a["area"] for a in annotations], np.float64),
            iscrowd=[bool(annotation.get("iscrowd")) for annotation in annotations],
            segmentation=[a["segmentation"] for a in annotations] if kind == "segm" else None,
        )

    def class_precisions(self, counted: COCOeval) -> dict[str, float]:
        """The AP of each class of the file; NaN of one without objects."""
        places = {category: place for place, category in enumerate(counted.params.catIds)}
        found = {}
        for category, label in self.cat2label.items():
            # (thresholds, recalls) of all areas, with as many detections as count
            precision = counted.eval["precision"][:, :, places[category], 0, -1]
            known = precision[precision > -1]
            found[self.CLASSES[label]] = float(known.mean()) if known.size else float("nan")
        return found


def labels_by_name(categories: list[dict], classes) -> dict:
    """The label of each category that is a class, in the order of the classes.

    Raises:
        UserError: a name is twice among the classes.
    """
    twice = sorted({str(name) for name in classes if list(classes).count(name) > 1})
    if twice:
        raise UserError(f"classes: {listed(twice)} twice")
    ids = {category["name"]: category["id"] for category in categories}
    return {ids[name]: label for label, name in enumerate(classes) if name in ids}


def listed(names: list[str], number: int = 8) -> str:
    """Names in a sentence; of many, the first ones and how many more."""
    rest = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(map(repr, names[:number])) + rest


def accumulated(truth: hotcoco.COCO, found: hotcoco.COCO, params) -> dict:
    """Precision, recall and scores as pycocotools' ``COCOeval.eval`` has them.

    Args:
        truth: images and categories numbered from 1, in the order of ``params``.
        found: the detections.
        params: pycocotools'.
    """
    engine = hotcoco.COCOeval(truth, found, params.iouType)
    engine.params.img_ids = list(range(1, len(params.imgIds) + 1))
    engine.params.cat_ids = list(range(1, len(params.catIds) + 1))
    engine.params.max_dets = [int(number) for number in params.maxDets]
    engine.params.iou_thrs = [float(threshold) for threshold in params.iouThrs]
    engine.params.use_cats = bool(params.useCats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these are not the numbers of COCO's leaderboard
        engine.evaluate()
        engine.accumulate()
    return engine.eval


def class_table(precisions: dict[str, float]) -> str:
    """The AP of each class, as mmdet lays it out."""
    cells = [cell for name, value in precisions.items() for cell in (name, f"{value:0.3f}")]
    width = min(6, len(cells))
    rows = itertools.zip_longest(*[cells[start::width] for start in range(width)])
    return AsciiTable([["category", "AP"] * (width // 2), *rows]).table


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
