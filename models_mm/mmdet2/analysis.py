"""What a detector gets wrong: mmdet's own COCO error analysis and confusion matrix."""

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from multiprocessing import Pool
from pathlib import Path
from types import ModuleType

import mmdet
import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure

from models_mm.errors import UserError
from models_mm.mmdet2.datasets import CocoDataset
from models_mm.outputs import Outputs, files_of

MMDET_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools" / "analysis_tools"


def mmdet_tool(name: str) -> ModuleType:
    """A script that mmdet brings along, as a module."""
    spec = importlib.util.spec_from_file_location(name, MMDET_TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its processes look for its functions
    spec.loader.exec_module(module)
    return module


def error_analysis(dataset, results: list, out: Path) -> list[Path]:
    """Precision over recall if kinds of errors were forgiven, of all classes and of each.

    Args:
        dataset: mmdet's COCO data set in test mode.
        results: one an image.
        out: folder; pictures go to its folders ``bbox`` and ``segm``.

    Returns:
        The pictures of all classes together.

    Raises:
        UserError: annotations that cannot be evaluated.
    """
    if not isinstance(dataset, CocoDataset):
        raise UserError(f"the analysis of errors is for CocoDataset, not {type(dataset).__name__}")
    tool = mmdet_tool("coco_error_analysis")
    places = Outputs(out, files_of(dataset))
    pictures = []
    style = {"figure.dpi": 120, "legend.fontsize": 8, "legend.loc": "lower left"}
    style |= {"text.parse_math": False}  # names of classes are no formulas
    with tempfile.TemporaryDirectory() as scratch, pyplot.rc_context(style):
        files, _ = dataset.format_results(results, f"{scratch}/results")
        kinds = [kind for kind in ("bbox", "segm") if kind in files]
        dataset.check_truth(kinds)
        content = analysed_truth(dataset)
        truth = Path(scratch) / "truth.json"
        truth.write_text(json.dumps(content))
        # 48 processes, each with the whole data set, are too many for most machines
        number = min(os.cpu_count() or 1, len(content["categories"]))
        tool.Pool = lambda processes: finished(Pool(min(processes, number)))
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
def finished(pool):
    """A pool whose processes end when their work is done.

    ``with Pool()`` ends them by SIGTERM and waits, for ever where a signal handler was inherited.
    """
    try:
        yield pool
    finally:
        pool.close()
        pool.join()


def analysed_truth(dataset) -> dict:
    """The annotations of the classes, as mmdet's analysis takes them.

    It names files after categories, and compares those of one supercategory, which data sets of
    one's own seldom have.
    """
    taken = {"allclass"}  # the name of the picture of all classes
    categories = []
    # in the order of their ids, in which the precisions are
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


def confusion_matrix(dataset, results: list, out: Path, score_thr: float) -> Path:
    """For each true class the share of detections of each class, in percent.

    Args:
        dataset: mmdet's data set in test mode.
        results: one an image.
        out: folder of ``confusion_matrix.png``.
        score_thr: lowest score that counts.

    Raises:
        UserError: annotations that cannot be evaluated.
    """
    if isinstance(dataset, CocoDataset):
        dataset.check_truth(["bbox"])
    tool = mmdet_tool("confusion_matrix")
    boxes = [result[0] if isinstance(result, tuple) else result for result in results]
    matrix = tool.calculate_confusion_matrix(dataset, boxes, score_thr)
    print()  # ends the line of the progress bar
    # a class that never occurs has no shares
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    picture = Outputs(out, files_of(dataset)).path("confusion_matrix.png")
    plot_shares(shares, (*dataset.CLASSES, "background"), picture)
    return picture


def plot_shares(shares: np.ndarray, names: tuple[str, ...], out: Path) -> None:
    """Draw percentages (n, n) with room for every name; mmdet's own plot has none for few."""
    side = 2.5 + 0.42 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained", dpi=110)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the row")
    places = range(len(names))
    axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names)
    axes.set(xlabel="predicted (background: missed)", ylabel="true (background: nothing there)")
    for row, column in np.argwhere(shares >= 0.5):
        ink = "white" if shares[row, column] > 55 else "black"
        text = f"{shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # names of classes are no formulas
    figure.savefig(out)
