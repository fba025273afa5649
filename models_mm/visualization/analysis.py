"""What a detector gets wrong: mmdet's own COCO error analysis and confusion matrix."""

import importlib.util
import json
import os
import sys
from multiprocessing import Pool
from pathlib import Path
from types import ModuleType

import mmdet
import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure

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
    """
    tool = mmdet_tool("coco_error_analysis")
    out.mkdir(parents=True, exist_ok=True)
    content = dict(dataset.coco.dataset)
    known = [c for c in content["categories"] if c["name"] in dataset.CLASSES]
    # it compares classes of one supercategory, which data sets of one's own seldom have
    content["categories"] = [{"supercategory": "all", **category} for category in known]
    content["annotations"] = [
        a for a in content["annotations"] if a["category_id"] in {c["id"] for c in known}
    ]
    truth = out / "truth.json"
    truth.write_text(json.dumps(content))
    files, _ = dataset.format_results(results, str(out / "results"))
    # 48 processes, each with the whole data set, are too many for most machines
    tool.Pool = lambda processes: Pool(min(processes, os.cpu_count() or 1, len(known)))
    pictures = []
    with pyplot.rc_context({"figure.dpi": 120, "legend.fontsize": 8, "legend.loc": "lower left"}):
        for kind in ("bbox", "segm"):
            if kind in files:
                tool.analyze_results(files[kind], str(truth), [kind], str(out))
                pictures += sorted((out / kind).glob(f"{kind}-allclass-*.png"))
    for file in {truth, *map(Path, files.values())}:
        file.unlink()
    return pictures


def confusion_matrix(dataset, results: list, out: Path, score_thr: float) -> Path:
    """For each true class the share of detections of each class, in percent.

    Args:
        dataset: mmdet's data set in test mode.
        results: one an image.
        out: folder of ``confusion_matrix.png``.
        score_thr: lowest score that counts.
    """
    tool = mmdet_tool("confusion_matrix")
    out.mkdir(parents=True, exist_ok=True)
    boxes = [result[0] if isinstance(result, tuple) else result for result in results]
    matrix = tool.calculate_confusion_matrix(dataset, boxes, score_thr)
    print()  # ends the line of the progress bar
    # a class that never occurs has no shares
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    picture = out / "confusion_matrix.png"
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
    figure.savefig(out)
