"""COCO's data set for mmdet: checked annotations, labels by class name, and a fast evaluation.

mmdet numbers the classes in the order of the annotation file and skips classes that the file lacks.
Here a label is the position of its name in ``CLASSES``, whatever the file has.

mmdet writes all results to JSON files, reads them again and evaluates them with pycocotools. Here
:mod:`models_mm.evaluation.coco` evaluates arrays; the metrics have mmdet's names and rounding.
"""

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmcv.utils import print_log
from mmdet.datasets import DATASETS
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO
from terminaltables import AsciiTable

from models_mm.data.annotations import load
from models_mm.errors import UserError
from models_mm.evaluation.coco import CocoMetrics, check_engine, counted_annotations, evaluate_coco
from models_mm.evaluation.results import check_results, flatten, select_finite
from models_mm.messages import this_rank
from models_mm.outputs import refuse_input

METRICS = ("bbox", "segm", "proposal", "proposal_fast")
# mmdet's names of COCO's 12 statistics, in pycocotools' order
PRECISIONS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
RECALLS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
STATISTICS = {name: place for place, name in enumerate(PRECISIONS + RECALLS)}


@DATASETS.register_module(force=True)
class CocoDataset(MMDetCocoDataset):
    """mmdet's ``CocoDataset`` with checked annotations, labels by name, and another evaluation.

    Attributes:
        cat_ids: the ids of those ``CLASSES`` that the file has, in the order of ``CLASSES``.
        cat2label: the label of each of these ids: a position in ``CLASSES``.
    """

    def __init__(self, ann_file: str, pipeline: list, *args, **kwargs):
        self.masks = masks_of(pipeline)
        self.test_mode = kwargs.get("test_mode", False)
        super().__init__(ann_file, pipeline, *args, **kwargs)

    def load_annotations(self, ann_file: str) -> list[dict]:
        """Read and check the annotations; ``self.coco`` gets them.

        Warns once if a test file lacks some of the classes.

        Returns:
            The entries of all images.

        Raises:
            UserError: a field is invalid; a class is named twice in the config; a test file has
                none of the classes.
        """
        self.coco = indexed(load(ann_file, self.CLASSES, self.masks, self.test_mode))
        self.img_ids = self.coco.get_img_ids()
        infos = self.coco.load_imgs(self.img_ids)
        for info in infos:
            info["filename"] = info["file_name"]
        self.cat2label = labels_by_name(self.coco.dataset["categories"], self.CLASSES)
        self.cat_ids = list(self.cat2label)
        labels = set(self.cat2label.values())
        lacking = [name for label, name in enumerate(self.CLASSES) if label not in labels]
        if lacking and self.test_mode:
            if not self.cat_ids:
                raise UserError(f"{ann_file} has none of the classes {listed(lacking)}")
            if this_rank() == 0:  # the process group does not exist yet
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
        engine: str | None = None,
    ) -> dict:
        """Compute COCO's metrics, named and rounded as mmdet does.

        Args:
            results: one result per image (:mod:`models_mm.evaluation.results`).
            metric: ``bbox``, ``segm``, ``proposal``, ``proposal_fast``, or several of them.
            logger: gets the tables (default: they are printed).
            jsonfile_prefix: the results are also written there as COCO's JSON files.
            classwise: also show and return the AP of each class, as ``bbox_mAP:<name>``; -1 for a
                class without objects.
            proposal_nums: three numbers of detections per image that count.
            iou_thrs: thresholds of the overlap (default: 0.5 to 0.95 in steps of 0.05).
            metric_items: the statistics to return (default: the APs; for proposals, the ARs).
            engine: ``hotcoco`` or ``pycocotools`` (default: hotcoco if it is installed).

        Raises:
            UserError: an engine that is unknown or not installed; results of another data set;
                annotations without a mask that the metric needs.
            KeyError: an unknown metric or item, or a metric that the results do not have.
        """
        check_engine(engine)
        metrics = metric if isinstance(metric, list) else [metric]
        for name in metrics:
            if name not in METRICS:
                raise KeyError(f"metric {name} is not supported")
        check_results(results, len(self), len(self.CLASSES))
        self.check_truth(metrics)
        if jsonfile_prefix is not None:
            self.results2json(results, jsonfile_prefix)
        results = select_finite(results, list(self.cat2label.values()))
        items = [metric_items] if isinstance(metric_items, str) else metric_items
        values: dict = {}
        by_class: dict = {}
        for name in metrics:
            if name == "proposal_fast":
                values |= self.fast_recalls(results, logger, proposal_nums, iou_thrs)
                continue
            print_log(f"Evaluating {name}...", logger)
            found = self.coco_metrics(results, name, proposal_nums, iou_thrs, engine)
            if found is None:
                message = "The testing results of the whole dataset is empty."
                print_log(message, logger)
                break
            print_log("\n" + found.table, logger)
            if classwise and name != "proposal":
                by_class |= self.show_classes(found.class_precisions, name, logger)
            values |= select_items(found.statistics, name, items)
        return values | by_class

    def show_classes(self, class_precisions: dict, metric: str, logger) -> dict[str, float]:
        """Log the table of the AP of each class; return them as ``bbox_mAP:<name>``.

        Args:
            class_precisions: the AP per category id.
            metric: ``bbox`` or ``segm``.
            logger: as of :meth:`evaluate`.
        """
        precisions = {
            self.CLASSES[label]: class_precisions[category]
            for category, label in self.cat2label.items()
        }
        print_log("\n" + class_table(precisions), logger)
        return {
            f"{metric}_mAP:{name}": -1.0 if np.isnan(value) else round(value, 4)
            for name, value in precisions.items()
        }

    def coco_metrics(
        self, results: list, metric: str, proposal_nums, iou_thrs, engine: str | None
    ) -> CocoMetrics | None:
        """COCO's metrics; ``None`` without any detection.

        Args:
            results: of the classes in ``cat_ids``.
            metric: ``bbox``, ``segm`` or ``proposal``.
            proposal_nums: as of :meth:`evaluate`.
            iou_thrs: as of :meth:`evaluate`.
            engine: as of :meth:`evaluate`.

        Raises:
            KeyError: the results have no masks for ``segm``.
        """
        masks = metric == "segm"
        if masks and not isinstance(results[0], tuple):
            raise KeyError("segm is not in results")
        flat, truth = flatten(results, masks), self.coco.dataset
        options = (metric, proposal_nums, iou_thrs, engine)
        return evaluate_coco(truth, flat, self.img_ids, self.cat_ids, *options)

    def results2json(self, results: list, outfile_prefix: str) -> dict[str, str]:
        """Write mmdet's JSON files for the classes that the annotation file has.

        Raises:
            UserError: the results are those of another data set, or a file would replace the
                annotations.
        """
        check_results(results, len(self), len(self.CLASSES))
        for kind in ("bbox", "segm", "proposal"):
            refuse_input(f"{outfile_prefix}.{kind}.json", [self.ann_file])
        results = select_finite(results, list(self.cat2label.values()))
        return super().results2json(results, outfile_prefix)

    def fast_recalls(self, results: list, logger, proposal_nums, iou_thrs) -> dict:
        """mmdet's recall of all true boxes, whatever their classes."""
        if isinstance(results[0], list):
            results = [np.concatenate(per_class) for per_class in results]
        options = (logger, False, proposal_nums, iou_thrs, None)
        return dict(super().evaluate_det_segm(results, {}, self.coco, ["proposal_fast"], *options))

    def annotations(self) -> list[dict]:
        """The annotations that are evaluated: of the images and classes of this data set."""
        return counted_annotations(self.coco.dataset, self.img_ids, self.cat_ids)

    def check_truth(self, metrics: list[str]) -> None:
        """Refuse annotations that cannot be evaluated; warn if there is no object.

        Raises:
            UserError: the file has no annotations, or one has no mask and ``segm`` is a metric.
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


def indexed(content: dict) -> COCO:
    """The content of an annotation file as mmdet's ``COCO``."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return coco


def masks_of(pipeline) -> str | None:
    """How a pipeline of a config uses masks: ``None``, ``"pixels"`` or ``"polygons"``."""
    for step in pipeline or ():
        if isinstance(step, dict) and step.get("with_mask"):
            return "pixels" if step.get("poly2mask", True) else "polygons"
    return None


def labels_by_name(categories: list[dict], classes) -> dict:
    """The label of the id of each category that is a class, in the order of the classes.

    Raises:
        UserError: a name is twice among the classes.
    """
    twice = sorted({str(name) for name in classes if list(classes).count(name) > 1})
    if twice:
        raise UserError(f"classes: {listed(twice)} twice")
    ids = {category["name"]: category["id"] for category in categories}
    return {ids[name]: label for label, name in enumerate(classes) if name in ids}


def listed(names: list[str], number: int = 8) -> str:
    """The first names for a sentence, and how many more there are."""
    rest = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(map(repr, names[:number])) + rest


def class_table(precisions: dict[str, float]) -> str:
    """The AP of each class as a table in mmdet's layout."""
    cells = [cell for name, value in precisions.items() for cell in (name, f"{value:0.3f}")]
    width = min(6, len(cells))
    rows = itertools.zip_longest(*[cells[start::width] for start in range(width)])
    return AsciiTable([["category", "AP"] * (width // 2), *rows]).table


def select_items(statistics: np.ndarray, metric: str, items: list[str] | None) -> dict:
    """Some of the 12 statistics, under mmdet's names.

    Raises:
        KeyError: an unknown item.
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


def coco_sources(
    dataset, training: bool = True, metrics: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict | None]]:
    """The parts of a data set of a config, taken out of wrappers and lists.

    Args:
        dataset: ``cfg.data.train`` or another.
        training: the data set is used for training, and not only for evaluation.
        metrics: of the evaluation.

    Yields:
        The name of the part for messages, and the arguments of
        :func:`models_mm.data.check.check_coco`; ``None`` if it is not in COCO's format.
    """
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from coco_sources(part, training, metrics)
        return
    inner = dataset.get("dataset") or dataset.get("datasets")
    if inner is not None:
        yield from coco_sources(inner, training, metrics)
        return
    kind = DATASETS.get(dataset.get("type"))
    files, folders = dataset.get("ann_file"), dataset.get("img_prefix")
    files = list(files) if isinstance(files, (list, tuple)) else [files]
    if not isinstance(folders, (list, tuple)):
        folders = [folders] * len(files)
    root = Path(dataset.get("data_root") or "")
    evaluated = "pixels" if "segm" in metrics else None
    for file, folder in zip(files, folders, strict=False):
        name = f"{dataset.get('type')} {file}"
        if kind is None or not issubclass(kind, MMDetCocoDataset) or not isinstance(file, str):
            yield name, None
            continue
        yield (
            name,
            dict(
                ann_file=str(root / file),
                img_prefix=str(root / (folder or "")),
                classes=tuple(kind.get_classes(dataset.get("classes")) or ()) or None,
                masks=masks_of(dataset.get("pipeline")) if training else evaluated,
                training=training,
            ),
        )
