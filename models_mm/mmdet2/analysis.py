"""The errors of a detector: mmdet's own COCO error analysis and confusion matrix."""

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mmdet
import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from models_mm.errors import UserError
from models_mm.mmdet2.data_files import files_of
from models_mm.mmdet2.datasets import CocoDataset
from models_mm.outputs import Outputs
from models_mm.visualization.matrices import plot_confusion_matrix

MMDET_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools" / "analysis_tools"


def mmdet_tool(name: str) -> ModuleType:
    """Import a script of mmdet's tools."""
    spec = importlib.util.spec_from_file_location(name, MMDET_TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its worker processes find its functions there
    spec.loader.exec_module(module)
    return module


def error_analysis(dataset, results: list, out: Path) -> list[Path]:
    """Draw precision over recall as it would be without some kinds of errors.

    There are pictures of all classes together and of each class.

    Args:
        dataset: mmdet's COCO data set in test mode.
        results: one result per image.
        out: folder; the pictures go to its folders ``bbox`` and ``segm``.

    Returns:
        The paths of the pictures of all classes together.

    Raises:
        UserError: annotations that cannot be evaluated.
    """
    if not isinstance(dataset, CocoDataset):
        raise UserError(f"the analysis of errors is for CocoDataset, not {type(dataset).__name__}")
    tool = mmdet_tool("coco_error_analysis")
    places = Outputs(out, files_of(dataset))
    pictures = []
    style = {"figure.dpi": 120, "legend.fontsize": 8, "legend.loc": "lower left"}
    style |= {"text.parse_math": False}  # class names are not formulas
    with tempfile.TemporaryDirectory() as scratch, pyplot.rc_context(style):
        files, _ = dataset.format_results(results, f"{scratch}/results")
        kinds = [kind for kind in ("bbox", "segm") if kind in files]
        dataset.check_truth(kinds)
        content = analysed_truth(dataset)
        truth = Path(scratch) / "truth.json"
        truth.write_text(json.dumps(content))
        # mmdet would start 48 processes, each with the whole data set
        number = min(os.cpu_count() or 1, len(content["categories"]))
        tool.Pool = lambda processes: closing_pool(Pool(min(processes, number)))
        for kind in kinds:
            if not json.loads(Path(files[kind]).read_bytes()):
                print(f"nothing was detected: there are no errors of {kind} to tell apart")
                continue
            tool.analyze_results(files[kind], str(truth), [kind], scratch)
            for picture in sorted((Path(scratch) / kind).iterdir()):
                place = places.path(f"{kind}/{picture.name}")
                shutil.move(picture, place)
                if picture.name.startswith(f"{kind}-allclass-"):
                    pictures.append(place)
    return pictures


@contextmanager
def closing_pool(pool):
    """Close a pool when its work is done.

    ``with Pool()`` sends SIGTERM to its processes and waits for them. A process that has inherited
    a signal handler may never end.
    """
    try:
        yield pool
    finally:
        pool.close()
        pool.join()


def analysed_truth(dataset) -> dict:
    """The annotations of the classes in the form that mmdet's analysis needs.

    The analysis names files after categories, and it compares the categories of a supercategory,
    which many data sets lack.
    """
    taken = {"allclass"}  # the name of the picture of all classes
    categories = []
    # sorted by id, as the analysis sorts the precisions
    for category in sorted(dataset.coco.load_cats(dataset.cat_ids), key=lambda c: c["id"]):
        name = re.sub(r"[/\0]", "_", str(category["name"]))[-80:]
        name = name.encode("utf-8", "replace").decode()
        while name in taken:
            name += "_"
        taken.add(name)
        categories.append({"supercategory": "all", **category, "name": name})
    annotations = [
        {"iscrowd": 0, **annotation, "id": number}  # pycocotools ignores matches with id 0
        for number, annotation in enumerate(dataset.annotations(), 1)
    ]
    return dict(images=dataset.data_infos, categories=categories, annotations=annotations)


def confusion_counts(dataset, results: list, score_thr: float) -> np.ndarray:
    """For each true class (rows) the number of detections of each class (columns).

    Args:
        dataset: mmdet's data set in test mode.
        results: one result per image.
        score_thr: the lowest score of a detection that counts.

    Returns:
        (classes + 1, classes + 1): the last row counts detections where nothing is, the last column
        objects that were missed.

    Raises:
        UserError: annotations that cannot be evaluated.
    """
    if isinstance(dataset, CocoDataset):
        dataset.check_truth(["bbox"])
    tool = mmdet_tool("confusion_matrix")
    boxes = [result[0] if isinstance(result, tuple) else result for result in results]
    bar = partial(tqdm, leave=False, disable=None)
    tool.mmcv = SimpleNamespace(ProgressBar=lambda total: bar(total=total))  # not one for logs
    return tool.calculate_confusion_matrix(dataset, boxes, score_thr)


def confusion_matrix(dataset, results: list, out: Path, score_thr: float) -> Path:
    """Draw for each true class the percentage of detections of each class.

    Args:
        dataset: mmdet's data set in test mode.
        results: one result per image.
        out: folder of ``confusion_matrix.png``.
        score_thr: the lowest score of a detection that counts.

    Returns:
        The path of the picture.

    Raises:
        UserError: annotations that cannot be evaluated.
    """
    matrix = confusion_counts(dataset, results, score_thr)
    # the row of a class that never occurs is 0
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    picture = Outputs(out, files_of(dataset)).path("confusion_matrix.png")
    plot_confusion_matrix(shares, (*dataset.CLASSES, "background"), picture)
    return picture
