"""Curves of losses, learning rate and AP from the logs of one or several runs."""

import io
import json
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from models_mm.errors import UserError
from models_mm.outputs import refuse_input

INK = "#010203"  # a colour that nothing else has; a page replaces it by that of its text
INK_SETTINGS = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
INK_SETTINGS += ("grid.color", "legend.labelcolor")
CLEAR_SETTINGS = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
SVG_METADATA = ("Creator", "Date", "Format", "Type")


def read_log(path: str) -> tuple[dict[str, list], dict[str, list]]:
    """Read the training and validation values in the ``*.log.json`` of a run.

    Returns:
        Two dicts of name -> list of (epoch, value), for training and for validation. The epochs of
        training values are fractional.

    Raises:
        UserError: the file is missing, is no log, or has nothing to plot.
    """
    if not Path(path).is_file():
        raise UserError(f"log not found: {path} (mmdet writes it as WORK_DIR/<time>.log.json)")
    try:
        records = [json.loads(line) for line in Path(path).read_text().splitlines() if line]
    except (ValueError, RecursionError) as error:  # not text, not JSON, or nested too deep
        raise UserError(f"{path} is no log of JSON lines: {error}") from error
    records = [r for r in records if isinstance(r, dict) and r.get("mode") in ("train", "val")]
    for record in records:
        if not all(isinstance(record.get(key), (int, float)) for key in ("epoch", "iter")):
            raise UserError(f"{path} is no training's log: a record has no epoch and iter")
    if not records:
        raise UserError(f"{path} has no record yet: training has not logged anything")
    longest = max((r["iter"] for r in records if r["mode"] == "train"), default=1)
    series: dict[str, dict[str, list]] = {"train": {}, "val": {}}
    for record in records:
        train = record["mode"] == "train"
        epoch = record["epoch"] - 1 + record["iter"] / longest if train else record["epoch"]
        for name, value in record.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "iter"):
                series.setdefault(record["mode"], {}).setdefault(name, []).append((epoch, value))
    return series["train"], series["val"]


def plot_logs(paths: list[str], out: str) -> None:
    """Draw losses, learning rate and AP of one or several runs into one picture.

    Args:
        paths: the ``*.log.json`` of each run.
        out: the picture; its suffix decides the format.

    Raises:
        UserError: a log cannot be read, or the picture would overwrite it.
    """
    refuse_input(out, paths)
    runs = {_label(path, paths): read_log(path) for path in paths}
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    draw_runs(runs, *figure.subplots(1, 3))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def draw_runs(runs: dict[str, tuple[dict, dict]], losses, rate, accuracy) -> None:
    """Draw the curves of runs.

    Args:
        runs: training and validation values of each run by its name, as of :func:`read_log`.
        losses: the axes of the losses.
        rate: the axes of the learning rate.
        accuracy: the axes of the AP.
    """
    several = len(runs) > 1
    for number, (name, (train, val)) in enumerate(runs.items()):
        # one run: one colour per curve; several: one colour per run, and only the main curves
        prefix, color = (f"{name} ", f"C{number}") if several else ("", None)
        for key, values in train.items():
            if key == "loss" or ("loss" in key and not several):
                losses.plot(*zip(*values, strict=True), label=plain(prefix + key), color=color)
        rate.plot(*zip(*train.get("lr", [(0, 0)]), strict=True), label=plain(name), color=color)
        for key, values in val.items():
            if key.endswith(("mAP", "AR@100") if several else ("mAP", "_mAP_50", "AR@100")):
                style = "s--" if key.startswith("segm") else "o-"
                accuracy.plot(
                    *zip(*values, strict=True), style, label=plain(prefix + key), color=color
                )
    titles = ((losses, "training loss"), (rate, "learning rate"), (accuracy, "validation"))
    for axes, title in titles:
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            # below the plot, because inside it would hide curves
            axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17))
        else:
            axes.text(0.5, 0.5, "no evaluation yet", ha="center", transform=axes.transAxes)
    losses.set_yscale("log")


def plain(name: str) -> str:
    """A name as a label, which is no formula."""
    return name.replace("$", r"\$").lstrip("_")


def curve_drawings(run: tuple[dict, dict]) -> list[str]:
    """Losses, learning rate and AP of a run, each as an SVG element in the colour of the text.

    Args:
        run: training and validation values, as of :func:`read_log`.
    """
    colors = dict.fromkeys(INK_SETTINGS, INK) | dict.fromkeys(CLEAR_SETTINGS, "none")
    drawings = []
    with rc_context({**colors, "svg.fonttype": "none", "legend.frameon": False}):
        figures = [Figure(figsize=(5.2, 3.9), layout="constrained") for _ in range(3)]
        draw_runs({"lr": run}, *[figure.subplots() for figure in figures])
        for figure in figures:
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata=dict.fromkeys(SVG_METADATA))
            svg = text.getvalue()
            drawings.append(svg[svg.index("<svg") :].replace(INK, "currentColor"))
    return drawings


def _label(path: str, paths: list[str]) -> str:
    """The name of a run: its folder, or folder and file if two runs share a folder."""
    folders = [Path(p).resolve().parent for p in paths]
    folder = Path(path).resolve().parent
    return folder.name if folders.count(folder) == 1 else f"{folder.name}/{Path(path).stem}"
