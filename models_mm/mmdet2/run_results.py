"""The figures of a run's last and best checkpoint: ``results.json`` in the work dir.

Each is what the evaluation of that checkpoint gave during the training. ``meta`` of the
checkpoints has them too, so that a resumed run knows the best one before.
"""

import json
from pathlib import Path

from mmcv.runner import BaseRunner

from models_mm.disk import replacing
from models_mm.values import is_number

FILE = "results.json"


def remember(runner: BaseRunner, values: dict, best: str | None) -> None:
    """Keep the values of an evaluation as those of the last, and perhaps of the best checkpoint.

    Args:
        runner: the training, in its evaluation.
        values: of the evaluation.
        best: the file of the best checkpoint, if there is one.
    """
    count = runner.epoch if runner.by_epoch else runner.iter
    unit = "epoch" if runner.by_epoch else "iter"
    messages = runner.meta.setdefault("hook_msgs", {})
    before = messages.get("evaluations")
    before = before if isinstance(before, dict) and all(map(is_entry, before.values())) else {}
    last = {unit: count + 1, "metrics": values}
    found = {**before, "last": {"checkpoint": f"{unit}_{count + 1}.pth", **last}}
    if best and Path(best).name.endswith(f"_{unit}_{count + 1}.pth"):
        found["best"] = {"checkpoint": Path(best).name, **last}
    messages["evaluations"] = found


def write_results(runner: BaseRunner) -> None:
    """Write what is known of the last and the best checkpoint, and log it."""
    messages = runner.meta.get("hook_msgs", {})
    found = {name: dict(entry) for name, entry in messages.get("evaluations", {}).items()}
    if not found:
        return
    if "last_ckpt" in messages:  # an interim one, if there was no regular one at the end
        found["last"]["checkpoint"] = Path(messages["last_ckpt"]).name
    for name, entry in found.items():
        unit = "epoch" if "epoch" in entry else "iter"
        metrics = {k: v for k, v in entry["metrics"].items() if isinstance(v, float)}
        main = {k: v for k, v in metrics.items() if k.endswith(("mAP", "mAP_50"))} or metrics
        values = ", ".join(f"{key} {value:.3f}" for key, value in main.items())
        path = Path(runner.work_dir) / entry["checkpoint"]
        runner.logger.info(f"{name}: {path} ({unit} {entry[unit]}): {values}")
    with replacing(Path(runner.work_dir) / FILE) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())


def is_entry(value: object) -> bool:
    """Whether a value of a checkpoint is what :func:`remember` keeps."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("checkpoint"), str)
        and isinstance(value.get("metrics"), dict)
        and any(is_number(value.get(unit)) for unit in ("epoch", "iter"))
    )
