"""Curves of losses, learning rate and AP from the logs of one or several runs."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from models_mm.errors import UserError
from models_mm.outputs import refuse_input


def read_log(path: str) -> tuple[dict[str, list], dict[str, list]]:
    """Training and validation values of a run's ``*.log.json``.

    Returns:
        For each, a dict of name -> list of (epoch, value); epochs are fractional in training.

    Raises:
        UserError: the file is missing, no log, or has nothing to plot.
    """
    if not Path(path).is_file():
        raise UserError(f"log not found: {path} (mmdet writes it as WORK_DIR/<time>.log.json)")
    try:
        records = [json.loads(line) for line in Path(path).read_text().splitlines() if line]
    except (ValueError, RecursionError) as error:  # no text, no JSON, or far too deep
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
    """Draw losses, learning rate and AP of the runs into one picture.

    Args:
        paths: the runs' ``*.log.json``.
        out: the picture, its format by its suffix.

    Raises:
        UserError: a log cannot be read, or the picture would be written over it.
    """
    refuse_input(out, paths)
    runs = {_label(path, paths): read_log(path) for path in paths}
    several = len(runs) > 1
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    losses, rate, accuracy = figure.subplots(1, 3)
    for number, (name, (train, val)) in enumerate(runs.items()):
        # one run: a colour a curve; several: a colour a run, and only what sums it up
        prefix, color = (f"{name} ", f"C{number}") if several else ("", None)
        for key, values in train.items():
            if key == "loss" or ("loss" in key and not several):
                losses.plot(*zip(*values, strict=True), label=prefix + key, color=color)
        rate.plot(*zip(*train.get("lr", [(0, 0)]), strict=True), label=name, color=color)
        for key, values in val.items():
            if key.endswith(("mAP", "AR@100") if several else ("mAP", "_mAP_50", "AR@100")):
                style = "s--" if key.startswith("segm") else "o-"
                accuracy.plot(*zip(*values, strict=True), style, label=prefix + key, color=color)
    titles = ((losses, "training loss"), (rate, "learning rate"), (accuracy, "validation"))
    for axes, title in titles:
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            # below: inside it would cover curves
            axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
        else:
            axes.text(0.5, 0.5, "no evaluation yet", ha="center", transform=axes.transAxes)
    losses.set_yscale("log")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def _label(path: str, paths: list[str]) -> str:
    """A run's name: its folder, or folder and file when two runs share a folder."""
    folders = [Path(p).resolve().parent for p in paths]
    folder = Path(path).resolve().parent
    return folder.name if folders.count(folder) == 1 else f"{folder.name}/{Path(path).stem}"
